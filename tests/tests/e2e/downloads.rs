//! Contents on demand: whoever asks later is served by terminals that have it, several at once, and pays them.

use std::time::Duration;

use protocol::rest::{Download, DownloadState, LedgerTotals, OnDemand};
use protocol::{Bytes, ErrorCode, Money, TerminalId};
use serde_json::{Value, json};
use tests::person::{Answer, money};
use tests::program::Cli;
use tests::{Person, Plan, Running, eventually};

use crate::release::pool;
use crate::scene::Scene;

const LENGTH: usize = 6 << 20;
const PRICE: u64 = 100;
/// Holders so slow that a download of [`LENGTH`] from three of them takes some seconds: receipts reach the server a second late.
const SERVING: [&str; 4] = ["--up-mbit", "3", "--down-mbit", "200"];

/// A release that is over, and its receivers, who run on.
struct Shop {
    scene: Scene,
    holders: Vec<Running>,
}

impl Shop {
    async fn open(holders: usize, origin_budget: u64) -> Self {
        let mut scene = Scene::start(holders, LENGTH, &Plan::default()).await;
        let all: Vec<usize> = (0..holders).collect();
        scene.all_complete(&all).await;
        for running in &mut scene.running {
            running.done().await;
        }
        scene.settled(Duration::from_secs(60)).await;
        let holders = scene.terminals.iter().map(|terminal| terminal.serve(&SERVING)).collect::<Vec<_>>();
        for holder in &holders {
            holder.event("connected").await;
        }
        let shop = Self { scene, holders };
        shop.offer(PRICE, origin_budget).await;
        shop
    }

    async fn offer(&self, price: u64, origin_budget: u64) -> OnDemand {
        offer(&self.scene.publisher, &self.scene.published.content.id.to_string(), price, origin_budget).await.expect()
    }

    /// A customer of whom nobody has heard before.
    async fn customer(&self, name: &str, amount: u64) -> Cli {
        self.scene.stack.cli(&self.scene.operator, name, amount).await
    }

    fn get(&self, customer: &Cli) -> Running {
        customer.get(self.scene.published.content.id, &["--down-mbit", "100"])
    }

    /// What the customer received is what was published.
    async fn received(&self, getting: &Running) {
        assert_eq!(getting.completed().await, self.scene.published.edition.blake3.to_string());
        let event = getting.last("completed").unwrap();
        let stored = std::fs::read(event["path"].as_str().expect("a path")).expect("the received file");
        assert!(stored == self.scene.bytes, "other bytes than were published");
    }

    async fn books_balance(&self) {
        let totals: LedgerTotals = self.scene.operator.get("/v1/ledger/totals").await.expect();
        assert_eq!((totals.sum.amount, totals.held.amount), (0, 0));
    }

    /// Charge, fee and every source's share are what the published rule says, to the last unit.
    async fn paid_exactly(&self, download: &Download) {
        assert_eq!((download.state, download.charged, download.verified), (DownloadState::Complete, download.price, download.length));
        let total: u64 = download.sources.iter().map(|source| source.bytes.0).sum();
        assert_eq!(total, download.length.0);
        let terms: OnDemand = self.scene.publisher.get(&format!("/v1/contents/{}/on-demand", download.content_id)).await.expect();
        let pool = pool(download.charged.amount, terms.fee, terms.relay_share);
        for source in &download.sources {
            let exact = u128::from(pool) * u128::from(source.bytes.0) / u128::from(total);
            let earned = u128::from(source.earned.amount.0);
            assert!(earned == exact || earned == exact + 1, "{source:?} of a pool of {pool}");
        }
        assert_eq!(download.sources.iter().map(|source| source.earned.amount.0).sum::<u64>(), pool, "largest remainders use all of it");
        self.books_balance().await;
    }
}

async fn offer(publisher: &Person, content: &str, price: u64, origin_budget: u64) -> Answer {
    let path = format!("/v1/contents/{content}/on-demand");
    let terms = json!({ "price": money(price), "relay_share": 5000, "fee": 200, "origin_budget": origin_budget, "limit_s": 600 });
    let present = publisher.get(&path).await;
    match present.headers.get("etag").and_then(|tag| tag.to_str().ok()) {
        Some(tag) => publisher.put_if_match(&path, tag, &terms).await,
        None => publisher.put(&path, &terms).await,
    }
}

async fn download(customer: &Cli, getting: &Running) -> Download {
    let event = getting.event("download").await;
    let id = event["download"]["id"].as_str().expect("an id").to_owned();
    customer.person.get(&format!("/v1/downloads/{id}")).await.expect()
}

async fn settled(customer: &Cli, getting: &Running) -> Download {
    eventually("the download is settled", Duration::from_secs(60), || async {
        let now = download(customer, getting).await;
        (now.state != DownloadState::Running).then_some(now)
    })
    .await
}

