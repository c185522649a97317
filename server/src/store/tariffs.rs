//! Tariffs, and what they make of a download. The amounts are decided in [`rules::tariff`]; here is what they are decided from.

use std::collections::BTreeMap;

use protocol::rest::{NewTariff, Page, PriceQuote, ReceivedVolume, Tariff, TariffTerms, TariffVersion};
use protocol::{BasisPoints, Bytes, ContentId, EditionId, ErrorCode, TariffId, TerminalId, TimestampMs, UserId};
use rules::tariff::Volume;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{bytes, integer, small, stored_time};
use super::idempotency::{Answer, Begun, Idempotency, commit_once};
use super::{PageRequest, Store, StoreError};
use crate::clock::{from_timestamp_ms, to_timestamp_ms};

#[derive(sqlx::FromRow)]
struct TariffRow {
    id: Uuid,
    name: String,
    version: i32,
    terms: Json<TariffTerms>,
    created_at: OffsetDateTime,
}

impl TariffRow {
    fn tariff(self) -> Result<Tariff, StoreError> {
        Ok(Tariff {
            id: TariffId(self.id),
            name: self.name,
            version: small(self.version)?,
            terms: self.terms.0,
            created_at: self.created_at,
        })
    }
}

/// Where what is asked for a download follows from.
#[derive(Debug, Clone)]
pub(super) struct Priced {
    pub(super) quote: PriceQuote,
    /// The relays' share where a relay has reached no step, and the origin's.
    pub(super) relay_share: BasisPoints,
    pub(super) fee: BasisPoints,
}

