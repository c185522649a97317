//! What this terminal owes to one peer: a queue of chunks, the one being sent, and what was sent but not acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::frame::PAYLOAD_MIN;

use crate::Now;
use crate::config::WINDOW_BYTES;

/// A chunk to be sent to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owed {
    pub(crate) chunk: u32,
    pub(crate) length: u32,
    pub(crate) first_copy: bool,
    pub(crate) hop: u8,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Owed>,
    /// How many at the head of the queue go before what is owed to others.
    urgent: usize,
    queued: BTreeSet<u32>,
    sending: Option<(Owed, u32)>,
    unacked: BTreeMap<u32, u64>,
    unacked_bytes: u64,
    queued_bytes: u64,
    /// The window had no room for the frame that was to be sent last.
    shut: bool,
    /// Since when the peer owes an acknowledgement without having given any.
    waiting_since: Option<Now>,
}

impl Outbox {
    /// Queues a chunk unless it is queued or on its way.
    pub(crate) fn push(&mut self, owed: Owed) -> bool {
        let on_its_way = self.unacked.contains_key(&owed.chunk);
        if on_its_way || !self.queued.insert(owed.chunk) {
            return false;
        }
        self.queued_bytes += u64::from(owed.length);
        self.queue.push_back(owed);
        true
    }

    /// Queues a chunk before all that is not urgent, and before what is owed to other peers.
    pub(crate) fn push_urgent(&mut self, owed: Owed) -> bool {
        if !self.push(owed) {
            return false;
        }
        self.queue.rotate_right(1);
        if let Some(owed) = self.queue.pop_front() {
            self.queue.insert(self.urgent, owed);
            self.urgent += 1;
        }
        true
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.sending.is_none() && self.urgent > 0
    }

    /// Takes a chunk off the queue: the peer has it. What is being sent goes on to its end.
    pub(crate) fn cancel(&mut self, chunk: u32) {
        if self.queued.remove(&chunk)
            && let Some(index) = self.queue.iter().position(|owed| owed.chunk == chunk)
            && let Some(owed) = self.queue.remove(index)
        {
            self.queued_bytes -= u64::from(owed.length);
            self.urgent -= usize::from(index < self.urgent);
        }
    }

    /// The next frame of at most `frame_bytes`, as long as the chunk's others or as the window: (chunk, offset, length).
    pub(crate) fn next(&mut self, frame_bytes: u32, now: Now) -> Option<(Owed, u32, u32)> {
        let len = self.next_length(frame_bytes);
        self.shut = len.is_none();
        let len = len?;
        if self.sending.is_none() {
            let owed = self.queue.pop_front()?;
            self.urgent = self.urgent.saturating_sub(1);
            self.queued.remove(&owed.chunk);
            self.queued_bytes -= u64::from(owed.length);
            self.unacked.insert(owed.chunk, u64::from(owed.length));
            self.unacked_bytes += u64::from(owed.length);
            self.waiting_since.get_or_insert(now);
            self.sending = Some((owed, 0));
        }
        let (owed, sent) = self.sending.as_mut()?;
        let (owed, offset) = (*owed, *sent);
        *sent += len;
        if *sent == owed.length {
            self.sending = None;
        }
        Some((owed, offset, len))
    }

    /// The peer acknowledged a chunk: its bytes, or `None` if it was not owed an acknowledgement.
    pub(crate) fn acknowledge(&mut self, chunk: u32, now: Now) -> Option<u64> {
        let bytes = self.unacked.remove(&chunk)?;
        self.unacked_bytes -= bytes;
        self.shut = false;
        self.waiting_since = if self.unacked.is_empty() { None } else { Some(now) };
        Some(bytes)
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }
    pub(crate) fn awaits_acknowledgement(&self) -> bool {
        !self.unacked.is_empty()
    }
    /// Whether something waits behind a window that the peer has not opened for this long.
    pub(crate) fn is_stalled(&self, now: Now, patience: Now) -> bool {
        self.shut && self.unsent_bytes() > 0 && self.waiting_since.is_some_and(|since| now >= since + patience)
    }

    /// How long the next frame can be, so that what was sent and is not acknowledged stays within the window. What is not sent yet of a chunk does not count.
    fn next_length(&self, frame_bytes: u32) -> Option<u32> {
        let (mut rest, mut sent) = (self.queue.front().map_or(0, |first| first.length), self.unacked_bytes);
        if let Some((owed, offset)) = self.sending {
            rest = owed.length - offset;
            // The peer may have signed for it meanwhile, because it came from elsewhere.
            sent -= if self.unacked.contains_key(&owed.chunk) { u64::from(rest) } else { 0 };
        }
        let (whole, room) = (frame_length(rest, frame_bytes), WINDOW_BYTES.saturating_sub(sent));
        let len = u64::from(whole).min(room);
        if len == u64::from(whole) || len >= PAYLOAD_MIN as u64 { u32::try_from(len).ok() } else { None }
    }

