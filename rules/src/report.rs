//! How close the waves of an edition came to the fluid bound: each wave from its own opening, with those who were to hold the edition by then as sources.
//!
//! The first wave, and any other that nobody before it can feed, is bounded with the origin's uplink and budget. A wave that earlier holders feed is
//! bounded with their uplinks alone: by then the origin has sent each chunk, and what its budget has to spare is for repairs.

use std::time::Duration;

use protocol::{BitsPerSecond, Bytes};

use crate::bound::{Lines, fluid_bound, fluid_bound_within_budget};

/// What an edition can have of the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginPart {
    /// 0 is unlimited.
    pub up: BitsPerSecond,
    pub budget: Bytes,
}

/// One wave as it was planned, and how long its complete terminals took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaveFacts {
    /// Every terminal's lines; 0 is not known, and counts as unlimited.
    pub lines: Vec<Lines>,
    /// From the wave's opening, of those that are complete.
    pub complete: Vec<Duration>,
    /// The uplinks of those who can feed later waves: who has received something.
    pub holders_up: Vec<BitsPerSecond>,
}

/// What a wave is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaveBound {
    pub bound: Duration,
    /// The earlier holders that it was computed with; none if the origin was.
    pub holders_up: Vec<BitsPerSecond>,
}

/// Nearest-rank percentiles over all terminals; each is absent until so many are complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Percentiles<T> {
    pub median: Option<T>,
    pub p99: Option<T>,
    pub last: Option<T>,
}

/// What an edition of `length` can have of the origin while editions of `total` bytes are sent together: its part by length.
pub fn origin_part(origin_up: BitsPerSecond, budget: Bytes, length: Bytes, total: Bytes) -> OriginPart {
    let part = |whole: u64| u64::try_from(u128::from(whole) * u128::from(length.0) / u128::from(total.0.max(1))).unwrap_or(u64::MAX);
    // A limited uplink never rounds down to 0, which would be unlimited.
    let up = if origin_up.0 == 0 { 0 } else { part(origin_up.0).max(1) };
    OriginPart { up: BitsPerSecond(up), budget: Bytes(part(budget.0).max(length.0)) }
}

/// The bound of each wave of an edition of `size` bytes, in their order.
pub fn wave_bounds(size: Bytes, origin: OriginPart, waves: &[WaveFacts]) -> Vec<WaveBound> {
    let mut holders: Vec<BitsPerSecond> = Vec::new();
    let mut bounds = Vec::with_capacity(waves.len());
    for wave in waves {
        let bound = match holders.split_first() {
            Some((first, others)) => fluid_bound(size, *first, others, &wave.lines),
            // `None` only for a budget below one copy, which no release has: then the line alone bounds.
            None => fluid_bound_within_budget(size, origin.up, origin.budget, &[], &wave.lines)
                .unwrap_or_else(|| fluid_bound(size, origin.up, &[], &wave.lines)),
        };
        bounds.push(WaveBound { bound, holders_up: holders.clone() });
        holders.extend_from_slice(&wave.holders_up);
    }
    bounds
}

/// Thousandths of the bound that a time is, rounded to the nearest; `None` for a bound of 0.
pub fn ratio_permille(elapsed: Duration, bound: Duration) -> Option<u64> {
    let bound = bound.as_nanos();
    let nearest = (elapsed.as_nanos() * 1_000 + bound / 2).checked_div(bound)?;
    Some(u64::try_from(nearest).unwrap_or(u64::MAX))
}

