//! Putting terminals that are alike together, as far as no group becomes slower than the rest by it.
//!
//! The terminals of a wave are cut into *blocks*. All of a block is dealt to its groups by uplink, so that a group's mean uplink is close to its
//! block's. A wave is cut by region as long as every part has at least one group's members and a mean uplink within an eighth of the wave's;
//! each of the parts is cut by NAT, then by round trip, then by loss in the same way. Parts that are too small or too far from the mean are put
//! together with each other until they are neither.
//!
//! Where alike and balanced conflict, balanced wins: what comes from a little further away costs some milliseconds per chunk, and a group with an
//! eighth less uplink than the others ends a seventh later than they, for as long as the release takes.

use std::ops::Range;

use super::candidate::{Aspect, Likeness};

/// A block's mean uplink is within this part of the wave's.
const MEAN_WITHIN: u128 = 8;
/// A faster uplink counts as this many times the median when means are compared. A single machine in a data centre would otherwise lift the mean so far
/// above every home line that no block but the whole wave came near it.
const UPLINK_CAP_MEDIANS: u64 = 4;

/// What the planner keeps of a candidate while it sorts: 32 bytes instead of the hundred of a [`super::Candidate`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) terminal: u128,
    /// In bits per second; the wave's median where it is not known.
    pub(super) up: u64,
    pub(super) likeness: Likeness,
    /// Among the candidates.
    pub(super) index: u32,
}

/// Cuts a wave into blocks, and puts `records` in their order: block after block, alike ones near each other. The answer is where each block ends,
/// ascending, the last one at the end of `records`. `least` is the size of the largest group: no block is smaller, unless it is the whole wave.
pub(super) fn blocks(records: &mut [Record], least: usize) -> Vec<usize> {
    let mut ends = Vec::new();
    if records.is_empty() {
        return ends;
    }
    let wave = Wave::of(records, least);
    records.sort_unstable_by_key(|record| record.likeness);
    wave.cut(records, 0, Some(Aspect::FIRST), &mut ends);
    ends
}

/// The median of the uplinks that are known, the lower one of two; 0 if none is.
pub(super) fn median_uplink(known: &mut [u64]) -> u64 {
    match known.len() {
        0 => 0,
        count => *known.select_nth_unstable((count - 1) / 2).1,
    }
}

/// What blocks are compared with.
#[derive(Debug)]
struct Wave {
    /// Uplinks above it count as it.
    uplink_cap: u64,
    total: Total,
    least: usize,
}

/// How many terminals, and the sum of their uplinks.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    count: usize,
    up: u128,
}

/// Runs of a slice that make up one part of it.
#[derive(Debug, Default)]
struct Part {
    runs: Vec<Range<usize>>,
    total: Total,
}

impl Part {
    fn absorb(&mut self, other: Part) {
        self.runs.extend(other.runs);
        self.total = self.total.plus(other.total);
    }
}

impl Total {
    fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, up: self.up + other.up }
    }
}

impl Wave {
    fn of(records: &[Record], least: usize) -> Self {
        let mut uplinks: Vec<u64> = records.iter().map(|record| record.up).collect();
        let uplink_cap = median_uplink(&mut uplinks).saturating_mul(UPLINK_CAP_MEDIANS);
        // A wave of which most have no uplink at all is compared without a cap.
        let uplink_cap = if uplink_cap == 0 { u64::MAX } else { uplink_cap };
        let mut wave = Self { uplink_cap, total: Total::default(), least };
        wave.total = wave.total_of(records);
        wave
    }

    fn total_of(&self, records: &[Record]) -> Total {
        Total { count: records.len(), up: records.iter().map(|record| u128::from(record.up.min(self.uplink_cap))).sum() }
    }

    /// Whether some terminals can be a block: enough of them, and |mean − the wave's mean| ≤ an eighth of the wave's mean.
    fn is_balanced(&self, part: Total) -> bool {
        let (own, wave) = (part.up * self.total.count as u128, self.total.up * part.count as u128);
        part.count >= self.least && own.abs_diff(wave) * MEAN_WITHIN <= wave
    }

    /// Cuts `cell`, which is a block and in the order of `aspect` and those after it, and appends the ends of its blocks; it begins at `offset`.
    fn cut(&self, cell: &mut [Record], offset: usize, aspect: Option<Aspect>, ends: &mut Vec<usize>) {
        let Some(aspect) = aspect.filter(|_| cell.len() >= 2 * self.least) else {
            ends.push(offset + cell.len());
            return;
        };
        let parts = self.parts(self.runs(cell, aspect));
        rearrange(cell, &parts);
        let mut begin = 0;
        for part in parts {
            let end = begin + part.total.count;
            let own = &mut cell[begin..end];
            if let Some(next) = aspect.next()
                && part.runs.len() > 1
            {
                own.sort_unstable_by_key(|record| record.likeness.from(next));
            }
            self.cut(own, offset + begin, aspect.next(), ends);
            begin = end;
        }
    }

    /// The runs of records that are alike in `aspect`.
    fn runs(&self, cell: &[Record], aspect: Aspect) -> Vec<Part> {
        let mut begin = 0;
        let alike = cell.chunk_by(|one, other| one.likeness.in_aspect(aspect) == other.likeness.in_aspect(aspect));
        alike
            .map(|run| {
                let range = begin..begin + run.len();
                begin = range.end;
                Part { runs: vec![range], total: self.total_of(run) }
            })
            .collect()
    }

