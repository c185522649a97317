//! What a line can do, by what was seen of it in transfers.
//!
//! A transfer that is slower than one before says nothing about the line: its other end, or the wish for more, was missing. So only age makes a rate forgotten,
//! and a faster transfer is believed by half: one window may have been a burst out of a buffer.

use std::time::Duration;

use protocol::BitsPerSecond;

/// Lines change with contracts and places, not from day to day.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The rate to be known from now on, after a window of a transfer whose highest smoothed rate was `highest`. `before` is the rate known so far and how long
/// ago it was last seen; a rate of 0 is not known.
pub fn seen_rate(before: BitsPerSecond, age: Duration, highest: BitsPerSecond) -> BitsPerSecond {
    if before.0 == 0 || (age > FORGOTTEN_AFTER && highest.0 > 0) {
        return highest;
    }
    BitsPerSecond(before.0 + highest.0.saturating_sub(before.0).div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rate_counts_at_once_a_faster_one_by_half_and_a_slower_one_not_at_all() {
        let day = Duration::from_secs(24 * 3600);
        let cases = [
            ("nothing known", 0, Duration::MAX, 10, 10),
            ("faster", 10, day, 20, 15),
            ("faster by one", 10, day, 11, 11),
            ("slower", 10, day, 3, 10),
            ("nothing moved", 10, day, 0, 10),
            ("an old rate gives way", 10, 8 * day, 3, 3),
            ("but not to nothing", 10, 8 * day, 0, 10),
        ];
        for (name, before, age, highest, expected) in cases {
            assert_eq!(seen_rate(BitsPerSecond(before), age, BitsPerSecond(highest)), BitsPerSecond(expected), "{name}");
        }
        let mut rate = BitsPerSecond(1);
        for _ in 0..64 {
            rate = seen_rate(rate, day, BitsPerSecond(u64::MAX));
        }
        assert_eq!(rate, BitsPerSecond(u64::MAX), "what is seen again and again is believed in the end");
    }
}
