//! Nobody does better by bidding anything but the truth, and nobody would rather have another's rank at another's price: both to within the rounding
//! of one minor unit, for a bidder to whom a rank is worth its maximum scaled by the weights, and a rank better than the wanted one nothing.

use proptest::prelude::*;
use protocol::Amount;
use rules::auction::{Award, Bid, Book};

use crate::books::{CROWD, auction, award_of, book, config, pick, small_book, weight, with_bid};

/// What `truth` gains from an award, times the weight of its wanted rank so that it is whole.
fn gain(book: &Book, truth: &Bid, award: Option<Award>) -> i128 {
    let Some(award) = award else { return 0 };
    let scaled = |amount: u64, weight: u128| i128::try_from(u128::from(amount) * weight).unwrap();
    let worth = if award.rank >= truth.rank { scaled(truth.maximum.0, weight(book, award.rank)) } else { 0 };
    worth - scaled(award.price.0, weight(book, truth.rank))
}

/// Whether the gain from `lie` beats the truth's by a whole minor unit or more.
fn pays_to_lie(book: &Book, truth: &Bid, lie: Bid) -> bool {
    let honest = gain(book, truth, award_of(&auction(book), truth.bid_id));
    let dishonest = gain(book, truth, award_of(&auction(&with_bid(book, lie)), truth.bid_id));
    let one_unit = i128::try_from(weight(book, truth.rank)).unwrap();
    dishonest - honest >= one_unit
}

proptest! {
    #![proptest_config(config())]

    /// Every rank, with every maximum at which a small book's outcome can change.
    #[test]
    fn no_misreport_of_maximum_or_rank_gains_more_than_the_rounding(book in book(crate::books::TIGHT), who: prop::sample::Index) {
        let Some(truth) = pick(&book, &who) else { return Ok(()) };
        for (rank, _) in (1u32..).zip(book.ranks()) {
            for maximum in 0..=30 {
                prop_assert!(!pays_to_lie(&book, &truth, Bid { rank, maximum: Amount(maximum), ..truth }), "rank {rank}, maximum {maximum}");
            }
        }
    }

    #[test]
    fn no_sampled_misreport_gains_in_books_with_odd_weights(
        book in prop_oneof![book(crate::books::WIDE), book(CROWD)],
        who: prop::sample::Index,
        lies in proptest::collection::vec((any::<prop::sample::Index>(), 0..150_000u64, any::<prop::sample::Index>()), 16),
    ) {
        let Some(truth) = pick(&book, &who) else { return Ok(()) };
        for (rank, maximum, near) in lies {
            let rank = u32::try_from(rank.index(book.ranks().len())).unwrap() + 1;
            // Somewhere, and just around what another one bids.
            let other = near.get(book.bids());
            let level = u64::try_from(u128::from(other.maximum.0) * weight(&book, rank) / weight(&book, other.rank)).unwrap();
            for maximum in [maximum, level, level + 1, level.saturating_sub(1)] {
                prop_assert!(!pays_to_lie(&book, &truth, Bid { rank, maximum: Amount(maximum), ..truth }), "rank {rank}, maximum {maximum}");
            }
        }
    }

    /// A winner compares with every rank's price; a loser too: no place on offer would have been a gain.
    #[test]
    fn nobody_envies_another_rank_at_its_price(book in prop_oneof![small_book(), book(CROWD)]) {
        let outcome = auction(&book);
        for truth in book.bids() {
            let own = gain(&book, truth, award_of(&outcome, truth.bid_id));
            for other in &outcome.awards {
                let envied = gain(&book, truth, Some(*other));
                prop_assert!(envied - own < i128::try_from(weight(&book, truth.rank)).unwrap(), "{truth:?} envies {other:?}");
            }
        }
    }

    /// The rounding goes in the bidder's favour: the truth never loses anything.
    #[test]
    fn an_honest_bidder_never_loses(book in small_book()) {
        let outcome = auction(&book);
        for truth in book.bids() {
            prop_assert!(gain(&book, truth, award_of(&outcome, truth.bid_id)) >= 0);
        }
    }
}
