//! One run before it begins: who takes part, over which lines, for which edition, within which budget, and what goes wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::{BitsPerSecond, Bytes};
use rules::bound::{Lines, fluid_bound};
use swarm::Now;

use crate::faults::{self, Fault, FaultKind, What};
use crate::rng::{Purpose, Rng};

/// Wave 0 opens so long after its plan was told, so that its links are up.
pub(crate) const FIRST_OPENING: Now = Now::from_secs(4);
/// What a run may take beyond any bound: every patience of the protocol several times over.
const PATIENCE: Duration = Duration::from_secs(240);
/// After so long away the server takes nobody for connected.
const PRESENCE_OVER: Duration = Duration::from_secs(12);
/// Places far from each other.
pub(crate) const REGIONS: usize = 4;

/// One terminal and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalSpec {
    pub up: BitsPerSecond,
    pub down: BitsPerSecond,
    pub region: usize,
    /// From the terminal to the exchange of its region, one way.
    pub access: Duration,
    pub wave: u32,
    /// When it is switched on.
    pub from: Now,
}

/// All that a run depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    pub seed: u64,
    /// Bytes per chunk.
    pub chunks: Vec<u32>,
    pub terminals: Vec<TerminalSpec>,
    pub origin_up: BitsPerSecond,
    /// What the origin may send.
    pub budget: Bytes,
    /// When each wave opens.
    pub waves: Vec<Now>,
    /// One way, between the exchanges of regions.
    pub distances: [[Duration; REGIONS]; REGIONS],
    /// Of a thousand messages, how many are lost once and sent again.
    pub loss_per_mille: u64,
    /// What a byte between terminals, or from the origin, takes on the line with its headers and acknowledgements: 1,000 is nothing beside itself.
    pub peers_wire_per_mille: u64,
    pub origin_wire_per_mille: u64,
    pub faults: Vec<Fault>,
    /// When the run ends in any case.
    pub limit: Now,
    /// Everything is checked, also what costs much time: every signature at the server, and the size of the machines' state.
    pub thorough: bool,
    /// A first copy of what a live member has signed for at the server is a broken promise too; else it is counted. A lost Redis forgets what was signed
    /// for, so that this is no part of the usual runs.
    pub strict: bool,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub seed: u64,
    pub terminals: usize,
    pub chunks: u32,
    pub waves: u32,
    pub faults: BTreeSet<FaultKind>,
    /// See [`Scenario::strict`].
    pub strict: bool,
}

impl Wish {
    /// A small run that the seed alone decides on: 4 to 24 terminals, 8 to 40 chunks, up to three waves and up to four kinds of trouble.
    pub fn small(seed: u64) -> Self {
        let mut rng = Rng::new(seed, Purpose::Scenario);
        let count = rng.index(5);
        Self {
            seed,
            terminals: 4 + rng.index(21),
            chunks: 8 + u32::try_from(rng.below(33)).unwrap_or(0),
            waves: 1 + u32::try_from(rng.below(3)).unwrap_or(0),
            faults: rng.sample(&FaultKind::MIX, count).into_iter().collect(),
            strict: false,
        }
    }
}

