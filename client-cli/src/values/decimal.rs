//! Decimal numbers without a float.

/// Reads `text` as an unsigned decimal number and returns it in units of 10^-`places`: `("2.5", 2)` is 250. `None` if it is not one, has more than
/// `places` digits after the point, or is too large.
///
/// There must be a digit on each side of a point; signs, exponents and separators are not numbers here.
pub(super) fn scaled(text: &str, places: u32) -> Option<u64> {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (text, ""),
    };
    let fraction_places = u32::try_from(fraction.len()).ok().filter(|&used| used <= places)?;
    let whole = digits(whole)?.checked_mul(10u64.checked_pow(places)?)?;
    let fraction = if fraction.is_empty() { 0 } else { digits(fraction)?.checked_mul(10u64.pow(places - fraction_places))? };
    whole.checked_add(fraction)
}

fn digits(text: &str) -> Option<u64> {
    // `parse` alone would take a leading plus sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_exactly() {
        let cases: [(&str, u32, u64); 9] = [
            ("0", 2, 0),
            ("25", 2, 2500),
            ("25.5", 2, 2550),
            ("25.05", 2, 2505),
            ("0.07", 2, 7),
            ("007", 0, 7),
            ("1.1", 3, 1100),
            ("1.05", 3, 1050),
            ("90071992547409.91", 2, (1 << 53) - 1),
        ];
        for (text, places, expected) in cases {
            assert_eq!(scaled(text, places), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_a_plain_decimal_is_refused() {
        for bad in ["", ".", "5.", ".5", "1.234", "-1", "+1", "1e3", "1,000", "1 000", " 1", "0x10", "١", "1.-5", "184467440737095516.16"]
        {
            assert_eq!(scaled(bad, 2), None, "{bad:?} was accepted");
        }
    }
}
