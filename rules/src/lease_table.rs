//! The lease table of one group: who is given which chunk next.
//!
//! The server keeps it in Redis, where a script decides in one step (`server/src/live/lua`). This is the same table written down a second time in plain
//! Rust: the server's tests run both side by side on random histories, and the simulator runs releases with this one. Whoever changes a rule changes it
//! here and there.
//!
//! All times are milliseconds of one clock, all lengths bytes. `T` names a terminal.

mod direct;
mod giving;
mod origin;
mod repair;

pub use repair::{Refused, Wanted};

use std::collections::{BTreeMap, BTreeSet};

use protocol::bitmap::ChunkSet;
use protocol::giving::GivingOrder;
use protocol::ws::GrantKind;

/// A lease that brought no chunk by then goes to somebody else; fetching renews it.
pub const LEASE_MS: u64 = 15_000;
/// Copies that were not reported done by then no longer count against the terminal that owes them.
pub const COPIES_MS: u64 = 60_000;
/// How often one lease may be fetched.
const FETCHES_MAX: u32 = 3;
/// Credits are repeated twice a second while they are wanted; older ones are of a terminal that has stopped asking.
const CREDIT_LIFE_MS: u64 = 1_600;
/// The most grants in one call.
const GRANTS_MAX: usize = 256;
/// A member that asks this long for a chunk that another one should have is given it.
const PATIENCE_MS: u64 = 5_000;
const PATIENCE_FORGOTTEN_MS: u64 = 60_000;
/// How long the members that the origin feeds may fetch nothing before another group is given what was never sent.
const FEEDING_MS: u64 = LEASE_MS;
/// How long a chunk may be kept from a relay that would be the last to finish, for one that has no credits yet.
const HOLD_BACK_MS: u64 = 1_000;
/// Direct copies that one member may have on their way.
const DIRECT_MAX: usize = 2;
/// Overheads are whole nanoseconds per byte up to 8 kbit/s.
const OVERHEAD_MAX: u64 = 1_000_000;

/// What all groups of the swarm share.
#[derive(Debug, Clone)]
pub struct Shared<T> {
    /// What the origin has begun to send, to whomever.
    pub sent: ChunkSet,
    /// When a group that the origin feeds last began to fetch.
    pub fed: u64,
    /// Bytes that were given again although somebody has them.
    pub doubled: u64,
    /// Whose WebSocket is there.
    pub present: BTreeSet<T>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { sent: ChunkSet::default(), fed: 0, doubled: 0, present: BTreeSet::new() }
    }
}

/// What the origin allows a group and its members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may be leased and not received; 0 for any.
    pub in_flight_max: u64,
    /// Chunks that a terminal may fetch without having signed for them.
    pub unsigned_max: usize,
    /// Bytes that the budget has for direct copies, beyond first copies and what is kept for repairs.
    pub direct: u64,
}

/// What a call is made with.
#[derive(Debug)]
pub struct Call<'a, T> {
    pub shared: &'a mut Shared<T>,
    pub limits: Limits,
    pub now: u64,
}

/// A first copy or a repair that was given and whose copies are not done.
#[derive(Debug, Clone)]
pub struct Lease<T> {
    pub terminal: T,
    /// When it was fetched; until then when it was given.
    sent: u64,
    outstanding: u64,
    pub kind: GrantKind,
    /// A repair of what somebody live has.
    doubles: bool,
    /// The chunk has arrived; copies are not done.
    pub received: bool,
    until: u64,
    fetches: u32,
}

impl<T> Lease<T> {
    pub fn is_over(&self, now: u64) -> bool {
        self.until <= now
    }
}

