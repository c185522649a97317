//! Events on their way to an owner's webhooks, as the owner sees them. How they are sent is in [`super::sending`].

use protocol::rest::{EventType, Page, UnknownEventType, WebhookDelivery, WebhookDeliveryState, WebhookFailure};
use protocol::{ErrorCode, EventId, UserId, WebhookDeliveryId, WebhookId};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{small, stored_time};
use super::{PageRequest, Store, StoreError};

#[derive(sqlx::FromRow)]
struct DeliveryRow {
    number: i64,
    id: Uuid,
    event_id: Uuid,
    kind: String,
    state: String,
    attempts: i32,
    last_status: Option<i32>,
    last_failure: Option<String>,
    occurred_at: OffsetDateTime,
    due_at: OffsetDateTime,
    ended_at: Option<OffsetDateTime>,
}

impl TryFrom<DeliveryRow> for WebhookDelivery {
    type Error = StoreError;

    fn try_from(row: DeliveryRow) -> Result<Self, StoreError> {
        let state = row.state.parse().map_err(|_| StoreError::Invariant(format!("{} is no state of an event", row.state)))?;
        Ok(Self {
            id: WebhookDeliveryId(row.id),
            event_id: EventId(row.event_id),
            kind: kind_of(&row.kind)?,
            state,
            attempts: small(row.attempts)?,
            last_status: row.last_status.and_then(|status| u16::try_from(status).ok()),
            last_failure: row.last_failure.as_deref().map(failure_of).transpose()?,
            occurred_at: row.occurred_at,
            due_at: (state == WebhookDeliveryState::Pending).then_some(row.due_at),
            ended_at: row.ended_at,
        })
    }
}

pub(super) fn kind_of(text: &str) -> Result<EventType, StoreError> {
    text.parse().map_err(|_: UnknownEventType| StoreError::Invariant(format!("{text} is no type of event")))
}

fn failure_of(text: &str) -> Result<WebhookFailure, StoreError> {
    let known = WebhookFailure::ALL.into_iter().find(|failure| failure.as_str() == text);
    known.ok_or_else(|| StoreError::Invariant(format!("{text} is no failure of an attempt")))
}

/// Which of a webhook's events are read.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    id: Option<WebhookDeliveryId>,
    state: Option<WebhookDeliveryState>,
    before: Option<i64>,
}

async fn read(connection: &mut PgConnection, webhook_id: WebhookId, wanted: Wanted, limit: i64) -> Result<Vec<DeliveryRow>, StoreError> {
    let rows = sqlx::query_as(
        "SELECT number, id, event_id, kind, state, attempts, last_status, last_failure, occurred_at, due_at, ended_at FROM outbox
         WHERE webhook_id = $1 AND ($2::uuid IS NULL OR id = $2) AND ($3::text IS NULL OR state = $3) AND ($4::bigint IS NULL OR number < $4)
         ORDER BY number DESC LIMIT $5",
    )
    .bind(webhook_id.0)
    .bind(wanted.id.map(|id| id.0))
    .bind(wanted.state.map(WebhookDeliveryState::as_str))
    .bind(wanted.before)
    .bind(limit);
    Ok(rows.fetch_all(connection).await?)
}

async fn one(connection: &mut PgConnection, webhook_id: WebhookId, id: WebhookDeliveryId) -> Result<WebhookDelivery, StoreError> {
    let wanted = Wanted { id: Some(id), ..Wanted::default() };
    read(connection, webhook_id, wanted, 1).await?.pop().ok_or(StoreError::NotFound("delivery of this webhook"))?.try_into()
}

/// The webhook must be the user's; whether it is enabled.
async fn check_own(connection: &mut PgConnection, user_id: UserId, id: WebhookId) -> Result<bool, StoreError> {
    let enabled: Option<bool> = sqlx::query_scalar("SELECT disabled_reason IS NULL FROM webhooks WHERE id = $1 AND user_id = $2")
        .bind(id.0)
        .bind(user_id.0)
        .fetch_optional(connection)
        .await?;
    enabled.ok_or(StoreError::NotFound("webhook"))
}

fn must_be_enabled(enabled: bool) -> Result<(), StoreError> {
    if enabled { Ok(()) } else { Err(StoreError::refused_because(ErrorCode::Conflict, "The webhook is disabled; enable it first.")) }
}

