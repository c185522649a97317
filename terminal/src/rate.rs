//! A limit on the bytes per second that a terminal sends: a token bucket, kept as a moment in time instead of a count of tokens.
//!
//! A take of `n` bytes moves the moment at which the bucket will be full again by the time that `n` bytes cost. Nothing is ever refilled, so nothing
//! drifts, and the wait for the next take is a subtraction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::BitsPerSecond;
use tokio::sync::Mutex;

/// What a full bucket may send at once. Long enough that a late wake-up loses no rate (a busy machine wakes a task tens of milliseconds late), short
/// enough that a link's queue stays below what a ping may wait.
const BURST: Duration = Duration::from_millis(100);

/// The bucket holds one longest message at any rate; with less, a slow limit would let nothing pass.
const BURST_BYTES_MIN: usize = protocol::frame::MESSAGE_MAX;

/// The decision: takes bytes and the time, says "go" or "wait this long".
#[derive(Debug, Clone)]
pub struct TokenBucket {
    bits_per_second: u64,
    burst: Duration,
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket. A rate of 0 means that the rate is not known, so there is nothing to limit by: `None`.
    #[must_use]
    pub fn new(rate: BitsPerSecond, now: Instant) -> Option<Self> {
        if rate.0 == 0 {
            return None;
        }
        let burst = BURST.max(cost(BURST_BYTES_MIN, rate.0));
        Some(Self { bits_per_second: rate.0, burst, full_at: now })
    }

    /// Takes `bytes`, or says how long to wait before asking again.
    ///
    /// More than the bucket holds passes when it is full and leaves a debt, which the next ones wait for.
    ///
    /// # Errors
    /// The wait. Nothing was taken.
    pub fn take(&mut self, bytes: usize, now: Instant) -> Result<(), Duration> {
        let cost = cost(bytes, self.bits_per_second);
        let missing = self.full_at.saturating_duration_since(now);
        let wait = (missing + cost.min(self.burst)).saturating_sub(self.burst);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.full_at = self.full_at.max(now) + cost;
        Ok(())
    }
}

/// How long `bytes` last at this rate, rounded up.
fn cost(bytes: usize, bits_per_second: u64) -> Duration {
    let bit_nanos = (bytes as u128) * 8 * 1_000_000_000;
    let nanos = bit_nanos.div_ceil(u128::from(bits_per_second));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A bucket that several tasks draw from. Clones share it.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    /// `None`: no limit. The lock is tokio's because it is handed on in the order of asking: that is the fairness between links.
    bucket: Option<Arc<Mutex<TokenBucket>>>,
}

impl RateLimiter {
    /// At most `rate` over any longer time, 100 ms of it (or one longest message) at once. A rate of 0 is not known and limits nothing.
    #[must_use]
    pub fn new(rate: BitsPerSecond) -> Self {
        Self { bucket: TokenBucket::new(rate, Instant::now()).map(|bucket| Arc::new(Mutex::new(bucket))) }
    }

    #[must_use]
    pub fn unlimited() -> Self {
        Self { bucket: None }
    }

