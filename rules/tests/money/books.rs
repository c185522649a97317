//! Books to test with: small enough to be checked by hand or by the oracle, with many ties.

use proptest::prelude::*;
use protocol::{Amount, BidId, BitsPerSecond, TimestampMs};
use rules::auction::{Award, Bid, Book, Outcome, RankTerms, Selection, clear};

pub(crate) fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

pub(crate) fn id(number: u64) -> BidId {
    BidId::from_bytes(u128::from(number).to_be_bytes())
}

/// A bid by (id, rank wanted, maximum, time).
pub(crate) fn bid(number: u64, rank: u32, maximum: u64, applied_at: u64) -> Bid {
    Bid { bid_id: id(number), rank, maximum: Amount(maximum), applied_at: TimestampMs(applied_at), up_seen: BitsPerSecond(0) }
}

/// Ranks by (weight, capacity).
pub(crate) fn ranks(terms: &[(u32, u32)]) -> Vec<RankTerms> {
    terms.iter().map(|&(weight, capacity)| RankTerms { weight, capacity }).collect()
}

pub(crate) fn auction(book: &Book) -> Outcome {
    clear(book, Selection::Auction).unwrap()
}

pub(crate) fn award_of(outcome: &Outcome, bid_id: BidId) -> Option<Award> {
    outcome.awards.iter().copied().find(|award| award.bid_id == bid_id)
}

/// w_s of a rank counted from 1.
pub(crate) fn weight(book: &Book, rank: u32) -> u128 {
    u128::from(book.ranks()[usize::try_from(rank).unwrap() - 1].weight)
}

/// A bid's precedence: the larger offer per weight, then the earlier time, then the smaller id.
pub(crate) fn precedes(book: &Book, left: &Bid, right: &Bid) -> bool {
    let (l, r) = (u128::from(left.maximum.0) * weight(book, right.rank), u128::from(right.maximum.0) * weight(book, left.rank));
    l > r || (l == r && (left.applied_at, left.bid_id) < (right.applied_at, right.bid_id))
}

/// One of the book's bids, if it has any.
pub(crate) fn pick(book: &Book, who: &prop::sample::Index) -> Option<Bid> {
    (!book.bids().is_empty()).then(|| *who.get(book.bids()))
}

/// The book with one bid changed.
pub(crate) fn with_bid(book: &Book, changed: Bid) -> Book {
    let bids = book.bids().iter().map(|bid| if bid.bid_id == changed.bid_id { changed } else { *bid }).collect();
    Book::new(book.ranks().to_vec(), book.reserve(), bids).unwrap()
}

/// Which numbers a book is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) ranks: usize,
    /// Largest difference between the weights of two ranks.
    pub(crate) step_max: u32,
    pub(crate) capacity_max: u32,
    pub(crate) bids: usize,
    pub(crate) maximum_max: u64,
    pub(crate) reserve_max: u64,
}

/// Few different numbers: equal offers from different ranks, equal times and full ranks are the rule.
pub(crate) const TIGHT: Shape = Shape { ranks: 4, step_max: 3, capacity_max: 3, bids: 8, maximum_max: 12, reserve_max: 4 };
/// Wide numbers: every price has a fraction to round.
pub(crate) const WIDE: Shape = Shape { ranks: 4, step_max: 299, capacity_max: 2, bids: 8, maximum_max: 100_000, reserve_max: 20_000 };
/// More bids than the oracle looks at one by one.
pub(crate) const CROWD: Shape = Shape { ranks: 3, step_max: 7, capacity_max: 6, bids: 24, maximum_max: 60, reserve_max: 20 };

pub(crate) fn book(shape: Shape) -> impl Strategy<Value = Book> {
    (1..=shape.ranks).prop_flat_map(move |ranks| {
        let steps = proptest::collection::vec(1..=shape.step_max, ranks);
        let capacities = proptest::collection::vec(0..=shape.capacity_max, ranks);
        let reserve = prop_oneof![Just(0), 0..=shape.reserve_max];
        let rank_count = u32::try_from(ranks).unwrap();
        let bids = proptest::collection::vec((1..=rank_count, 0..=shape.maximum_max, 0..4u64), 0..=shape.bids);
        (steps, capacities, reserve, bids).prop_map(|(steps, capacities, reserve, bids)| {
            let weights = (0..steps.len()).map(|rank| steps[rank..].iter().sum());
            let terms = weights.zip(capacities).map(|(weight, capacity)| RankTerms { weight, capacity }).collect();
            let bids = (0..).zip(bids).map(|(number, (rank, maximum, applied_at))| bid(number, rank, maximum, applied_at)).collect();
            Book::new(terms, Amount(reserve), bids).unwrap()
        })
    })
}

/// Both kinds of small books.
pub(crate) fn small_book() -> impl Strategy<Value = Book> {
    prop_oneof![book(TIGHT), book(WIDE)]
}
