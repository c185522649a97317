//! Downloads: from whom a terminal is served that asks later, and what becomes of it when they go.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::rest::{Download, DownloadState, OnDemand};
use protocol::ws::{ClientMessage, LeaveReason, PushMessage, ServerMessage, SuspectReason};
use protocol::{DownloadId, ErrorCode, SwarmId, TerminalId};
use reqwest::StatusCode;
use serde_json::json;

use super::stage::{CHUNK, Script, Stage};
use crate::routes::tests::answer;

const REQUESTER: usize = 5;

/// Five terminals hold an edition of eight chunks; the sixth asks for it on demand.
async fn asked(origin_budget: usize) -> (Stage, Download) {
    let mut stage = Stage::started(Script { ranks: &[6], ..Script::default() }).await;
    let store = stage.service.state.store.clone();
    // The first three stand where the requester does, the others elsewhere.
    for (index, machine) in stage.machines.iter().enumerate() {
        store.stands_in(machine.id(), if (3..REQUESTER).contains(&index) { 2 } else { 1 }).await;
        if index != REQUESTER {
            store.has_received(machine.id()).await;
        }
    }
    let editions = vec![stage.edition.id];
    for index in 0..stage.machines.len() {
        stage.machines[index].connect(&stage.service, None).await;
        let holds = if index == REQUESTER { vec![] } else { editions.clone() };
        stage.machines[index].send(&ClientMessage::Holds { editions: holds, whole: true }).await;
        stage.machines[index].settle_down().await;
    }
    let content = store.release(stage.release_id).await.unwrap().content_id;
    let terms = json!({"price": {"amount": 100, "currency": "EUR"}, "relay_share": 5000, "fee": 200, "origin_budget": origin_budget, "limit_s": 600});
    let _: OnDemand =
        answer(stage.service.put(&stage.publisher, &format!("/v1/contents/{content}/on-demand"), &terms), StatusCode::OK).await;
    let requester = &stage.machines[REQUESTER];
    let body = json!({"terminal_id": requester.id(), "edition_id": stage.edition.id, "maximum": {"amount": 100, "currency": "EUR"}});
    let ask = stage.service.post(&requester.account, &format!("/v1/contents/{content}/downloads"), &body).header("Idempotency-Key", "get");
    let download: Download = answer(ask, StatusCode::CREATED).await;
    (stage, download)
}

async fn read(stage: &Stage, id: DownloadId) -> Download {
    answer(stage.service.get(&stage.machines[REQUESTER].account, &format!("/v1/downloads/{id}")), StatusCode::OK).await
}

/// From whom the requester's next plan says that it may pull.
async fn sources(stage: &mut Stage, swarm_id: SwarmId, epoch: u64) -> BTreeSet<TerminalId> {
    let plan = stage.machines[REQUESTER].plan(swarm_id, epoch).await;
    assert!(plan.root && plan.members.is_empty() && !plan.serves_only(), "{plan:?}");
    plan.parents.iter().map(|peer| peer.terminal_id).collect()
}

fn ids(stage: &Stage, which: &[usize]) -> BTreeSet<TerminalId> {
    which.iter().map(|&index| stage.machines[index].id()).collect()
}

#[tokio::test]
async fn a03_holders_that_communicate_like_the_requester_are_chosen_and_told_whom_they_serve() {
    let (mut stage, download) = asked(0).await;
    assert_eq!(sources(&mut stage, download.swarm_id, 2).await, ids(&stage, &[0, 1, 2]));
    let requester = stage.machines[REQUESTER].id();
    for index in 0..3 {
        let plan = stage.machines[index].plan(download.swarm_id, 2).await;
        assert!(plan.serves_only(), "{plan:?}");
        assert_eq!(
            plan.serves.iter().map(|peer| (peer.terminal_id, peer.delivery_id)).collect::<Vec<_>>(),
            [(requester, download.delivery_id)]
        );
        assert_ne!(plan.delivery_id, download.delivery_id);
    }
    let shown = read(&stage, download.id).await;
    assert_eq!(shown.sources.len(), 3);
    // How far apart is measured again over the WebSockets, and a moment's matter; the region is what is known of them.
    assert!(shown.sources.iter().all(|source| source.serving && source.reason.starts_with("same region, ")), "{:?}", shown.sources);
    // The same again, by another request, is the same download.
    let path = format!("/v1/contents/{}/downloads", download.content_id);
    let body = json!({"terminal_id": requester, "edition_id": stage.edition.id, "maximum": {"amount": 0, "currency": "EUR"}});
    let again = stage.service.post(&stage.machines[REQUESTER].account, &path, &body).header("Idempotency-Key", "again");
    assert_eq!(answer::<Download>(again, StatusCode::OK).await.id, download.id);
    let lists: protocol::rest::Page<protocol::rest::Release> =
        answer(stage.service.get(&stage.publisher, "/v1/releases"), StatusCode::OK).await;
    assert_eq!(lists.items.len(), 1, "what carries a download is in no list of releases");
}

