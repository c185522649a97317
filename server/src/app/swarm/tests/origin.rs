//! The origin's chunk endpoint: who may fetch what, and the hard cap on what it sends.

use protocol::ErrorCode::{BudgetSpent, InvalidRequest, NoLease, NotFound, NotInSwarm, TooManyRequests};
use protocol::ws::{ClientMessage, PushMessage};
use protocol::{BitsPerSecond, Bytes, ErrorCode};
use reqwest::StatusCode;

use super::Stage;
use super::stage::{CHUNK, Script};
use crate::routes::tests::problem;

async fn refused(stage: &Stage, machine: usize, chunk: u32, code: ErrorCode) {
    problem(stage.machines[machine].fetch(&stage.service, stage.swarm_id, chunk).await, code).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_holder_of_a_lease_is_sent_a_chunk_and_only_while_it_holds_it() {
    let mut stage = Stage::started(Script::default()).await;
    stage.connect(0..2).await;
    refused(&stage, 0, 0, NoLease).await;
    let given = stage.ask(0, 1).await;
    assert_eq!(given, [0]);
    refused(&stage, 1, 0, NoLease).await;
    refused(&stage, 0, 1, NoLease).await;
    refused(&stage, 0, 8, NotFound).await;
    stage.fetch(0, 0).await;
    // In the name of another's terminal.
    let path = format!("/v1/swarms/{}/chunks/0", stage.swarm_id);
    let stolen = stage.service.get(&stage.machines[1].account, &path).header("Spillway-Terminal", stage.machines[0].id().to_string());
    problem(stolen.send().await.unwrap(), NotInSwarm).await;
    problem(stage.service.get(&stage.machines[1].account, &path).send().await.unwrap(), InvalidRequest).await;
    let elsewhere = format!("/v1/swarms/{}/chunks/0", uuid::Uuid::new_v4());
    let nowhere = stage.service.get(&stage.machines[0].account, &elsewhere).header("Spillway-Terminal", stage.machines[0].id().to_string());
    problem(nowhere.send().await.unwrap(), NotInSwarm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_leaves_before_the_wave_opens_or_after_the_deadline() {
    let mut stage = Stage::set(Script::default()).await;
    stage.close().await;
    stage.connect(0..1).await;
    let swarm_id = stage.swarm_id;
    stage.machines[0].send(&ClientMessage::Credits { swarm_id, open: 2 }).await;
    assert_eq!(stage.machines[0].settle_down().await, [], "nothing is given before the start");
    refused(&stage, 0, 0, NoLease).await;
    stage.start().await;
    stage.ask(0, 1).await;
    stage.pass(time::Duration::minutes(11)).await;
    refused(&stage, 0, 0, NoLease).await;
    assert_eq!(stage.release().await.origin.sent, Bytes(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_is_a_hard_cap_and_repairs_leave_room_for_first_copies() {
    let mut stage = Stage::started(Script { spare_budget: 2 * CHUNK, ranks: &[1], ..Script::default() }).await;
    stage.connect(0..1).await;
    assert_eq!(stage.ask(0, 8).await, (0..8).collect::<Vec<_>>());
    // The first chunk three times: once as the first copy, once out of what is to spare, and then no more, although 7 chunks are not sent yet:
    // a quarter of what is to spare is left for them.
    stage.fetch(0, 0).await;
    stage.fetch(0, 0).await;
    refused(&stage, 0, 0, BudgetSpent).await;
    for chunk in 1..8 {
        stage.fetch(0, chunk).await;
    }
    for chunk in 1..8 {
        refused(&stage, 0, chunk, BudgetSpent).await;
    }
    refused(&stage, 0, 0, NoLease).await;
    stage.service.state.budgets.close().await.unwrap();
    let origin = stage.release().await.origin;
    assert_eq!((origin.sent, origin.reserved), (Bytes(9 * CHUNK as u64), Bytes(9 * CHUNK as u64)));
    // Asking for a repair says the same.
    let swarm_id = stage.swarm_id;
    stage.machines[0].send(&ClientMessage::Missing { swarm_id, chunks: vec![0] }).await;
    let code = stage.machines[0].push(|message| match message {
        PushMessage::RepairRefused { code, .. } => Some(code),
        _ => None,
    });
    assert_eq!(code.await, BudgetSpent);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_together_stay_within_the_budget() {
    let mut stage = Stage::started(Script { spare_budget: 0, ranks: &[1], chunks: 40, ..Script::default() }).await;
    stage.connect(0..1).await;
    stage.ask(0, 40).await;
    let other = crate::origin::budget::Budgets::new(stage.service.state.store.clone(), tokio::runtime::Handle::current());
    // What the other instance has taken cannot be sent here any more.
    for _ in 0..10 {
        let taken = other.take(stage.release_id.into(), crate::store::budget::Purpose::FirstCopy, Bytes(CHUNK as u64)).await.unwrap();
        taken.expect("the budget has it").send(CHUNK as u64);
    }
    let mut sent = 0;
    for chunk in 0..40 {
        let response = stage.machines[0].fetch(&stage.service, stage.swarm_id, chunk).await;
        if response.status() == StatusCode::OK {
            sent += 1;
        } else {
            problem(response, BudgetSpent).await;
        }
    }
    assert_eq!(sent, 30);
    // An instance that dies takes its block with it; one that stops gives it back.
    other.close().await.unwrap();
    stage.service.state.budgets.close().await.unwrap();
    let origin = stage.release().await.origin;
    assert_eq!((origin.sent, origin.reserved), (Bytes(40 * CHUNK as u64), Bytes(40 * CHUNK as u64)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_block_goes_back_when_an_instance_stops() {
    let stage = Stage::started(Script { spare_budget: 8 * CHUNK, ranks: &[1], chunks: 2, ..Script::default() }).await;
    let first = crate::origin::budget::Budgets::new(stage.service.state.store.clone(), tokio::runtime::Handle::current());
    first
        .take(stage.release_id.into(), crate::store::budget::Purpose::FirstCopy, Bytes(10))
        .await
        .unwrap()
        .expect("the budget has it")
        .send(10);
    assert_eq!(stage.release().await.origin.reserved, Bytes(CHUNK as u64), "a block");
    first.close().await.unwrap();
    let origin = stage.release().await.origin;
    assert_eq!((origin.sent, origin.reserved), (Bytes(10), Bytes(10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_instances_and_repairs_leave_enough_for_every_first_copy() {
    let mut stage = Stage::started(Script { spare_budget: 4 * CHUNK, ranks: &[1], ..Script::default() }).await;
    stage.connect(0..1).await;
    assert_eq!(stage.ask(0, 8).await.len(), 8);
    // Two instances reserve a block, send next to nothing of it, and are killed: nothing goes back.
    for _ in 0..2 {
        let killed = crate::origin::budget::Budgets::new(stage.service.state.store.clone(), tokio::runtime::Handle::current());
        killed
            .take(stage.release_id.into(), crate::store::budget::Purpose::FirstCopy, Bytes(10))
            .await
            .unwrap()
            .expect("the budget has it")
            .send(10);
    }
    // Repairs take all that they can.
    let repair = || stage.service.state.budgets.take(stage.release_id.into(), crate::store::budget::Purpose::Repair, Bytes(CHUNK as u64));
    let mut repairs = 0;
    while let Some(mut taken) = repair().await.unwrap() {
        taken.send(CHUNK as u64);
        repairs += 1;
    }
    assert_eq!(repairs, 3);
    for chunk in 0..8 {
        stage.fetch(0, chunk).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_of_a_chunk_whose_receiver_left_can_be_sent_again() {
    let stage = Stage::started(Script { spare_budget: 2 * CHUNK, ranks: &[1], chunks: 4, ..Script::default() }).await;
    let budgets = &stage.service.state.budgets;
    let length = CHUNK as u64;
    let take = async |purpose| budgets.take(stage.release_id.into(), purpose, Bytes(length)).await.unwrap();
    let send = async |purpose, bytes| take(purpose).await.expect("the budget has it").send(bytes);
    use crate::store::budget::Purpose::{FirstCopy, Repair};
    // A quarter of the two chunks to spare is kept for killed instances. Three chunks break off at once: 3 × 1 KiB is lost, and no more.
    for _ in 0..3 {
        send(FirstCopy, 1 << 10).await;
    }
    let given_back = async {
        loop {
            budgets.write().await.unwrap();
            let budget = stage.service.state.store.origin_budget(stage.release_id.into()).await.unwrap();
            if budget.cut == Bytes(3 * (length - (1 << 10))) {
                return;
            }
        }
    };
    tokio::time::timeout(super::machine::PATIENCE, given_back).await.expect("what was cut is not written down");
    // All three again, and one more, by their whole length; then nothing but the last first copy is left.
    for _ in 0..4 {
        send(Repair, length).await;
    }
    assert!(take(Repair).await.is_none());
    send(FirstCopy, length).await;
    budgets.close().await.unwrap();
    assert_eq!(stage.release().await.origin.sent, Bytes(5 * length + 3 * (1 << 10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origins_uplink_is_shared_and_never_exceeded() {
    let mut stage = Stage::started(Script {
        change: |config| config.origin_up = BitsPerSecond::from_mbit(8),
        ranks: &[2],
        chunks: 16,
        ..Script::default()
    })
    .await;
    stage.connect(0..2).await;
    let given = [stage.ask(0, 4).await, stage.ask(1, 4).await];
    assert!(given.iter().all(|given| !given.is_empty()));
    let began = tokio::time::Instant::now();
    let fetches = (0..2).flat_map(|machine| given[machine].iter().map(move |&chunk| (machine, chunk)));
    futures_util::future::join_all(fetches.map(|(machine, chunk)| stage.fetch(machine, chunk))).await;
    let bytes = given.iter().map(Vec::len).sum::<usize>() * CHUNK;
    let took = began.elapsed().as_secs_f64();
    // The last piece leaves when it may and arrives a little later; the first pieces left at once.
    let least = (bytes - 2 * (16 << 10)) as f64 / 1_000_000.0 - 0.02;
    assert!(took >= least, "{bytes} bytes took {took} s at 1 MB/s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_with_a_limit_leases_no_more_than_it_can_send_in_a_moment() {
    let mut stage = Stage::started(Script {
        change: |config| config.origin_up = BitsPerSecond::from_mbit(8),
        ranks: &[2],
        chunks: 32,
        ..Script::default()
    })
    .await;
    stage.connect(0..2).await;
    // Half a second of 8 Mbit/s is less than the four largest chunks that may always be leased: 512 KiB.
    assert_eq!(stage.ask(0, 100).await.len(), 8);
    let swarm_id = stage.swarm_id;
    stage.machines[1].send(&ClientMessage::Credits { swarm_id, open: 5 }).await;
    assert_eq!(stage.machines[1].settle_down().await, []);
    let now = crate::clock::to_timestamp_ms(crate::clock::now());
    let notice = protocol::ws::ChunkNotice { chunk: 0, received_at: now, copies_done_at: None };
    stage.machines[0].send(&ClientMessage::Notices { swarm_id, notices: vec![notice] }).await;
    // What became free goes to the one that owes less.
    let chunks = stage.machines[1].push(|message| match message {
        PushMessage::Grant { chunks, .. } => Some(chunks),
        _ => None,
    });
    assert_eq!(chunks.await, [8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_taken_and_not_sent_are_there_for_the_next_one() {
    let stage = Stage::started(Script { spare_budget: 0, ranks: &[1], chunks: 1, ..Script::default() }).await;
    let budgets = &stage.service.state.budgets;
    let take = || budgets.take(stage.release_id.into(), crate::store::budget::Purpose::FirstCopy, Bytes(CHUNK as u64));
    let taken = take().await.unwrap().expect("the budget has it");
    assert!(take().await.unwrap().is_none());
    drop(taken);
    let again = async {
        loop {
            // Giving back is a task of its own.
            if let Some(taken) = take().await.unwrap() {
                return taken;
            }
        }
    };
    let taken = tokio::time::timeout(super::machine::PATIENCE, again).await.expect("the bytes did not come back");
    // Also if the instance gives everything back meanwhile.
    budgets.close().await.unwrap();
    drop(taken);
    let returned = async { while stage.release().await.origin.reserved != Bytes(0) {} };
    tokio::time::timeout(super::machine::PATIENCE, returned).await.expect("the bytes did not go back");
    take().await.unwrap().expect("the budget has it").send(CHUNK as u64);
    budgets.close().await.unwrap();
    assert_eq!(stage.release().await.origin.sent, Bytes(CHUNK as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_never_signs_is_sent_no_more_than_a_window_and_goes_on_as_soon_as_it_signs() {
    let mut stage = Stage::started(Script { ranks: &[1], chunks: 150, ..Script::default() }).await;
    stage.connect(0..1).await;
    assert_eq!(stage.ask(0, 150).await.len(), 150);
    for chunk in 0..128 {
        stage.fetch(0, chunk).await;
    }
    for chunk in 128..132 {
        refused(&stage, 0, chunk, TooManyRequests).await;
    }
    stage.service.state.budgets.write().await.unwrap();
    assert_eq!(stage.release().await.origin.sent, Bytes(128 * CHUNK as u64));
    // Receipts for whichever source do, as for a chunk that came from a terminal first.
    let delivery = stage.delivery(0);
    stage.machines[0].send_receipts(delivery, protocol::TerminalId::ORIGIN, &[0, 1]).await;
    stage.machines[0].settle_down().await;
    stage.fetch(0, 128).await;
    stage.fetch(0, 129).await;
    refused(&stage, 0, 130, TooManyRequests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_signs_is_never_held_up() {
    let mut stage = Stage::started(Script { ranks: &[1], chunks: 300, ..Script::default() }).await;
    stage.connect(0..1).await;
    let (swarm_id, delivery) = (stage.swarm_id, stage.delivery(0));
    let mut fetched = 0;
    while fetched < 300 {
        for chunk in stage.ask(0, 30).await {
            stage.fetch(0, chunk).await;
            stage.machines[0].send_receipts(delivery, protocol::TerminalId::ORIGIN, &[chunk]).await;
            let received_at = crate::clock::to_timestamp_ms(crate::clock::now());
            let notice = protocol::ws::ChunkNotice { chunk, received_at, copies_done_at: Some(received_at) };
            stage.machines[0].send(&ClientMessage::Notices { swarm_id, notices: vec![notice] }).await;
            fetched += 1;
        }
        stage.machines[0].settle_down().await;
    }
    assert_eq!(fetched, 300);
}
