//! What must hold for every book: who gets what, and what the price is bound by.

use proptest::prelude::*;
use protocol::Amount;
use rules::auction::{Book, LossReason, Selection, clear};
use rules::oracle;

use crate::books::{CROWD, auction, award_of, book, config, pick, precedes, small_book, weight, with_bid};

/// ⌊ρ · w_s⌋ for a rank counted from 1.
fn reserve_of(book: &Book, rank: u32) -> u128 {
    u128::from(book.reserve().0) * weight(book, rank) / weight(book, 1)
}

/// Winners in ascending order of id, as the oracle gives them.
fn sorted_awards(book: &Book) -> Vec<(protocol::BidId, u32, Amount)> {
    let mut awards: Vec<_> = auction(book).awards.iter().map(|award| (award.bid_id, award.rank, award.price)).collect();
    awards.sort_unstable();
    awards
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nobody_pays_more_than_its_maximum_for_the_rank_it_got(book in small_book()) {
        let outcome = auction(&book);
        for bid in book.bids() {
            if let Some(award) = award_of(&outcome, bid.bid_id) {
                prop_assert!(u128::from(award.price.0) * weight(&book, bid.rank) <= u128::from(bid.maximum.0) * weight(&book, award.rank));
                prop_assert!(award.price <= bid.maximum);
            }
        }
    }

    /// ρ · w_s need not be whole, and prices are rounded down.
    #[test]
    fn nobody_pays_less_than_the_reserve_of_its_rank(book in small_book()) {
        for award in auction(&book).awards {
            prop_assert!(u128::from(award.price.0) >= reserve_of(&book, award.rank));
        }
    }

    #[test]
    fn no_rank_takes_more_than_its_capacity_and_every_bid_is_decided_once(book in small_book()) {
        let outcome = auction(&book);
        for (rank, terms) in (1u32..).zip(book.ranks()) {
            let taken = outcome.awards.iter().filter(|award| award.rank == rank).count();
            prop_assert!(taken <= usize::try_from(terms.capacity).unwrap());
        }
        let winners = outcome.awards.iter().map(|award| award.bid_id);
        let mut decided: Vec<_> = winners.chain(outcome.losers.iter().map(|loser| loser.bid_id)).collect();
        decided.sort_unstable();
        let bids: Vec<_> = book.bids().iter().map(|bid| bid.bid_id).collect();
        prop_assert_eq!(decided, bids);
    }

    #[test]
    fn nobody_gets_a_better_rank_than_it_wanted(book in small_book()) {
        let outcome = auction(&book);
        for bid in book.bids() {
            prop_assert!(award_of(&outcome, bid.bid_id).is_none_or(|award| award.rank >= bid.rank));
        }
    }

    #[test]
    fn a_loser_was_below_the_reserve_or_found_every_rank_full(book in small_book()) {
        let outcome = auction(&book);
        for loser in &outcome.losers {
            let bid = book.bids().iter().find(|bid| bid.bid_id == loser.bid_id).unwrap();
            let below = u128::from(bid.maximum.0) * weight(&book, 1) < u128::from(book.reserve().0) * weight(&book, bid.rank);
            prop_assert_eq!(loser.reason == LossReason::BelowReserve, below);
            if loser.reason == LossReason::NoPlace {
                for (rank, terms) in (1u32..).zip(book.ranks()).filter(|(rank, _)| *rank >= bid.rank) {
                    let taken = outcome.awards.iter().filter(|award| award.rank == rank).count();
                    prop_assert_eq!(taken, usize::try_from(terms.capacity).unwrap());
                }
            }
        }
    }

    /// Whoever is kept out of a rank finds only better offers there, or equal ones that came earlier: the tie rule, in every rank at once.
    #[test]
    fn only_better_or_equal_and_earlier_offers_keep_a_bidder_out_of_a_rank(book in small_book()) {
        let outcome = auction(&book);
        for bid in book.bids() {
            let got = match award_of(&outcome, bid.bid_id) {
                Some(award) => award.rank,
                None if outcome.losers.iter().any(|loser| loser.bid_id == bid.bid_id && loser.reason == LossReason::BelowReserve) => continue,
                None => u32::MAX,
            };
            for award in outcome.awards.iter().filter(|award| (bid.rank..got).contains(&award.rank)) {
                let occupant = book.bids().iter().find(|other| other.bid_id == award.bid_id).unwrap();
                prop_assert!(precedes(&book, occupant, bid));
            }
        }
    }

    #[test]
    fn a_higher_own_maximum_never_gives_a_worse_rank(book in small_book(), who: prop::sample::Index, raise in 0..30_000u64) {
        let Some(bid) = pick(&book, &who) else { return Ok(()) };
        let raised = with_bid(&book, rules::auction::Bid { maximum: Amount(bid.maximum.0 + raise), ..bid });
        let before = award_of(&auction(&book), bid.bid_id).map_or(u32::MAX, |award| award.rank);
        let after = award_of(&auction(&raised), bid.bid_id).map_or(u32::MAX, |award| award.rank);
        prop_assert!(after <= before);
    }

    #[test]
    fn the_own_maximum_does_not_change_the_own_price_within_a_rank(book in small_book(), who: prop::sample::Index, maximum in prop_oneof![0..15u64, 0..120_000u64]) {
        let Some(bid) = pick(&book, &who) else { return Ok(()) };
        let changed = with_bid(&book, rules::auction::Bid { maximum: Amount(maximum), ..bid });
        let (before, after) = (award_of(&auction(&book), bid.bid_id), award_of(&auction(&changed), bid.bid_id));
        if let (Some(before), Some(after)) = (before, after) {
            prop_assert!(before.rank != after.rank || before.price == after.price);
        }
    }

    #[test]
    fn winners_of_one_rank_pay_the_same_and_can_recompute_it(book in small_book()) {
        let outcome = auction(&book);
        for award in &outcome.awards {
            let price = outcome.prices.iter().find(|price| price.rank == award.rank).unwrap();
            prop_assert_eq!(award.price, price.price);
        }
        for price in &outcome.prices {
            prop_assert_eq!(price.recompute().unwrap(), price.price);
            let climbed: u32 = price.steps.iter().map(|step| step.weight).sum();
            prop_assert_eq!(u128::from(climbed), weight(&book, price.rank), "the steps lead from nothing up to the rank");
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(book in small_book(), shuffle in any::<u64>()) {
        let mut bids = book.bids().to_vec();
        bids.sort_by_key(|bid| *blake(&bid.bid_id.to_bytes(), shuffle).first_chunk::<8>().unwrap());
        let shuffled = Book::new(book.ranks().to_vec(), book.reserve(), bids).unwrap();
        prop_assert_eq!(auction(&shuffled), auction(&book));
        prop_assert_eq!(shuffled.hash(Selection::Auction), book.hash(Selection::Auction));
    }

    /// Renaming the bids reverses the order in which the book keeps them; with all times different the names must not matter.
    #[test]
    fn ids_do_not_matter_where_no_tie_needs_them(book in small_book()) {
        let distinct = |rename: fn(u64) -> u64| {
            let bids = (0u64..).zip(book.bids()).map(|(place, bid)| rules::auction::Bid {
                bid_id: crate::books::id(rename(place)),
                applied_at: protocol::TimestampMs(place),
                ..*bid
            });
            Book::new(book.ranks().to_vec(), book.reserve(), bids.collect()).unwrap()
        };
        let named = |outcome: &rules::auction::Outcome| outcome.awards.iter().map(|award| (award.rank, award.price)).collect::<Vec<_>>();
        let (forward, backward) = (auction(&distinct(|place| place)), auction(&distinct(|place| 1000 - place)));
        prop_assert_eq!(named(&forward), named(&backward));
    }

    #[test]
    fn without_a_reserve_prices_are_the_externalities_at_the_welfare_optimum(book in small_book()) {
        let book = Book::new(book.ranks().to_vec(), Amount(0), book.bids().to_vec()).unwrap();
        prop_assert_eq!(sorted_awards(&book), oracle::prices(&book).unwrap());
    }

    #[test]
    fn with_a_reserve_prices_are_the_critical_values(book in small_book(), reserve in 1..6u64) {
        let reserve = Amount(book.reserve().0.max(reserve));
        let book = Book::new(book.ranks().to_vec(), reserve, book.bids().to_vec()).unwrap();
        prop_assert_eq!(sorted_awards(&book), oracle::prices(&book).unwrap());
    }

    #[test]
    fn crowded_books_agree_with_the_oracle_too(book in book(CROWD)) {
        prop_assert_eq!(sorted_awards(&book), oracle::prices(&book).unwrap());
    }

    #[test]
    fn first_come_keeps_to_capacities_wishes_and_maxima_at_the_price_of_the_reserve(book in small_book()) {
        let outcome = clear(&book, Selection::FirstCome).unwrap();
        for (rank, terms) in (1u32..).zip(book.ranks()) {
            let taken = outcome.awards.iter().filter(|award| award.rank == rank).count();
            prop_assert!(taken <= usize::try_from(terms.capacity).unwrap());
        }
        for award in &outcome.awards {
            let bid = book.bids().iter().find(|bid| bid.bid_id == award.bid_id).unwrap();
            prop_assert!(award.rank >= bid.rank && award.price <= bid.maximum);
            prop_assert_eq!(u128::from(award.price.0), reserve_of(&book, award.rank));
        }
        let times: Vec<_> = outcome.awards.iter().map(|award| {
            let bid = book.bids().iter().find(|bid| bid.bid_id == award.bid_id).unwrap();
            (bid.applied_at, bid.bid_id)
        }).collect();
        prop_assert!(times.is_sorted());
        prop_assert_eq!(outcome.awards.len() + outcome.losers.len(), book.bids().len());
    }
}

/// Orders bids by a keyed hash: a shuffle that the test's seed decides.
fn blake(bytes: &[u8], key: u64) -> Vec<u8> {
    protocol::Blake3::of(&[bytes, &key.to_le_bytes()].concat()).0.to_vec()
}

/// The size of book that the demo checks: 64 bids for three ranks.
#[test]
fn a_book_of_the_demos_size_agrees_with_the_oracle() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for reserve in [0, 120] {
        let bids =
            (0..64).map(|number| crate::books::bid(number, u32::try_from(next(3)).unwrap() + 1, next(900) + 100, next(50))).collect();
        let book = Book::new(crate::books::ranks(&[(100, 4), (60, 12), (25, 40)]), Amount(reserve), bids).unwrap();
        assert_eq!(sorted_awards(&book), oracle::prices(&book).unwrap());
        assert!(sorted_awards(&book).len() >= 40);
    }
}
