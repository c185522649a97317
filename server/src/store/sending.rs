//! Sending what lies in the outbox: claimed in a short transaction, sent outside of any, and recorded. A claim moves the due time to when it ends, so that what
//! an instance dies with is sent by another one.

use protocol::rest::{DisabledReason, EventType};
use protocol::{EventId, UserId, WebhookId};
use sqlx::types::Json;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::conversions::{small, stored_time, unsigned};
use super::outgoing::kind_of;
use super::webhooks::reason_text;
use super::{Store, StoreError, Tx};
use crate::webhooks::schedule::{Next, disabled_by};
use crate::webhooks::sender::Failed;

/// How long anything stays in the outbox, delivered or not.
pub const KEPT_FOR: Duration = Duration::days(30);
/// Rows that are changed or removed at once: no statement of the sweep takes long.
const BATCH: i64 = 1_000;

/// What of the outbox may be claimed.
#[derive(Debug, Clone, Copy)]
pub struct ClaimLimits {
    /// As many as can be sent now.
    pub all: u32,
    /// Of one owner at any time, over all instances.
    pub per_owner: u32,
    /// How long the claim holds: longer than an attempt takes.
    pub lease: Duration,
}

/// An event to be sent.
#[derive(Debug, Clone)]
pub struct Claimed {
    number: i64,
    /// Who sends it; the same for all that were claimed at once.
    pub claim: Uuid,
    pub event_id: EventId,
    pub webhook_id: WebhookId,
    pub user_id: UserId,
    pub kind: EventType,
    pub data: serde_json::Value,
    pub occurred_at: OffsetDateTime,
    /// Those that have failed.
    pub attempts: u32,
    pub url: String,
    /// Wrapped, the newest first.
    pub secrets: Vec<Vec<u8>>,
}

#[derive(sqlx::FromRow)]
struct ClaimedRow {
    number: i64,
    event_id: Uuid,
    webhook_id: Uuid,
    user_id: Uuid,
    kind: String,
    data: Json<serde_json::Value>,
    occurred_at: OffsetDateTime,
    attempts: i32,
    url: String,
    secret: Vec<u8>,
    old_secret: Option<Vec<u8>>,
}

/// What became of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The claim has ended: somebody else's attempt counts.
    Late,
    Counted {
        /// Why nothing more is sent to the webhook, if that is so from now on.
        disabled: Option<DisabledReason>,
    },
}

/// How the outbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxFigures {
    pub pending: u64,
    pub dead: u64,
    /// Since when the event that has waited for longest could have been sent.
    pub oldest_due: Option<OffsetDateTime>,
}

/// The owners are found one after the other by the index; of each come its first few, less what is on its way to it. So an owner with a million events, or with a
/// receiver that is slow, takes no more than its places from the others. What another instance has claimed meanwhile is found out by the lock.
const CLAIM: &str = "
    WITH RECURSIVE owners AS (
        (SELECT user_id FROM outbox WHERE state = 'pending' ORDER BY user_id LIMIT 1)
        UNION ALL
        SELECT (SELECT user_id FROM outbox WHERE state = 'pending' AND user_id > owners.user_id ORDER BY user_id LIMIT 1)
        FROM owners WHERE owners.user_id IS NOT NULL
    ), candidates AS (
        SELECT due.number FROM owners CROSS JOIN LATERAL (
            SELECT number, due_at, row_number() OVER (ORDER BY due_at, number) AS place FROM (
                SELECT number, due_at FROM outbox JOIN webhooks ON webhooks.id = webhook_id AND disabled_reason IS NULL
                WHERE state = 'pending' AND outbox.user_id = owners.user_id AND due_at <= $1 ORDER BY due_at, number LIMIT $4
            ) earliest
        ) due
        WHERE due.place <= $4 - (SELECT count(*) FROM outbox WHERE outbox.user_id = owners.user_id AND claim IS NOT NULL AND due_at > $1)
        ORDER BY due.due_at, due.number LIMIT $3
    ), taken AS (
        SELECT number FROM outbox WHERE number IN (SELECT number FROM candidates) AND state = 'pending' AND due_at <= $1 FOR UPDATE SKIP LOCKED
    )
    UPDATE outbox SET claim = $5, due_at = $2 FROM taken, webhooks WHERE outbox.number = taken.number AND webhooks.id = webhook_id
    RETURNING outbox.number, event_id, webhook_id, outbox.user_id, kind, data, occurred_at, attempts, url, secret,
        CASE WHEN old_secret_until > $1 THEN old_secret END AS old_secret";

