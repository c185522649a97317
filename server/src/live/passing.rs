//! Leases that went from one terminal to another, kept until somebody writes them down. They are told of, never decided on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use protocol::{GroupId, TerminalId};
use time::OffsetDateTime;

use super::Live;
use super::group::{Grant, Returned, WhyReturned};

/// Most entries that wait: they are taken every second, and thousands in one would be a swarm that falls apart. The oldest make room.
const WAITING_MAX: usize = 4_096;

/// Chunks that one terminal did not get, and who gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasesPassed {
    pub group: GroupId,
    pub at: OffsetDateTime,
    pub from: TerminalId,
    /// `None` if nobody had asked for chunks at that moment.
    pub to: Option<TerminalId>,
    pub why: WhyReturned,
    pub chunks: u32,
}

/// What one step took from some and gave to others.
pub fn passed(group: GroupId, returned: &[Returned], granted: &[Grant], at: OffsetDateTime) -> Vec<LeasesPassed> {
    let given: BTreeMap<u32, TerminalId> = granted.iter().map(|grant| (grant.chunk, grant.terminal)).collect();
    let mut counts: BTreeMap<(TerminalId, WhyReturned, Option<TerminalId>), u32> = BTreeMap::new();
    for lease in returned {
        *counts.entry((lease.terminal, lease.why, given.get(&lease.chunk).copied())).or_default() += 1;
    }
    counts.into_iter().map(|((from, why, to), chunks)| LeasesPassed { group, at, from, to, why, chunks }).collect()
}

/// What was not written down yet.
#[derive(Debug, Default)]
pub(super) struct PassedLeases(Mutex<VecDeque<LeasesPassed>>);

impl PassedLeases {
    pub(super) fn keep(&self, passed: Vec<LeasesPassed>) {
        if passed.is_empty() {
            return;
        }
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend(passed);
        let excess = waiting.len().saturating_sub(WAITING_MAX);
        waiting.drain(..excess);
    }
}

impl Live {
    /// Takes what was kept since the last call, oldest first.
    pub fn passed_leases(&self) -> Vec<LeasesPassed> {
        std::mem::take(&mut *self.inner.passed.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ws::GrantKind;

    const GROUP: GroupId = GroupId::from_bytes([9; 16]);

    fn terminal(number: u8) -> TerminalId {
        TerminalId::from_bytes([number; 16])
    }

    fn returned(chunk: u32, from: u8, why: WhyReturned) -> Returned {
        Returned { chunk, terminal: terminal(from), why }
    }

    #[test]
    fn chunks_are_counted_by_who_lost_them_why_and_who_gets_them() {
        let lost = [
            returned(1, 1, WhyReturned::Gone),
            returned(2, 1, WhyReturned::Gone),
            returned(3, 1, WhyReturned::Gone),
            returned(4, 2, WhyReturned::Expired),
        ];
        let grant = |chunk, to| Grant { terminal: terminal(to), chunk, kind: GrantKind::FirstCopy };
        let at = OffsetDateTime::UNIX_EPOCH;
        let found = passed(GROUP, &lost, &[grant(1, 3), grant(2, 3), grant(4, 1), grant(8, 2)], at);
        let entry =
            |from, to: Option<u8>, why, chunks| LeasesPassed { group: GROUP, at, from: terminal(from), to: to.map(terminal), why, chunks };
        let expected =
            [entry(1, None, WhyReturned::Gone, 1), entry(1, Some(3), WhyReturned::Gone, 2), entry(2, Some(1), WhyReturned::Expired, 1)];
        assert_eq!(found, expected);
        assert!(passed(GROUP, &[], &[grant(1, 3)], at).is_empty(), "what is given for the first time was not passed on");
    }

    #[test]
    fn what_nobody_takes_away_stays_bounded() {
        let waiting = PassedLeases::default();
        for round in 0..3 {
            let many = (0..2_000).map(|_| LeasesPassed {
                group: GROUP,
                at: OffsetDateTime::UNIX_EPOCH,
                from: terminal(round),
                to: None,
                why: WhyReturned::Gone,
                chunks: 1,
            });
            waiting.keep(many.collect());
        }
        let kept = waiting.0.into_inner().unwrap();
        assert_eq!((kept.len(), kept.back().unwrap().from), (WAITING_MAX, terminal(2)), "the oldest made room");
    }
}
