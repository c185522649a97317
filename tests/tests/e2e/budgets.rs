//! The origin's budget when there is next to nothing beyond one copy of each chunk: it is kept whatever happens, and who cannot complete within it is told.

use std::time::Duration;

use protocol::rest::{DeliveryState, ReleaseReport, ReselectionReason};
use serde_json::Value;
use tests::{Plan, Running, eventually};

use crate::scene::Scene;

/// Whether it was told that the origin sends no more.
fn is_told(running: &Running) -> bool {
    let is_about_the_budget = |event: &Value| event["text"].as_str().is_some_and(|text| text.contains("budget_spent"));
    running.events().iter().any(|event| event["event"] == "warning" && is_about_the_budget(event))
}

async fn report(scene: &Scene) -> ReleaseReport {
    scene.publisher.get(&format!("/v1/releases/{}/report", scene.release.id)).await.expect()
}

async fn budget_is_kept(scene: &Scene) {
    let origin = scene.publisher.release(scene.release.id).await.origin;
    assert!(origin.sent <= origin.reserved && origin.reserved <= origin.budget, "{origin:?}");
}

/// Waits, and looks at the budget meanwhile.
async fn for_some_time(scene: &Scene, time: Duration) {
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        budget_is_kept(scene).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x07_two_percent_beyond_one_copy_are_never_exceeded_while_terminals_come_and_go() {
    const LENGTH: usize = 12 << 20;
    let plan = Plan { budget_percent: 102, ..Plan::default() };
    let mut scene = Scene::start(5, LENGTH, &plan).await;
    // One after the other dies in the middle and comes back with what it had stored.
    for (turn, percent) in [(1, 20), (2, 40), (3, 60), (1, 70)] {
        scene.running[0].verified_at_least((LENGTH / 100 * percent) as u64).await;
        scene.running[turn].kill().await;
        for_some_time(&scene, Duration::from_millis(700)).await;
        scene.running[turn] = scene.run(turn);
    }
    // What was on its way to somebody who died is lost: if that was more than the two percent, it is said.
    let is_over = |running: &Running| running.last("completed").is_some() || is_told(running);
    eventually("everybody is complete or told that the budget is spent", Duration::from_secs(90), || async {
        budget_is_kept(&scene).await;
        scene.running.iter().all(is_over).then_some(())
    })
    .await;
    let complete: Vec<usize> = (0..5).filter(|&index| scene.running[index].last("completed").is_some()).collect();
    scene.all_complete(&complete).await;
    if complete.len() == 5 {
        scene.settled(Duration::from_secs(60)).await;
        scene.books_balance().await;
    } else {
        let report = report(&scene).await;
        assert!(report.reselections.iter().any(|count| count.reason == ReselectionReason::BudgetSpent), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x07_a_release_that_cannot_complete_within_its_budget_says_so_and_everybody_pays_for_what_arrived() {
    const LENGTH: usize = 2 << 20;
    let plan = Plan { budget_percent: 101, limit_s: 25, ..Plan::default() };
    // The first one is given a chunk because the others need eight seconds for all, a copy of it takes more than a second, and a hundredth is less than a chunk.
    let mut scene = Scene::start_over(&["0.4", "2", "2", "2"], LENGTH, &plan).await;
    let dying = &scene.running[0];
    eventually("the slow one has fetched from the origin", Duration::from_secs(60), || async {
        dying.last("progress").filter(|event| event["from_origin"].as_u64() > Some(0))
    })
    .await;
    scene.running[0].kill().await;
    for running in &scene.running[1..] {
        eventually("the end of the budget is told", Duration::from_secs(60), || async { is_told(running).then_some(()) }).await;
    }
    let release = scene.settled(Duration::from_secs(60)).await;
    scene.books_balance().await;
    let told = report(&scene).await;
    let short = told.reselections.iter().find(|count| count.reason == ReselectionReason::BudgetSpent);
    assert!(short.is_some_and(|count| count.events >= 3 && count.chunks >= 3), "{told:?}");
    assert_eq!(told.totals.complete, 0, "{told:?}");
    for delivery in scene.publisher.deliveries(release.id).await {
        assert!(delivery.verified < scene.published.edition.length, "{delivery:?}");
        let proportional =
            u128::from(delivery.price.amount.0) * u128::from(delivery.verified.0) / u128::from(scene.published.edition.length.0);
        assert_eq!(u128::from(delivery.charged.amount.0), proportional, "{delivery:?}");
        assert_ne!(delivery.state, DeliveryState::Pending);
    }
}