impl Store {
    /// The events of an own webhook, **newest first**; of one state, if it is named.
    ///
    /// # Errors
    /// `not_found`, the cursor is not this list's, or the database fails.
    pub async fn webhook_deliveries(
        &self,
        user_id: UserId,
        webhook_id: WebhookId,
        state: Option<WebhookDeliveryState>,
        request: &PageRequest,
    ) -> Result<Page<WebhookDelivery>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        check_own(&mut connection, user_id, webhook_id).await?;
        let wanted = Wanted { id: None, state, before: request.after()? };
        let rows = read(&mut connection, webhook_id, wanted, request.rows_wanted()).await?;
        let Page { items, next_cursor } = request.page(rows, |row| row.number);
        Ok(Page { items: items.into_iter().map(WebhookDelivery::try_from).collect::<Result<_, _>>()?, next_cursor })
    }

    /// One event of an own webhook.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn webhook_delivery(
        &self,
        user_id: UserId,
        webhook_id: WebhookId,
        id: WebhookDeliveryId,
    ) -> Result<WebhookDelivery, StoreError> {
        let mut connection = self.pool.acquire().await?;
        check_own(&mut connection, user_id, webhook_id).await?;
        one(&mut connection, webhook_id, id).await
    }

    /// Has a dead letter sent again, or one that waits sent now. One that is being sent stays as it is.
    ///
    /// # Errors
    /// `not_found`; `conflict` if it was delivered or the webhook is disabled.
    pub async fn retry_delivery(
        &self,
        user_id: UserId,
        webhook_id: WebhookId,
        id: WebhookDeliveryId,
        now: OffsetDateTime,
    ) -> Result<WebhookDelivery, StoreError> {
        let mut tx = self.begin().await?;
        let enabled = check_own(&mut tx, user_id, webhook_id).await?;
        if one(&mut tx, webhook_id, id).await?.state == WebhookDeliveryState::Delivered {
            return Err(StoreError::refused_because(ErrorCode::Conflict, "This event was delivered."));
        }
        must_be_enabled(enabled)?;
        sqlx::query(
            "UPDATE outbox SET attempts = CASE state WHEN 'dead' THEN 0 ELSE attempts END, state = 'pending', due_at = $2, ended_at = NULL
             WHERE id = $1 AND claim IS NULL AND state <> 'delivered'",
        )
        .bind(id.0)
        .bind(stored_time(now))
        .execute(&mut *tx)
        .await?;
        let retried = one(&mut tx, webhook_id, id).await?;
        tx.commit().await?;
        Ok(retried)
    }

    /// Writes a `webhook.test` down for an own webhook, whatever types it wants. While one waits, another is not added: nobody is to be flooded by somebody
    /// who names their address.
    ///
    /// # Errors
    /// `not_found`; `conflict` if the webhook is disabled.
    pub async fn test_webhook(&self, user_id: UserId, id: WebhookId, now: OffsetDateTime) -> Result<WebhookDelivery, StoreError> {
        let mut tx = self.begin().await?;
        must_be_enabled(check_own(&mut tx, user_id, id).await?)?;
        // Two at once stand in line.
        sqlx::query("SELECT FROM webhooks WHERE id = $1 FOR UPDATE").bind(id.0).execute(&mut *tx).await?;
        let kind = EventType::WebhookTest.as_str();
        let waiting: Option<Uuid> = sqlx::query_scalar("SELECT id FROM outbox WHERE webhook_id = $1 AND kind = $2 AND state = 'pending'")
            .bind(id.0)
            .bind(kind)
            .fetch_optional(&mut *tx)
            .await?;
        let written = match waiting {
            Some(waiting) => waiting,
            None => {
                sqlx::query_scalar(
                    "INSERT INTO outbox (event_id, webhook_id, user_id, kind, data, occurred_at, due_at)
                     VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, $5) RETURNING id",
                )
                .bind(id.0)
                .bind(user_id.0)
                .bind(kind)
                .bind(Json(json!({ "webhook_id": id })))
                .bind(stored_time(now))
                .fetch_one(&mut *tx)
                .await?
            }
        };
        let test = one(&mut tx, id, WebhookDeliveryId(written)).await?;
        tx.commit().await?;
        Ok(test)
    }
}
