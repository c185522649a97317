//! Vouchers, wallets, statements and totals.

use protocol::rest::{Download, HoldReason, NewDownload, NewVouchers, OnDemandTerms, TransferKind, Vouchers, WalletEntry};
use protocol::{Amount, BasisPoints, Bytes, Currency, ErrorCode, Money};
use time::Duration;

use super::fixture::{CHUNKS, CLOSES, START, STARTS, World, code_of, eur, new_release, request};
use crate::store::{PageRequest, Store};

#[tokio::test]
async fn a_voucher_is_redeemed_once_whoever_comes_second() {
    let world = World::new().await;
    let (one, other) = (world.user().await, world.user().await);
    let code = world.voucher(2_500, None).await;
    let entry: WalletEntry = world.store.redeem_voucher(&code.to_lowercase(), &request(one), START).await.unwrap().read().unwrap();
    assert_eq!((entry.amount.amount, entry.balance.amount, entry.version, entry.kind), (2_500, 2_500, 1, TransferKind::VoucherRedemption));
    for user in [one, other] {
        assert_eq!(code_of(world.store.redeem_voucher(&code, &request(user), START).await), ErrorCode::VoucherUsed);
    }
    assert_eq!(world.purse(one).await, (2_500, 0));
    assert_eq!(world.purse(other).await, (0, 0));
    world.store.assert_books_balance().await;
}

#[tokio::test]
async fn of_twenty_users_who_redeem_a_voucher_at_once_one_gets_it() {
    let world = World::new().await;
    let code = world.voucher(100, None).await;
    let mut attempts = Vec::new();
    for _ in 0..20 {
        let (store, request, code) = (world.store.clone(), request(world.user().await), code.clone());
        attempts.push(tokio::spawn(async move { store.redeem_voucher(&code, &request, START).await }));
    }
    let mut redeemed = 0;
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(_) => redeemed += 1,
            Err(error) => assert_eq!(error.code(), ErrorCode::VoucherUsed),
        }
    }
    assert_eq!(redeemed, 1);
    assert_eq!(world.store.ledger_totals().await.unwrap().wallets.amount, 100);
}

#[tokio::test]
async fn a_voucher_that_has_expired_or_never_was_is_worth_nothing() {
    let world = World::new().await;
    let user = world.user().await;
    let expires_at = START + Duration::hours(1);
    let code = world.voucher(100, Some(expires_at)).await;
    assert_eq!(code_of(world.store.redeem_voucher(&code, &request(user), expires_at).await), ErrorCode::VoucherExpired);
    for unknown in ["", "hello", "00000-00000-00000-00000-00000", "'; DROP TABLE vouchers; --"] {
        assert_eq!(code_of(world.store.redeem_voucher(unknown, &request(user), START).await), ErrorCode::NotFound, "{unknown:?}");
    }
    assert!(world.store.redeem_voucher(&code, &request(user), expires_at - Duration::microseconds(1)).await.is_ok());
}

#[tokio::test]
async fn the_codes_of_a_batch_are_not_in_the_database() {
    let world = World::new().await;
    let operator = world.user_with("operator").await;
    let sent = request(operator);
    let new = NewVouchers { count: 3, value: eur(10), expires_at: None };
    let made: Vouchers = world.store.create_vouchers(&new, &sent, START).await.unwrap().read().unwrap();
    assert_eq!(made.codes.len(), 3);
    let again = world.store.create_vouchers(&new, &sent, START).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.read::<Vouchers>().unwrap().codes, made.codes, "who repeats the request sees the codes again");
    // Every column of every table as text.
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'").fetch_all(world.store.raw()).await.unwrap();
    assert!(tables.len() > 10);
    for table in tables {
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT whole::text FROM {table} whole")))
            .fetch_all(world.store.raw())
            .await
            .unwrap();
        for row in rows {
            for secret in made.codes.iter().flat_map(|code| [code.clone(), code.replace('-', "")]).chain([sent.key.clone()]) {
                assert!(!row.contains(&secret), "{table} tells {secret}");
            }
        }
    }
}

#[tokio::test]
async fn vouchers_that_make_no_sense_are_not_made() {
    let world = World::new().await;
    let operator = world.user_with("operator").await;
    let good = NewVouchers { count: 1, value: eur(10), expires_at: None };
    let dollars = Money { amount: Amount(10), currency: "USD".parse::<Currency>().unwrap() };
    for bad in [
        NewVouchers { count: 0, ..good.clone() },
        NewVouchers { count: 1_001, ..good.clone() },
        NewVouchers { value: eur(0), ..good.clone() },
        NewVouchers { value: dollars, ..good.clone() },
        NewVouchers { expires_at: Some(START), ..good.clone() },
    ] {
        let refused = world.store.create_vouchers(&bad, &request(operator), START).await;
        assert_eq!(code_of(refused), ErrorCode::InvalidRequest, "{bad:?}");
    }
}

#[tokio::test]
async fn a_wallet_that_is_as_full_as_an_exact_integer_takes_no_more() {
    let world = World::new().await;
    let user = world.user().await;
    world.fund(user, protocol::units::JSON_INTEGER_MAX).await;
    let code = world.voucher(1, None).await;
    assert_eq!(code_of(world.store.redeem_voucher(&code, &request(user), START).await), ErrorCode::Conflict);
    let poorer = world.user().await;
    assert!(world.store.redeem_voucher(&code, &request(poorer), START).await.is_ok(), "the voucher is still good");
}

