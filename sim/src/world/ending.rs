//! How a run ends: who is complete, who cannot be, and what it took.

use std::time::Duration;

use protocol::Bytes;
use protocol::bitmap::ChunkSet;
use rules::bound::{Lines, fluid_bound, fluid_bound_within_budget};
use swarm::Now;

use super::World;
use crate::invariants::Invariant;
use crate::report::{Outcome, TerminalOutcome, WaveOutcome};

/// Of how many timers one is a look at the machine's state, in a thorough run.
const SAMPLE_ONE_IN: u64 = 400;
/// What the printed state of a machine may take: so much in any case, and so much per chunk and peer, in bytes.
const STATE_BASE: usize = 64 << 10;
const STATE_PER_PEER: usize = 24 << 10;
const STATE_PER_CHUNK: usize = 8 << 10;

impl World {
    /// Who is to complete: everybody that runs and keeps to the protocol.
    fn is_expected(&self, terminal: usize) -> bool {
        self.terminals[terminal].running && self.scenario.is_honest(terminal)
    }

    pub(super) fn all_complete(&self) -> bool {
        (0..self.terminals.len()).all(|terminal| !self.is_expected(terminal) || self.terminals[terminal].is_complete())
    }

    /// Those that are expected to complete and have not, although somebody honest holds each chunk that they miss, or the budget has it.
    pub(super) fn who_is_stuck(&self) -> Vec<usize> {
        let mut held = ChunkSet::default();
        let honest = (0..self.terminals.len()).filter(|&terminal| self.is_expected(terminal));
        honest.filter_map(|terminal| self.terminals[terminal].have()).for_each(|have| held.extend(have));
        // A liar, or one that is avoided, counts as a holder at the server.
        let claimed = (0..self.terminals.len()).any(|terminal| self.terminals[terminal].running && !self.scenario.is_honest(terminal));
        let hopeless = |chunk: u32| !held.contains(chunk) && !self.server.can_afford(chunk, claimed);
        let misses_only_hopeless = |terminal: usize| {
            let have = self.terminals[terminal].have().cloned().unwrap_or_default();
            (0..self.content.count()).all(|chunk| have.contains(chunk) || hopeless(chunk))
        };
        let incomplete = |terminal: &usize| self.is_expected(*terminal) && !self.terminals[*terminal].is_complete();
        (0..self.terminals.len()).filter(incomplete).filter(|&terminal| !misses_only_hopeless(terminal)).collect()
    }

    /// Looks now and then at how long the state of a machine is when it is printed: whatever queue grows without a bound shows in it.
    pub(super) fn sample_state(&mut self, terminal: usize) {
        if !self.scenario.thorough || self.sampling.below(SAMPLE_ONE_IN) > 0 {
            return;
        }
        let Some(machine) = self.terminals[terminal].machine.as_ref() else { return };
        let peers = machine.plan().peers().count();
        // The plan and the manifest are as long as they are.
        let given = format!("{:?}{:?}", machine.plan(), machine.manifest()).len();
        let length = format!("{machine:?}").len().saturating_sub(given);
        let bound = STATE_BASE + peers * STATE_PER_PEER + self.content.chunks.len() * STATE_PER_CHUNK;
        self.counts.state_max = self.counts.state_max.max(length * 100 / bound);
        self.check_length(terminal, "bytes of state", length, bound);
    }

    fn detail_of_stuck(&self, stuck: &[usize]) -> String {
        let of = |&terminal: &usize| {
            let state = &self.terminals[terminal];
            let missing: Vec<u32> =
                state.have().map_or_else(Vec::new, |have| (0..self.content.count()).filter(|chunk| !have.contains(*chunk)).collect());
            let shown: Vec<u32> = missing.iter().copied().take(8).collect();
            format!(
                "{terminal} (wave {}, {} links) misses {} chunks {shown:?}",
                self.scenario.terminals[terminal].wave,
                self.linked_to(terminal).len(),
                missing.len()
            )
        };
        let (lost, returned) = self.server.standing();
        let some: Vec<String> = stuck.iter().take(4).map(of).collect();
        format!("{} terminals are not complete: {}; {lost} tables lost, {returned} chunks returned", stuck.len(), some.join("; "))
    }

