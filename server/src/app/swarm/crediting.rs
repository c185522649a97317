//! Which receipts are taken, and which chunks of them count for whom: the decision between reading and writing.

use std::collections::BTreeMap;

use protocol::DeliveryId;
use protocol::TerminalId;
use protocol::bitmap::{SEGMENT_BYTES, is_subset, segment_chunks};
use protocol::receipt::Receipt;
use protocol::rest::DeliveryState;

use crate::store::receipts::{ReceiptWrite, Recorded, RecordedReceipt, VerifiedWrite};

/// Why a receipt is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is no such delivery")]
    UnknownDelivery,
    #[error("another receipt with this sequence number was signed")]
    SameSequence,
    #[error("a chunk of an earlier receipt is missing from this one")]
    Shrunk,
    #[error("the edition has no such chunk")]
    UnknownChunk,
}

/// What becomes of a message of receipts.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    pub(super) writes: Vec<ReceiptWrite>,
    pub(super) verified: Vec<VerifiedWrite>,
    /// By the receipt's place in the message.
    pub(super) refused: Vec<(usize, Refusal)>,
    /// Deliveries of which every chunk has arrived and which are not settled.
    pub(super) complete: Vec<DeliveryId>,
    /// Chunks that a receiver has signed for two sources: it is lying to one of them.
    pub(super) contested: u32,
}

/// What is known of one segment of a delivery, by source.
type Segment = BTreeMap<TerminalId, RecordedReceipt>;

/// Judges receipts in their order. A receipt older than the one recorded is passed over: it says nothing new. `length_of` gives a chunk's bytes.
pub(super) fn judge(recorded: &Recorded, receipts: &[(usize, Receipt)], length_of: impl Fn(DeliveryId, u32) -> u64) -> Judgement {
    let mut judgement = Judgement::default();
    let mut segments: BTreeMap<(DeliveryId, u32), Segment> = BTreeMap::new();
    for (&delivery_id, known) in &recorded.receipts {
        for receipt in known {
            segments.entry((delivery_id, receipt.segment)).or_default().insert(receipt.source, receipt.clone());
        }
    }
    let mut gained: BTreeMap<DeliveryId, (u32, u64)> = BTreeMap::new();
    let mut written: BTreeMap<(DeliveryId, u32, TerminalId), Receipt> = BTreeMap::new();
    for (place, receipt) in receipts {
        let body = &receipt.body;
        let Some(delivery) = recorded.deliveries.get(&body.delivery_id) else {
            judgement.refused.push((*place, Refusal::UnknownDelivery));
            continue;
        };
        if delivery.state != DeliveryState::Pending {
            continue;
        }
        let segment = segments.entry((body.delivery_id, body.segment)).or_default();
        match take(segment, receipt, delivery.chunks) {
            Ok(None) => {}
            Ok(Some(new)) => {
                judgement.contested += new.contested;
                let gain = gained.entry(body.delivery_id).or_default();
                for chunk in segment_chunks(body.segment, &new.credited) {
                    gain.0 += 1;
                    gain.1 += length_of(body.delivery_id, chunk);
                }
                written.insert((body.delivery_id, body.segment, body.source), receipt.clone());
            }
            Err(refusal) => judgement.refused.push((*place, refusal)),
        }
    }
    judgement.writes = writes(written, &segments);
    conclude(&mut judgement, recorded, &gained);
    judgement
}

struct New {
    /// Bits that count for the source and did not before.
    credited: [u8; SEGMENT_BYTES],
    contested: u32,
}

/// Takes one receipt into its segment; `None` if it says nothing new.
fn take(segment: &mut Segment, receipt: &Receipt, chunks: u32) -> Result<Option<New>, Refusal> {
    let body = &receipt.body;
    let known = segment.get(&body.source);
    if let Some(known) = known {
        if body.sequence < known.sequence || (body.sequence == known.sequence && body.bitmap == known.bitmap) {
            return Ok(None);
        }
        if body.sequence == known.sequence {
            return Err(Refusal::SameSequence);
        }
        if !is_subset(&known.bitmap, &body.bitmap) {
            return Err(Refusal::Shrunk);
        }
    }
    if body.chunks().any(|chunk| chunk >= chunks) {
        return Err(Refusal::UnknownChunk);
    }
    let mut of_others = [0; SEGMENT_BYTES];
    for other in segment.values().filter(|other| other.source != body.source) {
        of_others.iter_mut().zip(&*other.credited).for_each(|(all, credited)| *all |= credited);
    }
    let (mut new, mut contested) = ([0; SEGMENT_BYTES], 0);
    let mut credited = known.map_or_else(|| Box::new([0; SEGMENT_BYTES]), |known| known.credited.clone());
    for index in 0..SEGMENT_BYTES {
        let fresh = body.bitmap[index] & !known.map_or(0, |known| known.bitmap[index]);
        contested += (fresh & of_others[index]).count_ones();
        new[index] = fresh & !of_others[index];
        credited[index] |= new[index];
    }
    let (source, sequence, number) = (body.source, body.sequence, body.segment);
    segment.insert(source, RecordedReceipt { source, segment: number, sequence, bitmap: body.bitmap.clone(), credited });
    Ok(Some(New { credited: new, contested }))
}

