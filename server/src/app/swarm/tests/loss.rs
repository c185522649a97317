//! Redis loses everything in the middle of a release.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::Bytes;
use protocol::bitmap::ChunkSet;
use protocol::ws::{ChunkNotice, ClientMessage, PushMessage};

use super::Stage;
use super::stage::{CHUNK, Script};
use crate::clock;

async fn lose_everything(stage: &Stage) {
    stage.service.state.live.lose_everything().await;
}

/// Answers the question for holdings.
async fn tell_holdings(stage: &mut Stage, machine: usize, held: &[u32], leases: &[u32]) {
    stage.machines[machine].push(|message| matches!(message, PushMessage::ReportHoldings { .. }).then_some(())).await;
    let bitmap = BASE64_STANDARD.encode(held.iter().copied().collect::<ChunkSet>().segment(0));
    let holdings = ClientMessage::Holdings { swarm_id: stage.swarm_id, segment: 0, bitmap, last: true, leases: leases.to_vec() };
    stage.machines[machine].send(&holdings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_live_on_and_nothing_that_is_held_or_leased_is_given_again() {
    let mut stage = Stage::started(Script { ranks: &[2], chunks: 12, spare_budget: 0, ..Script::default() }).await;
    stage.connect(0..2).await;
    let swarm_id = stage.swarm_id;
    assert_eq!(stage.ask(0, 3).await, [0, 1, 2]);
    assert_eq!(stage.ask(1, 3).await, [3, 4, 5]);
    for (machine, chunk) in [(0, 0), (0, 1), (1, 3)] {
        stage.fetch(machine, chunk).await;
        let notice = ChunkNotice { chunk, received_at: clock::to_timestamp_ms(clock::now()), copies_done_at: None };
        stage.machines[machine].send(&ClientMessage::Notices { swarm_id, notices: vec![notice] }).await;
        stage.machines[machine].settle_down().await;
    }
    let before = stage.machines[0].position;
    lose_everything(&stage).await;

    stage.machines[0].send(&ClientMessage::Credits { swarm_id, open: 4 }).await;
    stage.machines[1].send(&ClientMessage::Credits { swarm_id, open: 4 }).await;
    stage.machines[0].push(|message| matches!(message, PushMessage::Reload).then_some(())).await;
    assert_ne!(stage.machines[0].position.epoch, before.epoch, "a new stream");
    tell_holdings(&mut stage, 0, &[0, 1], &[2]).await;
    tell_holdings(&mut stage, 1, &[3], &[4, 5]).await;

    // The session went on: nobody had to connect again, and asking for the plans works.
    stage.machines[0].plans.clear();
    stage.machines[0].send(&ClientMessage::Sync).await;
    stage.machines[0].plan(swarm_id, 1).await;
    let mut given = BTreeSet::new();
    for machine in [0, 1] {
        for chunk in stage.ask(machine, 3).await {
            assert!(given.insert(chunk), "chunk {chunk} was given twice");
        }
    }
    assert_eq!(given, (6..12).collect());
    // The leases that were told hold, and what they are for was never sent: it is within the budget of exactly one copy.
    for (machine, chunk) in [(0, 2), (1, 4), (1, 5)] {
        stage.fetch(machine, chunk).await;
    }
    stage.service.state.budgets.close().await.unwrap();
    assert_eq!(stage.release().await.origin.sent, Bytes(6 * CHUNK as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_release_has_ended_is_not_rebuilt_but_left() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..1).await;
    stage.service.state.store.abort_everything().await;
    lose_everything(&stage).await;
    let swarm_id = stage.swarm_id;
    stage.machines[0].send(&ClientMessage::Credits { swarm_id, open: 1 }).await;
    stage.machines[0].push(|message| matches!(message, PushMessage::Leave { .. }).then_some(())).await;
}
