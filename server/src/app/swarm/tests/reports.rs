//! What a report says of a swarm, and what the next wave is planned with.

use std::collections::BTreeMap;

use protocol::rest::{Measurement, ReleaseReport, Reselection, ReselectionReason};
use protocol::ws::{ClientMessage, SuspectReason};
use protocol::{BitsPerSecond, ReleaseId, TerminalId};
use reqwest::StatusCode;

use super::Stage;
use super::stage::{CHUNK, Script};
use crate::clock;
use crate::routes::tests::answer;

async fn report(stage: &Stage) -> ReleaseReport {
    let path = format!("/v1/releases/{}/report", stage.release_id);
    answer(stage.service.get(&stage.publisher, &path), StatusCode::OK).await
}

fn of(report: &ReleaseReport, reason: ReselectionReason) -> Vec<&Reselection> {
    report.latest_reselections.iter().filter(|event| event.reason == reason).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn x01_a_report_names_who_was_removed_who_left_and_who_took_the_place() {
    let mut stage = Stage::started(Script { ranks: &[4], ..Script::default() }).await;
    stage.connect(0..3).await;
    assert!(report(&stage).await.reselections.is_empty());
    assert_eq!(stage.ask(0, 2).await, [0, 1]);
    let (swarm_id, silent) = (stage.swarm_id, stage.machines[0].id());
    let suspicion = ClientMessage::Suspect { swarm_id, terminal_id: silent, reason: SuspectReason::Silent };
    for machine in [1, 2, 1, 2] {
        stage.machines[machine].send(&suspicion).await;
        stage.machines[machine].settle_down().await;
    }
    let removed = report(&stage).await;
    let [event] = of(&removed, ReselectionReason::Silent)[..] else { panic!("removed once, though reported again: {removed:?}") };
    assert_eq!((event.swarm_id, event.terminal_id, event.replacement, event.chunks), (swarm_id, silent, None, 2));
    assert_eq!(stage.ask(1, 1).await, [0]);
    // The next one that asks gets what the one that leaves had.
    let (left, heir) = (stage.machines[1].id(), stage.machines[2].id());
    stage.machines[2].send(&ClientMessage::Credits { swarm_id, open: 2 }).await;
    assert_eq!(stage.granted(2).await.1, [1, 2]);
    stage.machines[2].send(&ClientMessage::Credits { swarm_id, open: 0 }).await;
    stage.machines[2].settle_down().await;
    stage.machines[1].vanish();
    let found = async {
        loop {
            let report = report(&stage).await;
            if let Some(event) = of(&report, ReselectionReason::Disconnected).first() {
                return (event.terminal_id, event.chunks, report.reselections.clone());
            }
        }
    };
    let (gone, chunks, counts) = tokio::time::timeout(super::machine::PATIENCE, found).await.expect("the report says who left");
    assert_eq!((gone, chunks), (left, 1));
    let count = |reason| counts.iter().find(|count| count.reason == reason).map(|count| (count.events, count.chunks));
    assert_eq!((count(ReselectionReason::Silent), count(ReselectionReason::Disconnected)), (Some((1, 2)), Some((1, 1))));
    assert_ne!(heir, left);
}

#[tokio::test(flavor = "multi_thread")]
async fn x07_a_report_says_that_the_budget_has_nothing_for_what_nobody_has_any_more() {
    let mut stage = Stage::started(Script { spare_budget: 0, ..Script::default() }).await;
    stage.connect(0..3).await;
    assert_eq!(stage.ask(0, 2).await, [0, 1]);
    for chunk in [0, 1] {
        stage.fetch(0, chunk).await;
    }
    stage.lose(0).await;
    let (swarm_id, in_want) = (stage.swarm_id, [stage.machines[1].id(), stage.machines[2].id()]);
    for machine in [1, 2, 1] {
        stage.machines[machine].send(&ClientMessage::Missing { swarm_id, chunks: vec![0, 1] }).await;
        stage.machines[machine].settle_down().await;
    }
    let report = report(&stage).await;
    let short: Vec<_> = of(&report, ReselectionReason::BudgetSpent).into_iter().rev().collect();
    assert_eq!(short.iter().map(|event| event.terminal_id).collect::<Vec<_>>(), in_want, "each once, though it asks again: {report:?}");
    assert!(short.iter().all(|event| (event.replacement, event.chunks) == (None, 2)), "{short:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn x01_a_report_shows_bytes_by_source_before_anything_is_settled() {
    let mut stage = Stage::started(Script { ranks: &[2], ..Script::default() }).await;
    stage.connect(0..2).await;
    let (delivery, relay) = (stage.delivery(1), stage.machines[0].id());
    stage.machines[1].send_receipts(delivery, TerminalId::ORIGIN, &[0]).await;
    stage.machines[1].send_receipts(delivery, relay, &[1, 2]).await;
    stage.machines[1].settle_down().await;
    let report = report(&stage).await;
    let chunk = CHUNK as u64;
    assert_eq!((report.totals.from_origin.0, report.totals.from_peers.0, report.totals.complete), (chunk, 2 * chunk, 0));
    let row = |terminal| report.terminals.items.iter().find(|row| row.terminal_id == terminal).unwrap();
    assert_eq!((row(relay).relayed.0, row(relay).verified.0), (2 * chunk, 0));
    let receiver = row(stage.machines[1].id());
    assert_eq!((receiver.from_origin.0, receiver.from_peers.0, receiver.elapsed_ms), (chunk, 2 * chunk, None));
    assert_eq!((report.waves[0].complete, report.waves[0].elapsed_ms.median), (0, None));
    let path = format!("/v1/releases/{}/report", ReleaseId::from_bytes([9; 16]));
    let nothing = stage.service.get(&stage.publisher, &path).send().await.unwrap();
    crate::routes::tests::problem(nothing, protocol::ErrorCode::NotFound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a03_groups_are_alike_in_place_and_an_unstated_uplink_is_planned_as_it_was_seen() {
    let stage = Stage::set(Script { ranks: &[20], chunks: 2, ..Script::default() }).await;
    let store = &stage.service.state.store;
    let mut regions: BTreeMap<TerminalId, u16> = BTreeMap::new();
    for (index, machine) in (0u16..).zip(&stage.machines) {
        // Stated when it was registered; nobody knows it any more.
        let unknown = Some(BitsPerSecond(0));
        let measured = Measurement { region: Some(index % 2), up: unknown, down: unknown, ..Measurement::default() };
        store.set_measurement(machine.id(), &measured, clock::now()).await.unwrap();
        store.note_seen_rates(machine.id(), BitsPerSecond(7_000_000), BitsPerSecond(70_000_000), clock::now()).await.unwrap();
        regions.insert(machine.id(), index % 2);
    }
    let stated = stage.machines[0].id();
    store
        .set_measurement(stated, &Measurement { up: Some(BitsPerSecond(6_500_000)), ..Measurement::default() }, clock::now())
        .await
        .unwrap();
    stage.close().await;
    let groups = store.stored_plan(stage.swarm_id).await.unwrap().groups;
    assert_eq!(groups.len(), 2);
    for group in &groups {
        let first = regions[&group.members[0].terminal_id];
        assert!(group.members.iter().all(|member| regions[&member.terminal_id] == first), "a group of two regions: {group:?}");
        for member in &group.members {
            let expected = if member.terminal_id == stated { 6_500_000 } else { 7_000_000 };
            assert_eq!(member.up.0, expected, "what is stated counts before what was seen");
        }
    }
    // The plan keeps what it was made with, whatever is measured later.
    store.set_measurement(stated, &Measurement { up: Some(BitsPerSecond(1)), ..Measurement::default() }, clock::now()).await.unwrap();
    assert_eq!(store.stored_plan(stage.swarm_id).await.unwrap().groups, groups);
    let rates = report(&stage).await.waves[0].rates;
    assert_eq!((rates.receivers_up.0, rates.slowest_down.0, rates.unknown_up), (19 * 7_000_000 + 6_500_000, 70_000_000, 0));
}
