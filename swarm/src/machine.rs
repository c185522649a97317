//! The state of one swarm on one terminal, the plan, links, origin and store events, and what becomes due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::bitmap::{ChunkSet, segment_count};
use protocol::frame::Frame;
use protocol::giving::GivingOrder;
use protocol::manifest::Manifest;
use protocol::ws::{ChunkNotice, Peer, Progress, SuspectReason, SwarmPlan};
use protocol::{Bytes as ByteCount, EditionId, ErrorCode, GroupId, TerminalId, TimestampMs};

use crate::Now;
use crate::action::{Action, Transmit};
use crate::config::{
    Config, DELTA_DELAY, DELTA_DELAY_AT_THE_END, DELTA_DELAY_OF_COPIES, END_GAME_CHUNKS, LAST_WORDS, RECEIPT_DELAY, REPORT_ORIGIN_CHUNKS,
};
use crate::credits::Credits;
use crate::gone::Gone;
use crate::lost::Lost;
use crate::missing::Asking;
use crate::origin::Fetching;
use crate::outbox::Owed;
use crate::peer::{PeerState, Role};
use crate::pull::Pulling;
use crate::relay::Relaying;
use crate::repeats::Repeats;
use crate::signing::Signing;

/// A chunk that was verified and stored before this run, and whose copy it was: of this terminal itself if it was taken from another edition on its
/// disk, or repeats a chunk of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub chunk: u32,
    pub source: TerminalId,
}

/// The plan and the manifest do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("the plan is about edition {planned}, the manifest about {given}")]
    OtherEdition { planned: EditionId, given: EditionId },
}

/// To whom a chunk is copied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relay {
    Nobody,
    /// Everybody in the group gets it from the origin: one member copies it to the groups below.
    Below,
    /// The group, and the groups below.
    All,
}

/// A verified chunk that is being written.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) source: TerminalId,
    pub(crate) relay: Relay,
    /// Terminals in groups below that the sender named: this terminal copies the chunk on to them (b31).
    pub(crate) destinations: Vec<TerminalId>,
    pub(crate) hop: u8,
    /// It was asked for; else it came by itself.
    pub(crate) pulled: bool,
}

/// One swarm on one terminal; see the crate's documentation for the flow.
#[derive(Debug)]
pub struct Swarm {
    pub(crate) config: Config,
    pub(crate) plan: SwarmPlan,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) order: GivingOrder,
    server_time_at_zero: TimestampMs,
    pub(crate) have: ChunkSet,
    /// What is here, or is written from what is here or comes: nobody has to send it.
    pub(crate) settled: ChunkSet,
    pub(crate) repeats: Repeats,
    /// Nothing can be written at the moment: nothing is asked for.
    pub(crate) paused: bool,
    pub(crate) pending: BTreeMap<u32, Pending>,
    pub(crate) peers: BTreeMap<TerminalId, PeerState>,
    pub(crate) fetching: Fetching,
    pub(crate) lost: Lost,
    pub(crate) asking: Asking,
    pub(crate) relaying: BTreeMap<u32, Relaying>,
    /// The groups below that this terminal told its group it reaches; `None` if members of this plan may not know.
    pub(crate) told_reach: Option<BTreeSet<GroupId>>,
    pub(crate) signing: Signing,
    pub(crate) notices: Vec<ChunkNotice>,
    /// What is to be announced, and who sent it.
    pub(crate) new_holdings: Vec<(u32, TerminalId)>,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) progress: Progress,
    pub(crate) credits: Credits,
    pub(crate) pulling: Pulling,
    pub(crate) gone: Gone,
    last_served: Option<TerminalId>,
    pub(crate) progressed_at: Now,
    pub(crate) tick_due: Now,
    pub(crate) receipts_due: Option<Now>,
    pub(crate) delta_due: Option<Now>,
    pub(crate) report_due: Now,
    pub(crate) receipts_to_server_due: Now,
    /// Chunks from the origin that the server has no receipt for yet.
    pub(crate) origin_unreported: u32,
    pub(crate) completed: bool,
}

