//! Kits: a terminal that is carried on a stick, and the balance statements that are signed for it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::ids::*;
use crate::units::Money;
use crate::wire::Writer;

const STATEMENT_TAG: &[u8; 22] = b"spillway statement v1\n";
const FILES_TAG: &[u8; 22] = b"spillway kit files v1\n";

/// A terminal becomes a kit's.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKit {
    /// Drawn by whoever makes the kit: it stands in the kit's files.
    pub id: KitId,
    /// The BLAKE3 hash of the list of the read-only area's files, to be signed.
    pub files: Blake3,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Kit {
    pub id: KitId,
    pub terminal_id: TerminalId,
    pub files: Blake3,
    /// The service's signature over [`files_bytes`].
    pub files_signature: Signature,
    /// What the service signs for kits with; the kit keeps it where only its owner can write.
    pub public_key: PublicKey,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Since when it is refused: it was used twice, by itself and by a copy.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub forked_at: Option<OffsetDateTime>,
    /// The last one that was made.
    pub statement: SignedStatement,
}

/// What the wallet of a kit's owner had at a moment. Statements of a kit are a chain: each names the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BalanceStatement {
    pub kit_id: KitId,
    /// From 1 on.
    pub sequence: u64,
    /// The [`BalanceStatement::hash`] of the one before; zeros before the first.
    pub previous: Blake3,
    pub available: Money,
    pub held: Money,
    /// To the millisecond.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SignedStatement {
    pub statement: BalanceStatement,
    pub signature: Signature,
}

/// Asks for the next statement by naming the last one that the kit has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NextStatement {
    pub sequence: u64,
    pub hash: Blake3,
    /// Drawn and kept by the kit before it asks: an answer that was lost is given again to who asks with the same, and to nobody else.
    pub attempt: AttemptId,
}

impl BalanceStatement {
    /// What is signed, little-endian: `tag | kit(16) | sequence u64 | previous(32) | available u64 | held u64 | currency(3) | at u64` in milliseconds.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let at = u64::try_from(self.at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        Writer::with_capacity(128)
            .raw(STATEMENT_TAG)
            .raw(&self.kit_id.to_bytes())
            .u64(self.sequence)
            .raw(&self.previous.0)
            .u64(self.available.amount.0)
            .u64(self.held.amount.0)
            .raw(self.available.currency.as_str().as_bytes())
            .u64(at)
            .finish()
    }

    pub fn hash(&self) -> Blake3 {
        Blake3::of(&self.signed_bytes())
    }
}

impl SignedStatement {
    /// Whether the service has made it as it is.
    pub fn is_genuine(&self, public_key: &PublicKey) -> bool {
        self.statement.available.currency == self.statement.held.currency
            && self.statement.at.nanosecond().is_multiple_of(1_000_000)
            && public_key.verifies(&self.statement.signed_bytes(), &self.signature)
    }
}

/// What is signed of a kit's read-only area.
pub fn files_bytes(kit: KitId, files: &Blake3) -> Vec<u8> {
    [FILES_TAG.as_slice(), &kit.to_bytes(), &files.0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Amount, Currency};
    use time::macros::datetime;

    fn statement() -> BalanceStatement {
        let money = |amount| Money { amount: Amount(amount), currency: Currency::EUR };
        BalanceStatement {
            kit_id: KitId::from_bytes([1; 16]),
            sequence: 7,
            previous: Blake3([2; 32]),
            available: money(1_000),
            held: money(20),
            at: datetime!(2026-11-23 12:00 UTC),
        }
    }

    #[test]
    fn a20_a_statement_that_was_edited_anywhere_is_not_genuine() {
        let key = TerminalKey::from_secret(&[3; 32]);
        let genuine = SignedStatement { statement: statement(), signature: key.sign(&statement().signed_bytes()) };
        assert!(genuine.is_genuine(&key.public()));
        assert!(!genuine.is_genuine(&TerminalKey::from_secret(&[4; 32]).public()));
        let mut finer = genuine.clone();
        finer.statement.at += time::Duration::NANOSECOND;
        assert!(!finer.is_genuine(&key.public()), "nothing is read that is not signed");
        let edits: [fn(&mut BalanceStatement); 6] = [
            |statement| statement.kit_id = KitId::from_bytes([9; 16]),
            |statement| statement.sequence += 1,
            |statement| statement.previous = Blake3([9; 32]),
            |statement| statement.available.amount = Amount(1_000_000),
            |statement| statement.held.amount = Amount(0),
            |statement| statement.at += time::Duration::SECOND,
        ];
        for edit in edits {
            let mut edited = genuine.clone();
            edit(&mut edited.statement);
            assert!(!edited.is_genuine(&key.public()), "{edited:?}");
            assert_ne!(edited.statement.hash(), genuine.statement.hash());
        }
        let json = serde_json::to_string(&genuine).unwrap();
        let read: SignedStatement = serde_json::from_str(&json).unwrap();
        assert!(read.is_genuine(&key.public()), "it survives the disk");
    }
}
