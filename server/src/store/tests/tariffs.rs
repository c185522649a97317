//! Tariffs: versions stay, a download stays under the one that it was asked for under, and volumes make prices and shares.

use protocol::rest::{
    Download, NewDownload, NewTariff, OnDemandTerms, ReceivedStep, SentStep, Tariff, TariffTerms, TariffVersion, TariffWindow, VolumePeriod,
};
use protocol::{Amount, BasisPoints, Bytes, ContentId, Currency, EditionId, ErrorCode, TariffId, TerminalId, UserId};
use time::{Duration, OffsetDateTime};

use super::fixture::{CHUNKS, START, World, code_of, eur, request};
use crate::store::PageRequest;
use crate::store::downloads::DownloadViewer;
use crate::store::settlement::{Settled, Share};

fn bp(value: u16) -> BasisPoints {
    BasisPoints::new(value).unwrap()
}

/// 10.00 each; no fee, half of it for relays; from the second download on a tenth off, and relays that have served before get a tenth more.
fn terms() -> TariffTerms {
    TariffTerms {
        currency: Currency::EUR,
        time_zone: "Europe/Berlin".to_owned(),
        period: VolumePeriod::Day,
        flat: Amount(1_000),
        per_gib: Amount(0),
        minimum: Amount(0),
        fee: bp(0),
        relay_share: bp(5_000),
        windows: Vec::new(),
        received: vec![ReceivedStep { from_deliveries: Some(1), from_bytes: None, price_bp: 9_000 }],
        sent: vec![SentStep { from_deliveries: Some(1), from_bytes: None, relay_bonus: bp(1_000) }],
    }
}

/// A content that is offered by a tariff.
struct Shop {
    world: World,
    publisher: UserId,
    content: ContentId,
    edition: EditionId,
    tariff: TariffId,
}

impl Shop {
    async fn open(terms: TariffTerms) -> Self {
        let world = World::new().await;
        let (publisher, content, editions) = world.content(1).await;
        let tariff = made(&world, publisher, terms).await.id;
        let shop = Self { world, publisher, content, edition: editions[0], tariff };
        shop.world.store.set_on_demand(publisher, content, &by(tariff), None, START).await.unwrap();
        shop
    }

    async fn quote(&self, (user, terminal): (UserId, TerminalId), now: OffsetDateTime) -> u64 {
        self.world.store.quote(self.content, self.edition, (terminal, user), now).await.unwrap().price.amount.0
    }

    async fn ask(&self, (user, terminal_id): (UserId, TerminalId), now: OffsetDateTime) -> Download {
        let new = NewDownload { terminal_id, edition_id: self.edition, maximum: eur(5_000) };
        self.world.store.create_download(self.content, &new, &request(user), now).await.unwrap().read().unwrap()
    }

    /// Everything came from this source.
    async fn delivered(&self, download: &Download, source: TerminalId, now: OffsetDateTime) -> Settled {
        self.world.credit(download.delivery_id, source, &[0, 1, 2, 3]).await;
        self.world.store.settle_delivery(download.delivery_id, &CHUNKS, now, false).await.unwrap().expect("it is complete")
    }
}

fn by(tariff: TariffId) -> OnDemandTerms {
    OnDemandTerms { price: None, relay_share: None, fee: None, tariff_id: Some(tariff), origin_budget: Bytes(0), limit_s: 3_600 }
}

async fn made(world: &World, publisher: UserId, terms: TariffTerms) -> Tariff {
    let new = NewTariff { name: "Nights".to_owned(), terms };
    world.store.create_tariff(&new, &request(publisher), START).await.unwrap().read().unwrap()
}

