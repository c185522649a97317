//! Which receipts are taken, and which chunks of them count for whom: the decision between reading and writing.
//!
//! A receiver's signature counts in whatever order it arrives, and is never taken back: what is recorded is the sum of all that was signed. Otherwise a
//! receiver could void the receipts that it gave to relays by signing others, and one that lost its disk would have to lie to go on.

use std::collections::BTreeMap;

use protocol::DeliveryId;
use protocol::TerminalId;
use protocol::bitmap::{SEGMENT_BYTES, is_subset, segment_chunks, segment_count};
use protocol::receipt::Receipt;
use protocol::rest::DeliveryState;

use crate::store::receipts::{ReceiptWrite, ReceivedDelivery, Recorded, RecordedReceipt, VerifiedWrite};

/// Why a receipt is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is no such delivery")]
    UnknownDelivery,
    #[error("the edition has no such segment")]
    SegmentBeyondEnd,
    #[error("the edition has no such chunk")]
    ChunkBeyondEnd,
}

/// What becomes of a message of receipts.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    pub(super) writes: Vec<ReceiptWrite>,
    pub(super) verified: Vec<VerifiedWrite>,
    /// Chunks that a receiver has signed for and had not before.
    pub(super) fresh: BTreeMap<DeliveryId, Vec<u32>>,
    /// By the receipt's place in the message.
    pub(super) refused: Vec<(usize, Refusal)>,
    /// Deliveries of which every chunk has arrived and which are not settled.
    pub(super) complete: Vec<DeliveryId>,
    /// Chunks that a receiver has signed for two sources: it is lying to one of them.
    pub(super) contested: u32,
    /// Receipts that have a chunk which an equal or higher sequence number lacks: their receiver lost its disk, or tried to take a receipt back.
    pub(super) contradictions: u32,
}

/// What is known of one segment of a delivery, by source.
type Segment = BTreeMap<TerminalId, RecordedReceipt>;

/// Whether a receipt says anything new, its signature unseen: verifying it costs far more than asking this.
pub(super) fn is_news(recorded: &Recorded, receipt: &Receipt) -> Result<bool, Refusal> {
    let body = &receipt.body;
    let delivery = open_delivery(recorded, receipt)?;
    let known = recorded.receipts.get(&body.delivery_id).into_iter().flatten();
    let known = known.into_iter().find(|known| (known.source, known.segment) == (body.source, body.segment));
    Ok(delivery.is_some() && adds_to(known, receipt))
}

/// The delivery that a receipt is for; `None` if it is not pending any more.
fn open_delivery<'a>(recorded: &'a Recorded, receipt: &Receipt) -> Result<Option<&'a ReceivedDelivery>, Refusal> {
    let body = &receipt.body;
    let delivery = recorded.deliveries.get(&body.delivery_id).ok_or(Refusal::UnknownDelivery)?;
    if body.segment >= segment_count(delivery.chunks) {
        return Err(Refusal::SegmentBeyondEnd);
    }
    if body.chunks().any(|chunk| chunk >= delivery.chunks) {
        return Err(Refusal::ChunkBeyondEnd);
    }
    Ok(Some(delivery).filter(|delivery| delivery.state == DeliveryState::Pending))
}

fn adds_to(known: Option<&RecordedReceipt>, receipt: &Receipt) -> bool {
    let bitmap = &receipt.body.bitmap;
    match known {
        Some(known) => !is_subset(bitmap, &known.bitmap),
        None => bitmap.iter().any(|&byte| byte != 0),
    }
}

/// Judges verified receipts in their order. One that adds no chunk is passed over. `length_of` gives a chunk's bytes.
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
        match open_delivery(recorded, receipt) {
            Ok(Some(_)) => {}
            Ok(None) => continue,
            Err(refusal) => {
                judgement.refused.push((*place, refusal));
                continue;
            }
        }
        let segment = segments.entry((body.delivery_id, body.segment)).or_default();
        let Some(new) = add(segment, receipt) else { continue };
        judgement.contested += new.contested;
        judgement.contradictions += u32::from(new.contradicts);
        let gain = gained.entry(body.delivery_id).or_default();
        for chunk in segment_chunks(body.segment, &new.credited) {
            gain.0 += 1;
            gain.1 += length_of(body.delivery_id, chunk);
            judgement.fresh.entry(body.delivery_id).or_default().push(chunk);
        }
        let latest = written.entry((body.delivery_id, body.segment, body.source)).or_insert_with(|| receipt.clone());
        if body.sequence >= latest.body.sequence {
            latest.clone_from(receipt);
        }
    }
    judgement.writes = writes(written, &segments, length_of);
    conclude(&mut judgement, recorded, &gained);
    judgement
}

