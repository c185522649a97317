//! What a rank owes the others, and what follows from leaving.

use std::time::Duration;

use protocol::rest::{Delivery, DutyStanding, Hold, HoldReason, Page, TransferKind, WalletEntry};
use protocol::{ErrorCode, TerminalId};
use serde_json::json;
use tests::{Person, Plan, Stack, eventually, payload};

use crate::scene::Scene;

const DEPOSIT: u64 = 500;
const DUTY_S: u32 = 12;

async fn delivery(scene: &Scene, terminal: TerminalId) -> Delivery {
    let deliveries = scene.publisher.deliveries(scene.release.id).await;
    deliveries.into_iter().find(|delivery| delivery.terminal_id == terminal).expect("it has won")
}

/// The duty of a terminal once it has ended.
async fn ended(scene: &Scene, terminal: TerminalId) -> DutyStanding {
    eventually("the relay duty has ended", Duration::from_secs(60), || async {
        delivery(scene, terminal).await.duty.filter(|duty| duty.forfeited.is_some())
    })
    .await
}

async fn held_for_duty(person: &Person) -> Vec<u64> {
    let page: Page<Hold> = person.get("/v1/wallet/holds").await.expect();
    let duties = page.items.iter().filter(|hold| matches!(hold.reason, HoldReason::RelayDuty { .. }));
    duties.map(|hold| hold.amount.amount.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a18_who_stays_has_its_deposit_back_and_who_leaves_after_the_last_byte_forfeits_what_it_was_away() {
    // The second rank opens long after the duties of the first have ended, so that the release goes on meanwhile.
    let plan = Plan { ranks: vec![(100, 0, 2), (60, 3_600, 4)], duties: vec![(DUTY_S, DEPOSIT)], ..Plan::default() };
    let mut scene = Scene::start(3, 1 << 20, &plan).await;
    let [stays, _, leaves] = [0, 1, 2].map(|index| scene.terminals[index].terminal_id);
    scene.all_complete(&[0, 2]).await;
    scene.running[2].kill().await;
    for index in [0, 2] {
        let terminal = &scene.terminals[index];
        let held = eventually("the delivery is paid for and the deposit still held", Duration::from_secs(30), || async {
            let (_, held) = terminal.person.wallet().await;
            (held == DEPOSIT).then_some(held)
        })
        .await;
        assert_eq!(held_for_duty(&terminal.person).await, [held]);
    }
    let (met, missed) = (ended(&scene, stays).await, ended(&scene, leaves).await);
    assert_eq!((met.missed_s, met.forfeited.unwrap().amount.0), (0, 0), "it was there");
    let forfeited = missed.forfeited.unwrap().amount.0;
    assert!(forfeited > 0 && forfeited <= DEPOSIT && missed.missed_s <= DUTY_S, "{missed:?}");
    assert_eq!(forfeited * u64::from(DUTY_S) / DEPOSIT, u64::from(missed.missed_s), "the part of the deposit that it was away");
    let statement: Page<WalletEntry> = scene.terminals[2].person.get("/v1/wallet/entries?limit=100").await.expect();
    let lines: Vec<_> = statement.items.iter().filter(|entry| entry.kind == TransferKind::DutyForfeit).collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].amount.amount, -i64::try_from(forfeited).unwrap());
    assert_eq!(lines[0].delivery_id, Some(delivery(&scene, leaves).await.id));
    for index in [0, 2] {
        assert_eq!(scene.terminals[index].person.wallet().await.1, 0, "nothing is held any more");
    }
    scene.publisher.post(&format!("/v1/releases/{}/abort", scene.release.id), &json!({})).await.expect_ok();
    eventually("everything is settled", Duration::from_secs(30), || async {
        let deliveries = scene.publisher.deliveries(scene.release.id).await;
        deliveries.iter().all(|delivery| delivery.state != protocol::rest::DeliveryState::Pending).then_some(())
    })
    .await;
    scene.books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a18_a_bid_holds_the_largest_deposit_of_the_ranks_that_it_may_be_given() {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let published = publisher.publish("edition.bin", payload("duties", 1 << 16)).await;
    let ranks = vec![(100, 0, 1), (60, 60, 1), (25, 120, 1)];
    let plan =
        Plan { ranks, duties: vec![(60, 100), (60, 700), (60, 50)], closes_in_ms: 3_600_000, starts_in_ms: 7_200_000, ..Plan::default() };
    let release = publisher.schedule(&[&published], &plan).await;
    assert_eq!(release.ranks[1].duty.unwrap().deposit.amount.0, 700);
    let bidder = stack.cli(&operator, "bidder", 1_000).await;
    // 1,001 with the deposit.
    bidder.person.apply(&release, bidder.terminal_id, 1, 301).await.expect_problem(ErrorCode::InsufficientFunds);
    let application = bidder.person.applied(&release, bidder.terminal_id, 1, 300).await;
    assert_eq!(application.deposit.unwrap().amount.0, 700);
    assert_eq!(bidder.person.wallet().await, (0, 1_000));
    let changed = bidder.call(&["apply", &release.id.to_string(), "--change", "--rank", "3"]).await;
    let shown = String::from_utf8_lossy(&changed.stdout);
    assert!(shown.contains("and 0.50 EUR deposit"), "{shown}");
    assert_eq!(bidder.person.wallet().await, (650, 350));
    bidder.call(&["apply", &release.id.to_string(), "--withdraw"]).await;
    assert_eq!(bidder.person.wallet().await, (1_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a18_a_duty_without_a_deposit_or_for_a_rank_that_is_not_there_is_refused() {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let published = publisher.publish("edition.bin", payload("duties", 1 << 16)).await;
    for (after_s, deposit, pointer) in
        [(0, 1, "/ranks/0/duty/after_s"), (604_801, 1, "/ranks/0/duty/after_s"), (60, 0, "/ranks/0/duty/deposit")]
    {
        let plan = Plan { duties: vec![(after_s, deposit)], ..Plan::default() };
        let answer = publisher.post("/v1/releases", &Person::release_body(&[&published], &plan)).await;
        answer.expect_problem_at(ErrorCode::InvalidRequest, pointer);
    }
}
