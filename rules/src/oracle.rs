//! Recomputes an auction's prices from the definitions alone, to check [`crate::auction`] with. Slow, and sharing no code with it but the book.
//!
//! * The **allocation** is the assignment of bidders to places that is worth most, Σ b_i · w_{s_i}, found by looking at all of them
//!   (up to [`EXHAUSTIVE_MAX`] bids and [`ASSIGNMENTS_MAX`] assignments) or by dynamic programming over how many places of each rank are taken. Of
//!   several that are worth the same, the one that gives the earliest application the best rank, then the second earliest, and so on.
//! * Without a reserve the **price** is the externality: what the others would have together without the bidder, less what they have with it.
//! * With a reserve it is the critical value: the bidder's worth at its own bid, less the integral over all lower bids, from the reserve up, of the
//!   weight that each would have got it. The allocation is run again once between each two bids at which it can change.
//!
//! Everything is in integers: prices per weight are scaled by twice the least common multiple of the weights in use, so that bids, reserve and the
//! points half way between them are whole.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

mod exhaustive;
mod occupancy;

use protocol::{Amount, BidId};

use crate::auction::{Bid, Book};

/// Most bidders of a book whose every assignment is looked at.
pub const EXHAUSTIVE_MAX: usize = 8;
/// Most assignments that are looked at, capacities aside: eight bidders for four ranks, a few milliseconds per run.
pub const ASSIGNMENTS_MAX: usize = 5usize.pow(8);

/// Why prices could not be recomputed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OracleError {
    #[error("the book is too large to be checked: {bidders} bidders and {states} ways to fill the ranks")]
    TooLarge { bidders: usize, states: usize },
    #[error("the weights and maxima of the book need more than 127 bits together")]
    Overflow,
}

/// The winners with their ranks (from 1) and prices, in ascending order of bid id.
///
/// # Errors
/// [`OracleError::TooLarge`] above some four million (bidder, occupancy) pairs, [`OracleError::Overflow`] where scaled amounts do not fit.
pub fn prices(book: &Book) -> Result<Vec<(BidId, u32, Amount)>, OracleError> {
    let market = Market::of(book)?;
    if market.is_small() { priced(&market, &exhaustive::Exhaustive) } else { priced(&market, &occupancy::Occupancy) }
}

/// A bidder at or above the reserve.
#[derive(Debug, Clone, Copy)]
struct Bidder {
    id: BidId,
    /// The best rank wanted, from 0.
    wanted: usize,
    /// Offer per weight, scaled.
    offer: i128,
}

/// A book in scaled integers.
#[derive(Debug, Clone)]
struct Market {
    weights: Vec<i128>,
    capacities: Vec<usize>,
    reserve: i128,
    /// In the order of application.
    bidders: Vec<Bidder>,
    scale: i128,
}

/// A way to find the best allocation.
trait Solver {
    /// The rank (from 0) of each bidder in the best allocation.
    fn allocate(&self, market: &Market) -> Result<Vec<Option<usize>>, OracleError>;
    /// What the best allocation is worth.
    fn welfare(&self, market: &Market) -> Result<i128, OracleError>;
    /// The rank that each of `offers` would get bidder `who`, all else being as it is.
    fn allocate_at(&self, market: &Market, who: usize, offers: &[i128]) -> Result<Vec<Option<usize>>, OracleError>;
}

fn priced(market: &Market, solver: &impl Solver) -> Result<Vec<(BidId, u32, Amount)>, OracleError> {
    let allocation = solver.allocate(market)?;
    let total = market.worth(&allocation)?;
    let mut winners = Vec::new();
    for (who, (bidder, rank)) in market.bidders.iter().zip(&allocation).enumerate() {
        let Some(rank) = *rank else { continue };
        let own = bidder.offer.checked_mul(market.weight(Some(rank))).ok_or(OracleError::Overflow)?;
        let scaled = if market.reserve == 0 {
            let others_with = total.checked_sub(own).ok_or(OracleError::Overflow)?;
            solver.welfare(&market.without(who))?.checked_sub(others_with).ok_or(OracleError::Overflow)?
        } else {
            critical_value(market, solver, who, own)?
        };
        let price = scaled.checked_div(market.scale).and_then(|price| u64::try_from(price).ok()).ok_or(OracleError::Overflow)?;
        let rank = u32::try_from(rank).ok().and_then(|rank| rank.checked_add(1)).ok_or(OracleError::Overflow)?;
        winners.push((bidder.id, rank, Amount(price)));
    }
    winners.sort_unstable_by_key(|winner| winner.0);
    Ok(winners)
}