fn bytes_from(download: &Download, terminal: TerminalId) -> u64 {
    download.sources.iter().filter(|source| source.terminal_id == terminal).map(|source| source.bytes.0).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_whoever_asks_after_the_release_is_served_by_several_holders_at_once_and_pays_them_once() {
    let shop = Shop::open(3, 0).await;
    let customer = shop.customer("late", 1_000).await;
    let mut before = Vec::new();
    for terminal in &shop.scene.terminals {
        before.push(terminal.person.wallet().await.0);
    }
    let mut getting = shop.get(&customer);
    getting.verified_at_least((LENGTH / 3) as u64).await;
    // What arrived is told to the server a second later or so.
    let several = |now: &Download| now.sources.iter().filter(|source| source.serving && source.bytes.0 > 0).count() >= 2;
    let running =
        eventually("two serve at once", Duration::from_secs(30), || async { Some(download(&customer, &getting).await).filter(several) })
            .await;
    assert_eq!(running.state, DownloadState::Running);
    assert!(running.sources.iter().all(|source| source.reason.contains("to spare")), "each with its reason: {:?}", running.sources);
    assert_eq!(customer.person.wallet().await, (1_000 - PRICE, PRICE), "the price is held");
    shop.received(&getting).await;
    getting.done().await;
    let done = settled(&customer, &getting).await;
    shop.paid_exactly(&done).await;
    assert_eq!(bytes_from(&done, TerminalId::ORIGIN), 0);
    assert_eq!(done.origin.sent, Bytes(0), "a budget of 0 means not one byte");
    assert_eq!(customer.person.wallet().await, (1_000 - PRICE, 0));
    for (terminal, before) in shop.scene.terminals.iter().zip(before) {
        let earned =
            done.sources.iter().find(|source| source.terminal_id == terminal.terminal_id).map_or(0, |source| source.earned.amount.0);
        assert_eq!(terminal.person.wallet().await, (before + earned, 0));
    }
    // Asking again finds it here, and costs nothing.
    let mut again = shop.get(&customer);
    again.done().await;
    assert!(again.last("held").is_some(), "{:?}", again.events());
    assert_eq!(customer.person.wallet().await, (1_000 - PRICE, 0));
    // And the customer is a source from now on.
    let stranger = shop.scene.stack.user().await;
    stranger.get(&format!("/v1/downloads/{}", done.id)).await.expect_problem(ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a04_a_source_that_is_killed_in_the_middle_is_replaced_at_once_and_what_it_delivered_is_kept_and_paid() {
    let mut shop = Shop::open(3, 0).await;
    let customer = shop.customer("late", 1_000).await;
    let mut getting = shop.get(&customer);
    getting.verified_at_least((LENGTH / 3) as u64).await;
    let before = getting.verified();
    let killed = shop.scene.terminals[1].terminal_id;
    shop.holders[1].kill().await;
    let replaced = eventually("the killed source is dropped", Duration::from_secs(30), || async {
        let now = download(&customer, &getting).await;
        now.sources.iter().any(|source| source.terminal_id == killed && !source.serving).then_some(now)
    })
    .await;
    assert!(replaced.sources.iter().filter(|source| source.serving).count() >= 1 || replaced.state == DownloadState::Complete);
    shop.received(&getting).await;
    getting.done().await;
    let verified: Vec<u64> =
        getting.events().iter().filter_map(|event| (event["event"] == "progress").then(|| event["verified"].as_u64())?).collect();
    assert!(verified.is_sorted() && verified.iter().any(|bytes| *bytes >= before), "what was there stayed: {verified:?}");
    let done = settled(&customer, &getting).await;
    shop.paid_exactly(&done).await;
    assert!(bytes_from(&done, killed) > 0, "it is paid for what it delivered: {:?}", done.sources);
    assert_eq!(done.origin.sent, Bytes(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a02_who_is_not_connected_is_not_chosen_and_who_comes_back_is() {
    let mut shop = Shop::open(2, 0).await;
    for holder in &mut shop.holders {
        holder.kill().await;
    }
    let customer = shop.customer("late", 1_000).await;
    let mut getting = shop.get(&customer);
    let waiting = download(&customer, &getting).await;
    assert!(waiting.sources.iter().all(|source| !source.serving), "{:?}", waiting.sources);
    eventually("it is said what is waited for", Duration::from_secs(30), || async {
        getting.last("warning").filter(|event| event["text"].as_str().is_some_and(|text| text.contains("budget_spent")))
    })
    .await;
    shop.holders[0] = shop.scene.terminals[0].serve(&SERVING);
    shop.received(&getting).await;
    getting.done().await;
    let done = settled(&customer, &getting).await;
    shop.paid_exactly(&done).await;
    assert_eq!(bytes_from(&done, shop.scene.terminals[0].terminal_id), LENGTH as u64);
    assert_eq!(done.origin.sent, Bytes(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a04_an_interrupted_get_keeps_what_came_and_goes_on_with_the_same_hold() {
    let shop = Shop::open(3, 0).await;
    let customer = shop.customer("late", 1_000).await;
    let mut getting = shop.get(&customer);
    getting.verified_at_least((LENGTH / 4) as u64).await;
    let first = download(&customer, &getting).await;
    getting.interrupt().await;
    assert_eq!(customer.person.wallet().await, (1_000 - PRICE, PRICE), "the hold stands");
    let mut again = shop.get(&customer);
    let opened = again.event("opened").await;
    assert!(opened["verified"].as_u64().unwrap() >= (LENGTH / 4) as u64, "{opened}");
    assert_eq!(download(&customer, &again).await.id, first.id);
    shop.received(&again).await;
    again.done().await;
    shop.paid_exactly(&settled(&customer, &again).await).await;
    assert_eq!(customer.person.wallet().await, (1_000 - PRICE, 0), "two runs, one charge");
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_without_a_holder_the_origin_serves_within_its_budget_and_a_cancelled_download_pays_for_what_came() {
    let stack = tests::Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let bytes = tests::payload("origin", LENGTH);
    let published = publisher.publish("edition.bin", bytes.clone()).await;
    let content = published.content.id;
    let customer = stack.cli(&operator, "alone", 1_000).await;
    let unpriced = customer.call(&["get", &content.to_string(), "--json"]).await;
    assert_eq!(unpriced.status.code(), Some(4), "nobody sees what is neither released nor offered");
    // Half of it: the origin stops there, and says so.
    let half = (LENGTH / 2) as u64;
    offer(&publisher, &content.to_string(), PRICE, half).await.expect_ok();
    let mut getting = customer.get(content, &[]);
    let told = |event: &Value| event["text"].as_str().is_some_and(|text| text.contains("budget_spent"));
    eventually("the end of the budget is told", Duration::from_secs(60), || async { getting.last("warning").filter(told) }).await;
    let spent = download(&customer, &getting).await;
    assert!(spent.origin.sent.0 <= half && spent.origin.sent.0 > half - (256 << 10), "{:?}", spent.origin);
    getting.interrupt().await;
    let cancelled = customer.call(&["get", &content.to_string(), "--cancel", "--json"]).await;
    assert!(cancelled.status.success(), "{}", String::from_utf8_lossy(&cancelled.stderr));
    let ended = settled(&customer, &getting).await;
    assert_eq!(ended.state, DownloadState::Ended);
    let proportional = u128::from(PRICE) * u128::from(ended.verified.0) / u128::from(ended.length.0);
    assert_eq!(u128::from(ended.charged.amount.0), proportional, "it pays for what arrived and no more");
    assert_eq!(customer.person.wallet().await, (1_000 - ended.charged.amount.0, 0));
    // With a budget for the rest and a whole one more, a new download comes from the origin alone; what arrived before is there already.
    offer(&publisher, &content.to_string(), PRICE, 2 * LENGTH as u64).await.expect_ok();
    let mut whole = customer.get(content, &[]);
    assert_eq!(whole.completed().await, published.edition.blake3.to_string());
    whole.done().await;
    let done = settled(&customer, &whole).await;
    assert_eq!((done.state, bytes_from(&done, TerminalId::ORIGIN)), (DownloadState::Complete, LENGTH as u64 - ended.verified.0));
    assert!(done.origin.sent.0 <= done.origin.budget.0, "{:?}", done.origin);
    let totals: LedgerTotals = operator.get("/v1/ledger/totals").await.expect();
    assert_eq!((totals.sum.amount, totals.held.amount), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_a_download_that_cannot_be_is_refused_with_the_reason_and_holds_nothing() {
    let stack = tests::Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let published = publisher.publish("edition.bin", tests::payload("refused", 1 << 16)).await;
    let content = published.content.id;
    let path = format!("/v1/contents/{content}/downloads");
    let poor = stack.cli(&operator, "poor", PRICE - 1).await;
    let body = |maximum: u64| json!({ "terminal_id": poor.terminal_id, "edition_id": published.edition.id, "maximum": money(maximum) });
    publisher.get(&format!("/v1/contents/{content}/on-demand")).await.expect_problem(ErrorCode::NotFound);
    poor.person.post(&path, &body(PRICE)).await.expect_problem(ErrorCode::NotFound);
    offer(&poor.person, &content.to_string(), PRICE, 0).await.expect_problem(ErrorCode::Forbidden);
    offer(&publisher, &content.to_string(), PRICE, 0).await.expect_ok();
    poor.person.post(&path, &body(PRICE)).await.expect_problem_at(ErrorCode::InsufficientFunds, "/maximum");
    poor.person.post(&path, &body(PRICE - 1)).await.expect_problem_at(ErrorCode::PriceAboveMaximum, "/maximum");
    let mut other = body(PRICE);
    other["edition_id"] = json!("ab".repeat(32));
    poor.person.post(&path, &other).await.expect_problem_at(ErrorCode::UnknownEdition, "/edition_id");
    let (foreign, _) = publisher.terminal("foreign").await;
    other = body(PRICE);
    other["terminal_id"] = json!(foreign);
    poor.person.post(&path, &other).await.expect_problem_at(ErrorCode::InvalidRequest, "/terminal_id");
    let refused = poor.call(&["get", &content.to_string(), "--maximum", "0.10"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), said.contains("give a higher `--maximum`")), (Some(4), true), "{said}");
    assert_eq!(poor.person.wallet().await, (PRICE - 1, 0));
    // An edit needs the version that was seen.
    let on_demand = format!("/v1/contents/{content}/on-demand");
    let terms = json!({ "price": money(1), "relay_share": 0, "fee": 0, "origin_budget": 0, "limit_s": 1 });
    publisher.put(&on_demand, &terms).await.expect_problem(ErrorCode::PreconditionRequired);
    publisher.put_if_match(&on_demand, "\"9\"", &terms).await.expect_problem(ErrorCode::PreconditionFailed);
    publisher.put_if_match(&on_demand, "\"1\"", &terms).await.expect_ok();
    // Nobody has it and the origin may send nothing: the second after, the whole hold is released.
    let answer: Download = poor.person.post(&path, &body(PRICE)).await.expect();
    let ended = eventually("the limit ends it", Duration::from_secs(30), || async {
        let now: Download = poor.person.get(&format!("/v1/downloads/{}", answer.id)).await.expect();
        (now.state == DownloadState::Ended).then_some(now)
    })
    .await;
    assert_eq!((ended.charged.amount.0, poor.person.wallet().await), (0, (PRICE - 1, 0)));
    publisher.send(publisher.http.delete(format!("{}{on_demand}", publisher.url))).await.expect_problem(ErrorCode::PreconditionRequired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a06_a07_a_tariff_prices_by_volume_and_says_so_before_anything_is_asked_for() {
    let stack = tests::Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.publisher(&operator).await;
    let published = publisher.publish("edition.bin", tests::payload("tariff", 1 << 20)).await;
    let content = published.content.id;
    let terms = json!({
        "currency": "EUR", "time_zone": "Europe/Berlin", "period": "week", "flat": 100, "per_gib": 0, "minimum": 1, "fee": 200,
        "relay_share": 5000, "received": [{ "from_deliveries": 1, "price_bp": 7500 }],
    });
    let mut faulty = terms.clone();
    faulty["windows"] = json!([{ "from": "24:00", "to": "06:00", "price_bp": 8000 }]);
    let refused = publisher.post("/v1/tariffs", &json!({ "name": "Loyal", "terms": faulty })).await;
    refused.expect_problem_at(ErrorCode::InvalidRequest, "/terms/windows/0/from");
    let tariff: Value = publisher.post("/v1/tariffs", &json!({ "name": "Loyal", "terms": terms })).await.expect_ok();
    let offer = json!({ "tariff_id": tariff["id"], "origin_budget": 4 << 20, "limit_s": 600 });
    let path = format!("/v1/contents/{content}/on-demand");
    let mut twice = offer.clone();
    twice["price"] = json!(money(1));
    publisher.put(&path, &twice).await.expect_problem_at(ErrorCode::InvalidRequest, "/price");
    publisher.put(&path, &offer).await.expect_ok();

    let customer = stack.cli(&operator, "loyal", 1_000).await;
    let id = content.to_string();
    let quoted = async |what: &str| {
        let told = customer.call(&["get", &id, "--quote"]).await;
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        let line = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(line.contains(what), "no {what} in {line}");
    };
    quoted("1.0 MiB for 1.00 EUR;").await;
    assert_eq!(customer.person.wallet().await, (1_000, 0), "a quote holds nothing");
    let mut getting = customer.get(content, &[]);
    getting.done().await;
    let done = settled(&customer, &getting).await;
    assert_eq!((done.state, done.charged), (DownloadState::Complete, money_of(100)));
    quoted("for 0.75 EUR (1.00 EUR without reductions and additions, 75% after 1 download of 1.0 MiB);").await;
    assert_eq!(customer.person.wallet().await, (900, 0));
}

fn money_of(amount: u64) -> Money {
    serde_json::from_value(money(amount)).expect("money")
}
