//! How long the hub rests after a pass.

use std::time::{Duration, Instant};

/// A shorter rest saves nothing: the kernel wakes a thread that late anyway.
const REST_MIN: Duration = Duration::from_micros(100);
/// 8 packets at 10 Mbit/s. Round trips become longer by as much while data flows.
const REST_MAX: Duration = Duration::from_millis(8);
/// Packets per second, both ways, up to which rests are the longest: 10 Mbit/s both ways. Above it they become shorter with the square of the rate, so that
/// what is slow because both ends rest becomes fast: a window of 200 packets whose round trip is six rests gets faster with each of them.
const SLOW: f64 = 3_000.0;
/// Below this rate there was silence.
const SILENCE: f64 = 100.0;
/// Over which time the rate of packets is averaged: some passes of the longest kind.
const OF_LATE: Duration = Duration::from_millis(25);
/// From this on a rest is long enough for the runtime's timers, which know whole milliseconds.
const TIMER: Duration = Duration::from_millis(1);

/// The rate of packets of late, both ways, and the rest that follows from it.
#[derive(Debug)]
pub(super) struct Rests {
    /// Packets per second, as of `counted_at`.
    rate: f64,
    counted_at: Instant,
    rest: Duration,
}

impl Rests {
    pub(super) fn new(now: Instant) -> Self {
        Self { rate: 0.0, counted_at: now, rest: REST_MIN }
    }

    /// A pass has handled so many packets: how long to rest, [`REST_MIN`] to [`REST_MAX`], or not at all where packets come so fast that passes are full
    /// without. The rest that befits the rate; after silence it is reached by doubling, so that the few round trips of a handshake or of a question are short.
    pub(super) fn after(&mut self, packets: usize, now: Instant) -> Duration {
        self.rate *= (-now.saturating_duration_since(self.counted_at).as_secs_f64() / OF_LATE.as_secs_f64()).exp();
        if self.rate < SILENCE {
            self.rest = REST_MIN;
        }
        self.rate += u32::try_from(packets).map_or(f64::from(u32::MAX), f64::from) / OF_LATE.as_secs_f64();
        self.counted_at = now;
        let befitting = REST_MAX.mul_f64((SLOW / self.rate.max(SLOW)).powi(2));
        self.rest = befitting.min(self.rest * 2).max(REST_MIN);
        if befitting < REST_MIN { Duration::ZERO } else { self.rest }
    }

    /// Whether so few packets come at a time that those of one link are worth waiting for.
    pub(super) fn is_slow(&self) -> bool {
        self.rest >= TIMER
    }
}

/// What else the thread of a hub does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing.
    Own,
    /// All that its runtime does.
    Shared,
}

/// Rests. Less than the runtime's timers know is slept by the thread itself where that holds up nobody; elsewhere others have their turn.
pub(super) async fn take(rest: Duration, place: Place) {
    if rest >= TIMER {
        tokio::time::sleep(rest).await;
    } else if rest > Duration::ZERO {
        match place {
            Place::Own => std::thread::sleep(rest),
            Place::Shared => tokio::task::yield_now().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rest that a steady stream of `per_second` packets ends at, when all that come in a rest are handled after it.
    fn settled(per_second: f64) -> Duration {
        let (mut now, mut rest) = (Instant::now(), REST_MIN);
        let mut rests = Rests::new(now);
        let mut arrived = 0.0;
        for _ in 0..1_000 {
            // A pass takes a while itself.
            rest = rest.max(Duration::from_micros(20));
            now += rest;
            arrived += per_second * rest.as_secs_f64();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
            let whole = arrived as usize;
            arrived -= arrived.floor();
            rest = rests.after(whole, now);
        }
        rest
    }

    #[test]
    fn the_slower_the_packets_the_longer_the_rest() {
        assert_eq!(settled(900.0), REST_MAX, "10 Mbit/s");
        let middle = settled(9_000.0);
        assert!((600..1_200).contains(&middle.as_micros()), "100 Mbit/s: {middle:?}");
        assert_eq!(settled(90_000.0), Duration::ZERO, "1 Gbit/s");
    }

    #[test]
    fn a_few_round_trips_after_silence_are_short() {
        let start = Instant::now();
        let mut rests = Rests::new(start);
        let first: Vec<u128> = (1..6).map(|round| rests.after(3, start + Duration::from_millis(9) * round).as_micros()).collect();
        assert_eq!(first, [200, 200, 400, 800, 1_600]);
        assert!(rests.is_slow());
        assert_eq!(rests.after(1, start + Duration::from_secs(9)), REST_MIN * 2);
        assert!(!rests.is_slow());
    }

    #[test]
    fn a_stream_that_waits_for_its_own_round_trips_speeds_up_to_the_shortest_rest() {
        // A window of 200 packets, and five rests of both ends on its way and back: 200 packets in one of five passes, two in the others.
        let (mut now, mut rest) = (Instant::now(), REST_MAX);
        let mut rests = Rests { rate: 0.0, counted_at: now, rest };
        for pass in 0..500 {
            now += rest;
            rest = rests.after(if pass % 5 == 0 { 200 } else { 2 }, now);
        }
        assert!(rest <= REST_MIN * 2, "{rest:?}");
    }
}
