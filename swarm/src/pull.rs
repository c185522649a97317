//! Pulling what does not come by itself: from the group, from an earlier group, and at last from the origin by way of the server.
//!
//! A copy that is on its way is waited for; a chunk that a peer held before the link was up is pulled at once, because nobody owes it. What the whole
//! group lacks is pulled by one member only, the one *responsible* for the chunk by its uplink's share, who then relays it to the others.

use std::collections::BTreeMap;

use protocol::TerminalId;
use protocol::bitmap::ChunkSet;
use protocol::frame::{Frame, INDICES_MAX};

use crate::Now;
use crate::action::Action;
use crate::config::{LATE_MIN, MISSING_MAX, PULL_RETRY_MIN, REPEAT_EVERY, SCAN_MAX, STALLED_AFTER};
use crate::machine::Swarm;
use crate::peer::Role;

/// When each missing chunk was first known to be held by somebody, and how long chunks take from then to here.
#[derive(Debug)]
pub(crate) struct Pulling {
    /// Milliseconds of [`Now`] plus one; 0 where nobody is known to hold the chunk. 4 bytes per chunk.
    known_at: Vec<u32>,
    /// Chunks that nobody is about to send: whoever holds them got them before the link was up.
    unowed: ChunkSet,
    /// Chunks that a member of the group is known to hold or to have held.
    in_group: ChunkSet,
    /// Smoothed time from the first announcement to the arrival.
    arrival: Now,
    cursor: u32,
    asked_server_at: Option<Now>,
}

impl Pulling {
    pub(crate) fn new(chunks: u32) -> Self {
        Self {
            known_at: vec![0; chunks as usize],
            unowed: ChunkSet::default(),
            in_group: ChunkSet::default(),
            arrival: Now::ZERO,
            cursor: 0,
            asked_server_at: None,
        }
    }

    /// A peer was found to hold a chunk. `owed`: it was announced as news, so whoever brought it into the group is copying it on.
    pub(crate) fn known(&mut self, chunk: u32, by_member: bool, owed: bool, now: Now) {
        let Some(at) = self.known_at.get_mut(chunk as usize) else { return };
        let news_for_group = by_member && self.in_group.insert(chunk);
        if *at == 0 || news_for_group {
            *at = u32::try_from(now.as_millis()).unwrap_or(u32::MAX - 1) + 1;
            if owed {
                self.unowed.remove(chunk)
            } else {
                self.unowed.insert(chunk)
            };
        }
    }

    /// These are held or leased by somebody in the group: when they are announced they need no more waiting.
    pub(crate) fn expect_soon(&mut self, chunks: &[u32]) {
        for &chunk in chunks {
            self.unowed.insert(chunk);
        }
    }

    pub(crate) fn arrived(&mut self, chunk: u32, now: Now) {
        if let Some(since) = self.known_since(chunk) {
            self.arrival = (self.arrival * 7 + now.saturating_sub(since)) / 8;
        }
    }

    fn known_since(&self, chunk: u32) -> Option<Now> {
        let at = *self.known_at.get(chunk as usize)?;
        (at > 0).then(|| Now::from_millis(u64::from(at - 1)))
    }

    /// How long a copy may be on its way before it counts as late: never so short that slow but working relays are doubled.
    fn late_after(&self) -> Now {
        LATE_MIN.max(self.arrival * 3).min(LATE_MIN * 4)
    }
}

/// Which of `members` (terminal, uplink) is to bring `chunk` into the group: each gets a share of the chunks in proportion to its uplink.
pub(crate) fn responsible(chunk: u32, members: &[(TerminalId, u64)]) -> Option<TerminalId> {
    let total: u64 = members.iter().map(|(_, up)| up.max(&1)).sum();
    // Fibonacci hashing spreads neighbouring chunks over the members.
    let point = (u64::from(chunk).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) % total.max(1);
    let mut sum = 0;
    members.iter().find_map(|(id, up)| {
        sum += up.max(&1);
        (point < sum).then_some(*id)
    })
}

