//! What the group scripts must do, written down a second time in plain Rust: the tests run both side by side on random histories.

use std::collections::{BTreeMap, BTreeSet};

use protocol::TerminalId;
use protocol::ws::GrantKind;

use super::{Affordable, Budget, FetchRight, Grant, Returned, Wanted, WhyReturned};

const LEASE_MS: u64 = 15_000;
const COPIES_MS: u64 = 60_000;
const FETCHES_MAX: u32 = 3;
const CREDIT_LIFE_MS: u64 = 1_600;
const GRANTS_MAX: usize = 256;
const PATIENCE_MS: u64 = 5_000;
const PATIENCE_FORGOTTEN_MS: u64 = 60_000;
const FEEDING_MS: u64 = LEASE_MS;
const OVERHEAD_MAX: u64 = 1_000_000;

#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) terminal: TerminalId,
    sent: u64,
    outstanding: u64,
    kind: GrantKind,
    pub(super) received: bool,
    until: u64,
    fetches: u32,
}

impl Lease {
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.until <= now
    }
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) lengths: Vec<u64>,
    pub(super) root: bool,
    pub(super) opens: u64,
    pub(super) in_flight_max: u64,
    pub(super) unsigned_max: u32,
    pub(super) unsigned: BTreeMap<TerminalId, BTreeSet<u32>>,
    /// When a group that the origin feeds last began to fetch.
    pub(super) fed: u64,
    pub(super) members: BTreeMap<TerminalId, u64>,
    pub(super) next: u32,
    pub(super) in_flight: u64,
    pub(super) live: BTreeSet<TerminalId>,
    pub(super) open: BTreeMap<TerminalId, (u32, u64)>,
    pub(super) outstanding: BTreeMap<TerminalId, u64>,
    pub(super) leases: BTreeMap<u32, Lease>,
    pub(super) returned: BTreeSet<u32>,
    pub(super) held: BTreeMap<TerminalId, BTreeSet<u32>>,
    pub(super) benched: BTreeMap<TerminalId, u64>,
    pub(super) asked: BTreeMap<u32, u64>,
    pub(super) sent: BTreeSet<u32>,
    /// Whose WebSocket is there.
    pub(super) present: BTreeSet<TerminalId>,
    pub(super) now: u64,
    pub(super) grants: Vec<Grant>,
    pub(super) came_back: Vec<Returned>,
}

/// What one call did: leases that came back, and what was given.
pub(super) type Outcome = (Vec<Returned>, Vec<Grant>);

impl Model {
    fn length(&self, chunk: u32) -> u64 {
        self.lengths[chunk as usize]
    }

    fn chunks(&self) -> u32 {
        u32::try_from(self.lengths.len()).unwrap()
    }

    pub(super) fn live_holder(&self, chunk: u32, except: Option<TerminalId>) -> bool {
        self.live.iter().any(|terminal| Some(*terminal) != except && self.held.get(terminal).is_some_and(|held| held.contains(&chunk)))
    }

    fn drop_lease(&mut self, chunk: u32) -> Lease {
        let lease = self.leases.remove(&chunk).unwrap();
        let length = self.length(chunk);
        let outstanding = self.outstanding.entry(lease.terminal).or_default();
        *outstanding = outstanding.saturating_sub(length);
        if !lease.received {
            self.in_flight = self.in_flight.saturating_sub(length);
        }
        lease
    }

    fn end_lease(&mut self, chunk: u32, why: WhyReturned) {
        let lease = self.drop_lease(chunk);
        if !lease.received {
            if self.root && !self.live_holder(chunk, None) {
                self.returned.insert(chunk);
            }
            self.came_back.push(Returned { chunk, terminal: lease.terminal, why });
        }
    }

    fn gone(&mut self, terminal: TerminalId) {
        self.live.remove(&terminal);
        self.open.remove(&terminal);
        let leased: Vec<u32> = self.leases.iter().filter(|(_, lease)| lease.terminal == terminal).map(|(&chunk, _)| chunk).collect();
        leased.into_iter().for_each(|chunk| self.end_lease(chunk, WhyReturned::Gone));
        self.outstanding.remove(&terminal);
    }

    fn sweep(&mut self, caller: Option<TerminalId>) {
        let mut over: Vec<(u64, u32)> =
            self.leases.iter().filter(|(_, lease)| lease.until <= self.now).map(|(&chunk, lease)| (lease.until, chunk)).collect();
        over.sort_unstable();
        over.into_iter().for_each(|(_, chunk)| self.end_lease(chunk, WhyReturned::Expired));
        let gone: Vec<TerminalId> =
            self.live.iter().filter(|terminal| Some(**terminal) != caller && !self.present.contains(terminal)).copied().collect();
        gone.into_iter().for_each(|terminal| self.gone(terminal));
    }

    fn is_benched(&self, terminal: TerminalId) -> bool {
        self.benched.get(&terminal).is_some_and(|&until| self.now < until)
    }

    fn join_live(&mut self, terminal: TerminalId) {
        if !self.is_benched(terminal) {
            self.live.insert(terminal);
        }
    }

