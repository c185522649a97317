//! Moments: from now (`+10s`) or by the calendar (RFC 3339).

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// The longest span: the service takes no release further ahead.
const SPAN_SECONDS_MAX: u64 = 366 * 24 * 3600;

/// A moment as it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    FromNow(Duration),
    At(OffsetDateTime),
}

impl Moment {
    pub(crate) fn resolve(self, now: OffsetDateTime) -> OffsetDateTime {
        match self {
            Self::FromNow(span) => now.saturating_add(span),
            Self::At(moment) => moment,
        }
    }
}

/// `+90s`, `+1h30m`, `2026-12-24T18:00:00Z`.
pub(crate) fn moment(text: &str) -> Result<Moment, String> {
    if let Some(from_now) = text.strip_prefix('+') {
        return span(from_now).map(Moment::FromNow).map_err(|_| malformed_moment());
    }
    OffsetDateTime::parse(text, &Rfc3339).map(Moment::At).map_err(|_| malformed_moment())
}

fn malformed_moment() -> String {
    "expected a time from now such as +10s, +5m or +1h30m, or a date and time such as 2026-12-24T18:00:00Z".to_owned()
}

/// `90s`, `5m`, `1h30m`, `2d`: units once each, from large to small.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let malformed = || "expected a span such as 90s, 5m, 1h30m or 2d".to_owned();
    let (mut rest, mut total, mut last_unit) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let number_end = rest.find(|character: char| !character.is_ascii_digit()).ok_or_else(malformed)?;
        let (number, tail) = rest.split_at(number_end);
        let (unit, tail) = tail.split_at(tail.chars().next().map_or(0, char::len_utf8));
        let unit_seconds = match unit {
            "d" => 86_400,
            "h" => 3_600,
            "m" => 60,
            "s" => 1,
            _ => return Err(malformed()),
        };
        if unit_seconds >= last_unit {
            return Err(malformed());
        }
        let count: u64 = number.parse().map_err(|_| malformed())?;
        total = count.checked_mul(unit_seconds).and_then(|seconds| total.checked_add(seconds)).ok_or_else(malformed)?;
        (rest, last_unit) = (tail, unit_seconds);
    }
    if text.is_empty() {
        return Err(malformed());
    }
    if total > SPAN_SECONDS_MAX {
        return Err(format!("that is more than {} days", SPAN_SECONDS_MAX / 86_400));
    }
    i64::try_from(total).map(Duration::seconds).map_err(|_| malformed())
}

/// A span in whole seconds, at least one.
pub(crate) fn seconds(text: &str) -> Result<u32, String> {
    let seconds = u32::try_from(span(text)?.whole_seconds()).map_err(|error| error.to_string())?;
    if seconds == 0 { Err("expected a span of at least one second".into()) } else { Ok(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_moment_is_relative_or_absolute() {
        let now = datetime!(2026-11-21 12:00 UTC);
        let cases = [
            ("+0s", datetime!(2026-11-21 12:00 UTC)),
            ("+10s", datetime!(2026-11-21 12:00:10 UTC)),
            ("+1h30m", datetime!(2026-11-21 13:30 UTC)),
            ("+1d2h3m4s", datetime!(2026-11-22 14:03:04 UTC)),
            ("2026-12-24T18:00:00Z", datetime!(2026-12-24 18:00 UTC)),
            ("2026-12-24T18:00:00.5+01:00", datetime!(2026-12-24 17:00:00.5 UTC)),
        ];
        for (text, expected) in cases {
            assert_eq!(moment(text).map(|moment| moment.resolve(now)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_examples_of_both() {
        let bad = [
            "",
            "+",
            "10s",
            "+10",
            "+10x",
            "+-5s",
            "+s",
            "+1s1m",
            "+1m1m",
            "+é",
            "tomorrow",
            "2026-12-24",
            "2026-13-01T00:00:00Z",
            "+400d",
        ];
        for text in bad {
            let error = moment(text).unwrap_err();
            assert!(error.contains("+10s") && error.contains("2026"), "{text:?}: {error}");
        }
        assert!(moment("+99999999999999999999s").is_err());
        assert!(moment(&format!("+{}d", u64::MAX)).is_err());
    }

    #[test]
    fn a_limit_is_at_least_a_second() {
        assert_eq!(seconds("10m"), Ok(600));
        assert!(seconds("0s").unwrap_err().contains("at least"));
        assert!(seconds("10").unwrap_err().contains("1h30m"));
        assert_eq!(seconds("400d"), Err("that is more than 366 days".into()));
    }
}
