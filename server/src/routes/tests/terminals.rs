//! Client machines.

use protocol::ErrorCode::{Conflict, InvalidRequest, NotFound};
use protocol::TerminalKey;
use protocol::rest::{Page, Role, Terminal};
use reqwest::StatusCode;

use super::{Service, answer, pointers, refused, terminal_body};

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_registered_by_whoever_holds_its_key() {
    let service = Service::start().await;
    let (anna, bert) = (service.account("anna", Role::User).await, service.account("bert", Role::User).await);
    let key = TerminalKey::from_secret(&[1; 32]);
    let stolen = terminal_body(&anna, &key);
    let fault = refused(service.post(&bert, "/v1/terminals", &stolen), InvalidRequest).await;
    assert_eq!(pointers(&fault), ["/proof"], "the proof names its user");

    let response = service.post(&anna, "/v1/terminals", &stolen).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let terminal: Terminal = response.json().await.unwrap();
    assert_eq!(location, format!("/v1/terminals/{}", terminal.id));
    assert_eq!(answer::<Terminal>(service.get(&anna, &location), StatusCode::OK).await, terminal);
    refused(service.post(&anna, "/v1/terminals", &stolen), Conflict).await;
    refused(service.post(&bert, "/v1/terminals", &terminal_body(&bert, &key)), Conflict).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_terminal_does_not_exist() {
    let service = Service::start().await;
    let (anna, bert) = (service.account("anna", Role::User).await, service.account("bert", Role::User).await);
    let terminal = service.terminal(&anna, 1).await;
    refused(service.get(&bert, &format!("/v1/terminals/{}", terminal.id)), NotFound).await;
    let own: Page<Terminal> = answer(service.get(&bert, "/v1/terminals"), StatusCode::OK).await;
    assert_eq!((own.items, own.next_cursor), (Vec::new(), None));
    let own: Page<Terminal> = answer(service.get(&anna, "/v1/terminals"), StatusCode::OK).await;
    assert_eq!(own.items, [terminal]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_or_figure_out_of_range_is_refused() {
    let service = Service::start().await;
    let anna = service.account("anna", Role::User).await;
    let key = TerminalKey::from_secret(&[1; 32]);
    for (field, value, pointer) in [
        ("name", serde_json::json!(""), "/name"),
        ("name", serde_json::json!("x".repeat(65)), "/name"),
        ("public_key", serde_json::json!("00"), "/public_key"),
        ("proof", serde_json::json!("00".repeat(64)), "/proof"),
        ("capabilities", serde_json::json!({"up": u64::MAX, "down": 0}), "/capabilities/up"),
    ] {
        let mut body = terminal_body(&anna, &key);
        body[field] = value;
        assert_eq!(pointers(&refused(service.post(&anna, "/v1/terminals", &body), InvalidRequest).await), [pointer]);
    }
}
