//! The scale of a release: how many primary terminals each edition gets, how wide each later rank is, and in which waves the last one opens.
//!
//! It follows from how many applied for each edition, from their median uplink and from the publisher's limits. Bids, wanted ranks and awards play no
//! part: what decides them must not be decided by them.
//!
//! 1. **Primaries.** Each edition that somebody applied for gets one. Then one after the other is added by Webster's divisors: it goes to the edition
//!    with the largest n/(2s+1), where n applied and s primaries are there. The first one that would make the copies that the origin sends,
//!    Σ ⌈primaries/16⌉·F, more than its budget is not added, and none after it. An edition with `primaries_max`, or with one for each application, gets
//!    no more.
//! 2. **Middle ranks** are as wide as what the places before them can bring the edition to in the time since the rank before:
//!    max(1, ⌊places·ū·interval/F⌋), and not wider than all who applied.
//! 3. **The last rank** takes everybody. It opens in waves, one interval apart, each of max(places so far, ⌊places so far·ū·interval/F⌋). With one rank
//!    the primaries are its first wave.
//!
//! What the publisher states is used as it stands: a rank with a stated capacity has that one, and the last rank then opens at once.
//!
//! Source of the divisors: Webster (1832), as in Balinski and Young, *Fair Representation* (1982); dividing by 2s+1 is the method of Sainte-Laguë (1910).
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, BinaryHeap};

use protocol::{BitsPerSecond, Bytes, EditionId};

/// The primaries that one copy from the origin feeds: a group.
pub const PRIMARIES_PER_COPY: u32 = 16;
/// Primaries of an edition at most, unless the publisher states another number.
pub const PRIMARIES_MAX: u32 = 16;
/// What an uplink is taken for that nobody has measured.
pub const UNKNOWN_UPLINK: BitsPerSecond = BitsPerSecond::from_mbit(10);
/// From one wave of a release's only rank to the next, in seconds, unless the publisher states it.
pub const WAVE_INTERVAL_S: u32 = 60;

/// One edition of the release, and who wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    pub edition_id: EditionId,
    /// F; at least one byte.
    pub length: Bytes,
    /// Applications that stand, whatever they bid.
    pub applications: u32,
    /// ū: the median of the applicants' measured uplinks; [`UNKNOWN_UPLINK`] if there is none.
    pub uplink: BitsPerSecond,
}

/// What the publisher allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub origin_budget: Bytes,
    /// Of an edition, where rank 1 has no stated capacity; at least 1.
    pub primaries_max: u32,
    /// Places of an edition in all ranks together; without it nobody who bids enough is left out.
    pub places_max: Option<u32>,
    /// The first one is rank 1.
    pub ranks: Vec<RankLimits>,
    /// From one wave of the last rank to the next, in seconds; without it, as long as from the rank before to the last one.
    pub wave_interval_s: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankLimits {
    /// Seconds from the start; 0 for rank 1, rising.
    pub delay_s: u32,
    /// Places of an edition, where the publisher states them.
    pub capacity: Option<u32>,
}

/// The places of one edition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditionScale {
    /// Per rank, the first one first. The last one has room for every applicant, unless the publisher stated less.
    pub capacities: Vec<u32>,
    /// How many places of the last rank open with each of its waves, in order; together its capacity. None for an edition that nobody applied for.
    pub waves: Vec<u32>,
}

/// Why no scale can be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    #[error("a release needs a rank")]
    NoRank,
    #[error("the delays must rise from 0 for rank 1")]
    Delays,
    #[error("an edition may have no primary: at least one is needed")]
    NoPrimary,
    #[error("waves of the last rank must be at least a second apart")]
    NoInterval,
    #[error("edition {0} is empty")]
    EmptyEdition(EditionId),
    #[error("edition {0} stands twice")]
    EditionTwice(EditionId),
}

impl Limits {
    /// Seconds from one wave of the last rank to the next.
    pub fn last_interval_s(&self) -> u32 {
        let own = || match self.ranks.as_slice() {
            [.., before, last] => last.delay_s.saturating_sub(before.delay_s),
            [_] | [] => WAVE_INTERVAL_S,
        };
        self.wave_interval_s.unwrap_or_else(own)
    }

    /// Whether a scale can be given within them.
    ///
    /// # Errors
    /// [`ScaleError`] for what is wrong with them.
    pub fn check(&self) -> Result<(), ScaleError> {
        let first = self.ranks.first().ok_or(ScaleError::NoRank)?;
        if first.delay_s != 0 || !self.ranks.is_sorted_by(|one, next| one.delay_s < next.delay_s) {
            return Err(ScaleError::Delays);
        }
        if self.primaries_max == 0 {
            return Err(ScaleError::NoPrimary);
        }
        if self.wave_interval_s == Some(0) {
            return Err(ScaleError::NoInterval);
        }
        Ok(())
    }
}