/// One chunk of the origin on its way to one member that relays it to nobody.
#[derive(Debug, Clone, Copy)]
struct Direct {
    until: u64,
    fetches: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant<T> {
    pub terminal: T,
    pub chunk: u32,
    pub kind: GrantKind,
}

/// What a table is made from.
#[derive(Debug, Clone)]
pub struct Spec<T> {
    /// Whether the origin feeds the group.
    pub root: bool,
    pub opens: u64,
    /// With the expected overhead in nanoseconds per byte.
    pub members: BTreeMap<T, u64>,
}

/// What the budget still has, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Affordable {
    /// Of chunks that were sent before, and of others.
    pub again: u64,
    pub first: u64,
    /// What may be given in all of what somebody live has, from the beginning on.
    pub doubled: u64,
}

/// The part of the budget that a fetch counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    First,
    Repair,
    Direct,
}

/// What [`Table::fetch`] noted, so that it can be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// The group's first fetch of the chunk, and the swarm's.
    pub group: bool,
    pub swarm: bool,
    /// The terminal owes a signature that it did not owe before.
    pub unsigned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchRight {
    None,
    Unsigned,
    Granted { part: Part, marks: Marks },
}

/// A lease, or a copy that the origin was to send, that ended without its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Returned<T> {
    pub chunk: u32,
    pub terminal: T,
    pub why: WhyReturned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WhyReturned {
    /// The terminal did not fetch the chunk in time.
    Expired,
    /// The terminal is gone, or was removed.
    Gone,
}

/// What one call gave, and which leases came back in it, by chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<T> {
    pub returned: Vec<Returned<T>>,
    pub grants: Vec<Grant<T>>,
}

#[derive(Debug, Clone)]
pub struct Table<T> {
    spec: Spec<T>,
    lengths: Vec<u64>,
    /// Bytes of a chunk in the mean.
    mean: u64,
    /// In what order a group that the origin feeds is given chunks; no other one is.
    order: GivingOrder,
    /// Of those that are given in ascending order, neither first nor last, the first one never given.
    next: u32,
    /// How many of the first and of the last ones were given or passed over.
    led: usize,
    trailed: usize,
    in_flight: u64,
    /// When a first copy was last given.
    given_at: u64,
    pub live: BTreeSet<T>,
    open: BTreeMap<T, (u32, u64)>,
    outstanding: BTreeMap<T, u64>,
    pub leases: BTreeMap<u32, Lease<T>>,
    /// Given, and came back.
    pub returned: BTreeSet<u32>,
    held: BTreeMap<T, ChunkSet>,
    benched: BTreeMap<T, u64>,
    asked: BTreeMap<u32, u64>,
    sent: ChunkSet,
    pub unsigned: BTreeMap<T, BTreeSet<u32>>,
    /// The chunk that the origin sends to every member itself, and whom it was given to.
    direct: Option<(u32, BTreeSet<T>)>,
    directs: BTreeMap<(u32, T), Direct>,
    came_back: Vec<Returned<T>>,
    grants: Vec<Grant<T>>,
}

impl<T: Copy + Ord> Table<T> {
    pub fn new(spec: Spec<T>, lengths: Vec<u64>) -> Self {
        let count = u64::try_from(lengths.len()).unwrap_or(u64::MAX);
        Self {
            order: if spec.root { order_of(&lengths) } else { GivingOrder::default() },
            next: if spec.root { 0 } else { u32::try_from(lengths.len()).unwrap_or(u32::MAX) },
            led: 0,
            trailed: 0,
            spec,
            mean: lengths.iter().sum::<u64>() / count.max(1),
            lengths,
            in_flight: 0,
            given_at: 0,
            live: BTreeSet::new(),
            open: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            leases: BTreeMap::new(),
            returned: BTreeSet::new(),
            held: BTreeMap::new(),
            benched: BTreeMap::new(),
            asked: BTreeMap::new(),
            sent: ChunkSet::default(),
            unsigned: BTreeMap::new(),
            direct: None,
            directs: BTreeMap::new(),
            came_back: Vec::new(),
            grants: Vec::new(),
        }
    }

