//! Closing: who wins at which price, and what happens to the holds.

use protocol::rest::{ApplicationState, NewApplication, ReleaseState, Selection};
use protocol::{BitsPerSecond, Bytes, ErrorCode, TimestampMs};
use rules::auction::{Bid, Book, RankTerms, release_hash};
use time::Duration;

use super::fixture::{CLOSES, START, STARTS, World, after, code_of, eur, new_release, request};
use crate::store::budget::Purpose;
use crate::store::clearing::Closing;
use crate::store::lifecycle::CancelledBy;

#[tokio::test]
async fn closing_awards_the_ranks_at_their_prices_and_releases_the_rest() {
    let world = World::new().await;
    let release = world.release(&[(100, 1), (60, 1), (25, 1)], 0).await;
    let mut bids = Vec::new();
    for maximum in [500, 400, 300, 200] {
        let bidder = world.bidder(1_000).await;
        bids.push((bidder.0, world.apply(&release, bidder, 1, maximum).await.unwrap()));
    }
    let Closing::Cleared(cleared) = world.store.close_release(release.id, CLOSES).await.unwrap() else { panic!("it was closed before") };
    assert_eq!((cleared.winners, cleared.losers), (3, 1));
    for ((user, application), price) in bids.iter().zip([Some(315), Some(155), Some(50), None]) {
        let application = world.store.application(application.id, *user).await.unwrap();
        let held = price.unwrap_or(0);
        assert_eq!(application.award.as_ref().map(|award| award.price), price.map(eur));
        assert_eq!(application.state, if price.is_some() { ApplicationState::Won } else { ApplicationState::Lost });
        assert_eq!(world.purse(*user).await, (1_000 - held, held));
    }
    let closed = world.store.release(release.id).await.unwrap();
    assert_eq!((closed.state, closed.book_hash), (ReleaseState::Closed, Some(cleared.book_hash)));
    assert_eq!(closed.editions[0].applications, 4, "the book's size can still be seen");
    world.store.assert_books_balance().await;
}

#[tokio::test]
async fn anybody_who_has_the_book_can_recompute_its_hash() {
    let world = World::new().await;
    let release = world.release(&[(100, 1), (60, 1)], 10).await;
    let mut bids = Vec::new();
    for (rank, maximum) in [(1, 50), (2, 40), (1, 30)] {
        let bidder = world.bidder(100).await;
        let application = world.apply(&release, bidder, rank, maximum).await.unwrap();
        let applied_at = TimestampMs(u64::try_from(application.applied_at.unix_timestamp_nanos() / 1_000_000).unwrap());
        bids.push(Bid { bid_id: application.bid_id, rank, maximum: application.maximum.amount, applied_at, up_seen: BitsPerSecond(0) });
    }
    let Closing::Cleared(cleared) = world.store.close_release(release.id, CLOSES).await.unwrap() else { panic!("it was closed before") };
    let ranks = [(100, 1), (60, 1)].map(|(weight, capacity)| RankTerms { weight, capacity }).to_vec();
    let book = Book::new(ranks, eur(10).amount, bids).unwrap();
    assert_eq!(cleared.book_hash, release_hash([(release.editions[0].edition_id, book.hash(Selection::Auction))]));
}

#[tokio::test]
async fn each_edition_clears_by_itself_and_first_come_pays_the_reserve() {
    let world = World::new().await;
    let (publisher, content_id, editions) = world.content(2).await;
    let mut new = new_release(content_id, &editions, &[(100, 1)], 7);
    new.selection = Selection::FirstCome;
    let release = world.schedule(publisher, &new).await;
    let mut applications = Vec::new();
    for (seconds, edition, maximum) in [(2, 0, 90), (1, 0, 20), (3, 1, 8)] {
        let (user, terminal_id) = world.bidder(100).await;
        let new = NewApplication { terminal_id, edition_id: editions[edition], rank: 1, maximum: eur(maximum) };
        let answer = world.store.apply(release.id, &new, &request(user), START + Duration::seconds(seconds)).await.unwrap();
        applications.push((user, answer.read::<protocol::rest::Application>().unwrap().id));
    }
    world.store.close_release(release.id, CLOSES).await.unwrap();
    let mut prices = Vec::new();
    for (user, id) in applications {
        prices.push(world.store.application(id, user).await.unwrap().award.map(|award| award.price.amount.0));
    }
    assert_eq!(prices, [None, Some(7), Some(7)]);
}

