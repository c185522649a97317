//! Who is told which plan, and when.

use std::collections::BTreeSet;

use protocol::rest::ReleaseState;
use protocol::ws::{ClientMessage, LeaveReason, PushMessage, ServerMessage};
use reqwest::StatusCode;

use super::Stage;
use super::stage::Script;
use crate::app::swarm::{self, planning};

#[tokio::test(flavor = "multi_thread")]
async fn wave_0_is_told_at_closing_and_nothing_of_a_later_wave_before_it_opens() {
    let mut stage = Stage::set(Script { ranks: &[2, 2], ..Script::default() }).await;
    for machine in &mut stage.machines {
        machine.connect(&stage.service, None).await;
        assert_eq!(machine.settle_down().await, [], "nothing is planned yet");
    }
    stage.close().await;
    let swarm_id = stage.swarm_id;
    for index in 0..2 {
        let plan = stage.machines[index].plan(swarm_id, 1).await;
        assert!(plan.root && plan.children.is_empty() && plan.serves.is_empty());
        assert_eq!((plan.rank, plan.members.len()), (1, 1));
    }
    stage.start().await;
    for index in 2..4 {
        assert_eq!(stage.machines[index].settle_down().await, []);
        stage.machines[index].send(&ClientMessage::Credits { swarm_id, open: 1 }).await;
        let answers = stage.machines[index].settle_down().await;
        assert!(matches!(answers[..], [ServerMessage::Error { code: protocol::ErrorCode::NotInSwarm, .. }]), "{answers:?}");
    }
    stage.pass(time::Duration::minutes(1)).await;
    swarm::on_wave(&stage.service.state, stage.release_id, 1).await.unwrap();
    let later: BTreeSet<_> = stage.machines[2..].iter().map(|machine| machine.id()).collect();
    for index in 0..4 {
        let plan = stage.machines[index].plan(swarm_id, 2).await;
        if index < 2 {
            let told: BTreeSet<_> = plan.children.iter().flat_map(|child| &child.contacts).map(|peer| peer.terminal_id).collect();
            assert!(!told.is_empty() && told.is_subset(&later));
        } else {
            assert!(!plan.root && plan.rank == 2 && !plan.parents.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b13_b17_a_wave_that_nobody_told_is_told_at_the_next_look() {
    let mut stage = Stage::started(Script { ranks: &[2, 2], ..Script::default() }).await;
    stage.connect(0..2).await;
    let swarm_id = stage.swarm_id;
    assert_eq!(stage.machines[0].plan(swarm_id, 1).await.children, []);
    stage.pass(time::Duration::minutes(1)).await;
    // An instance plans the wave and dies before it tells anybody.
    let state = &stage.service.state;
    let before = state.swarms.reload(swarm_id).await.unwrap();
    assert_eq!(planning::store_new_wave(state, &before, 1).await.unwrap().len(), 1);
    state.swarms.reload(swarm_id).await.unwrap();
    for index in 0..2 {
        let plan = stage.machines[index].plan(swarm_id, 2).await;
        assert_eq!(plan.children.len(), 1, "who is linked below is named: {plan:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn planning_twice_or_on_two_instances_at_once_makes_one_plan() {
    let stage = Stage::set(Script { ranks: &[20], chunks: 2, ..Script::default() }).await;
    stage.pass(time::Duration::minutes(10)).await;
    let state = &stage.service.state;
    state.store.close_release(stage.release_id, crate::clock::now()).await.unwrap();
    let plans = (0..4).map(|_| swarm::on_closed(state, stage.release_id));
    for outcome in futures_util::future::join_all(plans).await {
        outcome.unwrap();
    }
    let plan = state.store.stored_plan(stage.swarm_id).await.unwrap();
    assert_eq!(plan.groups.iter().map(|group| group.members.len()).collect::<Vec<_>>(), [10, 10]);
    assert_eq!(plan.groups.iter().map(|group| group.root).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn b29_a_group_with_two_child_groups_is_stored_and_told_as_it_was_planned() {
    // 24 terminals and two chunks: three groups of eight have the shortest tree.
    let mut stage = Stage::set(Script { ranks: &[24], chunks: 2, ..Script::default() }).await;
    stage.close().await;
    let stored = stage.service.state.store.stored_plan(stage.swarm_id).await.unwrap().groups;
    let ids: Vec<_> = stored.iter().map(|group| group.id).collect();
    assert_eq!(stored.iter().map(|group| group.parent).collect::<Vec<_>>(), [None, Some(ids[0]), Some(ids[0])]);
    assert_eq!(stored.iter().map(|group| group.members.len()).collect::<Vec<_>>(), [8, 8, 8]);
    stage.connect(0..24).await;
    for machine in &stage.machines {
        let plan = &machine.plans[&stage.swarm_id];
        let children: Vec<_> = plan.children.iter().map(|child| child.group_id).collect();
        assert_eq!(children, if plan.group_id == ids[0] { &ids[1..] } else { &[] });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_that_finds_nobody_there_is_fed_by_the_origin() {
    let mut stage = Stage::started(Script { ranks: &[1, 2], ..Script::default() }).await;
    stage.pass(time::Duration::minutes(1)).await;
    swarm::on_wave(&stage.service.state, stage.release_id, 1).await.unwrap();
    stage.connect(1..3).await;
    assert!(stage.machines[1].plans[&stage.swarm_id].root);
    assert_eq!(stage.ask(1, 1).await, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn b29_a_server_that_missed_the_opening_before_makes_no_second_root() {
    let mut stage = Stage::started(Script { ranks: &[1, 2], ..Script::default() }).await;
    stage.pass(time::Duration::minutes(1)).await;
    // It comes back just now: nobody has had the time to connect again.
    stage.service.state.started_at = crate::clock::now();
    swarm::on_wave(&stage.service.state, stage.release_id, 1).await.unwrap();
    stage.connect(1..3).await;
    let plan = &stage.machines[1].plans[&stage.swarm_id];
    assert!(!plan.root && !plan.parents.is_empty(), "{plan:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_asks_again_is_told_its_plan_again() {
    let mut stage = Stage::started(Script::default()).await;
    stage.connect(0..1).await;
    stage.machines[0].plans.clear();
    stage.machines[0].send(&ClientMessage::Sync).await;
    let again = stage.machines[0].plan(stage.swarm_id, 1).await;
    assert_eq!(again.swarm_id, stage.swarm_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_release_is_left_by_everybody() {
    let mut stage = Stage::set(Script::default()).await;
    stage.close().await;
    stage.connect(0..2).await;
    let path = format!("/v1/releases/{}/cancel", stage.release_id);
    let cancel = stage.service.post(&stage.publisher, &path, &serde_json::json!({})).header("Idempotency-Key", "cancel");
    assert_eq!(cancel.send().await.unwrap().status(), StatusCode::OK);
    swarm::on_cancelled(&stage.service.state, stage.release_id).await.unwrap();
    for machine in &mut stage.machines[..2] {
        let reason = machine.push(|message| match message {
            PushMessage::Leave { reason, .. } => Some(reason),
            _ => None,
        });
        assert_eq!(reason.await, LeaveReason::Cancelled);
    }
    assert_eq!(stage.release().await.state, ReleaseState::Cancelled);
    // One that was away learns it when it comes.
    stage.machines[2].connect(&stage.service, None).await;
    let reason = stage.machines[2].push(|message| match message {
        PushMessage::Leave { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason.await, LeaveReason::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_nobody_won_ends_at_its_start() {
    let stage = Stage::set(Script { ranks: &[0], ..Script::default() }).await;
    stage.close().await;
    stage.start().await;
    assert_eq!(stage.release().await.state, ReleaseState::Settled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_is_loaded_for_its_members_only_and_once_for_many_at_a_time() {
    let stage = Stage::started(Script::default()).await;
    let (swarms, swarm_id) = (&stage.service.state.swarms, stage.swarm_id);
    let (member, stranger) = (stage.machines[0].id(), protocol::TerminalId::from_bytes([9; 16]));
    swarms.forget(swarm_id);
    assert!(swarms.with_member(swarm_id, stranger).await.unwrap().is_none());
    assert!(!swarms.has_at_hand(swarm_id), "a stranger makes nothing be read");
    let found = futures_util::future::join_all((0..40).map(|_| swarms.with_member(swarm_id, member))).await;
    let found: Vec<_> = found.into_iter().map(|found| found.unwrap().expect("it is a member")).collect();
    assert!(found.iter().all(|swarm| std::sync::Arc::ptr_eq(swarm, &found[0])), "it was loaded more than once");
    assert!(swarms.with_member(protocol::SwarmId::from_bytes([9; 16]), member).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_release_pays_for_what_has_arrived_and_is_left_by_everybody() {
    let mut stage = Stage::set(Script { ranks: &[2, 1], ..Script::default() }).await;
    stage.close().await;
    let path = format!("/v1/releases/{}/abort", stage.release_id);
    let abort = |stage: &Stage, account: &crate::routes::tests::Account, key: &str| {
        stage.service.post(account, &path, &serde_json::json!({})).header("Idempotency-Key", key.to_owned()).send()
    };
    crate::routes::tests::problem(abort(&stage, &stage.publisher, "early").await.unwrap(), protocol::ErrorCode::Conflict).await;
    stage.start().await;
    stage.connect(0..2).await;
    assert_eq!(stage.ask(0, 4).await.len(), 4);
    for chunk in 0..4 {
        stage.fetch(0, chunk).await;
    }
    let delivery = stage.delivery(0);
    stage.machines[0].send_receipts(delivery, protocol::TerminalId::ORIGIN, &[0, 1, 2, 3]).await;
    stage.machines[0].settle_down().await;
    let other = stage.service.account("petra", protocol::rest::Role::Publisher).await;
    crate::routes::tests::problem(abort(&stage, &other, "not-mine").await.unwrap(), protocol::ErrorCode::NotFound).await;
    let answer = abort(&stage, &stage.publisher, "abort").await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    for machine in &mut stage.machines[..2] {
        let reason = machine.push(|message| match message {
            PushMessage::Leave { reason, .. } => Some(reason),
            _ => None,
        });
        assert_eq!(reason.await, LeaveReason::Aborted);
    }
    let charged = stage.machines[0].push(|message| match message {
        PushMessage::Settled { charged, .. } => Some(charged),
        _ => None,
    });
    assert!(charged.await.0 > 0, "half of the edition has arrived");
    assert_eq!(stage.release().await.state, ReleaseState::Aborted);
    let store = &stage.service.state.store;
    assert!(store.pending_deliveries(stage.release_id, None, 10).await.unwrap().is_empty(), "nothing is held any more");
    store.assert_books_balance().await;
    // The rest of the work is not to be done: no later wave opens.
    swarm::on_wave(&stage.service.state, stage.release_id, 1).await.unwrap();
    assert_eq!(stage.release().await.state, ReleaseState::Aborted);
    assert!(store.noted_work().await.iter().all(|work| work.done || work.kind == "deadline"));
    crate::routes::tests::problem(abort(&stage, &stage.publisher, "again").await.unwrap(), protocol::ErrorCode::ReleaseClosed).await;
}
