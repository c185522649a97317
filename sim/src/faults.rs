//! What goes wrong in a run, drawn from the seed before it begins.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use swarm::Now;

use crate::rng::Rng;

/// The kinds of trouble, each of which can be asked for by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A terminal's process or machine dies; most come back, some with a part of their disk lost.
    Kill,
    /// A terminal does nothing for a while.
    Stall,
    /// A terminal's uplink becomes a fraction of what the plan takes it for.
    Slow,
    /// Some terminals cannot reach the others, and sometimes not the server either.
    Partition,
    /// A terminal says that it has everything.
    Lie,
    /// A terminal sends chunks with wrong bytes.
    Corrupt,
    /// A terminal sends messages to its peers twice or out of order.
    MixUp,
    /// Messages between terminals and server come twice or late.
    Repeat,
    /// The server, and the origin with it, cannot be reached.
    ServerAway,
    /// Redis loses everything.
    RedisLost,
    /// A terminal's links close and are opened again.
    Flap,
    /// A terminal loses its connection to the server.
    Socket,
    /// Messages are lost and sent again.
    Loss,
    /// A terminal comes after its wave has opened.
    Late,
    /// The budget is the smallest that the server accepts, whatever else goes wrong. Not a part of the usual mix: with a terminal that lies or spoils,
    /// there may be nothing left to send again.
    TightBudget,
    /// The server is away while the first two waves open. Not a part of the usual mix: it takes two waves.
    MissedOpening,
}

impl FaultKind {
    /// The usual mix.
    pub const MIX: [Self; 14] = [
        Self::Kill,
        Self::Stall,
        Self::Slow,
        Self::Partition,
        Self::Lie,
        Self::Corrupt,
        Self::MixUp,
        Self::Repeat,
        Self::ServerAway,
        Self::RedisLost,
        Self::Flap,
        Self::Socket,
        Self::Loss,
        Self::Late,
    ];
    /// Those that are no part of the mix, each by its name only.
    pub const BEYOND: [Self; 2] = [Self::TightBudget, Self::MissedOpening];

    pub fn all() -> impl Iterator<Item = Self> {
        Self::MIX.into_iter().chain(Self::BEYOND)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stall => "stall",
            Self::Slow => "slow",
            Self::Partition => "partition",
            Self::Lie => "lie",
            Self::Corrupt => "corrupt",
            Self::MixUp => "mix-up",
            Self::Repeat => "repeat",
            Self::ServerAway => "server-away",
            Self::RedisLost => "redis-lost",
            Self::Flap => "flap",
            Self::Socket => "socket",
            Self::Loss => "loss",
            Self::Late => "late",
            Self::TightBudget => "tight-budget",
            Self::MissedOpening => "missed-opening",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FaultKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::all().map(Self::name).collect::<Vec<_>>().join(", ");
        Self::all().find(|kind| kind.name() == text).ok_or_else(|| format!("{text:?} is no fault; there are {}", names()))
    }
}

/// One thing that goes wrong. Terminals are named by their index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at: Now,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Kill {
        terminal: usize,
        /// The machine is gone with the process, so that the server does not hear its connection close.
        silent: bool,
        /// After so long it is back; else never.
        back_after: Option<Duration>,
        /// How many of a thousand chunks its disk has lost then.
        forgets_per_mille: u64,
    },
    Stall {
        terminal: usize,
        lasts: Duration,
    },
    Slow {
        terminal: usize,
        divisor: u64,
    },
    Partition {
        cut_off: BTreeSet<usize>,
        from_server: bool,
        lasts: Duration,
    },
    Lie {
        terminal: usize,
    },
    Corrupt {
        terminal: usize,
        per_mille: u64,
    },
    MixUp {
        terminal: usize,
        per_mille: u64,
    },
    Repeat {
        per_mille: u64,
        lasts: Duration,
    },
    ServerAway {
        lasts: Duration,
    },
    RedisLost,
    Flap {
        terminal: usize,
    },
    Socket {
        terminal: usize,
        lasts: Duration,
    },
}

