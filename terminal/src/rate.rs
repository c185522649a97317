//! A limit on the bytes per second that a terminal sends: a token bucket, kept as a moment in time instead of a count of tokens.
//!
//! A take of `n` bytes moves the moment at which the bucket will be full again by the time that `n` bytes cost. Nothing is ever refilled, so nothing
//! drifts, and the wait for the next take is a subtraction.
//!
//! Chunks are taken before they are sent. Headers, acknowledgements, control frames and what is sent again are known where packets leave: there the line's
//! rate is kept ([`Line`]), and whoever gives chunks to it waits while enough for the line waits already.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::BitsPerSecond;
use tokio::sync::Mutex;

use crate::link::Line;

/// What a full bucket lets pass at once. Long enough that a late wake-up loses no rate: a busy machine wakes a task tens of milliseconds late.
const BURST: Duration = Duration::from_millis(100);
/// The same for what goes to a line: with a frame, or a run of packets, it fits the line's own queue.
pub(crate) const LINE_BURST: Duration = Duration::from_millis(40);
/// What may wait for an uplink before it is given more: 40 ms of it are in the line's own queue, the rest covers a late wake-up here and at the links.
const LINE_QUEUE: Duration = Duration::from_millis(120);

/// A line that is crowded is looked at again after this: less than a frame takes.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

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
    pub fn new(rate: BitsPerSecond, burst: Duration, now: Instant) -> Option<Self> {
        if rate.0 == 0 {
            return None;
        }
        Some(Self { bits_per_second: rate.0, burst, full_at: now })
    }

    /// Takes `bytes`, or says how long to wait before asking again.
    ///
    /// More than the bucket holds passes when it is full and leaves a debt, which the next ones wait for.
    ///
    /// # Errors
    /// The wait. Nothing was taken.
    pub fn take(&mut self, bytes: usize, now: Instant) -> Result<(), Duration> {
        match self.wait(bytes, now) {
            Some(wait) => Err(wait),
            None => {
                self.spend(bytes, now);
                Ok(())
            }
        }
    }

    /// What is taken from now on is paid for at this rate, which is not 0; what was taken stays as it was.
    pub fn set_rate(&mut self, rate: BitsPerSecond) {
        self.bits_per_second = rate.0.max(1);
    }

    /// How long to wait before `bytes` may pass; `None` if they may now.
    #[must_use]
    pub fn wait(&self, bytes: usize, now: Instant) -> Option<Duration> {
        let missing = self.full_at.saturating_duration_since(now);
        let wait = (missing + cost(bytes, self.bits_per_second).min(self.burst)).saturating_sub(self.burst);
        (!wait.is_zero()).then_some(wait)
    }

    /// Takes `bytes`, whether they may pass now or not.
    pub fn spend(&mut self, bytes: usize, now: Instant) {
        self.full_at = self.paid_at(bytes, now);
    }

    /// When `bytes` more will have been paid for.
    #[must_use]
    pub fn paid_at(&self, bytes: usize, now: Instant) -> Instant {
        self.full_at.max(now) + cost(bytes, self.bits_per_second)
    }
}

/// How long `bytes` last at this rate, rounded up.
fn cost(bytes: usize, bits_per_second: u64) -> Duration {
    let bit_nanos = (bytes as u128) * 8 * 1_000_000_000;
    let nanos = bit_nanos.div_ceil(u128::from(bits_per_second));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A bucket, and the line that what is taken from it goes to.
#[derive(Debug)]
struct Fed {
    bucket: TokenBucket,
    line: Line,
}

impl Fed {
    fn take(&mut self, bytes: usize, now: Instant) -> Result<(), Duration> {
        if self.line.is_crowded() {
            return Err(LOOK_AGAIN);
        }
        let queue = self.line.queue(now).saturating_sub(LINE_QUEUE);
        if queue.is_zero() { self.bucket.take(bytes, now) } else { Err(queue) }
    }
}

/// A bucket that several tasks draw from. Clones share it.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    /// `None`: no limit. The lock is tokio's because it is handed on in the order of asking: that is the fairness between links.
    bucket: Option<Arc<Mutex<Fed>>>,
}

impl RateLimiter {
    /// At most `rate` over any longer time, 100 ms of it (or one message) at once. A rate of 0 is not known and limits nothing.
    #[must_use]
    pub fn new(rate: BitsPerSecond) -> Self {
        Self::with(rate, BURST, Line::default())
    }

    /// As much as the line takes besides all else that is sent on it.
    #[must_use]
    pub fn of_a_line(line: Line) -> Self {
        Self::with(line.rate(), LINE_BURST, line)
    }

