//! Logging in, staying logged in, logging out.

use protocol::ErrorCode::{InvalidCredentials, InvalidRequest, RefreshTokenReused, Unauthenticated};
use protocol::rest::{Refresh, Role, Tokens};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::json;

use crate::auth::refresh::RefreshToken;

use super::{PASSWORD, Service, answer, pointers, problem, refused};

fn refresh(service: &Service, token: &str) -> RequestBuilder {
    service.request(Method::POST, "/v1/sessions/refresh").json(&json!({"refresh_token": token}))
}

fn log_out(service: &Service, token: &str) -> RequestBuilder {
    service.request(Method::DELETE, "/v1/sessions").json(&json!({"refresh_token": token}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_address_are_answered_alike() {
    let service = Service::start().await;
    service.account("anna", Role::User).await;
    let wrong = problem(service.log_in("anna@example.org", "not the password").await, InvalidCredentials).await;
    let unknown = problem(service.log_in("nobody@example.org", "not the password").await, InvalidCredentials).await;
    let odd = problem(service.log_in("\u{0} no address", "x").await, InvalidCredentials).await;
    for other in [&unknown, &odd] {
        assert_eq!((&wrong.title, &wrong.detail, &wrong.errors), (&other.title, &other.detail, &other.errors));
    }
    assert_ne!(wrong.request_id, unknown.request_id);
    let response = service.log_in(" ANNA@example.org", PASSWORD).await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    let tokens: Tokens = response.json().await.unwrap();
    assert_eq!((tokens.token_type.as_str(), tokens.expires_in), ("Bearer", 900));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_address_takes_as_long_as_a_wrong_password() {
    let service = Service::start().await;
    service.account("anna", Role::User).await;
    // The least of several tries: what else runs on the machine only adds.
    let mut least = [std::time::Duration::MAX; 2];
    for _ in 0..7 {
        for (least, email) in least.iter_mut().zip(["anna@example.org", "nobody@example.org"]) {
            let began = std::time::Instant::now();
            service.log_in(email, "not the password").await;
            *least = began.elapsed().min(*least);
        }
    }
    let [known, unknown] = least;
    assert!(unknown > known / 2, "unknown after {unknown:?}, known after {known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_good_for_one_use_and_one_that_is_used_after_its_successor_ends_the_family() {
    let service = Service::start().await;
    let account = service.account("anna", Role::User).await;
    let first = account.tokens.refresh_token;
    let second: Tokens = answer(refresh(&service, &first), StatusCode::OK).await;
    assert_ne!(second.refresh_token, first);
    let third: Tokens = answer(refresh(&service, &second.refresh_token), StatusCode::OK).await;
    let other: Tokens = service.log_in("anna@example.org", PASSWORD).await.json().await.unwrap();

    refused(refresh(&service, &first), RefreshTokenReused).await;
    for ended in [&third, &second] {
        refused(refresh(&service, &ended.refresh_token), Unauthenticated).await;
    }
    let _: Tokens = answer(refresh(&service, &other.refresh_token), StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_on_its_way_costs_no_login() {
    let service = Service::start().await;
    let first = service.account("anna", Role::User).await.tokens.refresh_token;
    let mut newest = first.clone();
    for _ in 0..3 {
        let tokens: Tokens = answer(refresh(&service, &first), StatusCode::OK).await;
        newest = tokens.refresh_token;
    }
    let _: Tokens = answer(refresh(&service, &newest), StatusCode::OK).await;
    refused(refresh(&service, &first), RefreshTokenReused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_was_passed_over_ends_the_family() {
    let service = Service::start().await;
    let first = service.account("anna", Role::User).await.tokens.refresh_token;
    let stolen: Tokens = answer(refresh(&service, &first), StatusCode::OK).await;
    let own: Tokens = answer(refresh(&service, &first), StatusCode::OK).await;
    refused(refresh(&service, &stolen.refresh_token), RefreshTokenReused).await;
    refused(refresh(&service, &own.refresh_token), Unauthenticated).await;
    refused(refresh(&service, &first), Unauthenticated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_refreshes_at_once_one_answer_is_good() {
    let service = Service::start().await;
    let token = service.account("anna", Role::User).await.tokens.refresh_token;
    let at_once = futures_util::future::join_all((0..8).map(|_| answer::<Tokens>(refresh(&service, &token), StatusCode::OK))).await;
    let unused = service.state.store.peek("SELECT token_hash FROM refresh_tokens WHERE used_at IS NULL").await;
    assert_eq!(unused.len(), 1);
    let is_good = |tokens: &&Tokens| {
        let sent = Refresh { refresh_token: tokens.refresh_token.clone() };
        RefreshToken::parse(&sent).unwrap().hash().0.as_slice() == unused[0]
    };
    assert_eq!(at_once.iter().filter(is_good).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_unknown_malformed_or_expired_is_refused() {
    let service = Service::start().await;
    let token = service.account("anna", Role::User).await.tokens.refresh_token;
    for bad in ["", "x", &"A".repeat(43), &"A".repeat(10_000)] {
        refused(refresh(&service, bad), Unauthenticated).await;
    }
    service.state.store.tamper("UPDATE refresh_tokens SET expires_at = created_at").await;
    refused(refresh(&service, &token), Unauthenticated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_holds_no_token_that_could_be_used() {
    let service = Service::start().await;
    let token = service.account("anna", Role::User).await.tokens.refresh_token;
    let stored = service.state.store.peek("SELECT token_hash FROM refresh_tokens").await;
    assert_eq!(stored.len(), 1);
    use base64::Engine;
    assert_ne!(stored[0], base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(token).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_out_ends_the_session_and_may_be_repeated() {
    let service = Service::start().await;
    let first = service.account("anna", Role::User).await.tokens.refresh_token;
    let second: Tokens = answer(refresh(&service, &first), StatusCode::OK).await;
    for token in [&first, &first, &"A".repeat(43), &"x".to_owned()] {
        assert_eq!(log_out(&service, token).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    }
    refused(refresh(&service, &second.refresh_token), Unauthenticated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_password_ends_every_session() {
    let service = Service::start().await;
    let account = service.account("anna", Role::User).await;
    let other: Tokens = service.log_in("anna@example.org", PASSWORD).await.json().await.unwrap();
    let change = |current: &str, new: &str| service.put(&account, "/v1/users/me/password", &json!({"current": current, "new": new}));

    let wrong = refused(change("not the password", "a new password"), InvalidCredentials).await;
    assert_eq!(pointers(&wrong), ["/current"]);
    let short = refused(change(PASSWORD, "short"), InvalidRequest).await;
    assert_eq!(pointers(&short), ["/new"]);
    assert_eq!(change(PASSWORD, "a new password").send().await.unwrap().status(), StatusCode::NO_CONTENT);

    for token in [&account.tokens.refresh_token, &other.refresh_token] {
        refused(refresh(&service, token), Unauthenticated).await;
    }
    problem(service.log_in("anna@example.org", PASSWORD).await, InvalidCredentials).await;
    assert_eq!(service.log_in("anna@example.org", "a new password").await.status(), StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cannot_begin_with_a_password_that_was_changed_meanwhile() {
    use crate::store::sessions::NewRefreshToken;
    let service = Service::start().await;
    let user = service.account("anna", Role::User).await.user;
    let store = &service.state.store;
    let checked = store.password_hash(user.id).await.unwrap().unwrap();
    let now = crate::clock::now();
    store.change_password(user.id, &checked, "another hash", now).await.unwrap();
    let token = RefreshToken::random().unwrap();
    let token = NewRefreshToken { hash: token.hash(), created_at: now, expires_at: now + time::Duration::days(1) };
    assert_eq!(store.begin_session(user.id, &checked, token).await.unwrap_err().code(), InvalidCredentials);
    assert_eq!(store.change_password(user.id, &checked, "a third", now).await.unwrap_err().code(), InvalidCredentials);
}
