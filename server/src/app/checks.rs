//! Collects everything that is wrong with a body, so that a client learns all of it at once.

use std::fmt::Display;
use std::ops::RangeInclusive;

use protocol::error::ProblemError;
use protocol::{Currency, ErrorCode, Money};

use crate::error::ApiError;

/// What was found so far.
#[derive(Debug, Default)]
pub struct Checks {
    errors: Vec<ProblemError>,
}

impl Checks {
    pub fn ensure(&mut self, holds: bool, pointer: impl Display, detail: impl Into<String>) {
        if !holds {
            self.errors.push(ProblemError { pointer: pointer.to_string(), detail: detail.into() });
        }
    }

    /// A text for people: its length counts characters, and it has no control characters (a database text cannot hold U+0000).
    pub fn text(&mut self, pointer: impl Display, text: &str, length: RangeInclusive<usize>) {
        let count = text.chars().count();
        self.ensure(length.contains(&count), &pointer, format!("{count} characters; expected {} to {}", length.start(), length.end()));
        self.ensure(!text.chars().any(char::is_control), &pointer, "control characters are not allowed");
    }

    pub fn count(&mut self, pointer: impl Display, count: u64, allowed: RangeInclusive<u64>) {
        self.ensure(
            allowed.contains(&count),
            pointer,
            format!("{count} is out of range; expected {} to {}", allowed.start(), allowed.end()),
        );
    }

    /// Money in the one currency of the service; `pointer` is that of the money, whose `currency` is at fault.
    pub fn money(&mut self, pointer: impl Display, money: Money, service: Currency) {
        let detail = format!("{} is not the currency of this service, {service}", money.currency);
        self.ensure(money.currency == service, format_args!("{pointer}/currency"), detail);
    }

    /// Nothing may have been found.
    pub fn done(self) -> Result<(), ApiError> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let mut refusal = ApiError::new(ErrorCode::InvalidRequest);
        refusal.errors = self.errors;
        Err(refusal)
    }
}

#[cfg(test)]
mod tests {
    use protocol::Amount;

    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        let mut checks = Checks::default();
        checks.text("/title", "", 1..=200);
        checks.text("/label", "a\u{0}b", 1..=64);
        checks.count("/count", 1001, 1..=1000);
        checks.money("/value", Money { amount: Amount(1), currency: "USD".parse().unwrap() }, Currency::EUR);
        let pointers: Vec<_> = checks.done().unwrap_err().errors.into_iter().map(|error| error.pointer).collect();
        assert_eq!(pointers, ["/title", "/label", "/count", "/value/currency"]);
    }

    #[test]
    fn characters_are_counted_and_not_bytes() {
        let mut checks = Checks::default();
        checks.text("/title", "été", 3..=3);
        checks.money("/value", Money { amount: Amount(1), currency: Currency::EUR }, Currency::EUR);
        assert!(checks.done().is_ok());
    }
}