impl Store {
    /// Claims events that are due, those that have waited for longest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn claim_events(&self, limits: ClaimLimits, now: OffsetDateTime) -> Result<Vec<Claimed>, StoreError> {
        let claim = Uuid::new_v4();
        let rows: Vec<ClaimedRow> = sqlx::query_as(CLAIM)
            .bind(now)
            .bind(stored_time(now + limits.lease))
            .bind(i64::from(limits.all))
            .bind(i64::from(limits.per_owner))
            .bind(claim)
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Claimed {
                    number: row.number,
                    claim,
                    event_id: EventId(row.event_id),
                    webhook_id: WebhookId(row.webhook_id),
                    user_id: UserId(row.user_id),
                    kind: kind_of(&row.kind)?,
                    data: row.data.0,
                    occurred_at: row.occurred_at,
                    attempts: small(row.attempts)?,
                    url: row.url,
                    secrets: std::iter::once(row.secret).chain(row.old_secret).collect(),
                })
            })
            .collect()
    }

    /// The event was taken, whoever else is sending it by now.
    ///
    /// # Errors
    /// The database fails; it is sent again.
    pub async fn event_delivered(&self, event: &Claimed, status: u16, now: OffsetDateTime) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE outbox SET state = 'delivered', claim = NULL, attempts = attempts + 1, last_status = $2, last_failure = NULL, ended_at = $3
             WHERE number = $1 AND state <> 'delivered'",
        )
        .bind(event.number)
        .bind(i32::from(status))
        .bind(stored_time(now))
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE webhooks SET failing_since = NULL WHERE id = $1 AND failing_since IS NOT NULL")
            .bind(event.webhook_id.0)
            .execute(&mut *tx)
            .await?;
        Ok(tx.commit().await?)
    }

    /// The event was not taken, which may be what disables its webhook.
    ///
    /// # Errors
    /// The database fails; the event is sent again when its claim ends.
    pub async fn event_failed(&self, event: &Claimed, failed: Failed, next: Next, now: OffsetDateTime) -> Result<Recorded, StoreError> {
        let mut tx = self.begin().await?;
        let (again_at, ended_at) = match next {
            Next::Again(pause) => (Some(stored_time(now + pause)), None),
            Next::GiveUp => (None, Some(stored_time(now))),
        };
        let written = sqlx::query(
            "UPDATE outbox SET claim = NULL, attempts = attempts + 1, last_status = $3, last_failure = $4, due_at = coalesce($5, due_at), ended_at = $6,
                 state = CASE WHEN $6::timestamptz IS NULL THEN 'pending' ELSE 'dead' END
             WHERE number = $1 AND claim = $2",
        )
        .bind(event.number)
        .bind(event.claim)
        .bind(failed.status.map(i32::from))
        .bind(failed.failure.as_str())
        .bind(again_at)
        .bind(ended_at)
        .execute(&mut *tx)
        .await?;
        if written.rows_affected() == 0 {
            return Ok(Recorded::Late);
        }
        let disabled = if failed.failure.is_receivers() { self.note_failure(&mut tx, event, failed, now).await? } else { None };
        tx.commit().await?;
        Ok(Recorded::Counted { disabled })
    }

    async fn note_failure(
        &self,
        tx: &mut Tx,
        event: &Claimed,
        failed: Failed,
        now: OffsetDateTime,
    ) -> Result<Option<DisabledReason>, StoreError> {
        let failing_since: Option<OffsetDateTime> = sqlx::query_scalar(
            "UPDATE webhooks SET failing_since = coalesce(failing_since, $2) WHERE id = $1 AND disabled_reason IS NULL RETURNING failing_since",
        )
        .bind(event.webhook_id.0)
        .bind(stored_time(now))
        .fetch_optional(&mut **tx)
        .await?;
        let reason = failing_since.and_then(|since| disabled_by(failed.status, since, now));
        if let Some(reason) = reason {
            sqlx::query("UPDATE webhooks SET disabled_reason = $2 WHERE id = $1")
                .bind(event.webhook_id.0)
                .bind(reason_text(reason))
                .execute(&mut **tx)
                .await?;
        }
        Ok(reason)
    }

    /// What was claimed and not sent to its end is due again now.
    ///
    /// # Errors
    /// The database fails; the claims end by themselves.
    pub async fn release_events(&self, claims: &[Uuid], now: OffsetDateTime) -> Result<(), StoreError> {
        sqlx::query("UPDATE outbox SET claim = NULL, due_at = $2 WHERE claim = ANY ($1)")
            .bind(claims)
            .bind(stored_time(now))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Makes dead letters of what waits for a webhook that is disabled or gone, and removes what is old. Returns how many rows were changed: another call may find more.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sweep_outbox(&self, now: OffsetDateTime) -> Result<u64, StoreError> {
        let given_up = sqlx::query(
            "UPDATE outbox SET state = 'dead', claim = NULL, last_failure = 'disabled', ended_at = $1 WHERE number IN (
                 SELECT number FROM outbox LEFT JOIN webhooks ON webhooks.id = webhook_id
                 WHERE state = 'pending' AND (webhooks.id IS NULL OR disabled_reason IS NOT NULL) LIMIT $2 FOR UPDATE OF outbox SKIP LOCKED)",
        )
        .bind(stored_time(now))
        .bind(BATCH)
        .execute(&self.pool)
        .await?;
        let removed = sqlx::query(
            "DELETE FROM outbox WHERE number IN (SELECT number FROM outbox WHERE occurred_at < $1 ORDER BY occurred_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        )
        .bind(now - KEPT_FOR)
        .bind(BATCH)
        .execute(&self.pool)
        .await?;
        sqlx::query("UPDATE webhooks SET old_secret = NULL, old_secret_until = NULL WHERE old_secret_until <= $1")
            .bind(now)
            .execute(&self.pool)
            .await?;
        Ok(given_up.rows_affected() + removed.rows_affected())
    }

    /// How the outbox stands.
    ///
    /// # Errors
    /// The database fails.
    pub async fn outbox_figures(&self, now: OffsetDateTime) -> Result<OutboxFigures, StoreError> {
        let (pending, dead, oldest_due): (i64, i64, Option<OffsetDateTime>) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM outbox WHERE state = 'pending'), (SELECT count(*) FROM outbox WHERE state = 'dead'),
                 (SELECT min(due_at) FROM outbox WHERE state = 'pending' AND due_at <= $1)",
        )
        .bind(now)
        .fetch_one(&self.pool)
        .await?;
        Ok(OutboxFigures { pending: unsigned(pending)?, dead: unsigned(dead)?, oldest_due })
    }
}
