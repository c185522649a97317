//! Control frames that wait for a link. What a later frame says better takes the place of the earlier one, so that a link that stands still for a
//! second does not pile them up.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use protocol::frame::{Frame, INDICES_MAX};
use tokio::sync::Notify;

/// With receipts and announcements merged, this many frames wait only if the peer has stopped reading.
const FRAMES_MAX: usize = 1024;
/// How far back a frame looks for one to merge with.
const MERGE_DEPTH: usize = 16;

#[derive(Debug, Default)]
pub(super) struct ControlQueue {
    frames: Mutex<VecDeque<Frame>>,
    added: Notify,
}

/// The queue is full: the peer does not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl ControlQueue {
    pub(super) fn push(&self, frame: Frame) -> Result<(), Full> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = merge(&mut frames, frame) {
            if frames.len() >= FRAMES_MAX {
                return Err(Full);
            }
            frames.push_back(frame);
        }
        drop(frames);
        self.added.notify_one();
        Ok(())
    }

    pub(super) fn pop(&self) -> Option<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Waits until there is a frame.
    pub(super) async fn next(&self) -> Frame {
        loop {
            if let Some(frame) = self.pop() {
                return frame;
            }
            self.added.notified().await;
        }
    }
}

/// Merges `frame` into one that waits, or gives it back.
fn merge(frames: &mut VecDeque<Frame>, frame: Frame) -> Option<Frame> {
    match frame {
        Frame::Receipt { swarm_id, receipt } => {
            for waiting in frames.iter_mut().rev().take(MERGE_DEPTH) {
                if let Frame::Receipt { swarm_id: swarm, receipt: older } = waiting
                    && *swarm == swarm_id
                    && (older.body.delivery_id, older.body.source, older.body.segment)
                        == (receipt.body.delivery_id, receipt.body.source, receipt.body.segment)
                {
                    *older = receipt;
                    return None;
                }
            }
            Some(Frame::Receipt { swarm_id, receipt })
        }
        Frame::HaveDelta { swarm_id, chunks } => {
            for waiting in frames.iter_mut().rev().take(MERGE_DEPTH) {
                if let Frame::HaveDelta { swarm_id: swarm, chunks: earlier } = waiting
                    && *swarm == swarm_id
                    && earlier.len() + chunks.len() <= INDICES_MAX
                {
                    earlier.extend(chunks);
                    return None;
                }
            }
            Some(Frame::HaveDelta { swarm_id, chunks })
        }
        frame @ (Frame::Hello(_)
        | Frame::Have { .. }
        | Frame::HaveEnd { .. }
        | Frame::Request { .. }
        | Frame::Chunk(_)
        | Frame::Duplicate(_)
        | Frame::Reach { .. }
        | Frame::Ping { .. }
        | Frame::Pong { .. }
        | Frame::Bye) => Some(frame),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::receipt::ReceiptBody;
    use protocol::{DeliveryId, SwarmId, TerminalId, TerminalKey, TimestampMs};

    const SWARM: SwarmId = SwarmId::from_bytes([1; 16]);

    fn receipt(segment: u32, sequence: u32) -> Frame {
        let body = ReceiptBody {
            delivery_id: DeliveryId::from_bytes([1; 16]),
            source: TerminalId::from_bytes([2; 16]),
            receiver: TerminalId::from_bytes([3; 16]),
            segment,
            sequence,
            at: TimestampMs(1),
            bitmap: Box::new([0; 512]),
        };
        Frame::Receipt { swarm_id: SWARM, receipt: Box::new(body.sign(&TerminalKey::from_secret(&[1; 32]))) }
    }

    fn drain(queue: &ControlQueue) -> Vec<Frame> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn a_later_receipt_takes_the_place_of_an_earlier_one() {
        let queue = ControlQueue::default();
        for frame in [receipt(0, 1), receipt(1, 1), receipt(0, 2)] {
            queue.push(frame).unwrap();
        }
        assert_eq!(drain(&queue), [receipt(0, 2), receipt(1, 1)]);
    }

    #[test]
    fn announcements_are_merged_up_to_a_frames_length() {
        let queue = ControlQueue::default();
        for chunk in 0..300 {
            queue.push(Frame::HaveDelta { swarm_id: SWARM, chunks: vec![chunk] }).unwrap();
        }
        let frames = drain(&queue);
        let lengths: Vec<usize> =
            frames.iter().map(|frame| if let Frame::HaveDelta { chunks, .. } = frame { chunks.len() } else { 0 }).collect();
        assert_eq!(lengths, [128, 128, 44]);
    }

    #[test]
    fn a_peer_that_reads_nothing_fills_the_queue() {
        let queue = ControlQueue::default();
        for nonce in 0..FRAMES_MAX as u64 {
            queue.push(Frame::Ping { nonce }).unwrap();
        }
        assert_eq!(queue.push(Frame::Bye), Err(Full));
        assert!(queue.push(receipt(0, 1)).is_err());
    }
}
