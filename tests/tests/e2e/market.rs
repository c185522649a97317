//! The market as people meet it: the scale that follows from the applications, and prices that anybody can recompute.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::rest::{Chunking, Delivery, Release, ReleaseState};
use serde_json::{Value, json};
use tests::program::Cli;
use tests::{Person, Plan, Stack, eventually, payload};

use crate::scene::SLOW;

async fn closed(publisher: &Person, release: &Release) -> Release {
    eventually("the book closes", Duration::from_secs(30), || async {
        let now = publisher.release(release.id).await;
        matches!(now.state, ReleaseState::Closed | ReleaseState::Live).then_some(now)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a16_a17_the_applications_decide_the_waves_and_each_later_terminal_is_tied_to_its_primary() {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let bytes = payload("waves", 1 << 20);
    let published = publisher.publish_cut_by(Chunking::Fixed, "edition.bin", bytes.clone()).await;
    let mut terminals: Vec<Cli> = Vec::new();
    for index in 0..5 {
        terminals.push(stack.cli(&operator, &format!("terminal-{index}"), 10_000).await);
    }
    let mut body = Person::release_body(&[&published], &Plan::default());
    body["ranks"] = json!([{ "weight": 100, "delay_s": 0 }]);
    body["primaries_max"] = json!(1);
    body["wave_interval_s"] = json!(4);
    let release: Release = publisher.post("/v1/releases", &body).await.expect();
    for (index, terminal) in (0u64..).zip(&terminals) {
        terminal.person.applied(&release, terminal.terminal_id, 1, 2_000 - 100 * index).await;
    }
    // Nobody has measured these lines: 10 Mbit/s bring 1 MiB to four in four seconds.
    let release = closed(&publisher, &release).await;
    assert_eq!(release.editions[0].places, [5]);
    let opens: Vec<i64> = release.waves.iter().map(|wave| (wave.opens_at - release.starts_at).whole_seconds()).collect();
    assert_eq!(opens, [0, 4]);
    let shown = terminals[4].call(&["list", &release.id.to_string()]).await;
    let page = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.status.success() && page.lines().any(|line| line.starts_with("1 ") && line.contains("+0s") && line.contains(" 5 ")),
        "{page}"
    );

    let running: Vec<_> =
        terminals.iter().map(|terminal| terminal.run(&[&["--release", &release.id.to_string()], &SLOW[..]].concat())).collect();
    for running in &running {
        assert_eq!(running.completed().await, published.edition.blake3.to_string());
    }
    let settled = eventually("the release is settled", Duration::from_secs(60), || async {
        let now = publisher.release(release.id).await;
        (now.state == ReleaseState::Settled).then_some(now)
    })
    .await;
    assert_eq!(settled.origin.sent, published.edition.length, "one copy, whatever the waves");
    let standing = terminals[4].call(&["status", "--all"]).await;
    let tie = format!("tied to primary terminal {}", terminals[0].terminal_id);
    assert!(String::from_utf8_lossy(&standing.stdout).contains(&tie), "{standing:?}");
    let deliveries = publisher.deliveries(release.id).await;
    let of = |terminal: &Cli| deliveries.iter().find(|delivery| delivery.terminal_id == terminal.terminal_id).unwrap();
    let first: &Delivery = of(&terminals[0]);
    assert_eq!((first.wave, first.primary_terminal_id), (0, None), "the best offer is the primary");
    for terminal in &terminals[1..] {
        let delivery = of(terminal);
        assert_eq!((delivery.wave, delivery.primary_terminal_id), (1, Some(first.terminal_id)));
        assert!(delivery.sources.iter().all(|share| !share.source.is_origin()), "{:?}", delivery.sources);
    }
}

/// The answer of a command that succeeds.
async fn told(cli: &Cli, arguments: &[&str]) -> (String, Value) {
    let text = cli.call(arguments).await;
    assert!(text.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&text.stderr));
    let json = cli.call(&[arguments, &["--json"]].concat()).await;
    (String::from_utf8_lossy(&text.stdout).into_owned(), serde_json::from_slice(&json.stdout).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn x05_each_price_is_explained_in_a_sentence_and_anybody_recomputes_all_of_them() {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let published = publisher.publish("x", payload("explained", 100)).await;
    let mut bidders = Vec::new();
    for index in 0..4 {
        bidders.push(stack.cli(&operator, &format!("bidder-{index}"), 1_000).await);
    }
    let stranger = stack.cli(&operator, "stranger", 0).await;
    // The worked example of the auction.
    let ranks = vec![(100, 0, 1), (60, 5, 1), (25, 10, 1)];
    let plan = Plan { ranks, closes_in_ms: 4_000, starts_in_ms: 600_000, reserve: 0, ..Plan::default() };
    let release = publisher.schedule(&[&published], &plan).await;
    let id = release.id.to_string();
    for (bidder, maximum) in bidders.iter().zip([500, 400, 300, 200]) {
        bidder.person.applied(&release, bidder.terminal_id, 1, maximum).await;
    }
    let early = bidders[0].call(&["explain", &id]).await;
    assert!(String::from_utf8_lossy(&early.stderr).contains("nothing is decided before the release closes"), "{early:?}");
    stranger.person.get(&format!("/v1/releases/{id}/book")).await.expect_problem(ErrorCode::Conflict);
    let early = stranger.call(&["audit", &id]).await;
    assert!(!early.status.success() && String::from_utf8_lossy(&early.stderr).contains("once the release has closed"), "{early:?}");

    let release = closed(&publisher, &release).await;
    for (bidder, (paid, rank)) in bidders.iter().zip([("3.15", 1), ("1.55", 2), ("0.50", 3)]) {
        let (text, json) = told(bidder, &["explain", &id]).await;
        let sentence = json[0]["sentence"].as_str().expect("a sentence");
        assert!(sentence.starts_with(&format!("You pay {paid} EUR for rank {rank} ")), "{sentence}");
        assert!(text.contains(&format!("You pay {paid} EUR")) && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
    let (text, _) = told(&bidders[3], &["explain", &id]).await;
    assert!(text.contains("You got no place and pay nothing"), "{text}");
    let nothing = stranger.call(&["explain", &id]).await;
    assert!(!nothing.status.success() && String::from_utf8_lossy(&nothing.stderr).contains("no application"), "{nothing:?}");

    let (text, audited) = told(&stranger, &["audit", &id]).await;
    assert_eq!((&audited["bids"], &audited["winners"], &audited["of_several"]), (&json!(4), &json!(3), &json!(0)));
    assert_eq!(audited["book_hash"], json!(release.book_hash));
    assert!(text.contains("Every rank and price"), "{text}");
}
