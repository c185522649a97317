//! Bad input over HTTP changes nothing and is answered by a problem that points at what is wrong.

use protocol::ErrorCode;
use serde_json::json;
use tests::person::{Answer, money};
use tests::release::Plan;
use tests::{Person, Stack, payload};

struct Market {
    stack: Stack,
    operator: Person,
    publisher: Person,
    user: Person,
    path: String,
    body: serde_json::Value,
}

async fn market() -> Market {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let published = publisher.publish("x", payload("refusals", 100)).await;
    let plan = Plan { closes_in_ms: 600_000, starts_in_ms: 700_000, ranks: vec![(100, 0, 2), (50, 5, 2)], ..Plan::default() };
    let release = publisher.schedule(&[&published], &plan).await;
    let user = stack.rich_user(&operator, 1_000).await;
    let (terminal_id, _) = user.terminal("t").await;
    let body = json!({ "terminal_id": terminal_id, "edition_id": published.edition.id, "rank": 1, "maximum": money(500) });
    Market { stack, operator, publisher, user, path: format!("/v1/releases/{}/applications", release.id), body }
}

impl Market {
    async fn apply_with(&self, pointer: &str, value: serde_json::Value) -> Answer {
        let mut body = self.body.clone();
        *body.pointer_mut(pointer).expect("a field") = value;
        self.user.post(&self.path, &body).await
    }

