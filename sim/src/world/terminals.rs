//! Terminals: what reaches their machines, and what their machines ask for.

use std::time::Duration;

use bytes::Bytes;
use protocol::TerminalId;
use protocol::bitmap::{ChunkSet, segment_count};
use protocol::frame::{ChunkFrame, Frame, INDICES_MAX, MESSAGE_MAX};
use protocol::receipt::Receipt;
use protocol::ws::{LIST_MAX, SwarmPlan};
use swarm::{Action, Now, Transmit};

use super::{Channel, Event, Fetched, World};
use crate::invariants::Invariant;
use crate::plan::{SWARM, timestamp};
use crate::server::Says;
use crate::terminal::PARALLEL_FETCHES;

/// How long a chunk takes to be written.
const WRITING: Duration = Duration::from_micros(300);
/// A timer that goes off this late means that the machine did nothing meanwhile: what was not heard says nothing about the peers.
const STARVED_AFTER: Duration = Duration::from_millis(150);
/// The longest that a message which is sent out of order is kept back.
const MIXED_UP_BY: Duration = Duration::from_millis(80);
/// Chunks that one message asks the server for.
const MISSING_MAX: usize = 64;

impl World {
    /// Puts off an event of a terminal that does nothing for now. `Some` if it goes on.
    pub(super) fn unless_frozen(&mut self, terminal: usize, event: Event) -> Option<Event> {
        let until = self.terminals[terminal].frozen_until;
        if until <= self.now {
            return Some(event);
        }
        self.queue.post(until, event);
        None
    }

    /// A plan has come: the machine begins with it, or takes it over.
    pub(super) fn take_plan(&mut self, terminal: usize, plan: SwarmPlan) {
        let now = self.now;
        let state = &mut self.terminals[terminal];
        match state.machine.as_mut() {
            Some(machine) => {
                if plan.epoch > machine.plan().epoch {
                    state.blocked.clear();
                }
                machine.handle_plan(plan, now);
            }
            None => {
                if !state.begin(plan, &self.content.manifest, timestamp(Now::ZERO), now) {
                    self.broken(Invariant::PlanAccepted, format!("terminal {terminal} does not take its plan"));
                }
            }
        }
        self.want_links(terminal);
        self.drive(terminal);
    }

    pub(super) fn delivered(&mut self, channel: Channel, frame: Option<Box<Frame>>) {
        let Channel { from, to, .. } = channel;
        if !self.is_up(channel) || !self.terminals[to].running {
            return;
        }
        let Some(Event::Delivered { frame, .. }) = self.unless_frozen(to, Event::Delivered { channel, frame }) else { return };
        let Some(frame) = frame else {
            // What cannot be read closes the link, and the other end is not wanted any more.
            self.counts.unreadable += 1;
            self.terminals[to].blocked.insert(from);
            return self.close_link(to, from);
        };
        let (id, now) = (self.terminals[from].identity.id, self.now);
        if let Frame::Ping { nonce } = *frame {
            self.send_frame(to, id, Frame::Pong { nonce });
        }
        self.note_acknowledgement(to, from, &frame);
        if let Some(machine) = self.terminals[to].machine.as_mut() {
            machine.handle_heard(id, now);
            machine.handle_frame(id, *frame, now);
        }
        self.drive(to);
    }

