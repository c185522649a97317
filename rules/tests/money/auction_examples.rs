//! The auction on books that a person can follow, and what it refuses.

use protocol::units::JSON_INTEGER_MAX;
use protocol::{Amount, BitsPerSecond};
use rules::auction::{
    Award, BIDS_MAX, Bid, Book, BookError, KeptOut, Loser, LossReason, Outcome, PerWeight, RANKS_MAX, RankTerms, Selection, SetBy,
    WEIGHT_MAX, clear, coarse_uplink, least_maximum,
};
use rules::oracle;

use crate::books::{auction, award_of, bid, id, ranks};

fn book(terms: &[(u32, u32)], reserve: u64, bids: &[Bid]) -> Book {
    Book::new(ranks(terms), Amount(reserve), bids.to_vec()).unwrap()
}

/// (id, rank, price) of every winner.
fn awards(outcome: &Outcome) -> Vec<(u64, u32, u64)> {
    let number = |award: &Award| u64::try_from(u128::from_be_bytes(award.bid_id.to_bytes())).unwrap();
    outcome.awards.iter().map(|award| (number(award), award.rank, award.price.0)).collect()
}

/// w = 100/60/25, one place each, maxima 500/400/300/200 for rank 1.
fn worked_example(reserve: u64) -> Book {
    let bids = [bid(1, 1, 500, 0), bid(2, 1, 400, 0), bid(3, 1, 300, 0), bid(4, 1, 200, 0)];
    book(&[(100, 1), (60, 1), (25, 1)], reserve, &bids)
}

#[test]
fn the_least_maximum_of_a_rank_is_the_first_that_is_not_below_the_reserve() {
    let terms = [(100, 1), (60, 1), (7, 1)];
    for (rank, (weight, _)) in (1..).zip(terms) {
        let least = least_maximum(Amount(51), weight, 100).unwrap();
        let lost = |maximum| auction(&book(&terms, 51, &[bid(1, rank, maximum, 0)])).losers.len();
        assert_eq!((lost(least.0), lost(least.0 - 1)), (0, 1), "rank {rank} from {least:?}");
    }
    assert_eq!(least_maximum(Amount(51), 60, 0), None);
    assert_eq!(least_maximum(Amount(u64::MAX), 2, 1), None);
}

#[test]
fn a_book_has_uplinks_in_steps_of_a_third_to_a_half() {
    for (seen, shown) in
        [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 6), (7, 6), (8, 8), (40_000_000, 33_554_432), (u64::MAX, 3 << 62)]
    {
        assert_eq!(coarse_uplink(BitsPerSecond(seen)), BitsPerSecond(shown), "{seen}");
    }
}

#[test]
fn four_bidders_for_three_ranks_pay_315_155_and_50() {
    let outcome = auction(&worked_example(0));
    assert_eq!(awards(&outcome), [(1, 1, 315), (2, 2, 155), (3, 3, 50)]);
    assert_eq!(outcome.losers, [Loser { bid_id: id(4), reason: LossReason::NoPlace }]);
    assert_eq!(oracle::prices(&worked_example(0)).unwrap(), [(id(1), 1, Amount(315)), (id(2), 2, Amount(155)), (id(3), 3, Amount(50))]);
}

#[test]
fn every_price_names_who_was_kept_out_of_each_step() {
    let outcome = auction(&worked_example(0));
    let first = &outcome.prices[0];
    let steps: Vec<_> = first.steps.iter().map(|step| (step.rank, step.weight, step.per_weight, step.set_by)).collect();
    let offer = |number: u64, amount| (PerWeight { amount: Amount(amount), weight: 100 }, SetBy::Offer { bid_id: id(number) });
    let expected =
        [(1, 40, offer(2, 400)), (2, 35, offer(3, 300)), (3, 25, offer(4, 200))].map(|(rank, weight, (per, by))| (rank, weight, per, by));
    assert_eq!(steps, expected);
    assert_eq!(
        first.kept_out,
        Some(KeptOut { bid_id: id(2), per_weight: PerWeight { amount: Amount(400), weight: 100 }, placed: Some(2) })
    );
    assert_eq!(outcome.prices[2].kept_out.unwrap().placed, None);
    for price in &outcome.prices {
        assert_eq!(price.recompute().unwrap(), price.price);
    }
}

#[test]
fn a_reserve_lifts_only_the_steps_that_are_cheaper() {
    // ρ = 2.5: the last step costs 2.5 instead of 2; the fourth bidder is below it.
    let outcome = auction(&worked_example(250));
    assert_eq!(awards(&outcome), [(1, 1, 160 + 105 + 62), (2, 2, 105 + 62), (3, 3, 62)]);
    assert_eq!(outcome.losers, [Loser { bid_id: id(4), reason: LossReason::BelowReserve }]);
    assert_eq!(outcome.prices[2].steps[0].set_by, SetBy::Reserve);
    assert_eq!(outcome.prices[2].kept_out, None);
}

