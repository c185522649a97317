//! The copies that a terminal owes as the one that brought a chunk into its group (b29).

use std::collections::BTreeSet;

use protocol::ws::ChunkNotice;
use protocol::{TerminalId, TimestampMs};

use crate::Now;
use crate::below::{Below, is_handed};
use crate::config::KEPT_WHILE_SILENT;
use crate::machine::Swarm;
use crate::outbox::Owed;
use crate::peer::{PeerState, Role};
use crate::pull::share;

/// Copies of one chunk that this terminal owes, as the one that brought it into its group or because that one handed them over.
#[derive(Debug)]
pub(crate) struct Relaying {
    pub(crate) received_at: TimestampMs,
    pub(crate) owed: Owed,
    pub(crate) remaining: BTreeSet<TerminalId>,
    /// The server waits to hear when the copies are done.
    pub(crate) leased: bool,
    /// Over whom the chunk goes into the groups below.
    pub(crate) below: Below,
    /// The member that brought it into the group and handed the copies below over; nobody if this terminal brought it.
    pub(crate) handed_by: Option<TerminalId>,
}

impl Swarm {
    /// Queues the copies that this terminal owes as the one that brought `chunk` into its group (b29); without `group` those of groups below only.
    pub(crate) fn relay(&mut self, chunk: u32, hop: u8, group: bool, leased: bool, now: Now) {
        let length = self.chunk_length(chunk);
        let owed = Owed { chunk, length, first_copy: false, hop: hop.saturating_add(1) };
        let mut remaining = BTreeSet::new();
        let below = self.ways_below(chunk, group, now);
        // One member gets it at once, a fast one more often: if this terminal is late with the rest in the end, somebody else can help.
        let handed = below.values().any(is_handed);
        let goes_below = group && !handed && !below.is_empty();
        let relieving = if goes_below { self.relieving(chunk, self.config.me) } else { Vec::new() };
        let is_member = |state: &&PeerState| state.role == Role::Member && state.is_live() && !relieving.contains(&state.id());
        let members = self.peers.values().filter(is_member);
        let seed = members.max_by(|a, b| share(chunk, a.id(), a.peer.up.0).total_cmp(&share(chunk, b.id(), b.peer.up.0)));
        let seed = seed.filter(|_| !handed).map(PeerState::id);
        let wants = |state: &&mut PeerState| {
            let is_owed = group && state.role == Role::Member && !state.have.contains(chunk) && !relieving.contains(&state.id());
            is_owed && state.linked && !state.banned
        };
        for state in self.peers.values_mut().filter(wants) {
            // A member that is silent for the moment gets its copy when it is heard again; only the others are waited for.
            let moving = state.is_moving(now);
            if !moving && state.out.load() >= KEPT_WHILE_SILENT {
                continue;
            }
            let queued = if seed == Some(state.id()) { state.out.push_urgent(owed) } else { state.out.push(owed) };
            if queued && moving {
                remaining.insert(state.id());
            }
        }
        remaining.extend(self.send_below(owed, &below));
        let received_at = self.server_time(now);
        if leased {
            self.notices.push(ChunkNotice { chunk, received_at, copies_done_at: None });
        }
        self.relaying.insert(chunk, Relaying { received_at, owed, remaining, leased, below, handed_by: None });
        self.finish_relay(chunk, now);
    }

    /// `peer` has `chunk`: no copy is owed to it any more.
    pub(crate) fn copy_done(&mut self, peer: TerminalId, chunk: u32, now: Now) {
        if self.relaying.get_mut(&chunk).is_some_and(|relaying| relaying.remaining.remove(&peer)) {
            self.finish_relay(chunk, now);
        }
    }

    pub(crate) fn finish_relay(&mut self, chunk: u32, now: Now) {
        if self.relaying.get(&chunk).is_some_and(|relaying| relaying.remaining.is_empty())
            && let Some(relaying) = self.relaying.remove(&chunk)
        {
            if relaying.leased {
                let copies_done_at = Some(self.server_time(now));
                self.notices.push(ChunkNotice { chunk, received_at: relaying.received_at, copies_done_at });
            }
            self.update_credits(now);
        }
    }

    /// Drops what is owed to peers that are no longer linked: they pull it when they come back. What was to go on over them goes another way.
    pub(crate) fn settle_relays(&mut self, now: Now) {
        self.reroute(now);
        let gone = |id: &TerminalId| !self.peers.get(id).is_some_and(|state| state.linked && !state.banned);
        let mut done = Vec::new();
        for (&chunk, relaying) in &mut self.relaying {
            relaying.remaining.retain(|id| !gone(id));
            if relaying.remaining.is_empty() {
                done.push(chunk);
            }
        }
        for chunk in done {
            self.finish_relay(chunk, now);
        }
    }
}
