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
use crate::config::{LATE_MIN, PARTIAL_FOR, PULL_RETRY_MAX, PULL_RETRY_MIN, PULLS_PER_PEER, SCAN_MAX, TURN};
use crate::machine::Swarm;
use crate::peer::{PeerState, Role};

/// When each missing chunk was first known to be held by somebody, and how long chunks take from then to here.
#[derive(Debug)]
pub(crate) struct Pulling {
    /// Milliseconds of [`Now`] plus one; 0 where nobody is known to hold the chunk. 4 bytes per chunk.
    known_at: Vec<u32>,
    /// Chunks that nobody is about to send: whoever holds them got them before the link was up.
    unowed: ChunkSet,
    /// Chunks that a member of the group is known to hold or to have held.
    in_group: ChunkSet,
    /// Who brought each chunk into the group and owes everybody a copy, by its place among [`Pulling::bringers`]; one byte per chunk.
    brought_by: Vec<u8>,
    bringers: Vec<TerminalId>,
    /// Of how many chunks each of them owes this terminal a copy.
    owing: Vec<u32>,
    /// Smoothed time from the first announcement to the arrival.
    arrival: Now,
    cursor: u32,
    /// Chunks that come from a contact below and not from who brought them.
    from_below: ChunkSet,
}

/// No place among the bringers.
const NOBODY: u8 = u8::MAX;

/// The place of a terminal in the list, in which it is put if there is room: members of groups change seldom, and there are sixteen of them.
fn place_of(bringers: &mut Vec<TerminalId>, terminal: TerminalId) -> u8 {
    let found = bringers.iter().position(|bringer| *bringer == terminal).unwrap_or(bringers.len());
    match u8::try_from(found) {
        Ok(place) if place < NOBODY => {
            if found == bringers.len() {
                bringers.push(terminal);
            }
            place
        }
        Ok(_) | Err(_) => NOBODY,
    }
}

impl Pulling {
    pub(crate) fn new(chunks: u32) -> Self {
        Self {
            known_at: vec![0; chunks as usize],
            unowed: ChunkSet::default(),
            in_group: ChunkSet::default(),
            brought_by: vec![NOBODY; chunks as usize],
            bringers: Vec::new(),
            owing: Vec::new(),
            arrival: Now::ZERO,
            cursor: 0,
            from_below: ChunkSet::default(),
        }
    }

    /// A peer was found to hold a chunk. `owed`: it was announced as news, so whoever brought it into the group is copying it on. Answers whether this
    /// one has just brought it.
    pub(crate) fn known(&mut self, chunk: u32, by: TerminalId, by_member: bool, owed: bool, now: Now) -> bool {
        let Some(at) = self.known_at.get_mut(chunk as usize) else { return false };
        let news_for_group = by_member && self.in_group.insert(chunk);
        if news_for_group && owed {
            let place = place_of(&mut self.bringers, by);
            self.brought_by[chunk as usize] = place;
            self.owing.resize(self.bringers.len(), 0);
            if let Some(owing) = self.owing.get_mut(usize::from(place)) {
                *owing += 1;
            }
        }
        if *at == 0 || news_for_group {
            *at = u32::try_from(now.as_millis()).unwrap_or(u32::MAX - 1).saturating_add(1);
            self.unowed.remove(chunk);
        }
        // A member that had it before the link was up owes nothing, whoever else announces it; neither does an earlier group, unless a copy is
        // about to come from within.
        if !owed && (by_member || !self.in_group.contains(chunk)) {
            self.unowed.insert(chunk);
        }
        news_for_group && owed
    }

    /// The chunk is to be asked of a contact below, once. If it does not come from there it is pulled like any other that is late.
    pub(crate) fn comes_from_below(&mut self, chunk: u32) {
        self.from_below.insert(chunk);
    }

    /// These are held or leased by somebody in the group: when they are announced they need no more waiting.
    pub(crate) fn expect_soon(&mut self, chunks: &[u32]) {
        for &chunk in chunks {
            self.unowed.insert(chunk);
        }
    }

    /// A chunk is here. Only copies that came by themselves tell how long copies take.
    pub(crate) fn arrived(&mut self, chunk: u32, pulled: bool, now: Now) {
        self.from_below.remove(chunk);
        let place = self.brought_by.get_mut(chunk as usize).map(|place| std::mem::replace(place, NOBODY));
        if let Some(owing) = place.and_then(|place| self.owing.get_mut(usize::from(place))) {
            *owing -= 1;
        }
        if let Some(since) = self.known_since(chunk).filter(|_| !pulled && !self.unowed.contains(chunk)) {
            self.arrival = (self.arrival * 7 + now.saturating_sub(since)) / 8;
        }
    }

    /// Who owes this terminal a copy of the chunk, as far as it is known.
    pub(crate) fn bringer(&self, chunk: u32) -> Option<TerminalId> {
        let place = *self.brought_by.get(chunk as usize)?;
        self.bringers.get(usize::from(place)).copied()
    }

