//! What is known of how terminals communicate, where it comes from and what it is used for.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::rest::{CommunicationState, Delivery, Terminal};
use serde_json::{Value, json};
use tests::program::{Cli, spillway};
use tests::{Plan, Stack, eventually};

use crate::scene::Scene;

async fn known(cli: &Cli) -> CommunicationState {
    cli.person.get(&format!("/v1/terminals/{}/measurement", cli.terminal_id)).await.expect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a23_a_terminal_measures_itself_and_sends_the_figures() {
    let stack = Stack::start_with(&["--origin-up-mbit", "80"]).await;
    let operator = stack.operator().await;
    let cli = stack.cli(&operator, "measured", 0).await;
    let path = format!("/v1/terminals/{}/measurement", cli.terminal_id);
    cli.person.get(&path).await.expect_problem(ErrorCode::NotFound);
    let output = spillway(&cli.config, &["measure", "--region", "7", "--json"], "").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rate = |name: &str| told[name].as_u64().unwrap_or_else(|| panic!("no {name} in {told}"));
    // The server's line has 80 Mbit/s on the wire. A busy machine may be slower than its line, never faster than the line and its first burst.
    assert!((1_000_000..100_000_000).contains(&rate("down")), "{told}");
    assert!(rate("up") > 0 && rate("disk_write") > 0, "{told}");
    let terminal: Terminal = cli.person.get(&format!("/v1/terminals/{}", cli.terminal_id)).await.expect();
    assert_eq!((terminal.capabilities.up.0, terminal.capabilities.down.0), (rate("up"), rate("down")), "what it is planned with");
    let state = known(&cli).await;
    assert_eq!((state.region, state.disk_write.map(|rate| rate.0)), (Some(7), Some(rate("disk_write"))));
    assert_eq!(state.round_trip_ms.map(u64::from), told["round_trip_ms"].as_u64());
    let stranger = stack.user().await;
    stranger.get(&path).await.expect_problem(ErrorCode::NotFound);
    stranger.put(&path, &json!({ "up": 1 })).await.expect_problem(ErrorCode::NotFound);
    cli.person.put(&path, &json!({ "region": 65_536 })).await.expect_problem_at(ErrorCode::InvalidRequest, "/region");
    // Too often is refused, with when to come back.
    let mut refused = None;
    for _ in 0..20 {
        let request = cli.person.http.get(format!("{}/v1/measurements/downlink?bytes=1", stack.url));
        let answer = cli.person.send(request.header("Spillway-Terminal", cli.terminal_id.to_string())).await;
        if answer.status == ErrorCode::TooManyRequests.status() {
            refused = Some(answer.headers.contains_key("retry-after"));
            break;
        }
    }
    assert_eq!(refused, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a23_a_measurement_gives_way_to_a_release_and_says_so() {
    let plan = Plan { starts_in_ms: 6_000, ..Plan::default() };
    let scene = Scene::start(2, 3 << 20, &plan).await;
    let cli = &scene.terminals[0];
    let opens_in = scene.release.starts_at - time::OffsetDateTime::now_utc() - time::Duration::milliseconds(1_000);
    tokio::time::sleep(opens_in.try_into().unwrap_or(Duration::ZERO)).await;
    let url = format!("{}/v1/measurements/downlink?bytes=1000", scene.stack.url);
    let asked = || cli.person.send(cli.person.http.get(&url).header("Spillway-Terminal", cli.terminal_id.to_string()));
    let refused = asked().await.expect_problem(ErrorCode::Unavailable);
    assert!(refused.detail.unwrap_or_default().contains("A release needs"), "it says why");
    scene.all_complete(&[0, 1]).await;
    eventually("the line is free again", Duration::from_secs(30), || async { (asked().await.status == 200).then_some(()) }).await;
    assert!(scene.publisher.release(scene.release.id).await.origin.sent <= scene.published.edition.length, "it cost no budget");
}

#[tokio::test(flavor = "multi_thread")]
async fn a03_what_is_seen_of_a_terminal_is_stored_and_planned_with() {
    let scene = Scene::start(3, 6 << 20, &Plan::default()).await;
    scene.all_complete(&[0, 1, 2]).await;
    // 12 Mbit/s up: each sends two copies of a third of the edition.
    let seen = eventually("the transfers were seen", Duration::from_secs(60), || async {
        let state = known(&scene.terminals[0]).await;
        (state.up_seen.0 > 0 && state.down_seen.0 > 0).then_some(state)
    })
    .await;
    assert!(seen.round_trip_ms.is_some(), "its WebSocket was pinged: {seen:?}");
    assert!((500_000..60_000_000).contains(&seen.up_seen.0), "{seen:?}");
    assert!(seen.loss_ppm.is_none(), "nobody measures it yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_the_server_shows_sources_and_rates_while_a_delivery_comes() {
    let scene = Scene::start(3, 6 << 20, &Plan::default()).await;
    let shown = eventually("sources and rates are shown in mid-transfer", Duration::from_secs(60), || async {
        let deliveries: Vec<Delivery> = scene.publisher.deliveries(scene.release.id).await;
        let in_the_middle = |delivery: &Delivery| {
            let progress = delivery.progress.unwrap_or_default();
            delivery.sources.len() > 1 && progress.down.0 > 0 && delivery.verified < scene.published.edition.length
        };
        deliveries.iter().any(in_the_middle).then_some(deliveries)
    })
    .await;
    for delivery in &shown {
        let sources: u64 = delivery.sources.iter().map(|share| share.bytes.0).sum();
        assert_eq!(sources, delivery.verified.0, "what receipts say is told by source: {delivery:?}");
    }
    scene.all_complete(&[0, 1, 2]).await;
}
