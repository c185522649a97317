//! Dealing the terminals of a block to its groups, so that each group gets its share of the fast and of the slow ones.

use std::cmp::Reverse;
use std::ops::Range;

use super::balance::Record;

/// The near-equal sizes of a wave's groups, which stand one after the other: sizes differ by one at most, the larger ones first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    candidates: usize,
    groups: usize,
}

impl Sizes {
    pub(super) fn new(candidates: usize, groups: usize) -> Self {
        Self { candidates, groups: groups.max(1) }
    }

    pub(super) fn largest(self) -> usize {
        self.candidates.div_ceil(self.groups)
    }

    fn begin(self, group: usize) -> usize {
        group * (self.candidates / self.groups) + group.min(self.candidates % self.groups)
    }

    /// The places of a group's members.
    pub(super) fn places(self, group: usize) -> Range<usize> {
        self.begin(group)..self.begin(group + 1)
    }

    /// The group that a place belongs to.
    fn group_at(self, place: usize) -> usize {
        let (small, larger) = (self.candidates / self.groups, self.candidates % self.groups);
        let in_larger = larger * (small + 1);
        if place < in_larger { place / (small + 1) } else { larger + (place - in_larger) / small.max(1) }
    }
}

/// Deals each block, fastest uplink first, to the groups whose places it covers. The answer is which candidate takes each place.
///
/// There are as many rounds as the largest group has members, and they go forth and back. A group of which the block covers fewer places sits out
/// rounds at even distances, so that it gets a sample of the whole block and not its fastest or slowest.
pub(super) fn deal(records: &mut [Record], block_ends: &[usize], sizes: Sizes) -> Vec<u32> {
    let mut places = vec![0; records.len()];
    let mut begin = 0;
    for &end in block_ends {
        let block = &mut records[begin..end];
        block.sort_unstable_by_key(|record| (Reverse(record.up), record.terminal));
        deal_block(block, begin, sizes, &mut places);
        begin = end;
    }
    places
}

fn deal_block(block: &[Record], begin: usize, sizes: Sizes, places: &mut [u32]) {
    let end = begin + block.len();
    let mut hands: Vec<Hand> = (sizes.group_at(begin)..=sizes.group_at(end - 1))
        .map(|group| {
            let own = sizes.places(group);
            Hand { next: own.start.max(begin), seats: own.end.min(end) - own.start.max(begin) }
        })
        .collect();
    let mut records = block.iter();
    let mut give = |hand: &mut Hand, round| {
        if hand.takes_part(round, sizes.largest())
            && let Some(record) = records.next()
        {
            places[hand.next] = record.index;
            hand.next += 1;
        }
    };
    for round in 0..sizes.largest() {
        if round % 2 == 0 {
            hands.iter_mut().for_each(|hand| give(hand, round));
        } else {
            hands.iter_mut().rev().for_each(|hand| give(hand, round));
        }
    }
}

/// A group while a block is dealt.
#[derive(Debug)]
struct Hand {
    /// The place that it fills next.
    next: usize,
    /// How many of its places the block covers.
    seats: usize,
}

impl Hand {
    /// Whether it is one of the `seats` rounds out of `rounds` that the group is dealt a terminal in: those in which (round·seats + rounds/2)/rounds steps up.
    fn takes_part(&self, round: usize, rounds: usize) -> bool {
        let steps = |rounds_done: usize| (rounds_done * self.seats + rounds / 2) / rounds;
        steps(round + 1) > steps(round)
    }
}
