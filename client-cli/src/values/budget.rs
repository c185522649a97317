//! Sizes: the origin budget, in bytes or as a multiple of the editions' sum, and the store quota.

use protocol::Bytes;
use protocol::units::JSON_INTEGER_MAX;

use super::decimal::scaled;

/// How much the origin may send, as it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OriginBudget {
    Bytes(Bytes),
    /// Of the sum of the editions' lengths.
    Times {
        thousandths: u64,
    },
}

/// `500000000`, `500MB`, `2GiB`, or `1.1x` for a multiple of the editions' sum.
pub(crate) fn origin_budget(text: &str) -> Result<OriginBudget, String> {
    let malformed = || "expected bytes such as 500000000, 500MB or 2GiB, or a multiple of the editions' sum such as 1.1x".to_owned();
    if let Some(times) = text.strip_suffix('x') {
        return scaled(times, 3).map(|thousandths| OriginBudget::Times { thousandths }).ok_or_else(malformed);
    }
    size(text)
        .ok_or_else(malformed)?
        .map(OriginBudget::Bytes)
        .ok_or_else(|| "that is more than the largest budget, 9007199254740991 bytes".into())
}

/// `20GiB`, `500MB` or bytes; 0 is no quota.
pub(crate) fn store_quota(text: &str) -> Result<Bytes, String> {
    let malformed = || "expected a size such as 20GiB, 500MB or a number of bytes, or 0 for no quota".to_owned();
    size(text).ok_or_else(malformed)?.ok_or_else(|| "that is more than the largest quota, 9007199254740991 bytes".into())
}

/// A whole number with or without a unit. `None` if it is not one, `Some(None)` if it is too large.
fn size(text: &str) -> Option<Option<Bytes>> {
    let number_end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    let count: u64 = number.parse().ok()?;
    Some(count.checked_mul(factor).filter(|bytes| *bytes <= JSON_INTEGER_MAX).map(Bytes))
}

impl OriginBudget {
    /// The budget in bytes for editions of `sum` bytes in all, rounded up.
    pub(crate) fn bytes(self, sum: Bytes) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Times { thousandths } => {
                let bytes = (u128::from(sum.0) * u128::from(thousandths)).div_ceil(1000);
                Bytes(u64::try_from(bytes).unwrap_or(u64::MAX).min(JSON_INTEGER_MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_bytes_or_a_multiple_of_the_editions() {
        let cases: [(&str, u64); 8] = [
            ("500000000", 500_000_000),
            ("12B", 12),
            ("500MB", 500_000_000),
            ("2GiB", 2 << 30),
            ("1x", 1_000_001),
            ("1.1x", 1_100_002),
            ("1.05x", 1_050_002),
            ("0.5x", 500_001),
        ];
        for (text, bytes) in cases {
            assert_eq!(origin_budget(text).map(|budget| budget.bytes(Bytes(1_000_001))), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn other_units_and_other_numbers_are_refused() {
        for bad in ["", "x", "1.1", "1.5GB", "-1", "5 MB", "5mb", "1.1234x", "GiB", "1e9"] {
            assert!(origin_budget(bad).unwrap_err().contains("1.1x"), "{bad:?}");
        }
        assert!(origin_budget("9007199254740992").unwrap_err().contains("largest"));
        assert!(origin_budget("99999999TiB").unwrap_err().contains("largest"));
    }

    #[test]
    fn x09_a_quota_is_a_size_and_says_what_one_looks_like() {
        for (text, bytes) in [("20GiB", 20 << 30), ("500MB", 500_000_000), ("0", 0), ("1", 1), ("9007199254740991", JSON_INTEGER_MAX)] {
            assert_eq!(store_quota(text), Ok(Bytes(bytes)), "{text}");
        }
        for bad in ["", "GiB", "20 GiB", "20gib", "1.5GiB", "-1", "1.1x", "none", "20G"] {
            assert!(store_quota(bad).unwrap_err().contains("such as 20GiB"), "{bad:?}");
        }
        for huge in ["9007199254740992", "99999999TiB"] {
            assert!(store_quota(huge).unwrap_err().contains("largest quota"), "{huge}");
        }
    }

    #[test]
    fn a_multiple_beyond_the_largest_integer_stays_at_it() {
        let budget = origin_budget("18446744073709x").unwrap();
        assert_eq!(budget.bytes(Bytes(JSON_INTEGER_MAX)), Bytes(JSON_INTEGER_MAX));
    }
}