    fn grant(&mut self, chunk: u32, terminal: TerminalId, kind: GrantKind) {
        let length = self.length(chunk);
        let outstanding = self.outstanding.entry(terminal).or_default();
        *outstanding += length;
        let lease =
            Lease { terminal, sent: self.now, outstanding: *outstanding, kind, received: false, until: self.now + LEASE_MS, fetches: 0 };
        self.leases.insert(chunk, lease);
        self.in_flight += length;
        self.grants.push(Grant { terminal, chunk, kind });
    }

    fn take(&mut self) -> Option<u32> {
        while let Some(&chunk) = self.returned.first() {
            if !self.leases.contains_key(&chunk) && !self.live_holder(chunk, None) {
                return Some(chunk);
            }
            self.returned.remove(&chunk);
        }
        while self.next < self.chunks() {
            if !self.leases.contains_key(&self.next) && !self.live_holder(self.next, None) {
                return Some(self.next);
            }
            self.next += 1;
        }
        None
    }

    fn give_chunks(&mut self) {
        if !self.root || self.now < self.opens {
            return;
        }
        for _ in 0..GRANTS_MAX {
            let wanting: Vec<TerminalId> = self
                .live
                .iter()
                .filter(|terminal| {
                    let asks = self.open.get(terminal).is_some_and(|&(open, at)| open > 0 && self.now.saturating_sub(at) <= CREDIT_LIFE_MS);
                    asks && self.unsigned_of(**terminal).is_none()
                })
                .copied()
                .collect();
            if wanting.is_empty() {
                return;
            }
            let Some(chunk) = self.take() else { return };
            let length = self.length(chunk);
            if self.in_flight_max > 0 && self.in_flight > 0 && self.in_flight + length > self.in_flight_max {
                return;
            }
            let finish = |terminal: &TerminalId| self.members[terminal] * (self.outstanding.get(terminal).unwrap_or(&0) + length);
            let chosen = wanting.into_iter().min_by_key(|terminal| (finish(terminal), *terminal)).unwrap();
            if !self.returned.remove(&chunk) {
                self.next = chunk + 1;
            }
            self.grant(chunk, chosen, GrantKind::FirstCopy);
            self.open.get_mut(&chosen).unwrap().0 -= 1;
        }
    }

    /// What the terminal has not signed for, if that is too much.
    pub(super) fn unsigned_of(&self, terminal: TerminalId) -> Option<&BTreeSet<u32>> {
        self.unsigned.get(&terminal).filter(|chunks| chunks.len() >= self.unsigned_max as usize)
    }

    fn done(&mut self) -> Outcome {
        self.came_back.sort_unstable();
        (std::mem::take(&mut self.came_back), std::mem::take(&mut self.grants))
    }

    pub(super) fn credits(&mut self, terminal: TerminalId, open: Option<u32>) -> Outcome {
        self.sweep(Some(terminal));
        self.join_live(terminal);
        match open {
            Some(0) => _ = self.open.remove(&terminal),
            Some(open) => _ = self.open.insert(terminal, (open, self.now)),
            None => {}
        }
        self.give_chunks();
        self.done()
    }

    pub(super) fn allocate(&mut self) -> Outcome {
        self.sweep(None);
        self.give_chunks();
        self.done()
    }

