//! Chunks that this terminal signed for and does not have any more: the disk lost or changed them.
//!
//! Whoever delivered such a chunk keeps its signature, and nobody else gets one for it: two signatures for one chunk look like fraud. Who sends it again
//! is told that it was a duplicate, which opens its window. Only where a whole disk was lost would that be more than a sender accepts beside its
//! receipts. Then another sender gets a receipt too, and the server pays whoever was signed for first; the first source, which cannot be signed for
//! twice, is not asked for more.

use std::collections::BTreeMap;

use protocol::TerminalId;
use protocol::frame::{Duplicate, Frame};

use crate::action::Action;
use crate::config::DUPLICATE_BYTES;
use crate::machine::Swarm;

/// Of what a sender accepts as duplicates without a receipt, half is for these; the other half is left for those that come by the usual ways.
const AGAIN_BYTES: u64 = DUPLICATE_BYTES / 2;

/// The lost chunks with their first sources; and the bytes declared to whom as duplicates in this run, and signed for whom at any time.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    sources: BTreeMap<u32, TerminalId>,
    declared: BTreeMap<TerminalId, u64>,
    signed: BTreeMap<TerminalId, u64>,
}

impl Lost {
    pub(crate) fn insert(&mut self, chunk: u32, source: TerminalId) {
        self.sources.insert(chunk, source);
    }

    /// An earlier run signed for these bytes.
    pub(crate) fn was_signed(&mut self, source: TerminalId, bytes: u64) {
        *self.signed.entry(source).or_default() += bytes;
    }

    /// Whom a chunk is signed for that comes from `sender`.
    pub(crate) fn signed_for(&self, chunk: u32, sender: TerminalId) -> TerminalId {
        self.sources.get(&chunk).copied().unwrap_or(sender)
    }

    /// Whether `sender` can be given its due for a chunk that it would send.
    pub(crate) fn may_send(&self, sender: TerminalId, chunk: u32, bytes: u64) -> bool {
        self.sources.get(&chunk) != Some(&sender) || self.accepts(sender, bytes)
    }

    /// Whether a sender accepts that so many bytes more were duplicates: it measures them by what is signed for it.
    fn accepts(&self, sender: TerminalId, bytes: u64) -> bool {
        let of = |counts: &BTreeMap<TerminalId, u64>| counts.get(&sender).copied().unwrap_or(0);
        of(&self.declared) + bytes <= AGAIN_BYTES + of(&self.signed)
    }

    /// A chunk is here. Says what its sender is due.
    fn found(&mut self, chunk: u32, sender: TerminalId, bytes: u64) -> Due {
        let first = self.sources.remove(&chunk);
        let due = match first {
            None => Due::Receipt,
            Some(first) if first == sender || self.accepts(sender, bytes) => Due::Duplicate,
            Some(_) => Due::SecondReceipt,
        };
        let count = match due {
            Due::Duplicate => &mut self.declared,
            Due::Receipt | Due::SecondReceipt => &mut self.signed,
        };
        *count.entry(sender).or_default() += bytes;
        due
    }
}

/// How a sender's window is opened for a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The receipt of every chunk that is signed for the one who sent it.
    Receipt,
    Duplicate,
    /// A receipt for a chunk that another one has a receipt for.
    SecondReceipt,
}

impl Swarm {
    /// Acknowledges a stored chunk to whoever sent it, if that takes something else than the receipt for its first source.
    pub(crate) fn acknowledge_again(&mut self, chunk: u32, sender: TerminalId) {
        let bytes = u64::from(self.chunk_length(chunk));
        if sender.is_origin() {
            self.lost.sources.remove(&chunk);
            return;
        }
        match self.lost.found(chunk, sender, bytes) {
            Due::Receipt => {}
            Due::Duplicate => {
                let duplicate = Duplicate::signed(self.plan.swarm_id, chunk, sender, self.config.me, &self.config.key);
                self.actions.push_back(Action::Send { peer: sender, frame: Frame::Duplicate(duplicate) });
            }
            Due::SecondReceipt => {
                self.signing.add(sender, chunk, bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_chunk_stays_its_first_sources_and_is_declared_up_to_what_a_sender_accepts() {
        let (first, again) = (TerminalId::from_bytes([1; 16]), TerminalId::from_bytes([2; 16]));
        let mut lost = Lost::default();
        for chunk in 0..3 {
            lost.insert(chunk, first);
        }
        assert_eq!((lost.signed_for(0, again), lost.signed_for(7, again)), (first, again));
        assert_eq!(lost.found(0, again, AGAIN_BYTES), Due::Duplicate);
        assert_eq!(lost.found(1, again, 5), Due::SecondReceipt);
        assert_eq!(lost.found(1, again, 5), Due::Receipt, "it is not lost any more");
        assert_eq!(lost.found(2, again, 11), Due::SecondReceipt);
        lost.insert(3, first);
        assert_eq!(lost.found(3, again, 21), Due::Duplicate, "what was signed counts");
    }

    #[test]
    fn the_first_source_of_a_lost_chunk_is_asked_for_it_as_far_as_it_accepts_duplicates() {
        let (first, other) = (TerminalId::from_bytes([1; 16]), TerminalId::from_bytes([2; 16]));
        let mut lost = Lost::default();
        lost.insert(0, first);
        lost.insert(1, first);
        assert!(lost.may_send(first, 0, AGAIN_BYTES) && !lost.may_send(first, 0, AGAIN_BYTES + 1));
        assert_eq!(lost.found(0, first, AGAIN_BYTES), Due::Duplicate);
        assert!(!lost.may_send(first, 1, 1) && lost.may_send(other, 1, 1) && lost.may_send(first, 7, 1));
    }
}
