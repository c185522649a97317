//! What an auction decided, with everything that is needed to explain and recompute each price.

use protocol::{Amount, BidId};
use serde::{Deserialize, Serialize};

use super::OutOfBounds;
use super::per_weight::{ExactSum, PerWeight};

/// A book's outcome. The same book always gives the same outcome, in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The winners in the order in which they were placed: the best offer first, the earliest application under first come, or the fastest uplink under measured quality.
    pub awards: Vec<Award>,
    /// Those below the reserve in the order of their ids, then those without a place in the order in which they were tried.
    pub losers: Vec<Loser>,
    /// One per rank, the first one first, whether anybody won it or not.
    pub prices: Vec<RankPrice>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Award {
    pub bid_id: BidId,
    /// From 1; the rank wanted or a later one.
    pub rank: u32,
    pub price: Amount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loser {
    pub bid_id: BidId,
    pub reason: LossReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The maximum is less than the reserve of the rank wanted.
    BelowReserve,
    /// The rank wanted and all after it were full.
    NoPlace,
}

/// What every winner of one rank pays, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankPrice {
    /// From 1.
    pub rank: u32,
    /// The sum of `steps`, rounded down.
    pub price: Amount,
    /// F of this rank; nobody if all who wanted it got in, and under first come.
    pub kept_out: Option<KeptOut>,
    /// The steps up from nothing to this rank, this rank's own step first, down to the last rank's.
    pub steps: Vec<PriceStep>,
}

/// The first one kept out of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptOut {
    pub bid_id: BidId,
    pub per_weight: PerWeight,
    /// The rank that it got instead, if any.
    pub placed: Option<u32>,
}

/// One step of a price: from the rank after `rank` (or from nothing) up to `rank`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceStep {
    pub rank: u32,
    /// w_u − w_{u+1}: what the step adds in weight.
    pub weight: u32,
    /// max(ρ, θ_u): what is paid per weight.
    pub per_weight: PerWeight,
    pub set_by: SetBy,
}

/// Whose offer set a step's price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum SetBy {
    /// This one would climb the step if a winner were not there.
    Offer { bid_id: BidId },
    /// Nobody was kept out of it.
    Reserve,
}

impl RankPrice {
    /// The price as it follows from the steps: equal to `price` unless one of them was tampered with.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the steps cannot be those of a real price.
    pub fn recompute(&self) -> Result<Amount, OutOfBounds> {
        price_of(&self.steps)
    }
}

/// Σ weight · per_weight, rounded down once.
pub(super) fn price_of(steps: &[PriceStep]) -> Result<Amount, OutOfBounds> {
    let mut sum = ExactSum::zero();
    for step in steps {
        sum.add(step.weight, step.per_weight).ok_or(OutOfBounds)?;
    }
    u64::try_from(sum.floor()).map(Amount).map_err(|_| OutOfBounds)
}