    fn with(rate: BitsPerSecond, burst: Duration, line: Line) -> Self {
        Self { bucket: TokenBucket::new(rate, burst, Instant::now()).map(|bucket| Arc::new(Mutex::new(Fed { bucket, line }))) }
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
    const SHORT: Duration = Duration::from_millis(40);
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
        // The longest frame of such a line has 16 KiB: 25 ms.
        for lengths in [&[200][..], &[16 << 10], &[17, 16 << 10, 1_200, 8 << 10]] {
            for late in [Duration::ZERO, Duration::from_millis(20)] {
                let start = Instant::now();
                let mut bucket = TokenBucket::new(MBIT_8, SHORT, start).unwrap();
                let taken = drain(&mut bucket, start, Duration::from_secs(60), lengths, late);
                let share = taken as f64 / (60.0 * BYTES_PER_SECOND);
                assert!((0.98..1.02).contains(&share), "{share} of the rate with frames of {lengths:?}, woken {late:?} late");
            }
        }
    }

    #[test]
    fn an_idle_bucket_lets_its_burst_pass_at_once_and_no_more() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(MBIT_8, SHORT, start).unwrap();
        let later = start + Duration::from_secs(3600);
        let mut passed = 0;
        while bucket.take(1_000, later).is_ok() {
            passed += 1_000;
        }
        assert_eq!(passed, 40_000);
        assert_eq!(bucket.take(1_000, later), Err(Duration::from_millis(1)));
    }

    #[test]
    fn what_was_taken_is_paid_for_at_the_rate_of_its_time() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(MBIT_8, SHORT, start).unwrap();
        bucket.spend(100_000, start);
        bucket.set_rate(BitsPerSecond::from_mbit(1));
        assert_eq!(bucket.paid_at(10_000, start), start + Duration::from_millis(100 + 80));
    }

    #[test]
    fn a_frame_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_for_afterwards() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(MBIT_8, SHORT, start).unwrap();
        assert_eq!(bucket.take(1_000_000, start), Ok(()));
        assert_eq!(bucket.take(1_000, start), Err(Duration::from_millis(961)), "a second's worth of debt, less the bucket");
        assert_eq!(bucket.take(1_000_000, start), Err(Duration::from_secs(1)), "a second large one needs a full bucket again");
        assert_eq!(bucket.take(1_000_000, start + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn a_refused_take_leaves_the_bucket_as_it_was_and_absurd_lengths_do_not_overflow() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(MBIT_8, SHORT, start).unwrap();
        assert_eq!(bucket.take(25_000, start), Ok(()));
        let first = bucket.take(25_000, start);
        assert_eq!(first, Err(Duration::from_millis(10)));
        assert_eq!(bucket.take(25_000, start), first);
        assert_eq!(bucket.take(15_000, start), Ok(()), "what is left still passes");
        assert!(bucket.take(usize::MAX, start).is_err());
        let mut slowest = TokenBucket::new(BitsPerSecond(1), SHORT, start).unwrap();
        assert_eq!(slowest.take(usize::MAX, start), Ok(()));
        assert!(slowest.take(usize::MAX, start).is_err());
    }

    #[test]
    fn an_unknown_rate_limits_nothing() {
        assert!(TokenBucket::new(BitsPerSecond(0), SHORT, Instant::now()).is_none());
    }

    #[test]
    fn a_line_is_filled_and_not_overfilled_whatever_the_headers_are() {
        let start = Instant::now();
        let line = Line::new(MBIT_8);
        let mut fed = Fed { bucket: TokenBucket::new(MBIT_8, LINE_BURST, start).unwrap(), line: line.clone() };
        // A fifth more than what was taken goes out, 50 ms later: that is how long a link holds it back.
        let mut wire = TokenBucket::new(MBIT_8, SHORT, start).unwrap();
        let mut on_its_way = std::collections::VecDeque::new();
        let (mut now, end, mut sent, mut longest) = (start, start + Duration::from_secs(60), 0, Duration::ZERO);
        let mut waiting = 0;
        while now < end {
            while on_its_way.front().is_some_and(|at| *at <= now) {
                on_its_way.pop_front();
                waiting += 19_200;
            }
            while waiting >= 1_200 && wire.take(1_200, now).is_ok() {
                waiting -= 1_200;
                sent += 1_200;
            }
            line.clear_at(wire.paid_at(waiting, now));
            longest = longest.max(line.queue(now));
            if fed.take(16_000, now).is_ok() {
                on_its_way.push_back(now + Duration::from_millis(50));
            }
            now += Duration::from_millis(5);
        }
        let share = f64::from(sent) / (60.0 * BYTES_PER_SECOND);
        assert!((0.97..1.01).contains(&share), "{share} of the line");
        assert!(
            longest <= LINE_QUEUE + Duration::from_millis(50),
            "what is on its way when the queue is long enough comes as well: {longest:?}"
        );
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
