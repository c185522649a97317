//! Releases as they are read. They are made in [`super::scheduling`] and move on in [`super::lifecycle`] and [`super::clearing`].

use std::collections::BTreeMap;

use protocol::rest::{OriginUsage, Page, Rank, Release, ReleaseEdition, ReleaseState, Selection, Wave};
use protocol::{Blake3, ContentId, EditionId, ReleaseId, SwarmId, UserId};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::conversions::{basis_points, byte_array, bytes, small};
use super::duties::rank_duty;
use super::{PageRequest, Store, StoreError};

pub(crate) fn state_of(text: &str) -> Result<ReleaseState, StoreError> {
    Ok(match text {
        "draft" => ReleaseState::Draft,
        "open" => ReleaseState::Open,
        "closed" => ReleaseState::Closed,
        "live" => ReleaseState::Live,
        "settled" => ReleaseState::Settled,
        "cancelled" => ReleaseState::Cancelled,
        "aborted" => ReleaseState::Aborted,
        other => return Err(StoreError::Invariant(format!("{other} is no state of a release"))),
    })
}

pub(crate) fn selection_of(text: &str) -> Result<Selection, StoreError> {
    match text {
        "auction" => Ok(Selection::Auction),
        "first_come" => Ok(Selection::FirstCome),
        "measured_quality" => Ok(Selection::MeasuredQuality),
        other => Err(StoreError::Invariant(format!("{other} is no selection"))),
    }
}

#[derive(sqlx::FromRow)]
struct ReleaseRow {
    id: Uuid,
    publisher_id: Uuid,
    content_id: Uuid,
    title: String,
    state: String,
    sealed: bool,
    selection: String,
    reserve: i64,
    opens_at: OffsetDateTime,
    closes_at: OffsetDateTime,
    starts_at: OffsetDateTime,
    deadline_at: OffsetDateTime,
    primaries_max: i32,
    places_max: Option<i32>,
    wave_interval_s: Option<i32>,
    limit_s: i32,
    relay_bp: i32,
    fee_bp: i32,
    book_hash: Option<Vec<u8>>,
    limit_bytes: i64,
    sent: i64,
    reserved: i64,
}

/// What a release has several of.
struct Terms {
    ranks: Vec<Rank>,
    waves: Vec<Wave>,
    editions: Vec<ReleaseEdition>,
}

impl Store {
    /// One release.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn release(&self, release_id: ReleaseId) -> Result<Release, StoreError> {
        let mut connection = self.pool.acquire().await?;
        self.release_in(&mut connection, release_id).await
    }

    /// One release as a transaction sees it.
    pub(crate) async fn release_in(&self, connection: &mut PgConnection, release_id: ReleaseId) -> Result<Release, StoreError> {
        let mut found = self.read_releases(connection, Some(release_id), None, 1).await?;
        found.pop().ok_or(StoreError::NotFound("release"))
    }

    /// All releases, oldest first; without those that carry downloads.
    ///
    /// # Errors
    /// The cursor is not this list's, or the database fails.
    pub async fn releases(&self, request: &PageRequest) -> Result<Page<Release>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let releases = self.read_releases(&mut connection, None, request.after()?, request.rows_wanted()).await?;
        Ok(request.page(releases, |release| release.id))
    }

    async fn read_releases(
        &self,
        connection: &mut PgConnection,
        wanted: Option<ReleaseId>,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Release>, StoreError> {
        let rows: Vec<ReleaseRow> = sqlx::query_as(
            "SELECT releases.id, publisher_id, releases.content_id, title, state, sealed, selection, reserve, opens_at, closes_at, starts_at, deadline_at,
                 primaries_max, places_max, wave_interval_s, limit_s, relay_bp, fee_bp, book_hash, limit_bytes, sent, reserved_first + reserved_repair AS reserved
             FROM releases JOIN origin_budgets ON origin_budgets.id = releases.budget_id
             WHERE (CASE WHEN $1::uuid IS NULL THEN NOT on_demand ELSE releases.id = $1 END) AND ($2::uuid IS NULL OR releases.id > $2) ORDER BY releases.id LIMIT $3",
        )
        .bind(wanted.map(|id| id.0))
        .bind(after)
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let mut ranks = read_ranks(self, connection, &ids).await?;
        let starts: BTreeMap<ReleaseId, OffsetDateTime> = rows.iter().map(|row| (ReleaseId(row.id), row.starts_at)).collect();
        let mut waves = read_waves(connection, &starts).await?;
        let mut editions = read_editions(connection, &ids).await?;
        rows.into_iter()
            .map(|row| {
                let id = ReleaseId(row.id);
                let terms = Terms {
                    ranks: ranks.remove(&id).unwrap_or_default(),
                    waves: waves.remove(&id).unwrap_or_default(),
                    editions: editions.remove(&id).unwrap_or_default(),
                };
                self.release_of(row, terms)
            })
            .collect()
    }

    fn release_of(&self, row: ReleaseRow, Terms { ranks, waves, editions }: Terms) -> Result<Release, StoreError> {
        Ok(Release {
            id: ReleaseId(row.id),
            publisher_id: UserId(row.publisher_id),
            content_id: ContentId(row.content_id),
            title: row.title,
            state: state_of(&row.state)?,
            editions,
            ranks,
            waves,
            primaries_max: small(row.primaries_max)?,
            places_max: row.places_max.map(small).transpose()?,
            wave_interval_s: row.wave_interval_s.map(small).transpose()?,
            sealed: row.sealed,
            selection: selection_of(&row.selection)?,
            reserve: self.stored_money(row.reserve)?,
            opens_at: row.opens_at,
            closes_at: row.closes_at,
            starts_at: row.starts_at,
            deadline_at: row.deadline_at,
            relay_share: basis_points(row.relay_bp)?,
            fee: basis_points(row.fee_bp)?,
            limit_s: small(row.limit_s)?,
            origin: OriginUsage { budget: bytes(row.limit_bytes)?, sent: bytes(row.sent)?, reserved: bytes(row.reserved)? },
            book_hash: row.book_hash.map(|hash| byte_array(&hash).map(Blake3)).transpose()?,
        })
    }
}