struct New {
    /// Bits that count for the source and did not before.
    credited: [u8; SEGMENT_BYTES],
    contested: u32,
    contradicts: bool,
}

/// Adds one receipt to its segment; `None` if it says nothing new.
fn add(segment: &mut Segment, receipt: &Receipt) -> Option<New> {
    let body = &receipt.body;
    let known = segment.get(&body.source);
    if !adds_to(known, receipt) {
        return None;
    }
    let mut of_others = [0; SEGMENT_BYTES];
    for other in segment.values().filter(|other| other.source != body.source) {
        of_others.iter_mut().zip(&*other.credited).for_each(|(all, credited)| *all |= credited);
    }
    let mut new =
        New { credited: [0; SEGMENT_BYTES], contested: 0, contradicts: known.is_some_and(|known| body.sequence <= known.sequence) };
    let mut sum = known.cloned().unwrap_or_else(|| RecordedReceipt {
        source: body.source,
        segment: body.segment,
        sequence: body.sequence,
        bitmap: Box::new([0; SEGMENT_BYTES]),
        credited: Box::new([0; SEGMENT_BYTES]),
    });
    for (index, taken) in of_others.into_iter().enumerate() {
        let fresh = body.bitmap[index] & !sum.bitmap[index];
        new.contested += (fresh & taken).count_ones();
        new.credited[index] = fresh & !taken;
        sum.credited[index] |= new.credited[index];
        sum.bitmap[index] |= fresh;
    }
    sum.sequence = sum.sequence.max(body.sequence);
    segment.insert(body.source, sum);
    Some(new)
}