    fn waves(&self) -> Vec<WaveOutcome> {
        let specs = &self.scenario.terminals;
        let of_wave = |wave: u32| (0..specs.len()).filter(move |&terminal| specs[terminal].wave == wave);
        let waves = (0u32..).zip(&self.scenario.waves).map(|(wave, &opens)| {
            let lines: Vec<Lines> = of_wave(wave).map(|terminal| Lines { up: specs[terminal].up, down: specs[terminal].down }).collect();
            let earlier: Vec<_> = specs.iter().filter(|spec| spec.wave < wave).map(|spec| spec.up).collect();
            let size = self.scenario.size();
            let budget = Bytes(self.scenario.budget.0);
            let bound = if wave == 0 {
                fluid_bound_within_budget(size, self.scenario.origin_up, budget, &earlier, &lines).unwrap_or_default()
            } else {
                fluid_bound(size, self.scenario.origin_up, &earlier, &lines)
            };
            let expected: Vec<usize> = of_wave(wave).filter(|&terminal| self.is_expected(terminal)).collect();
            let completed: Vec<Now> = expected.iter().filter_map(|&terminal| self.terminals[terminal].completed_at).collect();
            let took = completed.iter().max().map_or(Duration::ZERO, |&last| last.saturating_sub(opens));
            let mut times: Vec<Duration> = completed.iter().map(|at| at.saturating_sub(opens)).collect();
            times.sort_unstable();
            let median = times.get(times.len().div_ceil(2).saturating_sub(1)).copied().unwrap_or_default();
            let fluid = fluid_bound(size, self.scenario.origin_up, &earlier, &lines);
            WaveOutcome { wave, terminals: lines.len(), expected: expected.len(), completed: completed.len(), took, median, bound, fluid }
        });
        waves.collect()
    }

    fn each(&self) -> Vec<TerminalOutcome> {
        let of = |(index, state): (usize, &crate::terminal::Terminal)| {
            let opens = self.opening_of(index);
            TerminalOutcome {
                up: self.scenario.terminals[index].up,
                took: state.completed_at.map(|at| at.saturating_sub(opens)),
                busy: self.network.busy(index),
                sent_until: state.copied_until.saturating_sub(opens),
                copied: Bytes(state.copied),
                from_origin: state.disk.values().filter(|source| source.is_origin()).count(),
            }
        };
        self.terminals.iter().enumerate().map(of).collect()
    }

    pub(super) fn conclude(mut self) -> Outcome {
        let stuck = self.who_is_stuck();
        if !stuck.is_empty() && self.violation.is_none() {
            let detail = self.detail_of_stuck(&stuck);
            self.broken(Invariant::AllComplete, detail);
        }
        let starved = (0..self.terminals.len()).filter(|&terminal| self.is_expected(terminal) && !self.terminals[terminal].is_complete());
        let starved = starved.count() - if self.violation.is_some() { stuck.len() } else { 0 };
        Outcome {
            seed: self.scenario.seed,
            terminals: self.terminals.len(),
            chunks: self.content.chunks.len(),
            size: self.scenario.size(),
            waves: self.waves(),
            each: self.each(),
            starved,
            elapsed: self.now,
            steps: self.steps,
            checks: self.invariants.checks,
            origin_sent: Bytes(self.invariants.origin_sent()),
            budget: self.scenario.budget,
            copied: Bytes(self.terminals.iter().map(|terminal| terminal.copied).sum()),
            untold: self.invariants.untold,
            removed: self.server.removed,
            rebuilt: self.server.rebuilt,
            forged: self.server.forged,
            lost_messages: self.network.lost,
            counts: self.counts,
            digest: self.digest,
            violation: self.violation,
        }
    }
}