    /// The table as the members tell of it after a loss. `claims`: leases by chunk.
    pub fn rebuilt(spec: Spec<T>, lengths: Vec<u64>, told: BTreeMap<T, ChunkSet>, claims: &BTreeMap<u32, T>, now: u64) -> Self {
        let mut table = Self::new(spec, lengths);
        table.live = told.keys().copied().collect();
        table.held = told;
        for (&chunk, &terminal) in claims {
            if !table.live_holder(chunk, None) {
                table.lease(chunk, terminal, (GrantKind::FirstCopy, false), now);
            }
        }
        if table.spec.root {
            let mut given: ChunkSet = claims.keys().copied().collect();
            table.held.values().for_each(|held| given.extend(held));
            let has_begun_the_last = table.order.last().iter().any(|chunk| given.contains(*chunk));
            let in_between = |chunk: &u32| table.order.is_in_between(*chunk);
            let next = given.iter().filter(in_between).max().map_or(0, |chunk| chunk + 1);
            table.next = if has_begun_the_last { table.count() } else { next };
            table.returned = (0..table.next).filter(in_between).filter(|chunk| !given.contains(*chunk)).collect();
        }
        table
    }

    /// Given or passed over, whether it came back or not.
    fn passed(&self) -> u32 {
        let in_between = self.next - self.order.out_of_line_below(self.next);
        in_between + u32::try_from(self.led + self.trailed).unwrap_or(u32::MAX)
    }

    /// Nothing is left that was never given or passed over.
    pub fn has_given_all(&self) -> bool {
        self.passed() == self.count()
    }

    fn was_never_given(&self, chunk: u32) -> bool {
        match (self.order.first().binary_search(&chunk), self.order.last().binary_search(&chunk)) {
            (Ok(place), _) => place >= self.led,
            (Err(_), Ok(place)) => place >= self.trailed,
            (Err(_), Err(_)) => chunk >= self.next,
        }
    }

    /// What [`Table::take`] answered is given.
    fn note_given(&mut self, chunk: u32) {
        if self.returned.remove(&chunk) {
            return;
        }
        if self.order.first().binary_search(&chunk).is_ok() {
            self.led += 1;
        } else if self.order.last().binary_search(&chunk).is_ok() {
            self.trailed += 1;
        } else {
            self.next = chunk + 1;
        }
    }

    /// Whether what counts as in flight is what is leased and has not come, and what is sent directly.
    pub fn is_balanced(&self) -> bool {
        let leased = self.leases.iter().filter(|(_, lease)| !lease.received).map(|(chunk, _)| *chunk);
        let direct = self.directs.keys().map(|(chunk, _)| *chunk);
        self.in_flight == leased.chain(direct).map(|chunk| self.length(chunk)).sum::<u64>()
    }

    pub fn length(&self, chunk: u32) -> u64 {
        self.lengths.get(chunk as usize).copied().unwrap_or(0)
    }

    pub fn count(&self) -> u32 {
        u32::try_from(self.lengths.len()).unwrap_or(u32::MAX)
    }

    /// Whether a live member other than `except` has said that it holds the chunk, or has signed for it.
    pub fn live_holder(&self, chunk: u32, except: Option<T>) -> bool {
        self.live.iter().any(|terminal| Some(*terminal) != except && self.held.get(terminal).is_some_and(|held| held.contains(chunk)))
    }

    fn drop_lease(&mut self, chunk: u32, shared: &mut Shared<T>) -> Option<Lease<T>> {
        let lease = self.leases.remove(&chunk)?;
        let length = self.length(chunk);
        if let Some(outstanding) = self.outstanding.get_mut(&lease.terminal) {
            *outstanding = outstanding.saturating_sub(length);
        }
        if !lease.received {
            self.in_flight = self.in_flight.saturating_sub(length);
        }
        if lease.doubles && lease.fetches == 0 {
            shared.doubled = shared.doubled.saturating_sub(length);
        }
        Some(lease)
    }

