//! The fluid lower bound on a distribution's time: what no schedule can beat, and what every release is compared with.
//!
//! For size F, origin uplink u_s, earlier holders' uplinks (sum H), N receivers with uplinks u_i (sum S) and downlinks d_i:
//!
//! ```text
//! T* = max( F / (u_s + H),  F / min d,  N·F / (u_s + H + S) )
//! ```
//!
//! The first term is the time until every byte has left those who had it at the beginning, the second the slowest receiver's own line, the third
//! all bytes over all lines (Kumar and Ross 2006; Mutualcast). Everywhere a rate of 0 means a line without a limit: it takes part in no bottleneck.
//! Results are whole nanoseconds, rounded down, so that they stay lower bounds.

use std::time::Duration;

use protocol::{BitsPerSecond, Bytes};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// One receiver's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    /// Uplink; 0 is unlimited.
    pub up: BitsPerSecond,
    /// Downlink; 0 is unlimited.
    pub down: BitsPerSecond,
}

/// T* for `size` bytes to every one of `receivers`, from an origin with uplink `origin_up` and the earlier holders' uplinks `sources_up`.
///
/// Zero without receivers or bytes.
pub fn fluid_bound(size: Bytes, origin_up: BitsPerSecond, sources_up: &[BitsPerSecond], receivers: &[Lines]) -> Duration {
    let first_senders = total_rate(std::iter::once(origin_up).chain(sources_up.iter().copied()));
    let all_senders = combined(first_senders, total_rate(receivers.iter().map(|receiver| receiver.up)));
    if receivers.is_empty() {
        return Duration::ZERO;
    }
    let longest = time_to_send(size_of(size), first_senders)
        .max(slowest_line(size, receivers))
        .max(time_to_send(size_of(size) * count_of(receivers), all_senders));
    duration(longest)
}

/// T* where the origin may send at most `origin_budget` bytes in all: what it may not send must come from the earlier holders and the receivers, so
/// besides [`fluid_bound`] the time is at least (N·F − B) / (H + S), and at least (F − B) / H for the bytes that only earlier holders have.
///
/// `None` if it cannot be done in any time: the budget is below one copy and there is no earlier holder.
pub fn fluid_bound_within_budget(
    size: Bytes,
    origin_up: BitsPerSecond,
    origin_budget: Bytes,
    sources_up: &[BitsPerSecond],
    receivers: &[Lines],
) -> Option<Duration> {
    if receivers.is_empty() || size.0 == 0 {
        return Some(Duration::ZERO);
    }
    let budget = size_of(origin_budget);
    let only_held = size_of(size).saturating_sub(budget);
    if only_held > 0 && sources_up.is_empty() {
        return None;
    }
    let holders = total_rate(sources_up.iter().copied());
    let terminals = combined(holders, total_rate(receivers.iter().map(|receiver| receiver.up)));
    let over_budget = (size_of(size) * count_of(receivers)).saturating_sub(budget);
    let longest = time_to_send(only_held, holders).max(time_to_send(over_budget, terminals));
    Some(duration(longest).max(fluid_bound(size, origin_up, sources_up, receivers)))
}

/// The sum of rates in bits per second; `None` if one of them is unlimited.
fn total_rate(rates: impl Iterator<Item = BitsPerSecond>) -> Option<u128> {
    rates.map(|rate| (rate.0 != 0).then_some(u128::from(rate.0))).try_fold(0, combined_limited)
}

fn combined_limited(sum: u128, rate: Option<u128>) -> Option<u128> {
    rate.map(|rate| sum + rate)
}

fn combined(a: Option<u128>, b: Option<u128>) -> Option<u128> {
    a.zip(b).map(|(a, b)| a + b)
}

/// The time over the slowest downlink, in nanoseconds.
fn slowest_line(size: Bytes, receivers: &[Lines]) -> u128 {
    let slowest = receivers.iter().map(|receiver| receiver.down.0).filter(|&rate| rate != 0).min();
    time_to_send(size_of(size), slowest.map(u128::from))
}

/// Nanoseconds for `bytes` at `rate` bits per second; none at all at an unlimited rate.
fn time_to_send(bytes: u128, rate: Option<u128>) -> u128 {
    match rate {
        // No sender at all: the caller has made sure that there is nothing to send then.
        None | Some(0) => 0,
        Some(rate) => bytes.saturating_mul(8 * NANOS_PER_SECOND) / rate,
    }
}

fn size_of(bytes: Bytes) -> u128 {
    u128::from(bytes.0)
}

fn count_of(receivers: &[Lines]) -> u128 {
    receivers.len() as u128
}