#[test]
fn an_offer_exactly_at_the_reserve_wins_and_pays_all_of_it() {
    let outcome = auction(&book(&[(100, 5), (60, 5)], 100, &[bid(1, 1, 100, 0), bid(2, 2, 60, 0), bid(3, 2, 59, 0)]));
    assert_eq!(awards(&outcome), [(1, 1, 100), (2, 2, 60)]);
    assert_eq!(outcome.losers, [Loser { bid_id: id(3), reason: LossReason::BelowReserve }]);
}

#[test]
fn with_room_for_everybody_and_no_reserve_nobody_pays() {
    let outcome = auction(&book(&[(7, u32::MAX)], 0, &[bid(1, 1, JSON_INTEGER_MAX, 0), bid(2, 1, 0, 0)]));
    assert_eq!(awards(&outcome), [(1, 1, 0), (2, 1, 0)]);
}

/// The ladder skips a rank that the first one kept out had to pass: 2 wanted rank 1, got 3, so both steps are at its offer.
#[test]
fn one_who_fell_two_ranks_sets_the_price_of_both_steps() {
    let bids = [bid(1, 2, 90, 0), bid(2, 1, 80, 0), bid(3, 1, 70, 0), bid(4, 3, 10, 0)];
    let outcome = auction(&book(&[(10, 1), (9, 1), (5, 1)], 0, &bids));
    // b = 10, 8, 7, 2: bidder 1 takes rank 2, bidder 2 rank 1, bidder 3 falls to rank 3, bidder 4 gets nothing.
    // Rank 1: (10−5)·7 + 5·2. Rank 2: (9−5)·7 + 5·2. Rank 3: 5·2.
    assert_eq!(awards(&outcome), [(1, 2, 38), (2, 1, 45), (3, 3, 10)]);
    assert_eq!(outcome.prices[0].kept_out.unwrap().placed, Some(3));
}

/// A bidder that asks for the second rank never gets the first, even if it stands empty.
#[test]
fn a_rank_better_than_wanted_is_never_given() {
    let outcome = auction(&book(&[(10, 3), (5, 1)], 0, &[bid(1, 2, 50, 0), bid(2, 2, 40, 0)]));
    assert_eq!(awards(&outcome), [(1, 2, 40)]);
}

/// A worse rank can cost more than a better one that few ask for: each rank's price is what its winners keep others out of.
#[test]
fn a_contested_second_rank_may_cost_more_than_an_uncontested_first() {
    let bids = [bid(1, 2, 600, 0), bid(2, 2, 540, 0), bid(3, 1, 800, 0), bid(4, 1, 100, 0)];
    let outcome = auction(&book(&[(100, 1), (60, 1)], 0, &bids));
    assert_eq!(awards(&outcome), [(1, 2, 540), (3, 1, 100)]);
}

#[test]
fn of_equal_offers_the_earlier_application_wins_then_the_smaller_id() {
    let earlier = auction(&book(&[(3, 1)], 0, &[bid(1, 1, 9, 20), bid(2, 1, 9, 10)]));
    assert_eq!(awards(&earlier), [(2, 1, 9)]);
    let smaller = auction(&book(&[(3, 1)], 0, &[bid(2, 1, 9, 10), bid(1, 1, 9, 10)]));
    assert_eq!(awards(&smaller), [(1, 1, 9)]);
    // 6 for weight 3 and 4 for weight 2 are the same offer per weight.
    let across = auction(&book(&[(3, 0), (2, 1)], 0, &[bid(1, 1, 6, 20), bid(2, 2, 4, 10)]));
    assert_eq!(awards(&across), [(2, 2, 4)]);
}

#[test]
fn a13_measured_quality_takes_the_fastest_uplink_and_charges_the_reserve() {
    let seen = |mbit, bid: Bid| Bid { up_seen: BitsPerSecond::from_mbit(mbit), ..bid };
    let bids = [
        seen(5, bid(1, 1, 500, 30)),
        seen(50, bid(2, 1, 100, 10)),
        seen(90, bid(3, 1, 99, 0)),
        seen(50, bid(4, 1, 900, 9)),
        bid(5, 2, 60, 0),
    ];
    let outcome = clear(&book(&[(100, 1), (60, 1), (25, 1)], 100, &bids), Selection::MeasuredQuality).unwrap();
    assert_eq!(
        awards(&outcome),
        [(4, 1, 100), (2, 2, 60), (1, 3, 25)],
        "the earlier of two that are as fast; an offer below the reserve is none"
    );
    assert!(outcome.prices.iter().all(|price| price.kept_out.is_none()));
}

