//! Receipts of a receiver that does not play fair, of one that lost its disk, and of pairs that were never planned.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::bitmap::{SEGMENT_BYTES, segment_chunks};
use protocol::receipt::{Receipt, ReceiptBody};
use protocol::rest::DeliveryState;
use protocol::ws::{ClientMessage, PushMessage, ServerMessage};
use protocol::{ErrorCode, Signature, TerminalId, TimestampMs};

use super::Stage;
use super::stage::Script;
use crate::app::swarm;
use crate::store::receipts::RecordedReceipt;

/// A receipt of a machine, with whatever sequence number and chunks the test wants.
fn signed(stage: &Stage, receiver: usize, source: TerminalId, (segment, sequence): (u32, u32), chunks: &[u32]) -> Receipt {
    let mut bitmap = Box::new([0; SEGMENT_BYTES]);
    chunks.iter().for_each(|&chunk| bitmap[(chunk / 8) as usize] |= 1 << (chunk % 8));
    let (delivery_id, at) = (stage.delivery(receiver), TimestampMs(u64::from(sequence)));
    let machine = &stage.machines[receiver];
    ReceiptBody { delivery_id, source, receiver: machine.id(), segment, sequence, at, bitmap }.sign(&machine.key)
}

/// Has a machine submit receipts; answers where the refused ones stood.
async fn submit(stage: &mut Stage, machine: usize, receipts: &[Receipt]) -> Vec<String> {
    let receipts = receipts.iter().map(|receipt| BASE64_STANDARD.encode(receipt.pack())).collect();
    stage.machines[machine].send(&ClientMessage::Receipts { receipts }).await;
    let answers = stage.machines[machine].settle_down().await.into_iter();
    let refused = answers.filter_map(|answer| match answer {
        ServerMessage::Error { code: ErrorCode::InvalidReceipt, pointer, .. } => Some(pointer),
        ServerMessage::Push { .. } => None,
        other => panic!("{other:?}"),
    });
    refused.collect()
}

async fn recorded(stage: &Stage, receiver: usize) -> Vec<RecordedReceipt> {
    let delivery = stage.delivery(receiver);
    let mut known = stage.service.state.store.recorded_receipts(&[(delivery, 0), (delivery, 1)].into()).await.unwrap();
    known.remove(&delivery).unwrap_or_default()
}

/// The signatures that are kept.
async fn evidence(stage: &Stage) -> Vec<Vec<u8>> {
    stage.service.state.store.peek("SELECT signature FROM receipts").await
}

