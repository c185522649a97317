//! Copies that a group below gives back: without them the groups above are the slowest.
//!
//! Whoever brings a chunk into a group of n copies it to n-1 members and into each group below; in a group that has none below it is copied n-1 times only.
//! So for a part of the chunks one member is left out by the bringer and asks its own contact below for the chunk as soon as that has it. With one
//! group below, every second chunk makes both equally busy. Bringer and member come to the same answer by themselves; where they do not, the chunk comes
//! twice, or is pulled as late. A group below that does not keep up is left alone.

use protocol::ws::ChildGroup;
use protocol::{GroupId, TerminalId};

use crate::config::{END_GAME_CHUNKS, KEEPS_UP};
use crate::machine::Swarm;
use crate::peer::{PeerState, Role};
use crate::pull::share;

impl Swarm {
    /// The members that get the chunk from below and not from `bringer`: one at most for each group below.
    pub(crate) fn relieving(&self, chunk: u32, bringer: TerminalId) -> Vec<TerminalId> {
        let left = self.manifest.chunk_count().saturating_sub(self.have.len());
        if self.plan.children.is_empty() || left <= END_GAME_CHUNKS || !self.order.is_in_between(chunk) {
            return Vec::new();
        }
        let children = u64::try_from(self.plan.children.len()).unwrap_or(u64::MAX);
        let draw = |group: GroupId, weight: u64| share(chunk, TerminalId::from_bytes(group.to_bytes()), weight);
        let mut relieving = Vec::new();
        for child in &self.plan.children {
            // Each of d groups below gives back d/(d+1) of a copy.
            if draw(child.group_id, children) < draw(self.plan.group_id, 1) || !self.keeps_up(child) {
                continue;
            }
            let reaches = |state: &&PeerState| state.role == Role::Member && state.is_live() && state.reaches.contains(&child.group_id);
            let members = self.peers.values().filter(reaches).map(|state| (state.id(), state.peer.up.0));
            let candidates =
                members.chain([(self.config.me, self.config.up.0)]).filter(|(member, _)| *member != bringer && !relieving.contains(member));
            let chosen = candidates.max_by(|a, b| share(!chunk, a.0, a.1).total_cmp(&share(!chunk, b.0, b.1)));
            relieving.extend(chosen.map(|(member, _)| member));
        }
        relieving
    }

    /// Whether a group below has nearly all that this terminal has.
    fn keeps_up(&self, child: &ChildGroup) -> bool {
        let contacts = child.contacts.iter().filter_map(|peer| self.peers.get(&peer.terminal_id)).filter(|state| state.is_live());
        contacts.map(|state| state.have.len()).max().is_some_and(|have| have > 0 && have + KEEPS_UP >= self.have.len())
    }

    /// A contact below that has the chunk and can be asked for it.
    pub(crate) fn contact_that_has(&self, chunk: u32) -> Option<TerminalId> {
        let length = u64::from(self.chunk_length(chunk));
        let is_contact = |state: &&PeerState| matches!(state.role, Role::Child(_)) && self.lost.may_send(state.id(), chunk, length);
        let contacts = self.peers.values().filter(is_contact).filter(|state| state.can_be_pulled(chunk));
        contacts.min_by_key(|state| state.pulls.len()).map(PeerState::id)
    }
}