#[tokio::test]
async fn a_statement_is_read_page_by_page_newest_first() {
    let world = World::new().await;
    let (user, other) = (world.user().await, world.user().await);
    for amount in [1, 2, 3, 4, 5] {
        world.fund(user, amount).await;
        world.fund(other, 100).await;
    }
    let mut request = PageRequest { limit: 2, cursor: None };
    let mut amounts = Vec::new();
    loop {
        let page = world.store.wallet_entries(user, &request).await.unwrap();
        assert!(page.items.len() <= 2);
        amounts.extend(page.items.iter().map(|entry| (entry.amount.amount, entry.balance.amount, entry.version)));
        let Some(cursor) = page.next_cursor else { break };
        request.cursor = Some(cursor);
    }
    assert_eq!(amounts, [(5, 15, 5), (4, 10, 4), (3, 6, 3), (2, 3, 2), (1, 1, 1)]);
    request.cursor = Some("yesterday".to_owned());
    assert_eq!(code_of(world.store.wallet_entries(user, &request).await), ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn a_wallet_is_empty_before_its_first_entry_and_only_publishers_see_earnings() {
    let world = World::new().await;
    let (user, publisher) = (world.user().await, world.user_with("publisher").await);
    assert_eq!(world.purse(user).await, (0, 0));
    assert!(world.store.wallet(user).await.unwrap().publisher_balance.is_none());
    assert_eq!(world.earnings(publisher).await, 0);
    assert_eq!(code_of(world.store.wallet(protocol::UserId::from_bytes([9; 16])).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn the_schema_is_made_once_however_many_start_together_and_keeps_its_currency() {
    let database = crate::store::testing::TestDatabase::create().await;
    let stores = [database.connect().await.unwrap(), database.connect().await.unwrap(), database.connect().await.unwrap()];
    let starts: Vec<_> = stores.iter().cloned().map(|store| tokio::spawn(async move { store.migrate().await })).collect();
    for start in starts {
        start.await.unwrap().unwrap();
    }
    stores[0].ping().await.unwrap();
    let in_dollars = Store::connect(database.url(), "USD".parse().unwrap()).await.unwrap();
    assert_eq!(code_of(in_dollars.migrate().await), ErrorCode::Internal);
}

#[tokio::test]
async fn a11_each_hold_says_what_it_is_for_and_goes_when_that_is_over() {
    let world = World::new().await;
    let (publisher, content, editions) = world.content(1).await;
    let release = world.schedule(publisher, &new_release(content, &editions, &[(100, 1)], 200)).await;
    let (user, terminal) = world.bidder(1_000).await;
    let application = world.apply(&release, (user, terminal), 1, 500).await.unwrap();
    let terms = OnDemandTerms {
        price: Some(eur(70)),
        relay_share: Some(BasisPoints::ALL),
        fee: Some(BasisPoints::default()),
        tariff_id: None,
        origin_budget: Bytes(0),
        limit_s: 60,
    };
    world.store.set_on_demand(publisher, content, &terms, None, START).await.unwrap();
    let new = NewDownload { terminal_id: terminal, edition_id: editions[0], maximum: eur(70) };
    let download: Download = world.store.create_download(content, &new, &request(user), START).await.unwrap().read().unwrap();
    let held = async || {
        let page = world.store.wallet_holds(user, &PageRequest::default()).await.unwrap();
        page.items.into_iter().map(|hold| (hold.amount.amount.0, hold.reason, hold.label)).collect::<Vec<_>>()
    };
    let for_download = (70, HoldReason::Download { download_id: download.id, content_id: content }, "e0".to_owned());
    let reason = HoldReason::Application { application_id: application.id, release_id: release.id };
    assert_eq!(held().await, [(500, reason, "e0".to_owned()), for_download.clone()]);

    world.store.close_release(release.id, CLOSES).await.unwrap();
    let delivery_id = world.delivery_of(&application, user).await;
    let reason = HoldReason::Delivery { delivery_id, release_id: release.id };
    let mut after = held().await;
    after.sort_by_key(|(amount, ..)| *amount);
    assert_eq!(after, [for_download, (200, reason, "e0".to_owned())], "the price instead of the maximum");
    assert_eq!(world.purse(user).await, (730, 270));

    let first = world.store.wallet_holds(user, &PageRequest { limit: 1, cursor: None }).await.unwrap();
    let second = world.store.wallet_holds(user, &PageRequest { limit: 1, cursor: first.next_cursor }).await.unwrap();
    assert_eq!((first.items.len(), second.items.len(), second.next_cursor), (1, 1, None));
    for delivery in [delivery_id, download.delivery_id] {
        world.store.settle_delivery(delivery, &CHUNKS, STARTS, true).await.unwrap();
    }
    assert!(held().await.is_empty(), "nothing was received: everything is available again");
    assert!(world.store.wallet_holds(world.user().await, &PageRequest::default()).await.unwrap().items.is_empty());
}