    /// Runs that can be blocks stay as they are; the others are put together in their order until they can be. What is left over at the end joins the last
    /// ones, as many as it takes: all of them together can be a block.
    fn parts(&self, runs: Vec<Part>) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        let mut pool = Part::default();
        for run in runs {
            if self.is_balanced(run.total) {
                parts.push(run);
                continue;
            }
            pool.absorb(run);
            if self.is_balanced(pool.total) {
                parts.push(std::mem::take(&mut pool));
            }
        }
        if pool.total.count > 0 {
            while !self.is_balanced(pool.total)
                && let Some(part) = parts.pop()
            {
                pool.absorb(part);
            }
            parts.push(pool);
        }
        parts
    }
}

/// Puts the records of each part next to each other.
fn rearrange(cell: &mut [Record], parts: &[Part]) {
    let in_order = parts.iter().flat_map(|part| &part.runs).is_sorted_by_key(|run| run.start);
    if in_order {
        return;
    }
    let before = cell.to_vec();
    let moved = parts.iter().flat_map(|part| &part.runs).flat_map(|run| &before[run.clone()]);
    for (place, record) in cell.iter_mut().zip(moved) {
        *place = *record;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{CommunicationState, NatKind, Region};
    use super::*;

    fn record(index: u32, up: u64, region: u16, nat: NatKind) -> Record {
        let state = CommunicationState { region: Some(Region(region)), nat, ..CommunicationState::default() };
        Record { terminal: u128::from(index), up, likeness: Likeness::of(&state), index }
    }

    fn cut(records: &mut [Record], least: usize) -> Vec<Vec<Record>> {
        let ends = blocks(records, least);
        let begins = std::iter::once(0).chain(ends.iter().copied());
        begins.zip(&ends).map(|(begin, &end)| records[begin..end].to_vec()).collect()
    }

    #[test]
    fn nobody_makes_no_block_and_one_makes_one() {
        assert!(blocks(&mut [], 1).is_empty());
        assert_eq!(blocks(&mut [record(0, 0, 0, NatKind::Unknown)], 1), [1]);
    }

    #[test]
    fn regions_that_are_put_together_are_still_cut_by_nat() {
        // A slow and a fast region, both with two kinds of NAT: neither can stand alone.
        let nat = |index| if index / 2 % 2 == 0 { NatKind::Open } else { NatKind::EndpointDependent };
        let mut records: Vec<Record> =
            (0u32..80).map(|index| record(index, [5, 15][(index % 2) as usize], (index % 2) as u16, nat(index))).collect();
        let blocks = cut(&mut records, 16);
        assert_eq!(blocks.iter().map(Vec::len).collect::<Vec<_>>(), [40, 40]);
        let kinds = |block: &Vec<Record>| block.iter().map(|record| record.index / 2 % 2).collect::<std::collections::BTreeSet<u32>>();
        assert!(blocks.iter().all(|block| kinds(block).len() == 1), "{blocks:?}");
    }

    #[test]
    fn what_is_too_few_for_a_group_joins_its_neighbour() {
        // Regions of 20, 3 and 20: the three alone cannot fill a group of 16.
        let sizes = [20, 3, 20];
        let regions = (0u16..).zip(sizes).flat_map(|(region, count)| std::iter::repeat_n(region, count));
        let mut records: Vec<Record> = (0u32..).zip(regions).map(|(index, region)| record(index, 10, region, NatKind::Open)).collect();
        assert_eq!(cut(&mut records, 16).iter().map(Vec::len).collect::<Vec<_>>(), [20, 23]);
    }

    #[test]
    fn the_median_is_the_lower_of_two() {
        assert_eq!(median_uplink(&mut []), 0);
        assert_eq!(median_uplink(&mut [7]), 7);
        assert_eq!(median_uplink(&mut [9, 1, 5, 3]), 3);
        assert_eq!(median_uplink(&mut [9, 1, 5, 3, 4]), 4);
    }

    proptest! {
        #[test]
        fn every_block_fills_a_group_and_is_as_fast_as_the_wave(
            ups in prop::collection::vec((1u64..100, 0u16..8, 0usize..4), 1..400),
            least in 1usize..=16,
        ) {
            let kinds = [NatKind::Unknown, NatKind::Open, NatKind::EndpointIndependent, NatKind::EndpointDependent];
            let mut records: Vec<Record> =
                (0u32..).zip(&ups).map(|(index, &(up, region, nat))| record(index, up, region, kinds[nat])).collect();
            let least = least.min(records.len());
            let blocks = cut(&mut records, least);
            let mut seen: Vec<u32> = blocks.iter().flatten().map(|record| record.index).collect();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..u32::try_from(ups.len()).unwrap()), "each terminal stands once");
            let mut sorted: Vec<u64> = ups.iter().map(|&(up, ..)| up).collect();
            sorted.sort_unstable();
            let cap = 4 * sorted[(sorted.len() - 1) / 2];
            let mean = |ups: &mut dyn Iterator<Item = u64>| {
                let (count, sum) = ups.fold((0u64, 0), |(count, sum), up| (count + 1, sum + up.min(cap)));
                sum as f64 / count as f64
            };
            let whole = mean(&mut sorted.iter().copied());
            for block in blocks {
                prop_assert!(block.len() >= least);
                let own = mean(&mut block.iter().map(|record| record.up));
                prop_assert!((own - whole).abs() <= whole / 8.0 + 1e-9, "a block has {own}, the wave {whole}");
            }
        }
    }
}