#[test]
fn first_come_takes_the_earliest_and_charges_the_reserve() {
    let bids = [bid(1, 1, 500, 30), bid(2, 1, 100, 10), bid(3, 1, 99, 0), bid(4, 1, 900, 20), bid(5, 2, 60, 40)];
    let outcome = clear(&book(&[(100, 1), (60, 1), (25, 1)], 100, &bids), Selection::FirstCome).unwrap();
    assert_eq!(awards(&outcome), [(2, 1, 100), (4, 2, 60), (1, 3, 25)]);
    let below = Loser { bid_id: id(3), reason: LossReason::BelowReserve };
    assert_eq!(outcome.losers, [below, Loser { bid_id: id(5), reason: LossReason::NoPlace }]);
    assert!(outcome.prices.iter().all(|price| price.kept_out.is_none() && price.steps.iter().all(|step| step.set_by == SetBy::Reserve)));
}

#[test]
fn an_empty_book_has_prices_but_no_winners() {
    let outcome = auction(&book(&[(100, 1), (60, 1)], 10, &[]));
    assert!(outcome.awards.is_empty() && outcome.losers.is_empty());
    assert_eq!(outcome.prices.iter().map(|price| price.price.0).collect::<Vec<_>>(), [10, 6]);
    assert!(oracle::prices(&book(&[(100, 1)], 10, &[])).unwrap().is_empty());
}

#[test]
fn amounts_and_weights_at_their_bounds_are_priced_exactly() {
    let terms: Vec<_> = (0..16).map(|step| (WEIGHT_MAX - step, 1)).collect();
    let bids: Vec<_> = (0..17).map(|number| bid(number, 1 + u32::try_from(number % 16).unwrap(), JSON_INTEGER_MAX, number)).collect();
    let outcome = auction(&book(&terms, JSON_INTEGER_MAX - 20_000_000_000, &bids));
    assert_eq!(outcome.awards.len(), 16);
    for award in &outcome.awards {
        assert!(award.price.0 <= JSON_INTEGER_MAX);
    }
    // Wants rank 16, the largest offer per weight of all, and is alone with the one left out of every rank.
    let last = award_of(&outcome, id(15)).unwrap();
    assert_eq!(last.rank, 16);
}

/// 13^8 assignments a run would take the oracle hours; it must count places instead.
#[test]
fn few_bidders_for_many_ranks_are_still_checked_at_once() {
    let terms: Vec<_> = (0..12).map(|step| (100 - step, 1)).collect();
    let bids: Vec<_> = (0..8).map(|number| bid(number, 1, 1000 + number * 7, number)).collect();
    let book = book(&terms, 30, &bids);
    let mut won: Vec<_> = auction(&book).awards.iter().map(|award| (award.bid_id, award.rank, award.price)).collect();
    won.sort_unstable();
    assert_eq!(oracle::prices(&book).unwrap(), won);
    assert_eq!(won.len(), 8);
}

#[test]
fn a_book_out_of_bounds_is_refused_with_what_is_wrong() {
    let refused = |terms: &[(u32, u32)], reserve, bids: &[Bid]| Book::new(ranks(terms), Amount(reserve), bids.to_vec()).unwrap_err();
    assert_eq!(refused(&[], 0, &[]), BookError::RankCount(0));
    let many: Vec<_> = (0..=u32::try_from(RANKS_MAX).unwrap()).map(|rank| (1000 - rank, 1)).collect();
    assert_eq!(refused(&many, 0, &[]), BookError::RankCount(RANKS_MAX + 1));
    assert_eq!(refused(&[(5, 1), (0, 1)], 0, &[]), BookError::Weight { rank: 2, weight: 0 });
    assert_eq!(refused(&[(WEIGHT_MAX + 1, 1)], 0, &[]), BookError::Weight { rank: 1, weight: WEIGHT_MAX + 1 });
    assert_eq!(refused(&[(5, 1), (5, 1)], 0, &[]), BookError::WeightsNotFalling { rank: 2 });
    assert_eq!(refused(&[(5, 1), (6, 1)], 0, &[]), BookError::WeightsNotFalling { rank: 2 });
    assert_eq!(refused(&[(5, 1)], JSON_INTEGER_MAX + 1, &[]), BookError::Reserve(JSON_INTEGER_MAX + 1));
    for rank in [0, 2, u32::MAX] {
        assert_eq!(refused(&[(5, 1)], 0, &[bid(7, rank, 1, 0)]), BookError::UnknownRank { bid_id: id(7), rank });
    }
    let rich = BookError::Maximum { bid_id: id(7), maximum: u64::MAX };
    assert_eq!(refused(&[(5, 1)], 0, &[bid(7, 1, u64::MAX, 0)]), rich);
    let twins = [bid(7, 1, 1, 0), bid(8, 1, 3, 0), bid(7, 1, 2, 5)];
    assert_eq!(refused(&[(5, 1)], 0, &twins), BookError::DuplicateApplication(id(7)));
}

