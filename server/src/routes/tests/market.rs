//! Money and releases over HTTP: that each request reaches its rule, once, and that nobody reaches another's. The rules themselves are tested with
//! the store.

use protocol::Amount;
use protocol::ErrorCode::{
    Forbidden, IdempotencyKeyRequired, IdempotencyKeyReused, InvalidRequest, NotFound, PreconditionFailed, PreconditionRequired,
    ReleaseClosed, VoucherUsed,
};
use protocol::rest::{
    Application, ApplicationState, Content, Delivery, Edition, LedgerTotals, Page, Release, ReleaseState, Role, Vouchers, Wallet,
    WalletEntry,
};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::{Account, Service, answer, pointers, refused};
use crate::clock;
use crate::store::idempotency::Idempotency;

fn release_body(content: &Content, editions: &[&Edition]) -> Value {
    let at = |minutes: i64| (clock::now() + time::Duration::minutes(minutes)).format(&Rfc3339).unwrap();
    json!({
        "content_id": content.id, "title": "Premiere", "editions": editions.iter().map(|edition| edition.id).collect::<Vec<_>>(),
        "ranks": [{"weight": 100, "delay_s": 0, "capacity": 1}, {"weight": 60, "delay_s": 60, "capacity": 1}],
        "reserve": {"amount": 10, "currency": "EUR"}, "opens_at": at(-1), "closes_at": at(10), "starts_at": at(20),
        "origin_budget": 10_000_000, "relay_share": 5000, "fee": 500, "limit_s": 600
    })
}

/// A release that takes applications now.
pub(super) async fn schedule(service: &Service, publisher: &Account, content: &Content, editions: &[&Edition]) -> Release {
    let body = release_body(content, editions);
    let request = service.post(publisher, "/v1/releases", &body).header("Idempotency-Key", uuid::Uuid::new_v4().to_string());
    let release: Release = answer(request, StatusCode::CREATED).await;
    service.state.store.open_release(release.id, clock::now()).await.unwrap();
    release
}

/// Puts money into a wallet the only way there is.
pub(crate) async fn fund(service: &Service, operator: &Account, account: &Account, amount: u64) {
    let body = json!({"count": 1, "value": {"amount": amount, "currency": "EUR"}});
    let made = service.post(operator, "/v1/vouchers", &body).header("Idempotency-Key", uuid::Uuid::new_v4().to_string());
    let made: Vouchers = answer(made, StatusCode::CREATED).await;
    let redeem = service.post(account, "/v1/wallet/redemptions", &json!({"code": made.codes[0]}));
    let _: WalletEntry = answer(redeem.header("Idempotency-Key", "fund"), StatusCode::CREATED).await;
}

async fn wallet(service: &Service, account: &Account) -> (u64, u64) {
    let wallet: Wallet = answer(service.get(account, "/v1/wallet"), StatusCode::OK).await;
    (wallet.available.amount.0, wallet.held.amount.0)
}

struct Market {
    service: Service,
    operator: Account,
    publisher: Account,
    anna: Account,
    bert: Account,
    content: Content,
    edition: Edition,
    release: Release,
}

impl Market {
    async fn open() -> Self {
        let service = Service::start().await;
        let operator = service.account("olga", Role::Operator).await;
        let publisher = service.account("paul", Role::Publisher).await;
        let (anna, bert) = (service.account("anna", Role::User).await, service.account("bert", Role::User).await);
        fund(&service, &operator, &anna, 1_000).await;
        let content = service.content(&publisher).await;
        let edition = service.edition(&publisher, &content, "en", vec![1; 200_000]).await;
        let release = schedule(&service, &publisher, &content, &[&edition]).await;
        Self { service, operator, publisher, anna, bert, content, edition, release }
    }

    fn apply(&self, account: &Account, terminal: protocol::TerminalId, maximum: u64, key: &str) -> RequestBuilder {
        let body =
            json!({"terminal_id": terminal, "edition_id": self.edition.id, "rank": 1, "maximum": {"amount": maximum, "currency": "EUR"}});
        self.service.post(account, &format!("/v1/releases/{}/applications", self.release.id), &body).header("Idempotency-Key", key)
    }

