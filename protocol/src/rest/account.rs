//! Users, sessions, terminals, wallets and vouchers.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::ids::*;
use crate::units::{Bytes, Money};
use crate::ws::Capabilities;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Applies, receives and relays.
    User,
    /// Also publishes contents and schedules releases.
    Publisher,
    /// Runs the service: vouchers, roles, the ledger's totals.
    Operator,
}

/// 8 to 128 characters.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    #[schema(format = Email, max_length = 254)]
    pub email: String,
    pub password: Password,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct User {
    pub id: UserId,
    pub email: String,
    pub role: Role,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    pub current: Password,
    pub new: Password,
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRole {
    pub role: Role,
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    #[schema(max_length = 254)]
    pub email: String,
    pub password: Password,
}

#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Tokens {
    /// A JWT signed with EdDSA, valid for `expires_in` seconds.
    pub access_token: String,
    /// Good for one use; using it twice ends the session everywhere.
    pub refresh_token: String,
    #[schema(example = "Bearer")]
    pub token_type: String,
    pub expires_in: u32,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens(expires_in: {})", self.expires_in)
    }
}

#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    pub refresh_token: String,
}

impl std::fmt::Debug for Refresh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refresh(…)")
    }
}

/// A terminal proves that it owns its key by signing `"spillway terminal v1"` followed by the user's id (16 bytes).
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTerminal {
    #[schema(min_length = 1, max_length = 64, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub name: String,
    pub public_key: PublicKey,
    pub proof: Signature,
    #[serde(default)]
    pub capabilities: Capabilities,
}

impl NewTerminal {
    /// The bytes that `proof` covers.
    pub fn proof_bytes(user_id: UserId) -> Vec<u8> {
        [b"spillway terminal v1".as_slice(), &user_id.to_bytes()].concat()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Terminal {
    pub id: TerminalId,
    pub name: String,
    pub public_key: PublicKey,
    pub capabilities: Capabilities,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Wallet {
    /// Can be spent now.
    pub available: Money,
    /// Set aside by holds.
    pub held: Money,
    /// What a publisher has earned; absent for others.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub publisher_balance: Option<SignedMoney>,
}

/// An amount with a direction: positive is a gain of the account that it stands under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SignedMoney {
    pub amount: i64,
    pub currency: crate::units::Currency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransferKind {
    VoucherRedemption,
    Delivery,
    /// A part of the deposit of a relay duty that was not met.
    DutyForfeit,
}

/// One line of a wallet's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WalletEntry {
    pub transfer_id: TransferId,
    pub kind: TransferKind,
    pub amount: SignedMoney,
    /// The wallet's balance after this entry, holds included.
    pub balance: SignedMoney,
    /// Rises by one with each entry of the wallet.
    pub version: u64,
    /// The delivery that was settled, or whose relay duty was not met.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delivery_id: Option<DeliveryId>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl WalletEntry {
    /// The first line of a statement as comma-separated values (RFC 4180); no field of it ever needs quotes.
    pub const CSV_HEADER: &str = "version,created_at,kind,amount,balance,currency,transfer_id,delivery_id\r\n";

    /// The entry's line, with amounts in major units.
    pub fn csv_line(&self) -> String {
        let kind = match self.kind {
            TransferKind::VoucherRedemption => "voucher_redemption",
            TransferKind::Delivery => "delivery",
            TransferKind::DutyForfeit => "duty_forfeit",
        };
        let created_at = self.created_at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
        let delivery = self.delivery_id.map(|id| id.to_string()).unwrap_or_default();
        let (amount, balance) = (major(self.amount.amount), major(self.balance.amount));
        format!("{},{created_at},{kind},{amount},{balance},{},{},{delivery}\r\n", self.version, self.amount.currency, self.transfer_id)
    }
}

fn major(minor: i64) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", minor.unsigned_abs() / 100, minor.unsigned_abs() % 100)
}

/// Money of a wallet that is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Hold {
    pub id: HoldId,
    pub amount: Money,
    pub reason: HoldReason,
    /// The release's, or the content's.
    pub title: String,
    /// The edition's.
    pub label: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What it is set aside for, and so when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HoldReason {
    /// The maximum of a bid and the deposit beside it, until the book closes or the application is withdrawn.
    Application { application_id: ApplicationId, release_id: ReleaseId },
    /// The price of a place, until what is delivered is settled.
    Delivery { delivery_id: DeliveryId, release_id: ReleaseId },
    /// The deposit of a relay duty, until the duty has ended.
    RelayDuty { delivery_id: DeliveryId, release_id: ReleaseId },
    /// The price of a download, until it is complete or given up.
    Download { download_id: DownloadId, content_id: ContentId },
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVouchers {
    /// How many codes to make, 1 to 1,000.
    #[schema(minimum = 1, maximum = 1000)]
    pub count: u32,
    /// The worth of each.
    pub value: Money,
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<OffsetDateTime>,
}

/// The codes are shown this once; the server keeps only their hashes.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Vouchers {
    pub batch_id: VoucherBatchId,
    pub codes: Vec<String>,
    pub value: Money,
}

impl std::fmt::Debug for Vouchers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vouchers(batch_id: {}, {} codes)", self.batch_id, self.codes.len())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redemption {
    #[schema(min_length = 1, max_length = 64, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub code: String,
}

/// The ledger's totals, for the operator: `sum` is always 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LedgerTotals {
    /// Over every entry of every account.
    pub sum: SignedMoney,
    /// Over all wallets, holds included.
    pub wallets: SignedMoney,
    /// Set aside by unresolved holds.
    pub held: SignedMoney,
    pub publishers: SignedMoney,
    pub platform: SignedMoney,
    /// Negative: what was issued against prepaid vouchers.
    pub vouchers_issued: SignedMoney,
}

/// How much payload the origin has sent for a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OriginUsage {
    pub budget: Bytes,
    pub sent: Bytes,
    /// Reserved by server instances in blocks, sent or not.
    pub reserved: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Currency;

    #[test]
    fn a11_a_statement_is_a_table_that_other_programs_read() {
        let signed = |amount| SignedMoney { amount, currency: Currency::EUR };
        let mut entry = WalletEntry {
            transfer_id: TransferId::from_bytes([1; 16]),
            kind: TransferKind::Delivery,
            amount: signed(-5),
            balance: signed(123_456),
            version: 7,
            delivery_id: Some(DeliveryId::from_bytes([2; 16])),
            created_at: time::macros::datetime!(2026-11-21 12:00:05 UTC),
        };
        let (transfer, delivery) = ("01010101-0101-0101-0101-010101010101", "02020202-0202-0202-0202-020202020202");
        assert_eq!(entry.csv_line(), format!("7,2026-11-21T12:00:05Z,delivery,-0.05,1234.56,EUR,{transfer},{delivery}\r\n"));
        (entry.amount, entry.delivery_id) = (signed(-10_000), None);
        assert!(entry.csv_line().contains(",-100.00,") && entry.csv_line().ends_with(&format!("{transfer},\r\n")));
        assert_eq!(entry.csv_line().matches(',').count(), WalletEntry::CSV_HEADER.matches(',').count());
    }
}