/// Saturates after five hundred years.
fn duration(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mbit(mbit: u64) -> BitsPerSecond {
        BitsPerSecond::from_mbit(mbit)
    }

    fn lines(up: u64, down: u64) -> Lines {
        Lines { up: mbit(up), down: mbit(down) }
    }

    /// (name, origin's uplink, earlier holders' uplinks, receivers, expected milliseconds)
    type Bottleneck<'a> = (&'a str, u64, &'a [u64], &'a [Lines], u64);
    /// (name, budget, earlier holders' uplinks, how many receivers, expected milliseconds)
    type Budgeted<'a> = (&'a str, u64, &'a [u64], usize, Option<u64>);

    /// 1 MB takes a second at 8 Mbit/s.
    const MB: Bytes = Bytes(1_000_000);

    #[test]
    fn sixteen_terminals_with_ten_megabit_each_and_an_origin_of_twenty() {
        // 32 MiB are 268,435,456 bits. F/u_s = 13.42 s; 16·F/(20 + 160 Mbit/s) = 4,294,967,296 / 180,000,000 = 23.860929422… s.
        let size = Bytes(32 << 20);
        assert_eq!(fluid_bound(size, mbit(20), &[], &[lines(10, 0); 16]), Duration::from_nanos(23_860_929_422));
        // Uplinks of 2, 5, 10 and 23 have the same sum.
        let mixed: Vec<Lines> = [2, 5, 10, 23].into_iter().flat_map(|up| [lines(up, 0); 4]).collect();
        assert_eq!(fluid_bound(size, mbit(20), &[], &mixed), Duration::from_nanos(23_860_929_422));
    }

    #[test]
    fn an_origin_that_sends_hardly_more_than_once_leaves_the_rest_to_the_terminals() {
        // 1.05 copies are 35,232,153 bytes; (16·33,554,432 − 35,232,153)·8 / 160,000,000 = 25.08193795 s.
        let bound = fluid_bound_within_budget(Bytes(32 << 20), mbit(20), Bytes(35_232_153), &[], &[lines(10, 0); 16]);
        assert_eq!(bound, Some(Duration::from_nanos(25_081_937_950)));
    }

    #[test]
    fn each_bottleneck_decides_in_its_turn() {
        let cases: [Bottleneck<'_>; 9] = [
            ("the origin's line", 1, &[], &[lines(100, 0), lines(100, 0)], 8_000),
            ("an earlier holder halves the origin's part", 1, &[1], &[lines(100, 0), lines(100, 0)], 4_000),
            ("the slowest downlink", 100, &[], &[lines(100, 2), lines(100, 50)], 4_000),
            ("all lines together: 4·8 Mbit over 4 + 4·1", 4, &[], &[lines(1, 0); 4], 4_000),
            ("earlier holders add to all lines: 4·8 Mbit over 4 + 8 + 4·1", 4, &[8], &[lines(1, 0); 4], 2_000),
            ("an unlimited origin leaves the downlink", 0, &[], &[lines(1, 8)], 1_000),
            ("an unlimited earlier holder does as well", 1, &[0], &[lines(1, 8)], 1_000),
            ("unlimited everywhere", 0, &[], &[lines(0, 0)], 0),
            ("nobody to send to", 1, &[], &[], 0),
        ];
        for (name, origin, sources, receivers, expected_ms) in cases {
            let sources: Vec<BitsPerSecond> = sources.iter().map(|&up| mbit(up)).collect();
            assert_eq!(fluid_bound(MB, mbit(origin), &sources, receivers), Duration::from_millis(expected_ms), "{name}");
        }
        // One receiver without an uplink limit takes the third term away, not the first.
        assert_eq!(fluid_bound(MB, mbit(1), &[], &[lines(0, 0), lines(1, 0)]), Duration::from_secs(8));
    }

    #[test]
    fn a_budget_binds_where_the_origin_may_send_less_than_it_could() {
        let cases: [Budgeted<'_>; 6] = [
            // (4 − 1) MB over 4·2 Mbit/s, the origin unlimited.
            ("one copy for four", 1_000_000, &[], 4, Some(3_000)),
            ("half a copy and nobody else has it", 500_000, &[], 4, None),
            // (4 − 0.5) MB over 8 + 4·2 = 1.75 s; (1 − 0.5) MB over 8 = 0.5 s.
            ("half a copy beside an earlier holder", 500_000, &[8], 4, Some(1_750)),
            // 1 MB from the holder at 1 Mbit/s; 2 MB over 1 + 2·2 Mbit/s would be 3.2 s.
            ("nothing at all beside a slow earlier holder", 0, &[1], 2, Some(8_000)),
            ("more than is needed", 9_000_000, &[], 4, Some(0)),
            ("an earlier holder without a limit", 0, &[0], 4, Some(0)),
        ];
        for (name, budget, sources, receivers, expected_ms) in cases {
            let sources: Vec<BitsPerSecond> = sources.iter().map(|&up| mbit(up)).collect();
            let bound = fluid_bound_within_budget(MB, mbit(0), Bytes(budget), &sources, &vec![lines(2, 0); receivers]);
            assert_eq!(bound, expected_ms.map(Duration::from_millis), "{name}");
        }
        assert_eq!(fluid_bound_within_budget(MB, mbit(0), Bytes(0), &[], &[]), Some(Duration::ZERO));
    }

    #[test]
    fn the_largest_figures_saturate() {
        let slowest = Lines { up: BitsPerSecond(1), down: BitsPerSecond(1) };
        let largest = Bytes(protocol::units::JSON_INTEGER_MAX);
        assert_eq!(fluid_bound(largest, BitsPerSecond(1), &[], &[slowest; 3]), Duration::from_nanos(u64::MAX));
    }

    proptest! {
        #[test]
        fn another_source_never_makes_it_slower_and_a_budget_never_faster(
            size in 1u64..1 << 40,
            origin in 0u64..1_000,
            sources in prop::collection::vec(1u64..1_000, 0..4),
            receivers in prop::collection::vec((0u64..1_000, 0u64..1_000), 1..20),
            budget in 0u64..1 << 42,
        ) {
            let sources: Vec<BitsPerSecond> = sources.into_iter().map(mbit).collect();
            let receivers: Vec<Lines> = receivers.into_iter().map(|(up, down)| lines(up, down)).collect();
            let bound = fluid_bound(Bytes(size), mbit(origin), &sources, &receivers);
            if let Some((_, fewer)) = sources.split_last() {
                prop_assert!(fluid_bound(Bytes(size), mbit(origin), fewer, &receivers) >= bound);
            }
            match fluid_bound_within_budget(Bytes(size), mbit(origin), Bytes(budget), &sources, &receivers) {
                Some(within) => prop_assert!(within >= bound),
                None => prop_assert!(budget < size && sources.is_empty()),
            }
        }
    }
}
