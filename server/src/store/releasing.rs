//! Releasing a delivery of which nothing was received: there is nothing to divide, so it needs to know nothing of the edition.

use protocol::rest::DeliveryState;
use protocol::{Amount, Bytes, DeliveryId, HoldId, ReleaseId, SwarmId, TerminalId, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::lifecycle::{Lock, standing};
use super::settlement::Settled;
use super::{Store, StoreError, ledger, outbox};

#[derive(sqlx::FromRow)]
struct Empty {
    swarm_id: Uuid,
    terminal_id: Uuid,
    user_id: Uuid,
    hold_id: Option<Uuid>,
}

impl Store {
    /// Releases a pending delivery and all that was held for it if nothing was received of it; `None` if something was, or if it is not pending.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn release_delivery(&self, delivery_id: DeliveryId, now: OffsetDateTime) -> Result<Option<Settled>, StoreError> {
        let mut tx = self.begin().await?;
        let release_id: Option<Uuid> =
            sqlx::query_scalar("SELECT release_id FROM deliveries WHERE id = $1").bind(delivery_id.0).fetch_optional(&mut *tx).await?;
        let release_id = ReleaseId(release_id.ok_or(StoreError::NotFound("delivery"))?);
        let standing = standing(&mut tx, release_id, Some(Lock::Shared)).await?;
        let empty: Option<Empty> = sqlx::query_as(
            "SELECT swarm_id, terminal_id, user_id, hold_id FROM deliveries
             WHERE id = $1 AND state = 'pending' AND (verified_chunks = 0 OR is_unopened(release_id, wave, $2)) FOR UPDATE",
        )
        .bind(delivery_id.0)
        .bind(now)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(empty) = empty else { return Ok(None) };
        // Money follows the receipts, not the count that is kept beside them.
        let receipted: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM receipts JOIN deliveries ON deliveries.id = delivery_id
                 WHERE delivery_id = $1 AND bit_count(credited) > 0 AND NOT is_unopened(release_id, wave, $2))",
        )
        .bind(delivery_id.0)
        .bind(now)
        .fetch_one(&mut *tx)
        .await?;
        if receipted {
            return Ok(None);
        }
        if let Some(hold_id) = empty.hold_id {
            ledger::void(&mut tx, HoldId(hold_id), now).await?;
        }
        sqlx::query("UPDATE deliveries SET state = 'released', settled_at = $2 WHERE id = $1")
            .bind(delivery_id.0)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        let released = Settled {
            delivery_id,
            release_id,
            swarm_id: SwarmId(empty.swarm_id),
            terminal_id: TerminalId(empty.terminal_id),
            user_id: UserId(empty.user_id),
            state: DeliveryState::Released,
            complete: false,
            verified: Bytes(0),
            charged: Amount(0),
            fee: Amount(0),
            publisher: Amount(0),
            shares: Vec::new(),
        };
        outbox::tell_settled(&mut tx, &released, standing.publisher_id, |_| None, self.currency, now).await?;
        tx.commit().await?;
        Ok(Some(released))
    }
}
