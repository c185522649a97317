//! Frames from peers: have-lists, chunks, requests, acknowledgements. Whoever breaks a rule here loses the link.

use protocol::Blake3;
use protocol::bitmap::{is_subset, segment_chunks, segment_count};
use protocol::frame::{ChunkFrame, Duplicate, Frame};
use protocol::receipt::Receipt;
use protocol::ws::SuspectReason;
use protocol::{Bytes as ByteCount, TerminalId};

use crate::Now;
use crate::action::Action;
use crate::assembly::{self, Arrived};
use crate::config::{DUPLICATE_BYTES, PULL_QUEUE_MAX};
use crate::machine::{Pending, Relay, Swarm};
use crate::outbox::Owed;
use crate::peer::{PeerState, Role};

/// A frame that breaks the rules, with the reason that the server is told.
type Violation = SuspectReason;

impl Swarm {
    /// Takes a frame of this swarm from a linked peer. The link of a peer that breaks the rules is closed; nothing of the frame is kept.
    pub fn handle_frame(&mut self, peer: TerminalId, frame: Frame, now: Now) {
        if !self.peers.get(&peer).is_some_and(|state| state.linked && !state.banned) {
            return;
        }
        self.handle_heard(peer, now);
        let outcome = match frame {
            Frame::Have { segment, bitmap, .. } => {
                let chunks: Vec<u32> = segment_chunks(segment, &bitmap).collect();
                self.note_holdings(peer, &chunks, false, now)
            }
            Frame::HaveDelta { chunks, .. } => self.note_holdings(peer, &chunks, true, now),
            Frame::HaveEnd { .. } => {
                let first = self.peers.get_mut(&peer).is_some_and(|state| !std::mem::replace(&mut state.listed, true));
                if first {
                    self.pull(now);
                }
                Ok(())
            }
            Frame::Reach { groups, .. } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.reaches = groups.into_iter().collect();
                }
                Ok(())
            }
            Frame::Request { chunks, .. } => self.queue_requested(peer, &chunks),
            Frame::Chunk(frame) => {
                self.note_replacement(frame.chunk, peer, now);
                self.take_chunk(peer, frame, now)
            }
            Frame::Receipt { receipt, .. } => self.take_receipt(peer, *receipt, now),
            Frame::Duplicate(duplicate) => self.take_duplicate(peer, &duplicate, now),
            Frame::Hello(_) | Frame::Ping { .. } | Frame::Pong { .. } | Frame::Bye => Ok(()),
        };
        if let Err(reason) = outcome {
            self.ban(peer, reason, now);
        }
    }

    fn note_holdings(&mut self, peer: TerminalId, chunks: &[u32], owed: bool, now: Now) -> Result<(), Violation> {
        let count = self.manifest.chunk_count();
        if chunks.iter().any(|&chunk| chunk >= count) {
            return Err(SuspectReason::Malformed);
        }
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        let (mut done, mut brought) = (Vec::new(), Vec::new());
        for &chunk in chunks {
            if !state.have.insert(chunk) {
                continue;
            }
            state.out.cancel(chunk);
            state.news_at = now;
            if !self.settled.contains(chunk) {
                if self.pulling.known(chunk, peer, state.role == Role::Member, owed, now) {
                    brought.push(chunk);
                }
            } else if !state.out.awaits(chunk) {
                done.push(chunk);
            }
        }
        for chunk in done {
            self.copy_done(peer, chunk, now);
        }
        for chunk in brought {
            if self.relieving(chunk, peer).contains(&self.config.me) {
                self.pulling.comes_from_below(chunk);
            }
        }
        Ok(())
    }

    fn queue_requested(&mut self, peer: TerminalId, chunks: &[u32]) -> Result<(), Violation> {
        let count = self.manifest.chunk_count();
        if chunks.iter().any(|&chunk| chunk >= count) {
            return Err(SuspectReason::Malformed);
        }
        let lengths: Vec<u32> = chunks.iter().map(|&chunk| self.chunk_length(chunk)).collect();
        let gone: Vec<TerminalId> = self.peers.values().filter(|state| !state.is_live()).map(PeerState::id).collect();
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        let first_copy = match state.role {
            Role::Member => false,
            // A parent asks for what its group has lost since it brought it down.
            Role::Child(_) | Role::Served | Role::Parent => true,
        };
        for (&chunk, length) in chunks.iter().zip(lengths) {
            if state.out.queue_len() >= PULL_QUEUE_MAX {
                break;
            }
            if self.have.contains(chunk) {
                // Whoever asks for what it has signed for has lost it since.
                let lost = state.have.remove(chunk);
                let owed = Owed { chunk, length, first_copy, hop: 1 };
                // What a relay that is gone copied here is missed there now. Everything else is asked for in good time.
                if !lost && gone.iter().any(|relay| self.signing.is_for(*relay, chunk)) {
                    state.out.push_urgent(owed);
                } else {
                    state.out.push(owed);
                }
            }
        }
        Ok(())
    }

    fn take_chunk(&mut self, peer: TerminalId, frame: ChunkFrame, now: Now) -> Result<(), Violation> {
        let Some(&entry) = self.manifest.chunks.get(frame.chunk as usize) else { return Err(SuspectReason::Malformed) };
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        let from_below = matches!(state.role, Role::Child(_) | Role::Served);
        let from_outside = match state.role {
            Role::Member => false,
            Role::Parent => true,
            Role::Child(_) | Role::Served if state.asked_below => true,
            Role::Child(_) | Role::Served => return Err(SuspectReason::Malformed),
        };
        // Only who brought a chunk into this group says that this terminal copies it on into others. What comes from outside is copied on anyway.
        if !frame.destinations.is_empty() && (from_outside || frame.first_copy) {
            return Err(SuspectReason::Malformed);
        }
        state.frame_at = now;
        let arrived = assembly::add(&mut state.partial, frame, entry.length).map_err(|_| SuspectReason::Malformed)?;
        let Some(Arrived { chunk, first_copy, hop, destinations, bytes }) = arrived else { return Ok(()) };
        let pulled = state.pulls.remove(&chunk).is_some();
        if Blake3::of(&bytes) != entry.hash {
            return Err(SuspectReason::Corrupt);
        }
        state.have.insert(chunk);
        state.unanswered = 0;
        if self.have.contains(chunk) || self.pending.contains_key(&chunk) {
            let duplicate = Duplicate::signed(self.plan.swarm_id, chunk, peer, self.config.me, &self.config.key);
            self.actions.push_back(Action::Send { peer, frame: Frame::Duplicate(duplicate) });
            return Ok(());
        }
        // What a member has is copied on by who brought it here.
        let given_back = from_below && self.has_live_holder(chunk);
        let relay = if first_copy && from_outside && !given_back { Relay::All } else { Relay::Nobody };
        self.pending.insert(chunk, Pending { source: peer, relay, destinations, hop, pulled });
        self.progressed_at = now;
        self.store(chunk, peer, bytes);
        Ok(())
    }

    fn take_receipt(&mut self, peer: TerminalId, receipt: Receipt, now: Now) -> Result<(), Violation> {
        let (me, count) = (self.config.me, self.manifest.chunk_count());
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        let body = &receipt.body;
        let about_us = body.source == me && body.receiver == peer && body.delivery_id == state.peer.delivery_id;
        let says_something = body.segment < segment_count(count) && body.chunks().next().is_some();
        if !about_us || !says_something || body.chunks().any(|chunk| chunk >= count) {
            return Err(SuspectReason::Malformed);
        }
        let last = state.receipts.get(&body.segment);
        if last.is_some_and(|last| last.body.sequence >= body.sequence && last.body.bitmap == body.bitmap) {
            return Ok(());
        }
        if !receipt.is_signed_by(&state.peer.public_key) {
            return Err(SuspectReason::Malformed);
        }
        // A receiver that lost its disk begins anew: what it had signed before still counts, and this would no longer say it.
        if let Some(before) = last.filter(|last| !is_subset(&last.body.bitmap, &body.bitmap)) {
            self.actions.push_back(Action::SubmitReceipts(vec![before.clone()]));
        }
        // What an earlier receipt said acknowledges nothing sent since: for that there are duplicates, which are bounded.
        let is_new = |chunk: &u32| body.acknowledges(*chunk) && !last.is_some_and(|last| last.body.acknowledges(*chunk));
        let signed: u64 = body
            .chunks()
            .filter(is_new)
            .filter_map(|chunk| self.manifest.chunks.get(chunk as usize))
            .map(|entry| u64::from(entry.length))
            .sum();
        let unacked: Vec<u32> = state.out.unacked_chunks().filter(is_new).collect();
        let chunks: Vec<u32> = body.chunks().filter(|&chunk| !state.have.contains(chunk)).collect();
        for chunk in chunks {
            state.have.insert(chunk);
            state.out.cancel(chunk);
        }
        let mut relayed = 0;
        for &chunk in &unacked {
            relayed += state.out.acknowledge(chunk, now).unwrap_or(0);
        }
        state.receipted += signed;
        state.receipts.insert(body.segment, receipt);
        self.progress.relayed = ByteCount(self.progress.relayed.0 + relayed);
        for chunk in unacked {
            self.copy_done(peer, chunk, now);
        }
        self.update_credits(now);
        Ok(())
    }

    fn take_duplicate(&mut self, peer: TerminalId, duplicate: &Duplicate, now: Now) -> Result<(), Violation> {
        let me = self.config.me;
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        if duplicate.swarm_id != self.plan.swarm_id || !duplicate.is_signed_by(me, peer, &state.peer.public_key) {
            return Err(SuspectReason::Malformed);
        }
        if let Some(bytes) = state.out.acknowledge(duplicate.chunk, now) {
            state.duplicated += bytes;
            if state.duplicated > DUPLICATE_BYTES + state.receipted {
                return Err(SuspectReason::Unacknowledged);
            }
            state.have.insert(duplicate.chunk);
            self.copy_done(peer, duplicate.chunk, now);
        }
        Ok(())
    }
}
