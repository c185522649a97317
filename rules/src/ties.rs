//! Whom each later terminal of an edition is tied to: one of its primary terminals, which stands for the copy of the edition that it descends from.
//!
//! Later terminals are taken in the order of their places. Each is tied to a primary of its own region, or to any if its region is not known or has
//! none: to the one with the most uplink for each terminal that would then be tied to it. So primaries are burdened by what they can carry.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};

use protocol::{BitsPerSecond, TerminalId};

use crate::relay_plan::Region;

/// A terminal that has a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub terminal_id: TerminalId,
    /// 0 if it is not known; that counts as the least.
    pub up: BitsPerSecond,
    pub region: Option<Region>,
}

/// A primary with so many terminals tied to it; the greatest takes the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Burden {
    up: u64,
    tied: u32,
    /// Among the primaries.
    index: usize,
}

impl Ord for Burden {
    /// By up/(tied + 1), then the earlier place.
    fn cmp(&self, other: &Self) -> Ordering {
        let weighed = |one: &Self, by: &Self| u128::from(one.up) * (u128::from(by.tied) + 1);
        weighed(self, other).cmp(&weighed(other, self)).then_with(|| other.index.cmp(&self.index))
    }
}

impl PartialOrd for Burden {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The primary of each later terminal, in the order of `later`; nobody's if there are no primaries.
///
/// Takes O((p + n) log p) time for p primaries and n later terminals.
pub fn ties(primaries: &[Placed], later: &[Placed]) -> Vec<Option<TerminalId>> {
    let burden = |(index, primary): (usize, &Placed)| Burden { up: primary.up.0.max(1), tied: 0, index };
    let mut anywhere: BinaryHeap<Burden> = primaries.iter().enumerate().map(burden).collect();
    let mut near: BTreeMap<Region, BinaryHeap<Burden>> = BTreeMap::new();
    for (index, primary) in primaries.iter().enumerate() {
        if let Some(region) = primary.region {
            near.entry(region).or_default().push(burden((index, primary)));
        }
    }
    let mut tied = vec![0; primaries.len()];
    let tie = |terminal: &Placed| {
        let heap = terminal.region.and_then(|region| near.get_mut(&region)).unwrap_or(&mut anywhere);
        let index = next(heap, &mut tied)?;
        Some(primaries[index].terminal_id)
    };
    later.iter().map(tie).collect()
}

/// Takes the primary with the most uplink to spare. Each stands in two heaps: an entry that is behind is put right when it comes up, and burdens only grow,
/// so what comes up and is right is the greatest.
fn next(heap: &mut BinaryHeap<Burden>, tied: &mut [u32]) -> Option<usize> {
    loop {
        let mut first = heap.peek_mut()?;
        if first.tied == tied[first.index] {
            first.tied += 1;
            tied[first.index] = first.tied;
            return Some(first.index);
        }
        first.tied = tied[first.index];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn placed(number: u8, up: u64, region: Option<u16>) -> Placed {
        Placed { terminal_id: TerminalId::from_bytes([number; 16]), up: BitsPerSecond(up), region: region.map(Region) }
    }

    fn tied(primaries: &[Placed], later: &[Placed]) -> Vec<u8> {
        ties(primaries, later).into_iter().map(|primary| primary.unwrap().to_bytes()[0]).collect()
    }

    #[test]
    fn a17_terminals_are_tied_in_order_to_the_primary_with_the_most_uplink_to_spare() {
        let primaries = [placed(1, 10, None), placed(2, 30, None)];
        let later: Vec<Placed> = (10..14).map(|number| placed(number, 5, None)).collect();
        assert_eq!(tied(&primaries, &later), [2, 2, 1, 2], "30, 15, 10 = 10 by the earlier place, and 10");
    }

    #[test]
    fn a17_a_primary_of_the_same_region_comes_first() {
        let primaries = [placed(1, 100, Some(1)), placed(2, 1, Some(2)), placed(3, 1, None)];
        let later = [placed(10, 0, Some(2)), placed(11, 0, Some(2)), placed(12, 0, Some(3)), placed(13, 0, None)];
        assert_eq!(tied(&primaries, &later), [2, 2, 1, 1]);
    }

    #[test]
    fn a17_without_a_primary_nobody_is_tied() {
        assert_eq!(ties(&[], &[placed(1, 1, Some(1)), placed(2, 1, None)]), [None, None]);
        assert!(ties(&[placed(1, 1, None)], &[]).is_empty());
    }

    proptest! {
        #[test]
        fn a17_primaries_are_burdened_by_what_they_can_carry(ups in prop::collection::vec(1..50u64, 1..12), later in 0..200usize) {
            let primaries: Vec<Placed> = (0u8..).zip(&ups).map(|(number, &up)| placed(number, up, None)).collect();
            let mut counts = vec![0u64; ups.len()];
            for primary in tied(&primaries, &vec![placed(99, 0, None); later]) {
                counts[usize::from(primary)] += 1;
            }
            for (&up, &count) in ups.iter().zip(&counts).filter(|(_, count)| **count > 0) {
                for (&other_up, &other_count) in ups.iter().zip(&counts) {
                    // Its last one would not have been better off with the other primary.
                    prop_assert!(up * (other_count + 1) >= other_up * count);
                }
            }
        }
    }
}