    pub(super) fn notices(&mut self, terminal: TerminalId, notices: &[(u32, Option<u64>)]) -> (Outcome, Vec<u64>) {
        self.sweep(Some(terminal));
        self.join_live(terminal);
        let mut samples = Vec::new();
        for &(chunk, copies_done) in notices {
            self.held.entry(terminal).or_default().insert(chunk);
            self.returned.remove(&chunk);
            let (now, length) = (self.now, self.length(chunk));
            let Some(lease) = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal) else { continue };
            if !lease.received {
                lease.received = true;
                lease.until = now + COPIES_MS;
                self.in_flight = self.in_flight.saturating_sub(length);
            }
            if let Some(done) = copies_done {
                let spent = done.max(lease.sent).min(now.max(lease.sent)) - lease.sent;
                let sample = (spent * 1_000_000 / lease.outstanding).clamp(1, OVERHEAD_MAX);
                let overhead = self.members.get_mut(&terminal).unwrap();
                *overhead = ((3 * *overhead + sample) / 4).max(1);
                samples.push(sample);
                self.drop_lease(chunk);
            }
        }
        self.give_chunks();
        (self.done(), samples)
    }

    pub(super) fn leave(&mut self, terminal: TerminalId, bench_ms: u64) -> Outcome {
        self.sweep(Some(terminal));
        if bench_ms > 0 {
            self.benched.insert(terminal, self.now + bench_ms);
        }
        self.gone(terminal);
        self.give_chunks();
        self.done()
    }

    /// (outcome, refused because elsewhere, refused because of the budget).
    pub(super) fn missing(&mut self, terminal: TerminalId, affordable: Affordable, wanted: Wanted<'_>) -> (Outcome, Vec<u32>, Vec<u32>) {
        self.sweep(Some(terminal));
        self.join_live(terminal);
        let (mut elsewhere_list, mut unaffordable) = (Vec::new(), Vec::new());
        let (mut again_budget, mut first_budget, mut doubled_budget) = (affordable.again.0, affordable.first.0, affordable.doubled.0);
        let feeding = !self.root && wanted.feeders_connected && self.now.saturating_sub(self.opens.max(self.fed)) < FEEDING_MS;
        for (&chunk, &receipted) in wanted.chunks {
            self.held.entry(terminal).or_default().remove(&chunk);
            let lease = self.leases.get(&chunk).cloned();
            let others = lease.as_ref().is_some_and(|lease| lease.terminal != terminal);
            let elsewhere = receipted || self.live_holder(chunk, Some(terminal)) || others;
            let waited = self.now - self.asked.get(&chunk).copied().unwrap_or(0);
            let affordable = !self.sent.contains(&chunk) || self.length(chunk) <= doubled_budget;
            let patient = (PATIENCE_MS..PATIENCE_FORGOTTEN_MS).contains(&waited) && affordable;
            let running = lease.as_ref().filter(|lease| !lease.received);
            if let Some(lease) = running.filter(|_| !others) {
                self.grants.push(Grant { terminal, chunk, kind: lease.kind });
            } else if feeding && !self.sent.contains(&chunk) {
                elsewhere_list.push(chunk);
            } else if self.is_benched(terminal) || running.is_some() || (elsewhere && !patient) {
                if elsewhere && waited >= PATIENCE_FORGOTTEN_MS {
                    self.asked.insert(chunk, self.now);
                }
                elsewhere_list.push(chunk);
            } else if !elsewhere && chunk >= self.next {
                elsewhere_list.push(chunk);
            } else if self.length(chunk) > if self.sent.contains(&chunk) { again_budget } else { first_budget } {
                unaffordable.push(chunk);
            } else {
                first_budget = first_budget.saturating_sub(self.length(chunk));
                if self.sent.contains(&chunk) {
                    again_budget -= self.length(chunk);
                    doubled_budget -= if elsewhere { self.length(chunk) } else { 0 };
                }
                if lease.is_some() {
                    self.drop_lease(chunk);
                }
                self.asked.remove(&chunk);
                let first = self.returned.remove(&chunk);
                self.grant(chunk, terminal, if first { GrantKind::FirstCopy } else { GrantKind::Repair });
            }
        }
        self.give_chunks();
        (self.done(), elsewhere_list, unaffordable)
    }

    /// Out of which budget the terminal may fetch the chunk, if it may.
    pub(super) fn fetch(&mut self, terminal: TerminalId, chunk: u32) -> FetchRight {
        self.sweep(Some(terminal));
        self.done();
        let now = self.now;
        let owed = self.unsigned_of(terminal).filter(|chunks| !chunks.contains(&chunk)).map(|chunks| chunks.iter().copied().collect());
        let lease = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal && !lease.received);
        let Some(lease) = lease.filter(|lease| lease.fetches < FETCHES_MAX) else { return FetchRight::None };
        if let Some(owed) = owed {
            return FetchRight::Unsigned(owed);
        }
        let owes = self.unsigned.entry(terminal).or_default().insert(chunk);
        lease.until = now + LEASE_MS;
        lease.fetches += 1;
        let first = self.sent.insert(chunk);
        if self.root && first {
            self.fed = now;
        }
        if first {
            lease.sent = now;
        }
        // One group: its marks of sending are the swarm's.
        let marks = [if owes { "u" } else { "" }, if first { "gs" } else { "" }].concat();
        FetchRight::Granted { budget: if first { Budget::First } else { Budget::Repair }, marks }
    }

    pub(super) fn signed(&mut self, terminal: TerminalId, chunks: &BTreeSet<u32>) {
        self.unsigned.entry(terminal).or_default().retain(|chunk| !chunks.contains(chunk));
    }

    /// What [`Model::fetch`] answered with was not sent after all.
    pub(super) fn unfetch(&mut self, terminal: TerminalId, chunk: u32, marks: &str) {
        self.sweep(Some(terminal));
        self.done();
        if marks.contains('s') {
            self.sent.remove(&chunk);
        }
        if marks.contains('u') {
            self.unsigned.entry(terminal).or_default().remove(&chunk);
        }
        if let Some(lease) = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal && !lease.received) {
            lease.fetches -= 1;
        }
    }

    /// The same because the budget does not have it.
    pub(super) fn unaffordable(&mut self, terminal: TerminalId, chunk: u32, marks: &str) {
        self.unfetch(terminal, chunk, marks);
        if self.leases.get(&chunk).is_some_and(|lease| lease.terminal == terminal && !lease.received) {
            self.drop_lease(chunk);
        }
    }

    pub(super) fn renew_lease(&mut self, terminal: TerminalId, chunk: u32) {
        self.sweep(Some(terminal));
        self.done();
        let now = self.now;
        if let Some(lease) = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal && !lease.received) {
            lease.until = now + LEASE_MS;
        }
    }
}