/// The percentiles of `values` among `count` terminals, of which the others count as later than any.
pub fn percentiles<T: Ord + Copy>(mut values: Vec<T>, count: usize) -> Percentiles<T> {
    values.sort_unstable();
    let at = |percent: usize| (count * percent).div_ceil(100).checked_sub(1).and_then(|index| values.get(index)).copied();
    Percentiles { median: at(50), p99: at(99), last: at(100) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 1 MB takes a second at 8 Mbit/s.
    const MB: Bytes = Bytes(1_000_000);

    fn wave(uplinks: &[u64], holders: usize) -> WaveFacts {
        let lines: Vec<Lines> = uplinks.iter().map(|&up| Lines { up: BitsPerSecond::from_mbit(up), down: BitsPerSecond(0) }).collect();
        let holders_up = lines.iter().take(holders).map(|line| line.up).collect();
        WaveFacts { lines, complete: Vec::new(), holders_up }
    }

    #[test]
    fn the_origin_feeds_the_first_wave_and_those_who_hold_something_the_later_ones() {
        let origin = origin_part(BitsPerSecond::from_mbit(16), Bytes(2_200_000), MB, Bytes(2_000_000));
        assert_eq!(origin, OriginPart { up: BitsPerSecond::from_mbit(8), budget: Bytes(1_100_000) });
        let bounds = wave_bounds(MB, origin, &[wave(&[4, 4], 2), wave(&[1, 1, 1, 1], 4), wave(&[8], 0)]);
        // (2·8 Mbit − 8.8) over 8 is less than the 8 Mbit over the origin's 8 and 2·8 over 8 + 8.
        assert_eq!((bounds[0].bound, bounds[0].holders_up.len()), (Duration::from_secs(1), 0));
        // 4·8 Mbit over 8 + 4.
        assert_eq!(bounds[1].bound, Duration::from_nanos(2_666_666_666));
        // 8 Mbit over 4 + 4 + 4·1, and over 12 + 8: the first is longer.
        assert_eq!((bounds[2].bound, bounds[2].holders_up.len()), (Duration::from_nanos(666_666_666), 6));
    }

    #[test]
    fn a_wave_after_one_that_received_nothing_is_fed_by_the_origin() {
        let origin = OriginPart { up: BitsPerSecond::from_mbit(8), budget: MB };
        let bounds = wave_bounds(MB, origin, &[wave(&[100], 0), wave(&[0], 1)]);
        assert_eq!((bounds[1].bound, bounds[1].holders_up.len()), (Duration::from_secs(1), 0));
    }

    #[test]
    fn the_budget_bounds_where_the_origins_line_does_not() {
        let origin = origin_part(BitsPerSecond(0), MB, MB, MB);
        assert_eq!(origin.up, BitsPerSecond(0), "unlimited stays unlimited");
        // 3·8 Mbit less the 8 that the origin may send, over 4 + 4 + 8.
        assert_eq!(wave_bounds(MB, origin, &[wave(&[4, 4, 8], 3)])[0].bound, Duration::from_secs(1));
        assert_eq!(origin_part(BitsPerSecond(1), MB, Bytes(1), MB).up, BitsPerSecond(1), "and a slow line does not become unlimited");
    }

    #[test]
    fn percentiles_wait_for_those_who_are_not_complete() {
        assert_eq!(percentiles(vec![3, 1, 2], 3), Percentiles { median: Some(2), p99: Some(3), last: Some(3) });
        assert_eq!(percentiles(vec![3, 1], 4), Percentiles { median: Some(3), p99: None, last: None });
        assert_eq!(percentiles(vec![1], 4), Percentiles { median: None, p99: None, last: None });
        assert_eq!(percentiles((1..=199).collect(), 200), Percentiles { median: Some(100), p99: Some(198), last: None });
        assert_eq!(percentiles::<u8>(Vec::new(), 0), Percentiles::default());
    }

    #[test]
    fn a_ratio_is_rounded_and_a_bound_of_nothing_has_none() {
        assert_eq!(ratio_permille(Duration::from_millis(1_060), Duration::from_secs(1)), Some(1_060));
        assert_eq!(ratio_permille(Duration::from_micros(999_500), Duration::from_secs(1)), Some(1_000));
        assert_eq!(ratio_permille(Duration::from_secs(1), Duration::ZERO), None);
        assert_eq!(ratio_permille(Duration::MAX, Duration::from_nanos(1)), Some(u64::MAX));
    }

    proptest! {
        #[test]
        fn percentiles_are_values_that_so_many_do_not_exceed(values in prop::collection::vec(0u32..1_000, 0..300), missing in 0usize..50) {
            let count = values.len() + missing;
            let found = percentiles(values.clone(), count);
            for (percent, value) in [(50, found.median), (99, found.p99), (100, found.last)] {
                let needed = (count * percent).div_ceil(100);
                match value {
                    Some(value) => {
                        prop_assert!(values.iter().filter(|&&other| other <= value).count() >= needed);
                        prop_assert!(values.iter().filter(|&&other| other < value).count() < needed);
                    }
                    None => prop_assert!(values.len() < needed || count == 0),
                }
            }
        }
    }
}
