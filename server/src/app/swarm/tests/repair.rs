//! Chunks that got lost, terminals that died, and neighbours that say so.

use protocol::ws::{ChunkNotice, ClientMessage, GrantKind, PushMessage, ServerMessage, SuspectReason};
use protocol::{ErrorCode, TerminalId};

use super::Stage;
use super::stage::Script;
use crate::app::swarm;
use crate::clock;

async fn notice(stage: &mut Stage, machine: usize, chunk: u32) {
    let swarm_id = stage.swarm_id;
    let notice = ChunkNotice { chunk, received_at: clock::to_timestamp_ms(clock::now()), copies_done_at: None };
    stage.machines[machine].send(&ClientMessage::Notices { swarm_id, notices: vec![notice] }).await;
    stage.machines[machine].settle_down().await;
}

async fn missing(stage: &mut Stage, machine: usize, chunk: u32) -> PushMessage {
    let swarm_id = stage.swarm_id;
    stage.machines[machine].send(&ClientMessage::Missing { swarm_id, chunks: vec![chunk] }).await;
    stage.machines[machine]
        .push(|message| match message {
            message @ (PushMessage::Grant { .. } | PushMessage::RepairRefused { .. }) => Some(message),
            _ => None,
        })
        .await
}

fn refused(message: &PushMessage, code: ErrorCode) -> bool {
    matches!(message, PushMessage::RepairRefused { code: got, .. } if *got == code)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_terminal_leased_goes_to_another_at_once() {
    let mut stage = Stage::started(Script::default()).await;
    stage.connect(0..2).await;
    assert_eq!(stage.ask(0, 3).await, [0, 1, 2]);
    stage.lose(0).await;
    assert_eq!(stage.ask(1, 4).await, [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_died_with_its_first_holder_is_repaired_and_one_that_lives_is_not() {
    let mut stage = Stage::started(Script::default()).await;
    stage.connect(0..3).await;
    assert_eq!(stage.ask(0, 2).await, [0, 1]);
    stage.fetch(0, 0).await;
    notice(&mut stage, 0, 0).await;
    assert!(refused(&missing(&mut stage, 1, 0).await, ErrorCode::Conflict), "machine 0 holds it");
    assert!(refused(&missing(&mut stage, 1, 1).await, ErrorCode::Conflict), "machine 0 leases it");
    assert!(refused(&missing(&mut stage, 1, 5).await, ErrorCode::Conflict), "it will be given in its turn");
    stage.lose(0).await;
    let PushMessage::Grant { kind, chunks, .. } = missing(&mut stage, 1, 0).await else { panic!("no repair") };
    assert_eq!((kind, chunks), (GrantKind::Repair, vec![0]));
    stage.fetch(1, 0).await;
    // Machine 2 was told of the repair by nobody; machine 1 is fetching it.
    assert!(refused(&missing(&mut stage, 2, 0).await, ErrorCode::Conflict));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_a_live_neighbours_receipts_contain_is_not_repaired() {
    let mut stage = Stage::started(Script::default()).await;
    stage.connect(0..3).await;
    assert_eq!(stage.ask(0, 1).await, [0]);
    stage.fetch(0, 0).await;
    notice(&mut stage, 0, 0).await;
    // Machine 2 has it from machine 0, which dies.
    let (delivery, dead) = (stage.delivery(2), stage.machines[0].id());
    stage.machines[2].send_receipts(delivery, dead, &[0]).await;
    stage.machines[2].settle_down().await;
    stage.lose(0).await;
    assert!(refused(&missing(&mut stage, 1, 0).await, ErrorCode::Conflict));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_the_budget_does_not_have_is_refused_by_name() {
    let mut stage = Stage::started(Script { spare_budget: 0, ..Script::default() }).await;
    stage.connect(0..2).await;
    assert_eq!(stage.ask(0, 1).await, [0]);
    stage.fetch(0, 0).await;
    notice(&mut stage, 0, 0).await;
    stage.lose(0).await;
    assert!(refused(&missing(&mut stage, 1, 0).await, ErrorCode::BudgetSpent));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_neighbours_remove_a_silent_terminal_and_one_does_not() {
    let mut stage = Stage::started(Script { ranks: &[4], ..Script::default() }).await;
    stage.connect(0..3).await;
    assert_eq!(stage.ask(0, 2).await, [0, 1]);
    let (swarm_id, terminal_id) = (stage.swarm_id, stage.machines[0].id());
    let report = ClientMessage::Suspect { swarm_id, terminal_id, reason: SuspectReason::Silent };
    stage.machines[1].send(&report).await;
    assert_eq!(stage.ask(1, 1).await, [2]);
    stage.machines[2].send(&report).await;
    assert_eq!(stage.ask(2, 2).await, [0, 1]);
    // It is benched although its WebSocket is well.
    stage.machines[0].send(&ClientMessage::Credits { swarm_id, open: 1 }).await;
    assert_eq!(stage.machines[0].settle_down().await, []);
    // Who is not linked cannot report.
    let stranger = ClientMessage::Suspect { swarm_id, terminal_id: TerminalId::from_bytes([9; 16]), reason: SuspectReason::Silent };
    stage.machines[1].send(&stranger).await;
    let answers = stage.machines[1].settle_down().await;
    assert!(matches!(answers[..], [ServerMessage::Error { code: ErrorCode::NotInSwarm, .. }]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_are_too_long_and_chunks_that_do_not_exist_change_nothing() {
    let mut stage = Stage::started(Script::default()).await;
    stage.connect(0..1).await;
    let swarm_id = stage.swarm_id;
    let notice = |chunk| ChunkNotice { chunk, received_at: protocol::TimestampMs(0), copies_done_at: None };
    let bitmap = |bytes: Vec<u8>| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    for (bad, pointer) in [
        (ClientMessage::Notices { swarm_id, notices: vec![notice(0), notice(8)] }, "/notices/1"),
        (ClientMessage::Notices { swarm_id, notices: vec![notice(0); 513] }, "/notices"),
        (ClientMessage::Missing { swarm_id, chunks: vec![8] }, "/chunks/0"),
        (ClientMessage::Missing { swarm_id, chunks: vec![0; 513] }, "/chunks"),
        (ClientMessage::Holdings { swarm_id, segment: 1, bitmap: bitmap(vec![0; 512]), last: true, leases: vec![] }, "/segment"),
        (ClientMessage::Holdings { swarm_id, segment: 0, bitmap: bitmap(vec![0; 511]), last: true, leases: vec![] }, "/bitmap"),
        (ClientMessage::Holdings { swarm_id, segment: 0, bitmap: bitmap(vec![255; 512]), last: true, leases: vec![] }, "/bitmap"),
        (ClientMessage::Holdings { swarm_id, segment: 0, bitmap: bitmap(vec![0; 512]), last: true, leases: vec![9] }, "/leases/0"),
        (ClientMessage::Receipts { receipts: vec![String::new(); 49] }, "/receipts"),
    ] {
        stage.machines[0].send(&bad).await;
        let answers = stage.machines[0].settle_down().await;
        let [ServerMessage::Error { code: ErrorCode::InvalidRequest, pointer: got, .. }] = &answers[..] else {
            panic!("{bad:?}: {answers:?}")
        };
        assert_eq!(got, pointer);
    }
    assert_eq!(stage.ask(0, 8).await, (0..8).collect::<Vec<_>>());
}

/// Opens the second wave, whose only member is the last machine.
async fn open_second_wave(stage: &mut Stage) -> usize {
    stage.pass(time::Duration::minutes(1)).await;
    swarm::on_wave(&stage.service.state, stage.release_id, 1).await.unwrap();
    let last = stage.machines.len() - 1;
    stage.machines[last].connect(&stage.service, None).await;
    let plan = stage.machines[last].plan(stage.swarm_id, 2).await;
    assert!(!plan.root, "the first wave feeds it");
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_wave_is_not_sent_what_the_first_one_is_still_fetching() {
    let mut stage = Stage::started(Script { ranks: &[1, 1], spare_budget: 0, ..Script::default() }).await;
    stage.connect(0..1).await;
    assert_eq!(stage.ask(0, 2).await, [0, 1]);
    let last = open_second_wave(&mut stage).await;
    stage.fetch(0, 0).await;
    for chunk in [1, 5] {
        assert!(refused(&missing(&mut stage, last, chunk).await, ErrorCode::Conflict), "chunk {chunk} comes down from the first wave");
    }
    // With the first wave gone it is sent the rest, within a budget of one copy of each.
    stage.lose(0).await;
    for chunk in 1..8 {
        let PushMessage::Grant { chunks, .. } = missing(&mut stage, last, chunk).await else { panic!("chunk {chunk} is refused") };
        assert_eq!(chunks, [chunk]);
        stage.fetch(last, chunk).await;
    }
    assert!(refused(&missing(&mut stage, last, 0).await, ErrorCode::BudgetSpent), "this one died with the first wave");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_below_one_that_received_something_and_left_is_fed_by_the_origin_all_the_same() {
    let mut stage = Stage::started(Script { ranks: &[1, 1], ..Script::default() }).await;
    stage.connect(0..1).await;
    assert_eq!(stage.ask(0, 1).await, [0]);
    stage.fetch(0, 0).await;
    let delivery = stage.delivery(0);
    stage.machines[0].send_receipts(delivery, TerminalId::ORIGIN, &[0]).await;
    stage.machines[0].settle_down().await;
    stage.lose(0).await;
    let last = open_second_wave(&mut stage).await;
    for chunk in 0..8 {
        assert!(matches!(missing(&mut stage, last, chunk).await, PushMessage::Grant { .. }), "chunk {chunk}");
        stage.fetch(last, chunk).await;
    }
}
