//! A publisher's terms for contents at any time, and the origin's budget for all downloads of a content.

use protocol::rest::{OnDemand, OnDemandTerms, OriginUsage};
use protocol::{ContentId, ErrorCode, UserId};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::conversions::{basis_points, bigint, bytes, integer, small};
use super::{Store, StoreError};

#[derive(sqlx::FromRow)]
struct TermsRow {
    price: i64,
    relay_bp: i32,
    fee_bp: i32,
    limit_s: i32,
    version: i32,
    limit_bytes: i64,
    sent: i64,
    reserved: i64,
}

impl Store {
    /// The terms of a content; `None` if it cannot be had on demand.
    ///
    /// # Errors
    /// The database fails.
    pub async fn on_demand(&self, content_id: ContentId) -> Result<Option<OnDemand>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        self.on_demand_in(&mut connection, content_id).await
    }

    pub(super) async fn on_demand_in(&self, connection: &mut PgConnection, id: ContentId) -> Result<Option<OnDemand>, StoreError> {
        let row: Option<TermsRow> = sqlx::query_as(
            "SELECT price, relay_bp, fee_bp, limit_s, version, limit_bytes, sent, reserved_first + reserved_repair AS reserved
             FROM on_demand_terms JOIN origin_budgets USING (content_id) WHERE content_id = $1",
        )
        .bind(id.0)
        .fetch_optional(connection)
        .await?;
        row.map(|row| self.terms_of(id, &row)).transpose()
    }

    fn terms_of(&self, content_id: ContentId, row: &TermsRow) -> Result<OnDemand, StoreError> {
        Ok(OnDemand {
            content_id,
            price: self.stored_money(row.price)?,
            relay_share: basis_points(row.relay_bp)?,
            fee: basis_points(row.fee_bp)?,
            limit_s: small(row.limit_s)?,
            origin: OriginUsage { budget: bytes(row.limit_bytes)?, sent: bytes(row.sent)?, reserved: bytes(row.reserved)? },
            version: small(row.version)?,
        })
    }

    /// Puts these terms in the place of those that a publisher set for an own content before. `seen` is the version that the publisher has seen (none: it
    /// has seen none); `Some(None)` stands for whichever it is. Downloads that run go on at what was held for them.
    ///
    /// # Errors
    /// `not_found` for a content that is not the publisher's, `precondition_required`, `precondition_failed`.
    pub async fn set_on_demand(
        &self,
        publisher: UserId,
        content_id: ContentId,
        terms: &OnDemandTerms,
        seen: Option<Option<u32>>,
        now: OffsetDateTime,
    ) -> Result<OnDemand, StoreError> {
        let mut tx = self.begin().await?;
        let version = lock_terms(&mut tx, publisher, content_id).await?;
        check_version(version, seen)?;
        sqlx::query(
            "INSERT INTO on_demand_terms (content_id, price, relay_bp, fee_bp, limit_s, changed_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (content_id) DO UPDATE SET price = excluded.price, relay_bp = excluded.relay_bp, fee_bp = excluded.fee_bp,
                 limit_s = excluded.limit_s, changed_at = excluded.changed_at, version = on_demand_terms.version + 1",
        )
        .bind(content_id.0)
        .bind(bigint(self.amount_of(terms.price)?.0)?)
        .bind(i32::from(terms.relay_share.get()))
        .bind(i32::from(terms.fee.get()))
        .bind(integer(terms.limit_s)?)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        // What is reserved may be on the wire: a lower limit cannot take it back.
        sqlx::query(
            "INSERT INTO origin_budgets (content_id, limit_bytes, first_copy_bytes) VALUES ($1, $2, 0)
             ON CONFLICT (content_id) DO UPDATE
             SET limit_bytes = greatest(excluded.limit_bytes, origin_budgets.reserved_first + origin_budgets.reserved_repair)",
        )
        .bind(content_id.0)
        .bind(bigint(terms.origin_budget.0)?)
        .execute(&mut *tx)
        .await?;
        let set = self.on_demand_in(&mut tx, content_id).await?.ok_or(StoreError::NotFound("content"))?;
        tx.commit().await?;
        Ok(set)
    }

    /// Takes an own content off: nobody may ask for it any more. Downloads that run go on.
    ///
    /// # Errors
    /// `not_found`, `precondition_required`, `precondition_failed`.
    pub async fn remove_on_demand(&self, publisher: UserId, content_id: ContentId, seen: Option<Option<u32>>) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let version = lock_terms(&mut tx, publisher, content_id).await?;
        if version.is_none() {
            return Err(StoreError::NotFound("terms"));
        }
        check_version(version, seen)?;
        sqlx::query("DELETE FROM on_demand_terms WHERE content_id = $1").bind(content_id.0).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// The present version of an own content's terms, which nobody else changes meanwhile.
async fn lock_terms(tx: &mut PgConnection, publisher: UserId, content_id: ContentId) -> Result<Option<u32>, StoreError> {
    let owned: Option<bool> = sqlx::query_scalar("SELECT true FROM contents WHERE id = $1 AND publisher_id = $2 FOR UPDATE")
        .bind(content_id.0)
        .bind(publisher.0)
        .fetch_optional(&mut *tx)
        .await?;
    owned.ok_or(StoreError::NotFound("content"))?;
    let version: Option<i32> =
        sqlx::query_scalar("SELECT version FROM on_demand_terms WHERE content_id = $1").bind(content_id.0).fetch_optional(tx).await?;
    version.map(small).transpose()
}

fn check_version(present: Option<u32>, seen: Option<Option<u32>>) -> Result<(), StoreError> {
    match (present, seen) {
        (Some(_), None) => Err(StoreError::refused(ErrorCode::PreconditionRequired)),
        (Some(present), Some(Some(seen))) if present != seen => Err(StoreError::refused(ErrorCode::PreconditionFailed)),
        // `If-Match` of what is not there never matches (RFC 9110, 13.1.1).
        (None, Some(_)) => Err(StoreError::refused(ErrorCode::PreconditionFailed)),
        (Some(_), Some(_)) | (None, None) => Ok(()),
    }
}
