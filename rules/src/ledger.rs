//! What a transfer posts: entries on accounts that add up to zero. The database checks the same rule again; here it is impossible to build anything
//! else.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

pub use protocol::rest::TransferKind;
use protocol::units::JSON_INTEGER_MAX;
use protocol::{Amount, TerminalId, UserId};
use serde::{Deserialize, Serialize};

use crate::settlement::Settlement;

/// An account, in the order in which accounts are locked: wallets by user, publishers by user, then the hot ones, which are append-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountRef {
    Wallet(UserId),
    Publisher(UserId),
    Platform,
    /// The other side of prepaid credit: falls below zero by what was redeemed.
    VouchersIssued,
}

/// Why a transfer cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("the entries add up to {0}, not to zero")]
    Unbalanced(i128),
    #[error("an entry is beyond the largest amount, {JSON_INTEGER_MAX}")]
    OutOfBounds,
    #[error("nobody is known to own terminal {0}, which is to be paid")]
    UnknownOwner(TerminalId),
    #[error("{posted} cannot be posted from a hold of {held}")]
    MoreThanHeld { held: u64, posted: u64 },
    #[error("a voucher must be worth something")]
    NothingToRedeem,
}

/// A balanced transfer: immutable once made, corrected only by another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    kind: TransferKind,
    entries: Vec<(AccountRef, i64)>,
}

impl Transfer {
    /// A transfer with one entry per account, none of them zero, in lock order. It may be empty, if the entries cancel out: then there is nothing to
    /// post.
    ///
    /// # Errors
    /// [`LedgerError::Unbalanced`], or [`LedgerError::OutOfBounds`] if an account's entry is beyond ±(2^53 − 1).
    pub fn new(kind: TransferKind, entries: impl IntoIterator<Item = (AccountRef, i64)>) -> Result<Self, LedgerError> {
        let mut sums: BTreeMap<AccountRef, i128> = BTreeMap::new();
        let mut total: i128 = 0;
        for (account, amount) in entries {
            let sum = sums.entry(account).or_default();
            *sum = sum.checked_add(i128::from(amount)).ok_or(LedgerError::OutOfBounds)?;
            total = total.checked_add(i128::from(amount)).ok_or(LedgerError::OutOfBounds)?;
        }
        if total != 0 {
            return Err(LedgerError::Unbalanced(total));
        }
        let mut merged = Vec::with_capacity(sums.len());
        for (account, sum) in sums {
            if sum.unsigned_abs() > u128::from(JSON_INTEGER_MAX) {
                return Err(LedgerError::OutOfBounds);
            }
            if sum != 0 {
                merged.push((account, i64::try_from(sum).map_err(|_| LedgerError::OutOfBounds)?));
            }
        }
        Ok(Self { kind, entries: merged })
    }

    /// Prepaid credit enters a wallet.
    ///
    /// # Errors
    /// [`LedgerError::NothingToRedeem`] for a voucher of 0, [`LedgerError::OutOfBounds`] for one above 2^53 − 1.
    pub fn voucher_redemption(user: UserId, value: Amount) -> Result<Self, LedgerError> {
        if value.0 == 0 {
            return Err(LedgerError::NothingToRedeem);
        }
        let entries = [(AccountRef::VouchersIssued, minus(value)?), (AccountRef::Wallet(user), plus(value)?)];
        Self::new(TransferKind::VoucherRedemption, entries)
    }

    /// A settled delivery: the receiver's owner pays the relays' owners, the publisher and the platform. An owner of several of these terminals
    /// gets one entry; a user who relays to its own terminal pays itself, less the fee.
    ///
    /// # Errors
    /// [`LedgerError::UnknownOwner`] if `owner_of` does not know a relay that is to be paid, [`LedgerError::Unbalanced`] or
    /// [`LedgerError::OutOfBounds`] if the settlement was not made by [`crate::settlement::settle`].
    pub fn delivery(
        settlement: &Settlement,
        receiver: UserId,
        publisher: UserId,
        owner_of: impl Fn(TerminalId) -> Option<UserId>,
    ) -> Result<Self, LedgerError> {
        let mut entries = vec![
            (AccountRef::Wallet(receiver), minus(settlement.charge)?),
            (AccountRef::Publisher(publisher), plus(settlement.publisher)?),
            (AccountRef::Platform, plus(settlement.fee)?),
        ];
        for part in settlement.relays.iter().filter(|part| part.amount.0 > 0) {
            let owner = owner_of(part.terminal_id).ok_or(LedgerError::UnknownOwner(part.terminal_id))?;
            entries.push((AccountRef::Wallet(owner), plus(part.amount)?));
        }
        Self::new(TransferKind::Delivery, entries)
    }

    /// What of a relay duty's deposit goes to the publisher; empty if that is nothing.
    ///
    /// # Errors
    /// [`LedgerError::OutOfBounds`] for more than 2^53 − 1.
    pub fn duty_forfeit(forfeited: Amount, owner: UserId, publisher: UserId) -> Result<Self, LedgerError> {
        let entries = [(AccountRef::Wallet(owner), minus(forfeited)?), (AccountRef::Publisher(publisher), plus(forfeited)?)];
        Self::new(TransferKind::DutyForfeit, entries)
    }

    pub fn kind(&self) -> TransferKind {
        self.kind
    }

    /// One entry per account, none zero, adding up to zero, in the order in which the accounts are to be locked.
    pub fn entries(&self) -> &[(AccountRef, i64)] {
        &self.entries
    }

    /// Whether there is nothing to post.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// How a hold ends, once and by a row of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldEnd {
    /// All of it was spent.
    Posted,
    /// A part was spent, the rest is available again.
    PartlyPosted { released: Amount },
    /// Nothing was spent.
    Voided,
}

impl HoldEnd {
    /// # Errors
    /// [`LedgerError::MoreThanHeld`]: a hold never pays more than was set aside.
    pub fn of(held: Amount, posted: Amount) -> Result<Self, LedgerError> {
        let released = held.0.checked_sub(posted.0).ok_or(LedgerError::MoreThanHeld { held: held.0, posted: posted.0 })?;
        Ok(match (posted.0, released) {
            (0, _) => Self::Voided,
            (_, 0) => Self::Posted,
            (_, released) => Self::PartlyPosted { released: Amount(released) },
        })
    }
}

fn plus(amount: Amount) -> Result<i64, LedgerError> {
    i64::try_from(amount.0).map_err(|_| LedgerError::OutOfBounds)
}

fn minus(amount: Amount) -> Result<i64, LedgerError> {
    plus(amount)?.checked_neg().ok_or(LedgerError::OutOfBounds)
}
