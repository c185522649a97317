//! What must hold at every step. The checks have their own memory of what was said and done: a defect of the lease table or the machine cannot hide
//! itself in its own books.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use protocol::GroupId;
use protocol::bitmap::ChunkSet;
use protocol::ws::GrantKind;
use swarm::{Now, WINDOW_BYTES};

use crate::server::Fact;

const LEASE: Now = Now::from_millis(rules::lease_table::LEASE_MS);
const COPIES: Now = Now::from_millis(rules::lease_table::COPIES_MS);

/// Which promise was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// No first copy is given while a live member of the group has said that it holds the chunk, or leases it.
    FirstCopyOnce,
    /// Only verified and stored chunks are passed on, and only right bytes are stored, once.
    VerifiedOnly,
    /// The origin never sends more than the budget.
    BudgetKept,
    /// Windows, queues and messages keep to their bounds.
    MemoryBounds,
    /// A receiver signs only for what it has, and everybody's signatures are right.
    HonestReceipts,
    /// A terminal that keeps to the protocol is never cut off by another one that does.
    HonestNotBanned,
    /// Nothing moves before its wave opens.
    OpeningKept,
    /// Every reachable terminal completes, unless the budget makes it impossible and says so.
    AllComplete,
    /// The planner's own plan is accepted by the planner and by the machines.
    PlanAccepted,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.detail)
    }
}

/// The outcome of one check.
pub type Checked = Result<(), Violation>;

fn ensure(holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Violation { invariant, detail: detail() }) }
}

#[derive(Debug, Clone, Copy)]
struct KnownLease {
    terminal: usize,
    until: Now,
}

/// What one group's table has been told.
#[derive(Debug, Default)]
struct GroupBook {
    here: BTreeSet<usize>,
    held: BTreeMap<usize, ChunkSet>,
    leases: BTreeMap<u32, KnownLease>,
}

/// The longest backlog of fetches: as many leases as a terminal asks for at a time, twice because a second grant may cross the first, and as many
/// repairs as it asks for at a time.
const FETCHES_MAX: usize = 2 * 32 + 64;

#[derive(Debug)]
pub struct Invariants {
    budget: u64,
    origin_sent: u64,
    groups: BTreeMap<GroupId, GroupBook>,
    /// Per directed pair, the bytes of what was sent and not acknowledged.
    windows: BTreeMap<(usize, usize), BTreeMap<u32, u64>>,
    /// First copies of chunks that a live member had in truth, of which nobody had told the table yet.
    pub untold: u64,
    pub checks: u64,
}

impl Invariants {
    /// `budget` in bytes.
    pub fn new(budget: u64) -> Self {
        Self { budget, origin_sent: 0, groups: BTreeMap::new(), windows: BTreeMap::new(), untold: 0, checks: 0 }
    }

    pub fn origin_sent(&self) -> u64 {
        self.origin_sent
    }