/// The scale of each edition, in the order of `demands`. What an edition gets does not depend on that order.
///
/// # Errors
/// [`ScaleError`] if a bound of [`Demand`] or [`Limits`] does not hold.
pub fn scale(demands: &[Demand], limits: &Limits) -> Result<Vec<EditionScale>, ScaleError> {
    limits.check()?;
    let mut seen = BTreeSet::new();
    for demand in demands {
        if demand.length.0 == 0 {
            return Err(ScaleError::EmptyEdition(demand.edition_id));
        }
        if !seen.insert(demand.edition_id) {
            return Err(ScaleError::EditionTwice(demand.edition_id));
        }
    }
    let primaries = primaries(demands, limits);
    Ok(demands.iter().zip(primaries).map(|(demand, primaries)| edition_scale(demand, primaries, limits)).collect())
}

/// An edition's claim to the next primary; the greatest one is served first.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    applications: u32,
    /// Primaries that it has.
    seats: u32,
    edition_id: EditionId,
    /// Into the demands.
    index: usize,
}

impl Ord for Claim {
    /// Who has none comes first. Then n/(2s+1) decides, by cross-multiplication; then more applications, then the id.
    fn cmp(&self, other: &Self) -> Ordering {
        let weighed = |one: &Self, by: &Self| {
            let divisor = u64::from(by.seats).saturating_mul(2).saturating_add(1);
            u128::from(one.applications).saturating_mul(u128::from(divisor))
        };
        (self.seats == 0)
            .cmp(&(other.seats == 0))
            .then_with(|| weighed(self, other).cmp(&weighed(other, self)))
            .then_with(|| self.applications.cmp(&other.applications))
            .then_with(|| Reverse(self.edition_id).cmp(&Reverse(other.edition_id)))
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Step 1. The order in which primaries are added does not depend on the budget, which only says where to stop: a larger one never takes one away.
fn primaries(demands: &[Demand], limits: &Limits) -> Vec<u32> {
    let mut primaries = vec![0; demands.len()];
    let claim =
        |(index, demand): (usize, &Demand)| Claim { applications: demand.applications, seats: 0, edition_id: demand.edition_id, index };
    let mut claims: BinaryHeap<Claim> = demands.iter().enumerate().map(claim).filter(|claim| claim.applications > 0).collect();
    let mut budget = limits.origin_budget.0;
    while let Some(mut claim) = claims.pop() {
        if claim.seats % PRIMARIES_PER_COPY == 0 {
            let Some(left) = demands.get(claim.index).and_then(|demand| budget.checked_sub(demand.length.0)) else { break };
            budget = left;
        }
        claim.seats = claim.seats.saturating_add(1);
        if let Some(seats) = primaries.get_mut(claim.index) {
            *seats = claim.seats;
        }
        if claim.seats < claim.applications.min(limits.primaries_max) {
            claims.push(claim);
        }
    }
    primaries
}

/// Steps 2 and 3.
fn edition_scale(demand: &Demand, primaries: u32, limits: &Limits) -> EditionScale {
    let mut capacities: Vec<u32> = Vec::with_capacity(limits.ranks.len());
    let mut room = limits.places_max;
    let (mut places, mut before_s) = (0u32, 0);
    for (index, rank) in (1..).zip(&limits.ranks) {
        let own = || match index {
            _ if index == limits.ranks.len() => demand.applications,
            1 => primaries,
            _ => carried(places.min(demand.applications), rank.delay_s.saturating_sub(before_s), demand).clamp(1, demand.applications),
        };
        let wanted = rank.capacity.unwrap_or_else(|| if demand.applications == 0 { 0 } else { own() });
        let capacity = room.map_or(wanted, |room| wanted.min(room));
        room = room.map(|room| room.saturating_sub(capacity));
        places = places.saturating_add(capacity);
        before_s = rank.delay_s;
        capacities.push(capacity);
    }
    let waves = waves(demand, primaries, &capacities, limits);
    EditionScale { capacities, waves }
}

/// The waves of the last rank: all at once where the publisher stated its capacity.
fn waves(demand: &Demand, primaries: u32, capacities: &[u32], limits: &Limits) -> Vec<u32> {
    let (Some((&capacity, before)), Some(last)) = (capacities.split_last(), limits.ranks.last()) else { return Vec::new() };
    if last.capacity.is_some() || demand.applications == 0 {
        return if capacity == 0 { Vec::new() } else { vec![capacity] };
    }
    let mut places = before.iter().fold(0u32, |sum, &capacity| sum.saturating_add(capacity)).min(demand.applications);
    let (mut left, mut waves) = (capacity, Vec::new());
    while left > 0 {
        let size = if places == 0 { primaries.max(1) } else { carried(places, limits.last_interval_s(), demand).max(places) }.min(left);
        waves.push(size);
        (places, left) = (places.saturating_add(size), left.saturating_sub(size));
    }
    waves
}

/// ⌊places·ū·seconds/F⌋: to how many terminals `places` can bring the whole edition in that time.
fn carried(places: u32, seconds: u32, demand: &Demand) -> u32 {
    // 32, 53 and 32 bits: the product stays within 128.
    let bits = u128::from(places).saturating_mul(u128::from(demand.uplink.0)).saturating_mul(u128::from(seconds));
    let edition = u128::from(demand.length.0).saturating_mul(8);
    u32::try_from(bits.checked_div(edition).unwrap_or(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
