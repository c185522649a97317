//! The best allocation by dynamic programming over how many places of each rank are left.
//!
//! `value[k][left]` is the most that the bidders from the k-th on (in the order of application) can be worth together in the places `left`. A rank
//! with a place for everybody never runs out and needs no counting. Every choice of every bidder is weighed, so nothing about the auction's
//! own order of bids is assumed.

use super::{Market, OracleError, Solver};

/// Most (bidder, occupancy) pairs: some 4 MB of choices and a second of work per bidder without optimisation.
const PAIRS_MAX: usize = 1 << 22;
/// The choice "no place" in the table.
const NO_PLACE: u8 = u8::MAX;

pub(super) struct Occupancy;

/// How the places left in the counted ranks make up one number.
struct States {
    /// Per rank: what one place adds to the state, and the number of places; `None` for a rank that never runs out.
    strides: Vec<Option<(usize, usize)>>,
    count: usize,
}

impl States {
    fn of(market: &Market) -> Result<Self, OracleError> {
        let bidders = market.bidders.len();
        let mut count: usize = 1;
        let mut strides = Vec::with_capacity(market.capacities.len());
        for &capacity in &market.capacities {
            if capacity >= bidders {
                strides.push(None);
                continue;
            }
            strides.push(Some((count, capacity)));
            count = capacity.checked_add(1).and_then(|places| count.checked_mul(places)).ok_or(OracleError::Overflow)?;
        }
        match count.checked_mul(bidders) {
            Some(pairs) if pairs <= PAIRS_MAX => Ok(Self { strides, count }),
            Some(_) | None => Err(OracleError::TooLarge { bidders, states: count }),
        }
    }

    /// The state with no place taken.
    fn full(&self) -> usize {
        self.count.saturating_sub(1)
    }

    /// The state after one more place of `rank` is taken; `None` if none is left.
    fn take(&self, state: usize, rank: usize) -> Option<usize> {
        match *self.strides.get(rank)? {
            None => Some(state),
            Some((stride, capacity)) => {
                let left = state.checked_div(stride)?.checked_rem(capacity.checked_add(1)?)?;
                if left == 0 { None } else { state.checked_sub(stride) }
            }
        }
    }
}

/// `value[0]`, and every bidder's best choice in every state, from the first bidder to the last.
fn solve(market: &Market, states: &States) -> Result<(Vec<i128>, Vec<Vec<u8>>), OracleError> {
    let mut value = vec![0i128; states.count];
    let mut choices = Vec::with_capacity(market.bidders.len());
    for bidder in market.bidders.iter().rev() {
        let mut worth = Vec::with_capacity(states.count);
        let mut chosen = Vec::with_capacity(states.count);
        for (state, &nothing) in value.iter().enumerate() {
            let (mut best, mut choice) = (nothing, NO_PLACE);
            // From the last rank to the first, and a draw replaces: of choices that are worth the same the best rank stays.
            for rank in (bidder.wanted..market.weights.len()).rev() {
                let Some(after) = states.take(state, rank).and_then(|after| value.get(after)) else { continue };
                let gain = bidder.offer.checked_mul(market.weight(Some(rank))).ok_or(OracleError::Overflow)?;
                let total = gain.checked_add(*after).ok_or(OracleError::Overflow)?;
                if total >= best {
                    (best, choice) = (total, u8::try_from(rank).map_err(|_| OracleError::Overflow)?);
                }
            }
            worth.push(best);
            chosen.push(choice);
        }
        value = worth;
        choices.push(chosen);
    }
    choices.reverse();
    Ok((value, choices))
}

impl Solver for Occupancy {
    fn allocate(&self, market: &Market) -> Result<Vec<Option<usize>>, OracleError> {
        let states = States::of(market)?;
        let (_, choices) = solve(market, &states)?;
        let mut state = states.full();
        let mut allocation = Vec::with_capacity(choices.len());
        for chosen in &choices {
            let choice = chosen.get(state).copied().ok_or(OracleError::Overflow)?;
            if choice == NO_PLACE {
                allocation.push(None);
                continue;
            }
            let rank = usize::from(choice);
            state = states.take(state, rank).ok_or(OracleError::Overflow)?;
            allocation.push(Some(rank));
        }
        Ok(allocation)
    }

    fn welfare(&self, market: &Market) -> Result<i128, OracleError> {
        let states = States::of(market)?;
        solve(market, &states)?.0.get(states.full()).copied().ok_or(OracleError::Overflow)
    }

    /// One table for the others serves all offers: the bidder gets the rank whose worth, with what the others make of the places it leaves them, is
    /// most.
    fn allocate_at(&self, market: &Market, who: usize, offers: &[i128]) -> Result<Vec<Option<usize>>, OracleError> {
        let wanted = market.bidders.get(who).ok_or(OracleError::Overflow)?.wanted;
        let others = market.without(who);
        // Counted as with the bidder: a rank that just suffices for the others runs out when the bidder takes a place too.
        let states = States::of(market)?;
        let (value, _) = solve(&others, &states)?;
        let others_if = |rank: usize| states.take(states.full(), rank).and_then(|state| value.get(state)).copied();
        let others_alone = value.get(states.full()).copied().ok_or(OracleError::Overflow)?;
        let mut ranks = Vec::with_capacity(offers.len());
        for offer in offers {
            let (mut best, mut choice) = (others_alone, None);
            for rank in (wanted..market.weights.len()).rev() {
                let Some(rest) = others_if(rank) else { continue };
                let total =
                    offer.checked_mul(market.weight(Some(rank))).and_then(|own| own.checked_add(rest)).ok_or(OracleError::Overflow)?;
                if total >= best {
                    (best, choice) = (total, Some(rank));
                }
            }
            ranks.push(choice);
        }
        Ok(ranks)
    }
}
