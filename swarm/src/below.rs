//! Copies into the groups below (b29, b31): who brings a chunk there.
//!
//! Flow: a terminal that brought a chunk into its group sends one copy to a contact in each group below. Where its own contact is gone, it names another
//! member's contact as a *destination* in the first frame of that member's copy, and the member copies the chunk on. Members tell each other which groups
//! below they reach: what is handed to one that reaches nobody there would not get there. A member keeps what comes without a destination. Nobody follows a destination that is no contact of its own plan, so a frame can cause copies only where the plan has them, and each chunk
//! once: when it is new here.

use std::collections::{BTreeMap, BTreeSet};

use protocol::frame::{DESTINATIONS_MAX, Frame};
use protocol::ws::{ChildGroup, Peer, Way};
use protocol::{GroupId, TerminalId};

use crate::Now;
use crate::action::Action;
use crate::config::HANDED_MAX;
use crate::machine::{Pending, Swarm};
use crate::outbox::Owed;
use crate::peer::{PeerState, Role};
use crate::relay::Relaying;

/// Per group below, over whom a chunk is on its way there. Where the member is the contact itself, it goes there directly.
pub(crate) type Below = BTreeMap<GroupId, Way>;

fn directly(contact: TerminalId) -> Way {
    Way { member: contact, contact }
}

pub(crate) fn is_handed(way: &Way) -> bool {
    way.member != way.contact
}

impl Swarm {
    /// The ways into all groups below that lack the chunk. Only `group` copies can be handed over: else the members get the chunk from the origin.
    pub(crate) fn ways_below(&self, chunk: u32, group: bool, now: Now) -> Below {
        self.plan.children.iter().filter_map(|child| Some((child.group_id, self.way_into(child, chunk, group, now)?))).collect()
    }

    /// The contact with the least unacknowledged bytes; where none is live, the least loaded member that can take the chunk there.
    fn way_into(&self, child: &ChildGroup, chunk: u32, group: bool, now: Now) -> Option<Way> {
        let state = |id: &TerminalId| self.peers.get(id);
        if child.contacts.iter().any(|peer| state(&peer.terminal_id).is_some_and(|state| state.have.contains(chunk))) {
            return None;
        }
        if let Some(contact) = self.live_contact(child) {
            return Some(directly(contact.id()));
        }
        let takes = |state: &PeerState| {
            let reaches = state.role == Role::Member && state.reaches.contains(&child.group_id);
            reaches && state.is_moving(now) && !state.have.contains(chunk) && !state.out.awaits(chunk)
        };
        let ways = child.ways.iter().filter(|way| group && is_handed(way) && state(&way.member).is_some_and(takes));
        ways.min_by_key(|way| state(&way.member).map_or(0, |state| state.out.load())).copied()
    }

    fn live_contact(&self, child: &ChildGroup) -> Option<&PeerState> {
        let live = child.contacts.iter().filter_map(|peer| self.peers.get(&peer.terminal_id)).filter(|state| state.is_live());
        live.min_by_key(|state| state.out.load())
    }

    /// Tells the members which groups below this terminal reaches, if that is news. In a group without groups below there is nothing to tell.
    pub(crate) fn tell_reach(&mut self) {
        if self.plan.children.is_empty() {
            return;
        }
        let reach: BTreeSet<GroupId> =
            self.plan.children.iter().filter(|child| self.live_contact(child).is_some()).map(|child| child.group_id).collect();
        if self.told_reach.as_ref() != Some(&reach) {
            self.told_reach = Some(reach);
            let members: Vec<TerminalId> =
                self.peers.values().filter(|state| state.linked && state.role == Role::Member).map(PeerState::id).collect();
            members.into_iter().for_each(|member| self.tell_reach_to(member));
        }
    }

    pub(crate) fn tell_reach_to(&mut self, peer: TerminalId) {
        let Some(reach) = &self.told_reach else { return };
        let groups = reach.iter().copied().collect();
        self.actions.push_back(Action::Send { peer, frame: Frame::Reach { swarm_id: self.plan.swarm_id, groups } });
    }

