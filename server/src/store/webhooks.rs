//! Owners' webhooks. Secrets come and go wrapped: what they are is known to [`crate::app::webhooks`] alone.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::rest::{ChangeWebhook, DisabledReason, NewWebhook, Page, Webhook};
use protocol::{ErrorCode, UserId, WebhookId};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::conversions::{integer, small, stored_time};
use super::idempotency::{Answer, Begun, Idempotency, commit_once_showing};
use super::{PageRequest, Store, StoreError, Tx};

/// Webhooks of one owner: each is a row more for every event.
pub const WEBHOOKS_MAX: i64 = 10;
/// How long the secret before a rotation signs, too: a receiver has a day to take the new one.
pub const OLD_SECRET_FOR: Duration = Duration::hours(24);
/// The field of a stored answer that holds the wrapped secret; it never leaves the server.
pub const WRAPPED: &str = "wrapped";

#[derive(sqlx::FromRow)]
struct WebhookRow {
    id: Uuid,
    url: String,
    events: Vec<String>,
    description: String,
    disabled_reason: Option<String>,
    failing_since: Option<OffsetDateTime>,
    old_secret_until: Option<OffsetDateTime>,
    version: i32,
    created_at: OffsetDateTime,
    pending: i64,
    dead: i64,
}

impl TryFrom<WebhookRow> for Webhook {
    type Error = StoreError;

    fn try_from(row: WebhookRow) -> Result<Self, StoreError> {
        let unknown = |error: String| StoreError::Invariant(error);
        let events = row.events.iter().map(|kind| kind.parse()).collect::<Result<_, protocol::rest::UnknownEventType>>();
        Ok(Self {
            id: WebhookId(row.id),
            url: row.url,
            events: events.map_err(|error| unknown(error.to_string()))?,
            description: row.description,
            enabled: row.disabled_reason.is_none(),
            disabled_reason: row.disabled_reason.as_deref().map(reason_of).transpose()?,
            failing_since: row.failing_since,
            old_secret_until: row.old_secret_until,
            pending: u32::try_from(row.pending).unwrap_or(u32::MAX),
            dead: u32::try_from(row.dead).unwrap_or(u32::MAX),
            version: small(row.version)?,
            created_at: row.created_at,
        })
    }
}

pub(super) fn reason_text(reason: DisabledReason) -> &'static str {
    match reason {
        DisabledReason::Owner => "owner",
        DisabledReason::Gone => "gone",
        DisabledReason::Failing => "failing",
    }
}

fn reason_of(text: &str) -> Result<DisabledReason, StoreError> {
    match text {
        "owner" => Ok(DisabledReason::Owner),
        "gone" => Ok(DisabledReason::Gone),
        "failing" => Ok(DisabledReason::Failing),
        other => Err(StoreError::Invariant(format!("{other} is no reason to disable"))),
    }
}

/// One webhook or all of an owner's, in the order in which they were made.
async fn read(
    connection: &mut PgConnection,
    user_id: UserId,
    id: Option<WebhookId>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Webhook>, StoreError> {
    let rows: Vec<WebhookRow> = sqlx::query_as(
        "SELECT id, url, events, description, disabled_reason, failing_since, old_secret_until, version, created_at,
             (SELECT count(*) FROM outbox WHERE webhook_id = webhooks.id AND state = 'pending') AS pending,
             (SELECT count(*) FROM outbox WHERE webhook_id = webhooks.id AND state = 'dead') AS dead
         FROM webhooks WHERE user_id = $1 AND ($2::uuid IS NULL OR id = $2) AND ($3::uuid IS NULL OR id > $3) ORDER BY id LIMIT $4",
    )
    .bind(user_id.0)
    .bind(id.map(|id| id.0))
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Webhook::try_from).collect()
}

/// An own webhook as a transaction sees it.
async fn own(connection: &mut PgConnection, user_id: UserId, id: WebhookId) -> Result<Webhook, StoreError> {
    read(connection, user_id, Some(id), None, 1).await?.pop().ok_or(StoreError::NotFound("webhook"))
}