    /// Whether a terminal owes this one a copy.
    pub(crate) fn is_owing(&self, terminal: TerminalId) -> bool {
        self.bringers.iter().position(|bringer| *bringer == terminal).is_some_and(|place| self.owing[place] > 0)
    }

    fn owing(&self) -> impl Iterator<Item = TerminalId> + '_ {
        self.bringers.iter().zip(&self.owing).filter(|(_, owing)| **owing > 0).map(|(bringer, _)| *bringer)
    }

    /// Whether a terminal has brought anything into the group while it was linked.
    pub(crate) fn has_brought(&self, terminal: TerminalId) -> bool {
        self.bringers.contains(&terminal)
    }

    /// Whether somebody in the group holds the chunk, or did.
    pub(crate) fn is_in_group(&self, chunk: u32) -> bool {
        self.in_group.contains(chunk)
    }

    pub(crate) fn known_since(&self, chunk: u32) -> Option<Now> {
        let at = *self.known_at.get(chunk as usize)?;
        (at > 0).then(|| Now::from_millis(u64::from(at - 1)))
    }

    /// How long a copy may be on its way before it counts as late: never so short that slow but working relays are doubled.
    fn late_after(&self) -> Now {
        LATE_MIN.max(self.arrival * 3).min(LATE_MIN * 4)
    }
}

/// Who is before `me` in the line of those who may bring `chunk` into the group; who has nobody before it is responsible. Each of `members` (terminal,
/// uplink) is first for a share of the chunks in proportion to its uplink (weighted rendezvous hashing, Schindelhauer and Schomaker 2005): when the
/// others see another set of live members, only the chunks of the ones in question change hands.
pub(crate) fn ahead_in_line(chunk: u32, me: TerminalId, members: &[(TerminalId, u64)]) -> impl Iterator<Item = TerminalId> {
    let score = move |id: TerminalId, up: u64| share(chunk, id, up);
    let mine = members.iter().find(|(id, _)| *id == me).map_or(0.0, |(id, up)| score(*id, *up));
    members.iter().filter(move |(id, up)| *id != me && score(*id, *up) > mine).map(|(id, _)| *id)
}

