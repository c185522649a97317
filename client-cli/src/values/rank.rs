//! A rank of a release on the command line.

use protocol::rest::Rank;

use super::decimal::scaled;
use super::moment::span;

/// `WEIGHT:DELAY[:CAPACITY]`, such as `100:0:16` or `60:30s`; a delay without a unit is in seconds.
pub(crate) fn rank(text: &str) -> Result<Rank, String> {
    let malformed = || "expected WEIGHT:DELAY or WEIGHT:DELAY:CAPACITY, such as 60:30s or 100:0:16".to_owned();
    let mut parts = text.split(':');
    let (Some(weight), Some(delay), capacity, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(malformed());
    };
    Ok(Rank {
        weight: positive(weight).ok_or_else(malformed)?,
        delay_s: delay_seconds(delay).ok_or_else(malformed)?,
        capacity: capacity.map(|capacity| positive(capacity).ok_or_else(malformed)).transpose()?,
        duty: None,
    })
}

fn positive(text: &str) -> Option<u32> {
    whole(text).filter(|&number| number > 0)
}

fn whole(text: &str) -> Option<u32> {
    scaled(text, 0).and_then(|number| u32::try_from(number).ok())
}

fn delay_seconds(text: &str) -> Option<u32> {
    whole(text).or_else(|| span(text).ok().and_then(|span| u32::try_from(span.whole_seconds()).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_weight_delay_and_perhaps_capacity() {
        assert_eq!(rank("100:0:1"), Ok(Rank { weight: 100, delay_s: 0, capacity: Some(1), duty: None }));
        assert_eq!(rank("60:30s:64"), Ok(Rank { weight: 60, delay_s: 30, capacity: Some(64), duty: None }));
        assert_eq!(rank("35:1h30m:1000000"), Ok(Rank { weight: 35, delay_s: 5400, capacity: Some(1_000_000), duty: None }));
        assert_eq!(rank("35:90"), Ok(Rank { weight: 35, delay_s: 90, capacity: None, duty: None }));
    }

    #[test]
    fn a_rank_with_a_part_missing_or_zero_is_refused() {
        for bad in [
            "",
            "100",
            "100:0:",
            "100:0:1:2",
            "0:0:1",
            "100:0:0",
            "-1:0:1",
            "100::1",
            "+1:0:1",
            "a:b:c",
            "100:-5:1",
            "1.5:0:1",
            "99999999999:0:1",
        ] {
            assert!(rank(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
