//! Who is given a chunk to relay, and what the origin sends to everybody itself.

use protocol::BitsPerSecond;
use protocol::ws::{ChunkNotice, ClientMessage, GrantKind, PushMessage};
use reqwest::StatusCode;

use super::Stage;
use super::stage::{CHUNK, Script};
use crate::clock;

/// The machine tells that a chunk has arrived, and (`done`) that its copies are done.
async fn notice(stage: &mut Stage, machine: usize, chunk: u32, done: bool) {
    let (swarm_id, at) = (stage.swarm_id, clock::to_timestamp_ms(clock::now()));
    let notice = ChunkNotice { chunk, received_at: at, copies_done_at: done.then_some(at) };
    stage.machines[machine].send(&ClientMessage::Notices { swarm_id, notices: vec![notice] }).await;
    stage.machines[machine].settle_down().await;
}

async fn credits(stage: &mut Stage, machine: usize, open: u32) {
    let swarm_id = stage.swarm_id;
    stage.machines[machine].send(&ClientMessage::Credits { swarm_id, open }).await;
    stage.machines[machine].settle_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b03_the_relay_with_the_least_measured_overhead_is_given_the_next_chunk() {
    // A quarter of a Mbit in half a second: what may be on its way are four of the longest chunks, or eight of these.
    let change = |config: &mut crate::config::Config| config.origin_up = BitsPerSecond(1 << 19);
    let mut stage = Stage::started(Script { chunks: 40, spare_budget: 0, change, ..Script::default() }).await;
    stage.connect(0..3).await;
    // Machine 1 has its copies done at once, machine 0 never: all that is known of it is its stated uplink.
    assert_eq!((stage.ask(0, 1).await, stage.ask(1, 1).await), (vec![0], vec![1]));
    stage.fetch(1, 1).await;
    notice(&mut stage, 1, 1, true).await;
    notice(&mut stage, 0, 0, false).await;
    // Machine 2 has the line to itself, so that the others wait.
    assert_eq!(stage.ask(2, 8).await.len(), 8);
    credits(&mut stage, 0, 1).await;
    credits(&mut stage, 1, 1).await;
    notice(&mut stage, 2, 2, false).await;
    assert_eq!(stage.granted(1).await, (GrantKind::FirstCopy, vec![10]));
    notice(&mut stage, 2, 3, false).await;
    assert_eq!(stage.granted(0).await, (GrantKind::FirstCopy, vec![11]), "whoever is slower is next");
}

#[tokio::test(flavor = "multi_thread")]
async fn b29_what_a_member_has_signed_for_is_not_given_again_when_its_lease_comes_back() {
    let mut stage = Stage::started(Script { spare_budget: 0, ..Script::default() }).await;
    stage.connect(0..3).await;
    assert_eq!(stage.ask(0, 2).await, [0, 1]);
    let (delivery, source) = (stage.delivery(1), stage.machines[0].id());
    stage.machines[1].send_receipts(delivery, source, &[0]).await;
    stage.machines[1].settle_down().await;
    stage.lose(0).await;
    assert_eq!(stage.ask(2, 2).await, [1, 2], "machine 1 has chunk 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn b13_whoever_is_linked_to_a_machine_that_goes_is_told_at_once() {
    let mut stage = Stage::started(Script { spare_budget: 0, ..Script::default() }).await;
    stage.connect(0..3).await;
    let gone = stage.machines[0].id();
    stage.lose(0).await;
    for machine in 1..3 {
        let told = stage.machines[machine].push(|message| match message {
            PushMessage::PeerGone { swarm_id, terminal_id } => Some((swarm_id, terminal_id)),
            _ => None,
        });
        assert_eq!(told.await, (stage.swarm_id, gone));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b01_an_open_budget_is_used_for_chunks_that_the_origin_sends_to_every_member_itself() {
    let chunks = 8;
    let mut stage = Stage::started(Script { chunks, spare_budget: 2 * chunks * CHUNK, ..Script::default() }).await;
    stage.connect(0..2).await;
    let swarm_id = stage.swarm_id;
    // Whoever speaks is there.
    for machine in 0..2 {
        stage.machines[machine].send(&ClientMessage::Credits { swarm_id, open: 0 }).await;
    }
    // And is given a chunk to copy on before any is sent directly.
    for machine in 0..2 {
        stage.machines[machine].send(&ClientMessage::Credits { swarm_id, open: 1 }).await;
        assert_eq!(stage.granted(machine).await, (GrantKind::FirstCopy, vec![u32::try_from(machine).unwrap()]));
    }
    let mut given = Vec::new();
    for machine in 0..2 {
        let (kind, chunks) = stage.granted(machine).await;
        assert_eq!(kind, GrantKind::Direct);
        given.push(chunks);
    }
    assert!(given[0] == given[1] && given[0][0] == 2, "{given:?}");
    for machine in 0..2 {
        stage.fetch(machine, 2).await;
    }
    let again = stage.machines[0].fetch(&stage.service, stage.swarm_id, 7).await;
    assert_eq!(again.status(), StatusCode::FORBIDDEN, "a direct copy is a lease for one chunk");
    stage.service.state.budgets.write().await.unwrap();
    let origin = stage.release().await.origin;
    assert_eq!(origin.sent.0, 2 * CHUNK as u64);
    assert!(origin.sent <= origin.budget);
}

#[tokio::test(flavor = "multi_thread")]
async fn x07_a_strict_budget_has_nothing_for_direct_copies() {
    let chunks = 40;
    let mut stage = Stage::started(Script { chunks, spare_budget: chunks / 10 * CHUNK, ..Script::default() }).await;
    stage.connect(0..3).await;
    let swarm_id = stage.swarm_id;
    for machine in 0..3 {
        stage.machines[machine].send(&ClientMessage::Credits { swarm_id, open: 1 }).await;
        assert_eq!(stage.granted(machine).await, (GrantKind::FirstCopy, vec![u32::try_from(machine).unwrap()]), "and nothing before it");
    }
}