    fn note_acknowledgement(&mut self, at: usize, by: usize, frame: &Frame) {
        match frame {
            Frame::Receipt { receipt, .. } => self.invariants.acknowledged(at, by, receipt.body.chunks()),
            Frame::Duplicate(duplicate) => self.invariants.acknowledged(at, by, std::iter::once(duplicate.chunk)),
            Frame::Hello(_)
            | Frame::Have { .. }
            | Frame::HaveEnd { .. }
            | Frame::HaveDelta { .. }
            | Frame::Request { .. }
            | Frame::Chunk(_)
            | Frame::Reach { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Bye => {}
        }
    }

    pub(super) fn stored(&mut self, terminal: usize, life: u64, chunk: u32) {
        if self.terminals[terminal].life != life {
            return;
        }
        let Some(_) = self.unless_frozen(terminal, Event::Stored { terminal, life, chunk }) else { return };
        let now = self.now;
        if let Some(machine) = self.terminals[terminal].machine.as_mut() {
            machine.handle_stored(chunk, now);
        }
        self.drive(terminal);
    }

    pub(super) fn fetched(&mut self, terminal: usize, life: u64, chunk: u32, fetched: Fetched) {
        if self.terminals[terminal].life != life {
            return;
        }
        let Some(_) = self.unless_frozen(terminal, Event::Fetched { terminal, life, chunk, fetched }) else { return };
        let (now, bytes) = (self.now, self.content.chunks[chunk as usize].clone());
        let state = &mut self.terminals[terminal];
        state.fetching -= 1;
        if let Some(machine) = state.machine.as_mut() {
            match fetched {
                Fetched::Chunk => machine.handle_origin_chunk(chunk, bytes, now),
                Fetched::Failed { retry_later } => machine.handle_origin_failed(chunk, retry_later, now),
            }
        }
        self.start_fetches(terminal);
        self.drive(terminal);
    }

    pub(super) fn wakes(&mut self, terminal: usize, life: u64, at: Now) {
        let state = &self.terminals[terminal];
        if state.life != life || state.woken_for != at {
            return;
        }
        let Some(_) = self.unless_frozen(terminal, Event::Wakes { terminal, life, at }) else { return };
        let now = self.now;
        let linked = if now > at + STARVED_AFTER { self.linked_to(terminal) } else { Vec::new() };
        let ids: Vec<TerminalId> = linked.into_iter().map(|peer| self.terminals[peer].identity.id).collect();
        let state = &mut self.terminals[terminal];
        state.woken_for = Now::MAX;
        if let Some(machine) = state.machine.as_mut() {
            ids.into_iter().for_each(|id| machine.handle_heard(id, now));
            machine.handle_timeout(now);
        }
        self.drive(terminal);
        self.sample_state(terminal);
    }

    /// Does what the machine asks, and has it send what the uplink takes.
    pub(super) fn drive(&mut self, terminal: usize) {
        let now = self.now;
        if self.terminals[terminal].frozen_until > now {
            return;
        }
        while let Some(action) = self.terminals[terminal].machine.as_mut().and_then(swarm::Swarm::poll_action) {
            self.carry_out(terminal, action);
        }
        while self.network.up_free_at(terminal) <= now {
            let Some(machine) = self.terminals[terminal].machine.as_mut() else { break };
            let Some(transmit) = machine.poll_transmit(now, &|_| true) else { break };
            self.transmit(terminal, transmit);
        }
        let state = &mut self.terminals[terminal];
        let Some(machine) = state.machine.as_ref() else { return };
        let free_at = self.network.up_free_at(terminal);
        let wake = machine.next_deadline().max(now + Duration::from_millis(1));
        let wake = if free_at > now { wake.min(free_at) } else { wake };
        if wake < state.woken_for || state.woken_for <= now {
            state.woken_for = wake;
            self.queue.post(wake, Event::Wakes { terminal, life: state.life, at: wake });
        }
    }

    fn carry_out(&mut self, terminal: usize, action: Action) {
        match action {
            Action::Send { peer, frame } => self.send_frame(terminal, peer, frame),
            Action::FetchOrigin { chunk } => {
                let state = &mut self.terminals[terminal];
                if !state.waiting.contains(&chunk) {
                    state.waiting.push_back(chunk);
                }
                let checked = self.invariants.fetches(terminal, state.waiting.len() + state.fetching);
                self.check(checked);
                self.start_fetches(terminal);
            }
            Action::OriginSpoilt { chunk } => self.broken(Invariant::VerifiedOnly, format!("the origin sent chunk {chunk} wrong")),
            Action::Store { chunk, source, bytes } => self.store(terminal, chunk, source, &bytes),
            Action::Repeat { chunk, into } => self.repeat(terminal, chunk, &into),
            Action::Credits { open } => self.say(terminal, Says::Credits(open)),
            Action::Notices(notices) => {
                self.check_length(terminal, "notices in a message", notices.len(), LIST_MAX);
                self.say(terminal, Says::Notices(notices));
            }
            Action::SubmitReceipts(receipts) => self.submit(terminal, receipts),
            Action::Missing(chunks) => {
                self.check_length(terminal, "missing chunks in a message", chunks.len(), MISSING_MAX);
                self.say(terminal, Says::Missing(chunks));
            }
            Action::ReportHoldings { leases } => {
                let machine = self.terminals[terminal].machine.as_ref();
                let have = machine.map(|machine| machine.needs_no_sending().clone()).unwrap_or_default();
                self.say(terminal, Says::Holdings { have, leases });
            }
            Action::Suspect { peer, reason } => {
                if let Some(peer) = self.index_of(peer) {
                    self.counts
                        .suspicions
                        .entry((format!("{reason:?}"), self.scenario.is_honest(peer)))
                        .and_modify(|n| *n += 1)
                        .or_insert(1);
                    self.say(terminal, Says::Suspect(peer));
                }
            }
            Action::CloseLink { peer, reason } => {
                if let Some(peer) = self.index_of(peer) {
                    let guilty = !self.scenario.is_honest(peer) || !self.scenario.is_honest(terminal);
                    let checked = self.invariants.bans(terminal, peer, guilty, &format!("{reason:?}"));
                    self.check(checked);
                    self.terminals[terminal].blocked.insert(peer);
                    self.counts.banned.push((terminal, peer));
                    self.close_link(terminal, peer);
                }
            }
            // For the owner to know; whether somebody waits too long is measured by when all are complete.
            Action::Replaced { .. } => {}
            Action::Complete { delivery_id: _ } => {
                self.terminals[terminal].completed_at.get_or_insert(self.now);
            }
        }
    }

    pub(super) fn index_of(&self, id: TerminalId) -> Option<usize> {
        self.planner().indices.get(&id).copied()
    }

    pub(super) fn check_length(&mut self, terminal: usize, what: &str, length: usize, bound: usize) {
        let checked = self.invariants.bounded(terminal, what, length, bound);
        self.check(checked);
    }

    fn store(&mut self, terminal: usize, chunk: u32, source: TerminalId, bytes: &Bytes) {
        let right = self.content.chunks.get(chunk as usize).is_some_and(|chunk| chunk == bytes);
        let state = &mut self.terminals[terminal];
        let held = state.disk.insert(chunk, source).is_some();
        let life = state.life;
        let checked = self.invariants.stores(terminal, chunk, right, held);
        self.check(checked);
        self.queue.post(self.now + WRITING, Event::Stored { terminal, life, chunk });
    }

    /// Random chunks are hardly ever equal, so that this takes no time here.
    fn repeat(&mut self, terminal: usize, chunk: u32, into: &[u32]) {
        let me = self.terminals[terminal].identity.id;
        for &repeat in into {
            let right = self.content.chunks.get(repeat as usize) == self.content.chunks.get(chunk as usize);
            let held = self.terminals[terminal].disk.insert(repeat, me).is_some();
            let checked = self.invariants.stores(terminal, repeat, right, held);
            self.check(checked);
        }
        let now = self.now;
        if let Some(machine) = self.terminals[terminal].machine.as_mut() {
            machine.handle_repeated(into, now);
        }
    }

    fn submit(&mut self, terminal: usize, receipts: Vec<Receipt>) {
        if self.scenario.thorough {
            let (me, segments) = (self.terminals[terminal].identity.id, segment_count(self.content.count()));
            for receipt in receipts.iter().filter(|receipt| receipt.body.receiver == me) {
                let unknown: Vec<u32> = receipt.body.chunks().filter(|&chunk| !self.has_had(terminal, chunk)).collect();
                let checked = self.invariants.signs(terminal, receipt.body.chunks(), |chunk| !unknown.contains(&chunk));
                self.check(checked);
                self.check_length(terminal, "segments of a receipt", receipt.body.segment as usize + 1, segments as usize);
            }
        }
        self.say(terminal, Says::Receipts(receipts));
    }

    /// What a terminal has lost from its disk it may sign for again.
    fn has_had(&self, terminal: usize, chunk: u32) -> bool {
        self.terminals[terminal].disk.contains_key(&chunk) || self.counts.forgotten.contains(&(terminal, chunk))
    }

    fn transmit(&mut self, from: usize, transmit: Transmit) {
        let Transmit { peer, chunk, offset, len, first_copy, hop, destinations } = transmit;
        let Some(to) = self.index_of(peer) else { return };
        let state = &mut self.terminals[from];
        state.copied += u64::from(len);
        state.copied_until = self.now;
        let stored = state.disk.contains_key(&chunk) && state.has(chunk);
        let corrupts = state.character.corrupts;
        let opened = self.now >= self.opening_of(from);
        let checked = self.invariants.transmits(from, to, (chunk, offset..offset + len), stored, opened);
        self.check(checked);
        let mut payload = self.content.part(chunk, offset, len);
        if corrupts > 0 && self.mischief.chance(corrupts) {
            let mut wrong = payload.to_vec();
            let at = self.mischief.index(wrong.len());
            if let Some(byte) = wrong.get_mut(at) {
                *byte ^= 1 << self.mischief.below(8);
            }
            payload = wrong.into();
            self.counts.corrupted += 1;
        }
        self.counts.handed += u64::from(!destinations.is_empty());
        let header = u64::try_from(ChunkFrame::header_len(destinations.len())).unwrap_or(u64::MAX);
        let frame = Frame::Chunk(ChunkFrame { swarm_id: SWARM, chunk, offset, first_copy, hop, destinations, payload });
        self.put_on_line(from, to, frame, header + u64::from(len));
    }

    /// Sends a message that is no chunk, by way of its bytes.
    pub(super) fn send_frame(&mut self, from: usize, peer: TerminalId, frame: Frame) {
        let Some(to) = self.index_of(peer) else { return };
        if let (true, Frame::HaveEnd { swarm_id }) = (self.terminals[from].character.lies, &frame) {
            self.counts.lies += 1;
            let all: ChunkSet = (0..self.content.count()).collect();
            self.send_frame(from, peer, Frame::Have { swarm_id: *swarm_id, segment: 0, bitmap: Box::new(all.segment(0)) });
        }
        if let Frame::Request { chunks, .. } = &frame {
            self.counts.asked += chunks.len() as u64;
        }
        match &frame {
            Frame::HaveDelta { chunks, .. } | Frame::Request { chunks, .. } => {
                self.check_length(from, "chunks in a message", chunks.len(), INDICES_MAX);
            }
            Frame::Hello(_)
            | Frame::Have { .. }
            | Frame::HaveEnd { .. }
            | Frame::Chunk(_)
            | Frame::Receipt { .. }
            | Frame::Duplicate(_)
            | Frame::Reach { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Bye => {}
        }
        let encoded = frame.encode();
        let bytes = encoded.len();
        self.check_length(from, "bytes in a message", bytes, MESSAGE_MAX);
        match Frame::decode(encoded.into()) {
            Ok(decoded) => self.put_on_line(from, to, decoded, bytes as u64),
            Err(error) => self.broken(Invariant::MemoryBounds, format!("terminal {from} sends what cannot be read: {error}")),
        }
    }

    fn put_on_line(&mut self, from: usize, to: usize, frame: Frame, bytes: u64) {
        let mixes_up = self.terminals[from].character.mixes_up;
        if mixes_up > 0 && self.mischief.chance(mixes_up) {
            self.counts.mixed_up += 1;
            if self.mischief.chance(500) {
                self.post_frame(from, to, frame.clone(), bytes, Duration::ZERO);
            } else {
                let late = self.mischief.time(Duration::from_millis(1), MIXED_UP_BY);
                return self.post_frame(from, to, frame, bytes, late);
            }
        }
        self.post_frame(from, to, frame, bytes, Duration::ZERO);
    }

    fn post_frame(&mut self, from: usize, to: usize, frame: Frame, bytes: u64, late: Duration) {
        let Some(channel) = self.channel(from, to) else { return };
        self.counts.messages += 1;
        if self.network.are_parted(from, to) {
            self.held_up.push((channel, Some(Box::new(frame)), bytes));
            return;
        }
        let at = self.network.send(from, to, channel.generation, bytes, self.now) + late;
        self.queue.post(at, Event::Arrives { channel, frame: Some(Box::new(frame)), bytes });
    }

    fn start_fetches(&mut self, terminal: usize) {
        while self.terminals[terminal].fetching < PARALLEL_FETCHES {
            let state = &mut self.terminals[terminal];
            let Some(chunk) = state.waiting.pop_front() else { return };
            state.fetching += 1;
            let (life, way) = (state.life, self.network.way_to_server(terminal));
            self.queue.post(self.now + way, Event::FetchAsked { terminal, life, chunk });
        }
    }
}
