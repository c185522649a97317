//! The origin's budget, with the rules of the server: a hard cap, of which repairs leave what first copies may still need.

use protocol::frame::CHUNK_MAX;

const BLOCKS: u64 = 1_000;
const SPARE_BLOCKS: u64 = 8;
const KEPT_BLOCKS: u64 = 2;

/// All in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    limit: u64,
    /// Kept for first copies until it was taken for them: the edition.
    first_copies: u64,
    first: u64,
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

    pub(crate) fn room(&self, first: bool) -> u64 {
        let free = self.limit.saturating_sub(self.first + self.repair);
        if first { free } else { free.saturating_sub((self.first_copies + KEPT_BLOCKS * self.block()).saturating_sub(self.first)) }
    }

    /// What may be sent again of what some terminal has.
    pub(crate) fn room_for_doubles(&self) -> u64 {
        (self.spare() / 2).max(u64::from(CHUNK_MAX)).saturating_sub(self.repair).min(self.room(false))
    }

    /// Takes bytes that are about to be sent; `false` if the budget does not have them.
    pub(crate) fn take(&mut self, first: bool, bytes: u64) -> bool {
        let fits = bytes <= self.room(first);
        *self.of(first) += if fits { bytes } else { 0 };
        fits
    }

    /// What was taken was not sent.
    pub(crate) fn put_back(&mut self, first: bool, bytes: u64) {
        *self.of(first) -= bytes.min(*self.of(first));
    }

    fn of(&mut self, first: bool) -> &mut u64 {
        if first { &mut self.first } else { &mut self.repair }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_take_nothing_that_first_copies_still_need_and_nothing_goes_beyond_the_limit() {
        // Two blocks of one byte are kept.
        let mut budget = Budget::new(108, 100);
        assert_eq!((budget.room(true), budget.room(false)), (108, 6));
        assert!(!budget.take(false, 7) && budget.take(false, 6) && !budget.take(false, 1));
        assert!(budget.take(true, 100) && budget.take(true, 2) && !budget.take(true, 1));
        budget.put_back(true, 2);
        assert_eq!(budget.room(false), 0);
    }
}
