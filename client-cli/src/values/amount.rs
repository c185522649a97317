//! Amounts of money: decimals of the service's currency, in minor units everywhere behind this file.

use protocol::Amount;
use protocol::rest::SignedMoney;
use protocol::units::JSON_INTEGER_MAX;

use super::decimal::scaled;

/// `25`, `25.5` or `25.50`.
pub(crate) fn amount(text: &str) -> Result<Amount, String> {
    match scaled(text, 2) {
        Some(minor) if minor <= JSON_INTEGER_MAX => Ok(Amount(minor)),
        Some(_) => Err("that is more than any account can hold".into()),
        None => Err("expected an amount with at most two decimals, such as 25 or 25.00".into()),
    }
}

/// A change with its direction, as a statement shows it: `+12.50 EUR`, `-3.00 EUR`.
pub(crate) fn signed(money: SignedMoney) -> String {
    let sign = if money.amount < 0 { "" } else { "+" };
    format!("{sign}{}", balance(money))
}

/// What is there: `12.50 EUR`, and `-3.00 EUR` for what is owed.
pub(crate) fn balance(money: SignedMoney) -> String {
    let sign = if money.amount < 0 { "-" } else { "" };
    let minor = money.amount.unsigned_abs();
    format!("{sign}{}.{:02} {}", minor / 100, minor % 100, money.currency)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Currency, Money};

    #[test]
    fn an_amount_becomes_minor_units_and_comes_back_the_same() {
        for (text, minor, shown) in [("25", 2500, "25.00 EUR"), ("0.05", 5, "0.05 EUR"), ("1.5", 150, "1.50 EUR"), ("0", 0, "0.00 EUR")] {
            assert_eq!(amount(text), Ok(Amount(minor)));
            assert_eq!(Money { amount: Amount(minor), currency: Currency::EUR }.to_string(), shown);
        }
    }

    #[test]
    fn what_cannot_be_an_amount_is_refused_with_an_example() {
        for bad in ["", "-1", "1.999", "1,50", "ten", "1e2", "25.00 EUR", "NaN"] {
            assert!(amount(bad).unwrap_err().contains("25.00"), "{bad:?}");
        }
        assert!(amount("90071992547409.91").is_ok());
        assert!(amount("90071992547409.92").unwrap_err().contains("more than any account"));
    }

    #[test]
    fn a_statement_shows_the_direction_of_a_change_and_a_debt_of_a_balance() {
        let money = |amount| SignedMoney { amount, currency: Currency::EUR };
        assert_eq!(
            (balance(money(1250)), balance(money(0)), balance(money(-5))),
            ("12.50 EUR".into(), "0.00 EUR".into(), "-0.05 EUR".into())
        );
        assert_eq!(signed(money(1250)), "+12.50 EUR");
        assert_eq!(signed(money(-5)), "-0.05 EUR");
        assert_eq!(signed(money(0)), "+0.00 EUR");
        assert_eq!(signed(money(i64::MIN)), "-92233720368547758.08 EUR");
    }
}
