//! A whole release: chunks given once, passed on by hand, receipts, settlement.

use protocol::rest::{DeliveryState, ReleaseState};
use protocol::ws::{ChunkNotice, ClientMessage, LeaveReason, PushMessage, ServerMessage};
use protocol::{Amount, Bytes, ErrorCode, TerminalId};

use super::Stage;
use super::stage::{CHUNK, Script};
use crate::app::swarm;
use crate::clock;

fn notices(chunks: &[u32]) -> Vec<ChunkNotice> {
    let now = clock::to_timestamp_ms(clock::now());
    chunks.iter().map(|&chunk| ChunkNotice { chunk, received_at: now, copies_done_at: Some(now) }).collect()
}

/// Every machine of the root group asks until there is nothing more to be had; answers who was given what.
async fn take_all(stage: &mut Stage, machines: usize) -> Vec<Vec<u32>> {
    let mut taken = vec![Vec::new(); machines];
    let total = stage.edition.chunks as usize;
    while taken.iter().map(Vec::len).sum::<usize>() < total {
        for (machine, taken) in taken.iter_mut().enumerate() {
            let left = total - taken.len();
            if left == 0 {
                continue;
            }
            let swarm_id = stage.swarm_id;
            stage.machines[machine].send(&ClientMessage::Credits { swarm_id, open: 1 }).await;
            let mut given = Vec::new();
            // The grant is pushed before the answer to a later message, or there was none.
            for message in stage.machines[machine].settle_down().await {
                if let ServerMessage::Push { message: PushMessage::Grant { chunks, .. }, .. } = message {
                    given.extend(chunks);
                }
            }
            for &chunk in &given {
                stage.fetch(machine, chunk).await;
            }
            if !given.is_empty() {
                stage.machines[machine].send(&ClientMessage::Notices { swarm_id, notices: notices(&given) }).await;
            }
            taken.extend(given);
        }
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_gives_each_chunk_once_and_pays_the_relays_out_of_the_receivers() {
    let mut stage = Stage::started(Script { ranks: &[3, 1], ..Script::default() }).await;
    stage.connect(0..3).await;
    let taken = take_all(&mut stage, 3).await;
    let mut all: Vec<u32> = taken.iter().flatten().copied().collect();
    all.sort_unstable();
    assert_eq!(all, (0..8).collect::<Vec<_>>(), "every chunk went out once");

    // The second wave opens: its only member comes late and pulls everything from one of the first.
    stage.pass(time::Duration::minutes(1)).await;
    swarm::on_wave(&stage.service.state, stage.release_id, 1).await.unwrap();
    stage.machines[3].connect(&stage.service, None).await;
    stage.machines[3].plan(stage.swarm_id, 2).await;
    let first = stage.machines[0].plan(stage.swarm_id, 2).await;
    assert_eq!(first.serves.iter().map(|peer| peer.terminal_id).collect::<Vec<_>>(), [stage.machines[3].id()]);

    let ids: Vec<TerminalId> = stage.machines.iter().map(|machine| machine.id()).collect();
    for receiver in 0..3 {
        let delivery = stage.delivery(receiver);
        for (source, chunks) in taken.iter().enumerate() {
            let from = if source == receiver { TerminalId::ORIGIN } else { ids[source] };
            stage.machines[receiver].send_receipts(delivery, from, chunks).await;
        }
    }
    for receiver in 0..3 {
        let (charged, _) = settled(&mut stage, receiver).await;
        assert!(charged.0 >= 1_000, "at least the reserve");
    }
    assert_eq!(stage.release().await.state, ReleaseState::Live, "one delivery is pending");

    let delivery = stage.delivery(3);
    stage.machines[3].send_receipts(delivery, ids[0], &(0..8).collect::<Vec<_>>()).await;
    settled(&mut stage, 3).await;
    let earned = stage.machines[0].push(|message| match message {
        PushMessage::Earned { earned, .. } => Some(earned),
        _ => None,
    });
    assert!(earned.await.0 > 0);
    for machine in &mut stage.machines {
        let reason = machine.push(|message| match message {
            PushMessage::Leave { reason, .. } => Some(reason),
            _ => None,
        });
        assert_eq!(reason.await, LeaveReason::Settled);
    }
    let release = stage.release().await;
    assert_eq!(release.state, ReleaseState::Settled);
    assert_eq!(release.origin.sent, Bytes(8 * CHUNK as u64), "the origin sent each chunk once");
    stage.service.state.store.assert_books_balance().await;
}

/// Waits for a machine's settlement: (charged, earned).
async fn settled(stage: &mut Stage, machine: usize) -> (Amount, Amount) {
    stage.machines[machine]
        .push(|message| match message {
            PushMessage::Settled { charged, earned, .. } => Some((charged, earned)),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_receipts_from_both_ends_and_repeated_ones_count_once() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..2).await;
    let (delivery, source) = (stage.delivery(0), stage.machines[1].id());
    let receipts = stage.machines[0].sign(delivery, source, &[0, 1, 2]);
    for machine in [1, 0, 1, 0] {
        stage.machines[machine].send(&ClientMessage::Receipts { receipts: receipts.clone() }).await;
        assert_eq!(stage.machines[machine].settle_down().await, []);
    }
    let page = stage.service.state.store.deliveries(stage.release_id, crate::store::contents::Viewer::Operator, &Default::default()).await;
    let shown = page.unwrap().items.into_iter().find(|shown| shown.id == delivery).unwrap();
    assert_eq!((shown.verified, shown.state), (Bytes(3 * CHUNK as u64), DeliveryState::Pending));
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_a_receipt_that_somebody_made_up_is_refused_and_the_good_one_beside_it_is_taken() {
    let mut stage = Stage::started(Script { ranks: &[3], ..Script::default() }).await;
    stage.connect(0..3).await;
    let (own, other) = (stage.delivery(0), stage.delivery(1));
    let ids: Vec<TerminalId> = stage.machines.iter().map(|machine| machine.id()).collect();
    let mut receipts = Vec::new();
    receipts.extend(stage.machines[0].sign(own, ids[1], &[0]));
    // Of a delivery that is not the signer's.
    receipts.extend(stage.machines[0].sign(other, ids[2], &[0]));
    // From itself, as if it had needed nobody, for another's delivery.
    receipts.extend(stage.machines[0].sign(other, ids[0], &[1]));
    // From a terminal that is no winner.
    receipts.extend(stage.machines[0].sign(own, TerminalId::from_bytes([7; 16]), &[1]));
    // Of a chunk that does not exist.
    receipts.extend(stage.machines[0].sign(own, TerminalId::ORIGIN, &[8]));
    // Between two others.
    let foreign = stage.machines[1].sign(other, ids[2], &[3]);
    receipts.extend(foreign.clone());
    receipts.push("AAAA".to_owned());
    // With a signature of another's key.
    let mut forged =
        protocol::receipt::Receipt::unpack(&base64::Engine::decode(&base64::prelude::BASE64_STANDARD, &foreign[0]).unwrap()).unwrap();
    forged.body.source = ids[0];
    receipts.push(base64::Engine::encode(&base64::prelude::BASE64_STANDARD, forged.pack()));
    stage.machines[0].send(&ClientMessage::Receipts { receipts }).await;
    let answers = stage.machines[0].settle_down().await;
    let pointers: Vec<String> = answers
        .into_iter()
        .map(|answer| match answer {
            ServerMessage::Error { code: ErrorCode::InvalidReceipt, pointer, .. } => pointer,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pointers, [1, 2, 3, 4, 5, 6, 7].map(|index| format!("/receipts/{index}")));
    let known = stage.service.state.store.received_deliveries(&[own, other].into()).await.unwrap();
    assert_eq!((known[&own].verified_chunks, known[&other].verified_chunks), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_what_arrived_is_paid_and_what_did_not_is_free() {
    let mut stage = Stage::started(Script { ranks: &[3], ..Script::default() }).await;
    stage.connect(0..2).await;
    let delivery = stage.delivery(0);
    stage.machines[0].send_receipts(delivery, TerminalId::ORIGIN, &[0, 1, 2, 3]).await;
    stage.machines[0].settle_down().await;
    stage.pass(time::Duration::minutes(10)).await;
    swarm::on_deadline(&stage.service.state, stage.release_id).await.unwrap();
    swarm::on_deadline(&stage.service.state, stage.release_id).await.unwrap();
    let (charged, _) = settled(&mut stage, 0).await;
    let page = stage.service.state.store.deliveries(stage.release_id, crate::store::contents::Viewer::Operator, &Default::default()).await;
    let mut outcomes: Vec<_> = page.unwrap().items.iter().map(|delivery| (delivery.state, delivery.charged.amount)).collect();
    outcomes.sort_by_key(|(_, charged)| *charged);
    assert_eq!(outcomes, [(DeliveryState::Released, Amount(0)), (DeliveryState::Released, Amount(0)), (DeliveryState::Settled, charged)]);
    assert_eq!(charged, Amount(500), "half of the edition at the reserve");
    assert_eq!(stage.release().await.state, ReleaseState::Settled);
    stage.service.state.store.assert_books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_delivery_that_nobody_settled_is_found_and_settled() {
    let mut stage = Stage::started(Script { ranks: &[1], ..Script::default() }).await;
    stage.connect(0..1).await;
    let delivery = stage.delivery(0);
    let receipts = stage.machines[0].sign(delivery, TerminalId::ORIGIN, &(0..8).collect::<Vec<_>>());
    // As if the instance had died right after it recorded the receipts.
    let receipt =
        protocol::receipt::Receipt::unpack(&base64::Engine::decode(&base64::prelude::BASE64_STANDARD, &receipts[0]).unwrap()).unwrap();
    let (bitmap, credited) = (receipt.body.bitmap.clone(), receipt.body.bitmap.clone());
    let write = crate::store::receipts::ReceiptWrite { receipt, bitmap, credited, credited_bytes: protocol::Bytes(0) };
    let verified =
        crate::store::receipts::VerifiedWrite { delivery_id: delivery, chunks: 8, bytes: Bytes(8 * CHUNK as u64), complete: true };
    let store = &stage.service.state.store;
    store.update_receipts(&[(delivery, 0)].into(), clock::now(), |_| (vec![write], vec![verified], ())).await.unwrap();
    swarm::settling::settle_left_over(&stage.service.state).await.unwrap();
    assert!(settled(&mut stage, 0).await.0.0 >= 1_000);
    assert_eq!(stage.release().await.state, ReleaseState::Settled);
}
