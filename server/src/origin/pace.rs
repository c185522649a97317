//! The origin's uplink for chunks: all responses together never go faster than it.
//!
//! A response asks before each piece of its body; the pieces of all responses stand in one line. A piece that a client
//! leaves behind has taken its place in the line for nothing: at most one piece per client.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::BitsPerSecond;
use protocol::frame::CHUNK_MAX;
use tokio::time::Instant;

/// The longest piece of a body that is sent at once: the longest chunk. Chunks that are sent one after the other are there sooner than chunks that alternate,
/// and whoever has one copies it on meanwhile. With pieces of 64 KiB the ends of all longer chunks waited for the beginnings of all others. At 20 Mbit/s it
/// takes 52 ms, which is all that anything else waits.
pub const PIECE: usize = CHUNK_MAX as usize;
/// What a full TCP segment carries, and what it takes on the wire: IPv4, timestamps, Ethernet. The rate is the line's, so the headers are a part of it.
const SEGMENT_BYTES: u64 = 1448;
const SEGMENT_ON_THE_WIRE: u64 = 1514;
/// How far behind its line the origin may catch up at full speed: covers the timer's grain and a moment's scheduling delay, no more.
const CATCH_UP: Duration = Duration::from_millis(10);

/// When each piece may be sent: the decision without a clock.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// Nanoseconds per byte times 1,024, so that fast lines keep their precision. 0 is unlimited.
    cost: u64,
    /// When the last piece in the line has left.
    free_at: Option<Instant>,
}

impl Line {
    fn new(rate: BitsPerSecond) -> Self {
        Self { cost: (8_000_000_000u64 << 10).checked_div(rate.0).unwrap_or(0), free_at: None }
    }

    /// Takes `bytes` into the line. Answers when they may be sent.
    fn enter(&mut self, bytes: usize, now: Instant) -> Instant {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let bytes = bytes.saturating_mul(SEGMENT_ON_THE_WIRE) / SEGMENT_BYTES;
        let takes = Duration::from_nanos(self.cost.saturating_mul(bytes) >> 10);
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let begins = self.free_at.map_or(now, |free_at| free_at.max(earliest));
        self.free_at = Some(begins + takes);
        begins.max(now)
    }
}

/// The shared line. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pace {
    line: Arc<Mutex<Line>>,
    rate: BitsPerSecond,
}

impl Pace {
    /// A rate of 0 is no limit.
    pub fn new(rate: BitsPerSecond) -> Self {
        Self { line: Arc::new(Mutex::new(Line::new(rate))), rate }
    }

    pub fn rate(&self) -> BitsPerSecond {
        self.rate
    }

    /// Waits until these bytes may be sent.
    pub async fn send(&self, bytes: usize) {
        if self.rate.0 == 0 {
            return;
        }
        let at = self.line.lock().unwrap_or_else(PoisonError::into_inner).enter(bytes, Instant::now());
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_leave_at_the_lines_rate_and_not_faster() {
        // 8 Mbit/s: a byte on the wire takes a microsecond.
        let mut line = Line::new(BitsPerSecond::from_mbit(8));
        let start = Instant::now();
        let sent: Vec<Duration> = (0..4).map(|_| line.enter(14_480, start) - start).collect();
        assert_eq!(sent, [0, 15_140, 30_280, 45_420].map(Duration::from_micros), "ten full segments each, headers included");
    }

    #[test]
    fn an_idle_line_saves_up_next_to_nothing() {
        let mut line = Line::new(BitsPerSecond::from_mbit(8));
        let start = Instant::now();
        line.enter(14_480, start);
        let later = start + Duration::from_secs(60);
        let sent: Vec<Duration> = (0..4).map(|_| line.enter(14_480, later) - later).collect();
        assert_eq!(sent, [0, 5_140, 20_280, 35_420].map(Duration::from_micros), "ten milliseconds of catching up");
    }

    #[test]
    fn over_a_long_time_the_rate_holds_exactly() {
        let mut line = Line::new(BitsPerSecond(12_345_678));
        let start = Instant::now();
        let mut now = start;
        for _ in 0..1_000 {
            now = line.enter(PIECE, now);
        }
        let expected = 999.0 * 8.0 * PIECE as f64 * 1514.0 / 1448.0 / 12_345_678.0;
        assert!(((now - start).as_secs_f64() / expected - 1.0).abs() < 1e-4, "{:?} instead of {expected}", now - start);
    }

    #[tokio::test]
    async fn a_rate_of_zero_never_waits() {
        let pace = Pace::new(BitsPerSecond(0));
        for _ in 0..1_000 {
            tokio::time::timeout(Duration::from_millis(1), pace.send(usize::MAX)).await.expect("an unlimited line made somebody wait");
        }
    }
}