/// `own` − ∫ w(rank at offer z) dz over z from the reserve to the bidder's offer, scaled.
fn critical_value(market: &Market, solver: &impl Solver, who: usize, own: i128) -> Result<i128, OracleError> {
    let offer = market.bidders.get(who).ok_or(OracleError::Overflow)?.offer;
    // The allocation can change only where the own offer passes another one.
    let mut points: Vec<i128> = market.bidders.iter().map(|bidder| bidder.offer).filter(|&other| other < offer).collect();
    points.extend([market.reserve, offer]);
    points.sort_unstable();
    points.dedup();
    let pieces: Vec<(i128, i128)> = points.windows(2).map(|pair| (pair[0], pair[1])).collect();
    // Scaled offers are even, so the middle of two is whole.
    let middles: Vec<i128> = pieces.iter().filter_map(|(from, to)| from.checked_add(*to)?.checked_div(2)).collect();
    let ranks = solver.allocate_at(market, who, &middles)?;
    let mut rest = own;
    for ((from, to), rank) in pieces.iter().zip(ranks) {
        let area = to.checked_sub(*from).and_then(|width| width.checked_mul(market.weight(rank))).ok_or(OracleError::Overflow)?;
        rest = rest.checked_sub(area).ok_or(OracleError::Overflow)?;
    }
    Ok(rest)
}

impl Market {
    fn of(book: &Book) -> Result<Self, OracleError> {
        let weights: Vec<i128> = book.ranks().iter().map(|terms| i128::from(terms.weight)).collect();
        let weight_of = |bid: &Bid| usize::try_from(bid.rank).ok().and_then(|rank| weights.get(rank.checked_sub(1)?)).copied();
        let first = weights.first().copied().ok_or(OracleError::Overflow)?;
        let mut common = if book.reserve().0 == 0 { 1 } else { first };
        for bid in book.bids() {
            common = least_common_multiple(common, weight_of(bid).ok_or(OracleError::Overflow)?).ok_or(OracleError::Overflow)?;
        }
        let scale = common.checked_mul(2).ok_or(OracleError::Overflow)?;
        let scaled = |amount: Amount, weight: i128| scale.checked_div(weight)?.checked_mul(i128::from(amount.0));
        let reserve = scaled(book.reserve(), first).ok_or(OracleError::Overflow)?;
        let mut bids: Vec<&Bid> = book.bids().iter().collect();
        bids.sort_by_key(|bid| (bid.applied_at, bid.bid_id));
        let mut bidders = Vec::new();
        for bid in bids {
            let offer = weight_of(bid).and_then(|weight| scaled(bid.maximum, weight)).ok_or(OracleError::Overflow)?;
            let wanted = usize::try_from(bid.rank).ok().and_then(|rank| rank.checked_sub(1)).ok_or(OracleError::Overflow)?;
            if offer >= reserve {
                bidders.push(Bidder { id: bid.bid_id, wanted, offer });
            }
        }
        let capacities =
            book.ranks().iter().map(|terms| usize::try_from(terms.capacity).unwrap_or(usize::MAX).min(bidders.len())).collect();
        Ok(Self { weights, capacities, reserve, bidders, scale })
    }

    /// Whether every assignment can be looked at.
    fn is_small(&self) -> bool {
        let choices = self.weights.len().saturating_add(1);
        let assignments = self.bidders.iter().try_fold(1usize, |product, _| product.checked_mul(choices));
        self.bidders.len() <= EXHAUSTIVE_MAX && assignments.is_some_and(|assignments| assignments <= ASSIGNMENTS_MAX)
    }

    fn without(&self, who: usize) -> Self {
        let mut rest = self.clone();
        rest.bidders.remove(who);
        rest
    }

    fn weight(&self, rank: Option<usize>) -> i128 {
        rank.and_then(|rank| self.weights.get(rank)).copied().unwrap_or(0)
    }

    fn worth(&self, allocation: &[Option<usize>]) -> Result<i128, OracleError> {
        let places = self.bidders.iter().zip(allocation);
        places
            .map(|(bidder, rank)| bidder.offer.checked_mul(self.weight(*rank)))
            .try_fold(0, |sum: i128, worth| sum.checked_add(worth?))
            .ok_or(OracleError::Overflow)
    }
}

fn least_common_multiple(left: i128, right: i128) -> Option<i128> {
    let (mut divisor, mut rest) = (left, right);
    while rest != 0 {
        (divisor, rest) = (rest, divisor.checked_rem(rest)?);
    }
    left.checked_div(divisor)?.checked_mul(right)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "tests compute expectations on small numbers")]
mod tests;
