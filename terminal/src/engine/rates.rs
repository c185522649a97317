//! Rates of a swarm, smoothed over a few seconds.

use std::time::Duration;

use protocol::BitsPerSecond;

/// A measurement of this length counts as much as all before it together.
const HALF_LIFE: Duration = Duration::from_secs(2);

/// The rate of a count that only grows.
#[derive(Debug, Default)]
pub(super) struct RateMeter {
    last: Option<(Duration, u64)>,
    bits_per_second: f64,
}

impl RateMeter {
    /// Notes that the count was `bytes` at `now`, and gives the smoothed rate.
    pub(super) fn measure(&mut self, now: Duration, bytes: u64) -> BitsPerSecond {
        let Some((then, before)) = self.last.replace((now, bytes)) else { return BitsPerSecond(0) };
        let span = now.saturating_sub(then).as_secs_f64();
        if span <= 0.0 {
            return self.rate();
        }
        #[allow(clippy::cast_precision_loss, reason = "a rate of 2^53 bit/s is not reached")]
        let rate = bytes.saturating_sub(before) as f64 * 8.0 / span;
        let weight = 0.5_f64.powf(span / HALF_LIFE.as_secs_f64());
        self.bits_per_second = self.bits_per_second * weight + rate * (1.0 - weight);
        self.rate()
    }

    fn rate(&self) -> BitsPerSecond {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative, and saturating is right for a rate")]
        BitsPerSecond(self.bits_per_second as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_found_and_a_pause_fades_it() {
        let mut meter = RateMeter::default();
        assert_eq!(meter.measure(Duration::ZERO, 0), BitsPerSecond(0));
        let mut rate = BitsPerSecond(0);
        for second in 1..=20 {
            rate = meter.measure(Duration::from_secs(second), second * 1_000_000);
        }
        assert!((7_900_000..=8_000_000).contains(&rate.0), "{rate:?}");
        for second in 21..=40 {
            rate = meter.measure(Duration::from_secs(second), 20_000_000);
        }
        assert!(rate.0 < 10_000, "{rate:?}");
    }
}