/// A terminal's number in the draw for a chunk: the highest wins, each with a chance in proportion to its uplink.
pub(crate) fn share(chunk: u32, id: TerminalId, up: u64) -> f64 {
    let hash = id.to_bytes().iter().fold(u64::from(chunk) ^ 0x9E37_79B9_7F4A_7C15, |hash, byte| mix(hash ^ u64::from(*byte)));
    // In the open interval (0, 1), with all the bits that a double takes.
    let point = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    up.max(1) as f64 / -point.ln()
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the input reaches every bit of the output.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

impl Swarm {
    /// Asks for what is late, as far as the peers' windows allow.
    pub(crate) fn pull(&mut self, now: Now) {
        if self.is_complete() || self.paused || now < self.opens_at() {
            return;
        }
        self.expire_pulls(now);
        let group = self.live_group();
        let mut requests: BTreeMap<TerminalId, Vec<u32>> = BTreeMap::new();
        let count = self.manifest.chunk_count();
        let usable = self.peers.values().filter(|state| state.is_live() && matches!(state.role, Role::Member | Role::Parent));
        let mut places: usize = usable.map(|state| PULLS_PER_PEER.saturating_sub(state.pulls.len())).sum();
        let (start, mut next, mut wrapped) = (self.pulling.cursor, self.pulling.cursor, false);
        for _ in 0..SCAN_MAX {
            if places == 0 {
                break;
            }
            let end = if wrapped { start } else { count };
            let Some(chunk) = self.settled.next_missing(next, end) else {
                if wrapped {
                    break;
                }
                (next, wrapped) = (0, true);
                continue;
            };
            next = chunk + 1;
            if let Some(peer) = self.pull_source(chunk, &group, now) {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.pulls.insert(chunk, now);
                    state.asked_below |= matches!(state.role, Role::Child(_));
                }
                self.pulling.from_below.remove(chunk);
                requests.entry(peer).or_default().push(chunk);
                places = places.saturating_sub(1);
            }
        }
        if requests.is_empty() {
            self.pulling.cursor = next % count.max(1);
        }
        for (peer, chunk) in self.take_over(now) {
            if let Some(state) = self.peers.get_mut(&peer) {
                state.pulls.insert(chunk, now);
            }
            requests.entry(peer).or_default().push(chunk);
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
        let from_below = self.pulling.from_below.contains(chunk);
        if from_below
            && let Some(contact) = self.contact_that_has(chunk)
            && !self.is_coming(chunk, now)
        {
            return Some(contact);
        }
        let wait = if self.pulling.unowed.contains(chunk) || self.was_taken_along(chunk) {
            Now::ZERO
        } else if from_below {
            self.pulling.late_after() + LATE_MIN
        } else {
            self.pulling.late_after()
        };
        let coming = if self.is_near_the_end() { self.is_coming_besides(chunk, now) } else { self.is_coming(chunk, now) };
        if waited < wait || coming {
            return None;
        }
        let most_promising = |role: Role| {
            let may_send = |state: &PeerState| self.lost.may_send(state.id(), chunk, u64::from(self.chunk_length(chunk)));
            let is_holder = |state: &&PeerState| state.role == role && state.can_be_pulled(chunk) && !state.pulls.contains_key(&chunk);
            let holders = self.peers.values().filter(is_holder).filter(|state| may_send(state));
            holders.min_by_key(|state| (state.unanswered, state.pulls.len())).map(|state| state.id())
        };
        most_promising(Role::Member).or_else(|| {
            let source = most_promising(Role::Parent)?;
            // Whoever is before this terminal in line has its turn as long as anything new comes to it.
            let since = now.saturating_sub(waited) + wait;
            let news = |member: TerminalId| self.peers.get(&member).map_or(Now::ZERO, |state| state.news_at);
            let my_turn = ahead_in_line(chunk, self.config.me, group).all(|member| now >= news(member).max(since) + TURN);
            (my_turn && (!self.has_live_holder(chunk) || waited >= wait + LATE_MIN)).then_some(source)
        })
    }

    /// Whether a missing chunk was brought into the group by somebody who is gone: the copy that is owed does not come.
    pub(crate) fn was_taken_along(&self, chunk: u32) -> bool {
        self.pulling.bringer(chunk).is_some_and(|bringer| self.is_gone(bringer))
    }

    /// Whether anything may have been taken along.
    pub(crate) fn has_lost_a_bringer(&self) -> bool {
        self.pulling.owing().any(|bringer| self.is_gone(bringer))
    }

    fn is_gone(&self, peer: TerminalId) -> bool {
        !self.peers.get(&peer).is_some_and(PeerState::is_live)
    }

    pub(crate) fn is_coming(&self, chunk: u32, now: Now) -> bool {
        self.is_coming_besides(chunk, now) || self.peers.values().any(|state| state.pulls.contains_key(&chunk))
    }

    /// Whether it comes in another way than by asking its bringer, who owes a copy anyway: if the bringer is slow, whoever has got its copy can be asked too.
    pub(crate) fn is_coming_besides(&self, chunk: u32, now: Now) -> bool {
        let bringer = self.pulling.bringer(chunk);
        let arriving = |state: &PeerState| {
            state.is_live() && now < state.frame_at + PARTIAL_FOR && state.partial.as_ref().is_some_and(|partial| partial.chunk == chunk)
        };
        let asked = |state: &PeerState| state.pulls.contains_key(&chunk) && bringer != Some(state.id());
        self.pending.contains_key(&chunk) || self.fetching.holds(chunk) || self.peers.values().any(|state| asked(state) || arriving(state))
    }

    /// Whether a live member of the group has the chunk.
    pub(crate) fn has_live_holder(&self, chunk: u32) -> bool {
        self.peers.values().any(|state| state.role == Role::Member && state.is_live() && state.have.contains(chunk))
    }

    /// Whether this terminal is the one of its group that is responsible for the chunk.
    pub(crate) fn is_first_in_line(&self, chunk: u32) -> bool {
        ahead_in_line(chunk, self.config.me, &self.live_group()).next().is_none()
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
        let patience = PULL_RETRY_MIN.max(self.pulling.arrival * 4).min(PULL_RETRY_MAX);
        for state in self.peers.values_mut() {
            let asked = state.pulls.len();
            // A link is in order: a peer that sends something will come to what was asked of it. Asking another one too would send it twice.
            let patience = if now < state.frame_at + PULL_RETRY_MIN { PULL_RETRY_MAX } else { patience };
            state.pulls.retain(|_, asked_at| now < *asked_at + patience);
            state.unanswered = state.unanswered.saturating_add(u32::try_from(asked - state.pulls.len()).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> TerminalId {
        TerminalId::from_bytes([byte; 16])
    }

    fn first_for(me: TerminalId, members: &[(TerminalId, u64)]) -> usize {
        (0..10_000).filter(|&chunk| ahead_in_line(chunk, me, members).next().is_none()).count()
    }

    #[test]
    fn each_member_is_first_in_line_for_a_share_that_follows_its_uplink() {
        let members = [(id(1), 10), (id(2), 30), (id(3), 0)];
        let shares: Vec<usize> = members.iter().map(|(member, _)| first_for(*member, &members)).collect();
        assert!((2_000..2_800).contains(&shares[0]), "{shares:?}");
        assert_eq!(shares.iter().sum::<usize>(), 10_000, "exactly one is first");
        let even = [(id(1), 0), (id(2), 0)];
        assert!((4_700..5_300).contains(&first_for(id(1), &even)));
    }

    #[test]
    fn when_a_member_is_lost_from_sight_the_others_keep_their_chunks() {
        let (all, fewer) = ([(id(1), 5), (id(2), 5), (id(3), 5)], [(id(1), 5), (id(2), 5)]);
        assert!(
            (0..1_000)
                .filter(|&chunk| ahead_in_line(chunk, id(1), &all).next().is_none())
                .all(|chunk| ahead_in_line(chunk, id(1), &fewer).next().is_none())
        );
    }
}
