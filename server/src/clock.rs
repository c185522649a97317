//! The one place where the server reads the wall clock. Decisions get the moment passed in.

use protocol::TimestampMs;
use time::OffsetDateTime;

/// The present moment in UTC, cut to microseconds: what Postgres stores, so that a time survives the database unchanged.
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.nanosecond() / 1_000 * 1_000).unwrap_or(now)
}

/// A moment as the terminals' protocol carries it. Moments before 1970 become 0.
pub fn to_timestamp_ms(moment: OffsetDateTime) -> TimestampMs {
    TimestampMs(u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}

/// A moment of that protocol; `None` beyond the year 9999.
pub fn from_timestamp_ms(moment: TimestampMs) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(moment.0) * 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_keeps_no_more_than_microseconds() {
        assert_eq!(now().nanosecond() % 1_000, 0);
    }

    #[test]
    fn a_moment_before_the_epoch_is_zero_on_the_wire() {
        assert_eq!(to_timestamp_ms(OffsetDateTime::UNIX_EPOCH - time::Duration::seconds(1)), TimestampMs(0));
        let later = OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1_234);
        assert_eq!((to_timestamp_ms(later), from_timestamp_ms(TimestampMs(1_234))), (TimestampMs(1_234), Some(later)));
        assert_eq!(from_timestamp_ms(TimestampMs(u64::MAX)), None);
    }
}
