//! Percentages with up to two decimals.

use protocol::BasisPoints;

use super::decimal::scaled;

/// `50%` or `2.5%`, at most `100%`.
pub(crate) fn share(text: &str) -> Result<BasisPoints, String> {
    let malformed = || "expected a percentage with at most two decimals, such as 50% or 2.5%".to_owned();
    let hundredths = text.strip_suffix('%').and_then(|number| scaled(number, 2)).ok_or_else(malformed)?;
    u16::try_from(hundredths).ok().and_then(BasisPoints::new).ok_or_else(|| "that is more than 100%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_becomes_basis_points() {
        for (text, points) in [("50%", 5000), ("2.5%", 250), ("0.01%", 1), ("0%", 0), ("100%", 10_000)] {
            assert_eq!(share(text).map(BasisPoints::get), Ok(points), "{text}");
        }
    }

    #[test]
    fn a_percentage_needs_its_sign_and_stays_below_the_whole() {
        for bad in ["50", "0.5", "%", "-1%", "1.234%", "50 %", "fifty%"] {
            assert!(share(bad).unwrap_err().contains("such as"), "{bad:?}");
        }
        for more in ["100.01%", "655.37%", "999999999%"] {
            assert!(share(more).unwrap_err().contains("more than 100%"), "{more:?}");
        }
    }
}
