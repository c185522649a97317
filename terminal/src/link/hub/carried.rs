//! What the line really carries. A terminal states its uplink, and may be wrong: a neighbour uses the line too, or a tenth of it is there. What it sends
//! beyond that waits in the links, with the receipts that it owes behind it, and whoever is owed them stops sending: a terminal with a slow uplink would get
//! nothing on a fast downlink. So no more is given to the links than they get rid of in half a second, and packets leave at the pace at which they arrive.

use std::time::{Duration, Instant};

use protocol::BitsPerSecond;

use super::super::channel::Carries;

/// Long beside round trips, the rests of both ends and the line's own queue, a quarter of a second together.
const SPAN: Duration = Duration::from_millis(500);
/// Two frames of the shortest kind: less would stop what a slow line still carries.
const ALLOWANCE_MIN: usize = 32 << 10;
/// So much must have been sent for a judgement, or so long been waited for: of a few packets the lost ones say nothing.
const DATA_MIN: usize = 16 << 10;
const LONG_SPAN: Duration = Duration::from_secs(2);
/// The slowest pace is this part of what was stated: what is lost at it is lost to something else than haste.
const SLOWEST: u128 = 20;
/// When less than this share of what was sent is acknowledged, the line loses the rest: in tenths.
const LOSSY: u128 = 8;
/// From one span to the next a pace grows by this, in tenths: tenfold in six seconds.
const GROWTH: u128 = 12;
/// And it begins with so much of what got through, in tenths: what the line carries shows only when a little more is sent.
const MORE: u128 = 11;

/// What has left for the line, in bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sent {
    /// With all headers.
    pub(super) on_the_wire: usize,
    /// Of it the packets that are so long that they carry data, without the headers that the line adds.
    pub(super) data: usize,
}

/// The pace of packets, and by it how many bytes may be unacknowledged on all links together.
#[derive(Debug)]
pub(super) struct Carried {
    /// What was stated, in bits per second, and what packets may leave at.
    rate: BitsPerSecond,
    pace: BitsPerSecond,
    since: Instant,
    acknowledged: usize,
    /// The least that was unacknowledged in this span.
    waited: usize,
    sent: Sent,
    /// In the span before this one the line seemed to carry less than was stated.
    doubted: bool,
}

impl Carried {
    /// `None` for a line whose rate is not known: nobody can say what is too much.
    pub(super) fn new(rate: BitsPerSecond, now: Instant) -> Option<Self> {
        (rate.0 > 0).then_some(Self { rate, pace: rate, since: now, acknowledged: 0, waited: 0, sent: Sent::default(), doubted: false })
    }

    /// At what rate packets may leave: what was stated, or what the line carries of it.
    pub(super) fn pace(&self) -> BitsPerSecond {
        self.pace
    }

    /// What may be unacknowledged: what leaves in a span.
    fn allowance(&self) -> usize {
        let in_a_span = self.pace.0 / 8 * u64::try_from(SPAN.as_millis()).unwrap_or(0) / 1000;
        usize::try_from(in_a_span).unwrap_or(usize::MAX).max(ALLOWANCE_MIN)
    }

    /// Takes what each link carries and what was sent since the last call. Returns whether as much is unacknowledged as may be.
    ///
    /// Where the line is not what holds links up, a few of them do not stop the others: each counts for twice its share at most. On a line that carries less
    /// than was stated what waits on any link waits before the line, unless its other end does not take it.
    pub(super) fn note(&mut self, links: &[Carries], sent: Sent, now: Instant) -> bool {
        let allowance = self.allowance();
        let waiting = links.iter().filter(|link| link.unacknowledged > 0).count();
        let most = allowance.saturating_mul(2).div_ceil(waiting.max(1));
        let slow = self.pace < self.rate;
        let counted = |link: &Carries| if slow && !link.stuck { link.unacknowledged } else { most.min(link.unacknowledged) };
        let unacknowledged: usize = links.iter().map(counted).sum();
        self.acknowledged += links.iter().map(|link| link.acknowledged).sum::<usize>();
        self.sent.on_the_wire += sent.on_the_wire;
        self.sent.data += sent.data;
        self.waited = self.waited.min(unacknowledged);
        let enough = self.pace == self.rate || self.sent.data >= DATA_MIN || now >= self.since + LONG_SPAN;
        if now >= self.since + SPAN && enough {
            self.pace = self.next_pace(allowance, now.saturating_duration_since(self.since));
            (self.since, self.acknowledged, self.waited, self.sent) = (now, 0, unacknowledged, Sent::default());
        }
        unacknowledged >= allowance
    }

