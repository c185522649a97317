//! Between Postgres's signed integers and byte strings and the protocol's types. A stored value that does not fit is a defect, not a zero.

use protocol::{Amount, BasisPoints, Bytes};
use time::OffsetDateTime;

use super::StoreError;

/// A count or amount as a `bigint`.
pub(crate) fn bigint(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Invariant(format!("{value} does not fit a bigint")))
}

/// A count as an `integer`.
pub(crate) fn integer(value: u32) -> Result<i32, StoreError> {
    i32::try_from(value).map_err(|_| StoreError::Invariant(format!("{value} does not fit an integer")))
}

/// A `bigint` that is never negative.
pub(crate) fn unsigned(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Invariant(format!("the stored {value} is negative")))
}

/// An `integer` that is never negative.
pub(crate) fn small(value: i32) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| StoreError::Invariant(format!("the stored {value} is negative")))
}

pub(crate) fn amount(value: i64) -> Result<Amount, StoreError> {
    unsigned(value).map(Amount)
}

pub(crate) fn bytes(value: i64) -> Result<Bytes, StoreError> {
    unsigned(value).map(Bytes)
}

pub(crate) fn basis_points(value: i32) -> Result<BasisPoints, StoreError> {
    u16::try_from(value)
        .ok()
        .and_then(BasisPoints::new)
        .ok_or_else(|| StoreError::Invariant(format!("the stored {value} is no share in basis points")))
}

/// A `bytea` of a fixed length: a hash, a key, a signature, a bitmap.
pub(crate) fn byte_array<const N: usize>(value: &[u8]) -> Result<[u8; N], StoreError> {
    value.try_into().map_err(|_| StoreError::Invariant(format!("a stored byte string has {} bytes instead of {N}", value.len())))
}

/// Postgres keeps microseconds: a time is cut before it is stored, so that the answer to a request equals what is read later.
pub(crate) fn stored_time(moment: OffsetDateTime) -> OffsetDateTime {
    moment.replace_nanosecond(moment.nanosecond() / 1_000 * 1_000).unwrap_or(moment).to_offset(time::UtcOffset::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_does_not_fit_is_an_error_and_never_another_value() {
        assert!(bigint(u64::MAX).is_err());
        assert!(integer(u32::MAX).is_err());
        assert!(unsigned(-1).is_err() && small(-1).is_err());
        assert!(basis_points(10_001).is_err() && basis_points(-1).is_err());
        assert!(byte_array::<32>(&[0; 31]).is_err());
        assert_eq!(amount(7).unwrap(), Amount(7));
    }

    #[test]
    fn a_time_is_cut_to_microseconds_in_utc() {
        let moment = time::macros::datetime!(2026-11-21 10:00:00.123_456_789 +2);
        assert_eq!(stored_time(moment), time::macros::datetime!(2026-11-21 08:00:00.123_456 UTC));
    }
}
