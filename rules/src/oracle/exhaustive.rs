//! The best allocation by looking at every one.

use super::{Market, OracleError, Solver};

pub(super) struct Exhaustive;

/// The search over all assignments: bidders in the order of application, each tried in its best rank first and without a place last. The first
/// assignment found of those that are worth most is therefore the one that the tie rule asks for.
struct Search<'market> {
    market: &'market Market,
    room: Vec<usize>,
    current: Vec<Option<usize>>,
    best: Option<(i128, Vec<Option<usize>>)>,
}

impl Search<'_> {
    fn run(&mut self, worth: i128) -> Result<(), OracleError> {
        let Some(bidder) = self.market.bidders.get(self.current.len()) else {
            if self.best.as_ref().is_none_or(|(best, _)| worth > *best) {
                self.best = Some((worth, self.current.clone()));
            }
            return Ok(());
        };
        for rank in bidder.wanted..self.room.len() {
            let Some(left) = self.room[rank].checked_sub(1) else { continue };
            let gain = bidder.offer.checked_mul(self.market.weight(Some(rank))).ok_or(OracleError::Overflow)?;
            let had = std::mem::replace(&mut self.room[rank], left);
            self.current.push(Some(rank));
            self.run(worth.checked_add(gain).ok_or(OracleError::Overflow)?)?;
            self.current.pop();
            self.room[rank] = had;
        }
        self.current.push(None);
        self.run(worth)?;
        self.current.pop();
        Ok(())
    }
}

fn best(market: &Market) -> Result<(i128, Vec<Option<usize>>), OracleError> {
    let mut search = Search { market, room: market.capacities.clone(), current: Vec::new(), best: None };
    search.run(0)?;
    search.best.ok_or(OracleError::Overflow)
}

impl Solver for Exhaustive {
    fn allocate(&self, market: &Market) -> Result<Vec<Option<usize>>, OracleError> {
        Ok(best(market)?.1)
    }

    fn welfare(&self, market: &Market) -> Result<i128, OracleError> {
        Ok(best(market)?.0)
    }

    fn allocate_at(&self, market: &Market, who: usize, offers: &[i128]) -> Result<Vec<Option<usize>>, OracleError> {
        let mut changed = market.clone();
        let mut ranks = Vec::with_capacity(offers.len());
        for offer in offers {
            changed.bidders.get_mut(who).ok_or(OracleError::Overflow)?.offer = *offer;
            ranks.push(best(&changed)?.1.get(who).copied().flatten());
        }
        Ok(ranks)
    }
}
