//! What a session sees of how its terminal communicates: the round trip of its pings, and the rates that it reports while it transfers.

use std::cell::Cell;
use std::time::Duration;

use protocol::BitsPerSecond;
use protocol::ws::Progress;
use tokio::time::Instant;

/// The highest rate counts of each window of this length. The terminals smooth their rates over two seconds.
const WINDOW: Duration = Duration::from_secs(5);

/// Of one session, on one thread.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pinged_at: Cell<Option<Instant>>,
    least_ms: Cell<Option<u16>>,
    window: Cell<Option<Window>>,
}

/// The highest rates since its beginning.
#[derive(Debug, Clone, Copy)]
struct Window {
    began_at: Instant,
    highest: (BitsPerSecond, BitsPerSecond),
}

impl Observed {
    pub(super) fn pinged(&self, now: Instant) {
        self.pinged_at.set(Some(now));
    }

    /// Answers the round trip in milliseconds if it is the least of the session: the others have waited in queues.
    pub(super) fn ponged(&self, now: Instant) -> Option<u16> {
        let took = now.saturating_duration_since(self.pinged_at.take()?);
        let took = u16::try_from(took.as_millis()).unwrap_or(u16::MAX);
        let is_least = self.least_ms.get().is_none_or(|least| took < least);
        if is_least {
            self.least_ms.set(Some(took));
        }
        is_least.then_some(took)
    }

    /// Answers the highest uplink and downlink of a window that is over.
    pub(super) fn progress(&self, progress: &Progress, now: Instant) -> Option<(BitsPerSecond, BitsPerSecond)> {
        let mut window = self.window.get().unwrap_or(Window { began_at: now, highest: Default::default() });
        window.highest = (window.highest.0.max(progress.up), window.highest.1.max(progress.down));
        if now.saturating_duration_since(window.began_at) < WINDOW {
            self.window.set(Some(window));
            return None;
        }
        self.rest_of(Some(window))
    }

    /// The highest rates of the window that the end of the session cuts short.
    pub(super) fn rest(&self) -> Option<(BitsPerSecond, BitsPerSecond)> {
        let window = self.window.get();
        self.rest_of(window)
    }

    fn rest_of(&self, window: Option<Window>) -> Option<(BitsPerSecond, BitsPerSecond)> {
        self.window.set(None);
        window.map(|window| window.highest).filter(|(up, down)| up.0 > 0 || down.0 > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(up: u64, down: u64) -> Progress {
        Progress { up: BitsPerSecond(up), down: BitsPerSecond(down), ..Progress::default() }
    }

    #[test]
    fn only_the_least_round_trip_of_a_session_is_news() {
        let (observed, start) = (Observed::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(observed.ponged(start), None, "nobody asked");
        for (asked, answered, news) in [(0, 40, Some(40)), (100, 150, None), (200, 230, Some(30)), (300, 330, None)] {
            observed.pinged(after(asked));
            assert_eq!(observed.ponged(after(answered)), news);
        }
        assert_eq!(observed.ponged(after(400)), None, "one answer to one question");
        observed.pinged(after(500));
        assert_eq!(Observed::default().ponged(after(100_000)), None);
    }

    #[test]
    fn each_window_gives_its_highest_rates_and_the_last_one_what_it_has() {
        let (observed, start) = (Observed::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(observed.progress(&rates(5, 50), after(0)), None);
        assert_eq!(observed.progress(&rates(9, 20), after(1_000)), None);
        assert_eq!(observed.progress(&rates(1, 1), after(5_000)), Some((BitsPerSecond(9), BitsPerSecond(50))));
        assert_eq!(observed.rest(), None);
        assert_eq!(observed.progress(&rates(0, 0), after(6_000)), None);
        assert_eq!(observed.rest(), None, "nothing moved");
        assert_eq!(observed.progress(&rates(0, 3), after(7_000)), None);
        assert_eq!(observed.rest(), Some((BitsPerSecond(0), BitsPerSecond(3))));
    }
}