    /// A lease ended without the chunk: somebody else gets it, unless a live member has it after all, or is sent it by the origin.
    fn give_back(&mut self, chunk: u32, terminal: T, why: WhyReturned) {
        let is_coming = self.leases.contains_key(&chunk) || self.directs.keys().any(|(coming, _)| *coming == chunk);
        if self.spec.root && !is_coming && !self.live_holder(chunk, None) {
            self.returned.insert(chunk);
        }
        self.came_back.push(Returned { chunk, terminal, why });
    }

    fn end_lease(&mut self, chunk: u32, why: WhyReturned, shared: &mut Shared<T>) {
        if let Some(lease) = self.drop_lease(chunk, shared).filter(|lease| !lease.received) {
            self.give_back(chunk, lease.terminal, why);
        }
    }

    fn gone(&mut self, terminal: T, shared: &mut Shared<T>) {
        self.live.remove(&terminal);
        self.open.remove(&terminal);
        let leased: Vec<u32> = self.leases.iter().filter(|(_, lease)| lease.terminal == terminal).map(|(&chunk, _)| chunk).collect();
        leased.into_iter().for_each(|chunk| self.end_lease(chunk, WhyReturned::Gone, shared));
        self.outstanding.remove(&terminal);
        let sent: Vec<u32> = self.directs.keys().filter(|(_, to)| *to == terminal).map(|(chunk, _)| *chunk).collect();
        sent.into_iter().for_each(|chunk| self.end_direct(chunk, terminal, WhyReturned::Gone));
    }

    fn sweep(&mut self, caller: Option<T>, call: &mut Call<'_, T>) {
        let now = call.now;
        let over: BTreeSet<(u64, u32)> =
            self.leases.iter().filter(|(_, lease)| lease.until <= now).map(|(&chunk, lease)| (lease.until, chunk)).collect();
        over.into_iter().for_each(|(_, chunk)| self.end_lease(chunk, WhyReturned::Expired, call.shared));
        let over: BTreeSet<(u64, u32, T)> =
            self.directs.iter().filter(|(_, direct)| direct.until <= now).map(|(&(chunk, to), direct)| (direct.until, chunk, to)).collect();
        over.into_iter().for_each(|(_, chunk, to)| self.end_direct(chunk, to, WhyReturned::Expired));
        let gone: Vec<T> =
            self.live.iter().filter(|terminal| Some(**terminal) != caller && !call.shared.present.contains(terminal)).copied().collect();
        gone.into_iter().for_each(|terminal| self.gone(terminal, call.shared));
    }

    fn is_benched(&self, terminal: T, now: u64) -> bool {
        self.benched.get(&terminal).is_some_and(|&until| now < until)
    }

    fn join_live(&mut self, terminal: T, now: u64) {
        if !self.is_benched(terminal, now) {
            self.live.insert(terminal);
        }
    }

    fn lease(&mut self, chunk: u32, terminal: T, (kind, doubles): (GrantKind, bool), now: u64) {
        let length = self.length(chunk);
        let outstanding = self.outstanding.entry(terminal).or_default();
        *outstanding += length;
        let until = now + LEASE_MS;
        let lease = Lease { terminal, sent: now, outstanding: *outstanding, kind, doubles, received: false, until, fetches: 0 };
        self.leases.insert(chunk, lease);
        self.in_flight += length;
    }

    fn grant(&mut self, chunk: u32, terminal: T, kind: (GrantKind, bool), now: u64) {
        self.lease(chunk, terminal, kind, now);
        self.grants.push(Grant { terminal, chunk, kind: kind.0 });
    }

    /// Whether the terminal has fetched so much without signing that it is given nothing more.
    pub fn owes_signatures(&self, terminal: T, limits: Limits) -> bool {
        self.unsigned.get(&terminal).is_some_and(|chunks| chunks.len() >= limits.unsigned_max)
    }

    fn done(&mut self) -> Outcome<T> {
        self.came_back.sort_unstable();
        Outcome { returned: std::mem::take(&mut self.came_back), grants: std::mem::take(&mut self.grants) }
    }

