//! Posting to the ledger. What a transfer contains is decided in [`rules::ledger`]; the database checks it once more (`migrations/0002_ledger.sql`).

use std::collections::{BTreeMap, BTreeSet};

use protocol::rest::{LedgerTotals, SignedMoney, TransferKind};
use protocol::{Amount, DeliveryId, ErrorCode, HoldId, TransferId, UserId};
use rules::ledger::{AccountRef, HoldEnd, Transfer};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{amount, bigint};
use super::{Store, StoreError};

/// The hold that pays a transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PaidFrom {
    pub(crate) hold_id: HoldId,
    /// What the hold set aside.
    pub(crate) held: Amount,
    pub(crate) payer: UserId,
}

fn kind_text(kind: TransferKind) -> &'static str {
    match kind {
        TransferKind::VoucherRedemption => "voucher_redemption",
        TransferKind::Delivery => "delivery",
        TransferKind::DutyForfeit => "duty_forfeit",
    }
}

/// An account as the table `accounts` names it.
fn account_key(account: AccountRef) -> (&'static str, Option<Uuid>) {
    match account {
        AccountRef::Wallet(user_id) => ("wallet", Some(user_id.0)),
        AccountRef::Publisher(user_id) => ("publisher", Some(user_id.0)),
        AccountRef::Platform => ("platform", None),
        AccountRef::VouchersIssued => ("vouchers_issued", None),
    }
}

/// Opens the wallets that these users do not have yet. Whoever opens the same one at this moment is waited for; then it is there for both.
async fn open_wallets(tx: &mut PgConnection, users: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO accounts (kind, user_id)
         SELECT 'wallet', wanted.user_id FROM unnest($1::uuid[]) AS wanted (user_id)
         WHERE NOT EXISTS (SELECT FROM accounts WHERE kind = 'wallet' AND accounts.user_id = wanted.user_id)
         ORDER BY wanted.user_id ON CONFLICT DO NOTHING",
    )
    .bind(users)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Locks the wallets of these users in the order of the users' ids, opening those that are missing.
