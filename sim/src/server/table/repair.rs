//! Chunks that are asked for as missing, and fetches under a lease.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::bitmap::ChunkSet;
use protocol::ws::GrantKind;
use swarm::Now;

use super::{Affordable, FEEDING, FETCHES_MAX, FetchRight, Grant, LEASE, PATIENCE, PATIENCE_FORGOTTEN, Shared, Table};

impl Table {
    /// `chunks`: with each whether the receipts of a live terminal that it is linked to contain it. `feeders`: a member of a group that the origin
    /// feeds is connected. Answers (grants, refused because somebody should have it, refused because of the budget).
    pub(crate) fn missing(
        &mut self,
        terminal: usize,
        chunks: &BTreeMap<u32, bool>,
        feeders: bool,
        affordable: Affordable,
        shared: &Shared,
        now: Now,
    ) -> (Vec<Grant>, Vec<u32>, Vec<u32>) {
        self.sweep(Some(terminal), shared, now);
        self.join(terminal, now);
        let (mut elsewhere_list, mut unaffordable) = (Vec::new(), Vec::new());
        let Affordable { mut again, mut first, mut doubled } = affordable;
        let feeding = !self.spec.root && feeders && now.saturating_sub(self.spec.opens.max(shared.fed)) < FEEDING;
        for (&chunk, &receipted) in chunks {
            let length = self.length(chunk);
            self.held.entry(terminal).or_default().remove(chunk);
            let lease = self.leases.get(&chunk).cloned();
            let others = lease.as_ref().is_some_and(|lease| lease.terminal != terminal);
            let elsewhere = receipted || self.live_holder(chunk, Some(terminal)) || others;
            let waited = self.asked.get(&chunk).map_or(Duration::MAX, |&at| now - at);
            let was_sent = shared.sent.contains(chunk);
            let patient = (PATIENCE..PATIENCE_FORGOTTEN).contains(&waited) && (!was_sent || length <= doubled);
            let running = lease.as_ref().filter(|lease| !lease.received);
            if let Some(lease) = running.filter(|_| !others) {
                self.grants.push(Grant { terminal, chunk, kind: lease.kind });
            } else if feeding && !was_sent {
                elsewhere_list.push(chunk);
            } else if self.is_benched(terminal, now) || running.is_some() || (elsewhere && !patient) {
                if elsewhere && waited >= PATIENCE_FORGOTTEN {
                    self.asked.insert(chunk, now);
                }
                elsewhere_list.push(chunk);
            } else if !elsewhere && chunk >= self.next {
                elsewhere_list.push(chunk);
            } else if length > if was_sent { again } else { first } {
                unaffordable.push(chunk);
            } else {
                first = first.saturating_sub(length);
                if was_sent {
                    again = again.saturating_sub(length);
                    doubled = doubled.saturating_sub(if elsewhere { length } else { 0 });
                }
                self.drop_lease(chunk);
                self.asked.remove(&chunk);
                let kind = if self.returned.remove(&chunk) { GrantKind::FirstCopy } else { GrantKind::Repair };
                self.grant(chunk, terminal, kind, now);
            }
        }
        self.give_chunks(now);
        (self.done(), elsewhere_list, unaffordable)
    }

    /// Whether the terminal may fetch the chunk now; then its lease is renewed and the chunk counts as sent.
    pub(crate) fn fetch(&mut self, terminal: usize, chunk: u32, shared: &mut Shared, now: Now) -> FetchRight {
        self.sweep(Some(terminal), shared, now);
        let is_new = self.unsigned.get(&terminal).is_none_or(|chunks| !chunks.contains(&chunk));
        let owes_others = is_new && self.owes_signatures(terminal);
        let lease = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal && !lease.received);
        let Some(lease) = lease.filter(|lease| lease.fetches < FETCHES_MAX) else { return FetchRight::None };
        if owes_others {
            return FetchRight::Unsigned;
        }
        let owes = self.unsigned.entry(terminal).or_default().insert(chunk);
        lease.until = now + LEASE;
        lease.fetches += 1;
        let first = shared.sent.insert(chunk);
        if first {
            lease.sent = now;
        }
        if self.spec.root && first {
            shared.fed = now;
        }
        FetchRight::Granted { first, owes }
    }

    /// What [`Table::fetch`] allowed was not sent after all. `ends_lease`: because the budget does not have it.
    pub(crate) fn unfetch(&mut self, terminal: usize, chunk: u32, right: FetchRight, ends_lease: bool, shared: &mut Shared) {
        let FetchRight::Granted { first, owes } = right else { return };
        if first {
            shared.sent.remove(chunk);
        }
        if let Some(unsigned) = self.unsigned.get_mut(&terminal).filter(|_| owes) {
            unsigned.remove(&chunk);
        }
        let own = self.leases.get_mut(&chunk).filter(|lease| lease.terminal == terminal && !lease.received);
        if let Some(lease) = own {
            lease.fetches = lease.fetches.saturating_sub(1);
            if ends_lease {
                self.drop_lease(chunk);
            }
        }
    }

    /// The terminal has signed for these, for whichever source.
    pub(crate) fn signed(&mut self, terminal: usize, signed: &ChunkSet) {
        if let Some(unsigned) = self.unsigned.get_mut(&terminal) {
            unsigned.retain(|chunk| !signed.contains(*chunk));
        }
    }

    pub(crate) fn owes_too_many(&self, terminal: usize) -> bool {
        self.owes_signatures(terminal)
    }
}
