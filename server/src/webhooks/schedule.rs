//! When an event that was not taken is sent again, and when it, or its webhook, is given up.

use protocol::rest::DisabledReason;
use time::{Duration, OffsetDateTime};

/// The pauses between attempts begin with this and triple up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::seconds(5);
const PAUSE_MAX: Duration = Duration::hours(6);
/// The last attempt comes about 28 hours after the first one: a receiver that is down over a night and a day loses nothing.
pub const ATTEMPTS_MAX: u32 = 13;
/// How much shorter or longer a pause is made at random, in percent: what failed together does not come back together.
const JITTER_PERCENT: u8 = 20;
/// After so long without anything taken a webhook is disabled.
pub const FAILING_MAX: Duration = Duration::days(5);
/// The answer of a receiver that wants no more (RFC 9110, 15.5.11).
const GONE: u16 = 410;

/// What becomes of an event that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is sent again after this.
    Again(Duration),
    /// It is a dead letter.
    GiveUp,
}

/// After `attempts` of them, the failed one included; `draw` is any byte, equally likely.
pub fn after_failure(attempts: u32, status: Option<u16>, draw: u8) -> Next {
    if attempts >= ATTEMPTS_MAX || status == Some(GONE) {
        return Next::GiveUp;
    }
    let tripled = 3_i32.checked_pow(attempts.saturating_sub(1));
    let pause = tripled.and_then(|times| PAUSE_FIRST.checked_mul(times)).map_or(PAUSE_MAX, |pause| pause.min(PAUSE_MAX));
    let percent = 100 - i32::from(JITTER_PERCENT) + i32::from(draw) * 2 * i32::from(JITTER_PERCENT) / 255;
    Next::Again(pause * percent / 100)
}

/// Whether a webhook is disabled after a failure; `failing_since` is the first of those after which nothing was taken.
pub fn disabled_by(status: Option<u16>, failing_since: OffsetDateTime, now: OffsetDateTime) -> Option<DisabledReason> {
    if status == Some(GONE) {
        return Some(DisabledReason::Gone);
    }
    (now - failing_since >= FAILING_MAX).then_some(DisabledReason::Failing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(attempts: u32, draw: u8) -> Duration {
        match after_failure(attempts, Some(500), draw) {
            Next::Again(pause) => pause,
            Next::GiveUp => panic!("given up after {attempts} attempts"),
        }
    }

    #[test]
    fn attempts_come_ever_more_seldom_over_more_than_a_day_and_end() {
        assert_eq!((pause(1, 0), pause(1, 255)), (Duration::seconds(4), Duration::seconds(6)));
        assert_eq!(pause(12, 255), PAUSE_MAX * 6 / 5);
        assert!((1..ATTEMPTS_MAX).map(|attempts| pause(attempts, 128)).is_sorted());
        for draw in [0, 255] {
            let over: Duration = (1..ATTEMPTS_MAX).map(|attempts| pause(attempts, draw)).sum();
            assert!(over > Duration::hours(22) && over < Duration::hours(36), "{over}");
        }
        let usual: Duration = (1..ATTEMPTS_MAX).map(|attempts| pause(attempts, 128)).sum();
        assert!(usual > Duration::hours(28), "{usual}");
        for attempts in [ATTEMPTS_MAX, u32::MAX] {
            assert_eq!(after_failure(attempts, None, 0), Next::GiveUp);
        }
    }

    #[test]
    fn pauses_are_spread_over_all_that_the_draw_allows() {
        let mut pauses: Vec<Duration> = (0..=255).map(|draw| pause(5, draw)).collect();
        assert!(pauses.is_sorted());
        pauses.dedup();
        assert!(pauses.len() > 30, "{} different ones", pauses.len());
    }

    #[test]
    fn whoever_is_gone_is_not_asked_again_and_whoever_fails_for_five_days_neither() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(100);
        assert_eq!(after_failure(1, Some(410), 0), Next::GiveUp);
        assert_eq!(disabled_by(Some(410), now, now), Some(DisabledReason::Gone));
        assert_eq!(disabled_by(None, now - FAILING_MAX, now), Some(DisabledReason::Failing));
        assert_eq!(disabled_by(Some(500), now - FAILING_MAX + Duration::seconds(1), now), None);
    }
}
