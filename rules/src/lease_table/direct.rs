//! What the origin has to spare beside first copies: one chunk at a time goes to every member of the group directly, and no relay copies it on.

use std::collections::BTreeSet;

use protocol::ws::GrantKind;

use super::{Call, DIRECT_MAX, Direct, GRANTS_MAX, Grant, LEASE_MS, Limits, Table, WhyReturned};

impl<T: Copy + Ord> Table<T> {
    /// Gives direct copies while the origin's line has room that no relay asks for and the budget has bytes that no first copy and no repair needs.
    pub(super) fn give_directly(&mut self, call: &mut Call<'_, T>) {
        let unfetched = self.directs.iter().filter(|(_, direct)| direct.fetches == 0);
        let promised: u64 = unfetched.map(|((chunk, _), _)| self.length(*chunk)).sum();
        let (limits, mut room) = (call.limits, call.limits.direct.saturating_sub(promised));
        for _ in 0..GRANTS_MAX {
            let Some(chunk) = self.direct_chunk(room) else { return };
            let length = self.length(chunk);
            // Half of what may be on its way: a relay that asks for a first copy does not wait long behind these.
            if length > room || (limits.in_flight_max > 0 && self.in_flight > 0 && self.in_flight + length > limits.in_flight_max / 2) {
                return;
            }
            match self.direct_receiver(chunk, limits) {
                Some(terminal) => {
                    room -= length;
                    self.in_flight += length;
                    self.directs.insert((chunk, terminal), Direct { until: call.now + LEASE_MS, fetches: 0 });
                    if let Some((_, given)) = self.direct.as_mut() {
                        given.insert(terminal);
                    }
                    self.grants.push(Grant { terminal, chunk, kind: GrantKind::Direct });
                }
                None if self.is_given_to_all() => self.direct = None,
                None => return,
            }
        }
    }

    /// The chunk that goes to everybody: the one begun, or the next one if `room` has it for every planned member and two are there at least.
    fn direct_chunk(&mut self, room: u64) -> Option<u32> {
        if let Some((chunk, _)) = self.direct {
            return Some(chunk);
        }
        let members = u64::try_from(self.spec.members.len()).unwrap_or(u64::MAX);
        // Members need a chunk each to copy on before that.
        let given = usize::try_from(self.passed()).unwrap_or(usize::MAX);
        if self.live.len() < 2 || room < self.mean || given < self.live.len() {
            return None;
        }
        let chunk = self.take()?;
        if self.length(chunk).saturating_mul(members) > room {
            return None;
        }
        self.note_given(chunk);
        self.direct = Some((chunk, BTreeSet::new()));
        Some(chunk)
    }

    fn wants_directly(&self, terminal: T) -> bool {
        self.direct
            .as_ref()
            .is_some_and(|(chunk, given)| !given.contains(&terminal) && !self.held.get(&terminal).is_some_and(|held| held.contains(*chunk)))
    }

    fn is_given_to_all(&self) -> bool {
        !self.live.iter().any(|terminal| self.wants_directly(*terminal))
    }

    /// The member to be sent the chunk next, in the order of their ids.
    fn direct_receiver(&self, chunk: u32, limits: Limits) -> Option<T> {
        let coming = |terminal: T| self.directs.keys().filter(|(_, to)| *to == terminal).count();
        self.live.iter().copied().find(|&terminal| {
            self.wants_directly(terminal)
                && self.leases.get(&chunk).is_none_or(|lease| lease.terminal != terminal)
                && coming(terminal) < DIRECT_MAX
                && !self.owes_signatures(terminal, limits)
        })
    }

    /// A direct copy will not come.
    pub(super) fn end_direct(&mut self, chunk: u32, terminal: T, why: WhyReturned) {
        if self.directs.remove(&(chunk, terminal)).is_some() {
            self.in_flight = self.in_flight.saturating_sub(self.length(chunk));
            self.give_back(chunk, terminal, why);
        }
    }

    /// Whether a chunk is on its way to some member, or to be sent to all that are there.
    pub fn sends_directly(&self) -> bool {
        !self.directs.is_empty() || (self.direct.is_some() && !self.is_given_to_all())
    }

    /// Chunks that the terminal leases or is sent, in order.
    pub fn coming_to(&self, terminal: T) -> Vec<u32> {
        let leased = self.leases.iter().filter(|(_, lease)| lease.terminal == terminal).map(|(&chunk, _)| chunk);
        let direct = self.directs.keys().filter(|(_, to)| *to == terminal).map(|(chunk, _)| *chunk);
        leased.chain(direct).collect()
    }

    pub(super) fn is_sent_directly(&self, chunk: u32, except: T) -> bool {
        self.directs.keys().any(|(coming, to)| *coming == chunk && *to != except)
    }
}
