//! What people type, parsed exactly into the types of the protocol. No floats: a decimal is read digit by digit.

mod amount;
mod budget;
mod decimal;
mod id;
mod moment;
mod rank;
mod share;

pub(crate) use amount::{amount, balance, signed};
pub(crate) use budget::{OriginBudget, origin_budget};
pub(crate) use id::{content_id, release_id};
pub(crate) use moment::{Moment, moment, seconds};
pub(crate) use rank::rank;
pub(crate) use share::share;

use protocol::BitsPerSecond;

/// A rate in whole megabit per second; 0 is "not limited".
pub(crate) fn mbit(text: &str) -> Result<BitsPerSecond, String> {
    match decimal::scaled(text, 0) {
        // A petabit per second is beyond any line and keeps the product within JSON's integers.
        Some(mbit) if mbit <= 1_000_000_000 => Ok(BitsPerSecond::from_mbit(mbit)),
        Some(_) => Err("that is more than 1000000000 Mbit/s".into()),
        None => Err("expected a whole number of megabit per second, such as 20".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_whole_number_of_megabit() {
        assert_eq!(mbit("20"), Ok(BitsPerSecond(20_000_000)));
        assert_eq!(mbit("0"), Ok(BitsPerSecond(0)));
        for bad in ["", "2.5", "-1", "+1", "20M", "1000000001", "99999999999999999999999"] {
            assert!(mbit(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