impl Store {
    /// Makes a publisher's tariff in its first version. Answered with 201 and the [`Tariff`].
    ///
    /// # Errors
    /// The errors of a repeated key, or the database fails.
    pub async fn create_tariff(&self, new: &NewTariff, request: &Idempotency, now: OffsetDateTime) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        let now = stored_time(now);
        let id = TariffId(Uuid::now_v7());
        sqlx::query("INSERT INTO tariffs (id, publisher_id, name, created_at) VALUES ($1, $2, $3, $4)")
            .bind(id.0)
            .bind(request.user_id.0)
            .bind(&new.name)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        insert_version(&mut tx, id, 1, &new.terms, now).await?;
        let made = Tariff { id, name: new.name.clone(), version: 1, terms: new.terms.clone(), created_at: now };
        commit_once(tx, request, 201, &made, now).await
    }

    /// Adds a version to an own tariff after the one that the publisher has `seen` (none: whichever it is), which counts from now on. Answered with 201 and the
    /// [`Tariff`].
    ///
    /// # Errors
    /// `not_found` for a tariff that is not the publisher's, `precondition_failed` if another version came since, or the errors of a repeated key.
    pub async fn change_tariff(
        &self,
        id: TariffId,
        seen: Option<u32>,
        terms: &TariffTerms,
        request: &Idempotency,
        now: OffsetDateTime,
    ) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        let now = stored_time(now);
        let name: Option<String> = sqlx::query_scalar("SELECT name FROM tariffs WHERE id = $1 AND publisher_id = $2 FOR UPDATE")
            .bind(id.0)
            .bind(request.user_id.0)
            .fetch_optional(&mut *tx)
            .await?;
        let name = name.ok_or(StoreError::NotFound("tariff"))?;
        let latest = latest(&mut tx, id).await?;
        if seen.is_some_and(|seen| seen != latest.version) {
            return Err(StoreError::refused(ErrorCode::PreconditionFailed));
        }
        let version = latest.version.saturating_add(1);
        insert_version(&mut tx, id, version, terms, now).await?;
        let changed = Tariff { id, name, version, terms: terms.clone(), created_at: now };
        commit_once(tx, request, 201, &changed, now).await
    }

    /// One version of a tariff, the latest one if none is named. Whoever may see a content that is offered by it needs it, so everybody may.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn tariff(&self, id: TariffId, version: Option<u32>) -> Result<Tariff, StoreError> {
        let row: Option<TariffRow> = sqlx::query_as(
            "SELECT id, name, version, terms, tariff_versions.created_at FROM tariffs JOIN tariff_versions ON tariff_id = id
             WHERE id = $1 AND ($2::integer IS NULL OR version = $2) ORDER BY version DESC LIMIT 1",
        )
        .bind(id.0)
        .bind(version.map(integer).transpose()?)
        .fetch_optional(&self.pool)
        .await?;
        row.ok_or(StoreError::NotFound("tariff"))?.tariff()
    }

    /// A publisher's tariffs in their latest versions, oldest first.
    ///
    /// # Errors
    /// The cursor is not this list's, or the database fails.
    pub async fn tariffs(&self, publisher: UserId, request: &PageRequest) -> Result<Page<Tariff>, StoreError> {
        let rows: Vec<TariffRow> = sqlx::query_as(
            "SELECT id, name, version, terms, latest.created_at FROM tariffs
             JOIN LATERAL (SELECT * FROM tariff_versions WHERE tariff_id = id ORDER BY version DESC LIMIT 1) latest ON true
             WHERE publisher_id = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        )
        .bind(publisher.0)
        .bind(request.after::<Uuid>()?)
        .bind(request.rows_wanted())
        .fetch_all(&self.pool)
        .await?;
        let tariffs = rows.into_iter().map(TariffRow::tariff).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(tariffs, |tariff| tariff.id))
    }

    /// What an edition would cost a terminal of `user_id` now.
    ///
    /// # Errors
    /// `not_on_demand`, `unknown_edition`, `invalid_request` for a terminal of somebody else, or the database fails.
    pub async fn quote(
        &self,
        content_id: ContentId,
        edition_id: EditionId,
        (terminal_id, user_id): (TerminalId, UserId),
        now: OffsetDateTime,
    ) -> Result<PriceQuote, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let owned: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM terminals WHERE id = $1 AND user_id = $2)")
            .bind(terminal_id.0)
            .bind(user_id.0)
            .fetch_one(&mut *connection)
            .await?;
        if !owned {
            return Err(StoreError::refused_because(ErrorCode::InvalidRequest, "You have no such terminal."));
        }
        let (_, priced, _) = self.priced(&mut connection, content_id, edition_id, terminal_id, now).await?;
        Ok(priced.quote)
    }

    /// The price of `length` bytes by a tariff's latest version, for a terminal that may have received something of this publisher before.
    pub(super) async fn price_by(
        &self,
        connection: &mut PgConnection,
        id: TariffId,
        (publisher, terminal_id): (UserId, TerminalId),
        length: Bytes,
        now: OffsetDateTime,
    ) -> Result<Priced, StoreError> {
        let latest = latest(connection, id).await?;
        let tariff = checked(latest.terms)?;
        let at = to_timestamp_ms(now);
        let since = period_start(&tariff, at)?;
        let received = received(connection, publisher, terminal_id, since).await?;
        let quote =
            tariff.quote(length, at, received).map_err(|error| StoreError::refused_because(ErrorCode::Conflict, error.to_string()))?;
        let place = |index: Option<usize>| index.and_then(|index| u32::try_from(index).ok());
        Ok(Priced {
            quote: PriceQuote {
                price: self.money(quote.price),
                list_price: self.money(quote.list_price),
                tariff: Some(TariffVersion { tariff_id: id, version: latest.version }),
                window: place(quote.window),
                step: place(quote.step),
                is_minimum: quote.is_minimum,
                received: Some(ReceivedVolume { deliveries: received.deliveries, bytes: received.bytes, since }),
            },
            relay_share: tariff.relay_share(at, Volume::default()).map_err(invariant)?,
            fee: tariff.terms().fee,
        })
    }
}

/// A version of a tariff without its name.
pub(super) struct Version {
    pub(super) version: u32,
    pub(super) terms: TariffTerms,
}

pub(super) async fn latest(connection: &mut PgConnection, id: TariffId) -> Result<Version, StoreError> {
    let row: Option<(i32, Json<TariffTerms>)> =
        sqlx::query_as("SELECT version, terms FROM tariff_versions WHERE tariff_id = $1 ORDER BY version DESC LIMIT 1")
            .bind(id.0)
            .fetch_optional(connection)
            .await?;
    let (version, Json(terms)) = row.ok_or(StoreError::NotFound("tariff"))?;
    Ok(Version { version: small(version)?, terms })
}

