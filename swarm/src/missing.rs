//! Asking for chunks that nobody here has any more: a relay fetched them from the origin, died, and took them along. A later group may have them; else the
//! server is asked.
//!
//! What was never given to anybody must not be asked for, however slow the origin is. The origin's chunks are given out in an order that is known
//! (`protocol::giving`), so a chunk is behind when later ones have come into the group for a while, or when whoever announced it is gone and nobody else has. If nothing at all comes any more, the order says nothing, and every missing chunk is.

use std::collections::{BTreeMap, VecDeque};

use protocol::TerminalId;
use protocol::frame::Frame;

use crate::Now;
use crate::action::Action;
use crate::config::{MISSING_MAX, REPEAT_EVERY, SCAN_MAX, STALLED_AFTER};
use crate::machine::Swarm;
use crate::peer::{PeerState, Role};
use crate::pull::ahead_in_line;

/// After this long everybody asks, not only the member that is first in line: that one may not see what the others see.
const EVERYBODY_AFTER: Now = STALLED_AFTER.saturating_mul(3);

/// How often it is looked, and how exactly it is known when a chunk was passed.
const LOOK_EVERY: Now = Now::from_millis(50);

/// How far the chunks that were given out have come, and when they had come so far: 120 marks for the last six seconds at most.
#[derive(Debug, Default)]
pub(crate) struct Frontier {
    reached: u32,
    marks: VecDeque<(Now, u32)>,
}

impl Frontier {
    /// The chunk that is given at this place came into the group just now.
    fn came(&mut self, place: u32) {
        self.reached = self.reached.max(place.saturating_add(1));
    }

    fn mark(&mut self, now: Now) {
        if self.marks.back().is_none_or(|(at, reached)| *reached < self.reached && *at + LOOK_EVERY <= now) {
            self.marks.push_back((now, self.reached));
        }
        // Of the marks that are older than any question one is enough.
        while self.marks.get(1).is_some_and(|(at, _)| *at + EVERYBODY_AFTER <= now) {
            self.marks.pop_front();
        }
    }

    /// Chunks that are given before this place have been passed by later ones for `age` at least.
    fn behind_for(&self, age: Now, now: Now) -> u32 {
        self.marks.iter().rev().find(|(at, _)| *at + age <= now).map_or(0, |(_, reached)| *reached)
    }
}

/// What was asked of the server, and when it may be asked again.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    frontier: Frontier,
    due: Now,
    cursor: u32,
    refused: bool,
}

impl Asking {
    /// The chunk of this place came from the origin, or was copied here by whoever brought it into the group: those before it were given out as well.
    pub(crate) fn came(&mut self, place: u32) {
        self.frontier.came(place);
    }

    /// The server gives what it was asked for.
    pub(crate) fn granted(&mut self) {
        self.refused = false;
    }

    /// The server says that somebody has it, or will have it: it is asked less often.
    pub(crate) fn refused(&mut self) {
        self.refused = true;
    }

    fn pause(&self) -> Now {
        REPEAT_EVERY * if self.refused { 4 } else { 2 }
    }
}

impl Swarm {
    pub(crate) fn ask_server(&mut self, group: &[(TerminalId, u64)], now: Now) {
        self.asking.frontier.mark(now);
        if now < self.asking.due {
            return;
        }
        let stalled_for = now.saturating_sub(self.progressed_at.max(self.opens_at()));
        let stalled = stalled_for >= STALLED_AFTER && self.fetching.len() == 0;
        let behind = self.asking.frontier.behind_for(STALLED_AFTER, now);
        let long_behind = if stalled && stalled_for >= EVERYBODY_AFTER {
            self.manifest.chunk_count()
        } else {
            self.asking.frontier.behind_for(EVERYBODY_AFTER, now)
        };
        let limit = if stalled || self.has_lost_a_bringer() { self.manifest.chunk_count() } else { self.bound_of_given(behind) };
        let is_lost = |swarm: &Self, chunk: u32| {
            let place = swarm.order.place(chunk);
            let anybody_asks = place < long_behind || ahead_in_line(chunk, swarm.config.me, group).next().is_none();
            let given_out = stalled || place < behind || swarm.was_taken_along(chunk);
            given_out && anybody_asks && !swarm.is_coming(chunk, now) && (stalled || !swarm.is_offered(chunk))
        };
        let (start, mut next, mut wrapped) = (self.asking.cursor.min(limit), self.asking.cursor.min(limit), false);
        let (mut chunks, mut below) = (Vec::new(), BTreeMap::<TerminalId, Vec<u32>>::new());
        for _ in 0..SCAN_MAX {
            if chunks.len() >= MISSING_MAX {
                break;
            }
            match self.settled.next_missing(next, if wrapped { start } else { limit }) {
                Some(chunk) => {
                    next = chunk + 1;
                    if is_lost(self, chunk) {
                        match self.ask_below(chunk, now) {
                            Some(peer) => below.entry(peer).or_default().push(chunk),
                            None => chunks.push(chunk),
                        }
                    }
                }
                None if wrapped => break,
                None => (next, wrapped) = (0, true),
            }
        }
        self.asking.cursor = next;
        self.asking.due = now + if chunks.is_empty() { LOOK_EVERY } else { self.asking.pause() };
        let swarm_id = self.plan.swarm_id;
        for (peer, chunks) in below {
            self.actions.push_back(Action::Send { peer, frame: Frame::Request { swarm_id, chunks } });
        }
        if !chunks.is_empty() {
            chunks.sort_unstable();
            self.actions.push_back(Action::Missing(chunks));
        }
    }