impl Scenario {
    pub fn new(wish: &Wish) -> Self {
        let mut rng = Rng::new(wish.seed ^ 0x5EED, Purpose::Scenario);
        let chunks: Vec<u32> = (0..wish.chunks.max(1)).map(|_| u32::try_from(rng.between(16 << 10, 64 << 10)).unwrap_or(1 << 14)).collect();
        let size: u64 = chunks.iter().map(|&length| u64::from(length)).sum();
        let distances = draw_distances(&mut rng);
        let mut terminals: Vec<TerminalSpec> = (0..wish.terminals.max(1)).map(|_| draw_terminal(&mut rng, wish.waves)).collect();
        // Somebody is in each wave, and the first ones in the first.
        for (terminal, wave) in terminals.iter_mut().zip((0..wish.waves).chain([0])) {
            terminal.wave = wave;
        }
        let origin_up = BitsPerSecond::from_mbit(rng.between(10, 100));
        let lines: Vec<Lines> = terminals.iter().map(|terminal| Lines { up: terminal.up, down: terminal.down }).collect();
        let bound = fluid_bound(Bytes(size), origin_up, &[], &lines);
        let mut opening = FIRST_OPENING;
        let mut waves = Vec::new();
        for _ in 0..wish.waves {
            waves.push(opening);
            opening += bound + rng.time(Duration::ZERO, bound * 2);
        }
        if wish.faults.contains(&FaultKind::Late) {
            let everybody: Vec<usize> = (0..terminals.len()).collect();
            for late in rng.sample(&everybody, terminals.len().div_ceil(20)) {
                terminals[late].from = FIRST_OPENING + rng.time(Duration::ZERO, bound * 4);
            }
        }
        let until = opening + bound * 2 + Duration::from_secs(2);
        let mut fault_rng = Rng::new(wish.seed, Purpose::Faults);
        let mut faults = faults::draw(&mut fault_rng, &wish.faults, terminals.len(), FIRST_OPENING, until);
        if wish.faults.contains(&FaultKind::MissedOpening) {
            let at = FIRST_OPENING.saturating_sub(Duration::from_millis(500));
            let second = waves.get(1).copied().unwrap_or(FIRST_OPENING);
            let lasts = (second.saturating_sub(at) + Duration::from_secs(1)).max(PRESENCE_OVER);
            faults.insert(0, Fault { at, what: What::ServerAway { lasts } });
        }
        let budget = Bytes(size + size.div_ceil(100) + spare(&mut rng, wish, size));
        Self {
            seed: wish.seed,
            budget,
            loss_per_mille: if wish.faults.contains(&FaultKind::Loss) { rng.between(1, 30) } else { 0 },
            peers_wire_per_mille: 1_000,
            origin_wire_per_mille: 1_000,
            limit: faults.iter().map(|fault| fault.at).max().unwrap_or_default().max(until) + bound * 40 + PATIENCE,
            faults,
            thorough: terminals.len() <= 64,
            strict: wish.strict,
            chunks,
            terminals,
            origin_up,
            waves,
            distances,
        }
    }

    /// Bytes of the edition.
    pub fn size(&self) -> Bytes {
        Bytes(self.chunks.iter().map(|&length| u64::from(length)).sum())
    }

    /// Who keeps to the protocol.
    pub fn is_honest(&self, terminal: usize) -> bool {
        self.faults.iter().all(|fault| fault.what.dishonest() != Some(terminal))
    }
}

/// What the budget has beyond the smallest one.
fn spare(rng: &mut Rng, wish: &Wish, size: u64) -> u64 {
    let drawn = size * rng.between(1, 60) / 100 + rng.below(12) * (64 << 10);
    if wish.faults.contains(&FaultKind::TightBudget) {
        return 0;
    }
    // What liars say that they have is sent again out of half of it, to each group anew.
    let dishonest = [FaultKind::Lie, FaultKind::Corrupt, FaultKind::MixUp].iter().any(|kind| wish.faults.contains(kind));
    if dishonest { size * 6 + drawn } else { drawn }
}

fn draw_distances(rng: &mut Rng) -> [[Duration; REGIONS]; REGIONS] {
    let mut drawn = || rng.time(Duration::from_millis(10), Duration::from_millis(90));
    let below: [[Duration; REGIONS]; REGIONS] = std::array::from_fn(|_| std::array::from_fn(|_| drawn()));
    std::array::from_fn(|a| std::array::from_fn(|b| if a == b { Duration::from_millis(4) } else { below[a.max(b)][a.min(b)] }))
}

fn draw_terminal(rng: &mut Rng, waves: u32) -> TerminalSpec {
    let up = rng.pick(&[2, 5, 10, 10, 20, 40]).unwrap_or(10);
    TerminalSpec {
        up: BitsPerSecond::from_mbit(up),
        down: BitsPerSecond::from_mbit(up * rng.between(2, 10)),
        region: rng.index(REGIONS),
        access: rng.time(Duration::from_millis(1), Duration::from_millis(15)),
        wave: u32::try_from(rng.below(u64::from(waves.max(1)))).unwrap_or(0),
        from: Now::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_scenario_and_seeds_differ() {
        assert_eq!(Scenario::new(&Wish::small(5)), Scenario::new(&Wish::small(5)));
        assert_ne!(Scenario::new(&Wish::small(5)), Scenario::new(&Wish::small(6)));
    }

    #[test]
    fn small_scenarios_are_small_and_whole() {
        for seed in 0..300 {
            let scenario = Scenario::new(&Wish::small(seed));
            assert!((4..=24).contains(&scenario.terminals.len()) && (8..=40).contains(&scenario.chunks.len()), "seed {seed}");
            let mut waves: Vec<u32> = scenario.terminals.iter().map(|terminal| terminal.wave).collect();
            waves.sort_unstable();
            waves.dedup();
            assert_eq!(waves.len(), scenario.waves.len(), "seed {seed}: nobody is in some wave");
            assert!(scenario.budget.0 > scenario.size().0 && scenario.waves.is_sorted(), "seed {seed}");
        }
    }
}
