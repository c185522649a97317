//! Quarantines as operators impose them and owners meet them.

use protocol::ErrorCode::{Conflict, Forbidden, InvalidRequest, NotFound};
use protocol::rest::{Page, Quarantine, Role};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Account, Service, answer, pointers, refused};

fn body(terminal: protocol::TerminalId, expires_at: &str) -> Value {
    json!({"terminal_id": terminal, "reason": "denial", "note": "took 4 MiB unsigned", "expires_at": expires_at})
}

async fn imposed(service: &Service, operator: &Account, terminal: protocol::TerminalId) -> Quarantine {
    let request = service.post(operator, "/v1/quarantines", &body(terminal, "2027-01-01T00:00:00Z"));
    answer(request.header("Idempotency-Key", uuid::Uuid::new_v4().to_string()), StatusCode::CREATED).await
}

async fn listed(service: &Service, viewer: &Account, query: &str) -> Vec<Quarantine> {
    answer::<Page<Quarantine>>(service.get(viewer, &format!("/v1/quarantines{query}")), StatusCode::OK).await.items
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_a_quarantine_has_a_reason_and_an_end_and_only_an_operator_imposes_it() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    let (anna, bert) = (service.account("anna", Role::User).await, service.account("bert", Role::User).await);
    let terminal = service.terminal(&anna, 1).await.id;
    let asked = |by: &Account, body: &Value| service.post(by, "/v1/quarantines", body).header("Idempotency-Key", "k");
    refused(asked(&anna, &body(terminal, "2027-01-01T00:00:00Z")), Forbidden).await;
    for (expires_at, at) in [("2020-01-01T00:00:00Z", "/expires_at"), ("2099-01-01T00:00:00Z", "/expires_at")] {
        assert_eq!(pointers(&refused(asked(&operator, &body(terminal, expires_at)), InvalidRequest).await), [at]);
    }
    let mut bad = body(terminal, "2027-01-01T00:00:00Z");
    bad["note"] = json!("");
    assert_eq!(pointers(&refused(asked(&operator, &bad), InvalidRequest).await), ["/note"]);
    bad["reason"] = json!("anger");
    refused(asked(&operator, &bad), InvalidRequest).await;
    refused(asked(&operator, &body(protocol::TerminalId::from_bytes([9; 16]), "2027-01-01T00:00:00Z")), NotFound).await;

    let made: Quarantine = answer(asked(&operator, &body(terminal, "2027-01-01T00:00:00Z")), StatusCode::CREATED).await;
    let again: Quarantine = answer(asked(&operator, &body(terminal, "2027-01-01T00:00:00Z")), StatusCode::CREATED).await;
    assert_eq!(again, made);
    assert_eq!((listed(&service, &anna, "").await, listed(&service, &operator, "").await), (vec![made.clone()], vec![made.clone()]));
    assert!(listed(&service, &bert, "").await.is_empty());
    refused(service.get(&bert, &format!("/v1/quarantines/{}", made.id)), NotFound).await;
    assert_eq!(answer::<Quarantine>(service.get(&anna, &format!("/v1/quarantines/{}", made.id)), StatusCode::OK).await, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_an_owner_appeals_and_an_operator_decides_once() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    let (anna, bert) = (service.account("anna", Role::User).await, service.account("bert", Role::User).await);
    let terminal = service.terminal(&anna, 1).await.id;
    let path = format!("/v1/quarantines/{}", imposed(&service, &operator, terminal).await.id);
    let (appeal, decision) = (format!("{path}/appeal"), format!("{path}/decision"));
    assert!(listed(&service, &operator, "?open=true").await.is_empty(), "nobody has appealed");
    refused(service.put(&bert, &appeal, &json!({"text": "let her in"})), NotFound).await;
    refused(service.put(&anna, &appeal, &json!({"text": ""})), InvalidRequest).await;
    for text in ["the disk broke", "the disk broke, and here is the bill"] {
        let noted: Quarantine = answer(service.put(&anna, &appeal, &json!({"text": text})), StatusCode::OK).await;
        assert_eq!(noted.appeal.unwrap().text, text);
    }
    assert_eq!(listed(&service, &operator, "?open=true").await.len(), 1);
    refused(service.get(&operator, "/v1/quarantines?open=maybe"), InvalidRequest).await;
    refused(service.put(&anna, &decision, &json!({"lift": true})), Forbidden).await;
    let lifted = json!({"lift": true, "note": "believed"});
    let decided: Quarantine = answer(service.put(&operator, &decision, &lifted), StatusCode::OK).await;
    assert!(decided.decision.as_ref().unwrap().lifted && !decided.is_in_force(time::OffsetDateTime::now_utc()));
    assert_eq!(answer::<Quarantine>(service.put(&operator, &decision, &lifted), StatusCode::OK).await, decided, "once more is the same");
    refused(service.put(&operator, &decision, &json!({"lift": false})), Conflict).await;
    refused(service.put(&anna, &appeal, &json!({"text": "and now?"})), Conflict).await;
    assert!(listed(&service, &operator, "?open=true").await.is_empty());
    refused(service.put(&operator, "/v1/quarantines/01a1fc1f-9f34-72a5-bbb5-2ca69802b664/decision", &lifted), NotFound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_the_owner_is_told_of_both_and_nobody_else_is() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    let (anna, bert) = (service.account("anna", Role::User).await, service.account("bert", Role::User).await);
    for owner in [&anna, &bert, &operator] {
        let made = service.post(owner, "/v1/webhooks", &json!({"url": "https://example.org/a"})).header("Idempotency-Key", "w");
        assert_eq!(made.send().await.unwrap().status(), StatusCode::CREATED);
    }
    let terminal = service.terminal(&anna, 1).await.id;
    let path = format!("/v1/quarantines/{}", imposed(&service, &operator, terminal).await.id);
    for _ in 0..2 {
        answer::<Quarantine>(service.put(&operator, &format!("{path}/decision"), &json!({"lift": false})), StatusCode::OK).await;
    }
    let told =
        service.state.store.peek("SELECT (kind || ' ' || email)::bytea FROM outbox JOIN users ON users.id = user_id ORDER BY kind").await;
    let told: Vec<String> = told.into_iter().map(|row| String::from_utf8(row).unwrap()).collect();
    assert_eq!(told, ["quarantine.ruled anna@example.org", "terminal.shut_out anna@example.org"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_one_that_is_over_is_neither_appealed_nor_decided() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    let anna = service.account("anna", Role::User).await;
    let terminal = service.terminal(&anna, 1).await.id;
    let path = format!("/v1/quarantines/{}", imposed(&service, &operator, terminal).await.id);
    let store = &service.state.store;
    store.tamper("UPDATE quarantines SET begun_at = now() - interval '2 days', expires_at = now() - interval '1 day'").await;
    refused(service.put(&anna, &format!("{path}/appeal"), &json!({"text": "late"})), Conflict).await;
    refused(service.put(&operator, &format!("{path}/decision"), &json!({"lift": true})), Conflict).await;
    store.check_quarantine(terminal, time::OffsetDateTime::now_utc()).await.unwrap();
}
