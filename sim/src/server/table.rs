//! The lease table of one group, with the meaning that the server's scripts give it: who is given which chunk next.

mod repair;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::bitmap::ChunkSet;
use protocol::ws::{ChunkNotice, GrantKind};
use swarm::Now;

/// A lease that brought no chunk by then goes to somebody else; fetching renews it.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
/// Copies that were not reported done by then no longer count against the terminal that owes them.
pub(crate) const COPIES: Duration = Duration::from_secs(60);
const FETCHES_MAX: u32 = 3;
const CREDIT_LIFE: Duration = Duration::from_millis(1_600);
const GRANTS_MAX: usize = 256;
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_FORGOTTEN: Duration = Duration::from_secs(60);
const FEEDING: Duration = LEASE;
const OVERHEAD_MAX: u64 = 1_000_000;
/// Chunks that a terminal may fetch without having signed for them.
const UNSIGNED_MAX: usize = 128;

/// What all groups of the swarm share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// What the origin has begun to send, to whomever.
    pub(crate) sent: ChunkSet,
    /// When a group that the origin feeds last began to fetch.
    pub(crate) fed: Now,
    pub(crate) present: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
struct Lease {
    terminal: usize,
    sent: Now,
    outstanding: u64,
    kind: GrantKind,
    received: bool,
    until: Now,
    fetches: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) terminal: usize,
    pub(crate) chunk: u32,
    pub(crate) kind: GrantKind,
}

/// What a table is made from.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) root: bool,
    pub(crate) opens: Now,
    /// Bytes that may be leased and not received; 0 for any.
    pub(crate) in_flight_max: u64,
    /// With the expected overhead in nanoseconds per byte.
    pub(crate) members: BTreeMap<usize, u64>,
}

