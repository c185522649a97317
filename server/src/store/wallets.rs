//! What a person sees of the ledger: the wallet and its statement.

use protocol::rest::{Hold, HoldReason, Page, TransferKind, Wallet, WalletEntry};
use protocol::{ApplicationId, ContentId, DeliveryId, DownloadId, HoldId, Money, ReleaseId, TransferId, UserId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{amount, unsigned};
use super::{PageRequest, Store, StoreError};

#[derive(sqlx::FromRow)]
struct EntryRow {
    transfer_id: Uuid,
    kind: String,
    delivery_id: Option<Uuid>,
    created_at: OffsetDateTime,
    amount: i64,
    balance: i64,
    version: i64,
}

#[derive(sqlx::FromRow)]
struct HoldRow {
    id: Uuid,
    amount: i64,
    created_at: OffsetDateTime,
    title: String,
    label: String,
    on_demand: bool,
    content_id: Uuid,
    release_id: Uuid,
    application_id: Option<Uuid>,
    delivery_id: Option<Uuid>,
    duty_of: Option<Uuid>,
}

const ENTRIES: &str = "SELECT entries.transfer_id, transfers.kind, coalesce(transfers.delivery_id, duties.delivery_id) AS delivery_id,
         transfers.created_at, amount, balance, version
     FROM entries JOIN transfers ON transfers.id = entries.transfer_id JOIN accounts ON accounts.id = entries.account_id
     LEFT JOIN duties ON duties.transfer_id = transfers.id
     WHERE accounts.kind = 'wallet' AND accounts.user_id = $1 AND ($2::bigint IS NULL OR version < $2)
         AND ($3::uuid IS NULL OR entries.transfer_id = $3)
     ORDER BY version DESC LIMIT $4";

impl Store {
    /// A user's wallet; all zero before the first posting. A publisher's earnings stand beside it.
    ///
    /// # Errors
    /// There is no such user, or the database fails.
    pub async fn wallet(&self, user_id: UserId) -> Result<Wallet, StoreError> {
        let row: Option<(i64, i64, bool, i64)> = sqlx::query_as(
            "SELECT coalesce(wallets.posted, 0), coalesce(wallets.held, 0),
                 users.role = 'publisher' OR earnings.id IS NOT NULL, coalesce(account_balance(earnings.id), 0)
             FROM users
             LEFT JOIN accounts purse ON purse.user_id = users.id AND purse.kind = 'wallet'
             LEFT JOIN wallets ON wallets.account_id = purse.id
             LEFT JOIN accounts earnings ON earnings.user_id = users.id AND earnings.kind = 'publisher'
             WHERE users.id = $1",
        )
        .bind(user_id.0)
        .fetch_optional(&self.pool)
        .await?;
        let (posted, held, publisher, earned) = row.ok_or(StoreError::NotFound("user"))?;
        Ok(Wallet {
            available: self.stored_money(posted - held)?,
            held: self.stored_money(held)?,
            publisher_balance: publisher.then(|| self.signed_money(earned)),
        })
    }

    /// A wallet's statement, **newest first**.
    ///
    /// # Errors
    /// The cursor is not this list's, or the database fails.
    pub async fn wallet_entries(&self, user_id: UserId, request: &PageRequest) -> Result<Page<WalletEntry>, StoreError> {
        let rows: Vec<EntryRow> = sqlx::query_as(ENTRIES)
            .bind(user_id.0)
            .bind(request.after::<i64>()?)
            .bind(None::<Uuid>)
            .bind(request.rows_wanted())
            .fetch_all(&self.pool)
            .await?;
        let entries = rows.into_iter().map(|row| self.wallet_entry(row)).collect::<Result<_, _>>()?;
        Ok(request.page(entries, |entry: &WalletEntry| entry.version))
    }

    /// What is held of a wallet and for what, oldest first.
    ///
    /// # Errors
    /// The cursor is not this list's, or the database fails.
    pub async fn wallet_holds(&self, user_id: UserId, request: &PageRequest) -> Result<Page<Hold>, StoreError> {
        let rows: Vec<HoldRow> = sqlx::query_as(
            "SELECT holds.id, holds.amount, holds.created_at, releases.title, label, on_demand, content_id, releases.id AS release_id,
                 applications.id AS application_id, deliveries.id AS delivery_id, duties.delivery_id AS duty_of
             FROM accounts JOIN holds ON holds.account_id = accounts.id
             LEFT JOIN applications ON applications.hold_id = holds.id
             LEFT JOIN deliveries ON deliveries.hold_id = holds.id
             LEFT JOIN duties ON duties.hold_id = holds.id
             LEFT JOIN deliveries bound ON bound.id = duties.delivery_id
             JOIN release_editions ON release_editions.swarm_id = coalesce(applications.swarm_id, deliveries.swarm_id, bound.swarm_id)
             JOIN releases ON releases.id = release_editions.release_id
             WHERE accounts.kind = 'wallet' AND accounts.user_id = $1 AND ($2::uuid IS NULL OR holds.id > $2)
                 AND NOT EXISTS (SELECT FROM hold_resolutions WHERE hold_id = holds.id)
             ORDER BY holds.id LIMIT $3",
        )
        .bind(user_id.0)
        .bind(request.after::<Uuid>()?)
        .bind(request.rows_wanted())
        .fetch_all(&self.pool)
        .await?;
        let holds = rows.into_iter().map(|row| self.hold_of(row)).collect::<Result<_, _>>()?;
        Ok(request.page(holds, |hold: &Hold| hold.id))
    }

    fn hold_of(&self, row: HoldRow) -> Result<Hold, StoreError> {
        let release_id = ReleaseId(row.release_id);
        let reason = match (row.application_id, row.delivery_id.or(row.duty_of)) {
            (_, Some(delivery_id)) if row.duty_of.is_some() => HoldReason::RelayDuty { delivery_id: DeliveryId(delivery_id), release_id },
            (_, Some(_)) if row.on_demand => {
                HoldReason::Download { download_id: DownloadId(row.release_id), content_id: ContentId(row.content_id) }
            }
            (_, Some(delivery_id)) => HoldReason::Delivery { delivery_id: DeliveryId(delivery_id), release_id },
            (Some(application_id), None) => HoldReason::Application { application_id: ApplicationId(application_id), release_id },
            (None, None) => return Err(StoreError::Invariant(format!("hold {} is for nothing", row.id))),
        };
        let amount = self.stored_money(row.amount)?;
        Ok(Hold { id: HoldId(row.id), amount, reason, title: row.title, label: row.label, created_at: row.created_at })
    }

    /// What a transfer did to a wallet, read in the transaction that posts it.
    pub(crate) async fn entry_of(
        &self,
        tx: &mut PgConnection,
        user_id: UserId,
        transfer_id: TransferId,
    ) -> Result<WalletEntry, StoreError> {
        let row: EntryRow =
            sqlx::query_as(ENTRIES).bind(user_id.0).bind(None::<i64>).bind(transfer_id.0).bind(1_i64).fetch_one(&mut *tx).await?;
        self.wallet_entry(row)
    }

    fn wallet_entry(&self, row: EntryRow) -> Result<WalletEntry, StoreError> {
        let kind = match row.kind.as_str() {
            "voucher_redemption" => TransferKind::VoucherRedemption,
            "delivery" => TransferKind::Delivery,
            "duty_forfeit" => TransferKind::DutyForfeit,
            other => return Err(StoreError::Invariant(format!("{other} is no kind of transfer"))),
        };
        Ok(WalletEntry {
            transfer_id: TransferId(row.transfer_id),
            kind,
            amount: self.signed_money(row.amount),
            balance: self.signed_money(row.balance),
            version: unsigned(row.version)?,
            delivery_id: row.delivery_id.map(DeliveryId),
            created_at: row.created_at,
        })
    }

    pub(crate) fn stored_money(&self, value: i64) -> Result<Money, StoreError> {
        Ok(self.money(amount(value)?))
    }
}