    /// Queues what goes along these ways, before the rest: a group waits for it as a whole. Answers to whom.
    pub(crate) fn send_below(&mut self, owed: Owed, below: &Below) -> BTreeSet<TerminalId> {
        let mut queued = BTreeSet::new();
        for way in below.values() {
            let Some(state) = self.peers.get_mut(&way.member) else { continue };
            state.out.cancel(owed.chunk);
            if state.out.push_urgent(Owed { first_copy: !is_handed(way), ..owed }) {
                queued.insert(way.member);
            }
        }
        queued
    }

    /// The destinations to name to a member in the first frame of its copy.
    pub(crate) fn handed_to(&self, member: TerminalId, chunk: u32) -> Vec<TerminalId> {
        let Some(relaying) = self.relaying.get(&chunk) else { return Vec::new() };
        let handed = relaying.below.values().filter(|way| is_handed(way) && way.member == member);
        handed.map(|way| way.contact).take(DESTINATIONS_MAX).collect()
    }

    /// Copies a chunk on to the destinations that a member named: one contact of each group below, the named one if it is live. What that member has handed
    /// over beyond [`HANDED_MAX`] is kept and not copied on.
    pub(crate) fn copy_on(&mut self, chunk: u32, pending: &Pending, now: Now) {
        let by_the_same = self.relaying.values().filter(|relaying| relaying.handed_by == Some(pending.source));
        if by_the_same.count() >= HANDED_MAX {
            return;
        }
        let is_known = |peer: &Peer| self.peers.get(&peer.terminal_id).is_some_and(|state| state.have.contains(chunk));
        let mut below = Below::new();
        for &destination in &pending.destinations {
            let is_named = |peer: &Peer| peer.terminal_id == destination;
            let Some(child) = self.plan.children.iter().find(|child| child.contacts.iter().any(is_named)) else { continue };
            if child.contacts.iter().any(is_known) {
                continue;
            }
            let named = self.peers.get(&destination).filter(|state| state.is_live());
            if let Some(contact) = named.or_else(|| self.live_contact(child)) {
                below.entry(child.group_id).or_insert(directly(contact.id()));
            }
        }
        let owed = Owed { chunk, length: self.chunk_length(chunk), first_copy: false, hop: pending.hop.saturating_add(1) };
        let remaining = self.send_below(owed, &below);
        let received_at = self.server_time(now);
        let relaying = Relaying { received_at, owed, remaining, leased: false, below, handed_by: Some(pending.source) };
        self.relaying.insert(chunk, relaying);
        self.finish_relay(chunk, now);
    }

    /// Finds other ways for copies into groups below that were to go over a terminal which is gone.
    pub(crate) fn reroute(&mut self, now: Now) {
        let mut found = Vec::new();
        for (&chunk, relaying) in &self.relaying {
            let is_lost =
                |way: &Way| relaying.remaining.contains(&way.member) && !self.peers.get(&way.member).is_some_and(PeerState::is_live);
            let lost: Below = relaying.below.iter().filter(|(_, way)| is_lost(way)).map(|(&group, &way)| (group, way)).collect();
            if !lost.is_empty() {
                let mut ways = self.ways_below(chunk, relaying.handed_by.is_none(), now);
                ways.retain(|group, way| lost.get(group).is_some_and(|lost| lost != way));
                if !ways.is_empty() {
                    found.push((relaying.owed, lost, ways));
                }
            }
        }
        for (owed, lost, ways) in found {
            // A member is still owed its own copy; a contact that comes back has the chunk from its group by then.
            let contacts = ways.keys().filter_map(|group| lost.get(group)).filter(|way| !is_handed(way)).map(|way| way.contact);
            let mut given_up = Vec::new();
            for contact in contacts {
                if let Some(state) = self.peers.get_mut(&contact) {
                    state.out.cancel(owed.chunk);
                    given_up.push(contact);
                }
            }
            let queued = self.send_below(owed, &ways);
            if let Some(relaying) = self.relaying.get_mut(&owed.chunk) {
                relaying.remaining.retain(|peer| !given_up.contains(peer));
                relaying.remaining.extend(queued);
                relaying.below.extend(ways);
            }
        }
    }
}

#[cfg(test)]
mod tests;
