//! The end game: nothing new comes into the group any more, and what is left are copies that slow relays still owe. Members that owe this terminal
//! nothing are done with their own, so they are asked for what it would wait for longest. That needs no bytes of the origin.
//!
//! A relay copies its chunks one after the other to everybody. The one that it brought last comes last, so that is asked of somebody else first, and the
//! relay drops it from its queue when it hears that it has come. It is not asked for if the relay is about to send it.

use std::collections::{BTreeMap, BTreeSet};

use protocol::TerminalId;

use crate::Now;
use crate::config::{END_GAME_CHUNKS, ON_ITS_WAY, OVERDUE_AFTER, TAKE_OVER_PULLS, TAKE_OVER_WORTH};
use crate::machine::Swarm;
use crate::peer::{PeerState, Role};
use crate::pull::share;

/// What the relays still owe this terminal.
#[derive(Debug, Default)]
struct Left {
    /// Missing chunks with the time at which each is expected, latest first.
    expected: Vec<(Now, u32)>,
    owing: BTreeSet<TerminalId>,
}

impl Swarm {
    /// Which missing chunks to ask of whom although somebody else is to copy them here.
    pub(crate) fn take_over(&self, now: Now) -> Vec<(TerminalId, u32)> {
        let Some(left) = self.left_at_the_end(now) else { return Vec::new() };
        let mut asked: BTreeMap<TerminalId, usize> = BTreeMap::new();
        let mut chosen = Vec::new();
        for (expected, chunk) in left.expected {
            let length = u64::from(self.chunk_length(chunk));
            let idle = self.peers.values().filter(|state| {
                let places = TAKE_OVER_PULLS.saturating_sub(state.pulls.len() + asked.get(&state.id()).copied().unwrap_or(0));
                state.role == Role::Member && places > 0 && state.can_be_pulled(chunk) && !left.owing.contains(&state.id())
            });
            let idle = idle.filter(|state| self.lost.may_send(state.id(), chunk, length));
            // Everybody looks for help at the same time, so each finds another helper first, a fast one more often.
            let salt = chunk ^ u32::from_le_bytes(self.config.me.to_bytes()[12..].try_into().unwrap_or_default());
            let Some(helper) = idle.max_by(|a, b| share(salt, a.id(), a.peer.up.0).total_cmp(&share(salt, b.id(), b.peer.up.0))) else {
                continue;
            };
            // It may be helping others as well.
            let takes = Now::from_micros((length * 4 * 8_000_000).checked_div(helper.peer.up.0).unwrap_or(0));
            if expected > now + takes + TAKE_OVER_WORTH {
                *asked.entry(helper.id()).or_default() += 1;
                chosen.push((helper.id(), chunk));
            }
        }
        chosen
    }

    /// Whether so little is missing that each chunk can be looked at.
    pub(crate) fn is_near_the_end(&self) -> bool {
        self.manifest.chunk_count().saturating_sub(self.settled.len()) <= END_GAME_CHUNKS
    }

    /// `None` while something new may come into the group, and where that has no end in sight.
    fn left_at_the_end(&self, now: Now) -> Option<Left> {
        let count = self.manifest.chunk_count();
        if !self.is_near_the_end() {
            return None;
        }
        let mut by_bringer: BTreeMap<TerminalId, Vec<(Now, u32)>> = BTreeMap::new();
        let mut next = 0;
        while let Some(chunk) = self.settled.next_missing(next, count) {
            next = chunk + 1;
            if self.pending.contains_key(&chunk) || self.fetching.holds(chunk) {
                continue;
            }
            if !self.pulling.is_in_group(chunk) {
                return None;
            }
            if let (Some(bringer), Some(since)) = (self.pulling.bringer(chunk), self.pulling.known_since(chunk)) {
                by_bringer.entry(bringer).or_default().push((since, chunk));
            }
        }
        let members = self.peers.values().filter(|state| state.role == Role::Member && state.is_live());
        let members: Vec<TerminalId> = members.map(PeerState::id).collect();
        let mut left = Left { owing: by_bringer.keys().copied().collect(), ..Left::default() };
        for (bringer, mut chunks) in by_bringer {
            let up = self.peers.get(&bringer).map_or(0, |state| state.peer.up.0);
            chunks.sort_unstable();
            let (mut done, mut due) = (Now::ZERO, Now::ZERO);
            for (since, chunk) in chunks {
                // One for this terminal, and one for each that lacks it as well. What was sent a moment ago has not been told yet, all else is to be sent.
                let lacks = |id: &TerminalId| self.peers.get(id).is_some_and(|state| !state.have.contains(chunk));
                let copies = 1 + members.iter().filter(|member| **member != bringer && lacks(member)).count();
                let bytes = u64::from(self.chunk_length(chunk)) * u64::try_from(copies).unwrap_or(u64::MAX);
                let takes = Now::from_micros((bytes * 8_000_000).checked_div(up).unwrap_or(0));
                due = due.max(since) + takes;
                done = done.max(since).max(now.saturating_sub(ON_ITS_WAY)) + takes;
                // A relay that is late is slower than it says: it may be late for as long again.
                let overdue = now.saturating_sub(due);
                let expected = if overdue > OVERDUE_AFTER { done.max(now + overdue) } else { done };
                if !self.is_coming_besides(chunk, now) {
                    left.expected.push((expected, chunk));
                }
            }
        }
        left.expected.sort_unstable_by(|a, b| b.cmp(a));
        Some(left)
    }
}
