//! Why a bid pays what it pays, or got nothing: one sentence for people, beside the numbers that it follows from.

use protocol::rest::Selection;
use protocol::{Amount, Currency, Money};

use super::outcome::{LossReason, PriceStep, RankPrice, SetBy, price_of};

/// A bid and what became of it.
#[derive(Debug, Clone, Copy)]
pub struct Decided<'a> {
    pub selection: Selection,
    /// The best rank wanted, from 1, and the most that was offered for it.
    pub wanted: u32,
    pub maximum: Amount,
    pub became: Became<'a>,
    pub currency: Currency,
}

#[derive(Debug, Clone, Copy)]
pub enum Became<'a> {
    /// It got this rank.
    Won(&'a RankPrice),
    /// It got no place. `least` is the least price of the rank that it wanted.
    Lost { reason: LossReason, least: Amount },
}

impl Decided<'_> {
    /// One sentence, ending with a full stop.
    pub fn sentence(&self) -> String {
        match self.became {
            Became::Won(price) => self.won(price),
            Became::Lost { reason: LossReason::BelowReserve, least } => format!(
                "You got no place and pay nothing: rank {} costs at least {}, and you offered {}.",
                self.wanted,
                self.money(least),
                self.money(self.maximum)
            ),
            Became::Lost { reason: LossReason::NoPlace, .. } => {
                let (rank, first) = (self.wanted, self.those_before());
                format!("You got no place and pay nothing: those before you, {first}, took every place from rank {rank} on.")
            }
        }
    }

    fn won(&self, price: &RankPrice) -> String {
        let (rank, paid) = (price.rank, self.money(price.price));
        let offered = format!("the {} that you offered at most for rank {}", self.money(self.maximum), self.wanted);
        let competed = price.steps.iter().any(|step| step.set_by != SetBy::Reserve);
        match (self.selection, competed) {
            (Selection::FirstCome | Selection::MeasuredQuality, _) => {
                format!("You pay {paid} for rank {rank}, its least price, and not {offered}: places go by {}.", self.order())
            }
            (Selection::Auction, false) if price.price.0 == 0 => {
                format!("You pay nothing for rank {rank}: you keep nobody out of a place, and the release has no least price.")
            }
            (Selection::Auction, false) => {
                format!("You pay {paid} for rank {rank}, its least price, and not {offered}: you keep nobody out of a place.")
            }
            (Selection::Auction, true) => {
                let steps: Vec<String> = price.steps.iter().map(|step| self.step(step, price)).collect();
                let steps = match steps.as_slice() {
                    [] | [_] => steps.concat(),
                    [first @ .., last] => format!("{} and {last}", first.join(", ")),
                };
                format!(
                    "You pay {paid} for rank {rank} and not {offered}: for each step up you pay what the first one kept out of it offered for it, {steps}."
                )
            }
        }
    }

    /// A step's part of the price, rounded down; only their sum is rounded in the price.
    fn step(&self, step: &PriceStep, price: &RankPrice) -> String {
        let part = price_of(std::slice::from_ref(step)).map_or_else(|_| "?".to_owned(), |part| self.money(part).to_string());
        let last = price.steps.last().is_some_and(|last| last.rank == step.rank);
        let up = if last { format!("rank {}", step.rank) } else { format!("rank {} over rank {}", step.rank, step.rank.saturating_add(1)) };
        match step.set_by {
            SetBy::Offer { .. } => format!("{part} for {up}"),
            SetBy::Reserve => format!("{part} for {up} (the least price)"),
        }
    }

    fn those_before(&self) -> &'static str {
        match self.selection {
            Selection::Auction => "who offered more, or as much and earlier",
            Selection::FirstCome => "who applied earlier",
            Selection::MeasuredQuality => "whose uplinks are faster, or as fast and who applied earlier",
        }
    }

    /// What decides under a selection that charges the least price.
    fn order(&self) -> &'static str {
        match self.selection {
            Selection::Auction => "offer",
            Selection::FirstCome => "time of application",
            Selection::MeasuredQuality => "measured uplink",
        }
    }

    fn money(&self, amount: Amount) -> Money {
        Money { amount, currency: self.currency }
    }
}

#[cfg(test)]
mod tests {
    use protocol::{BidId, BitsPerSecond, TimestampMs};

    use super::super::{Bid, Book, RankTerms, clear};
    use super::*;

