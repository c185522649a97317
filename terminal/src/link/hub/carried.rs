//! What the line really carries. A terminal states its uplink, and may be wrong: a neighbour uses the line too, or a tenth of it is there. What it sends
//! beyond that waits in the links, with the receipts that it owes behind it, and whoever is owed them stops sending: a terminal with a slow uplink would get
//! nothing on a fast downlink. So no more is given to the links than they get rid of in half a second.

use std::time::{Duration, Instant};

use protocol::BitsPerSecond;

/// Long beside round trips, the rests of both ends and the line's own queue, a quarter of a second together.
const SPAN: Duration = Duration::from_millis(500);
/// Two frames of the shortest kind: less would stop what a slow line still carries.
const ALLOWANCE_MIN: usize = 32 << 10;

/// How many bytes may be unacknowledged on all links together.
#[derive(Debug)]
pub(super) struct Carried {
    allowance: usize,
    /// What the stated uplink carries in a span.
    stated: usize,
    since: Instant,
    acknowledged: usize,
    /// The least that was unacknowledged in this span.
    waited: usize,
}

impl Carried {
    /// `None` for a line whose rate is not known: nobody can say what is too much.
    pub(super) fn new(rate: BitsPerSecond, now: Instant) -> Option<Self> {
        let in_a_span = rate.0 / 8 * u64::try_from(SPAN.as_millis()).unwrap_or(0) / 1000;
        let stated = usize::try_from(in_a_span).unwrap_or(usize::MAX).max(ALLOWANCE_MIN);
        (rate.0 > 0).then_some(Self { allowance: stated, stated, since: now, acknowledged: 0, waited: 0 })
    }

    /// What of each link was acknowledged since the last call, and what is not, in bytes; of links whose other end is heard. Returns whether this is as much
    /// as may be.
    ///
    /// Where as much as may be waited throughout a span and less than half of it got through, as much as got through may be from now on. Where it got
    /// through, twice as much may be, up to what was stated. A link counts for twice its share at most: a few that acknowledge nothing do not stop the others.
    pub(super) fn note(&mut self, links: &[(usize, usize)], now: Instant) -> bool {
        let waiting = links.iter().filter(|(_, unacknowledged)| *unacknowledged > 0).count();
        let most = self.allowance.saturating_mul(2).div_ceil(waiting.max(1));
        let unacknowledged: usize = links.iter().map(|(_, unacknowledged)| most.min(*unacknowledged)).sum();
        self.acknowledged += links.iter().map(|(acknowledged, _)| acknowledged).sum::<usize>();
        self.waited = self.waited.min(unacknowledged);
        let crowded = unacknowledged >= self.allowance;
        if now >= self.since + SPAN {
            let half = self.allowance / 2;
            if self.acknowledged > half {
                self.allowance = self.allowance.saturating_mul(2).min(self.stated);
            } else if self.waited >= half {
                self.allowance = self.acknowledged.max(ALLOWANCE_MIN);
            }
            (self.since, self.acknowledged, self.waited) = (now, 0, unacknowledged);
        }
        crowded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a terminal that always has something to send over a line that carries `bytes_per_second`: what waits for it, every tenth of a second.
    fn waiting(stated: BitsPerSecond, bytes_per_second: impl Fn(usize) -> usize, tenths: usize) -> Vec<usize> {
        let start = Instant::now();
        let mut carried = Carried::new(stated, start).unwrap();
        let (mut waits, mut crowded, mut course) = (0_usize, false, Vec::new());
        for tenth in 0..tenths {
            let given = if crowded { 0 } else { usize::try_from(stated.0 / 80).unwrap() };
            let through = (waits + given).min(bytes_per_second(tenth) / 10);
            waits = waits + given - through;
            crowded = carried.note(&[(through, waits)], start + Duration::from_millis(100) * u32::try_from(tenth).unwrap());
            course.push(waits);
        }
        course
    }

    const MBIT_10: BitsPerSecond = BitsPerSecond::from_mbit(10);

    #[test]
    fn on_a_line_with_a_tenth_of_its_rate_a_second_of_it_waits_and_not_ten() {
        let course = waiting(MBIT_10, |_| 125_000, 300);
        assert!(*course.iter().max().unwrap() < 1_000_000);
        assert!(course[100..].iter().all(|waits| *waits < 250_000), "{:?}", &course[100..]);
        assert!(course[100..].iter().all(|waits| *waits > 0), "the line is never idle");
    }

    #[test]
    fn a_line_that_carries_what_was_stated_is_not_held_back_and_one_that_does_so_again_neither() {
        let course = waiting(MBIT_10, |_| 1_250_000, 100);
        assert!(course.iter().all(|waits| *waits == 0));
        let course = waiting(MBIT_10, |tenth| if (20..60).contains(&tenth) { 100_000 } else { 1_500_000 }, 200);
        assert!(course[100..].iter().all(|waits| *waits == 0), "{course:?}");
    }

    #[test]
    fn a_terminal_that_sends_little_may_send_much_at_any_time() {
        let start = Instant::now();
        let mut carried = Carried::new(MBIT_10, start).unwrap();
        for second in 1..60 {
            assert!(!carried.note(&[(1_000, 500)], start + Duration::from_secs(second)));
        }
        let later = start + Duration::from_secs(60);
        assert!(!carried.note(&[(0, 600_000)], later) && carried.note(&[(0, 700_000)], later));
    }

    #[test]
    fn three_of_fifteen_that_acknowledge_nothing_stop_nobody() {
        let start = Instant::now();
        let mut carried = Carried::new(MBIT_10, start).unwrap();
        let mut links = vec![(10_000, 20_000); 12];
        links.extend([(0, 256 << 10); 3]);
        assert!((1..100).all(|tenth| !carried.note(&links, start + Duration::from_millis(100) * tenth)));
    }

    #[test]
    fn of_a_line_that_is_not_known_nobody_can_say() {
        assert!(Carried::new(BitsPerSecond(0), Instant::now()).is_none());
    }
}