/// What the budget still has, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Affordable {
    pub(crate) again: u64,
    pub(crate) first: u64,
    pub(crate) doubled: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchRight {
    None,
    Unsigned,
    /// `first`: no terminal of the swarm was sent the chunk before.
    Granted {
        first: bool,
        owes: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Table {
    spec: Spec,
    lengths: Vec<u64>,
    next: u32,
    in_flight: u64,
    pub(crate) live: BTreeSet<usize>,
    open: BTreeMap<usize, (u32, Now)>,
    outstanding: BTreeMap<usize, u64>,
    leases: BTreeMap<u32, Lease>,
    returned: BTreeSet<u32>,
    held: BTreeMap<usize, ChunkSet>,
    benched: BTreeMap<usize, Now>,
    asked: BTreeMap<u32, Now>,
    unsigned: BTreeMap<usize, BTreeSet<u32>>,
    grants: Vec<Grant>,
}

impl Table {
    pub(crate) fn new(spec: Spec, lengths: Vec<u64>) -> Self {
        let next = if spec.root { 0 } else { u32::try_from(lengths.len()).unwrap_or(u32::MAX) };
        Self {
            spec,
            lengths,
            next,
            in_flight: 0,
            live: BTreeSet::new(),
            open: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            leases: BTreeMap::new(),
            returned: BTreeSet::new(),
            held: BTreeMap::new(),
            benched: BTreeMap::new(),
            asked: BTreeMap::new(),
            unsigned: BTreeMap::new(),
            grants: Vec::new(),
        }
    }

    /// The table as the members tell of it after a loss. `claims`: leases by chunk.
    pub(crate) fn rebuilt(spec: Spec, lengths: Vec<u64>, told: BTreeMap<usize, ChunkSet>, claims: &BTreeMap<u32, usize>, now: Now) -> Self {
        let mut table = Self::new(spec, lengths);
        table.live = told.keys().copied().collect();
        table.held = told;
        for (&chunk, &terminal) in claims {
            if !table.live_holder(chunk, None) {
                table.lease(chunk, terminal, GrantKind::FirstCopy, now);
            }
            if table.spec.root {
                table.next = table.next.max(chunk + 1);
            }
        }
        if table.spec.root {
            let mut union = ChunkSet::default();
            table.held.values().for_each(|held| union.extend(held));
            table.next = table.next.max(union.iter().max().map_or(0, |chunk| chunk + 1));
            table.returned = (0..table.next).filter(|chunk| !union.contains(*chunk) && !table.leases.contains_key(chunk)).collect();
        }
        table
    }

    fn length(&self, chunk: u32) -> u64 {
        self.lengths.get(chunk as usize).copied().unwrap_or(0)
    }

    fn live_holder(&self, chunk: u32, except: Option<usize>) -> bool {
        self.live.iter().any(|terminal| Some(*terminal) != except && self.held.get(terminal).is_some_and(|held| held.contains(chunk)))
    }

    fn drop_lease(&mut self, chunk: u32) -> Option<Lease> {
        let lease = self.leases.remove(&chunk)?;
        let length = self.length(chunk);
        if let Some(outstanding) = self.outstanding.get_mut(&lease.terminal) {
            *outstanding = outstanding.saturating_sub(length);
        }
        if !lease.received {
            self.in_flight = self.in_flight.saturating_sub(length);
        }
        Some(lease)
    }

    fn end_lease(&mut self, chunk: u32) {
        let unreceived = self.drop_lease(chunk).is_some_and(|lease| !lease.received);
        if unreceived && self.spec.root && !self.live_holder(chunk, None) {
            self.returned.insert(chunk);
        }
    }

    fn gone(&mut self, terminal: usize) {
        self.live.remove(&terminal);
        self.open.remove(&terminal);
        let leased: Vec<u32> = self.leases.iter().filter(|(_, lease)| lease.terminal == terminal).map(|(&chunk, _)| chunk).collect();
        leased.into_iter().for_each(|chunk| self.end_lease(chunk));
        self.outstanding.remove(&terminal);
    }

    fn sweep(&mut self, caller: Option<usize>, shared: &Shared, now: Now) {
        let mut over: Vec<(Now, u32)> =
            self.leases.iter().filter(|(_, lease)| lease.until <= now).map(|(&chunk, lease)| (lease.until, chunk)).collect();
        over.sort_unstable();
        over.into_iter().for_each(|(_, chunk)| self.end_lease(chunk));
        let gone: Vec<usize> =
            self.live.iter().filter(|terminal| Some(**terminal) != caller && !shared.present.contains(terminal)).copied().collect();
        gone.into_iter().for_each(|terminal| self.gone(terminal));
    }

    fn is_benched(&self, terminal: usize, now: Now) -> bool {
        self.benched.get(&terminal).is_some_and(|&until| now < until)
    }

    fn join(&mut self, terminal: usize, now: Now) {
        if !self.is_benched(terminal, now) {
            self.live.insert(terminal);
        }
    }

    fn lease(&mut self, chunk: u32, terminal: usize, kind: GrantKind, now: Now) {
        let length = self.length(chunk);
        let outstanding = self.outstanding.entry(terminal).or_default();
        *outstanding += length;
        let lease = Lease { terminal, sent: now, outstanding: *outstanding, kind, received: false, until: now + LEASE, fetches: 0 };
        self.leases.insert(chunk, lease);
        self.in_flight += length;
    }

    fn grant(&mut self, chunk: u32, terminal: usize, kind: GrantKind, now: Now) {
        self.lease(chunk, terminal, kind, now);
        self.grants.push(Grant { terminal, chunk, kind });
    }

    /// The chunk to be given next: returned ones first. Never one that a live member holds or leases.
    fn take(&mut self) -> Option<u32> {
        while let Some(&chunk) = self.returned.first() {
            if !self.leases.contains_key(&chunk) && !self.live_holder(chunk, None) {
                return Some(chunk);
            }
            self.returned.remove(&chunk);
        }
        while (self.next as usize) < self.lengths.len() {
            if !self.leases.contains_key(&self.next) && !self.live_holder(self.next, None) {
                return Some(self.next);
            }
            self.next += 1;
        }
        None
    }

    fn owes_signatures(&self, terminal: usize) -> bool {
        self.unsigned.get(&terminal).is_some_and(|chunks| chunks.len() >= UNSIGNED_MAX)
    }

    fn give_chunks(&mut self, now: Now) {
        if !self.spec.root || now < self.spec.opens {
            return;
        }
        for _ in 0..GRANTS_MAX {
            let asks = |terminal: &usize| {
                let open = self.open.get(terminal).is_some_and(|&(open, at)| open > 0 && now.saturating_sub(at) <= CREDIT_LIFE);
                open && !self.owes_signatures(*terminal)
            };
            let wanting: Vec<usize> = self.live.iter().copied().filter(asks).collect();
            if wanting.is_empty() {
                return;
            }
            let Some(chunk) = self.take() else { return };
            let length = self.length(chunk);
            if self.spec.in_flight_max > 0 && self.in_flight > 0 && self.in_flight + length > self.spec.in_flight_max {
                return;
            }
            let overhead = |terminal: &usize| self.spec.members.get(terminal).copied().unwrap_or(OVERHEAD_MAX);
            let finish = |terminal: &usize| overhead(terminal) * (self.outstanding.get(terminal).unwrap_or(&0) + length);
            let Some(chosen) = wanting.into_iter().min_by_key(|terminal| (finish(terminal), *terminal)) else { return };
            if !self.returned.remove(&chunk) {
                self.next = chunk + 1;
            }
            self.grant(chunk, chosen, GrantKind::FirstCopy, now);
            if let Some((open, _)) = self.open.get_mut(&chosen) {
                *open -= 1;
            }
        }
    }

    fn done(&mut self) -> Vec<Grant> {
        std::mem::take(&mut self.grants)
    }

    /// `terminal`: who speaks, if somebody does; `open`: its credits, if it says.
    pub(crate) fn credits(&mut self, terminal: Option<usize>, open: Option<u32>, shared: &Shared, now: Now) -> Vec<Grant> {
        self.sweep(terminal, shared, now);
        if let Some(terminal) = terminal {
            self.join(terminal, now);
            match open {
                Some(0) => _ = self.open.remove(&terminal),
                Some(open) => _ = self.open.insert(terminal, (open, now)),
                None => {}
            }
        }
        self.give_chunks(now);
        self.done()
    }

    /// `notices` with the time at which the copies were done, on the run's clock.
    pub(crate) fn notices(&mut self, terminal: usize, notices: &[(ChunkNotice, Option<Now>)], shared: &Shared, now: Now) -> Vec<Grant> {
        self.sweep(Some(terminal), shared, now);
        self.join(terminal, now);
        for (notice, copies_done) in notices {
            let (chunk, length) = (notice.chunk, self.length(notice.chunk));
            self.held.entry(terminal).or_default().insert(chunk);
            self.returned.remove(&chunk);
            let Some(lease) = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal) else { continue };
            if !lease.received {
                lease.received = true;
                lease.until = now + COPIES;
                self.in_flight = self.in_flight.saturating_sub(length);
            }
            if let Some(done) = *copies_done {
                let spent = done.clamp(lease.sent, now.max(lease.sent)) - lease.sent;
                let sample = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX) / lease.outstanding.max(1);
                let overhead = self.spec.members.entry(terminal).or_insert(OVERHEAD_MAX);
                *overhead = ((3 * *overhead + sample.clamp(1, OVERHEAD_MAX)) / 4).max(1);
                self.drop_lease(chunk);
            }
        }
        self.give_chunks(now);
        self.done()
    }

    pub(crate) fn leave(&mut self, terminal: usize, bench: Duration, shared: &Shared, now: Now) -> Vec<Grant> {
        self.sweep(Some(terminal), shared, now);
        if bench > Duration::ZERO {
            self.benched.insert(terminal, now + bench);
        }
        self.gone(terminal);
        self.give_chunks(now);
        self.done()
    }

    /// What the terminal says that it holds, beside what it has said before.
    pub(crate) fn holdings(&mut self, terminal: usize, have: &ChunkSet, shared: &Shared, now: Now) -> Vec<Grant> {
        self.held.insert(terminal, have.clone());
        self.sweep(None, shared, now);
        self.join(terminal, now);
        let returned = std::mem::take(&mut self.returned);
        self.returned = returned.into_iter().filter(|chunk| !self.live_holder(*chunk, None)).collect();
        self.give_chunks(now);
        self.done()
    }

    /// Chunks that were given and came back, and have not been given again.
    pub(crate) fn returned(&self) -> usize {
        self.returned.len()
    }
}

#[cfg(test)]
mod tests;
