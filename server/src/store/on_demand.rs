//! A publisher's terms for contents at any time, and the origin's budget for all downloads of a content.

use protocol::rest::{OnDemand, OnDemandTerms, OriginUsage, PriceQuote, TariffVersion};
use protocol::{ContentId, EditionId, ErrorCode, TariffId, TerminalId, UserId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{basis_points, bigint, bytes, integer, small};
use super::downloads::{Wanted, wanted};
use super::tariffs::{Priced, latest};
use super::{Store, StoreError};

#[derive(sqlx::FromRow)]
struct TermsRow {
    price: Option<i64>,
    relay_bp: Option<i32>,
    fee_bp: Option<i32>,
    tariff_id: Option<Uuid>,
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
            "SELECT price, relay_bp, fee_bp, tariff_id, limit_s, version, limit_bytes, sent, reserved_first + reserved_repair AS reserved
             FROM on_demand_terms JOIN origin_budgets USING (content_id) WHERE content_id = $1",
        )
        .bind(id.0)
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (relay_share, fee, tariff) = match (row.relay_bp, row.fee_bp, row.tariff_id.map(TariffId)) {
            (Some(relay_bp), Some(fee_bp), None) => (basis_points(relay_bp)?, basis_points(fee_bp)?, None),
            (_, _, Some(tariff_id)) => {
                let latest = latest(connection, tariff_id).await?;
                (latest.terms.relay_share, latest.terms.fee, Some(TariffVersion { tariff_id, version: latest.version }))
            }
            (_, _, None) => return Err(StoreError::Invariant(format!("content {id} is offered at no price"))),
        };
        Ok(Some(OnDemand {
            content_id: id,
            price: row.price.map(|price| self.stored_money(price)).transpose()?,
            relay_share,
            fee,
            tariff,
            limit_s: small(row.limit_s)?,
            origin: OriginUsage { budget: bytes(row.limit_bytes)?, sent: bytes(row.sent)?, reserved: bytes(row.reserved)? },
            version: small(row.version)?,
        }))
    }

    /// What an edition costs a terminal now, with the terms that it is offered on.
    ///
    /// # Errors
    /// `not_on_demand`, `unknown_edition`, or the database fails.
    pub(super) async fn priced(
        &self,
        connection: &mut PgConnection,
        content_id: ContentId,
        edition_id: EditionId,
        terminal_id: TerminalId,
        now: OffsetDateTime,
    ) -> Result<(OnDemand, Priced, Wanted), StoreError> {
        let terms = self.on_demand_in(connection, content_id).await?;
        let terms = terms.ok_or_else(|| {
            StoreError::refused_because(ErrorCode::NotOnDemand, "The publisher of this content has set no price for it on demand.")
        })?;
        let wanted = wanted(connection, content_id, edition_id).await?;
        let priced = match (terms.price, terms.tariff) {
            (Some(price), _) => Priced {
                quote: PriceQuote { price, list_price: price, tariff: None, window: None, step: None, is_minimum: false, received: None },
                relay_share: terms.relay_share,
                fee: terms.fee,
            },
            (None, Some(tariff)) => {
                let whose = (UserId(wanted.publisher_id), terminal_id);
                self.price_by(connection, tariff.tariff_id, whose, bytes(wanted.length)?, now).await?
            }
            (None, None) => return Err(StoreError::Invariant(format!("content {content_id} is offered at no price"))),
        };
        Ok((terms, priced, wanted))
    }

    /// Puts these terms in the place of those that a publisher set for an own content before. `seen` is the version that the publisher has seen (none: it
    /// has seen none); `Some(None)` stands for whichever it is. Downloads that run go on at what was held for them.
    ///
    /// # Errors
    /// `not_found` for a content that is not the publisher's, `invalid_request` for a tariff that is not, `precondition_required`, `precondition_failed`.
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
        check_tariff(&mut tx, publisher, terms.tariff_id).await?;
        sqlx::query(
            "INSERT INTO on_demand_terms (content_id, price, relay_bp, fee_bp, limit_s, changed_at, tariff_id) VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (content_id) DO UPDATE SET price = excluded.price, relay_bp = excluded.relay_bp, fee_bp = excluded.fee_bp,
                 tariff_id = excluded.tariff_id, limit_s = excluded.limit_s, changed_at = excluded.changed_at, version = on_demand_terms.version + 1",
        )
        .bind(content_id.0)
        .bind(terms.price.map(|price| bigint(self.amount_of(price)?.0)).transpose()?)
        .bind(terms.relay_share.map(|share| i32::from(share.get())))
        .bind(terms.fee.map(|fee| i32::from(fee.get())))
        .bind(integer(terms.limit_s)?)
        .bind(now)
        .bind(terms.tariff_id.map(|id| id.0))
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

/// Prices are not made by somebody else's tariff.
async fn check_tariff(tx: &mut PgConnection, publisher: UserId, tariff: Option<TariffId>) -> Result<(), StoreError> {
    let Some(tariff) = tariff else { return Ok(()) };
    let owned: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM tariffs WHERE id = $1 AND publisher_id = $2)")
        .bind(tariff.0)
        .bind(publisher.0)
        .fetch_one(tx)
        .await?;
    if owned { Ok(()) } else { Err(StoreError::refused_because(ErrorCode::InvalidRequest, "You have no such tariff.")) }
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