impl Store {
    /// Makes a webhook with this id and wrapped secret. Answered with 201 and the [`Webhook`], with the secret as [`WRAPPED`] beside it.
    ///
    /// # Errors
    /// `webhook_limit`, or the errors of a repeated key.
    pub async fn create_webhook(
        &self,
        id: WebhookId,
        new: &NewWebhook,
        wrapped: &[u8],
        request: &Idempotency,
        now: OffsetDateTime,
    ) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        // Whoever makes two at once stands in line here, so that the second one is counted with the first.
        sqlx::query("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE").bind(request.user_id.0).execute(&mut *tx).await?;
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM webhooks WHERE user_id = $1").bind(request.user_id.0).fetch_one(&mut *tx).await?;
        if count >= WEBHOOKS_MAX {
            let detail = format!("An account has at most {WEBHOOKS_MAX}; remove one that is not needed.");
            return Err(StoreError::refused_because(ErrorCode::WebhookLimit, detail));
        }
        let events: Vec<&str> = new.events.iter().map(|kind| kind.as_str()).collect();
        sqlx::query("INSERT INTO webhooks (id, user_id, url, events, description, secret, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)")
            .bind(id.0)
            .bind(request.user_id.0)
            .bind(&new.url)
            .bind(&events)
            .bind(&new.description)
            .bind(wrapped)
            .bind(stored_time(now))
            .execute(&mut *tx)
            .await?;
        answer_with_secret(tx, id, 201, wrapped, request, now).await
    }

    /// An own webhook.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn webhook(&self, user_id: UserId, id: WebhookId) -> Result<Webhook, StoreError> {
        own(&mut *self.pool.acquire().await?, user_id, id).await
    }

    /// The own webhooks, oldest first.
    ///
    /// # Errors
    /// The cursor is not this list's, or the database fails.
    pub async fn webhooks(&self, user_id: UserId, request: &PageRequest) -> Result<Page<Webhook>, StoreError> {
        let webhooks = read(&mut *self.pool.acquire().await?, user_id, None, request.after()?, request.rows_wanted()).await?;
        Ok(request.page(webhooks, |webhook| webhook.id))
    }

    /// Changes an own webhook, if it is still in the `version` that its owner has seen; none stands for whichever it is.
    ///
    /// # Errors
    /// `not_found` or `precondition_failed`.
    pub async fn change_webhook(
        &self,
        user_id: UserId,
        id: WebhookId,
        version: Option<u32>,
        change: &ChangeWebhook,
    ) -> Result<Webhook, StoreError> {
        let mut tx = self.begin().await?;
        let present: Option<i32> = sqlx::query_scalar("SELECT version FROM webhooks WHERE id = $1 AND user_id = $2 FOR UPDATE")
            .bind(id.0)
            .bind(user_id.0)
            .fetch_optional(&mut *tx)
            .await?;
        let present = present.ok_or(StoreError::NotFound("webhook"))?;
        if let Some(version) = version
            && integer(version).ok() != Some(present)
        {
            return Err(StoreError::refused(ErrorCode::PreconditionFailed));
        }
        let events: Option<Vec<&str>> = change.events.as_ref().map(|events| events.iter().map(|kind| kind.as_str()).collect());
        sqlx::query(
            "UPDATE webhooks SET url = coalesce($2, url), events = coalesce($3, events), description = coalesce($4, description), version = version + 1,
                 failing_since = CASE WHEN $5 IS TRUE OR $2 <> url THEN NULL ELSE failing_since END,
                 disabled_reason = CASE $5 WHEN true THEN NULL WHEN false THEN coalesce(disabled_reason, 'owner') ELSE disabled_reason END
             WHERE id = $1",
        )
        .bind(id.0)
        .bind(&change.url)
        .bind(&events)
        .bind(&change.description)
        .bind(change.enabled)
        .execute(&mut *tx)
        .await?;
        let changed = own(&mut tx, user_id, id).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// Removes an own webhook. What waits for it is not sent any more.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn remove_webhook(&self, user_id: UserId, id: WebhookId) -> Result<(), StoreError> {
        let removed =
            sqlx::query("DELETE FROM webhooks WHERE id = $1 AND user_id = $2").bind(id.0).bind(user_id.0).execute(&self.pool).await?;
        if removed.rows_affected() == 0 { Err(StoreError::NotFound("webhook")) } else { Ok(()) }
    }

    /// Gives an own webhook another wrapped secret; the one before signs beside it for [`OLD_SECRET_FOR`]. Answered with 200 as [`Store::create_webhook`].
    ///
    /// # Errors
    /// `not_found`, or the errors of a repeated key.
    pub async fn rotate_webhook(
        &self,
        id: WebhookId,
        wrapped: &[u8],
        request: &Idempotency,
        now: OffsetDateTime,
    ) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        let rotated = sqlx::query(
            "UPDATE webhooks SET old_secret = secret, old_secret_until = $4, secret = $3, version = version + 1 WHERE id = $1 AND user_id = $2",
        )
        .bind(id.0)
        .bind(request.user_id.0)
        .bind(wrapped)
        .bind(stored_time(now + OLD_SECRET_FOR))
        .execute(&mut *tx)
        .await?;
        if rotated.rows_affected() == 0 {
            return Err(StoreError::NotFound("webhook"));
        }
        answer_with_secret(tx, id, 200, wrapped, request, now).await
    }
}

/// What is kept of the answer is what is answered: a repeated request is shown the same secret again by whoever can unwrap it.
async fn answer_with_secret(
    mut tx: Tx,
    id: WebhookId,
    status: u16,
    wrapped: &[u8],
    request: &Idempotency,
    now: OffsetDateTime,
) -> Result<Answer, StoreError> {
    let webhook = own(&mut tx, request.user_id, id).await?;
    let mut body =
        serde_json::to_value(&webhook).map_err(|error| StoreError::Invariant(format!("an answer cannot be written: {error}")))?;
    body[WRAPPED] = BASE64_STANDARD.encode(wrapped).into();
    let shown = Answer { status, body: body.clone(), replayed: false };
    commit_once_showing(tx, request, shown, body, now).await
}