fn credited(known: &[RecordedReceipt], source: TerminalId) -> Vec<u32> {
    let of_source = known.iter().filter(|known| known.source == source);
    of_source.flat_map(|known| segment_chunks(known.segment, &known.credited)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_a_receiver_that_signs_the_highest_sequence_number_first_pays_its_relay_all_the_same() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..2).await;
    let relay = stage.machines[1].id();
    let poison = signed(&stage, 0, relay, (0, u32::MAX), &[7]);
    assert!(submit(&mut stage, 0, std::slice::from_ref(&poison)).await.is_empty());
    let genuine = [signed(&stage, 0, relay, (0, 2), &[0, 1]), signed(&stage, 0, relay, (0, 4), &[0, 1, 2, 3])];
    for receipt in &genuine {
        assert!(submit(&mut stage, 1, std::slice::from_ref(receipt)).await.is_empty(), "the relay hands in what it holds");
    }
    let known = recorded(&stage, 0).await;
    assert_eq!((known.len(), known[0].sequence, credited(&known, relay)), (1, u32::MAX, vec![0, 1, 2, 3, 7]));
    assert_eq!(segment_chunks(0, &known[0].bitmap).collect::<Vec<_>>(), [0, 1, 2, 3, 7]);
    assert_eq!(evidence(&stage).await, [poison.signature.0], "the one that goes with the sequence number");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_lost_its_disk_starts_again_with_small_receipts_and_they_count() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..2).await;
    let relay = stage.machines[1].id();
    for receipt in [signed(&stage, 0, relay, (0, 3), &[0, 1, 2]), signed(&stage, 0, relay, (0, 1), &[4])] {
        assert!(submit(&mut stage, 0, &[receipt]).await.is_empty());
    }
    let known = recorded(&stage, 0).await;
    assert_eq!((known[0].sequence, credited(&known, relay)), (3, vec![0, 1, 2, 4]));
    let later = signed(&stage, 0, relay, (0, 5), &[4, 3, 5, 6, 7]);
    assert!(submit(&mut stage, 0, std::slice::from_ref(&later)).await.is_empty());
    assert_eq!(evidence(&stage).await, [later.signature.0]);
    let known = stage.service.state.store.received_deliveries(&[stage.delivery(0)].into()).await.unwrap();
    assert_eq!(known[&stage.delivery(0)].state, DeliveryState::Settled, "all eight chunks were signed for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_the_edition_does_not_have_is_refused_and_an_empty_receipt_leaves_no_trace() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..2).await;
    let relay = stage.machines[1].id();
    let receipts = [signed(&stage, 0, relay, (1, 1), &[]), signed(&stage, 0, relay, (0, 1), &[]), signed(&stage, 0, relay, (0, 2), &[8])];
    assert_eq!(submit(&mut stage, 0, &receipts).await, ["/receipts/0", "/receipts/2"]);
    assert_eq!(recorded(&stage, 0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_dropped_before_anybody_looks_at_its_signature() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..2).await;
    let relay = stage.machines[1].id();
    let genuine = signed(&stage, 0, relay, (0, 3), &[0, 1, 2]);
    assert!(submit(&mut stage, 0, std::slice::from_ref(&genuine)).await.is_empty());
    let before = recorded(&stage, 0).await;
    let unsigned = |receipt: Receipt| Receipt { signature: Signature([1; 64]), ..receipt };
    let repeated = [unsigned(genuine), unsigned(signed(&stage, 0, relay, (0, 9), &[2]))];
    assert!(submit(&mut stage, 1, &repeated).await.is_empty(), "a look at their signatures would have refused them");
    assert_eq!(recorded(&stage, 0).await, before);
    let news = unsigned(signed(&stage, 0, relay, (0, 4), &[0, 1, 2, 3]));
    assert_eq!(submit(&mut stage, 1, &[news]).await, ["/receipts/0"]);
    assert_eq!(recorded(&stage, 0).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_a_source_counts_once_the_plan_pairs_it_with_the_receiver_and_a_winner_elsewhere_does_not() {
    // Two of the second wave: one pairs with two of the first wave, the other with the third of them.
    let mut stage = Stage::started(Script { ranks: &[3, 2], ..Script::default() }).await;
    stage.connect(0..3).await;
    let late: Vec<TerminalId> = stage.machines[3..].iter().map(super::Machine::id).collect();
    let early = signed(&stage, 0, late[0], (0, 1), &[0]);
    assert_eq!(submit(&mut stage, 0, &[early]).await, ["/receipts/0"], "its wave is not planned");
    stage.pass(time::Duration::minutes(1)).await;
    swarm::on_wave(&stage.service.state, stage.release_id, 1).await.unwrap();
    for machine in 3..5 {
        stage.machines[machine].connect(&stage.service, None).await;
        stage.machines[machine].plan(stage.swarm_id, 2).await;
    }
    let plan = stage.machines[3].plan(stage.swarm_id, 2).await;
    let parents: Vec<TerminalId> = plan.parents.iter().map(|peer| peer.terminal_id).collect();
    let (paired, elsewhere): (Vec<TerminalId>, Vec<TerminalId>) =
        stage.machines[..3].iter().map(super::Machine::id).partition(|terminal| parents.contains(terminal));
    assert!(!paired.is_empty() && !elsewhere.is_empty(), "{plan:?}");
    let receipts = [
        signed(&stage, 3, paired[0], (0, 1), &[0]),
        signed(&stage, 3, elsewhere[0], (0, 1), &[1]),
        signed(&stage, 3, late[1], (0, 1), &[2]),
        signed(&stage, 3, TerminalId::ORIGIN, (0, 1), &[3]),
    ];
    assert_eq!(submit(&mut stage, 3, &receipts).await, ["/receipts/1"]);
    let known = recorded(&stage, 3).await;
    let counted = [paired[0], elsewhere[0], late[1], TerminalId::ORIGIN].map(|source| credited(&known, source));
    assert_eq!(counted, [vec![0], vec![], vec![2], vec![3]]);
    // The other way: an early member may have something from a later one that it serves.
    let parent = stage.machines.iter().position(|machine| machine.id() == paired[0]).unwrap();
    let back = signed(&stage, parent, late[0], (0, 1), &[0]);
    assert_eq!(submit(&mut stage, parent, &[back]).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_signing_a_relays_chunks_for_the_origin_as_well_does_not_keep_the_relay_from_being_paid() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..2).await;
    let relay = stage.machines[1].id();
    let all: Vec<u32> = (0..8).collect();
    let receipts = [
        signed(&stage, 0, relay, (0, 7), &all[..7]),
        signed(&stage, 0, TerminalId::ORIGIN, (0, 2), &[0, 1]),
        signed(&stage, 0, relay, (0, 8), &all),
    ];
    assert!(submit(&mut stage, 0, &receipts).await.is_empty());
    let earned = stage.machines[1].push(|message| match message {
        PushMessage::Earned { earned, .. } => Some(earned),
        _ => None,
    });
    assert!(earned.await.0 > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn x09_what_the_receiver_had_counts_for_its_price_and_in_the_division_as_the_origins() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..2).await;
    let (me, relay) = (stage.machines[0].id(), stage.machines[1].id());
    let from_relay = signed(&stage, 0, relay, (0, 2), &[0, 1]);
    assert!(submit(&mut stage, 0, &[from_relay]).await.is_empty());
    // What it signs for itself afterwards takes nothing from the relay.
    let had = signed(&stage, 0, me, (0, 7), &[1, 2, 3, 4, 5, 6, 7]);
    assert!(submit(&mut stage, 0, &[had]).await.is_empty());
    let (delivery, store) = (stage.delivery(0), &stage.service.state.store);
    let page = store.deliveries(stage.release_id, crate::store::contents::Viewer::Operator, &Default::default()).await.unwrap();
    let settled = page.items.into_iter().find(|shown| shown.id == delivery).unwrap();
    assert_eq!((settled.state, settled.charged), (DeliveryState::Settled, settled.price), "it pays for its rank, not for the bytes");
    let length = stage.edition.length.0;
    let shares: Vec<_> = settled.sources.iter().map(|share| (share.source, share.bytes.0, share.earned.amount.0)).collect();
    // Of the charge a tenth is the fee, and half of the rest is divided: two of eight chunks came from the relay.
    let earned = (settled.charged.amount.0 * 9 / 10 / 2).div_ceil(4);
    let mut expected = vec![(me, length * 6 / 8, 0), (relay, length * 2 / 8, earned)];
    expected.sort_unstable();
    assert_eq!(shares, expected);
    assert_eq!(stage.release().await.origin.sent.0, 0);
    assert_eq!(store.receipted_bitmap(vec![delivery]).await.unwrap()[0], 0b11, "only what was sent counts as sent when Redis is lost");
    store.assert_books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x09_a_receiver_that_had_everything_is_settled_and_nobody_but_the_publisher_earns() {
    let mut stage = Stage::started(Script { ranks: &[1], ..Script::default() }).await;
    stage.connect(0..1).await;
    let me = stage.machines[0].id();
    let had = signed(&stage, 0, me, (0, 8), &(0..8).collect::<Vec<_>>());
    assert!(submit(&mut stage, 0, &[had]).await.is_empty());
    let store = &stage.service.state.store;
    let page = store.deliveries(stage.release_id, crate::store::contents::Viewer::Operator, &Default::default()).await.unwrap();
    let settled = &page.items[0];
    assert_eq!((settled.state, settled.charged, settled.earned.amount.0), (DeliveryState::Settled, settled.price, 0));
    assert_eq!(settled.sources.iter().map(|share| (share.source, share.bytes)).collect::<Vec<_>>(), [(me, stage.edition.length)]);
    store.assert_books_balance().await;
}