/// The version that stands in two columns.
pub(super) fn tariff_version(id: Option<Uuid>, version: Option<i32>) -> Result<Option<TariffVersion>, StoreError> {
    let version = version.map(small).transpose()?;
    Ok(id.zip(version).map(|(id, version)| TariffVersion { tariff_id: TariffId(id), version }))
}

async fn insert_version(
    connection: &mut PgConnection,
    id: TariffId,
    version: u32,
    terms: &TariffTerms,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO tariff_versions (tariff_id, version, terms, created_at) VALUES ($1, $2, $3, $4)")
        .bind(id.0)
        .bind(integer(version)?)
        .bind(Json(terms))
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

/// The shares of those relays of a download whose tariff gives them another one than those that sent nothing before: by what they had sent in the period when the
/// download was asked for. Only complete deliveries are counted as such, since one that is ended after a chunk costs next to nothing.
///
/// # Errors
/// The database fails.
pub(super) async fn relay_shares(
    connection: &mut PgConnection,
    version: TariffVersion,
    publisher: UserId,
    asked_at: OffsetDateTime,
    relays: impl Iterator<Item = TerminalId>,
) -> Result<BTreeMap<TerminalId, BasisPoints>, StoreError> {
    let Json(terms): Json<TariffTerms> = sqlx::query_scalar("SELECT terms FROM tariff_versions WHERE tariff_id = $1 AND version = $2")
        .bind(version.tariff_id.0)
        .bind(integer(version.version)?)
        .fetch_one(&mut *connection)
        .await?;
    let tariff = checked(terms)?;
    if tariff.terms().sent.is_empty() {
        return Ok(BTreeMap::new());
    }
    let at = to_timestamp_ms(asked_at);
    let since = period_start(&tariff, at)?;
    let ids: Vec<Uuid> = relays.filter(|relay| !relay.is_origin()).map(|relay| relay.0).collect();
    let rows: Vec<(Uuid, i64, i64)> = sqlx::query_as(
        "SELECT source, count(*) FILTER (WHERE of_complete), coalesce(sum(bytes), 0)::bigint FROM delivery_shares
         WHERE source = ANY ($1) AND publisher_id = $2 AND settled_at >= $3 AND settled_at <= $4 GROUP BY source",
    )
    .bind(ids)
    .bind(publisher.0)
    .bind(since)
    .bind(asked_at)
    .fetch_all(connection)
    .await?;
    let of_everybody = tariff.relay_share(at, Volume::default()).map_err(invariant)?;
    let mut shares = BTreeMap::new();
    for (source, deliveries, sent) in rows {
        let share = tariff.relay_share(at, volume(deliveries, sent)?).map_err(invariant)?;
        if share != of_everybody {
            shares.insert(TerminalId(source), share);
        }
    }
    Ok(shares)
}

/// What a terminal has received of a publisher's contents since then, as far as it is settled: complete deliveries, and bytes.
async fn received(
    connection: &mut PgConnection,
    publisher: UserId,
    terminal_id: TerminalId,
    since: OffsetDateTime,
) -> Result<Volume, StoreError> {
    let (deliveries, received): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE completed_at IS NOT NULL), coalesce(sum(verified_bytes), 0)::bigint FROM deliveries JOIN releases ON releases.id = release_id
         WHERE terminal_id = $1 AND publisher_id = $2 AND settled_at >= $3 AND deliveries.state = 'settled'",
    )
    .bind(terminal_id.0)
    .bind(publisher.0)
    .bind(since)
    .fetch_one(connection)
    .await?;
    volume(deliveries, received)
}

fn volume(deliveries: i64, moved: i64) -> Result<Volume, StoreError> {
    Ok(Volume { deliveries: u32::try_from(deliveries).unwrap_or(u32::MAX), bytes: bytes(moved)? })
}

fn period_start(tariff: &rules::tariff::Tariff, at: TimestampMs) -> Result<OffsetDateTime, StoreError> {
    let start = tariff.period_start(at).map_err(invariant)?;
    from_timestamp_ms(start).ok_or_else(|| invariant("a period began beyond the calendar"))
}

/// Terms were checked before they were stored.
fn checked(terms: TariffTerms) -> Result<rules::tariff::Tariff, StoreError> {
    rules::tariff::Tariff::new(terms).map_err(invariant)
}

fn invariant(error: impl std::fmt::Display) -> StoreError {
    StoreError::Invariant(error.to_string())
}