    /// Where the line lost a good part of what was sent while more waited, packets leave as fast as they got through, and a little faster; while it is full
    /// of what was sent before, no faster than they do; else faster. That a line carries less than was stated is believed only when it is less than half,
    /// twice in a row: where much begins at once, acknowledgements come later than data goes.
    fn next_pace(&mut self, allowance: usize, span: Duration) -> BitsPerSecond {
        let (stated, pace) = (u128::from(self.rate.0), u128::from(self.pace.0));
        let (all, data, acknowledged) = (self.sent.on_the_wire as u128, self.sent.data as u128, self.acknowledged as u128);
        // Acknowledgements and all else take their part of the line too, and are lost in the same measure as data: what the line carried of all that was
        // sent is what it carried of the data.
        let got_through = if acknowledged < data { all * acknowledged / data } else { all - data + acknowledged };
        let carried = got_through * 8_000_000_000 / span.as_nanos().max(1);
        let held_up = self.waited >= allowance / 2;
        let tenths = if pace < stated {
            if held_up && acknowledged * 10 < data * LOSSY {
                // A few acknowledgements that are late are no reason to stop.
                (MORE * carried).max(5 * pace)
            } else if self.waited >= allowance {
                10 * pace
            } else {
                GROWTH * pace
            }
        } else {
            let doubtful = held_up && carried < stated / 2;
            let believed = doubtful && self.doubted;
            self.doubted = doubtful && !believed;
            if believed { MORE * carried } else { 10 * pace }
        };
        BitsPerSecond(u64::try_from((tenths / 10).clamp(stated / SLOWEST, stated)).unwrap_or(self.rate.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carries(acknowledged: usize, unacknowledged: usize) -> Carries {
        Carries { acknowledged, unacknowledged, stuck: false }
    }

    /// Of a terminal that always has something to send, over a line that carries `bytes_per_second` and keeps what is too much in a long queue: what waits
    /// here and there, and the pace, every tenth of a second.
    fn waiting(stated: BitsPerSecond, bytes_per_second: impl Fn(usize) -> usize, tenths: usize) -> Vec<(usize, BitsPerSecond)> {
        let start = Instant::now();
        let mut carried = Carried::new(stated, start).unwrap();
        let in_a_tenth = |rate: BitsPerSecond| usize::try_from(rate.0 / 80).unwrap();
        let (mut here, mut there, mut crowded, mut course) = (0_usize, 0_usize, false, Vec::new());
        for tenth in 0..tenths {
            here += if crowded { 0 } else { in_a_tenth(stated) };
            let sent = here.min(in_a_tenth(carried.pace()));
            let through = (there + sent).min(bytes_per_second(tenth) / 10);
            (here, there) = (here - sent, there + sent - through);
            let now = start + Duration::from_millis(100) * u32::try_from(tenth).unwrap();
            crowded = carried.note(&[carries(through, here + there)], Sent { on_the_wire: sent, data: sent }, now);
            course.push((here + there, carried.pace()));
        }
        course
    }

    const MBIT_10: BitsPerSecond = BitsPerSecond::from_mbit(10);

    #[test]
    fn on_a_line_with_a_tenth_of_its_rate_a_second_of_it_waits_and_not_ten() {
        let course = waiting(MBIT_10, |_| 125_000, 300);
        assert!(course.iter().all(|(waits, _)| *waits < 1_000_000));
        assert!(course[100..].iter().all(|(waits, _)| *waits < 250_000), "{:?}", &course[100..]);
        assert!(course[100..].iter().all(|(waits, _)| *waits > 0), "the line is never idle");
    }

    #[test]
    fn a_line_that_carries_what_was_stated_is_not_held_back_and_one_that_does_so_again_neither() {
        let course = waiting(MBIT_10, |_| 1_250_000, 100);
        assert!(course.iter().all(|waits| *waits == (0, MBIT_10)));
        let course = waiting(MBIT_10, |tenth| if (20..60).contains(&tenth) { 100_000 } else { 1_500_000 }, 200);
        assert!(course[45..60].iter().all(|(_, pace)| *pace < BitsPerSecond::from_mbit(2)), "{course:?}");
        assert!(course[160..].iter().all(|(_, pace)| *pace == MBIT_10), "{course:?}");
    }

    #[test]
    fn a_terminal_that_sends_little_may_send_much_at_any_time() {
        let start = Instant::now();
        let mut carried = Carried::new(MBIT_10, start).unwrap();
        for second in 1..60 {
            assert!(!carried.note(&[carries(1_000, 500)], Sent::default(), start + Duration::from_secs(second)));
        }
        let later = start + Duration::from_secs(60);
        assert!(
            !carried.note(&[carries(0, 600_000)], Sent::default(), later) && carried.note(&[carries(0, 700_000)], Sent::default(), later)
        );
    }

    /// The pace, every tenth of a second, of a terminal that always sends at it, to a line that carries `bits_per_second` and loses the rest; as many bytes
    /// again as it has of data are acknowledgements.
    fn paces(stated: BitsPerSecond, bits_per_second: impl Fn(usize) -> u64, tenths: usize) -> Vec<u64> {
        let start = Instant::now();
        let mut carried = Carried::new(stated, start).unwrap();
        let mut course = Vec::new();
        for tenth in 0..tenths {
            let bytes = |rate: u64| usize::try_from(rate / 80).unwrap();
            let sent = bytes(carried.pace().0);
            let through = sent.min(bytes(bits_per_second(tenth)));
            let links = [carries(through / 2, carried.allowance() - 1)];
            carried.note(
                &links,
                Sent { on_the_wire: sent, data: sent / 2 },
                start + Duration::from_millis(100) * u32::try_from(tenth).unwrap(),
            );
            course.push(carried.pace().0);
        }
        course
    }

    #[test]
    fn packets_leave_at_the_pace_of_the_line_and_not_of_what_was_stated() {
        let course = paces(MBIT_10, |_| 1_000_000, 300);
        assert!(course[20..].iter().all(|pace| (900_000..1_500_000).contains(pace)), "{:?}", &course[20..]);
        let course = paces(MBIT_10, |tenth| if tenth < 50 { 1_000_000 } else { 10_000_000 }, 150);
        assert_eq!(course.last(), Some(&MBIT_10.0), "a line that has got well is used whole");
    }

    #[test]
    fn a_line_that_carries_half_of_its_rate_and_loses_the_rest_is_not_taken_for_its_whole() {
        let course = paces(MBIT_10, |_| 4_000_000, 300);
        assert!(course[30..].iter().all(|pace| (3_500_000..6_500_000).contains(pace)), "{:?}", &course[30..]);
    }

    #[test]
    fn a_line_that_carries_what_was_stated_keeps_its_pace() {
        assert!(paces(MBIT_10, |_| 12_000_000, 100).iter().all(|pace| *pace == MBIT_10.0));
    }

    #[test]
    fn three_of_fifteen_that_acknowledge_nothing_stop_nobody() {
        let start = Instant::now();
        let mut carried = Carried::new(MBIT_10, start).unwrap();
        let mut links = vec![carries(10_000, 20_000); 12];
        links.extend([carries(0, 256 << 10); 3]);
        assert!((1..100).all(|tenth| !carried.note(&links, Sent::default(), start + Duration::from_millis(100) * tenth)));
    }

    #[test]
    fn before_a_slow_line_all_that_waits_counts_but_what_somebody_does_not_take() {
        let start = Instant::now();
        let mut carried = Carried { pace: BitsPerSecond::from_mbit(1), ..Carried::new(MBIT_10, start).unwrap() };
        let mut links = vec![carries(0, 100); 14];
        links.push(carries(0, 70_000));
        assert!(carried.note(&links, Sent::default(), start));
        links[14].stuck = true;
        assert!(!carried.note(&links, Sent::default(), start));
    }

    #[test]
    fn of_a_line_that_is_not_known_nobody_can_say() {
        assert!(Carried::new(BitsPerSecond(0), Instant::now()).is_none());
    }
}
