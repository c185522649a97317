//! The server's clock, seen from here.
//!
//! One exchange gives the server's time at some moment between sending and receiving; half of the round trip is the error. The exchange with the least
//! round trip is therefore the best estimate (NTP's filter, RFC 5905 section 10), until it is so old that the two clocks may have drifted apart.

use std::collections::VecDeque;
use std::time::Duration;

use protocol::TimestampMs;

/// Two quartz clocks drift by up to 50 ppm: 30 ms in this time, which is below what the swarm can notice.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(600);
/// More than are taken within [`SAMPLE_AGE_MAX`].
const SAMPLES_MAX: usize = 64;

/// An estimate of the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerClock {
    /// What the server's clock showed at the local clock's zero.
    pub server_time_at_zero: TimestampMs,
    /// The estimate is at most half of this off.
    pub round_trip: Duration,
}

impl ServerClock {
    /// The server's clock at a moment of the local one.
    #[must_use]
    pub fn at(&self, now: Duration) -> TimestampMs {
        TimestampMs(self.server_time_at_zero.0.saturating_add(u64::try_from(now.as_millis()).unwrap_or(u64::MAX)))
    }
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    taken_at: Duration,
    clock: ServerClock,
}

/// The exchanges of late and the best of them.
#[derive(Debug, Default)]
pub(super) struct ClockFilter {
    samples: VecDeque<Sample>,
    best: Option<ServerClock>,
}

impl ClockFilter {
    /// Takes an exchange: when it was sent and received here, and the server's time between. Returns the estimate if it changed.
    pub(super) fn exchange(&mut self, sent: Duration, received: Duration, server_time: TimestampMs) -> Option<ServerClock> {
        let round_trip = received.checked_sub(sent)?;
        let middle = sent + round_trip / 2;
        let middle_ms = u64::try_from(middle.as_millis()).unwrap_or(u64::MAX);
        let clock = ServerClock { server_time_at_zero: TimestampMs(server_time.0.saturating_sub(middle_ms)), round_trip };
        self.samples.retain(|sample| received.saturating_sub(sample.taken_at) < SAMPLE_AGE_MAX);
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { taken_at: received, clock });
        let best = self.samples.iter().min_by_key(|sample| sample.clock.round_trip).map(|sample| sample.clock);
        if best == self.best {
            return None;
        }
        self.best = best;
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_exchange_with_the_least_round_trip_counts() {
        let mut filter = ClockFilter::default();
        // The true offset is 1,000,000; the way there takes 90 of the first 100 ms.
        let first = filter.exchange(ms(0), ms(100), TimestampMs(1_000_090)).unwrap();
        assert_eq!(first.server_time_at_zero, TimestampMs(1_000_040));
        let second = filter.exchange(ms(200), ms(210), TimestampMs(1_000_204)).unwrap();
        assert_eq!(second, ServerClock { server_time_at_zero: TimestampMs(999_999), round_trip: ms(10) });
        assert_eq!(filter.exchange(ms(300), ms(400), TimestampMs(1_000_390)), None, "a slower exchange changes nothing");
        assert_eq!(second.at(ms(5_000)), TimestampMs(1_004_999));
    }

    #[test]
    fn an_old_estimate_gives_way_even_to_a_slower_one() {
        let mut filter = ClockFilter::default();
        filter.exchange(ms(0), ms(2), TimestampMs(1_000_001)).unwrap();
        let later = ms(700_000);
        let renewed = filter.exchange(later, later + ms(20), TimestampMs(1_700_040)).unwrap();
        assert_eq!(renewed.server_time_at_zero, TimestampMs(1_000_030));
    }

    #[test]
    fn an_answer_to_a_question_of_the_future_is_ignored() {
        assert_eq!(ClockFilter::default().exchange(ms(10), ms(5), TimestampMs(1)), None);
    }
}
