//! The relay duty of a rank on the command line.

use protocol::Amount;

use super::amount::amount;
use super::decimal::scaled;
use super::moment::seconds;

/// What a rank owes: how long after its completion, in seconds, and what is held for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DutyOfRank {
    /// From 1.
    pub(crate) rank: u32,
    pub(crate) after_s: u32,
    pub(crate) deposit: Amount,
}

/// `RANK:SPAN:DEPOSIT`, such as `1:30m:2.00`.
pub(crate) fn duty(text: &str) -> Result<DutyOfRank, String> {
    let malformed = || "expected RANK:SPAN:DEPOSIT, such as 1:30m:2.00".to_owned();
    let mut parts = text.split(':');
    let (Some(rank), Some(span), Some(deposit), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(malformed());
    };
    let rank = scaled(rank, 0).and_then(|rank| u32::try_from(rank).ok()).filter(|&rank| rank > 0).ok_or_else(malformed)?;
    let deposit = amount(deposit)?;
    if deposit.0 == 0 {
        return Err("a duty needs a deposit: without one, nothing would follow from leaving".into());
    }
    Ok(DutyOfRank { rank, after_s: seconds(span)?, deposit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a18_a_duty_is_rank_span_and_deposit() {
        assert_eq!(duty("1:30m:2.00"), Ok(DutyOfRank { rank: 1, after_s: 1_800, deposit: Amount(200) }));
        assert_eq!(duty("16:90s:0.05"), Ok(DutyOfRank { rank: 16, after_s: 90, deposit: Amount(5) }));
        for bad in ["", "1", "1:30m", "0:30m:1", "1:0s:1", "1:30:1", "1:30m:0", "1:30m:-1", "1:30m:1:1", "x:30m:1", "1:30m:1.001"] {
            assert!(duty(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
