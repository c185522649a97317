//! The closed book: it is shown whole, hashes to what was published, and every price follows from it.

use protocol::rest::{BookBid, LostBecause, NewRelease, Release, ReleaseBook, Selection};
use protocol::{BidId, BitsPerSecond, Blake3, ErrorCode, UserId};
use rules::auction::{Bid, Book, RankTerms, clear, release_hash};

use super::fixture::{CLOSES, START, World, code_of, eur, new_release, request};
use crate::store::PageRequest;
use crate::store::clearing::Closing;
use crate::store::lifecycle::CancelledBy;

async fn close(world: &World, release: &Release) -> Blake3 {
    match world.store.close_release(release.id, CLOSES).await.unwrap() {
        Closing::Cleared(cleared) => cleared.book_hash,
        Closing::Before(state) => panic!("it was {state:?} before"),
    }
}

/// All bids of the release's only edition, two a page.
async fn all_bids(world: &World, release: &Release) -> Vec<BookBid> {
    let (mut bids, mut request) = (Vec::new(), PageRequest { limit: 2, cursor: None });
    loop {
        let page = world.store.book_bids(release.id, release.editions[0].edition_id, &request).await.unwrap();
        bids.extend(page.items);
        match page.next_cursor {
            Some(cursor) => request.cursor = Some(cursor),
            None => return bids,
        }
    }
}

/// The book as an auditor puts it together from what is shown.
fn rebuilt(book: &ReleaseBook, bids: &[BookBid]) -> Book {
    let ranks = book.editions[0].ranks.iter().map(|rank| RankTerms { weight: rank.weight, capacity: rank.capacity }).collect();
    let bid = |bid: &BookBid| Bid {
        bid_id: bid.bid_id,
        rank: bid.rank,
        maximum: bid.maximum.amount,
        applied_at: bid.applied_at,
        up_seen: bid.up_seen,
    };
    Book::new(ranks, book.reserve.amount, bids.iter().map(bid).collect()).unwrap()
}

#[tokio::test]
async fn x05_the_book_shows_all_that_the_prices_follow_from() {
    let world = World::new().await;
    let release = world.release(&[(100, 1), (60, 1), (25, 1)], 10).await;
    let mut bidders: Vec<(UserId, protocol::rest::Application)> = Vec::new();
    for maximum in [500, 400, 300, 200] {
        let bidder = world.bidder(1_000).await;
        bidders.push((bidder.0, world.apply(&release, bidder, 1, maximum).await.unwrap()));
    }
    // A second terminal of the first owner, and one that thought better of it.
    let second = (bidders[0].0, world.terminal(bidders[0].0).await);
    bidders.push((second.0, world.apply(&release, second, 3, 10).await.unwrap()));
    let gone = world.bidder(1_000).await;
    let withdrawn = world.apply(&release, gone, 1, 900).await.unwrap();
    world.store.withdraw_application(withdrawn.id, &request(gone.0), START).await.unwrap();
    assert_eq!(code_of(world.store.release_book(release.id).await), ErrorCode::Conflict, "an open book is secret");
    assert_eq!(
        code_of(world.store.book_bids(release.id, release.editions[0].edition_id, &PageRequest::default()).await),
        ErrorCode::Conflict
    );
    let explained = world.store.explanation(bidders[0].1.id, bidders[0].0).await;
    assert_eq!(code_of(explained), ErrorCode::Conflict);

    let published = close(&world, &release).await;
    let book = world.store.release_book(release.id).await.unwrap();
    let bids = all_bids(&world, &release).await;
    assert_eq!((book.book_hash, book.editions[0].bids), (published, 5));
    let again = rebuilt(&book, &bids);
    assert_eq!(again.hash(Selection::Auction), book.editions[0].hash);
    assert_eq!(release_hash([(book.editions[0].edition_id, book.editions[0].hash)]), published);
    let outcome = clear(&again, Selection::Auction).unwrap();
    let prices: Vec<_> = outcome.prices.iter().map(|price| price.price).collect();
    assert_eq!(book.editions[0].ranks.iter().map(|rank| rank.price.amount).collect::<Vec<_>>(), prices);
    let won = |id: BidId| outcome.awards.iter().find(|award| award.bid_id == id).map(|award| award.rank);
    assert!(bids.iter().all(|bid| bid.won == won(bid.bid_id)), "{bids:?}");

    // Only the owner knows whose bid is whose; that two are of one owner is marked.
    let of = |index: usize| bids.iter().find(|bid: &&BookBid| bid.bid_id == bidders[index].1.bid_id).unwrap();
    assert_eq!((of(0).won, of(3).lost, of(4).lost), (Some(1), Some(LostBecause::NoPlace), Some(LostBecause::NoPlace)));
    let mark = of(0).bid_id.min(of(4).bid_id);
    assert_eq!((of(0).same_owner, of(4).same_owner, of(1).same_owner), (Some(mark), Some(mark), None));
    assert!(bids.iter().all(|bid| bid.bid_id.0.get_version_num() == 4), "an id must not tell the time of the application");
}

