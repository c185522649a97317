//! The rank auction: a laddered Vickrey–Clarke–Groves mechanism, with first come and measured quality as the plain alternatives.
//!
//! Ranks carry public weights w_1 > … > w_R > w_{R+1} = 0; a place in rank s is worth b·w_s to a bidder who offers b per weight, if s is the rank it
//! wants or a later one, and nothing otherwise. With m the bid's maximum for the wanted rank r, b = m / w_r.
//!
//! 1. Bids below the reserve ρ are dropped; the others stand in the order (b falling, applied_at, id).
//! 2. Each gets the first rank s ≥ r with room. Whoever is the first one kept out of a rank u, with offer b and rank t in the end, is noted as
//!    F\[u\] = (b, t).
//! 3. From rank s the ladder leads F\[s\] = (b, t), F\[t\], …: were a place in s to fall vacant, the first one kept out of s would move up from t, the
//!    first one kept out of t into that one's place, and so on. Each sets the threshold θ_u = b of the steps u = s..t−1 that it would climb.
//! 4. The price of rank s is Σ_{u=s..R} (w_u − w_{u+1}) · max(ρ, θ_u), rounded down once at the end.
//!
//! So for each step up a winner pays what the first one kept out of that step offered for it: what its place costs the others. A bid's own
//! maximum decides whether it wins, never what it pays, and bidding the truth is best, to within the rounding of one minor unit, **for owners of
//! one terminal in the book**; whoever bids with several may move its own prices, as in every VCG mechanism. The properties are tested one by one
//! in `tests/money/`, against [`crate::oracle`].
//!
//! Sources: Vickrey (1961), Clarke (1971), Groves (1973); the critical-value form with a reserve is Myerson (1981).
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

mod book;
mod explain;
mod outcome;
mod per_weight;

pub use book::{BIDS_MAX, Bid, Book, BookError, RANKS_MAX, RankTerms, WEIGHT_MAX, coarse_uplink, least_maximum, release_hash};
pub use explain::{Became, Decided};
pub use outcome::{Award, KeptOut, Loser, LossReason, Outcome, PriceStep, RankPrice, SetBy};
pub use per_weight::PerWeight;
pub use protocol::rest::Selection;

use outcome::price_of;

/// A number left the bounds that [`Book::new`] guarantees; on a checked book this does not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an amount or a count of the auction left its bounds")]
pub struct OutOfBounds;

/// A bid that is at or above the reserve, in 32 bytes that sort by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entrant {
    /// Ascending where the better offer or the faster uplink comes first; the same for all where neither counts.
    precedence: u128,
    applied_at_ms: u64,
    /// Into the book's bids, which stand in ascending order of id: the last tie-break.
    bid: u32,
    /// From 0, so that the walk need not look the bid up.
    wanted: u32,
}

/// One rank while the entrants walk down the ladder.
#[derive(Debug, Clone, Copy)]
struct Rung {
    room: u32,
    /// F: the bid that was kept out of this rank first, and the rank it got, from 0; the number of ranks stands for none.
    kept_out: Option<(u32, usize)>,
}