#[tokio::test]
async fn a04_a_source_that_goes_fails_or_has_the_edition_no_more_is_replaced_at_once_and_still_paid() {
    let (mut stage, download) = asked(0).await;
    let swarm_id = download.swarm_id;
    assert_eq!(sources(&mut stage, swarm_id, 2).await, ids(&stage, &[0, 1, 2]));
    // Its WebSocket is gone.
    stage.machines[0].vanish();
    let second = sources(&mut stage, swarm_id, 3).await;
    assert!(second.is_superset(&ids(&stage, &[1, 2])) && second.len() == 3 && !second.contains(&stage.machines[0].id()), "{second:?}");
    // It sent what the edition does not have.
    let corrupt = stage.machines[1].id();
    stage.machines[REQUESTER].send(&ClientMessage::Suspect { swarm_id, terminal_id: corrupt, reason: SuspectReason::Corrupt }).await;
    assert_eq!(sources(&mut stage, swarm_id, 4).await, ids(&stage, &[2, 3, 4]));
    let left = stage.machines[1].push(|message| match message {
        PushMessage::Leave { swarm_id: left, reason } if left == swarm_id => Some(reason),
        _ => None,
    });
    assert_eq!(left.await, LeaveReason::Removed);
    // Its files have changed.
    stage.machines[2].send(&ClientMessage::Holds { editions: vec![], whole: true }).await;
    assert_eq!(sources(&mut stage, swarm_id, 5).await, ids(&stage, &[3, 4]));
    // What it delivered before counts all the same.
    stage.machines[REQUESTER].send_receipts(download.delivery_id, corrupt, &[0, 1]).await;
    stage.machines[REQUESTER].settle_down().await;
    let shown = read(&stage, download.id).await;
    let source = shown.sources.iter().find(|source| source.terminal_id == corrupt).unwrap();
    assert_eq!((source.serving, source.failure.as_deref(), source.bytes.0), (false, Some("corrupt"), 2 * CHUNK as u64));
    // Who has nothing to do with it is believed nothing.
    let stranger = stage.machines[0].id();
    stage.machines[REQUESTER].send_receipts(download.delivery_id, TerminalId::from_bytes([9; 16]), &[2]).await;
    let told = stage.machines[REQUESTER].settle_down().await;
    assert!(
        told.iter().any(|message| matches!(message, ServerMessage::Error { code: ErrorCode::InvalidReceipt, .. })),
        "{told:?} {stranger}"
    );
    // The first one is back: it holds the edition still.
    stage.machines[0].connect(&stage.service, None).await;
    let editions = vec![stage.edition.id];
    stage.machines[0].send(&ClientMessage::Holds { editions, whole: true }).await;
    assert_eq!(sources(&mut stage, swarm_id, 6).await, ids(&stage, &[0, 3, 4]));
}

#[tokio::test]
async fn the_origin_gives_nothing_while_a_source_is_connected_and_then_only_what_is_missing_within_the_budget() {
    let (mut stage, download) = asked(2 * CHUNK).await;
    let swarm_id = download.swarm_id;
    sources(&mut stage, swarm_id, 2).await;
    stage.machines[REQUESTER].send(&ClientMessage::Credits { swarm_id, open: 8 }).await;
    let told = stage.machines[REQUESTER].settle_down().await;
    let is_grant = |message: &ServerMessage| matches!(message, ServerMessage::Push { message: PushMessage::Grant { .. }, .. });
    assert!(!told.iter().any(is_grant), "{told:?}");
    // Those first that nobody is served by: else they would be chosen in the place of the others.
    for which in [3..REQUESTER, 0..3] {
        for index in which {
            stage.lose(index).await;
        }
    }
    stage.machines[REQUESTER]
        .push(|message| match message {
            PushMessage::ReportHoldings { swarm_id: asked } if asked == swarm_id => Some(()),
            _ => None,
        })
        .await;
    // It has the first four chunks from terminals.
    let mut bitmap = vec![0; 512];
    bitmap[0] = 0x0F;
    let bitmap = BASE64_STANDARD.encode(bitmap);
    stage.machines[REQUESTER].send(&ClientMessage::Holdings { swarm_id, segment: 0, bitmap, last: true, leases: vec![] }).await;
    stage.machines[REQUESTER].send(&ClientMessage::Credits { swarm_id, open: 3 }).await;
    let (_, chunks) = stage.granted(REQUESTER).await;
    assert_eq!(chunks, [4, 5, 6], "what it holds is not sent");
    for chunk in [4, 5] {
        let response = stage.machines[REQUESTER].fetch(&stage.service, swarm_id, chunk).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.bytes().await.unwrap();
    }
    let spent = stage.machines[REQUESTER].fetch(&stage.service, swarm_id, 6).await;
    assert_eq!(spent.status().as_u16(), ErrorCode::BudgetSpent.status());
    stage.machines[REQUESTER].send(&ClientMessage::Missing { swarm_id, chunks: vec![6, 7] }).await;
    let refused = stage.machines[REQUESTER].push(|message| match message {
        PushMessage::RepairRefused { chunks, code, .. } => Some((chunks, code)),
        _ => None,
    });
    assert_eq!(refused.await, (vec![6, 7], ErrorCode::BudgetSpent));
    assert_eq!(read(&stage, download.id).await.state, DownloadState::Running);
    stage.service.state.budgets.close().await.unwrap();
}