impl Swarm {
    /// `held` is on disk and verified; `lost` was there once, and what its sources were signed for them stays.
    ///
    /// # Errors
    /// If the manifest is not the planned edition's.
    pub fn new(
        config: Config,
        plan: SwarmPlan,
        manifest: Arc<Manifest>,
        held: &[Held],
        lost: &[Held],
        server_time_at_zero: TimestampMs,
        now: Now,
    ) -> Result<Self, PlanError> {
        let mut swarm = Self::empty(config, plan, manifest, server_time_at_zero, now)?;
        let chunks = swarm.manifest.chunk_count();
        for held in held.iter().filter(|held| held.chunk < chunks) {
            if swarm.hold(held.chunk) {
                swarm.count_verified(held.chunk, held.source);
                swarm.lost.was_signed(held.source, u64::from(swarm.chunk_length(held.chunk)));
            }
        }
        for lost in lost.iter().filter(|lost| lost.chunk < chunks && !swarm.have.contains(lost.chunk)) {
            swarm.signing.add(lost.source, lost.chunk, 0);
            swarm.lost.was_signed(lost.source, u64::from(swarm.chunk_length(lost.chunk)));
            swarm.lost.insert(lost.chunk, lost.source);
        }
        swarm.complete_if_whole();
        swarm.write_repeats();
        swarm.tell_own_holdings();
        Ok(swarm)
    }

    /// For a terminal that holds every chunk already, by another delivery, and only serves them: nothing is signed for, and nothing is reported as complete.
    ///
    /// # Errors
    /// If the manifest is not the planned edition's.
    pub fn serving(
        config: Config,
        plan: SwarmPlan,
        manifest: Arc<Manifest>,
        server_time_at_zero: TimestampMs,
        now: Now,
    ) -> Result<Self, PlanError> {
        let mut swarm = Self::empty(config, plan, manifest, server_time_at_zero, now)?;
        swarm.have.extend(&(0..swarm.manifest.chunk_count()).collect());
        swarm.progress.verified = swarm.manifest.length;
        swarm.completed = true;
        Ok(swarm)
    }

    fn empty(
        config: Config,
        plan: SwarmPlan,
        manifest: Arc<Manifest>,
        server_time_at_zero: TimestampMs,
        now: Now,
    ) -> Result<Self, PlanError> {
        // What travels sealed has a manifest of its own, which the plan names by another hash.
        let given = manifest.edition_id();
        if given != plan.edition_id && plan.sealed.is_none() {
            return Err(PlanError::OtherEdition { planned: plan.edition_id, given });
        }
        let chunks = manifest.chunk_count();
        let repeats = Repeats::new(&manifest);
        let order = GivingOrder::of(manifest.chunks.iter().map(|entry| entry.length));
        let signing = Signing::of(config.me);
        let mut swarm = Self {
            config,
            plan: plan.clone(),
            manifest,
            order,
            server_time_at_zero,
            have: ChunkSet::with_chunks(chunks),
            settled: repeats.all().clone(),
            repeats,
            paused: false,
            pending: BTreeMap::new(),
            peers: BTreeMap::new(),
            fetching: Fetching::default(),
            lost: Lost::default(),
            asking: Asking::default(),
            relaying: BTreeMap::new(),
            told_reach: None,
            signing,
            notices: Vec::new(),
            new_holdings: Vec::new(),
            actions: VecDeque::new(),
            progress: Progress::default(),
            credits: Credits::default(),
            pulling: Pulling::new(chunks),
            gone: Gone::default(),
            last_served: None,
            progressed_at: now,
            tick_due: now,
            receipts_due: None,
            delta_due: None,
            report_due: now,
            receipts_to_server_due: now,
            origin_unreported: 0,
            completed: false,
        };
        swarm.adopt(plan);
        Ok(swarm)
    }

    /// Takes a newer plan over the present one; an older or equal one is ignored.
    pub fn handle_plan(&mut self, plan: SwarmPlan, now: Now) {
        if plan.epoch > self.plan.epoch && plan.swarm_id == self.plan.swarm_id {
            self.adopt(plan);
            self.settle_relays(now);
        }
    }