#[tokio::test]
async fn a06_a_tariff_is_never_edited_and_a_download_stays_under_its_version() {
    let shop = Shop::open(terms()).await;
    let store = &shop.world.store;
    let customer = shop.world.bidder(10_000).await;
    let first = shop.ask(customer, START).await;
    assert_eq!((first.price, shop.world.purse(customer.0).await), (eur(1_000), (9_000, 1_000)), "the price is held");

    let dearer = TariffTerms { flat: Amount(2_000), relay_share: bp(10_000), ..terms() };
    let changed: Tariff =
        store.change_tariff(shop.tariff, Some(1), &dearer, &request(shop.publisher), START).await.unwrap().read().unwrap();
    let late = store.change_tariff(shop.tariff, Some(1), &terms(), &request(shop.publisher), START).await;
    assert_eq!(code_of(late), ErrorCode::PreconditionFailed, "somebody else has changed it since");
    assert_eq!((changed.version, changed.terms.flat), (2, Amount(2_000)));
    assert_eq!(store.tariff(shop.tariff, Some(1)).await.unwrap().terms, terms());
    assert_eq!(store.tariff(shop.tariff, None).await.unwrap(), changed);
    assert_eq!(store.tariffs(shop.publisher, &PageRequest::default()).await.unwrap().items, [changed]);
    assert_eq!(code_of(store.tariff(shop.tariff, Some(3)).await), ErrorCode::NotFound);
    for statement in ["UPDATE tariff_versions SET version = 9", "DELETE FROM tariff_versions"] {
        assert!(sqlx::query(statement).execute(store.raw()).await.is_err(), "{statement}");
    }
    let offered = store.on_demand(shop.content).await.unwrap().unwrap();
    assert_eq!(offered.tariff, Some(TariffVersion { tariff_id: shop.tariff, version: 2 }));

    let (_, relay) = shop.world.bidder(0).await;
    let settled = shop.delivered(&first, relay, START).await;
    assert_eq!((settled.charged, settled.shares[0].earned), (Amount(1_000), Amount(500)), "as it was when it was asked for");
    let second = shop.ask(shop.world.bidder(10_000).await, START).await;
    assert_eq!(second.price, eur(2_000));
    shop.world.store.assert_books_balance().await;
}

#[tokio::test]
async fn a07_volumes_of_the_period_make_prices_lower_and_shares_higher() {
    let shop = Shop::open(terms()).await;
    let customer = shop.world.bidder(10_000).await;
    let (_, relay) = shop.world.bidder(0).await;
    assert_eq!(shop.quote(customer, START).await, 1_000);
    let first = shop.ask(customer, START).await;
    let settled = shop.delivered(&first, relay, START).await;
    assert_eq!(settled.shares, [Share { source: relay, bytes: Bytes(1_000), earned: Amount(500), relay_share: None }]);

    // The second of the day: a tenth less to pay, and a tenth more of it for the relay.
    assert_eq!(shop.quote(customer, START).await, 900);
    let second = shop.ask(customer, START).await;
    let settled = shop.delivered(&second, relay, START).await;
    assert_eq!((settled.charged, settled.shares[0].earned, settled.shares[0].relay_share), (Amount(900), Amount(540), Some(bp(6_000))));
    let shown = shop.world.store.download(second.id, DownloadViewer::User(customer.0)).await.unwrap();
    assert_eq!(shown.tariff, Some(TariffVersion { tariff_id: shop.tariff, version: 1 }));
    assert_eq!(
        (shown.sources[0].terminal_id, shown.sources[0].relay_share),
        (relay, Some(bp(6_000))),
        "so that the receiver can recompute it"
    );

    // Somebody else, another publisher's content and the day after begin at nothing. Midnight in Berlin is at 23:00.
    assert_eq!(shop.quote(shop.world.bidder(0).await, START).await, 1_000);
    let midnight = START + Duration::hours(11);
    assert_eq!(shop.quote(customer, midnight - Duration::seconds(1)).await, 900);
    assert_eq!(shop.quote(customer, midnight).await, 1_000);
    let (other, content, editions) = shop.world.content(1).await;
    let tariff = made(&shop.world, other, terms()).await.id;
    shop.world.store.set_on_demand(other, content, &by(tariff), None, START).await.unwrap();
    let quote = shop.world.store.quote(content, editions[0], (customer.1, customer.0), START).await.unwrap();
    assert_eq!((quote.price, quote.step), (eur(1_000), None));
    shop.world.store.assert_books_balance().await;
}