#[test]
fn a_book_with_too_many_bids_is_refused_before_it_is_sorted() {
    let bids = vec![bid(0, 1, 1, 0); BIDS_MAX + 1];
    assert_eq!(Book::new(vec![RankTerms { weight: 1, capacity: 1 }], Amount(0), bids), Err(BookError::TooManyBids(BIDS_MAX + 1)));
}

/// The layout is public, so the bytes are written out here by hand.
#[test]
fn the_hash_of_a_book_can_be_recomputed_from_its_documented_layout() {
    let mut bytes = b"SPILLWAY-BOOK-2\n".to_vec();
    bytes.push(2);
    bytes.extend(250u64.to_le_bytes());
    bytes.extend(2u32.to_le_bytes());
    for (weight, capacity) in [(100u32, 1u32), (60, 2)] {
        bytes.extend(weight.to_le_bytes());
        bytes.extend(capacity.to_le_bytes());
    }
    bytes.extend(2u32.to_le_bytes());
    for (number, rank, maximum, applied_at) in [(3u128, 2u32, 400u64, 9u64), (4, 1, 500, 8)] {
        bytes.extend(number.to_be_bytes());
        bytes.extend(rank.to_le_bytes());
        bytes.extend(maximum.to_le_bytes());
        bytes.extend(applied_at.to_le_bytes());
        bytes.extend(7_000_000u64.to_le_bytes());
    }
    let seen = |bid: Bid| Bid { up_seen: BitsPerSecond::from_mbit(7), ..bid };
    let book = book(&[(100, 1), (60, 2)], 250, &[seen(bid(4, 1, 500, 8)), seen(bid(3, 2, 400, 9))]);
    assert_eq!(book.hash(Selection::MeasuredQuality), protocol::Blake3::of(&bytes));
}

#[test]
fn changing_anything_in_a_book_changes_its_hash() {
    let base = book(&[(100, 1), (60, 2)], 250, &[bid(3, 2, 400, 9), bid(4, 1, 500, 8)]);
    let variants = [
        book(&[(101, 1), (60, 2)], 250, &[bid(3, 2, 400, 9), bid(4, 1, 500, 8)]),
        book(&[(100, 2), (60, 2)], 250, &[bid(3, 2, 400, 9), bid(4, 1, 500, 8)]),
        book(&[(100, 1), (60, 2)], 251, &[bid(3, 2, 400, 9), bid(4, 1, 500, 8)]),
        book(&[(100, 1), (60, 2)], 250, &[bid(3, 1, 400, 9), bid(4, 1, 500, 8)]),
        book(&[(100, 1), (60, 2)], 250, &[bid(3, 2, 401, 9), bid(4, 1, 500, 8)]),
        book(&[(100, 1), (60, 2)], 250, &[bid(3, 2, 400, 10), bid(4, 1, 500, 8)]),
        book(&[(100, 1), (60, 2)], 250, &[bid(2, 2, 400, 9), bid(4, 1, 500, 8)]),
        book(&[(100, 1), (60, 2)], 250, &[bid(4, 1, 500, 8)]),
        book(&[(100, 1), (60, 2)], 250, &[bid(3, 2, 400, 9), Bid { up_seen: BitsPerSecond(1), ..bid(4, 1, 500, 8) }]),
    ];
    for (index, variant) in variants.iter().enumerate() {
        assert_ne!(variant.hash(Selection::Auction), base.hash(Selection::Auction), "variant {index}");
    }
    let hashes = [Selection::Auction, Selection::FirstCome, Selection::MeasuredQuality].map(|selection| base.hash(selection).0);
    assert_eq!(std::collections::BTreeSet::from(hashes).len(), 3, "the selection is part of it");
}

#[test]
fn an_outcome_survives_storage_as_json() {
    let outcome = auction(&worked_example(250));
    let stored = serde_json::to_string(&outcome).unwrap();
    assert_eq!(serde_json::from_str::<Outcome>(&stored).unwrap(), outcome);
}

#[test]
fn an_explanation_that_was_tampered_with_no_longer_gives_the_price() {
    let mut price = auction(&worked_example(0)).prices.remove(0);
    price.steps[0].per_weight.amount = Amount(399);
    assert_ne!(price.recompute().unwrap(), price.price);
    price.steps[0].per_weight.weight = 0;
    assert!(price.recompute().is_err());
}
