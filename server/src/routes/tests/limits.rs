//! Rate limits.

use protocol::ErrorCode::{InvalidCredentials, TooManyRequests};
use protocol::rest::Role;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::json;

use super::{PASSWORD, Service, problem};

async fn limited(behind_proxy: bool) -> Service {
    Service::start_with(|config| {
        config.login_limit = 4;
        config.behind_proxy = behind_proxy;
    })
    .await
}

fn log_in(service: &Service, email: &str) -> RequestBuilder {
    service.request(Method::POST, "/v1/sessions").json(&json!({"email": email, "password": "not the password"}))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_says_what_is_left_and_then_when_to_come_back() {
    let service = limited(false).await;
    for left in [3, 2, 1, 0] {
        let response = log_in(&service, "nobody@example.org").send().await.unwrap();
        assert_eq!(response.headers()["ratelimit-policy"], "\"login\";q=4;w=60");
        let said = response.headers()["ratelimit"].to_str().unwrap().to_owned();
        assert!(said.starts_with(&format!("\"login\";r={left};t=")), "{said}");
        problem(response, InvalidCredentials).await;
    }
    let response = log_in(&service, "nobody@example.org").send().await.unwrap();
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(response.headers()["ratelimit"].to_str().unwrap().starts_with("\"login\";r=0;"));
    problem(response, TooManyRequests).await;
    let register = service.request(Method::POST, "/v1/users").json(&json!({"email": "anna@example.org", "password": PASSWORD}));
    assert_eq!(register.send().await.unwrap().status(), StatusCode::CREATED, "registrations are counted apart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_choose_its_own_address() {
    let service = limited(false).await;
    for number in 0..4 {
        let request = log_in(&service, "nobody@example.org").header("X-Forwarded-For", format!("10.0.0.{number}"));
        problem(request.send().await.unwrap(), InvalidCredentials).await;
    }
    let request = log_in(&service, "nobody@example.org").header("X-Forwarded-For", "10.0.0.99");
    problem(request.send().await.unwrap(), TooManyRequests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_clients_are_told_apart_by_what_the_proxy_put_last() {
    let service = limited(true).await;
    for _ in 0..4 {
        let request = log_in(&service, "nobody@example.org").header("X-Forwarded-For", "1.2.3.4, 10.0.0.1");
        problem(request.send().await.unwrap(), InvalidCredentials).await;
    }
    let same = log_in(&service, "nobody@example.org").header("X-Forwarded-For", "5.6.7.8, 10.0.0.1");
    problem(same.send().await.unwrap(), TooManyRequests).await;
    let other = log_in(&service, "nobody@example.org").header("X-Forwarded-For", "1.2.3.4, 10.0.0.2");
    problem(other.send().await.unwrap(), InvalidCredentials).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_ten_guesses_at_one_account() {
    let service = Service::start_with(|config| config.login_limit = 1_000).await;
    service.account("anna", Role::User).await;
    for _ in 0..9 {
        problem(service.log_in("anna@example.org", "not the password").await, InvalidCredentials).await;
    }
    problem(service.log_in("Anna@example.org ", PASSWORD).await, TooManyRequests).await;
    problem(service.log_in("bert@example.org", PASSWORD).await, InvalidCredentials).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_token_cannot_guess_the_password() {
    let service = Service::start().await;
    let [anna, bert] = [service.account("anna", Role::User).await, service.account("bert", Role::User).await];
    let change = |account, current: &str| {
        service.put(account, "/v1/users/me/password", &json!({"current": current, "new": "another long password"}))
    };
    for guess in 0..10 {
        problem(change(&anna, &format!("guess number {guess}")).send().await.unwrap(), InvalidCredentials).await;
    }
    let response = change(&anna, PASSWORD).send().await.unwrap();
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=300).contains(&wait), "{wait}");
    problem(response, TooManyRequests).await;
    assert_eq!(change(&bert, PASSWORD).send().await.unwrap().status(), StatusCode::NO_CONTENT, "users are counted apart");
}
