//! What a delivery costs its receiver and who is paid for it.
//!
//! First [`attribute`] says which source delivered each verified chunk, each chunk once; then [`settle`] turns bytes into money:
//!
//! * charge = ⌊price · counted / edition⌋, where counted is what was received and, in a release, what the receiver declared to hold already, so that
//!   holding 95 % does not buy a rank for 5 %;
//! * fee = ⌈charge · fee⌉ to the platform;
//! * pool = ⌊(charge − fee) · Σ bytes · share / Σ bytes⌋, over all sources, divided by bytes · share with the largest remainder (ties by terminal id, the origin
//!   last). Where no tariff gives a relay another share, that is ⌊(charge − fee) · relay share⌋, divided by bytes. What nobody sent counts as the origin's;
//! * the origin's part and the rest go to the publisher, who bears the origin's egress.
//!
//! The parts add up to the charge exactly, and the hold's remainder is released. Nothing received costs nothing.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

mod attribution;
mod division;

use std::collections::BTreeMap;

pub use attribution::{Attribution, Contested, Record, attribute};
use division::Division;

use protocol::units::JSON_INTEGER_MAX;
use protocol::{Amount, BasisPoints, Bytes, TerminalId};
use serde::{Deserialize, Serialize};

/// Why a delivery cannot be settled from what was passed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettlementError {
    #[error("an edition without bytes cannot be charged for")]
    EmptyEdition,
    #[error("chunk {chunk} is beyond the edition's {chunks} chunks")]
    UnknownChunk { chunk: u32, chunks: usize },
    #[error("{verified} bytes were counted of an edition of {edition}")]
    MoreThanTheEdition { verified: u128, edition: u64 },
    #[error("an amount is above the largest one, {JSON_INTEGER_MAX}")]
    AmountOutOfBounds,
}

/// Whether chunks that the receiver held before are charged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charging {
    /// A release sells a rank: held chunks count.
    Release,
    /// On demand only what was received counts.
    OnDemand,
}

/// The terms that a delivery was made under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// For the whole edition: the award's price or the tariff's, and what the hold stands at.
    pub price: Amount,
    pub charging: Charging,
    pub fee: BasisPoints,
    /// The relays' share of what the fee leaves.
    pub relay_share: BasisPoints,
}

/// Verified bytes of one source; [`TerminalId::ORIGIN`] for the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBytes {
    pub source: TerminalId,
    pub bytes: Bytes,
}

/// One relay's pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayPart {
    pub terminal_id: TerminalId,
    pub bytes: Bytes,
    pub amount: Amount,
}

/// A settled delivery: `charge` = `fee` + all of `relays` + `publisher`, and `charge` + `released` = the price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// What the charge was computed from.
    pub counted: Bytes,
    /// Leaves the receiver's wallet.
    pub charge: Amount,
    /// To the platform.
    pub fee: Amount,
    /// What was divided over all sources, the origin's part included.
    pub pool: Amount,
    /// Every relay that delivered something, in ascending order of terminal id, even if its part came to nothing.
    pub relays: Vec<RelayPart>,
    /// The origin's part of the pool and what the pool left.
    pub publisher: Amount,
    /// Goes back from the hold to the receiver.
    pub released: Amount,
}

/// Settles a delivery of `edition_bytes` of which `sources` delivered what they did and `held` was there before (or repeats an earlier chunk).
/// The same source may stand several times; the order does not matter. `shares` has the relays that a tariff gives another share than `terms.relay_share`.
///
/// # Errors
/// [`SettlementError`] if more was delivered than there is, the edition is empty, or the price is no valid amount.
pub fn settle(
    terms: &Terms,
    edition_bytes: Bytes,
    sources: &[SourceBytes],
    held: Bytes,
    shares: &BTreeMap<TerminalId, BasisPoints>,
) -> Result<Settlement, SettlementError> {
    if edition_bytes.0 == 0 {
        return Err(SettlementError::EmptyEdition);
    }
    if terms.price.0 > JSON_INTEGER_MAX {
        return Err(SettlementError::AmountOutOfBounds);
    }
    let received = sources.iter().fold(0u128, |sum, source| sum.saturating_add(u128::from(source.bytes.0)));
    let known = received.saturating_add(u128::from(held.0));
    let beyond = SettlementError::MoreThanTheEdition { verified: known, edition: edition_bytes.0 };
    if known > u128::from(edition_bytes.0) {
        return Err(beyond);
    }
    let counted_held = match terms.charging {
        Charging::Release => held,
        Charging::OnDemand => Bytes(0),
    };
    let counted = u64::try_from(received).ok().and_then(|received| received.checked_add(counted_held.0)).map(Bytes).ok_or(beyond)?;
    let charge = share(terms.price, u128::from(counted.0), u128::from(edition_bytes.0))?;
    let fee = share_up(charge, terms.fee)?;
    let after_fee = charge.0.checked_sub(fee.0).map(Amount).ok_or(SettlementError::AmountOutOfBounds)?;
    let share_of = |source: TerminalId| shares.get(&source).copied().filter(|_| !source.is_origin()).unwrap_or(terms.relay_share);
    let Division { pool, relays } =
        division::divide(after_fee, sources, counted_held, share_of).ok_or(SettlementError::AmountOutOfBounds)?;
    let paid = relays.iter().try_fold(0u64, |sum, part| sum.checked_add(part.amount.0)).ok_or(SettlementError::AmountOutOfBounds)?;
    let publisher = after_fee.0.checked_sub(paid).map(Amount).ok_or(SettlementError::AmountOutOfBounds)?;
    let released = terms.price.0.checked_sub(charge.0).map(Amount).ok_or(SettlementError::AmountOutOfBounds)?;
    Ok(Settlement { counted, charge, fee, pool, relays, publisher, released })
}

/// ⌊amount · part / whole⌋
fn share(amount: Amount, part: u128, whole: u128) -> Result<Amount, SettlementError> {
    let exact = u128::from(amount.0).checked_mul(part).and_then(|product| product.checked_div(whole));
    exact.and_then(|exact| u64::try_from(exact).ok()).map(Amount).ok_or(SettlementError::AmountOutOfBounds)
}

/// ⌈amount · share⌉
fn share_up(amount: Amount, share: BasisPoints) -> Result<Amount, SettlementError> {
    let product = u128::from(amount.0).checked_mul(u128::from(share.get())).ok_or(SettlementError::AmountOutOfBounds)?;
    u64::try_from(product.div_ceil(u128::from(BasisPoints::ALL.get()))).map(Amount).map_err(|_| SettlementError::AmountOutOfBounds)
}
