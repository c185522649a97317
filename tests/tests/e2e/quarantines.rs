//! A terminal that is shut out, and comes back.

use std::time::Duration;

use protocol::ErrorCode;
use serde_json::{Value, json};
use tests::{Plan, Stack, eventually};

use crate::scene::Scene;

async fn impose(operator: &tests::Person, terminal: protocol::TerminalId) -> String {
    let expires_at = tests::release::rfc3339(time::OffsetDateTime::now_utc() + time::Duration::days(30));
    let body = json!({"terminal_id": terminal, "reason": "denial", "note": "took 4 MiB unsigned", "expires_at": expires_at});
    operator.post("/v1/quarantines", &body).await.expect_ok()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_a_terminal_in_quarantine_is_disconnected_refused_and_let_in_again_by_an_operator() {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let cli = stack.cli(&operator, "suspect", 10_000).await;
    let published = publisher.publish("edition.bin", tests::payload("quarantine", 1 << 20)).await;
    let release = publisher.schedule(&[&published], &Plan { closes_in_ms: 60_000, starts_in_ms: 90_000, ..Plan::default() }).await;
    let mut running = cli.serve(&[]);
    running.event("connected").await;
    let id = impose(&operator, cli.terminal_id).await;
    // The program that runs is ended by it, and says why.
    let status = tokio::time::timeout(Duration::from_secs(30), running.child.wait()).await.expect("it ends in time").unwrap();
    assert_eq!(status.code(), Some(4), "{}", running.log());
    assert!(running.log().contains("took 4 MiB unsigned") && running.log().contains("quarantine appeal"), "{}", running.log());
    let again = cli.call(&["run"]).await;
    assert_eq!(again.status.code(), Some(4), "{}", String::from_utf8_lossy(&again.stderr));
    let refused = cli.person.apply(&release, cli.terminal_id, 1, 2_000).await;
    refused.expect_problem_at(ErrorCode::TerminalQuarantined, "/terminal_id");
    let totals: protocol::rest::Wallet = cli.person.get("/v1/wallet").await.expect();
    assert_eq!((totals.available.amount.0, totals.held.amount.0), (10_000, 0), "nothing is held for what was refused");

    assert!(cli.call(&["quarantine", "appeal", &id, "the disk was broken"]).await.status.success());
    let listed: Value = serde_json::from_slice(&cli.call(&["quarantine", "list", "--json"]).await.stdout).unwrap();
    assert_eq!((&listed[0]["reason"], &listed[0]["appeal"]["text"]), (&json!("denial"), &json!("the disk was broken")));
    operator.put(&format!("/v1/quarantines/{id}/decision"), &json!({"lift": true, "note": "believed"})).await.expect_ok();
    cli.person.applied(&release, cli.terminal_id, 1, 2_000).await;
    let mut running = cli.serve(&[]);
    running.event("connected").await;
    let text = String::from_utf8(cli.call(&["quarantine", "list"]).await.stdout).unwrap();
    assert!(text.contains("lifted") && text.contains("believed"), "{text}");
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_honest_terminals_answer_audits_while_a_release_runs() {
    let mut scene = Scene::set_on(&["--audit-every", "1"], 3, 6 << 20, &Plan::default()).await;
    scene.run_all();
    let audits = async |result: &str| {
        let metrics = scene.publisher.http.get(format!("{}/metrics", scene.stack.url)).send().await.unwrap().text().await.unwrap();
        let line = metrics.lines().find(|line| line.starts_with("spillway_audits_total") && line.contains(result)).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    eventually("audits are answered", Duration::from_secs(60), || async { (audits("right").await >= 2).then_some(()) }).await;
    scene.all_complete(&[0, 1, 2]).await;
    assert_eq!(audits("false").await, 0);
    let all: Value = scene.operator.get("/v1/quarantines").await.expect_ok();
    assert_eq!(all["items"], json!([]));
}
