//! Waits between attempts: each twice as long as the one before, up to a cap, with a random part so that many terminals do not return at once.

use std::time::Duration;

/// The waits of one thing that is tried again and again.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, failures: 0 }
    }

    /// The attempt succeeded: the next wait is the first again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after another failure: between a half and the whole of the doubled wait, by `random`.
    pub(crate) fn after_failure(&mut self, random: u32) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(20)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// [`Backoff::after_failure`] with the system's randomness.
    pub(crate) fn wait(&mut self) -> Duration {
        // Without randomness the wait is merely less spread out.
        self.after_failure(getrandom::u32().unwrap_or(u32::MAX / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let longest: Vec<u128> = (0..6).map(|_| backoff.after_failure(u32::MAX).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.after_failure(0), Duration::from_millis(50));
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for random in 0..1000 {
            assert!(backoff.after_failure(random) <= Duration::from_secs(30));
        }
    }
}