#[tokio::test]
async fn x05_each_application_is_explained_to_its_owner_alone() {
    let world = World::new().await;
    let release = world.release(&[(100, 1)], 50).await;
    let mut applied = Vec::new();
    for maximum in [500, 400] {
        let bidder = world.bidder(1_000).await;
        applied.push((bidder.0, world.apply(&release, bidder, 1, maximum).await.unwrap()));
    }
    close(&world, &release).await;
    let [(first, won), (second, lost)] = applied.as_slice() else { panic!("two have applied") };
    let why = world.store.explanation(won.id, *first).await.unwrap();
    let rank = why.won.as_ref().unwrap();
    assert_eq!((rank.rank, rank.price, why.bid_id), (1, eur(400), won.bid_id));
    assert_eq!(rank.steps[0].set_by, Some(lost.bid_id));
    assert!(why.sentence.starts_with("You pay 4.00 EUR for rank 1 and not the 5.00 EUR"), "{}", why.sentence);
    let why = world.store.explanation(lost.id, *second).await.unwrap();
    assert_eq!((why.won, why.lost), (None, Some(LostBecause::NoPlace)));
    assert_eq!(code_of(world.store.explanation(lost.id, *first).await), ErrorCode::NotFound);

    let by = CancelledBy::Publisher(release.publisher_id);
    world.store.cancel_release(release.id, by, &request(release.publisher_id), CLOSES).await.unwrap();
    let why = world.store.explanation(won.id, *first).await.unwrap();
    assert!(why.sentence.contains("cancelled") && why.sentence.contains("you pay nothing"), "{}", why.sentence);
}

#[tokio::test]
async fn a13_by_measured_quality_the_fastest_uplink_seen_wins_at_the_reserve() {
    let world = World::new().await;
    let (publisher, content_id, editions) = world.content(1).await;
    let new = NewRelease { selection: Selection::MeasuredQuality, ..new_release(content_id, &editions, &[(100, 1)], 70) };
    let release = world.schedule(publisher, &new).await;
    let mut applied = Vec::new();
    for up_seen in [Some(5_000_000i64), Some(40_000_000), None] {
        let (user, terminal) = world.bidder(1_000).await;
        applied.push((user, world.apply(&release, (user, terminal), 1, 900).await.unwrap()));
        // What its owner states of itself must not win it a place.
        sqlx::query("UPDATE terminals SET up_bps = 1000000000 WHERE id = $1").bind(terminal.0).execute(world.store.raw()).await.unwrap();
        if let Some(up_seen) = up_seen {
            sqlx::query("INSERT INTO communication_states (terminal_id, up_seen_bps, measured_at) VALUES ($1, $2, now())")
                .bind(terminal.0)
                .bind(up_seen)
                .execute(world.store.raw())
                .await
                .unwrap();
        }
    }
    close(&world, &release).await;
    let book = world.store.release_book(release.id).await.unwrap();
    let bids = all_bids(&world, &release).await;
    assert_eq!(rebuilt(&book, &bids).hash(Selection::MeasuredQuality), book.editions[0].hash);
    let winner = bids.iter().find(|bid| bid.won.is_some()).unwrap();
    assert_eq!((winner.bid_id, winner.up_seen), (applied[1].1.bid_id, BitsPerSecond(1 << 25)));
    let why = world.store.explanation(applied[1].1.id, applied[1].0).await.unwrap();
    assert_eq!(why.won.map(|won| won.price), Some(eur(70)));
    assert!(why.sentence.ends_with("places go by measured uplink."), "{}", why.sentence);
}

#[tokio::test]
async fn x05_a_release_that_was_cancelled_before_its_book_closed_has_none_to_show() {
    let world = World::new().await;
    let release = world.release(&[(100, 1)], 0).await;
    world.store.cancel_release(release.id, CancelledBy::Operator, &request(world.user_with("operator").await), START).await.unwrap();
    assert_eq!(code_of(world.store.release_book(release.id).await), ErrorCode::Conflict);
    let none = protocol::ReleaseId::from_bytes([9; 16]);
    assert_eq!(code_of(world.store.release_book(none).await), ErrorCode::NotFound);
}