    fn book(reserve: u64, maxima: &[(u32, u64)]) -> Book {
        let ranks = [(100, 1), (60, 1), (25, 1)].map(|(weight, capacity)| RankTerms { weight, capacity }).to_vec();
        let bid = |(number, &(rank, maximum)): (u8, &(u32, u64))| Bid {
            bid_id: BidId::from_bytes([number; 16]),
            rank,
            maximum: Amount(maximum),
            applied_at: TimestampMs(u64::from(number)),
            up_seen: BitsPerSecond(0),
        };
        Book::new(ranks, Amount(reserve), (0u8..).zip(maxima).map(bid).collect()).unwrap()
    }

    /// Everybody's sentence, winners first.
    fn sentences(book: &Book, selection: Selection) -> Vec<String> {
        let outcome = clear(book, selection).unwrap();
        let bid = |id| *book.bids().iter().find(|bid| bid.bid_id == id).unwrap();
        let decided = |bid: Bid, became| Decided { selection, wanted: bid.rank, maximum: bid.maximum, became, currency: Currency::EUR };
        let won = outcome.awards.iter().map(|award| {
            let price = outcome.prices.iter().find(|price| price.rank == award.rank).unwrap();
            decided(bid(award.bid_id), Became::Won(price)).sentence()
        });
        let lost = outcome.losers.iter().map(|loser| {
            let became = Became::Lost { reason: loser.reason, least: Amount(60) };
            decided(bid(loser.bid_id), became).sentence()
        });
        won.chain(lost).collect()
    }

    #[test]
    fn x05_each_price_is_explained_in_one_sentence() {
        let sentences = sentences(&book(0, &[(1, 500), (1, 400), (1, 300), (1, 200)]), Selection::Auction);
        assert_eq!(
            sentences,
            [
                "You pay 3.15 EUR for rank 1 and not the 5.00 EUR that you offered at most for rank 1: for each step up you pay what the first one kept out of \
                 it offered for it, 1.60 EUR for rank 1 over rank 2, 1.05 EUR for rank 2 over rank 3 and 0.50 EUR for rank 3.",
                "You pay 1.55 EUR for rank 2 and not the 4.00 EUR that you offered at most for rank 1: for each step up you pay what the first one kept out of \
                 it offered for it, 1.05 EUR for rank 2 over rank 3 and 0.50 EUR for rank 3.",
                "You pay 0.50 EUR for rank 3 and not the 3.00 EUR that you offered at most for rank 1: for each step up you pay what the first one kept out of \
                 it offered for it, 0.50 EUR for rank 3.",
                "You got no place and pay nothing: those before you, who offered more, or as much and earlier, took every place from rank 1 on.",
            ]
        );
    }

    #[test]
    fn x05_without_competition_the_least_price_is_named() {
        let free = sentences(&book(0, &[(1, 500)]), Selection::Auction);
        assert_eq!(free, ["You pay nothing for rank 1: you keep nobody out of a place, and the release has no least price."]);
        let some = sentences(&book(100, &[(1, 500), (2, 59)]), Selection::Auction);
        assert_eq!(
            some,
            [
                "You pay 1.00 EUR for rank 1, its least price, and not the 5.00 EUR that you offered at most for rank 1: you keep nobody out of a place.",
                "You got no place and pay nothing: rank 2 costs at least 0.60 EUR, and you offered 0.59 EUR.",
            ]
        );
        // The second is kept out of rank 1 and takes rank 2; below that there is nobody.
        let part = sentences(&book(100, &[(1, 500), (1, 400)]), Selection::Auction);
        assert!(part[0].ends_with(
            "1.60 EUR for rank 1 over rank 2, 0.35 EUR for rank 2 over rank 3 (the least price) and 0.25 EUR for rank 3 (the least price)."
        ));
    }

    #[test]
    fn a13_the_other_selections_say_by_what_places_go() {
        let bids = [(1, 500), (1, 400), (1, 300), (1, 200)];
        let first = sentences(&book(100, &bids), Selection::FirstCome);
        assert_eq!(
            (first[0].as_str(), first[3].as_str()),
            (
                "You pay 1.00 EUR for rank 1, its least price, and not the 5.00 EUR that you offered at most for rank 1: places go by time of application.",
                "You got no place and pay nothing: those before you, who applied earlier, took every place from rank 1 on."
            )
        );
        let fastest = sentences(&book(100, &bids), Selection::MeasuredQuality);
        assert!(fastest[0].ends_with("places go by measured uplink."), "{}", fastest[0]);
    }
}
