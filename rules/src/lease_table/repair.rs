//! Chunks that are asked for as missing.

use std::collections::BTreeMap;

use protocol::ws::GrantKind;

use super::{Affordable, Call, FEEDING_MS, Grant, Outcome, PATIENCE_FORGOTTEN_MS, PATIENCE_MS, Table};

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// With each chunk whether the receipts contain it of somebody live that it can come from.
    pub chunks: &'a BTreeMap<u32, bool>,
    /// A member of a group that the origin feeds is connected.
    pub feeders_connected: bool,
}

/// What is not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// Somebody has it or will be given it: pull or wait.
    pub elsewhere: Vec<u32>,
    /// The origin may not send it.
    pub unaffordable: Vec<u32>,
}

impl<T: Copy + Ord> Table<T> {
    /// The terminal found nobody who has these chunks.
    pub fn missing(&mut self, terminal: T, affordable: Affordable, wanted: Wanted<'_>, call: &mut Call<'_, T>) -> (Outcome<T>, Refused) {
        self.sweep(Some(terminal), call);
        self.join_live(terminal, call.now);
        let (now, mut refused) = (call.now, Refused::default());
        let Affordable { mut again, mut first, doubled } = affordable;
        // What was never sent is for the groups that the origin feeds while one of their members fetches.
        let quiet = now.saturating_sub(self.spec.opens.max(call.shared.fed));
        let feeding = !self.spec.root && wanted.feeders_connected && quiet < FEEDING_MS;
        for (&chunk, &receipted) in wanted.chunks {
            let length = self.length(chunk);
            self.held.entry(terminal).or_default().remove(chunk);
            let lease = self.leases.get(&chunk).cloned();
            let others = lease.as_ref().is_some_and(|lease| lease.terminal != terminal);
            let elsewhere = receipted || others || self.live_holder(chunk, Some(terminal)) || self.is_sent_directly(chunk, terminal);
            let waited = now - self.asked.get(&chunk).copied().unwrap_or(0);
            let long = (PATIENCE_MS..PATIENCE_FORGOTTEN_MS).contains(&waited);
            let running = lease.as_ref().filter(|lease| !lease.received);
            let was_sent = call.shared.sent.contains(chunk);
            // What somebody has is sent again only out of a part of the budget: the rest is for what nobody has.
            let doubles = elsewhere && was_sent;
            let room = match (was_sent, doubles) {
                (false, _) => first,
                (true, false) => again,
                (true, true) => again.min(doubled.saturating_sub(call.shared.doubled)),
            };
            if let Some(lease) = running.filter(|_| !others) {
                self.grants.push(Grant { terminal, chunk, kind: lease.kind });
            } else if self.directs.contains_key(&(chunk, terminal)) {
                self.grants.push(Grant { terminal, chunk, kind: GrantKind::Direct });
            } else if feeding && !was_sent {
                refused.elsewhere.push(chunk);
            } else if self.is_benched(terminal, now) || running.is_some() || (elsewhere && !long) {
                if elsewhere && waited >= PATIENCE_FORGOTTEN_MS {
                    self.asked.insert(chunk, now);
                }
                refused.elsewhere.push(chunk);
            } else if !elsewhere && self.was_never_given(chunk) {
                refused.elsewhere.push(chunk);
            } else if length > room {
                refused.unaffordable.push(chunk);
            } else {
                first = first.saturating_sub(length);
                again = again.saturating_sub(if was_sent { length } else { 0 });
                self.drop_lease(chunk, call.shared);
                call.shared.doubled += if doubles { length } else { 0 };
                self.asked.remove(&chunk);
                let came_back = self.returned.remove(&chunk);
                let kind = if came_back && !elsewhere { GrantKind::FirstCopy } else { GrantKind::Repair };
                self.grant(chunk, terminal, (kind, doubles), now);
            }
        }
        self.give_chunks(call);
        (self.done(), refused)
    }
}