    fn adopt(&mut self, plan: SwarmPlan) {
        let mut roles: BTreeMap<TerminalId, (Peer, Role)> = BTreeMap::new();
        let mut add = |peers: &[Peer], role: Role| {
            for peer in peers.iter().filter(|peer| peer.terminal_id != self.config.me) {
                roles.entry(peer.terminal_id).or_insert_with(|| (peer.clone(), role));
            }
        };
        add(&plan.members, Role::Member);
        add(&plan.parents, Role::Parent);
        for child in &plan.children {
            add(&child.contacts, Role::Child(child.group_id));
        }
        add(&plan.serves, Role::Served);
        // What those who leave have signed may not have reached the server.
        let leaving = self.peers.iter().filter(|(id, _)| !roles.contains_key(id));
        let receipts: Vec<_> = leaving.flat_map(|(_, state)| state.receipts.values().cloned()).collect();
        if !receipts.is_empty() {
            self.actions.push_back(Action::SubmitReceipts(receipts));
        }
        let leaving: Vec<TerminalId> = self.peers.keys().filter(|id| !roles.contains_key(id)).copied().collect();
        for id in leaving {
            self.note_gone(id);
            self.peers.remove(&id);
        }
        for (id, (peer, role)) in roles {
            let state = self.peers.entry(id).or_insert_with(|| PeerState::new(peer.clone(), role));
            (state.peer, state.role, state.banned) = (peer, role, false);
        }
        self.plan = plan;
        self.told_reach = None;
    }

    /// Sets what the server's clock shows at [`Now`] zero.
    pub fn handle_clock(&mut self, server_time_at_zero: TimestampMs) {
        self.server_time_at_zero = server_time_at_zero;
    }

    /// The connection to the server is new: it may have missed receipts and credits.
    pub fn handle_connected(&mut self, now: Now) {
        self.signing.owe_server_everything();
        self.tell_own_holdings();
        self.credits = Credits::default();
        self.receipts_to_server_due = now;
        self.report_due = now;
        self.tick_due = now;
    }

    /// The link to a planned peer is open and both hellos were checked.
    pub fn handle_link_up(&mut self, peer: TerminalId, now: Now) {
        let swarm_id = self.plan.swarm_id;
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.reset_link();
        state.linked = true;
        state.heard_at = now;
        let is_member = state.role == Role::Member;
        self.gone.is_back(peer);
        for segment in 0..segment_count(self.manifest.chunk_count()) {
            let bitmap = Box::new(self.have.segment(segment));
            if bitmap.iter().any(|&byte| byte != 0) {
                self.actions.push_back(Action::Send { peer, frame: Frame::Have { swarm_id, segment, bitmap } });
            }
        }
        self.actions.push_back(Action::Send { peer, frame: Frame::HaveEnd { swarm_id } });
        if is_member {
            self.tell_reach_to(peer);
        }
        self.signing.owe_source_everything(peer);
        self.receipts_due.get_or_insert(now);
        self.tick_due = now;
    }

    pub fn handle_link_down(&mut self, peer: TerminalId, now: Now) {
        if !self.peers.get(&peer).is_some_and(|state| state.linked) {
            return;
        }
        self.note_gone(peer);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.reset_link();
        // What it signed last may not have reached the server: this terminal's credit must not depend on the receiver's return.
        let receipts: Vec<_> = state.receipts.values().cloned().collect();
        if !receipts.is_empty() {
            self.actions.push_back(Action::SubmitReceipts(receipts));
        }
        self.settle_relays(now);
        self.tick_due = now;
    }

    /// The server has lost sight of a peer. Its process may have ended, which its link shows later only: until something is heard of it, it is as good as
    /// silent. Nobody is told: the server knows.
    pub fn handle_peer_gone(&mut self, peer: TerminalId, now: Now) {
        if !self.peers.get(&peer).is_some_and(PeerState::is_live) {
            return;
        }
        self.note_gone(peer);
        if let Some(state) = self.peers.get_mut(&peer) {
            state.suspect = true;
            state.last_words_until = now + LAST_WORDS;
            state.pulls.clear();
        }
        self.reroute(now);
        self.tick_due = now;
    }

