//! The origin's budget, with the rules of the server: a hard cap, of which repairs leave what first copies may still need, and direct copies what
//! repairs may.

use protocol::frame::CHUNK_MAX;
use rules::lease_table::Part;

const BLOCKS: u64 = 1_000;
const SPARE_BLOCKS: u64 = 8;
const KEPT_BLOCKS: u64 = 2;
/// Direct copies leave so much of the edition for repairs: one part out of this many.
const KEPT_FOR_REPAIRS: u64 = 4;

/// All in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    limit: u64,
    /// Kept for first copies until it was taken for them: the edition.
    first_copies: u64,
    first: u64,
    /// Repairs and direct copies.
    repair: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64, first_copies: u64) -> Self {
        Self { limit, first_copies, first: 0, repair: 0 }
    }

    fn spare(&self) -> u64 {
        self.limit.saturating_sub(self.first_copies)
    }

    fn block(&self) -> u64 {
        (self.limit / BLOCKS).max(u64::from(CHUNK_MAX)).min(self.spare() / SPARE_BLOCKS)
    }

    pub(crate) fn room(&self, part: Part) -> u64 {
        let free = self.limit.saturating_sub(self.first + self.repair);
        let spare = free.saturating_sub((self.first_copies + KEPT_BLOCKS * self.block()).saturating_sub(self.first));
        match part {
            Part::First => free,
            Part::Repair => spare,
            Part::Direct => spare.saturating_sub(self.first_copies / KEPT_FOR_REPAIRS),
        }
    }

    pub(crate) fn room_for_direct(&self) -> u64 {
        self.room(Part::Direct)
    }

    /// What may be sent again in all of what some terminal has.
    pub(crate) fn for_doubles(&self) -> u64 {
        (self.spare() / 2).max(u64::from(CHUNK_MAX))
    }

    /// Takes bytes that are about to be sent; `false` if the budget does not have them.
    pub(crate) fn take(&mut self, part: Part, bytes: u64) -> bool {
        let fits = bytes <= self.room(part);
        *self.of(part) += if fits { bytes } else { 0 };
        fits
    }

    /// What was taken was not sent.
    pub(crate) fn put_back(&mut self, part: Part, bytes: u64) {
        *self.of(part) -= bytes.min(*self.of(part));
    }

    fn of(&mut self, part: Part) -> &mut u64 {
        match part {
            Part::First => &mut self.first,
            Part::Repair | Part::Direct => &mut self.repair,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_take_nothing_that_first_copies_still_need_and_nothing_goes_beyond_the_limit() {
        // Two blocks of one byte are kept.
        let mut budget = Budget::new(108, 100);
        assert_eq!((budget.room(Part::First), budget.room(Part::Repair), budget.room(Part::Direct)), (108, 6, 0));
        assert!(!budget.take(Part::Repair, 7) && budget.take(Part::Repair, 6) && !budget.take(Part::Repair, 1));
        assert!(budget.take(Part::First, 100) && budget.take(Part::First, 2) && !budget.take(Part::First, 1));
        budget.put_back(Part::First, 2);
        assert_eq!(budget.room(Part::Repair), 0);
    }

    #[test]
    fn direct_copies_leave_a_quarter_of_the_edition_for_repairs() {
        let mut budget = Budget::new(300, 100);
        let kept = KEPT_BLOCKS * budget.block();
        assert_eq!(budget.room_for_direct(), 200 - kept - 25);
        assert!(budget.take(Part::Direct, 175 - kept) && !budget.take(Part::Direct, 1) && budget.take(Part::Repair, 25));
    }
}