fn writes(written: BTreeMap<(DeliveryId, u32, TerminalId), Receipt>, segments: &BTreeMap<(DeliveryId, u32), Segment>) -> Vec<ReceiptWrite> {
    written
        .into_iter()
        .filter_map(|((delivery_id, segment, source), receipt)| {
            let credited = segments.get(&(delivery_id, segment))?.get(&source)?.credited.clone();
            Some(ReceiptWrite { receipt, credited })
        })
        .collect()
}

fn conclude(judgement: &mut Judgement, recorded: &Recorded, gained: &BTreeMap<DeliveryId, (u32, u64)>) {
    for delivery in recorded.deliveries.values().filter(|delivery| delivery.state == DeliveryState::Pending) {
        let (chunks, bytes) = gained.get(&delivery.delivery_id).copied().unwrap_or_default();
        let verified = VerifiedWrite {
            delivery_id: delivery.delivery_id,
            chunks: delivery.verified_chunks + chunks,
            bytes: protocol::Bytes(delivery.verified.0 + bytes),
            complete: delivery.verified_chunks + chunks == delivery.chunks,
        };
        if verified.complete {
            judgement.complete.push(delivery.delivery_id);
        }
        if chunks > 0 {
            judgement.verified.push(verified);
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::receipt::ReceiptBody;
    use protocol::{Bytes, PublicKey, Signature, SwarmId, TimestampMs};

    use super::*;
    use crate::store::receipts::ReceivedDelivery;

    const DELIVERY: DeliveryId = DeliveryId::from_bytes([1; 16]);

    fn source(number: u8) -> TerminalId {
        TerminalId::from_bytes([number; 16])
    }

    fn delivery(chunks: u32) -> Recorded {
        let delivery = ReceivedDelivery {
            delivery_id: DELIVERY,
            swarm_id: SwarmId::from_bytes([2; 16]),
            receiver: source(100),
            receiver_key: PublicKey([0; 32]),
            state: DeliveryState::Pending,
            chunks,
            verified_chunks: 0,
            verified: Bytes(0),
        };
        Recorded { deliveries: BTreeMap::from([(DELIVERY, delivery)]), receipts: BTreeMap::new() }
    }

    fn receipt(from: u8, sequence: u32, segment: u32, chunks: &[u32]) -> Receipt {
        let mut bitmap = Box::new([0; SEGMENT_BYTES]);
        chunks.iter().for_each(|&chunk| bitmap[(chunk / 8) as usize] |= 1 << (chunk % 8));
        let at = TimestampMs(0);
        let body = ReceiptBody { delivery_id: DELIVERY, source: source(from), receiver: source(100), segment, sequence, at, bitmap };
        Receipt { body, signature: Signature([0; 64]) }
    }

    /// Judges messages one after the other, each on what the ones before have written.
    fn judged(recorded: &mut Recorded, receipts: Vec<Receipt>) -> Judgement {
        let numbered: Vec<(usize, Receipt)> = receipts.into_iter().enumerate().collect();
        let judgement = judge(recorded, &numbered, |_, chunk| u64::from(chunk) + 1);
        for write in &judgement.writes {
            let body = &write.receipt.body;
            let known = recorded.receipts.entry(DELIVERY).or_default();
            known.retain(|known| (known.source, known.segment) != (body.source, body.segment));
            let (source, segment, sequence) = (body.source, body.segment, body.sequence);
            known.push(RecordedReceipt { source, segment, sequence, bitmap: body.bitmap.clone(), credited: write.credited.clone() });
        }
        for write in &judgement.verified {
            let delivery = recorded.deliveries.get_mut(&DELIVERY).unwrap();
            (delivery.verified_chunks, delivery.verified) = (write.chunks, write.bytes);
        }
        judgement
    }

    fn credited(recorded: &Recorded, from: u8) -> Vec<u32> {
        let known = recorded.receipts.values().flatten().filter(|known| known.source == source(from));
        known.flat_map(|known| segment_chunks(known.segment, &known.credited).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn chunks_count_for_the_source_that_was_signed_for_first_and_once_only() {
        let mut recorded = delivery(10);
        let first = judged(&mut recorded, vec![receipt(1, 0, 0, &[0, 1, 2]), receipt(2, 0, 0, &[2, 3])]);
        assert_eq!((first.contested, first.refused.len()), (1, 0));
        assert_eq!((credited(&recorded, 1), credited(&recorded, 2)), (vec![0, 1, 2], vec![3]));
        let second = judged(&mut recorded, vec![receipt(2, 1, 0, &[0, 2, 3, 4])]);
        assert_eq!(second.contested, 1, "chunk 0 is new for source 2, chunk 2 was contested before");
        assert_eq!((credited(&recorded, 1), credited(&recorded, 2)), (vec![0, 1, 2], vec![3, 4]));
        assert_eq!(recorded.deliveries[&DELIVERY].verified_chunks, 5);
        assert_eq!(recorded.deliveries[&DELIVERY].verified, Bytes(1 + 2 + 3 + 4 + 5));
    }

    #[test]
    fn a_receipt_that_is_older_or_known_changes_nothing_and_is_no_offence() {
        let mut recorded = delivery(10);
        judged(&mut recorded, vec![receipt(1, 5, 0, &[0, 1])]);
        for known in [receipt(1, 5, 0, &[0, 1]), receipt(1, 4, 0, &[0]), receipt(1, 0, 0, &[7])] {
            let judgement = judged(&mut recorded, vec![known]);
            assert!(judgement.writes.is_empty() && judgement.verified.is_empty() && judgement.refused.is_empty());
        }
    }

    #[test]
    fn what_contradicts_an_earlier_receipt_or_the_edition_is_refused_and_the_rest_is_taken() {
        let mut recorded = delivery(10);
        judged(&mut recorded, vec![receipt(1, 5, 0, &[0, 1])]);
        let mut stranger = receipt(1, 9, 0, &[0, 1]);
        stranger.body.delivery_id = DeliveryId::from_bytes([9; 16]);
        let judgement = judged(
            &mut recorded,
            vec![
                receipt(1, 5, 0, &[0, 1, 2]),
                receipt(1, 6, 0, &[0, 2]),
                receipt(1, 6, 0, &[0, 1, 10]),
                receipt(3, 0, 1, &[0]),
                stranger,
                receipt(2, 0, 0, &[9]),
            ],
        );
        let expected = [Refusal::SameSequence, Refusal::Shrunk, Refusal::UnknownChunk, Refusal::UnknownChunk, Refusal::UnknownDelivery];
        assert_eq!(judgement.refused, expected.into_iter().enumerate().collect::<Vec<_>>());
        assert_eq!((credited(&recorded, 1), credited(&recorded, 2), credited(&recorded, 3)), (vec![0, 1], vec![9], vec![]));
    }

    #[test]
    fn two_receipts_of_one_source_in_one_message_are_written_once() {
        let mut recorded = delivery(10);
        let judgement = judged(&mut recorded, vec![receipt(1, 0, 0, &[0]), receipt(1, 1, 0, &[0, 1])]);
        assert_eq!(judgement.writes.len(), 1);
        assert_eq!((judgement.writes[0].receipt.body.sequence, credited(&recorded, 1)), (1, vec![0, 1]));
        assert_eq!(recorded.deliveries[&DELIVERY].verified_chunks, 2);
    }

    #[test]
    fn a_delivery_is_complete_with_its_last_chunk_and_is_said_to_be_until_it_is_settled() {
        let mut recorded = delivery(2);
        assert!(judged(&mut recorded, vec![receipt(1, 0, 0, &[0])]).complete.is_empty());
        let last = judged(&mut recorded, vec![receipt(0, 0, 0, &[1])]);
        assert_eq!((last.complete, last.verified[0].complete), (vec![DELIVERY], true));
        assert_eq!(judged(&mut recorded, vec![receipt(0, 0, 0, &[1])]).complete, [DELIVERY], "whoever recorded it may have died");
        recorded.deliveries.get_mut(&DELIVERY).unwrap().state = DeliveryState::Settled;
        let late = judged(&mut recorded, vec![receipt(0, 1, 0, &[0, 1])]);
        assert!(late.complete.is_empty() && late.writes.is_empty());
    }
}