async fn read_ranks(store: &Store, connection: &mut PgConnection, releases: &[Uuid]) -> Result<BTreeMap<ReleaseId, Vec<Rank>>, StoreError> {
    let rows: Vec<RankRow> = sqlx::query_as(
        "SELECT release_id, weight, delay_s, capacity, duty_s, deposit FROM release_ranks WHERE release_id = ANY ($1) ORDER BY release_id, rank",
    )
    .bind(releases)
    .fetch_all(connection)
    .await?;
    let mut ranks: BTreeMap<ReleaseId, Vec<Rank>> = BTreeMap::new();
    for row in rows {
        let rank = Rank {
            weight: small(row.weight)?,
            delay_s: small(row.delay_s)?,
            capacity: row.capacity.map(small).transpose()?,
            duty: rank_duty(store, row.duty_s, row.deposit)?,
        };
        ranks.entry(ReleaseId(row.release_id)).or_default().push(rank);
    }
    Ok(ranks)
}

#[derive(sqlx::FromRow)]
struct RankRow {
    release_id: Uuid,
    weight: i32,
    delay_s: i32,
    capacity: Option<i32>,
    duty_s: Option<i32>,
    deposit: Option<i64>,
}

/// One of a release's waves as it is stored.
pub(super) fn wave_of(starts_at: OffsetDateTime, rank: i32, delay_s: i64) -> Result<Wave, StoreError> {
    Ok(Wave { rank: small(rank)?, opens_at: starts_at + Duration::seconds(delay_s) })
}

async fn read_waves(
    connection: &mut PgConnection,
    starts: &BTreeMap<ReleaseId, OffsetDateTime>,
) -> Result<BTreeMap<ReleaseId, Vec<Wave>>, StoreError> {
    let releases: Vec<Uuid> = starts.keys().map(|id| id.0).collect();
    let rows: Vec<(Uuid, i32, i64)> =
        sqlx::query_as("SELECT release_id, rank, delay_s FROM release_waves WHERE release_id = ANY ($1) ORDER BY release_id, wave")
            .bind(&releases)
            .fetch_all(connection)
            .await?;
    let mut waves: BTreeMap<ReleaseId, Vec<Wave>> = BTreeMap::new();
    for (release_id, rank, delay_s) in rows {
        let id = ReleaseId(release_id);
        let starts_at = starts.get(&id).ok_or_else(|| StoreError::Invariant(format!("release {id} was not read")))?;
        waves.entry(id).or_default().push(wave_of(*starts_at, rank, delay_s)?);
    }
    Ok(waves)
}

#[derive(sqlx::FromRow)]
struct EditionRow {
    release_id: Uuid,
    swarm_id: Uuid,
    edition_id: Vec<u8>,
    label: String,
    length: i64,
    chunks: i32,
    applications: i64,
    places: Vec<i32>,
}

/// With the number of applications that stand, or stood when the release closed.
async fn read_editions(connection: &mut PgConnection, releases: &[Uuid]) -> Result<BTreeMap<ReleaseId, Vec<ReleaseEdition>>, StoreError> {
    let rows: Vec<EditionRow> = sqlx::query_as(
        "SELECT release_id, swarm_id, edition_id, label, length, chunks,
             (SELECT count(*) FROM applications
              WHERE applications.swarm_id = release_editions.swarm_id AND applications.state IN ('active', 'won', 'lost')) AS applications,
             ARRAY(SELECT capacity FROM release_capacities places WHERE places.swarm_id = release_editions.swarm_id ORDER BY rank) AS places
         FROM release_editions WHERE release_id = ANY ($1) ORDER BY release_id, position",
    )
    .bind(releases)
    .fetch_all(connection)
    .await?;
    let mut editions: BTreeMap<ReleaseId, Vec<ReleaseEdition>> = BTreeMap::new();
    for row in rows {
        editions.entry(ReleaseId(row.release_id)).or_default().push(ReleaseEdition {
            swarm_id: SwarmId(row.swarm_id),
            edition_id: EditionId(byte_array(&row.edition_id)?),
            label: row.label,
            length: bytes(row.length)?,
            chunks: small(row.chunks)?,
            applications: u32::try_from(row.applications).unwrap_or(u32::MAX),
            places: row.places.into_iter().map(small).collect::<Result<_, _>>()?,
        });
    }
    Ok(editions)
}