/// Decides who gets which rank at which price.
///
/// Takes O(n log n + n·R) time for n bids and R ranks, and 32 bytes per bid besides the outcome.
///
/// # Errors
/// [`OutOfBounds`] instead of a wrong number; a checked [`Book`] stays within the bounds.
pub fn clear(book: &Book, selection: Selection) -> Result<Outcome, OutOfBounds> {
    let (mut entrants, mut losers) = entrants(book, selection)?;
    entrants.sort_unstable();
    let mut ladder: Vec<Rung> = book.ranks().iter().map(|terms| Rung { room: terms.capacity, kept_out: None }).collect();
    let mut placed = Vec::new();
    for entrant in &entrants {
        match walk(&mut ladder, entrant)? {
            Some(rank) => placed.push((entrant.bid, rank)),
            None => losers.push(Loser { bid_id: bid_of(book, entrant.bid)?.bid_id, reason: LossReason::NoPlace }),
        }
    }
    if selection != Selection::Auction {
        // Offers of those kept out do not count: everybody pays the reserve.
        ladder.iter_mut().for_each(|rung| rung.kept_out = None);
    }
    let prices = (0..ladder.len()).map(|rank| rank_price(book, &ladder, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut awards = Vec::with_capacity(placed.len());
    for (bid, rank) in placed {
        let price = prices.get(rank).ok_or(OutOfBounds)?;
        awards.push(Award { bid_id: bid_of(book, bid)?.bid_id, rank: price.rank, price: price.price });
    }
    Ok(Outcome { awards, losers, prices })
}

/// Step 1: the bids at or above the reserve, unsorted, and the others.
fn entrants(book: &Book, selection: Selection) -> Result<(Vec<Entrant>, Vec<Loser>), OutOfBounds> {
    let reserve = book.reserve_per_weight().sort_key().ok_or(OutOfBounds)?;
    let mut entrants = Vec::with_capacity(book.bids().len());
    let mut losers = Vec::new();
    for (index, bid) in (0u32..).zip(book.bids()) {
        let offer = book.offer(bid).sort_key().ok_or(OutOfBounds)?;
        if offer < reserve {
            losers.push(Loser { bid_id: bid.bid_id, reason: LossReason::BelowReserve });
            continue;
        }
        entrants.push(Entrant {
            precedence: match selection {
                Selection::Auction => !offer,
                Selection::FirstCome => 0,
                Selection::MeasuredQuality => !u128::from(bid.up_seen.0),
            },
            applied_at_ms: bid.applied_at.0,
            bid: index,
            wanted: bid.rank.checked_sub(1).ok_or(OutOfBounds)?,
        });
    }
    Ok((entrants, losers))
}

/// Step 2: gives the entrant the first rank with room from the wanted one on, and notes which ranks it is the first to be kept out of.
fn walk(ladder: &mut [Rung], entrant: &Entrant) -> Result<Option<usize>, OutOfBounds> {
    let wanted = usize::try_from(entrant.wanted).map_err(|_| OutOfBounds)?;
    let reachable = ladder.get_mut(wanted..).ok_or(OutOfBounds)?;
    let steps_down = reachable.iter().position(|rung| rung.room > 0).unwrap_or(reachable.len());
    let rank = wanted.checked_add(steps_down).ok_or(OutOfBounds)?;
    let (kept_out_of, rest) = reachable.split_at_mut(steps_down);
    for rung in kept_out_of {
        rung.kept_out.get_or_insert((entrant.bid, rank));
    }
    let Some(rung) = rest.first_mut() else { return Ok(None) };
    rung.room = rung.room.checked_sub(1).ok_or(OutOfBounds)?;
    Ok(Some(rank))
}

/// Steps 3 and 4: follows the ladder from `rank` (from 0) and adds up the steps.
fn rank_price(book: &Book, ladder: &[Rung], rank: usize) -> Result<RankPrice, OutOfBounds> {
    let mut steps = Vec::with_capacity(ladder.len());
    let mut at = rank;
    while at < ladder.len() {
        let (until, per_weight, set_by) = match ladder.get(at).ok_or(OutOfBounds)?.kept_out {
            Some((bid, placed)) => {
                let bid = bid_of(book, bid)?;
                (placed, book.offer(bid), SetBy::Offer { bid_id: bid.bid_id })
            }
            None => (ladder.len(), book.reserve_per_weight(), SetBy::Reserve),
        };
        for step in at..until {
            steps.push(PriceStep { rank: number_of(step)?, weight: weight_step(book, step)?, per_weight, set_by });
        }
        at = until;
    }
    let kept_out = match ladder.get(rank).ok_or(OutOfBounds)?.kept_out {
        Some((bid, placed)) => {
            let bid = bid_of(book, bid)?;
            let placed = if placed < ladder.len() { Some(number_of(placed)?) } else { None };
            Some(KeptOut { bid_id: bid.bid_id, per_weight: book.offer(bid), placed })
        }
        None => None,
    };
    Ok(RankPrice { rank: number_of(rank)?, price: price_of(&steps)?, kept_out, steps })
}

/// w_u − w_{u+1}, with nothing after the last rank.
fn weight_step(book: &Book, rank: usize) -> Result<u32, OutOfBounds> {
    let mut from_here = book.ranks().iter().skip(rank).map(|terms| terms.weight);
    let here = from_here.next().ok_or(OutOfBounds)?;
    here.checked_sub(from_here.next().unwrap_or(0)).ok_or(OutOfBounds)
}

/// A rank as people count it, from 1.
fn number_of(rank: usize) -> Result<u32, OutOfBounds> {
    u32::try_from(rank).ok().and_then(|rank| rank.checked_add(1)).ok_or(OutOfBounds)
}

fn bid_of(book: &Book, index: u32) -> Result<&Bid, OutOfBounds> {
    usize::try_from(index).ok().and_then(|index| book.bids().get(index)).ok_or(OutOfBounds)
}