    async fn nothing_is_held(&self) {
        assert_eq!(self.user.wallet().await, (1_000, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_the_release_cannot_take_is_refused_with_a_pointer() {
    let market = market().await;
    market.apply_with("/edition_id", json!("ab".repeat(32))).await.expect_problem_at(ErrorCode::UnknownEdition, "/edition_id");
    market.apply_with("/rank", json!(3)).await.expect_problem_at(ErrorCode::UnknownRank, "/rank");
    market.apply_with("/rank", json!(0)).await.expect_problem_at(ErrorCode::InvalidRequest, "/rank");
    market.apply_with("/maximum/amount", json!(99)).await.expect_problem_at(ErrorCode::BelowReserve, "/maximum");
    market.apply_with("/maximum/amount", json!(1_001)).await.expect_problem(ErrorCode::InsufficientFunds);
    for bad in [json!(-1), json!(9_007_199_254_740_992_u64), json!(1.5), json!("500"), json!(null)] {
        market.apply_with("/maximum/amount", bad).await.expect_problem_at(ErrorCode::InvalidRequest, "/maximum/amount");
    }
    let huge = market.body.to_string().replace("500", "99999999999999999999999999");
    let request = market
        .user
        .http
        .post(format!("{}{}", market.user.url, market.path))
        .header("Idempotency-Key", "huge")
        .header("Content-Type", "application/json");
    market.user.send(request.body(huge)).await.expect_problem_at(ErrorCode::InvalidRequest, "/maximum/amount");
    market.apply_with("/maximum/currency", json!("USD")).await.expect_problem_at(ErrorCode::InvalidRequest, "/maximum/currency");
    market.apply_with("/terminal_id", json!("not-an-id")).await.expect_problem_at(ErrorCode::InvalidRequest, "/terminal_id");
    let mut extra = market.body.clone();
    extra["discount"] = json!(true);
    market.user.post(&market.path, &extra).await.expect_problem(ErrorCode::InvalidRequest);
    market.nothing_is_held().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_somebody_else_is_not_found() {
    let market = market().await;
    let application: protocol::rest::Application = market.user.post(&market.path, &market.body).await.expect();
    let other = market.stack.rich_user(&market.operator, 1_000).await;
    let path = format!("/v1/applications/{}", application.id);
    other.get(&path).await.expect_problem(ErrorCode::NotFound);
    other.delete(&path).await.expect_problem(ErrorCode::NotFound);
    let change = json!({ "edition_id": application.edition_id, "rank": 1, "maximum": money(600) });
    other.put_if_match(&path, "\"1\"", &change).await.expect_problem(ErrorCode::NotFound);
    let stolen = other.post(&market.path, &market.body).await;
    stolen.expect_problem_at(ErrorCode::InvalidRequest, "/terminal_id");
    assert_eq!((market.user.wallet().await, other.wallet().await), ((500, 500), (1_000, 0)));
    market.user.post("/v1/vouchers", &json!({ "count": 1, "value": money(1) })).await.expect_problem(ErrorCode::Forbidden);
    market.user.post("/v1/contents", &json!({ "title": "x" })).await.expect_problem(ErrorCode::Forbidden);
    market.user.get("/v1/ledger/totals").await.expect_problem(ErrorCode::Forbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_pays_once_and_an_idempotency_key_means_one_request() {
    let market = market().await;
    let codes = market.operator.vouchers(2, 700).await;
    let body = json!({ "code": codes[0] });
    let first = market.user.post_with_key("/v1/wallet/redemptions", &body, "key-1").await;
    let again = market.user.post_with_key("/v1/wallet/redemptions", &body, "key-1").await;
    assert_eq!((first.status, &first.text), (again.status, &again.text), "a repeat gives the first answer");
    assert_eq!(market.user.wallet().await, (1_700, 0));
    let other = json!({ "code": codes[1] });
    market.user.post_with_key("/v1/wallet/redemptions", &other, "key-1").await.expect_problem(ErrorCode::IdempotencyKeyReused);
    market.user.redeem(&codes[0]).await.expect_problem(ErrorCode::VoucherUsed);
    market.user.redeem("NO-SUCH-CODE").await.expect_problem_at(ErrorCode::NotFound, "/code");
    let request = market.user.http.post(format!("{}/v1/wallet/redemptions", market.user.url)).json(&other);
    market.user.send(request).await.expect_problem(ErrorCode::IdempotencyKeyRequired);
    assert_eq!(market.user.wallet().await, (1_700, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_or_no_json_are_refused() {
    let market = market().await;
    let send = |body: String, kind: &'static str| {
        let request = market.user.http.post(format!("{}{}", market.user.url, market.path)).header("Idempotency-Key", "k");
        market.user.send(request.header("Content-Type", kind).body(body))
    };
    send("{".into(), "application/json").await.expect_problem(ErrorCode::InvalidRequest);
    send(format!("{{\"x\":\"{}\"}}", "a".repeat(1 << 20)), "application/json").await.expect_problem(ErrorCode::PayloadTooLarge);
    send(market.body.to_string(), "text/plain").await.expect_problem(ErrorCode::UnsupportedMediaType);
    market.user.get("/v1/nothing-here").await.expect_problem(ErrorCode::NotFound);
    market.user.delete("/v1/wallet").await.expect_problem(ErrorCode::MethodNotAllowed);
    market.nothing_is_held().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn editions_and_releases_that_make_no_sense_are_refused() {
    let market = market().await;
    let content: protocol::rest::Content = market.publisher.post("/v1/contents", &json!({ "title": "c" })).await.expect();
    let uploads = format!("/v1/contents/{}/uploads", content.id);
    let empty = json!({ "label": "e", "files": [{ "path": "e", "length": 0 }] });
    market.publisher.post(&uploads, &empty).await.expect_problem(ErrorCode::EmptyEdition);
    for bad in ["../x", "/x", "a//b", ""] {
        let escape = json!({ "label": "e", "files": [{ "path": bad, "length": 1 }] });
        market.publisher.post(&uploads, &escape).await.expect_problem_at(ErrorCode::InvalidRequest, "/files/0/path");
    }
    let upload: protocol::rest::Upload =
        market.publisher.post(&uploads, &json!({ "label": "e", "files": [{ "path": "e", "length": 10 }] })).await.expect();
    for length in [0_usize, 9, 11] {
        let request = market.publisher.http.put(format!("{}/v1/uploads/{}", market.publisher.url, upload.id)).body(payload("bad", length));
        market.publisher.send(request).await.expect_problem(ErrorCode::InvalidRequest);
    }
    let known: protocol::rest::Content = market.publisher.get(&format!("/v1/contents/{}", content.id)).await.expect();
    assert!(known.editions.is_empty(), "no edition came of it");
    let published = market.publisher.publish_into(&content, "good", payload("good", 1000)).await;
    let small = Plan { budget_percent: 99, ..Plan::default() };
    let body = Person::release_body(&[&published], &small);
    market.publisher.post("/v1/releases", &body).await.expect_problem_at(ErrorCode::BudgetTooSmall, "/origin_budget");
    let rising = Plan { ranks: vec![(10, 0, 1), (20, 5, 1)], ..Plan::default() };
    let body = Person::release_body(&[&published], &rising);
    market.publisher.post("/v1/releases", &body).await.expect_problem_at(ErrorCode::InvalidRequest, "/ranks/1/weight");
    let late = Plan { closes_in_ms: 9_000, starts_in_ms: 8_000, ..Plan::default() };
    let body = Person::release_body(&[&published], &late);
    market.publisher.post("/v1/releases", &body).await.expect_problem_at(ErrorCode::InvalidRequest, "/starts_at");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_forged_or_missing_opens_nothing() {
    let market = market().await;
    let mut parts: Vec<String> = market.user.token.split('.').map(str::to_owned).collect();
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{}.", parts[1]);
    parts[2] = parts[2].chars().rev().collect();
    for token in [unsigned, parts.join("."), "x".into(), String::new()] {
        let stranger = Person { token: token.clone(), ..market.user.clone() };
        stranger.get("/v1/wallet").await.expect_problem(ErrorCode::Unauthenticated);
        stranger.post(&market.path, &market.body).await.expect_problem(ErrorCode::Unauthenticated);
    }
    market.nothing_is_held().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_outside_a_swarm_is_served_no_chunk_of_it() {
    let market = market().await;
    let release: protocol::rest::Release = market.user.get(market.path.trim_end_matches("/applications")).await.expect();
    let terminal = market.body["terminal_id"].as_str().unwrap();
    let url = format!("{}/v1/swarms/{}/chunks/0", market.user.url, release.editions[0].swarm_id);
    market.user.send(market.user.http.get(&url).header("Spillway-Terminal", terminal)).await.expect_problem(ErrorCode::NotInSwarm);
    market.user.send(market.user.http.get(&url)).await.expect_problem_at(ErrorCode::InvalidRequest, "header/Spillway-Terminal");
    let after: protocol::rest::Release = market.user.get(market.path.trim_end_matches("/applications")).await.expect();
    assert_eq!(after.origin.sent.0, 0);
}