    /// Takes everything off the queue, and waits anew for an acknowledgement of what was sent.
    pub(crate) fn drop_queue(&mut self, now: Now) -> Vec<u32> {
        self.waiting_since = self.waiting_since.map(|_| now);
        self.queued.clear();
        self.queued_bytes = 0;
        self.urgent = 0;
        self.queue.drain(..).map(|owed| owed.chunk).collect()
    }
    /// The chunk that is begun after the one that is being sent.
    pub(crate) fn first_queued(&self) -> Option<u32> {
        self.queue.front().map(|owed| owed.chunk)
    }
    pub(crate) fn queue_len(&self) -> usize {
        self.queue.len()
    }
    /// Whether this chunk was sent, or begun, and is not acknowledged.
    pub(crate) fn awaits(&self, chunk: u32) -> bool {
        self.unacked.contains_key(&chunk)
    }
    pub(crate) fn unacked_chunks(&self) -> impl Iterator<Item = u32> + '_ {
        self.unacked.keys().copied()
    }
    /// Bytes that still have to go out to this peer.
    pub(crate) fn unsent_bytes(&self) -> u64 {
        self.queued_bytes + self.sending.map_or(0, |(owed, sent)| u64::from(owed.length - sent))
    }
    /// Bytes that the peer does not have for certain: unsent and unacknowledged.
    pub(crate) fn load(&self) -> u64 {
        self.queued_bytes + self.unacked_bytes
    }
}

/// Of the next frame of a chunk of which `rest` is left: the frames are as long as each other.
fn frame_length(rest: u32, frame_bytes: u32) -> u32 {
    rest.div_ceil(rest.div_ceil(frame_bytes.max(1)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owed(chunk: u32) -> Owed {
        Owed { chunk, length: 100 << 10, first_copy: false, hop: 0 }
    }

    #[test]
    fn a_receiver_that_acknowledges_nothing_gets_one_window_and_no_more() {
        let mut outbox = Outbox::default();
        for chunk in 0..10 {
            assert!(outbox.push(owed(chunk)));
        }
        let mut sent = 0;
        while let Some((_, _, len)) = outbox.next(64 << 10, Now::ZERO) {
            sent += u64::from(len);
        }
        assert_eq!(sent, 250 << 10, "two chunks of 100 KiB and the first half of a third one");
        assert!(outbox.is_stalled(Now::from_secs(10), Now::from_secs(10)), "the other half waits behind the window");
        assert!(!outbox.is_stalled(Now::from_secs(9), Now::from_secs(10)));
        assert_eq!(outbox.acknowledge(0, Now::ZERO), Some(100 << 10));
        assert!(!outbox.is_stalled(Now::from_secs(10), Now::from_secs(10)));
        assert_eq!(outbox.next(64 << 10, Now::ZERO).map(|(owed, offset, _)| (owed.chunk, offset)), Some((2, 50 << 10)));
    }

    #[test]
    fn a_shorter_frame_fills_the_window() {
        let mut outbox = Outbox::default();
        for chunk in 0..3 {
            outbox.push(owed(chunk));
        }
        let lengths: Vec<u32> = std::iter::from_fn(|| outbox.next(100 << 10, Now::ZERO)).map(|(_, _, len)| len).collect();
        assert_eq!(lengths, [100 << 10, 100 << 10, 56 << 10]);
        assert_eq!(outbox.acknowledge(0, Now::ZERO), Some(100 << 10));
        assert_eq!(outbox.next(100 << 10, Now::ZERO).map(|(owed, offset, len)| (owed.chunk, offset, len)), Some((2, 56 << 10, 44 << 10)));
    }

    #[test]
    fn a_chunk_that_is_signed_for_while_it_is_sent_leaves_the_window() {
        let mut outbox = Outbox::default();
        for chunk in 0..3 {
            outbox.push(owed(chunk));
        }
        outbox.next(50 << 10, Now::ZERO).unwrap();
        assert_eq!(outbox.acknowledge(0, Now::ZERO), Some(100 << 10));
        let frames = std::iter::from_fn(|| outbox.next(50 << 10, Now::ZERO)).count();
        assert_eq!(frames, 5, "the rest of the first, and both others");
    }

    #[test]
    fn a_slow_link_that_is_sending_is_not_stalled() {
        let mut outbox = Outbox::default();
        for chunk in 0..3 {
            outbox.push(owed(chunk));
        }
        while outbox.unsent_bytes() > 50 << 10 {
            outbox.next(25 << 10, Now::ZERO).unwrap();
        }
        assert!(!outbox.is_stalled(Now::from_secs(99), Now::from_secs(10)), "the window has room for the next frame, whenever it goes");
    }

    #[test]
    fn what_is_urgent_goes_before_the_rest_in_the_order_in_which_it_came() {
        let mut outbox = Outbox::default();
        outbox.push(owed(1));
        assert!(!outbox.is_urgent());
        assert!(outbox.push_urgent(owed(2)) && outbox.push_urgent(owed(3)) && outbox.push_urgent(owed(4)) && !outbox.push_urgent(owed(1)));
        outbox.cancel(3);
        let mut order = Vec::new();
        while let Some((owed, ..)) = outbox.next(200 << 10, Now::ZERO) {
            order.push((owed.chunk, outbox.is_urgent()));
            outbox.acknowledge(owed.chunk, Now::ZERO);
        }
        assert_eq!(order, [(2, true), (4, false), (1, false)]);
    }

    #[test]
    fn a_chunk_is_queued_once_and_can_be_cancelled_until_it_is_sent() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(owed(1)) && !outbox.push(owed(1)));
        outbox.cancel(1);
        assert!(outbox.next(1000, Now::ZERO).is_none());
        assert_eq!(outbox.unsent_bytes(), 0);
        outbox.push(owed(2));
        let (_, _, sent) = outbox.next(30_000, Now::ZERO).unwrap();
        assert!(!outbox.push(owed(2)), "on its way already");
        assert_eq!((sent, outbox.unsent_bytes()), (25_600, (100 << 10) - 25_600), "four frames of the same length");
    }
}
