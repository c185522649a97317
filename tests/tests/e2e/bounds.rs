//! The report of a release: how close it came to the bound, who moved how much, and who was replaced.

use std::time::Duration;

use protocol::ErrorCode;
use protocol::rest::{ReleaseReport, ReleaseState, TerminalReport};
use tests::program::spillway;
use tests::{Person, Plan, eventually};

use crate::scene::Scene;

async fn report(person: &Person, scene: &Scene, query: &str) -> ReleaseReport {
    person.get(&format!("/v1/releases/{}/report{query}", scene.release.id)).await.expect()
}

/// Milliseconds that so many bytes take at so many bits per second.
fn milliseconds(bytes: u64, rate: u64) -> u64 {
    bytes * 8_000 / rate
}

#[tokio::test(flavor = "multi_thread")]
async fn x01_a_release_states_how_close_it_came_to_the_fluid_bound() {
    const UP: u64 = 12_000_000;
    let plan = Plan { ranks: vec![(100, 0, 2), (60, 6, 2)], starts_in_ms: 8_000, closes_in_ms: 6_000, ..Plan::default() };
    let scene = Scene::start(4, 3 << 20, &plan).await;
    scene.all_complete(&[0, 1, 2, 3]).await;
    scene.settled(Duration::from_secs(60)).await;
    let (all, length) = (report(&scene.publisher, &scene, "").await, scene.published.edition.length.0);
    assert_eq!((all.state, all.totals.deliveries, all.totals.complete), (ReleaseState::Settled, 4, 4));
    assert_eq!(all.waves.iter().map(|wave| (wave.rank, wave.terminals, wave.complete)).collect::<Vec<_>>(), [(1, 2, 2), (2, 2, 2)]);
    // The server's uplink has no limit, its budget is 1.1 copies, and every terminal has 12 up and 200 down: recomputed here from the published formula.
    let [first, second] = &all.waves[..] else { panic!("two waves") };
    assert_eq!((first.rates.origin_up.map(|up| up.0), first.rates.receivers_up.0, first.rates.unknown_up), (Some(0), 2 * UP, 0));
    assert_eq!(first.bound_ms, milliseconds(2 * length - length * 110 / 100, 2 * UP).max(milliseconds(length, 200_000_000)));
    assert_eq!((second.rates.origin_up, second.rates.holders, second.rates.holders_up.0), (None, 2, 2 * UP));
    assert_eq!(second.bound_ms, milliseconds(length, 2 * UP).max(milliseconds(2 * length, 4 * UP)));
    for wave in &all.waves {
        let (median, last) = (wave.elapsed_ms.median.unwrap(), wave.elapsed_ms.last.unwrap());
        assert!(median <= last && wave.elapsed_ms.p99 == Some(last), "{wave:?}");
        let ratio = wave.ratio_permille.last.unwrap();
        assert!(ratio.abs_diff(last * 1_000 / wave.bound_ms) <= 2, "{wave:?}");
        // What no schedule beats, but for the bursts that the limits let through at first.
        assert!(ratio >= 700, "{wave:?}");
    }
    let rows = &all.terminals.items;
    let slowest = rows.iter().map(|row| row.ratio_permille.unwrap()).max();
    assert_eq!(all.ratio_permille.last, slowest);
    let sum = |of: fn(&TerminalReport) -> u64| rows.iter().map(of).sum::<u64>();
    assert!(rows.iter().all(|row| row.from_origin.0 + row.from_peers.0 == length && row.up.0 == UP), "{rows:?}");
    assert_eq!((sum(|row| row.from_origin.0), sum(|row| row.from_peers.0)), (all.totals.from_origin.0, all.totals.from_peers.0));
    assert_eq!(sum(|row| row.relayed.0), all.totals.from_peers.0, "whatever came from a terminal, some terminal relayed");
    assert_eq!(sum(|row| row.charged.amount.0), all.totals.charged.amount.0);
    assert_eq!(sum(|row| row.earned.amount.0), all.totals.earned.amount.0);
    who_sees_what(&scene, &all).await;
    the_program_shows_it(&scene, &all).await;
}

/// A winner sees the totals and the own row; a stranger nothing; pages add up to the whole.
async fn who_sees_what(scene: &Scene, all: &ReleaseReport) {
    let winner = &scene.terminals[2];
    let own = report(&winner.person, scene, "").await;
    assert_eq!((&own.totals, &own.waves), (&all.totals, &all.waves));
    assert_eq!(own.terminals.items.iter().map(|row| row.terminal_id).collect::<Vec<_>>(), [winner.terminal_id]);
    let stranger = scene.stack.user().await;
    let path = format!("/v1/releases/{}/report", scene.release.id);
    let refused = stranger.get(&path).await.expect_problem(ErrorCode::Forbidden);
    assert!(refused.detail.unwrap_or_default().contains("won"), "it says for whom the report is");
    stranger.get("/v1/releases/01234567-89ab-7def-8123-456789abcdef/report").await.expect_problem(ErrorCode::NotFound);
    scene.publisher.get(&format!("{path}?cursor=nonsense")).await.expect_problem_at(ErrorCode::InvalidRequest, "query/cursor");
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = report(&scene.publisher, scene, &format!("?limit=3{cursor}")).await.terminals;
        paged.extend(page.items);
        let Some(next) = page.next_cursor else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, all.terminals.items);
}

async fn the_program_shows_it(scene: &Scene, all: &ReleaseReport) {
    let (winner, id) = (&scene.terminals[0], scene.release.id.to_string());
    let output = spillway(&winner.config, &["report", &id, "--json"], "").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: ReleaseReport = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!((told.waves, told.totals, told.terminals.items.len()), (all.waves.clone(), all.totals, 1));
    let output = spillway(&winner.config, &["report", &id], "").await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("% of what is possible") && text.contains("Nobody had to be replaced") == all.reselections.is_empty(), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn x01_a_report_of_a_running_release_says_who_was_replaced_and_why() {
    let mut scene = Scene::start(4, 6 << 20, &Plan::default()).await;
    let length = scene.published.edition.length.0;
    scene.running[1].verified_at_least(length / 3).await;
    let before = report(&scene.publisher, &scene, "").await;
    assert_eq!((before.state, before.waves[0].elapsed_ms.last, before.ratio_permille.last), (ReleaseState::Live, None, None));
    let moved = before.totals.from_origin.0 + before.totals.from_peers.0;
    assert!(moved > 0 && moved < 4 * length, "bytes are shown by source while they come: {:?}", before.totals);
    scene.running[1].kill().await;
    scene.all_complete(&[0, 2, 3]).await;
    let killed = scene.terminals[1].terminal_id;
    let after = eventually("the report names the killed terminal", Duration::from_secs(30), || async {
        let report = report(&scene.publisher, &scene, "").await;
        report.latest_reselections.iter().any(|event| event.terminal_id == killed).then_some(report)
    })
    .await;
    let counted: u64 = after.reselections.iter().map(|count| count.events).sum();
    assert!(counted >= after.latest_reselections.len() as u64, "{after:?}");
    for event in &after.latest_reselections {
        assert!(after.reselections.iter().any(|count| count.reason == event.reason), "{event:?}");
    }
    let (bystander, own) = (&scene.terminals[0], scene.terminals[0].terminal_id);
    let seen = report(&bystander.person, &scene, "").await;
    assert_eq!(seen.reselections, after.reselections);
    assert!(seen.latest_reselections.iter().all(|event| event.terminal_id == own), "{seen:?}");
}
