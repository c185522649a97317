//! Due work over a real Postgres and a real Redis.

use std::time::Duration;

use protocol::rest::{DeliveryState, ReleaseState};
use protocol::ws::{ClientMessage, PushMessage};
use time::OffsetDateTime;

use super::run;
use crate::app::swarm::tests::Stage;
use crate::app::swarm::tests::machine::PATIENCE;
use crate::app::swarm::tests::stage::Script;
use crate::clock;
use crate::routes::tests::Service;
use crate::store::contents::Viewer;
use crate::store::due_work::{CLAIM_FOR, WorkKind};
use crate::store::rehearsal::NotedWork;
use crate::ws::tests::outage::gated_redis;

/// Puts the closing, the start and the deadline of a stage's release so many milliseconds from now.
async fn schedule(stage: &Stage, closes: i64, starts: i64, deadline: i64) {
    let at = |ms| clock::now() + time::Duration::milliseconds(ms);
    let (closes, starts, deadline) = (at(closes), at(starts), at(deadline));
    stage.service.state.store.set_times(closes, starts, deadline).await;
}

async fn until_state(stage: &Stage, state: ReleaseState) {
    let wait = async {
        while stage.release().await.state != state {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(2 * PATIENCE, wait).await;
    assert!(waited.is_ok(), "the release is {:?}, not {state:?}; {:?}", stage.release().await.state, work(stage).await);
}

async fn work(stage: &Stage) -> Vec<NotedWork> {
    stage.service.state.store.noted_work().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_runs_from_its_closing_to_its_deadline_by_itself_each_step_once_whoever_is_free() {
    let mut stage = Stage::set(Script { ranks: &[2], ..Script::default() }).await;
    stage.machines[0].connect(&stage.service, None).await;
    schedule(&stage, 300, 1_000, 3_000).await;
    let starts_at = stage.release().await.starts_at;
    let instances = [tokio::spawn(run(stage.service.state.clone())), tokio::spawn(run(stage.service.state.clone()))];
    let swarm_id = stage.swarm_id;
    let plan = stage.machines[0].plan(swarm_id, 1).await;
    assert_eq!(plan.opens_at, clock::to_timestamp_ms(starts_at));
    // Asked before the start, given at the start without asking again.
    assert!(clock::now() < starts_at, "the test was too slow to see the plan before the start");
    stage.machines[0].send(&ClientMessage::Credits { swarm_id, open: 3 }).await;
    assert_eq!(stage.granted(0).await.1, [0, 1, 2]);
    let late = clock::now() - starts_at;
    assert!(late >= time::Duration::ZERO && late < time::Duration::milliseconds(500), "given {late} after the start");
    until_state(&stage, ReleaseState::Live).await;
    let delivery = plan.delivery_id;
    stage.machines[0].send_receipts(delivery, protocol::TerminalId::ORIGIN, &[0, 1, 2]).await;
    until_state(&stage, ReleaseState::Settled).await;
    stage.machines[0].push(|message| matches!(message, PushMessage::Settled { .. }).then_some(())).await;
    let page = stage.service.state.store.deliveries(stage.release_id, Viewer::Operator, &Default::default()).await.unwrap();
    let mut states: Vec<_> = page.items.iter().map(|delivery| (delivery.verified.0 > 0, delivery.state)).collect();
    states.sort_by_key(|(verified, _)| *verified);
    assert_eq!(states, [(false, DeliveryState::Released), (true, DeliveryState::Settled)]);
    stage.service.stop.send_replace(true);
    for instance in instances {
        tokio::time::timeout(PATIENCE, instance).await.expect("an instance does not stop").unwrap();
    }
    let work = work(&stage).await;
    let kinds: Vec<&str> = work.iter().map(|work| work.kind.as_str()).collect();
    assert_eq!(kinds, ["open", "close", "wave", "deadline"]);
    assert!(work.iter().all(|work| work.attempts == 1 && work.done && work.last_error.is_none()), "{work:?}");
    stage.service.state.store.assert_books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_standstill_everything_overdue_is_done_at_once_and_the_waves_in_order() {
    let stage = Stage::set(Script { ranks: &[1, 1], ..Script::default() }).await;
    schedule(&stage, -200_000, -190_000, -1_000).await;
    let instance = tokio::spawn(run(stage.service.state.clone()));
    until_state(&stage, ReleaseState::Settled).await;
    let all_done = async {
        while work(&stage).await.iter().any(|work| !work.done) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_done).await.expect("something is left undone");
    stage.service.stop.send_replace(true);
    instance.await.unwrap();
    let work = work(&stage).await;
    // The deadline waits for the closing only.
    let mut kinds: Vec<&str> = work.iter().map(|work| work.kind.as_str()).collect();
    assert_eq!(kinds[..2], ["open", "close"]);
    kinds[2..].sort_unstable();
    assert_eq!(kinds[2..], ["deadline", "wave", "wave"]);
    // Nobody received anything, so everything that was set aside is free again.
    let wallet = stage.service.state.store.wallet(stage.machines[0].account.user.id).await.unwrap();
    assert_eq!((wallet.available.amount.0, wallet.held.amount.0), (10_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_fails_is_noted_and_tried_again_and_what_follows_waits_for_it() {
    let (gate, url) = gated_redis().await;
    let service = Service::start_with(move |config| config.redis_url = url).await;
    let mut stage = Stage::set_on(service, Script { ranks: &[1], ..Script::default() }).await;
    stage.machines[0].connect(&stage.service, None).await;
    gate.close();
    schedule(&stage, -3_000, -2_000, 60_000).await;
    let instance = tokio::spawn(run(stage.service.state.clone()));
    let noted = async {
        while !work(&stage).await.iter().any(|work| work.kind == "close" && !work.done && work.last_error.is_some()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, noted).await.expect("the failure was not noted");
    assert_eq!(stage.release().await.state, ReleaseState::Closed, "the books are cleared whatever becomes of the plan");
    gate.open();
    until_state(&stage, ReleaseState::Live).await;
    let close = work(&stage).await.into_iter().find(|work| work.kind == "close").unwrap();
    assert!(close.attempts >= 2 && close.done && close.last_error.is_none(), "{close:?}");
    let swarm_id = stage.swarm_id;
    stage.machines[0].plan(swarm_id, 1).await;
    stage.service.stop.send_replace(true);
    instance.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_keeps_others_away_until_it_expires_and_what_precedes_comes_first() {
    let stage = Stage::set(Script { ranks: &[1], chunks: 1, ..Script::default() }).await;
    // The start is overdue for longer than the closing.
    schedule(&stage, -9_000, -5_000, 60_000).await;
    let store = &stage.service.state.store;
    let now = clock::now();
    store.set_due("close", now - time::Duration::seconds(1)).await;
    let claim = |at: OffsetDateTime| store.claim_work(at);
    let open = claim(now).await.unwrap().unwrap();
    assert_eq!((open.kind, open.attempts), (WorkKind::Open, 1));
    assert_eq!(claim(now).await.unwrap(), None, "the opening is not done");
    let again = claim(now + CLAIM_FOR).await.unwrap().unwrap();
    assert_eq!((again.kind, again.attempts), (WorkKind::Open, 2), "whoever claimed it has died");
    store.renew_work(&again, now + CLAIM_FOR).await.unwrap();
    assert_eq!(claim(now + CLAIM_FOR).await.unwrap(), None);
    store.finish_work(&again, now).await.unwrap();
    let close = claim(now).await.unwrap().unwrap();
    assert_eq!(close.kind, WorkKind::Close);
    store.postpone_work(&close, now + time::Duration::seconds(1), "no").await.unwrap();
    assert_eq!(claim(now).await.unwrap(), None);
    assert_eq!(store.next_work_at().await.unwrap().map(|at| at > now), Some(true), "the start is overdue, but it waits for the closing");
    let close = claim(now + time::Duration::seconds(1)).await.unwrap().unwrap();
    store.finish_work(&close, now).await.unwrap();
    let wave = claim(now).await.unwrap().unwrap();
    assert_eq!(wave.kind, WorkKind::Wave(0));
    store.finish_work(&wave, now).await.unwrap();
    assert_eq!(claim(now).await.unwrap(), None, "the deadline is not over");
    // Done is done, also for a slow instance that comes later.
    store.postpone_work(&wave, now, "late").await.unwrap();
    assert_eq!(claim(now).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_waits_for_the_closing_and_for_no_wave() {
    let stage = Stage::set(Script { ranks: &[1, 1], chunks: 1, ..Script::default() }).await;
    schedule(&stage, -9_000, -5_000, -1_000).await;
    let store = &stage.service.state.store;
    let now = clock::now();
    for kind in [WorkKind::Open, WorkKind::Close] {
        let work = store.claim_work(now).await.unwrap().unwrap();
        assert_eq!((work.kind, store.claim_work(now).await.unwrap()), (kind, None));
        store.finish_work(&work, now).await.unwrap();
    }
    let wave = store.claim_work(now).await.unwrap().unwrap();
    assert_eq!(wave.kind, WorkKind::Wave(0));
    store.postpone_work(&wave, now + time::Duration::hours(1), "it fails for ever").await.unwrap();
    let deadline = store.claim_work(now).await.unwrap().unwrap();
    assert_eq!(deadline.kind, WorkKind::Deadline);
    store.finish_work(&deadline, now).await.unwrap();
    assert_eq!(store.claim_work(now).await.unwrap(), None);
    let next = store.next_work_at().await.unwrap().unwrap();
    assert!(next > now + time::Duration::minutes(59), "the second wave is due at {next}, but it waits for the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_a_delivery_that_cannot_be_settled_keeps_nobody_elses_money() {
    let mut stage = Stage::started(Script { ranks: &[3], ..Script::default() }).await;
    stage.connect(0..1).await;
    let delivery = stage.delivery(0);
    stage.machines[0].send_receipts(delivery, protocol::TerminalId::ORIGIN, &[0, 1]).await;
    stage.machines[0].settle_down().await;
    let store = &stage.service.state.store;
    // What is received cannot be counted any more: the manifest does not fit.
    store.tamper("UPDATE release_editions SET chunks = 9").await;
    stage.pass(time::Duration::minutes(10)).await;
    crate::app::swarm::on_deadline(&stage.service.state, stage.release_id).await.unwrap_err();
    let page = store.deliveries(stage.release_id, Viewer::Operator, &Default::default()).await.unwrap();
    for shown in page.items {
        let expected = if shown.id == delivery { DeliveryState::Pending } else { DeliveryState::Released };
        assert_eq!(shown.state, expected);
    }
    let wallet = store.wallet(stage.machines[1].account.user.id).await.unwrap();
    assert_eq!((wallet.available.amount.0, wallet.held.amount.0), (10_000, 0));
    store.tamper("UPDATE release_editions SET chunks = 8").await;
    crate::app::swarm::on_deadline(&stage.service.state, stage.release_id).await.unwrap();
    assert_eq!(stage.release().await.state, ReleaseState::Settled);
    store.assert_books_balance().await;
}
