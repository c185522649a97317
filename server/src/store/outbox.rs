//! What owners are to be told, written down in the transaction of what it tells of: either both are there or neither is. An event becomes one row for each
//! webhook of its owner that wants it, so that whoever has none costs a look into an index. No lock is taken, see `migrations/0015_webhooks.sql`.

use protocol::rest::{DeliveryState, EventType};
use protocol::{Currency, ReleaseId, TerminalId, UserId};
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::StoreError;
use super::clearing::Cleared;
use super::conversions::stored_time;
use super::settlement::Settled;

/// Something to be told to one owner.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) user_id: UserId,
    pub(crate) kind: EventType,
    /// What it is about: with the type and the owner it makes the event's id.
    pub(crate) subject: String,
    pub(crate) data: Value,
}

impl Told {
    pub(crate) fn new(user_id: UserId, kind: EventType, subject: impl ToString, data: Value) -> Self {
        Self { user_id, kind, subject: subject.to_string(), data }
    }
}

/// Writes down what happened at `now`.
pub(crate) async fn tell(tx: &mut PgConnection, told: &[Told], now: OffsetDateTime) -> Result<(), StoreError> {
    let users: Vec<Uuid> = told.iter().map(|told| told.user_id.0).collect();
    let kinds: Vec<&str> = told.iter().map(|told| told.kind.as_str()).collect();
    let subjects: Vec<&str> = told.iter().map(|told| told.subject.as_str()).collect();
    let data: Vec<Json<&Value>> = told.iter().map(|told| Json(&told.data)).collect();
    sqlx::query(
        "INSERT INTO outbox (event_id, webhook_id, user_id, kind, data, occurred_at, due_at)
         SELECT outgoing_event_id(event.kind, event.subject, event.user_id), webhooks.id, event.user_id, event.kind, event.data, $5, $5
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[]) AS event (user_id, kind, subject, data)
         JOIN webhooks ON webhooks.user_id = event.user_id
         WHERE disabled_reason IS NULL AND (events = '{}' OR event.kind = ANY (events))
         ON CONFLICT DO NOTHING",
    )
    .bind(&users)
    .bind(&kinds)
    .bind(&subjects)
    .bind(&data)
    .bind(stored_time(now))
    .execute(tx)
    .await?;
    Ok(())
}

/// Tells a release's publisher.
pub(crate) async fn tell_publisher(
    tx: &mut PgConnection,
    release_id: ReleaseId,
    publisher_id: UserId,
    kind: EventType,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    tell(tx, &[Told::new(publisher_id, kind, release_id, json!({ "release_id": release_id }))], now).await
}

/// Tells a release's publisher what closing did.
pub(crate) async fn tell_closed(
    tx: &mut PgConnection,
    release_id: ReleaseId,
    publisher_id: UserId,
    cleared: &Cleared,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let Cleared { book_hash, winners, losers } = cleared;
    let data = json!({ "release_id": release_id, "winners": winners, "losers": losers, "book_hash": book_hash });
    tell(tx, &[Told::new(publisher_id, EventType::ReleaseClosed, release_id, data)], now).await
}

/// Tells a release's publisher, and everybody whose application stands or has won.
pub(crate) async fn tell_participants(
    tx: &mut PgConnection,
    release_id: ReleaseId,
    kind: EventType,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO outbox (event_id, webhook_id, user_id, kind, data, occurred_at, due_at)
         SELECT outgoing_event_id($2, $1::uuid::text, concerned.user_id), webhooks.id, concerned.user_id, $2,
             jsonb_build_object('release_id', $1::uuid), $3, $3
         FROM (
             SELECT publisher_id AS user_id FROM releases WHERE id = $1
             UNION SELECT user_id FROM applications WHERE release_id = $1 AND state IN ('active', 'won')
         ) concerned
         JOIN webhooks ON webhooks.user_id = concerned.user_id
         WHERE disabled_reason IS NULL AND (events = '{}' OR $2 = ANY (events))
         ON CONFLICT DO NOTHING",
    )
    .bind(release_id.0)
    .bind(kind.as_str())
    .bind(stored_time(now))
    .execute(tx)
    .await?;
    Ok(())
}

/// Tells everybody who applied what became of it; the awards are written.
pub(crate) async fn tell_awards(
    tx: &mut PgConnection,
    release_id: ReleaseId,
    currency: Currency,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO outbox (event_id, webhook_id, user_id, kind, data, occurred_at, due_at)
         SELECT outgoing_event_id(told.kind, told.id::text, told.user_id), webhooks.id, told.user_id, told.kind, told.data, $2, $2
         FROM (
             SELECT applications.id, applications.user_id, 'application.' || applications.state AS kind,
                 jsonb_build_object('application_id', applications.id, 'release_id', applications.release_id, 'terminal_id', applications.terminal_id)
                 || CASE WHEN deliveries.id IS NULL THEN '{}' ELSE jsonb_build_object('delivery_id', deliveries.id, 'rank', deliveries.rank,
                     'price', jsonb_build_object('amount', deliveries.price, 'currency', $3::text)) END AS data
             FROM applications LEFT JOIN deliveries ON application_id = applications.id
             WHERE applications.release_id = $1 AND applications.state IN ('won', 'lost')
         ) told
         JOIN webhooks ON webhooks.user_id = told.user_id
         WHERE disabled_reason IS NULL AND (events = '{}' OR told.kind = ANY (events))
         ON CONFLICT DO NOTHING",
    )
    .bind(release_id.0)
    .bind(stored_time(now))
    .bind(currency.as_str())
    .execute(tx)
    .await?;
    Ok(())
}

/// Tells the receiver, the publisher and every relay what a delivery came to.
pub(crate) async fn tell_settled(
    tx: &mut PgConnection,
    settled: &Settled,
    publisher_id: UserId,
    owner_of: impl Fn(TerminalId) -> Option<UserId>,
    currency: Currency,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let money = |amount| json!({ "amount": amount, "currency": currency });
    let Settled { delivery_id, release_id, terminal_id, user_id, complete, verified, charged, fee, publisher, .. } = settled;
    let receiver = json!({ "delivery_id": delivery_id, "release_id": release_id, "terminal_id": terminal_id });
    match settled.state {
        DeliveryState::Pending => return Ok(()),
        DeliveryState::Released => {
            return tell(tx, &[Told::new(*user_id, EventType::DeliveryReleased, delivery_id, receiver)], now).await;
        }
        DeliveryState::Settled => {}
    }
    let with = |mut data: Value, more: Value| {
        if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
            data.extend(more);
        }
        data
    };
    let bought = with(receiver.clone(), json!({ "complete": complete, "verified": verified, "charged": money(*charged) }));
    let sold = with(receiver, json!({ "charged": money(*charged), "fee": money(*fee), "earned": money(*publisher) }));
    let mut told = vec![
        Told::new(*user_id, EventType::DeliverySettled, delivery_id, bought),
        Told::new(publisher_id, EventType::DeliverySold, delivery_id, sold),
    ];
    for share in settled.shares.iter().filter(|share| !share.source.is_origin() && share.source != *terminal_id) {
        let Some(owner) = owner_of(share.source) else { continue };
        let data = json!({ "delivery_id": delivery_id, "release_id": release_id, "terminal_id": share.source, "bytes": share.bytes,
            "earned": money(share.earned) });
        told.push(Told::new(owner, EventType::DeliveryRelayed, format!("{delivery_id} {}", share.source), data));
    }
    tell(tx, &told, now).await
}