fn writes(
    written: BTreeMap<(DeliveryId, u32, TerminalId), Receipt>,
    segments: &BTreeMap<(DeliveryId, u32), Segment>,
    length_of: impl Fn(DeliveryId, u32) -> u64,
) -> Vec<ReceiptWrite> {
    written
        .into_iter()
        .filter_map(|((delivery_id, segment, source), receipt)| {
            let sum = segments.get(&(delivery_id, segment))?.get(&source)?;
            let credited_bytes = segment_chunks(segment, &sum.credited).map(|chunk| length_of(delivery_id, chunk)).sum();
            Some(ReceiptWrite {
                receipt,
                bitmap: sum.bitmap.clone(),
                credited: sum.credited.clone(),
                credited_bytes: protocol::Bytes(credited_bytes),
            })
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
            let (source, segment) = (body.source, body.segment);
            let before = known.iter().position(|known| (known.source, known.segment) == (source, segment));
            let before = before.map_or(0, |before| known.remove(before).sequence);
            let sequence = before.max(body.sequence);
            known.push(RecordedReceipt { source, segment, sequence, bitmap: write.bitmap.clone(), credited: write.credited.clone() });
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
    fn a_receipt_that_adds_nothing_writes_nothing_and_is_no_offence() {
        let mut recorded = delivery(10);
        judged(&mut recorded, vec![receipt(1, 5, 0, &[0, 1])]);
        for known in
            [receipt(1, 5, 0, &[0, 1]), receipt(1, 4, 0, &[0]), receipt(1, 6, 0, &[1]), receipt(1, 9, 0, &[]), receipt(2, 0, 0, &[])]
        {
            assert_eq!(is_news(&recorded, &known), Ok(false));
            let judgement = judged(&mut recorded, vec![known]);
            assert!(judgement.writes.is_empty() && judgement.verified.is_empty() && judgement.refused.is_empty());
            assert_eq!(judgement.contradictions, 0);
        }
        for news in [receipt(1, 0, 0, &[7]), receipt(2, 5, 0, &[0, 1])] {
            assert_eq!(is_news(&recorded, &news), Ok(true));
        }
    }

    #[test]
    fn x03_a_receiver_cannot_void_what_it_signed_by_signing_something_else_first() {
        let mut recorded = delivery(10);
        judged(&mut recorded, vec![receipt(1, u32::MAX, 0, &[9])]);
        let judgement = judged(&mut recorded, vec![receipt(1, 3, 0, &[0, 1, 2]), receipt(1, u32::MAX, 0, &[3])]);
        assert_eq!((judgement.refused.len(), judgement.contradictions), (0, 2));
        assert_eq!(credited(&recorded, 1), [0, 1, 2, 3, 9]);
        let known = &recorded.receipts[&DELIVERY][0];
        assert_eq!(known.sequence, u32::MAX);
        assert_eq!(segment_chunks(0, &known.bitmap).collect::<Vec<_>>(), [0, 1, 2, 3, 9]);
    }

    #[test]
    fn a_receiver_that_lost_its_disk_goes_on_with_small_receipts_and_all_of_them_count() {
        let mut recorded = delivery(10);
        judged(&mut recorded, vec![receipt(1, 3, 0, &[0, 1, 2])]);
        let judgement = judged(&mut recorded, vec![receipt(1, 1, 0, &[5]), receipt(1, 4, 0, &[0, 5, 6, 7])]);
        assert_eq!((judgement.refused.len(), judgement.contradictions), (0, 1));
        assert_eq!(credited(&recorded, 1), [0, 1, 2, 5, 6, 7]);
        assert_eq!(recorded.deliveries[&DELIVERY].verified_chunks, 6);
    }

    #[test]
    fn x03_receipts_count_the_same_in_any_order() {
        let receipts = [receipt(1, 1, 0, &[0]), receipt(1, 2, 0, &[0, 3]), receipt(1, 3, 0, &[0, 3, 4])];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut recorded = delivery(10);
            for place in order {
                judged(&mut recorded, vec![receipts[place].clone()]);
            }
            assert_eq!((credited(&recorded, 1), recorded.deliveries[&DELIVERY].verified_chunks), (vec![0, 3, 4], 3), "{order:?}");
            assert_eq!(recorded.receipts[&DELIVERY][0].sequence, 3);
        }
    }

    #[test]
    fn what_the_edition_does_not_have_is_refused_and_the_rest_is_taken() {
        let mut recorded = delivery(10);
        let mut stranger = receipt(1, 9, 0, &[0, 1]);
        stranger.body.delivery_id = DeliveryId::from_bytes([9; 16]);
        let receipts = vec![receipt(1, 6, 0, &[0, 1, 10]), receipt(3, 0, 1, &[0]), receipt(3, 0, 1, &[]), stranger, receipt(2, 0, 0, &[9])];
        let expected = [Refusal::ChunkBeyondEnd, Refusal::SegmentBeyondEnd, Refusal::SegmentBeyondEnd, Refusal::UnknownDelivery];
        for (receipt, refusal) in receipts.iter().zip(expected) {
            assert_eq!(is_news(&recorded, receipt), Err(refusal), "before its signature is looked at");
        }
        let judgement = judged(&mut recorded, receipts);
        assert_eq!(judgement.refused, expected.into_iter().enumerate().collect::<Vec<_>>());
        assert_eq!(judgement.writes.len(), 1);
        assert_eq!((credited(&recorded, 1), credited(&recorded, 2), credited(&recorded, 3)), (vec![], vec![9], vec![]));
    }

    #[test]
    fn two_receipts_of_one_source_in_one_message_are_written_once() {
        let mut recorded = delivery(10);
        let judgement = judged(&mut recorded, vec![receipt(1, 0, 0, &[0]), receipt(1, 2, 0, &[0, 1]), receipt(1, 1, 0, &[2])]);
        assert_eq!(judgement.writes.len(), 1);
        assert_eq!(judgement.writes[0].receipt, receipt(1, 2, 0, &[0, 1]), "the evidence is the one with the highest sequence");
        assert_eq!(credited(&recorded, 1), [0, 1, 2]);
        assert_eq!(recorded.deliveries[&DELIVERY].verified_chunks, 3);
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
