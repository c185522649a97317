//! Where this terminal stands in the stream of pushes.

use protocol::ws::PushPosition;

/// What a push's position says about those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Next,
    /// It was here before.
    Repeat,
    /// Others are missing before it.
    Gap,
}

#[derive(Debug, Default)]
pub(super) struct Tracker {
    last: Option<PushPosition>,
}

impl Tracker {
    /// What to resume from.
    pub(super) fn last(&self) -> Option<PushPosition> {
        self.last
    }

    /// The stream goes on behind `position`; what was before it is not asked for.
    pub(super) fn restart(&mut self, position: PushPosition) {
        self.last = Some(position);
    }

    pub(super) fn observe(&mut self, position: PushPosition) -> Verdict {
        let verdict = match self.last {
            Some(last) if last.epoch == position.epoch && position.offset <= last.offset => return Verdict::Repeat,
            Some(last) if last.epoch == position.epoch && position.offset == last.offset + 1 => Verdict::Next,
            Some(_) => Verdict::Gap,
            None => Verdict::Next,
        };
        self.last = Some(position);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(epoch: u64, offset: u64) -> PushPosition {
        PushPosition { epoch, offset }
    }

    #[test]
    fn positions_one_after_the_other_are_whole_and_others_are_not() {
        let mut tracker = Tracker::default();
        tracker.restart(at(1, 4));
        for (position, verdict) in [
            (at(1, 5), Verdict::Next),
            (at(1, 5), Verdict::Repeat),
            (at(1, 3), Verdict::Repeat),
            (at(1, 7), Verdict::Gap),
            (at(1, 8), Verdict::Next),
            (at(2, 1), Verdict::Gap),
            (at(2, 2), Verdict::Next),
        ] {
            assert_eq!(tracker.observe(position), verdict, "{position:?}");
        }
        assert_eq!(tracker.last(), Some(at(2, 2)));
    }
}