    /// What is missing of all that is given before this place is below this.
    fn bound_of_given(&self, place: u32) -> u32 {
        let first = self.order.first().iter().rev().find(|chunk| self.order.place(**chunk) < place && !self.settled.contains(**chunk));
        self.order.bound(place).max(first.map_or(0, |chunk| chunk + 1))
    }

    /// Notes that a chunk is asked of a later group, if a member of one has it and nobody else: whoever brought it here and passed it on is gone. That
    /// costs the origin nothing. Answers whom to ask.
    fn ask_below(&mut self, chunk: u32, now: Now) -> Option<TerminalId> {
        if self.is_offered(chunk) {
            return None;
        }
        let length = u64::from(self.chunk_length(chunk));
        let is_below = |role: Role| match role {
            Role::Child(_) | Role::Served => true,
            Role::Member | Role::Parent => false,
        };
        let holders = self.peers.values().filter(|state| is_below(state.role) && state.can_be_pulled(chunk));
        let holders = holders.filter(|state| self.lost.may_send(state.id(), chunk, length));
        let peer = holders.min_by_key(|state| (state.unanswered, state.pulls.len())).map(PeerState::id)?;
        let state = self.peers.get_mut(&peer)?;
        state.asked_below = true;
        state.pulls.insert(chunk, now);
        Some(peer)
    }

    /// Whether a linked terminal that this one pulls from has the chunk.
    fn is_offered(&self, chunk: u32) -> bool {
        let feeds = |role: Role| match role {
            Role::Member | Role::Parent => true,
            Role::Child(_) | Role::Served => false,
        };
        self.peers.values().any(|state| feeds(state.role) && state.is_live() && state.have.contains(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Now {
        Now::from_secs(seconds)
    }

    #[test]
    fn a_chunk_is_behind_once_later_ones_have_been_here_for_a_while() {
        let mut frontier = Frontier::default();
        frontier.mark(seconds(1));
        assert_eq!(frontier.behind_for(seconds(0), seconds(1)), 0, "nothing has come");
        frontier.came(9);
        frontier.mark(seconds(2));
        frontier.came(4);
        frontier.came(19);
        frontier.mark(seconds(3));
        assert_eq!(frontier.behind_for(seconds(2), seconds(3)), 0);
        assert_eq!(frontier.behind_for(seconds(2), seconds(4)), 10);
        assert_eq!(frontier.behind_for(seconds(2), seconds(5)), 20);
        assert_eq!(frontier.behind_for(seconds(2), seconds(500)), 20, "however long nothing more comes");
    }

    #[test]
    fn old_marks_are_dropped_and_the_youngest_of_them_is_kept() {
        let mut frontier = Frontier::default();
        for chunk in 0..10_000 {
            frontier.came(chunk);
            frontier.mark(Now::from_millis(u64::from(chunk) * 50));
        }
        assert!(frontier.marks.len() <= 122, "{}", frontier.marks.len());
        assert_eq!(frontier.behind_for(EVERYBODY_AFTER, Now::from_millis(9_999 * 50)), 10_000 - 120);
    }
}