    /// Takes what happened at the server.
    ///
    /// # Errors
    /// A first copy was given that should not have been.
    pub fn fact(&mut self, fact: Fact, now: Now) -> Checked {
        self.checks += 1;
        match fact {
            Fact::Here { group, terminal } => _ = self.book(group).here.insert(terminal),
            Fact::Gone { group, terminal } => {
                let book = self.book(group);
                book.here.remove(&terminal);
                book.leases.retain(|_, lease| lease.terminal != terminal);
            }
            Fact::Granted { group, terminal, chunk, kind } => return self.granted(group, terminal, chunk, kind, now),
            Fact::Fetching { group, terminal, chunk } => {
                if let Some(lease) = self.book(group).leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal) {
                    lease.until = now + LEASE;
                }
            }
            Fact::LeaseOver { group, terminal, chunk } => self.lease_over(group, terminal, chunk),
            Fact::Holds { group, terminal, chunk, done } => {
                let book = self.book(group);
                book.held.entry(terminal).or_default().insert(chunk);
                if let Some(lease) = book.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal) {
                    lease.until = now + COPIES;
                }
                if done {
                    self.lease_over(group, terminal, chunk);
                }
            }
            Fact::Lacks { group, terminal, chunk } => {
                if let Some(held) = self.book(group).held.get_mut(&terminal) {
                    held.remove(chunk);
                }
            }
            Fact::Forgotten => self.groups.clear(),
            Fact::BudgetSpent { .. } => {}
        }
        Ok(())
    }

    /// Whether the server counts on the terminal: it is connected, and its neighbours have not had it removed.
    pub fn is_here(&self, group: GroupId, terminal: usize) -> bool {
        self.groups.get(&group).is_some_and(|book| book.here.contains(&terminal))
    }

    fn book(&mut self, group: GroupId) -> &mut GroupBook {
        self.groups.entry(group).or_default()
    }

    fn lease_over(&mut self, group: GroupId, terminal: usize, chunk: u32) {
        let leases = &mut self.book(group).leases;
        if leases.get(&chunk).is_some_and(|lease| lease.terminal == terminal) {
            leases.remove(&chunk);
        }
    }

    fn granted(&mut self, group: GroupId, terminal: usize, chunk: u32, kind: GrantKind, now: Now) -> Checked {
        if kind == GrantKind::Direct {
            return Ok(());
        }
        let book = self.book(group);
        let others = |other: &usize| *other != terminal && book.here.contains(other);
        let holder = book.held.iter().find(|(other, held)| others(other) && held.contains(chunk)).map(|(other, _)| *other);
        let lease = book.leases.get(&chunk).filter(|lease| others(&lease.terminal) && now < lease.until).map(|lease| lease.terminal);
        book.leases.insert(chunk, KnownLease { terminal, until: now + LEASE });
        ensure(kind != GrantKind::FirstCopy || (holder.is_none() && lease.is_none()), Invariant::FirstCopyOnce, || {
            let why = holder.map_or_else(|| format!("terminal {lease:?} leases it"), |holder| format!("terminal {holder} holds it"));
            format!("the first copy of chunk {chunk} was given to terminal {terminal} while {why}, in group {group}")
        })
    }

    /// A first copy was given of a chunk that `holder` has in truth, which is live. The lease table could not know, so it is counted; `signed`: the
    /// server could, by the receipt that it was given.
    ///
    /// # Errors
    /// It could, and that is to count (`strict`).
    pub fn truly_held(&mut self, holder: usize, terminal: usize, chunk: u32, signed: bool, strict: bool) -> Checked {
        self.untold += 1;
        ensure(!(signed && strict), Invariant::FirstCopyOnce, || {
            format!("the first copy of chunk {chunk} was given to terminal {terminal} while terminal {holder} has signed for it")
        })
    }

    /// The origin sends bytes.
    ///
    /// # Errors
    /// They are more than the budget.
    pub fn origin_sends(&mut self, bytes: u64) -> Checked {
        self.checks += 1;
        self.origin_sent += bytes;
        ensure(self.origin_sent <= self.budget, Invariant::BudgetKept, || {
            format!("the origin has sent {} bytes of {}", self.origin_sent, self.budget)
        })
    }

    /// A machine has a chunk written. `right`: with the bytes of the edition; `held`: it was on the disk.
    ///
    /// # Errors
    /// It should not.
    pub fn stores(&mut self, terminal: usize, chunk: u32, right: bool, held: bool) -> Checked {
        self.checks += 1;
        ensure(right && !held, Invariant::VerifiedOnly, || {
            format!("terminal {terminal} stores chunk {chunk} {}", if right { "a second time" } else { "with wrong bytes" })
        })
    }

    /// A machine sends a part of a chunk. `stored`: it was verified and written; `opened`: its wave has opened.
    ///
    /// # Errors
    /// It should not, or the receiver's window is more than full.
    pub fn transmits(&mut self, from: usize, to: usize, (chunk, part): (u32, Range<u32>), stored: bool, opened: bool) -> Checked {
        self.checks += 1;
        ensure(stored, Invariant::VerifiedOnly, || format!("terminal {from} passes on chunk {chunk}, which it has not stored"))?;
        ensure(opened, Invariant::OpeningKept, || format!("terminal {from} sends chunk {chunk} before its wave opens"))?;
        let window = self.windows.entry((from, to)).or_default();
        // The rest of a chunk that was acknowledged meanwhile, because it came from elsewhere, is not waited for.
        if part.start == 0 || window.contains_key(&chunk) {
            window.insert(chunk, part.end.into());
        }
        let sum: u64 = window.values().sum();
        ensure(sum <= WINDOW_BYTES, Invariant::MemoryBounds, || format!("terminal {from} has {sum} bytes unacknowledged at terminal {to}"))
    }

    /// A receiver's acknowledgement has reached the sender.
    pub fn acknowledged(&mut self, from: usize, to: usize, chunks: impl Iterator<Item = u32>) {
        if let Some(window) = self.windows.get_mut(&(from, to)) {
            chunks.for_each(|chunk| _ = window.remove(&chunk));
        }
    }

    /// The link is closed at `from`: what it had sent to `to` is not waited for.
    pub fn link_closed(&mut self, from: usize, to: usize) {
        self.windows.remove(&(from, to));
    }

    /// The lengths of what a terminal keeps or says: `what` with its length and its bound.
    ///
    /// # Errors
    /// It is longer.
    pub fn bounded(&mut self, terminal: usize, what: &str, length: usize, bound: usize) -> Checked {
        self.checks += 1;
        ensure(length <= bound, Invariant::MemoryBounds, || format!("terminal {terminal}: {length} {what}, at most {bound}"))
    }

    /// As [`Invariants::bounded`] for fetches that wait or are under way.
    ///
    /// # Errors
    /// They are too many.
    pub fn fetches(&mut self, terminal: usize, count: usize) -> Checked {
        self.bounded(terminal, "fetches from the origin", count, FETCHES_MAX)
    }

    /// A terminal closes its link to `whom` for good. `guilty`: one of the two does not keep to the protocol.
    ///
    /// # Errors
    /// Both do.
    pub fn bans(&mut self, who: usize, whom: usize, guilty: bool, why: &str) -> Checked {
        self.checks += 1;
        ensure(guilty, Invariant::HonestNotBanned, || format!("terminal {who} cuts off terminal {whom} for {why}"))
    }

    /// A receiver gives the server a receipt that it has signed itself.
    ///
    /// # Errors
    /// It signs for what it does not have.
    pub fn signs(&mut self, terminal: usize, chunks: impl Iterator<Item = u32>, has: impl Fn(u32) -> bool) -> Checked {
        self.checks += 1;
        let unknown = chunks.into_iter().find(|&chunk| !has(chunk));
        ensure(unknown.is_none(), Invariant::HonestReceipts, || format!("terminal {terminal} has signed for chunk {unknown:?} without it"))
    }
}

#[cfg(test)]
mod tests;
