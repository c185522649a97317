//! What people type, parsed exactly into the types of the protocol. No floats: a decimal is read digit by digit.

mod amount;
mod budget;
mod decimal;
mod duty;
mod id;
mod moment;
mod rank;
mod share;

pub(crate) use amount::{amount, balance, signed};
pub(crate) use budget::{OriginBudget, origin_budget, store_quota};
pub(crate) use duty::{DutyOfRank, duty};
pub(crate) use id::{content_id, quarantine_id, release_id, tariff_id, terminal_id, webhook_delivery_id, webhook_id};
pub(crate) use moment::{Moment, moment, seconds};
pub(crate) use rank::rank;
pub(crate) use share::share;

use protocol::BitsPerSecond;

/// A rate in megabit per second; 0 is "not limited".
pub(crate) fn mbit(text: &str) -> Result<BitsPerSecond, String> {
    match decimal::scaled(text, 6) {
        // A petabit per second is beyond any line and keeps the figure within JSON's integers.
        Some(bits) if bits <= 1_000_000_000_000_000 => Ok(BitsPerSecond(bits)),
        Some(_) => Err("that is more than 1000000000 Mbit/s".into()),
        None => Err("expected a number of megabit per second, such as 20 or 2.5".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_decimal_number_of_megabit() {
        assert_eq!(mbit("20"), Ok(BitsPerSecond(20_000_000)));
        assert_eq!(mbit("2.5"), Ok(BitsPerSecond(2_500_000)));
        assert_eq!(mbit("0"), Ok(BitsPerSecond(0)));
        for bad in ["", "2.", "2,5", "0.0000001", "-1", "+1", "20M", "1000000001", "99999999999999999999999"] {
            assert!(mbit(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