impl What {
    /// Who does not keep to the protocol from here on: nothing is promised to it.
    pub fn dishonest(&self) -> Option<usize> {
        match self {
            Self::Lie { terminal } | Self::Corrupt { terminal, .. } | Self::MixUp { terminal, .. } => Some(*terminal),
            Self::Kill { .. }
            | Self::Stall { .. }
            | Self::Slow { .. }
            | Self::Partition { .. }
            | Self::Repeat { .. }
            | Self::ServerAway { .. }
            | Self::RedisLost
            | Self::Flap { .. }
            | Self::Socket { .. } => None,
        }
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Draws faults of these kinds for `terminals` terminals, all of them between `from` and `to`. Of kinds that are about one terminal there is one for
/// each hundred of them, one at least.
pub(crate) fn draw(rng: &mut Rng, kinds: &BTreeSet<FaultKind>, terminals: usize, from: Now, to: Now) -> Vec<Fault> {
    let mut faults = Vec::new();
    let everybody: Vec<usize> = (0..terminals).collect();
    let each = terminals.div_ceil(100);
    for &kind in kinds {
        let times = match kind {
            FaultKind::Partition | FaultKind::Repeat | FaultKind::ServerAway | FaultKind::RedisLost => 1,
            FaultKind::Loss | FaultKind::Late | FaultKind::TightBudget | FaultKind::MissedOpening => 0,
            FaultKind::Kill
            | FaultKind::Stall
            | FaultKind::Slow
            | FaultKind::Lie
            | FaultKind::Corrupt
            | FaultKind::MixUp
            | FaultKind::Flap
            | FaultKind::Socket => each,
        };
        for terminal in rng.sample(&everybody, times) {
            let what = draw_one(rng, kind, terminal, &everybody);
            // Whoever does not keep to the protocol never did.
            let at = if what.as_ref().is_some_and(|what| what.dishonest().is_some()) { Now::ZERO } else { rng.time(from, to) };
            faults.extend(what.map(|what| Fault { at, what }));
        }
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

fn draw_one(rng: &mut Rng, kind: FaultKind, terminal: usize, everybody: &[usize]) -> Option<What> {
    Some(match kind {
        FaultKind::Kill => What::Kill {
            terminal,
            silent: rng.chance(300),
            back_after: rng.chance(700).then(|| rng.time(ms(200), ms(12_000))),
            forgets_per_mille: if rng.chance(300) { rng.between(50, 1_000) } else { 0 },
        },
        FaultKind::Stall => What::Stall { terminal, lasts: rng.time(ms(100), ms(9_000)) },
        FaultKind::Slow => What::Slow { terminal, divisor: rng.between(2, 20) },
        FaultKind::Partition => {
            let count = 1 + rng.index(everybody.len().div_ceil(2));
            let cut_off = rng.sample(everybody, count).into_iter().collect();
            What::Partition { cut_off, from_server: rng.chance(500), lasts: rng.time(ms(300), ms(15_000)) }
        }
        FaultKind::Lie => What::Lie { terminal },
        FaultKind::Corrupt => What::Corrupt { terminal, per_mille: rng.between(20, 1_000) },
        FaultKind::MixUp => What::MixUp { terminal, per_mille: rng.between(1, 100) },
        FaultKind::Repeat => What::Repeat { per_mille: rng.between(50, 500), lasts: rng.time(ms(1_000), ms(20_000)) },
        FaultKind::ServerAway => What::ServerAway { lasts: rng.time(ms(300), ms(12_000)) },
        FaultKind::RedisLost => What::RedisLost,
        FaultKind::Flap => What::Flap { terminal },
        FaultKind::Socket => What::Socket { terminal, lasts: rng.time(ms(100), ms(9_000)) },
        FaultKind::Loss | FaultKind::Late | FaultKind::TightBudget | FaultKind::MissedOpening => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    #[test]
    fn every_kind_has_a_name_of_its_own_and_is_found_by_it() {
        for kind in FaultKind::all() {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("kil".parse::<FaultKind>().unwrap_err().contains("there are kill, stall"));
    }

    #[test]
    fn faults_are_drawn_for_every_kind_in_time_and_more_of_them_for_more_terminals() {
        let kinds: BTreeSet<FaultKind> = FaultKind::MIX.into_iter().collect();
        let (from, to) = (Now::from_secs(3), Now::from_secs(9));
        let count = |terminals| {
            let faults = draw(&mut Rng::new(1, Purpose::Faults), &kinds, terminals, from, to);
            assert!(faults.iter().all(|fault| fault.what.dishonest().is_some() || (from..=to).contains(&fault.at)));
            faults.len()
        };
        // Loss and lateness are a part of the scenario.
        assert_eq!((count(10), count(1_000)), (12, 84));
    }
}
