//! Fetches from the origin under a lease.

use super::{Call, FETCHES_MAX, FetchRight, LEASE_MS, Marks, Part, Table, WhyReturned};

impl<T: Copy + Ord> Table<T> {
    /// Whether the terminal may fetch the chunk now; then its lease is renewed and the chunk counts as sent.
    pub fn fetch(&mut self, terminal: T, chunk: u32, call: &mut Call<'_, T>) -> FetchRight {
        self.sweep(Some(terminal), call);
        self.done();
        let now = call.now;
        let is_new = self.unsigned.get(&terminal).is_none_or(|chunks| !chunks.contains(&chunk));
        let owes_others = is_new && self.owes_signatures(terminal, call.limits);
        let lease = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal && !lease.received);
        let direct = if lease.is_none() { self.directs.get_mut(&(chunk, terminal)) } else { None };
        let is_direct = direct.is_some();
        let fetches = lease.as_ref().map(|lease| lease.fetches).or(direct.as_ref().map(|direct| direct.fetches));
        if fetches.is_none_or(|fetches| fetches >= FETCHES_MAX) {
            return FetchRight::None;
        }
        if owes_others {
            return FetchRight::Unsigned;
        }
        let unsigned = self.unsigned.entry(terminal).or_default().insert(chunk);
        let marks = Marks { group: self.sent.insert(chunk), swarm: call.shared.sent.insert(chunk), unsigned };
        if let Some(lease) = lease {
            lease.fetches += 1;
            lease.until = now + LEASE_MS;
            // The overhead counts from the moment of sending, not from the grant before it.
            lease.sent = if marks.group { now } else { lease.sent };
        }
        if let Some(direct) = direct {
            direct.fetches += 1;
            direct.until = now + LEASE_MS;
        }
        if self.spec.root && marks.swarm {
            call.shared.fed = now;
        }
        let part = match (marks.swarm, is_direct) {
            (true, _) => Part::First,
            (false, true) => Part::Direct,
            (false, false) => Part::Repair,
        };
        FetchRight::Granted { part, marks }
    }

    /// What [`Table::fetch`] allowed was not sent after all. `ends_lease`: because the budget does not have it.
    pub fn unfetch(&mut self, terminal: T, chunk: u32, marks: Marks, ends_lease: bool, call: &mut Call<'_, T>) {
        self.sweep(Some(terminal), call);
        self.done();
        if marks.group {
            self.sent.remove(chunk);
        }
        if marks.swarm {
            call.shared.sent.remove(chunk);
        }
        if let Some(unsigned) = self.unsigned.get_mut(&terminal).filter(|_| marks.unsigned) {
            unsigned.remove(&chunk);
        }
        if let Some(lease) = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal && !lease.received) {
            lease.fetches = lease.fetches.saturating_sub(1);
            if ends_lease {
                self.drop_lease(chunk, call.shared);
            }
        } else if let Some(direct) = self.directs.get_mut(&(chunk, terminal)) {
            direct.fetches = direct.fetches.saturating_sub(1);
            if ends_lease {
                self.end_direct(chunk, terminal, WhyReturned::Gone);
                // Nobody is told of it.
                self.done();
            }
        }
    }

    /// The chunk is still on its way: its lease lasts longer.
    pub fn renew(&mut self, terminal: T, chunk: u32, call: &mut Call<'_, T>) {
        self.sweep(Some(terminal), call);
        self.done();
        let until = call.now + LEASE_MS;
        if let Some(lease) = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal && !lease.received) {
            lease.until = until;
        } else if let Some(direct) = self.directs.get_mut(&(chunk, terminal)) {
            direct.until = until;
        }
    }
}