impl Swarm {
    /// Asks for what is late, as far as the peers' windows allow.
    pub(crate) fn pull(&mut self, now: Now) {
        if self.is_complete() || now < self.opens_at() {
            return;
        }
        self.expire_pulls(now);
        let group = self.live_group();
        let mut requests: BTreeMap<TerminalId, Vec<u32>> = BTreeMap::new();
        let count = self.manifest.chunk_count();
        let mut chunk = self.pulling.cursor;
        let (mut looked_at, mut steps) = (0, 0);
        while looked_at < SCAN_MAX && steps < count {
            (chunk, steps) = (if chunk >= count { 0 } else { chunk }, steps + 1);
            if !self.have.contains(chunk) {
                looked_at += 1;
                if let Some(peer) = self.pull_source(chunk, &group, now) {
                    if let Some(state) = self.peers.get_mut(&peer) {
                        state.pulls.insert(chunk, now);
                    }
                    requests.entry(peer).or_default().push(chunk);
                }
            }
            chunk += 1;
        }
        if requests.is_empty() {
            self.pulling.cursor = chunk % count.max(1);
        }
        let swarm_id = self.plan.swarm_id;
        for (peer, chunks) in requests {
            for part in chunks.chunks(INDICES_MAX) {
                self.actions.push_back(Action::Send { peer, frame: Frame::Request { swarm_id, chunks: part.to_vec() } });
            }
        }
        self.ask_server(&group, now);
    }

    /// From whom to pull a missing chunk now, if from anybody.
    fn pull_source(&self, chunk: u32, group: &[(TerminalId, u64)], now: Now) -> Option<TerminalId> {
        let waited = now.saturating_sub(self.pulling.known_since(chunk)?);
        let late = self.pulling.late_after();
        if (waited < late && !self.pulling.unowed.contains(chunk)) || self.is_coming(chunk) {
            return None;
        }
        let least_loaded = |role: Role| {
            let holders = self.peers.values().filter(|state| state.role == role && state.can_be_pulled(chunk));
            holders.min_by_key(|state| state.pulls.len()).map(|state| state.id())
        };
        least_loaded(Role::Member).or_else(|| {
            let held_in_group = self.peers.values().any(|state| state.role == Role::Member && state.linked && state.have.contains(chunk));
            let mine = responsible(chunk, group) == Some(self.config.me);
            let overdue = waited >= late * 3;
            if (mine && !held_in_group) || overdue { least_loaded(Role::Parent) } else { None }
        })
    }

    fn is_coming(&self, chunk: u32) -> bool {
        self.pending.contains_key(&chunk)
            || self.holds_lease(chunk)
            || self.peers.values().any(|state| {
                state.pulls.contains_key(&chunk)
                    || (state.is_live() && state.partial.as_ref().is_some_and(|partial| partial.chunk == chunk))
            })
    }

    /// This terminal and the live members of its group with their uplinks, in the order of their ids, so that all of them come to the same answer.
    fn live_group(&self) -> Vec<(TerminalId, u64)> {
        let members = self.peers.values().filter(|state| state.role == Role::Member && state.is_live());
        let mut group: Vec<_> = members.map(|state| (state.id(), state.peer.up.0)).collect();
        group.push((self.config.me, self.config.up.0));
        group.sort_unstable();
        group
    }

    fn expire_pulls(&mut self, now: Now) {
        let patience = PULL_RETRY_MIN.max(self.pulling.arrival * 4);
        for state in self.peers.values_mut() {
            state.pulls.retain(|_, asked_at| now < *asked_at + patience);
        }
    }

    /// Nothing has come for too long: the server may know of chunks that the group has lost.
    fn ask_server(&mut self, group: &[(TerminalId, u64)], now: Now) {
        let stalled_for = now.saturating_sub(self.progressed_at.max(self.opens_at()));
        let asked_lately = self.pulling.asked_server_at.is_some_and(|at| now < at + REPEAT_EVERY * 2);
        if stalled_for < STALLED_AFTER || asked_lately || self.leases_len() > 0 {
            return;
        }
        let everyone = stalled_for >= STALLED_AFTER * 3;
        let missing = (0..self.manifest.chunk_count()).filter(|&chunk| {
            !self.have.contains(chunk) && !self.is_coming(chunk) && (everyone || responsible(chunk, group) == Some(self.config.me))
        });
        let chunks: Vec<u32> = missing.take(MISSING_MAX).collect();
        if !chunks.is_empty() {
            self.pulling.asked_server_at = Some(now);
            self.actions.push_back(Action::Missing(chunks));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> TerminalId {
        TerminalId::from_bytes([byte; 16])
    }

    #[test]
    fn responsibility_follows_the_uplinks_and_is_the_same_for_all() {
        let members = [(id(1), 10), (id(2), 30)];
        let mine = (0..10_000).filter(|&chunk| responsible(chunk, &members) == Some(id(1))).count();
        assert!((2_300..2_700).contains(&mine), "a quarter of the uplink got {mine} of 10000 chunks");
    }

    #[test]
    fn unknown_uplinks_share_evenly_and_an_empty_group_has_nobody() {
        let members = [(id(1), 0), (id(2), 0)];
        let mine = (0..10_000).filter(|&chunk| responsible(chunk, &members) == Some(id(1))).count();
        assert!((4_500..5_500).contains(&mine));
        assert_eq!(responsible(1, &[]), None);
    }
}