    /// Waits until `bytes` may be sent. Tasks are served in the order in which they asked; one that stops waiting takes nothing.
    pub async fn acquire(&self, bytes: usize) {
        let Some(bucket) = &self.bucket else { return };
        // Held while waiting, so that a small message does not overtake a large one for ever.
        let mut bucket = bucket.lock().await;
        while let Err(wait) = bucket.take(bytes, Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MBIT_8: BitsPerSecond = BitsPerSecond::from_mbit(8);
    /// 1 MB per second.
    const BYTES_PER_SECOND: f64 = 1_000_000.0;

    /// Takes frames of the given lengths in turn, as fast as the bucket allows, and returns the bytes taken until `span` has passed.
    fn drain(bucket: &mut TokenBucket, start: Instant, span: Duration, lengths: &[usize], late: Duration) -> u64 {
        let (mut now, mut taken) = (start, 0);
        for bytes in lengths.iter().cycle() {
            while let Err(wait) = bucket.take(*bytes, now) {
                now += wait + late;
            }
            if now >= start + span {
                break;
            }
            taken += *bytes as u64;
        }
        taken
    }

    #[test]
    fn the_long_run_rate_is_kept_within_two_percent_for_small_mixed_and_full_frames_even_when_woken_late() {
        for lengths in [&[200][..], &[64 << 10], &[17, 66_560, 1_200, 16 << 10]] {
            for late in [Duration::ZERO, Duration::from_millis(30)] {
                let start = Instant::now();
                let mut bucket = TokenBucket::new(MBIT_8, start).unwrap();
                let taken = drain(&mut bucket, start, Duration::from_secs(60), lengths, late);
                let share = taken as f64 / (60.0 * BYTES_PER_SECOND);
                assert!((0.98..1.02).contains(&share), "{share} of the rate with frames of {lengths:?}, woken {late:?} late");
            }
        }
    }

    #[test]
    fn an_idle_bucket_lets_a_tenth_of_a_second_pass_at_once_and_no_more() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(MBIT_8, start).unwrap();
        let later = start + Duration::from_secs(3600);
        let mut passed = 0;
        while bucket.take(1_000, later).is_ok() {
            passed += 1_000;
        }
        assert_eq!(passed, 100_000);
        assert_eq!(bucket.take(1_000, later), Err(Duration::from_millis(1)));
    }

    #[test]
    fn a_frame_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_for_afterwards() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(MBIT_8, start).unwrap();
        assert_eq!(bucket.take(1_000_000, start), Ok(()));
        assert_eq!(bucket.take(1_000, start), Err(Duration::from_millis(901)), "a second's worth of debt, less the bucket");
        assert_eq!(bucket.take(1_000_000, start), Err(Duration::from_secs(1)), "a second large one needs a full bucket again");
        assert_eq!(bucket.take(1_000_000, start + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn the_longest_message_passes_at_once_even_at_a_very_slow_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(BitsPerSecond(1_000), start).unwrap();
        assert_eq!(bucket.take(BURST_BYTES_MIN, start), Ok(()));
        assert!(bucket.take(1, start).is_err());
    }

    #[test]
    fn a_refused_take_leaves_the_bucket_as_it_was_and_absurd_lengths_do_not_overflow() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(MBIT_8, start).unwrap();
        assert_eq!(bucket.take(60_000, start), Ok(()));
        let first = bucket.take(50_000, start);
        assert_eq!(first, Err(Duration::from_millis(10)));
        assert_eq!(bucket.take(50_000, start), first);
        assert_eq!(bucket.take(40_000, start), Ok(()), "what is left still passes");
        assert!(bucket.take(usize::MAX, start).is_err());
        let mut slowest = TokenBucket::new(BitsPerSecond(1), start).unwrap();
        assert_eq!(slowest.take(usize::MAX, start), Ok(()));
        assert!(slowest.take(usize::MAX, start).is_err());
    }

    #[test]
    fn an_unknown_rate_limits_nothing() {
        assert!(TokenBucket::new(BitsPerSecond(0), Instant::now()).is_none());
    }

    #[tokio::test]
    async fn an_unlimited_limiter_never_waits() {
        for limiter in [RateLimiter::unlimited(), RateLimiter::new(BitsPerSecond(0))] {
            let start = Instant::now();
            for _ in 0..1_000 {
                limiter.acquire(usize::MAX).await;
            }
            assert!(start.elapsed() < Duration::from_secs(1));
        }
    }

    #[tokio::test]
    async fn clones_share_one_rate() {
        let limiter = RateLimiter::new(BitsPerSecond::from_mbit(40));
        let start = Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let limiter = limiter.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..10 {
                    limiter.acquire(50_000).await;
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        // 2 MB at 5 MB/s, of which the full bucket gave 0.5 MB: 0.3 s. One bucket each would be done at once.
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(299), "{took:?}");
    }

    #[tokio::test]
    async fn waiting_tasks_are_served_in_the_order_in_which_they_asked_large_ones_too() {
        let limiter = RateLimiter::new(BitsPerSecond::from_mbit(80));
        limiter.acquire(1_000_000).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for n in 0..20_usize {
            let (limiter, served) = (limiter.clone(), Arc::clone(&order));
            let bytes = if n % 3 == 0 { 60_000 } else { 100 };
            tasks.push(tokio::spawn(async move {
                limiter.acquire(bytes).await;
                served.lock().await.push(n);
            }));
            // The test runs on one thread: a yield lets the task just made ask before the next one is made.
            tokio::task::yield_now().await;
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().await, (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_task_that_stops_waiting_takes_nothing_and_holds_nobody_up() {
        let limiter = RateLimiter::new(BitsPerSecond::from_mbit(8));
        limiter.acquire(100_000).await;
        let impatient = tokio::time::timeout(Duration::from_millis(20), limiter.acquire(100_000)).await;
        assert!(impatient.is_err());
        let start = Instant::now();
        limiter.acquire(10_000).await;
        assert!(start.elapsed() < Duration::from_millis(60), "{:?}", start.elapsed());
    }
}
