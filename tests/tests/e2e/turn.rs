//! Terminals that meet through a TURN server (coturn), because they cannot or do not want to meet otherwise.

use std::time::Duration;

use protocol::rest::Delivery;
use serde_json::Value;
use tests::{Plan, Running, TurnServer, eventually};

use crate::scene::{SLOW, Scene};

const TURN_ONLY: &str = "--turn-only";

/// What terminals sent each other.
fn relayed(deliveries: &[Delivery]) -> u64 {
    let sources = deliveries.iter().flat_map(|delivery| &delivery.sources);
    sources.filter(|share| !share.source.is_origin()).map(|share| share.bytes.0).sum()
}

/// The first warning about a TURN server.
async fn warned(running: &Running) -> String {
    let of_turn = |event: &Value| event["event"] == "warning" && event["text"].as_str().is_some_and(|text| text.contains("TURN"));
    let what = format!("{} warns", running.name);
    let event = eventually(&what, Duration::from_secs(60), || async { running.events().into_iter().find(of_turn) });
    event.await["text"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn b01_two_terminals_that_can_meet_through_turn_only_complete_and_turn_carries_all_that_they_relay() {
    let turn = TurnServer::start(&[]).await;
    let mut scene = Scene::set_on(&["--ice-servers", &turn.ice_servers()], 2, 3 << 20, &Plan::default()).await;
    scene.run_all_with(&[&SLOW[..], &[TURN_ONLY]].concat());
    scene.all_complete(&[0, 1]).await;
    for running in &mut scene.running {
        running.done().await;
    }
    let release = scene.settled(Duration::from_secs(60)).await;
    assert_eq!(release.origin.sent, scene.published.edition.length, "the origin sends every chunk once: the rest came from the other one");
    scene.books_balance().await;
    let relayed = relayed(&scene.publisher.deliveries(release.id).await);
    assert!(relayed >= scene.published.edition.length.0 * 9 / 10, "{relayed} bytes relayed");
    // Addresses are given back, and not left to lapse ten minutes later.
    let ended = eventually("coturn's sessions end", Duration::from_secs(60), || async {
        Some(turn.carried()).filter(|carried| carried.sessions >= 2)
    });
    let carried = ended.await;
    assert!(carried.to_peers >= relayed, "TURN carried {carried:?} of {relayed} bytes");
    assert!(carried.to_peers < relayed * 3 / 2, "what is relayed goes over TURN once, and {carried:?} is more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a04_terminals_meet_again_through_a_turn_server_that_was_killed_and_started_anew_in_the_middle() {
    // A nonce of a second is stale whenever somebody asks again.
    let mut turn = TurnServer::start(&["--stale-nonce=1"]).await;
    let mut scene = Scene::set_on(&["--ice-servers", &turn.ice_servers()], 2, 8 << 20, &Plan::default()).await;
    scene.run_all_with(&["--up-mbit", "4", "--down-mbit", "200", TURN_ONLY]);
    for running in &scene.running {
        running.verified_at_least(1 << 20).await;
    }
    turn.kill().await;
    turn.start_again().await;
    scene.all_complete(&[0, 1]).await;
    for running in &mut scene.running {
        running.done().await;
    }
    let release = scene.settled(Duration::from_secs(60)).await;
    scene.books_balance().await;
    let relayed = relayed(&scene.publisher.deliveries(release.id).await);
    assert!(relayed > scene.published.edition.length.0 / 2, "{relayed} bytes relayed");
    // Counts are written every two thousand packets, and what the killed one had not written is gone with it.
    let carries = eventually("the one that was started anew carries what is relayed", Duration::from_secs(30), || async {
        Some(turn.carried()).filter(|carried| carried.to_peers > 1 << 20)
    });
    carries.await;
    assert!(turn.log().contains("438"), "a stale nonce was to be met:\n{}", turn.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn b01_a_turn_server_that_takes_no_credentials_is_told_of_and_terminals_meet_directly() {
    let turn = TurnServer::start(&[]).await;
    let servers = turn.ice_servers_with("terminals", "not the password");
    let mut scene = Scene::set_on(&["--ice-servers", &servers], 2, 1 << 20, &Plan::default()).await;
    scene.run_all();
    scene.all_complete(&[0, 1]).await;
    for running in &mut scene.running {
        let warning = warned(running).await;
        assert!(
            warning.contains("127.0.0.1:") && warning.contains("does not take the credentials") && warning.contains("401"),
            "{warning}"
        );
        let warnings = running.events().iter().filter(|event| event["event"] == "warning").count();
        assert_eq!(warnings, 1, "it is said once, whatever the number of sockets and links");
        running.done().await;
    }
    let release = scene.settled(Duration::from_secs(60)).await;
    assert_eq!(release.origin.sent, scene.published.edition.length);
    assert_eq!(turn.carried().to_peers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn b01_terminals_that_may_meet_through_turn_only_do_not_meet_when_it_refuses_them() {
    let turn = TurnServer::start(&[]).await;
    let servers = turn.ice_servers_with("terminals", "not the password");
    let plan = Plan { limit_s: 8, ..Plan::default() };
    let mut scene = Scene::set_on(&["--ice-servers", &servers], 2, 3 << 20, &plan).await;
    scene.run_all_with(&[&SLOW[..], &[TURN_ONLY]].concat());
    // The one of the two that offers links finds that it has nothing to offer; the other one waits for it.
    let said = tokio::select! {
        said = warned(&scene.running[0]) => said,
        said = warned(&scene.running[1]) => said,
    };
    assert!(said.contains("does not take the credentials"), "{said}");
    let release = scene.settled(Duration::from_secs(90)).await;
    assert_eq!(relayed(&scene.publisher.deliveries(release.id).await), 0, "nothing went another way");
    scene.books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_may_use_turn_only_ends_at_once_where_the_server_names_no_turn_server() {
    for servers in ["[]", r#"[{"urls":["stun:127.0.0.1:9"]}]"#] {
        let mut scene = Scene::set_on(&["--ice-servers", servers], 1, 1000, &Plan::default()).await;
        scene.run_all_with(&[TURN_ONLY]);
        let running = &mut scene.running[0];
        let status = tokio::time::timeout(Duration::from_secs(60), running.child.wait()).await.expect("it ends").expect("a status");
        assert_eq!(status.code(), Some(1), "{}", running.log());
        assert!(running.log().contains("the server names no TURN server"), "{}", running.log());
    }
}