    /// `terminal`: who speaks, if somebody does; `open`: its credits, if it says.
    pub fn credits(&mut self, terminal: Option<T>, open: Option<u32>, call: &mut Call<'_, T>) -> Outcome<T> {
        self.sweep(terminal, call);
        if let Some(terminal) = terminal {
            self.join_live(terminal, call.now);
            match open {
                Some(0) => _ = self.open.remove(&terminal),
                Some(open) => _ = self.open.insert(terminal, (open, call.now)),
                None => {}
            }
        }
        self.give_chunks(call);
        self.done()
    }

    /// What became of chunks: with each, when its copies were done. Answers the overheads measured too, in nanoseconds per byte.
    pub fn notices(&mut self, terminal: T, notices: &[(u32, Option<u64>)], call: &mut Call<'_, T>) -> (Outcome<T>, Vec<u64>) {
        self.sweep(Some(terminal), call);
        self.join_live(terminal, call.now);
        let (now, mut samples) = (call.now, Vec::new());
        for &(chunk, copies_done) in notices {
            let length = self.length(chunk);
            self.held.entry(terminal).or_default().insert(chunk);
            self.returned.remove(&chunk);
            if self.directs.remove(&(chunk, terminal)).is_some() {
                self.in_flight = self.in_flight.saturating_sub(length);
            }
            let Some(lease) = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal) else { continue };
            if !lease.received {
                lease.received = true;
                lease.until = now + COPIES_MS;
                self.in_flight = self.in_flight.saturating_sub(length);
            }
            if let Some(done) = copies_done {
                let spent = done.clamp(lease.sent, now.max(lease.sent)) - lease.sent;
                let sample = (spent.saturating_mul(1_000_000) / lease.outstanding.max(1)).clamp(1, OVERHEAD_MAX);
                let overhead = self.spec.members.entry(terminal).or_insert(OVERHEAD_MAX);
                // Who has become slow is believed sooner than who has become fast: what the slow one is given is what everybody waits for.
                let weight = if sample > *overhead { 2 } else { 4 };
                *overhead = (((weight - 1) * *overhead + sample) / weight).max(1);
                samples.push(sample);
                self.drop_lease(chunk, call.shared);
            }
        }
        self.give_chunks(call);
        (self.done(), samples)
    }

    /// The terminal has signed for these. `fresh`: just now, so that it holds them; else at any time.
    pub fn signed(&mut self, terminal: T, chunks: impl IntoIterator<Item = u32>, fresh: bool) {
        if !self.spec.members.contains_key(&terminal) {
            return;
        }
        for chunk in chunks {
            if let Some(unsigned) = self.unsigned.get_mut(&terminal) {
                unsigned.remove(&chunk);
            }
            if fresh {
                self.held.entry(terminal).or_default().insert(chunk);
                self.returned.remove(&chunk);
            }
        }
    }

    /// The terminal is gone. With `bench_ms` it was removed: it is given nothing for so long although it may speak again.
    pub fn leave(&mut self, terminal: T, bench_ms: u64, call: &mut Call<'_, T>) -> Outcome<T> {
        self.sweep(Some(terminal), call);
        if bench_ms > 0 {
            self.benched.insert(terminal, call.now + bench_ms);
        }
        self.gone(terminal, call.shared);
        self.give_chunks(call);
        self.done()
    }

    /// What the terminal says that it holds, in place of what it has said before.
    pub fn holdings(&mut self, terminal: T, have: &ChunkSet, call: &mut Call<'_, T>) -> Outcome<T> {
        self.held.insert(terminal, have.clone());
        self.sweep(Some(terminal), call);
        self.join_live(terminal, call.now);
        let returned = std::mem::take(&mut self.returned);
        self.returned = returned.into_iter().filter(|chunk| !self.live_holder(*chunk, None)).collect();
        self.give_chunks(call);
        self.done()
    }
}

fn order_of(lengths: &[u64]) -> GivingOrder {
    GivingOrder::of(lengths.iter().map(|&length| u32::try_from(length).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests;