#[tokio::test]
async fn a07_what_was_ended_after_a_chunk_is_no_download_and_what_was_settled_after_the_request_no_volume_of_it() {
    let shop = Shop::open(terms()).await;
    let customer = shop.world.bidder(10_000).await;
    let (_, relay) = shop.world.bidder(0).await;
    let ended = shop.ask(customer, START).await;
    shop.world.credit(ended.delivery_id, relay, &[3]).await;
    let settled = shop.world.store.settle_delivery(ended.delivery_id, &CHUNKS, START, true).await.unwrap().expect("it is ended");
    assert_eq!((settled.complete, settled.charged), (false, Amount(100)));
    assert_eq!(shop.quote(customer, START).await, 1_000, "a step by count is not to be had for a chunk");

    let other = shop.world.bidder(10_000).await;
    let (early, late) = (shop.ask(customer, START).await, shop.ask(other, START).await);
    let settled = shop.delivered(&early, relay, START + Duration::hours(1)).await;
    assert_eq!(settled.shares[0].relay_share, None, "it has sent a chunk, and completed nothing");
    let settled = shop.delivered(&late, relay, START + Duration::hours(2)).await;
    assert_eq!((settled.shares[0].earned, settled.shares[0].relay_share), (Amount(500), None));
    let next = shop.ask(other, START + Duration::hours(2)).await;
    let settled = shop.delivered(&next, relay, START + Duration::hours(3)).await;
    assert_eq!(settled.shares[0].relay_share, Some(bp(6_000)));
}

/// Closing a book has the wallets when it refers to the terminals; a download that waits for one of those wallets must not stand in its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_waits_for_its_wallet_keeps_nobody_from_referring_to_its_terminal() {
    let shop = Shop::open(terms()).await;
    let (user, terminal) = shop.world.bidder(10_000).await;
    let mut holder = shop.world.store.begin().await.unwrap();
    crate::store::ledger::lock_wallets(&mut holder, [user]).await.unwrap();
    let (store, content, edition) = (shop.world.store.clone(), shop.content, shop.edition);
    let new = NewDownload { terminal_id: terminal, edition_id: edition, maximum: eur(5_000) };
    let asking = tokio::spawn(async move { store.create_download(content, &new, &request(user), START).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(shop.world.store.raw()).await.unwrap() == 0 {
        assert!(std::time::Instant::now() < deadline, "the download does not wait for the wallet");
    }
    sqlx::query("SET LOCAL lock_timeout = '5s'").execute(&mut *holder).await.unwrap();
    let refers = "INSERT INTO holdings (terminal_id, edition_id, said_at) VALUES ($1, $2, $3)";
    sqlx::query(refers).bind(terminal.0).bind(edition.0.as_slice()).bind(START).execute(&mut *holder).await.expect("nobody is waited for");
    holder.commit().await.unwrap();
    asking.await.unwrap().unwrap();
}

#[tokio::test]
async fn a07_the_time_of_the_request_decides_the_window() {
    let window = TariffWindow {
        days: Vec::new(),
        from: "22:00".parse().unwrap(),
        to: "06:00".parse().unwrap(),
        price_bp: 5_000,
        relay_bonus: bp(2_500),
    };
    let shop = Shop::open(TariffTerms { windows: vec![window], ..terms() }).await;
    let night = START + Duration::hours(9);
    let customer = shop.world.bidder(10_000).await;
    assert_eq!([shop.quote(customer, START).await, shop.quote(customer, night).await], [1_000, 500]);
    let download = shop.ask(customer, night).await;
    let (_, relay) = shop.world.bidder(0).await;
    // It arrives in the morning, and is paid as in the night.
    let settled = shop.delivered(&download, relay, night + Duration::hours(12)).await;
    assert_eq!((settled.charged, settled.shares[0].earned), (Amount(500), Amount(375)));
}

#[tokio::test]
async fn a06_a_tariff_of_somebody_else_is_refused() {
    let shop = Shop::open(terms()).await;
    let (other, content, _) = shop.world.content(1).await;
    let store = &shop.world.store;
    assert_eq!(code_of(store.set_on_demand(other, content, &by(shop.tariff), None, START).await), ErrorCode::InvalidRequest);
    assert_eq!(code_of(store.change_tariff(shop.tariff, None, &terms(), &request(other), START).await), ErrorCode::NotFound);
    let customer = shop.world.bidder(0).await;
    let foreign = store.quote(shop.content, shop.edition, (customer.1, other), START).await;
    assert_eq!(code_of(foreign), ErrorCode::InvalidRequest, "a quote is for an own terminal");
}
