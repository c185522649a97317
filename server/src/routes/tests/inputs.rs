//! What is refused before it reaches the service: every refusal is a problem that names its part.

use protocol::ErrorCode::{InvalidRequest, MethodNotAllowed, NotFound, PayloadTooLarge, UnsupportedMediaType};
use protocol::rest::Role;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{Service, pointers, problem, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_right_is_refused_with_its_pointer() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    let cases = [
        (json!({"count": "one", "value": {"amount": 1, "currency": "EUR"}}), vec!["/count"]),
        (json!({"count": 1, "value": {"amount": -1, "currency": "EUR"}}), vec!["/value/amount"]),
        (json!({"count": 1, "value": {"amount": 1, "currency": "EUR"}, "note": "x"}), vec!["/note"]),
        (json!({"count": 1}), vec!["/value"]),
        (json!([1]), vec![""]),
        (json!({"count": 1, "value": {"amount": 1, "currency": "USD"}}), vec!["/value/currency"]),
        (json!({"count": 0, "value": {"amount": 0, "currency": "USD"}}), vec!["/count", "/value/currency", "/value/amount"]),
    ];
    for (body, expected) in cases {
        let request = service.post(&operator, "/v1/vouchers", &body).header("Idempotency-Key", "k");
        assert_eq!(pointers(&refused(request, InvalidRequest).await), expected, "{body}");
    }
    for text in ["", "{", "{\"title\": \"a\"", "\u{feff}{}", "[1,]"] {
        let request = service.request(Method::POST, "/v1/users").header("Content-Type", "application/json").body(text);
        assert_eq!(pointers(&refused(request, InvalidRequest).await), [""], "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_or_of_another_kind_is_refused() {
    let service = Service::start().await;
    let post = || service.request(Method::POST, "/v1/users").header("Content-Type", "application/json");
    refused(post().body(vec![b' '; (64 << 10) + 1]), PayloadTooLarge).await;
    let parts = futures_util::stream::iter((0..5).map(|_| Ok::<_, std::io::Error>(vec![b' '; 16 << 10])));
    refused(post().body(reqwest::Body::wrap_stream(parts)), PayloadTooLarge).await;
    refused(service.request(Method::POST, "/v1/users").body("{}"), UnsupportedMediaType).await;
    refused(service.request(Method::POST, "/v1/users").header("Content-Type", "text/plain").body("{}"), UnsupportedMediaType).await;
    refused(post().header("Content-Encoding", "br").body("{}"), UnsupportedMediaType).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_a_database_cannot_hold_is_refused_and_no_failure() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    for title in ["", "a\u{0}b", "line\nbreak", &"x".repeat(201)] {
        let body = json!({"title": title});
        assert!(pointers(&refused(service.post(&publisher, "/v1/contents", &body), InvalidRequest).await).contains(&"/title"), "{title:?}");
    }
    let _: protocol::rest::Content =
        super::answer(service.post(&publisher, "/v1/contents", &json!({"title": "𝔉ilm 映画"})), StatusCode::CREATED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_or_query_that_cannot_be_read_is_refused_with_its_name() {
    let service = Service::start().await;
    let account = service.account("anna", Role::User).await;
    for (path, pointer) in [
        ("/v1/terminals/42", "path/id"),
        ("/v1/editions/abc", "path/id"),
        ("/v1/terminals?limit=0", "query/limit"),
        ("/v1/terminals?limit=1000", "query/limit"),
        ("/v1/terminals?limit=x", "query/limit"),
        ("/v1/terminals?cursor=nonsense", "query/cursor"),
        ("/v1/terminals?page=2", "query/page"),
        ("/v1/wallet/entries?cursor=x", "query/cursor"),
    ] {
        let request = service.get(&account, path);
        assert_eq!(pointers(&refused(request, InvalidRequest).await), [pointer], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_or_method_is_a_problem_too() {
    let service = Service::start().await;
    for path in ["/v1", "/v1/nothing", "/v1/users/", "/%00", "/v1/terminals/../users/me/x"] {
        refused(service.request(Method::GET, path), NotFound).await;
    }
    let response = service.request(Method::PATCH, "/v1/users").send().await.unwrap();
    let allow = response.headers()["allow"].to_str().unwrap().to_owned();
    assert!(allow.contains("POST") && allow.contains("GET"), "{allow}");
    problem(response, MethodNotAllowed).await;
    refused(service.request(Method::from_bytes(b"MADEUP").unwrap(), "/v1/users/me"), MethodNotAllowed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_problem_names_its_own_request() {
    let service = Service::start().await;
    let first = refused(service.request(Method::GET, "/v1/wallet"), protocol::ErrorCode::Unauthenticated).await;
    let second = refused(service.request(Method::GET, "/v1/wallet"), protocol::ErrorCode::Unauthenticated).await;
    assert_ne!(first.request_id, second.request_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_inside_says_nothing_of_the_inside() {
    let service = Service::start().await;
    let account = service.account("anna", Role::User).await;
    service.state.store.tamper("ALTER TABLE terminals RENAME TO elsewhere").await;
    let failed = refused(service.get(&account, "/v1/terminals"), protocol::ErrorCode::Internal).await;
    assert_eq!((failed.detail, failed.errors), (None, Vec::new()));
}
