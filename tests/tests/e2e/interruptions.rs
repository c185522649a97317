//! What ends in the middle: a relay, a receiver, the server, Redis. Every test begins in mid-transfer.

use std::time::Duration;

use protocol::rest::{DeliveryState, ReleaseState};
use tests::Plan;

use crate::release::pool;
use crate::scene::Scene;

const LENGTH: usize = 6 << 20;
/// A third of the edition: everybody is in the middle of it.
const MIDDLE: u64 = (LENGTH / 3) as u64;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_relay_is_replaced_and_all_others_complete() {
    let mut scene = Scene::start(5, LENGTH, &Plan::default()).await;
    scene.running[1].verified_at_least(MIDDLE).await;
    scene.running[1].kill().await;
    scene.all_complete(&[0, 2, 3, 4]).await;
    let release = scene.publisher.release(scene.release.id).await;
    assert!(release.origin.sent <= release.origin.budget, "{:?}", release.origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a08_after_an_interruption_the_credit_is_divided_by_the_bytes_that_each_relay_delivered() {
    // The killed one's delivery ends with the release, so that this long is waited; the others are done in a few seconds on an idle machine.
    let plan = Plan { limit_s: 50, ..Plan::default() };
    let mut scene = Scene::start(4, LENGTH, &plan).await;
    scene.running[1].verified_at_least(MIDDLE).await;
    scene.running[1].kill().await;
    scene.all_complete(&[0, 2, 3]).await;
    let release = scene.settled(Duration::from_secs(60)).await;
    scene.books_balance().await;
    let deliveries = scene.publisher.deliveries(release.id).await;
    let killed = scene.terminals[1].terminal_id;
    let mut earned_by_killed = 0;
    for delivery in deliveries.iter().filter(|delivery| delivery.terminal_id != killed) {
        assert_eq!((delivery.state, delivery.charged), (DeliveryState::Settled, delivery.price));
        let total: u64 = delivery.sources.iter().map(|share| share.bytes.0).sum();
        assert_eq!(total, scene.published.edition.length.0);
        let pool = pool(delivery.charged.amount, release.fee, release.relay_share);
        let by_killed = delivery
            .sources
            .iter()
            .find(|share| share.source == killed)
            .unwrap_or_else(|| panic!("the killed relay had delivered something: {deliveries:#?}"));
        let others: u64 =
            delivery.sources.iter().filter(|share| share.source != killed && !share.source.is_origin()).map(|share| share.bytes.0).sum();
        assert!(others > by_killed.bytes.0, "the others went on after it");
        let exact = u128::from(pool) * u128::from(by_killed.bytes.0) / u128::from(total);
        assert!((exact..=exact + 1).contains(&u128::from(by_killed.earned.amount.0)), "{by_killed:?} of a pool of {pool}");
        earned_by_killed += by_killed.earned.amount.0;
    }
    let own = deliveries.iter().find(|delivery| delivery.terminal_id == killed).unwrap();
    assert_eq!(own.earned.amount.0, earned_by_killed);
    assert!(own.verified.0 >= MIDDLE / 2 && own.verified < scene.published.edition.length, "{own:?}");
    let proportional = u128::from(own.price.amount.0) * u128::from(own.verified.0) / u128::from(scene.published.edition.length.0);
    assert_eq!(u128::from(own.charged.amount.0), proportional, "it pays for what arrived and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_started_again_keeps_what_it_verified() {
    let mut scene = Scene::start(4, LENGTH, &Plan::default()).await;
    scene.running[2].verified_at_least(MIDDLE).await;
    scene.running[2].kill().await;
    let before = scene.running[2].verified();
    scene.running[2] = scene.run(2);
    scene.all_complete(&[0, 1, 2, 3]).await;
    let first = scene.running[2].events().into_iter().find(|event| event["event"] == "progress").expect("progress");
    assert!(first["verified"].as_u64().unwrap() >= before, "it began again with {first} after {before}");
    let release = scene.settled(Duration::from_secs(60)).await;
    assert_eq!(release.state, ReleaseState::Settled);
    scene.books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_that_comes_back_finishes_the_release_within_the_origin_budget() {
    let mut scene = Scene::start(4, LENGTH, &Plan::default()).await;
    scene.running[0].verified_at_least(MIDDLE).await;
    scene.stack.kill_server().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    scene.stack.start_server().await;
    scene.all_complete(&[0, 1, 2, 3]).await;
    scene.settled(Duration::from_secs(60)).await;
    scene.books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_costs_no_transfer_and_no_budget() {
    let scene = Scene::start(4, LENGTH, &Plan::default()).await;
    scene.running[0].verified_at_least(MIDDLE).await;
    assert!(scene.stack.lose_redis() > 0, "there was something to lose");
    scene.all_complete(&[0, 1, 2, 3]).await;
    scene.settled(Duration::from_secs(60)).await;
    scene.books_balance().await;
}