pub(crate) async fn lock_wallets(tx: &mut PgConnection, users: impl IntoIterator<Item = UserId>) -> Result<(), StoreError> {
    let users: Vec<Uuid> = users.into_iter().collect::<BTreeSet<_>>().into_iter().map(|user| user.0).collect();
    open_wallets(tx, &users).await?;
    sqlx::query(
        "SELECT FROM wallets JOIN accounts ON accounts.id = wallets.account_id
         WHERE accounts.kind = 'wallet' AND accounts.user_id = ANY ($1) ORDER BY accounts.user_id FOR UPDATE OF wallets",
    )
    .bind(&users)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Posts a transfer and, if a hold pays it, resolves the hold. An empty transfer posts nothing and only resolves the hold.
pub(crate) async fn post(
    tx: &mut PgConnection,
    transfer: &Transfer,
    delivery_id: Option<DeliveryId>,
    paid_from: Option<PaidFrom>,
    now: OffsetDateTime,
) -> Result<Option<TransferId>, StoreError> {
    let paid = paid_from.map(|paid| taken(paid, transfer).map(|taken| (paid, taken))).transpose()?;
    if transfer.is_empty() {
        if let Some((paid, _)) = paid {
            lock_wallets(tx, [paid.payer]).await?;
            void(tx, paid.hold_id, now).await?;
        }
        return Ok(None);
    }
    let (kinds, users): (Vec<&str>, Vec<Option<Uuid>>) = transfer.entries().iter().map(|(account, _)| account_key(*account)).unzip();
    let amounts: Vec<i64> = transfer.entries().iter().map(|(_, amount)| *amount).collect();
    let transfer_id = TransferId(Uuid::now_v7());
    sqlx::query("SELECT post_transfer($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
        .bind(transfer_id.0)
        .bind(kind_text(transfer.kind()))
        .bind(delivery_id.map(|id| id.0))
        .bind(now)
        .bind(&kinds)
        .bind(&users)
        .bind(&amounts)
        .bind(paid.map(|(paid, _)| paid.payer.0))
        .bind(paid.map(|(paid, _)| paid.hold_id.0))
        .bind(paid.map(|(_, taken)| taken))
        .execute(&mut *tx)
        .await
        .map_err(refused_by_wallet)?;
    Ok(Some(transfer_id))
}

/// What the transfer takes from the wallet of the hold that pays it.
fn taken(paid: PaidFrom, transfer: &Transfer) -> Result<i64, StoreError> {
    let entries = transfer.entries().iter().filter(|(account, amount)| *account == AccountRef::Wallet(paid.payer) && *amount < 0);
    let taken: i64 = entries.map(|(_, amount)| -amount).sum();
    HoldEnd::of(paid.held, amount(taken)?).map_err(|error| StoreError::Invariant(error.to_string()))?;
    Ok(taken)
}

/// Sets an amount aside in a wallet.
///
/// # Errors
/// `insufficient_funds` if less is available.
pub(crate) async fn hold(tx: &mut PgConnection, user_id: UserId, amount: Amount, now: OffsetDateTime) -> Result<HoldId, StoreError> {
    lock_wallets(tx, [user_id]).await?;
    let hold_id = HoldId(Uuid::now_v7());
    sqlx::query(
        "INSERT INTO holds (id, account_id, amount, created_at) SELECT $1, id, $3, $4 FROM accounts WHERE kind = 'wallet' AND user_id = $2",
    )
    .bind(hold_id.0)
    .bind(user_id.0)
    .bind(bigint(amount.0)?)
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(refused_by_wallet)?;
    Ok(hold_id)
}

/// Makes the amount of one hold available again. The caller has locked its wallet, or locks no other one.
pub(crate) async fn void(tx: &mut PgConnection, hold_id: HoldId, now: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO hold_resolutions (hold_id, posted, created_at) VALUES ($1, 0, $2)")
        .bind(hold_id.0)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// What a wallet's own checks mean for whoever asked.
fn refused_by_wallet(error: sqlx::Error) -> StoreError {
    let error = StoreError::Db(error);
    match error.constraint() {
        Some("wallets_available") => StoreError::refused(ErrorCode::InsufficientFunds),
        Some("wallets_exact") => StoreError::refused_because(ErrorCode::Conflict, "the wallet cannot hold more than 2^53 - 1"),
        _ => error,
    }
}

impl Store {
    /// An amount with a direction, as it stands in answers.
    pub fn signed_money(&self, amount: i64) -> SignedMoney {
        SignedMoney { amount, currency: self.currency }
    }

    /// Adds up every entry and every open hold: an audit, not a summary of summaries. Reads the whole ledger.
    ///
    /// # Errors
    /// The database fails.
    pub async fn ledger_totals(&self) -> Result<LedgerTotals, StoreError> {
        let (kinds, totals, held): (Vec<String>, Vec<i64>, i64) = sqlx::query_as(
            "WITH by_kind AS (
                 SELECT kind, sum(amount)::bigint AS total FROM entries JOIN accounts ON accounts.id = entries.account_id GROUP BY kind
             )
             SELECT coalesce(array_agg(kind), '{}'), coalesce(array_agg(total), '{}'),
                 (SELECT coalesce(sum(amount), 0)::bigint FROM holds WHERE NOT EXISTS (SELECT FROM hold_resolutions WHERE hold_id = holds.id))
             FROM by_kind",
        )
        .fetch_one(&self.pool)
        .await?;
        let by_kind: BTreeMap<String, i64> = kinds.into_iter().zip(totals).collect();
        let total = |kind: &str| self.signed_money(by_kind.get(kind).copied().unwrap_or(0));
        Ok(LedgerTotals {
            sum: self.signed_money(by_kind.values().sum()),
            wallets: total("wallet"),
            held: self.signed_money(held),
            publishers: total("publisher"),
            platform: total("platform"),
            vouchers_issued: total("vouchers_issued"),
        })
    }

    /// Brings the roll-ups of the accounts without a balance row up to date, so that reading them stays cheap. Postings wait while it runs.
    ///
    /// # Errors
    /// The database fails, or the lock was not to be had in time: the next call makes up for it.
    pub async fn roll_up_balances(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT roll_up_balances()").execute(&self.pool).await?;
        Ok(())
    }
}