#[tokio::test]
async fn a_release_closes_at_its_time_once_and_even_without_applications() {
    let world = World::new().await;
    let release = world.release(&[(100, 1)], 0).await;
    assert_eq!(code_of(world.store.close_release(release.id, CLOSES - Duration::microseconds(1)).await), ErrorCode::Conflict);
    let Closing::Cleared(cleared) = world.store.close_release(release.id, CLOSES).await.unwrap() else { panic!("it was closed before") };
    assert_eq!((cleared.winners, cleared.losers), (0, 0));
    assert_eq!(world.store.close_release(release.id, CLOSES).await.unwrap(), Closing::Before(ReleaseState::Closed));
    assert!(!world.store.start_release(release.id, STARTS - Duration::seconds(1)).await.unwrap());
    assert!(world.store.start_release(release.id, STARTS).await.unwrap());
    assert_eq!(world.store.close_release(release.id, STARTS).await.unwrap(), Closing::Before(ReleaseState::Live));
    let unknown = protocol::ReleaseId::from_bytes([3; 16]);
    assert_eq!(code_of(world.store.close_release(unknown, CLOSES).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_free_place_is_awarded_without_a_hold() {
    let world = World::new().await;
    let release = world.release(&[(100, 2)], 0).await;
    let (rich, poor) = (world.bidder(50).await, world.bidder(0).await);
    world.apply(&release, rich, 1, 50).await.unwrap();
    let free = world.apply(&release, poor, 1, 0).await.unwrap();
    world.store.close_release(release.id, CLOSES).await.unwrap();
    assert_eq!(world.store.application(free.id, poor.0).await.unwrap().award.unwrap().price, eur(0));
    assert_eq!(world.purse(rich.0).await, (50, 0), "with room for all nobody pays");
}

#[tokio::test]
async fn the_origin_may_send_for_a_release_that_is_closed_or_live_and_for_no_other() {
    let world = World::new().await;
    let release = world.release(&[(100, 1)], 0).await;
    let reserve = async |purpose| world.store.reserve_origin_bytes(release.id.into(), purpose, Bytes(1), Bytes(1)).await.unwrap();
    sqlx::query("UPDATE origin_budgets SET limit_bytes = limit_bytes + 100").execute(world.store.raw()).await.unwrap();
    for (state, allowed) in
        [("draft", 0), ("open", 0), ("closed", 1), ("live", 1), ("settled", 0), ("cancelled", 0), ("aborted", 0), ("closed", 1)]
    {
        sqlx::query("UPDATE releases SET state = $1").bind(state).execute(world.store.raw()).await.unwrap();
        let reserved = (reserve(Purpose::FirstCopy).await, reserve(Purpose::Repair).await);
        assert_eq!(reserved, (Bytes(allowed), Bytes(allowed)), "{state}");
    }
}

/// Applications, changes and withdrawals while the release is closed four times at once: whoever came in is in the book, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn applications_that_race_with_the_closing_are_in_the_book_or_refused() {
    let world = World::new().await;
    let release = world.release(&[(100, 1_000)], 1).await;
    let mut applying = Vec::new();
    let just_in_time = CLOSES - Duration::microseconds(1);
    for number in 0..40 {
        let bidder = world.bidder(100).await;
        let new = NewApplication { terminal_id: bidder.1, edition_id: release.editions[0].edition_id, rank: 1, maximum: eur(100) };
        let (store, id) = (world.store.clone(), release.id);
        applying.push(tokio::spawn(async move {
            let answer = store.apply(id, &new, &request(bidder.0), just_in_time).await?;
            if number % 4 == 0 {
                let application: protocol::rest::Application = answer.read()?;
                store.withdraw_application(application.id, &request(bidder.0), just_in_time).await?;
            }
            Ok::<_, crate::store::StoreError>(number % 4 != 0)
        }));
    }
    let closing: Vec<_> = (0..4)
        .map(|_| {
            let (store, id) = (world.store.clone(), release.id);
            tokio::spawn(async move { store.close_release(id, CLOSES).await })
        })
        .collect();
    let mut standing = 0;
    for applied in applying {
        match applied.await.unwrap() {
            Ok(stands) => standing += usize::from(stands),
            // Applied and then too late to withdraw, or too late to apply.
            Err(error) => assert_eq!(error.code(), ErrorCode::ReleaseClosed),
        }
    }
    let mut cleared = Vec::new();
    for closing in closing {
        match closing.await.unwrap().unwrap() {
            Closing::Cleared(outcome) => cleared.push(outcome),
            Closing::Before(state) => assert_eq!(state, ReleaseState::Closed),
        }
    }
    assert_eq!(cleared.len(), 1, "it was cleared once");
    assert!(cleared[0].winners >= standing);
    let totals = world.store.ledger_totals().await.unwrap();
    assert_eq!(
        totals.held.amount,
        i64::try_from(cleared[0].winners).unwrap(),
        "each winner holds the reserve of 1, and nothing else is held"
    );
    world.store.assert_books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_closed_and_cancelled_at_once_ends_cancelled_without_holds() {
    let world = World::new().await;
    for _ in 0..5 {
        let release = world.release(&[(100, 5)], 1).await;
        for _ in 0..5 {
            let bidder = world.bidder(100).await;
            world.apply(&release, bidder, 1, 100).await.unwrap();
        }
        let (closer, canceller, id) = (world.store.clone(), world.store.clone(), release.id);
        let by = release.publisher_id;
        let closing = tokio::spawn(async move { closer.close_release(id, CLOSES).await });
        let cancelling =
            tokio::spawn(async move { canceller.cancel_release(id, CancelledBy::Publisher(by), &request(by), after(CLOSES, 1)).await });
        closing.await.unwrap().unwrap();
        cancelling.await.unwrap().unwrap();
        assert_eq!(world.state_of(release.id).await, ReleaseState::Cancelled);
    }
    assert_eq!(world.store.ledger_totals().await.unwrap().held.amount, 0);
    world.store.assert_books_balance().await;
}
