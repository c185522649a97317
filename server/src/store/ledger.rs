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

/// Opens the accounts of a kind that these users do not have yet. Whoever opens the same one at this moment is waited for; then it is there for both.
async fn open_accounts(tx: &mut PgConnection, kind: &str, users: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO accounts (kind, user_id)
         SELECT $1, wanted.user_id FROM unnest($2::uuid[]) AS wanted (user_id)
         WHERE NOT EXISTS (SELECT FROM accounts WHERE kind = $1 AND accounts.user_id = wanted.user_id)
         ORDER BY wanted.user_id ON CONFLICT DO NOTHING",
    )
    .bind(kind)
    .bind(users)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Locks the wallets of these users in the order of the users' ids, opening those that are missing.
pub(crate) async fn lock_wallets(tx: &mut PgConnection, users: impl IntoIterator<Item = UserId>) -> Result<(), StoreError> {
    let users: Vec<Uuid> = users.into_iter().collect::<BTreeSet<_>>().into_iter().map(|user| user.0).collect();
    open_accounts(tx, "wallet", &users).await?;
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
///
/// The order matters, because the database checks a wallet at once: the hold is resolved before the entry takes its amount.
pub(crate) async fn post(
    tx: &mut PgConnection,
    transfer: &Transfer,
    delivery_id: Option<DeliveryId>,
    paid_from: Option<PaidFrom>,
    now: OffsetDateTime,
) -> Result<Option<TransferId>, StoreError> {
    let owners = |wanted: &str| -> Vec<Uuid> {
        transfer
            .entries()
            .iter()
            .map(|(account, _)| account_key(*account))
            .filter(|(kind, _)| *kind == wanted)
            .filter_map(|(_, user)| user)
            .collect()
    };
    open_accounts(tx, "publisher", &owners("publisher")).await?;
    lock_wallets(tx, owners("wallet").into_iter().map(UserId).chain(paid_from.map(|paid| paid.payer))).await?;
    let transfer_id = if transfer.is_empty() { None } else { Some(TransferId(Uuid::now_v7())) };
    if let Some(transfer_id) = transfer_id {
        sqlx::query("INSERT INTO transfers (id, kind, delivery_id, created_at) VALUES ($1, $2, $3, $4)")
            .bind(transfer_id.0)
            .bind(kind_text(transfer.kind()))
            .bind(delivery_id.map(|id| id.0))
            .bind(now)
            .execute(&mut *tx)
            .await?;
    }
    if let Some(paid) = paid_from {
        resolve(tx, paid, transfer, transfer_id, now).await?;
    }
    let Some(transfer_id) = transfer_id else { return Ok(None) };
    insert_entries(tx, transfer_id, transfer).await?;
    Ok(Some(transfer_id))
}

async fn insert_entries(tx: &mut PgConnection, transfer_id: TransferId, transfer: &Transfer) -> Result<(), StoreError> {
    let (kinds, users): (Vec<&str>, Vec<Option<Uuid>>) = transfer.entries().iter().map(|(account, _)| account_key(*account)).unzip();
    let amounts: Vec<i64> = transfer.entries().iter().map(|(_, amount)| *amount).collect();
    let inserted = sqlx::query(
        "INSERT INTO entries (transfer_id, account_id, amount)
         SELECT $1, accounts.id, posting.amount
         FROM unnest($2::text[], $3::uuid[], $4::bigint[]) WITH ORDINALITY AS posting (kind, user_id, amount, position)
         JOIN accounts ON accounts.kind = posting.kind AND accounts.user_id IS NOT DISTINCT FROM posting.user_id
         ORDER BY posting.position",
    )
    .bind(transfer_id.0)
    .bind(&kinds)
    .bind(&users)
    .bind(&amounts)
    .execute(&mut *tx)
    .await
    .map_err(refused_by_wallet)?;
    if inserted.rows_affected() != transfer.entries().len() as u64 {
        return Err(StoreError::Invariant("an account of the transfer is missing".to_owned()));
    }
    Ok(())
}

/// Ends the hold with what the transfer takes from its wallet; the rest is available again.
async fn resolve(
    tx: &mut PgConnection,
    paid: PaidFrom,
    transfer: &Transfer,
    transfer_id: Option<TransferId>,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let taken: i64 = transfer
        .entries()
        .iter()
        .filter(|(account, amount)| *account == AccountRef::Wallet(paid.payer) && *amount < 0)
        .map(|(_, amount)| -amount)
        .sum();
    let (posted, transfer_id) = match HoldEnd::of(paid.held, amount(taken)?).map_err(|error| StoreError::Invariant(error.to_string()))? {
        HoldEnd::Voided => (0, None),
        HoldEnd::Posted | HoldEnd::PartlyPosted { .. } => (taken, transfer_id.map(|id| id.0)),
    };
    sqlx::query("INSERT INTO hold_resolutions (hold_id, posted, transfer_id, created_at) VALUES ($1, $2, $3, $4)")
        .bind(paid.hold_id.0)
        .bind(posted)
        .bind(transfer_id)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    Ok(())
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