    fn change(&self, account: &Account, id: protocol::ApplicationId, maximum: u64, key: &str) -> RequestBuilder {
        let body = json!({"edition_id": self.edition.id, "rank": 2, "maximum": {"amount": maximum, "currency": "EUR"}});
        self.service.put(account, &format!("/v1/applications/{id}"), &body).header("Idempotency-Key", key)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_becomes_money_once() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    let anna = service.account("anna", Role::User).await;
    let body = json!({"count": 3, "value": {"amount": 500, "currency": "EUR"}});
    let make = |account: &Account, key: &str| service.post(account, "/v1/vouchers", &body).header("Idempotency-Key", key);
    refused(make(&anna, "a"), Forbidden).await;
    refused(service.post(&operator, "/v1/vouchers", &body), IdempotencyKeyRequired).await;
    let made: Vouchers = answer(make(&operator, "a"), StatusCode::CREATED).await;
    assert_eq!((made.codes.len(), made.value.amount), (3, Amount(500)));
    let again = make(&operator, "a").send().await.unwrap();
    assert_eq!((again.status(), again.headers()["idempotency-replayed"].to_str().unwrap()), (StatusCode::CREATED, "true"));
    assert_eq!(again.json::<Vouchers>().await.unwrap().codes, made.codes);
    let other = service.post(&operator, "/v1/vouchers", &json!({"count": 4, "value": body["value"]})).header("Idempotency-Key", "a");
    refused(other, IdempotencyKeyReused).await;

    let redeem =
        |key: &str, code: &str| service.post(&anna, "/v1/wallet/redemptions", &json!({"code": code})).header("Idempotency-Key", key);
    let entry: WalletEntry = answer(redeem("r", &made.codes[0]), StatusCode::CREATED).await;
    assert_eq!((entry.amount.amount, entry.balance.amount, entry.version), (500, 500, 1));
    assert_eq!(answer::<WalletEntry>(redeem("r", &made.codes[0]), StatusCode::CREATED).await, entry);
    refused(redeem("r2", &made.codes[0]), VoucherUsed).await;
    refused(redeem("r3", "00000-00000-00000-00000-00000"), NotFound).await;
    assert_eq!(pointers(&refused(redeem("r4", ""), InvalidRequest).await), ["/code"]);
    let _: WalletEntry = answer(redeem("r5", &made.codes[1]), StatusCode::CREATED).await;
    assert_eq!(wallet(&service, &anna).await, (1_000, 0));

    let newest: Page<WalletEntry> = answer(service.get(&anna, "/v1/wallet/entries?limit=1"), StatusCode::OK).await;
    assert_eq!(newest.items[0].version, 2);
    let next = format!("/v1/wallet/entries?limit=1&cursor={}", newest.next_cursor.unwrap());
    let oldest: Page<WalletEntry> = answer(service.get(&anna, &next), StatusCode::OK).await;
    assert_eq!((oldest.items, oldest.next_cursor), (vec![entry], None));

    refused(service.get(&anna, "/v1/ledger/totals"), Forbidden).await;
    let totals: LedgerTotals = answer(service.get(&operator, "/v1/ledger/totals"), StatusCode::OK).await;
    assert_eq!((totals.sum.amount, totals.wallets.amount, totals.vouchers_issued.amount), (0, 1_000, -1_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_the_whole_statement_is_a_table_that_a_spreadsheet_reads() {
    let market = Market::open().await;
    let service = &market.service;
    let statement = async |account| {
        let response = service.get(account, "/v1/wallet/entries.csv").send().await.unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(response.status() == StatusCode::OK && kind.starts_with("text/csv"), "{kind}");
        response.text().await.unwrap()
    };
    // More than a page of entries.
    let before = statement(&market.anna).await.lines().count();
    let operator = market.operator.user.id;
    for _ in 0..101 {
        let new = protocol::rest::NewVouchers { count: 1, value: service.state.store.money(Amount(1)), expires_at: None };
        let request = |user_id| Idempotency { user_id, key: uuid::Uuid::new_v4().to_string(), request_hash: [0; 32] };
        let made: Vouchers = service.state.store.create_vouchers(&new, &request(operator), clock::now()).await.unwrap().read().unwrap();
        service.state.store.redeem_voucher(&made.codes[0], &request(market.anna.user.id), clock::now()).await.unwrap();
    }
    let text = statement(&market.anna).await;
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines[0].to_owned() + "\r\n", WalletEntry::CSV_HEADER);
    assert_eq!(text.lines().count(), before + 101);
    let versions: Vec<u64> = text.lines().skip(1).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect();
    assert!(versions.is_sorted_by(|newer, older| *newer == older + 1), "newest first, and none is missing: {versions:?}");
    assert!(lines[1].contains(",voucher_redemption,0.01,"), "{}", lines[1]);
    refused(service.request(Method::GET, "/v1/wallet/entries.csv"), protocol::ErrorCode::Unauthenticated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_one_request_at_once_do_its_work_once() {
    let service = Service::start().await;
    let operator = service.account("olga", Role::Operator).await;
    let anna = service.account("anna", Role::User).await;
    let body = json!({"count": 1, "value": {"amount": 500, "currency": "EUR"}});
    let made: Vouchers = answer(service.post(&operator, "/v1/vouchers", &body).header("Idempotency-Key", "a"), StatusCode::CREATED).await;
    let redeem = || service.post(&anna, "/v1/wallet/redemptions", &json!({"code": made.codes[0]})).header("Idempotency-Key", "r").send();
    for response in futures_util::future::join_all((0..8).map(|_| redeem())).await {
        assert_eq!(response.unwrap().status(), StatusCode::CREATED);
    }
    assert_eq!(wallet(&service, &anna).await, (500, 0));
    service.state.store.assert_books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_is_made_changed_and_taken_back_by_its_owner() {
    let market = Market::open().await;
    let (service, anna) = (&market.service, &market.anna);
    let terminal = service.terminal(anna, 1).await;
    let response = market.apply(anna, terminal.id, 400, "a").send().await.unwrap();
    assert_eq!((response.status(), response.headers()["etag"].to_str().unwrap()), (StatusCode::CREATED, "\"1\""));
    let application: Application = response.json().await.unwrap();
    assert_eq!(wallet(service, anna).await, (600, 400));

    let path = format!("/v1/applications/{}", application.id);
    let read = service.get(anna, &path).send().await.unwrap();
    assert_eq!(read.headers()["etag"], "\"1\"");
    assert_eq!(read.json::<Application>().await.unwrap(), application);

    refused(market.change(anna, application.id, 500, "b"), PreconditionRequired).await;
    refused(market.change(anna, application.id, 500, "b").header("If-Match", "\"2\""), PreconditionFailed).await;
    refused(market.change(anna, application.id, 500, "b").header("If-Match", "W/\"1\""), PreconditionFailed).await;
    let changed = market.change(anna, application.id, 500, "b").header("If-Match", "\"1\"").send().await.unwrap();
    assert_eq!((changed.status(), changed.headers()["etag"].to_str().unwrap()), (StatusCode::OK, "\"2\""));
    assert_eq!(wallet(service, anna).await, (500, 500));
    let again = market.change(anna, application.id, 500, "b").header("If-Match", "\"1\"").send().await.unwrap();
    assert_eq!((again.status(), again.headers()["etag"].to_str().unwrap()), (StatusCode::OK, "\"2\""), "a repeat gives the same answer");
    let any: Application = answer(market.change(anna, application.id, 300, "c").header("If-Match", "*"), StatusCode::OK).await;
    assert_eq!((any.version, any.maximum.amount), (3, Amount(300)));

    let withdraw = |key: &str| service.request(Method::DELETE, &path).bearer_auth(&anna.tokens.access_token).header("Idempotency-Key", key);
    let withdrawn: Application = answer(withdraw("d"), StatusCode::OK).await;
    assert_eq!(withdrawn.state, ApplicationState::Withdrawn);
    assert_eq!(answer::<Application>(withdraw("d"), StatusCode::OK).await, withdrawn);
    assert_eq!(wallet(service, anna).await, (1_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_anothers_application_or_terminal() {
    let market = Market::open().await;
    let (service, anna, bert) = (&market.service, &market.anna, &market.bert);
    let terminal = service.terminal(anna, 1).await;
    let application: Application = answer(market.apply(anna, terminal.id, 400, "a"), StatusCode::CREATED).await;
    let path = format!("/v1/applications/{}", application.id);
    let borrowed = refused(market.apply(bert, terminal.id, 10, "x"), InvalidRequest).await;
    assert_eq!(pointers(&borrowed), ["/terminal_id"]);
    for account in [bert, &market.publisher] {
        refused(service.get(account, &path), NotFound).await;
        refused(market.change(account, application.id, 10, "x").header("If-Match", "\"1\""), NotFound).await;
        refused(market.change(account, application.id, 10, "x").header("If-Match", "*"), NotFound).await;
        let withdraw = service.request(Method::DELETE, &path).bearer_auth(&account.tokens.access_token).header("Idempotency-Key", "y");
        refused(withdraw, NotFound).await;
        let list = service.get(account, &format!("/v1/releases/{}/applications", market.release.id));
        assert!(answer::<Page<Application>>(list, StatusCode::OK).await.items.is_empty());
    }
    let own = service.get(anna, &format!("/v1/releases/{}/applications", market.release.id));
    assert_eq!(answer::<Page<Application>>(own, StatusCode::OK).await.items, [application]);
    refused(service.get(anna, &format!("/v1/releases/{}/applications", uuid::Uuid::nil())), NotFound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_in_another_currency_is_refused_where_it_stands() {
    let market = Market::open().await;
    let terminal = market.service.terminal(&market.anna, 1).await;
    let maximum = json!({"amount": 100, "currency": "USD"});
    let body = json!({"terminal_id": terminal.id, "edition_id": market.edition.id, "maximum": maximum});
    let path = format!("/v1/releases/{}/applications", market.release.id);
    let apply = market.service.post(&market.anna, &path, &body).header("Idempotency-Key", "a");
    assert_eq!(pointers(&refused(apply, InvalidRequest).await), ["/maximum/currency"]);
    let mut release = release_body(&market.content, &[&market.edition]);
    release["reserve"]["currency"] = json!("USD");
    let request = market.service.post(&market.publisher, "/v1/releases", &release).header("Idempotency-Key", "b");
    assert_eq!(pointers(&refused(request, InvalidRequest).await), ["/reserve/currency"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_scheduled_by_the_contents_publisher_and_seen_by_all() {
    let market = Market::open().await;
    let service = &market.service;
    let body = release_body(&market.content, &[&market.edition]);
    let post = |account: &Account, key: &str| service.post(account, "/v1/releases", &body).header("Idempotency-Key", key);
    refused(post(&market.anna, "a"), Forbidden).await;
    let rival = service.account("rita", Role::Publisher).await;
    refused(post(&rival, "a"), NotFound).await;
    refused(service.post(&market.publisher, "/v1/releases", &body), IdempotencyKeyRequired).await;
    let seen: Release = answer(service.get(&market.anna, &format!("/v1/releases/{}", market.release.id)), StatusCode::OK).await;
    assert_eq!((seen.id, seen.state), (market.release.id, ReleaseState::Open));
    let all: Page<Release> = answer(service.get(&market.anna, "/v1/releases"), StatusCode::OK).await;
    assert_eq!(all.items, [seen]);
    let none: Page<Delivery> =
        answer(service.get(&market.anna, &format!("/v1/releases/{}/deliveries", market.release.id)), StatusCode::OK).await;
    assert!(none.items.is_empty());
    for path in ["", "/deliveries"] {
        refused(service.get(&market.anna, &format!("/v1/releases/{}{path}", uuid::Uuid::nil())), NotFound).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_is_for_the_publisher_and_the_operator_and_gives_everything_back() {
    let market = Market::open().await;
    let (service, anna) = (&market.service, &market.anna);
    let terminal = service.terminal(anna, 1).await;
    let application: Application = answer(market.apply(anna, terminal.id, 400, "a"), StatusCode::CREATED).await;
    let cancel = |account: &Account, key: &str| {
        let path = format!("/v1/releases/{}/cancel", market.release.id);
        service.request(Method::POST, &path).bearer_auth(&account.tokens.access_token).header("Idempotency-Key", key)
    };
    refused(cancel(anna, "x"), Forbidden).await;
    let rival = service.account("rita", Role::Publisher).await;
    refused(cancel(&rival, "x"), NotFound).await;
    let cancelled: Release = answer(cancel(&market.operator, "c"), StatusCode::OK).await;
    assert_eq!(cancelled.state, ReleaseState::Cancelled);
    assert_eq!(answer::<Release>(cancel(&market.operator, "c"), StatusCode::OK).await, cancelled);
    refused(cancel(&market.publisher, "d"), ReleaseClosed).await;
    assert_eq!(wallet(service, anna).await, (1_000, 0));
    let after: Application = answer(service.get(anna, &format!("/v1/applications/{}", application.id)), StatusCode::OK).await;
    assert_eq!(after.state, ApplicationState::Cancelled);
    refused(market.apply(anna, terminal.id, 100, "late"), ReleaseClosed).await;
    service.state.store.assert_books_balance().await;
}