    /// Something, anything, arrived on the link.
    pub fn handle_heard(&mut self, peer: TerminalId, now: Now) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.heard_at = now;
            if now >= state.last_words_until && std::mem::take(&mut state.suspect) {
                self.gone.is_back(peer);
            }
        }
    }

    /// The server will not have the origin send these again.
    pub fn handle_repair_refused(&mut self, chunks: &[u32], code: ErrorCode) {
        if code != ErrorCode::BudgetSpent {
            // Somebody in the group has them or is about to: pull as soon as it is announced.
            self.pulling.expect_soon(chunks);
        }
        self.asking.refused();
    }

    /// The server lost its lease table and asks for what is held and leased.
    pub fn handle_report_holdings(&mut self, now: Now) {
        self.actions.push_back(Action::ReportHoldings { leases: self.fetching.chunks().collect() });
        self.credits = Credits::default();
        self.tick_due = now;
    }

    /// Tells the server what it cannot know from notices, because nobody sends it: the origin would give it out.
    fn tell_own_holdings(&mut self) {
        if self.plan.serves_only() {
            return;
        }
        let received = self.progress.from_origin.0 + self.progress.from_peers.0;
        if self.progress.verified.0 > received || !self.repeats.all().is_empty() {
            self.actions.push_back(Action::ReportHoldings { leases: self.fetching.chunks().collect() });
        }
    }

    /// Nothing can be written for now, or again: while `paused` nothing is asked for, neither of terminals nor of the origin. What is held is still
    /// passed on.
    pub fn handle_paused(&mut self, paused: bool, now: Now) {
        self.paused = paused;
        self.update_credits(now);
        self.tick_due = now;
    }

    /// Counts a chunk as here; `false` if it was.
    pub(crate) fn hold(&mut self, chunk: u32) -> bool {
        let new = self.have.insert(chunk);
        self.settled.insert(chunk);
        if new {
            self.repeats.arrived(chunk);
        }
        new
    }

    /// A chunk is written, and its source noted: it counts from here on.
    pub fn handle_stored(&mut self, chunk: u32, now: Now) {
        let Some(pending) = self.pending.remove(&chunk) else { return };
        self.hold(chunk);
        let source = self.lost.signed_for(chunk, pending.source);
        let unsigned = self.count_verified(chunk, source);
        self.acknowledge_again(chunk, pending.source);
        if pending.source.is_origin() || !pending.pulled {
            self.asking.came(self.order.place(chunk));
        }
        self.progressed_at = now;
        let bringer = self.pulling.bringer(chunk);
        self.pulling.arrived(chunk, pending.pulled, now);
        let swarm_id = self.plan.swarm_id;
        for (&peer, state) in &mut self.peers {
            // Who was asked for it too, or is copying it to everybody, hears at once that it need not come again.
            let may_send = state.pulls.remove(&chunk).is_some() || bringer == Some(peer);
            if may_send && peer != pending.source && state.linked {
                self.actions.push_back(Action::Send { peer, frame: Frame::HaveDelta { swarm_id, chunks: vec![chunk] } });
            }
        }
        let due = if unsigned >= crate::config::RECEIPT_BYTES { now } else { now + RECEIPT_DELAY };
        self.receipts_due = Some(self.receipts_due.map_or(due, |at| at.min(due)));
        self.new_holdings.push((chunk, pending.source));
        let leased = self.fetching.arrived(chunk);
        let relays = match pending.relay {
            Relay::Nobody => false,
            Relay::Below => !self.plan.children.is_empty() && self.is_first_in_line(chunk),
            Relay::All => true,
        };
        self.announce_within(
            if self.manifest.chunk_count() - self.have.len() <= END_GAME_CHUNKS {
                DELTA_DELAY_AT_THE_END
            } else if relays {
                DELTA_DELAY
            } else {
                DELTA_DELAY_OF_COPIES
            },
            now,
        );
        if relays {
            self.relay(chunk, pending.hop, pending.relay == Relay::All, leased.is_some(), now);
        } else if !pending.destinations.is_empty() {
            self.copy_on(chunk, &pending, now);
        } else if leased.is_some() {
            self.notices.push(ChunkNotice { chunk, received_at: self.server_time(now), copies_done_at: None });
        }
        self.complete_if_whole();
        self.origin_unreported += u32::from(pending.source.is_origin());
        if self.completed || self.origin_unreported >= REPORT_ORIGIN_CHUNKS {
            self.report_due = now;
        }
        self.write_repeats();
        self.update_credits(now);
        self.pull(now);
    }

    fn announce_within(&mut self, delay: Duration, now: Now) {
        let due = now + delay;
        self.delta_due = Some(self.delta_due.map_or(due, |at| at.min(due)));
    }

    /// Has a verified chunk written, with the source that it is signed for.
    pub(crate) fn store(&mut self, chunk: u32, sender: TerminalId, bytes: Bytes) {
        let source = self.lost.signed_for(chunk, sender);
        self.actions.push_back(Action::Store { chunk, source, bytes });
    }

    /// A verified chunk could not be written: it is as if it had not come.
    pub fn handle_store_failed(&mut self, chunk: u32, now: Now) {
        if self.pending.remove(&chunk).is_some() {
            self.handle_origin_failed(chunk, true, now);
            self.repeats.look_again(&self.have);
            self.write_repeats();
        }
    }

    pub(crate) fn count_verified(&mut self, chunk: u32, source: TerminalId) -> u64 {
        let length = u64::from(self.chunk_length(chunk));
        self.progress.verified.0 += length;
        if source != self.config.me {
            let by = if source.is_origin() { &mut self.progress.from_origin } else { &mut self.progress.from_peers };
            *by = ByteCount(by.0 + length);
        }
        self.signing.add(source, chunk, length)
    }

    pub(crate) fn complete_if_whole(&mut self) {
        if !self.completed && self.have.len() == self.manifest.chunk_count() {
            self.completed = true;
            self.actions.push_back(Action::Complete { delivery_id: self.plan.delivery_id });
        }
    }

    /// Ends the use of a peer that broke the rules, and says why.
    pub(crate) fn ban(&mut self, peer: TerminalId, reason: SuspectReason, now: Now) {
        self.note_gone(peer);
        if let Some(state) = self.peers.get_mut(&peer) {
            state.reset_link();
            state.banned = true;
            self.actions.push_back(Action::Suspect { peer, reason });
            self.actions.push_back(Action::CloseLink { peer, reason });
            self.settle_relays(now);
        }
    }

    /// Takes the next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next chunk frame for a link that can take one; it counts as sent. A chunk that was begun is finished before the next peer's turn, and what
    /// is urgent goes before the rest.
    pub fn poll_transmit(&mut self, now: Now, is_ready: &dyn Fn(TerminalId) -> bool) -> Option<Transmit> {
        if now < self.opens_at() {
            return None;
        }
        let frame_bytes = self.config.frame_bytes();
        let mut turn: Vec<TerminalId> = Vec::with_capacity(self.peers.len());
        let started = |state: &PeerState| state.out.is_sending();
        if let Some(last) = self.last_served.filter(|last| self.peers.get(last).is_some_and(started)) {
            turn.push(last);
        }
        // Each relay begins with the one after itself, so that nobody is the last one of all.
        let after = self.last_served.unwrap_or(self.config.me);
        turn.extend(self.peers.iter().filter(|(_, state)| state.out.is_urgent()).map(|(id, _)| *id));
        turn.extend(self.peers.range(after..).map(|(id, _)| *id).filter(|id| *id != after));
        turn.extend(self.peers.range(..=after).map(|(id, _)| *id));
        for peer in turn {
            let Some(state) = self.peers.get_mut(&peer).filter(|state| state.linked && !state.banned) else { continue };
            if !is_ready(peer) {
                continue;
            }
            if let Some((owed, offset, len)) = state.out.next(frame_bytes, now) {
                self.last_served = Some(peer);
                let Owed { chunk, length: _, first_copy, hop } = owed;
                let destinations = if offset == 0 { self.handed_to(peer, chunk) } else { Vec::new() };
                return Some(Transmit { peer, chunk, offset, len, first_copy, hop, destinations });
            }
        }
        None
    }

    /// The chunk that this peer is sent next, for the driver to have it at hand; something urgent may come before it.
    pub fn next_chunk_for(&self, peer: TerminalId) -> Option<u32> {
        self.peers.get(&peer)?.out.first_queued()
    }

    pub fn have(&self) -> &ChunkSet {
        &self.have
    }
    /// What is here, or is written from what is here or is yet to come.
    pub fn needs_no_sending(&self) -> &ChunkSet {
        &self.settled
    }
    pub fn is_paused(&self) -> bool {
        self.paused
    }
    pub fn is_complete(&self) -> bool {
        self.completed
    }
    pub fn plan(&self) -> &SwarmPlan {
        &self.plan
    }
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    /// Cumulative figures; the rates are the driver's to fill in.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    pub(crate) fn chunk_length(&self, chunk: u32) -> u32 {
        self.manifest.chunks.get(chunk as usize).map_or(0, |entry| entry.length)
    }
    pub(crate) fn server_time(&self, now: Now) -> TimestampMs {
        TimestampMs(self.server_time_at_zero.0.saturating_add(u64::try_from(now.as_millis()).unwrap_or(0)))
    }
    /// The start of this terminal's wave, on the driver's clock.
    pub(crate) fn opens_at(&self) -> Now {
        Now::from_millis(self.plan.opens_at.0.saturating_sub(self.server_time_at_zero.0))
    }
}
