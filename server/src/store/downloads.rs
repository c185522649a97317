//! Downloads: asked for, read, and taken back. Each is a release of one delivery that begins live, so that receipts, budget, settlement and the deadline
//! are those of every release. Its sources are in [`super::holders`].

use std::collections::BTreeMap;

use protocol::rest::{Download, DownloadSource, DownloadState, NewDownload, OnDemand, OriginUsage, Page};
use protocol::{Bytes, ContentId, DeliveryId, DownloadId, EditionId, ErrorCode, HoldId, ReleaseId, SwarmId, TerminalId, UserId};
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::conversions::{basis_points, bigint, byte_array, bytes, integer, stored_time};
use super::idempotency::{Answer, Begun, Idempotency, commit_once};
use super::quarantines::refuse_quarantined;
use super::settlement::read_receipts;
use super::tariffs::{Priced, tariff_version};
use super::{PageRequest, Store, StoreError, Tx, ledger};

#[derive(sqlx::FromRow)]
struct DownloadRow {
    release_id: Uuid,
    content_id: Uuid,
    swarm_id: Uuid,
    delivery_id: Uuid,
    edition_id: Vec<u8>,
    label: String,
    length: i64,
    terminal_id: Uuid,
    release_state: String,
    delivery_state: String,
    price: i64,
    charged: i64,
    verified_bytes: i64,
    starts_at: OffsetDateTime,
    deadline_at: OffsetDateTime,
    completed_at: Option<OffsetDateTime>,
    limit_bytes: i64,
    sent: i64,
    reserved: i64,
    tariff_id: Option<Uuid>,
    tariff_version: Option<i32>,
}

#[derive(sqlx::FromRow)]
struct SourceRow {
    terminal_id: Uuid,
    serving: bool,
    reason: String,
    failure: Option<String>,
    bytes: Option<i64>,
    earned: Option<i64>,
    relay_bp: Option<i32>,
}

/// Who may see a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadViewer {
    /// Whose terminal it is for, and whose content it is of.
    User(UserId),
    Operator,
}

/// The edition that is asked for.
#[derive(sqlx::FromRow)]
pub(super) struct Wanted {
    pub(super) publisher_id: Uuid,
    title: String,
    label: String,
    pub(super) length: i64,
    chunks: i32,
}

impl Store {
    /// Asks for an edition on demand, for a terminal of whoever sends the request; the price is held. Answered with 201 and the [`Download`], or with 200 and
    /// the one that runs already for this terminal and edition, which costs nothing more.
    ///
    /// # Errors
    /// `not_on_demand`, `unknown_edition`, `invalid_request` for a terminal of somebody else, `price_above_maximum`, `insufficient_funds`, or the errors of a
    /// repeated key.
    pub async fn create_download(
        &self,
        content_id: ContentId,
        new: &NewDownload,
        request: &Idempotency,
        now: OffsetDateTime,
    ) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        // Two requests for the same terminal stand in line here, so that the second one finds the first one's download. References to the terminal do not
        // wait for this: who makes one may hold the wallet that is locked below.
        let owned: Option<bool> = sqlx::query_scalar("SELECT true FROM terminals WHERE id = $1 AND user_id = $2 FOR NO KEY UPDATE")
            .bind(new.terminal_id.0)
            .bind(request.user_id.0)
            .fetch_optional(&mut *tx)
            .await?;
        owned.ok_or_else(|| StoreError::refused_because(ErrorCode::InvalidRequest, "You have no such terminal."))?;
        refuse_quarantined(&mut tx, new.terminal_id, now).await?;
        if let Some(running) = running_download(&mut tx, content_id, new).await? {
            let running = self.download_in(&mut tx, running).await?;
            return commit_once(tx, request, 200, &running, now).await;
        }
        let (terms, priced, wanted) = self.priced(&mut tx, content_id, new.edition_id, new.terminal_id, now).await?;
        let (price, maximum) = (priced.quote.price.amount, self.amount_of(new.maximum)?);
        if price > maximum {
            let detail = format!("The price is {}, the stated maximum {}.", priced.quote.price, new.maximum);
            return Err(StoreError::refused_because(ErrorCode::PriceAboveMaximum, detail));
        }
        let asked = Asked { content_id, new, terms: &terms, priced: &priced, wanted: &wanted };
        let download = insert(&mut tx, &asked, request.user_id, now).await?;
        let hold_id = if price.0 == 0 { None } else { Some(ledger::hold(&mut tx, request.user_id, price, now).await?) };
        insert_delivery(&mut tx, &download, &asked, request.user_id, hold_id, now).await?;
        let download = self.download_in(&mut tx, download.id).await?;
        commit_once(tx, request, 201, &download, now).await
    }

    /// One download.
    ///
    /// # Errors
    /// `not_found`, also for one that the viewer may not see, or the database fails.
    pub async fn download(&self, id: DownloadId, viewer: DownloadViewer) -> Result<Download, StoreError> {
        let mut connection = self.pool.acquire().await?;
        check_viewer(&mut connection, id, viewer).await?;
        self.download_in(&mut connection, id).await
    }

    /// A user's downloads of a content, oldest first.
    ///
    /// # Errors
    /// The cursor is not this list's, or the database fails.
    pub async fn downloads(&self, content_id: ContentId, user_id: UserId, request: &PageRequest) -> Result<Page<Download>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "SELECT releases.id FROM releases JOIN deliveries ON release_id = releases.id
             WHERE on_demand AND content_id = $1 AND user_id = $2 AND ($3::uuid IS NULL OR releases.id > $3) ORDER BY releases.id LIMIT $4",
        )
        .bind(content_id.0)
        .bind(user_id.0)
        .bind(request.after::<Uuid>()?)
        .bind(request.rows_wanted())
        .fetch_all(&mut *connection)
        .await?;
        let mut downloads = Vec::with_capacity(ids.len());
        for id in ids {
            downloads.push(self.download_in(&mut connection, DownloadId(id)).await?);
        }
        Ok(request.page(downloads, |download| download.id))
    }

    /// Ends a download that runs, for its owner: nothing more is sent for it, and it is settled as at the deadline, which falls due now. Answered with 200
    /// and the [`Download`].
    ///
    /// # Errors
    /// `not_found`, `conflict` if it has ended, or the errors of a repeated key.
    pub async fn cancel_download(&self, id: DownloadId, request: &Idempotency, now: OffsetDateTime) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        let owner: Option<Uuid> =
            sqlx::query_scalar("SELECT user_id FROM downloads JOIN deliveries ON id = delivery_id WHERE release_id = $1")
                .bind(id.0)
                .fetch_optional(&mut *tx)
                .await?;
        owner.filter(|owner| *owner == request.user_id.0).ok_or(StoreError::NotFound("download"))?;
        let aborted =
            sqlx::query("UPDATE releases SET state = 'aborted' WHERE id = $1 AND state = 'live'").bind(id.0).execute(&mut *tx).await?;
        if aborted.rows_affected() == 0 {
            return Err(StoreError::refused_because(ErrorCode::Conflict, "The download has ended."));
        }
        sqlx::query("UPDATE due_work SET due_at = least(due_at, $2) WHERE release_id = $1 AND done_at IS NULL")
            .bind(id.0)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        let download = self.download_in(&mut tx, id).await?;
        commit_once(tx, request, 200, &download, now).await
    }

    /// What has been received of a running download, by source.
    ///
    /// # Errors
    /// The database fails.
    pub async fn received_chunks(&self, delivery_id: DeliveryId) -> Result<Vec<(TerminalId, protocol::bitmap::ChunkSet)>, StoreError> {
        read_receipts(&mut *self.pool.acquire().await?, delivery_id).await
    }

    async fn download_in(&self, connection: &mut PgConnection, id: DownloadId) -> Result<Download, StoreError> {
        let row: Option<DownloadRow> = sqlx::query_as(
            "SELECT releases.id AS release_id, releases.content_id, downloads.swarm_id, delivery_id, edition_id, label, length, terminal_id,
                 releases.state AS release_state, deliveries.state AS delivery_state, price, charged, verified_bytes, starts_at, deadline_at,
                 completed_at, limit_bytes, sent, reserved_first + reserved_repair AS reserved, tariff_id, tariff_version
             FROM releases
             JOIN deliveries ON deliveries.release_id = releases.id
             JOIN downloads ON downloads.delivery_id = deliveries.id
             JOIN release_editions ON release_editions.swarm_id = downloads.swarm_id
             JOIN origin_budgets ON origin_budgets.id = budget_id
             WHERE releases.id = $1 AND on_demand",
        )
        .bind(id.0)
        .fetch_optional(&mut *connection)
        .await?;
        let row = row.ok_or(StoreError::NotFound("download"))?;
        let sources = self.sources_of(connection, SwarmId(row.swarm_id), DeliveryId(row.delivery_id)).await?;
        self.download_of(row, sources)
    }

    async fn sources_of(
        &self,
        connection: &mut PgConnection,
        swarm_id: SwarmId,
        delivery_id: DeliveryId,
    ) -> Result<Vec<DownloadSource>, StoreError> {
        let rows: Vec<SourceRow> = sqlx::query_as(
            "SELECT coalesce(terminal_id, source) AS terminal_id, dropped_at IS NULL AND swarm_id IS NOT NULL AS serving,
                 coalesce(reason, 'the origin') AS reason, failure, bytes, earned, relay_bp
             FROM (SELECT * FROM download_sources WHERE swarm_id = $1) chosen
             FULL JOIN (SELECT * FROM delivery_shares WHERE delivery_id = $2) shares ON source = terminal_id
             ORDER BY source IS NOT DISTINCT FROM '00000000-0000-0000-0000-000000000000', chosen_at, 1",
        )
        .bind(swarm_id.0)
        .bind(delivery_id.0)
        .fetch_all(connection)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(DownloadSource {
                    terminal_id: TerminalId(row.terminal_id),
                    serving: row.serving,
                    reason: row.reason,
                    failure: row.failure,
                    bytes: bytes(row.bytes.unwrap_or(0))?,
                    earned: self.stored_money(row.earned.unwrap_or(0))?,
                    relay_share: row.relay_bp.map(basis_points).transpose()?,
                })
            })
            .collect()
    }

    fn download_of(&self, row: DownloadRow, mut sources: Vec<DownloadSource>) -> Result<Download, StoreError> {
        let state = match (row.release_state.as_str(), row.delivery_state.as_str(), row.completed_at) {
            (_, "settled", Some(_)) => DownloadState::Complete,
            ("live", "pending", _) => DownloadState::Running,
            _ => DownloadState::Ended,
        };
        if state != DownloadState::Running {
            sources.iter_mut().for_each(|source| source.serving = false);
        }
        Ok(Download {
            id: DownloadId(row.release_id),
            release_id: ReleaseId(row.release_id),
            swarm_id: SwarmId(row.swarm_id),
            delivery_id: DeliveryId(row.delivery_id),
            content_id: ContentId(row.content_id),
            edition_id: EditionId(byte_array(&row.edition_id)?),
            label: row.label,
            length: bytes(row.length)?,
            terminal_id: TerminalId(row.terminal_id),
            state,
            price: self.stored_money(row.price)?,
            tariff: tariff_version(row.tariff_id, row.tariff_version)?,
            charged: self.stored_money(row.charged)?,
            verified: bytes(row.verified_bytes)?,
            sources,
            origin: OriginUsage { budget: bytes(row.limit_bytes)?, sent: bytes(row.sent)?, reserved: bytes(row.reserved)? },
            requested_at: row.starts_at,
            deadline_at: row.deadline_at,
            completed_at: row.completed_at,
        })
    }
}

/// Adds what was received of a running download to its sources; the origin's part comes last.
pub fn add_received(download: &mut Download, received: BTreeMap<TerminalId, Bytes>, nothing: protocol::Money) {
    for (terminal_id, bytes) in received {
        match download.sources.iter_mut().find(|source| source.terminal_id == terminal_id) {
            Some(source) => source.bytes = bytes,
            None => download.sources.push(DownloadSource {
                terminal_id,
                serving: false,
                reason: "the origin".to_owned(),
                failure: None,
                bytes,
                earned: nothing,
                relay_share: None,
            }),
        }
    }
}

async fn check_viewer(connection: &mut PgConnection, id: DownloadId, viewer: DownloadViewer) -> Result<(), StoreError> {
    let DownloadViewer::User(user_id) = viewer else { return Ok(()) };
    let seen: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM releases JOIN deliveries ON release_id = releases.id
         WHERE releases.id = $1 AND on_demand AND (user_id = $2 OR publisher_id = $2))",
    )
    .bind(id.0)
    .bind(user_id.0)
    .fetch_one(connection)
    .await?;
    if seen { Ok(()) } else { Err(StoreError::NotFound("download")) }
}

/// The download of this edition that runs for the terminal.
async fn running_download(tx: &mut PgConnection, content_id: ContentId, new: &NewDownload) -> Result<Option<DownloadId>, StoreError> {
    let id: Option<Uuid> = sqlx::query_scalar(
        "SELECT releases.id FROM releases
         JOIN deliveries ON release_id = releases.id JOIN release_editions ON release_editions.swarm_id = deliveries.swarm_id
         WHERE on_demand AND content_id = $1 AND edition_id = $2 AND terminal_id = $3 AND releases.state = 'live' AND deliveries.state = 'pending'
         ORDER BY releases.id LIMIT 1",
    )
    .bind(content_id.0)
    .bind(new.edition_id.0.as_slice())
    .bind(new.terminal_id.0)
    .fetch_optional(tx)
    .await?;
    Ok(id.map(DownloadId))
}

pub(super) async fn wanted(tx: &mut PgConnection, content_id: ContentId, edition_id: EditionId) -> Result<Wanted, StoreError> {
    let wanted: Option<Wanted> = sqlx::query_as(
        "SELECT publisher_id, title, label, length, chunks FROM contents
         JOIN content_editions ON content_editions.content_id = contents.id JOIN editions ON editions.id = edition_id
         WHERE contents.id = $1 AND editions.id = $2",
    )
    .bind(content_id.0)
    .bind(edition_id.0.as_slice())
    .fetch_optional(tx)
    .await?;
    wanted.ok_or_else(|| StoreError::refused_because(ErrorCode::UnknownEdition, "The content has no such edition."))
}

/// What is asked for, and what it costs.
struct Asked<'a> {
    content_id: ContentId,
    new: &'a NewDownload,
    terms: &'a OnDemand,
    priced: &'a Priced,
    wanted: &'a Wanted,
}

/// The ids of a download that is being written.
struct Fresh {
    id: DownloadId,
    swarm_id: SwarmId,
}

/// The release, its only swarm, and its deadline.
async fn insert(tx: &mut Tx, asked: &Asked<'_>, user_id: UserId, now: OffsetDateTime) -> Result<Fresh, StoreError> {
    let Asked { content_id, new, terms, priced, wanted } = asked;
    let fresh = Fresh { id: DownloadId(Uuid::now_v7()), swarm_id: SwarmId(Uuid::now_v7()) };
    let starts_at = stored_time(now);
    let deadline_at = starts_at + Duration::seconds(i64::from(terms.limit_s));
    tracing::debug!(download = %fresh.id, %user_id, "a download is asked for");
    sqlx::query(
        "INSERT INTO releases (id, publisher_id, content_id, title, state, selection, reserve, opens_at, closes_at, starts_at, deadline_at,
             limit_s, relay_bp, fee_bp, created_at, on_demand, primaries_max)
         VALUES ($1, $2, $3, $4, 'live', 'first_come', $5, $6, $7, $8, $9, $10, $11, $12, $8, true, 1)",
    )
    .bind(fresh.id.0)
    .bind(wanted.publisher_id)
    .bind(content_id.0)
    .bind(&wanted.title)
    .bind(bigint(priced.quote.price.amount.0)?)
    .bind(starts_at - Duration::microseconds(2))
    .bind(starts_at - Duration::microseconds(1))
    .bind(starts_at)
    .bind(deadline_at)
    .bind(integer(terms.limit_s)?)
    .bind(i32::from(priced.relay_share.get()))
    .bind(i32::from(priced.fee.get()))
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "INSERT INTO release_editions (swarm_id, release_id, edition_id, label, position, length, chunks) VALUES ($1, $2, $3, $4, 0, $5, $6)",
    )
    .bind(fresh.swarm_id.0)
    .bind(fresh.id.0)
    .bind(new.edition_id.0.as_slice())
    .bind(&wanted.label)
    .bind(wanted.length)
    .bind(wanted.chunks)
    .execute(&mut **tx)
    .await?;
    for statement in [
        "INSERT INTO release_ranks (release_id, rank, weight, delay_s, capacity) VALUES ($1, 1, 1, 0, 1)",
        "INSERT INTO release_waves (release_id, wave, rank, delay_s) VALUES ($1, 0, 1, 0)",
        "INSERT INTO release_capacities (swarm_id, rank, capacity) SELECT swarm_id, 1, 1 FROM release_editions WHERE release_id = $1",
        "INSERT INTO due_work (kind, release_id, due_at) SELECT 'deadline', id, deadline_at FROM releases WHERE id = $1",
    ] {
        sqlx::query(statement).bind(fresh.id.0).execute(&mut **tx).await?;
    }
    Ok(fresh)
}

/// The one delivery, in the one group of its swarm. Its application is what every delivery has; nobody bid.
async fn insert_delivery(
    tx: &mut Tx,
    download: &Fresh,
    asked: &Asked<'_>,
    user_id: UserId,
    hold_id: Option<HoldId>,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let (new, price, tariff) = (asked.new, asked.priced.quote.price.amount, asked.priced.quote.tariff);
    let (application_id, delivery_id, group_id) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    sqlx::query(
        "INSERT INTO applications (id, release_id, swarm_id, terminal_id, user_id, rank_wanted, maximum, state, applied_at, bid_id)
         VALUES ($1, $2, $3, $4, $5, 1, $6, 'won', $7, gen_random_uuid())",
    )
    .bind(application_id)
    .bind(download.id.0)
    .bind(download.swarm_id.0)
    .bind(new.terminal_id.0)
    .bind(user_id.0)
    .bind(bigint(price.0)?)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "INSERT INTO deliveries (id, application_id, release_id, swarm_id, terminal_id, user_id, rank, wave, price, hold_id, state)
         VALUES ($1, $2, $3, $4, $5, $6, 1, 0, $7, $8, 'pending')",
    )
    .bind(delivery_id)
    .bind(application_id)
    .bind(download.id.0)
    .bind(download.swarm_id.0)
    .bind(new.terminal_id.0)
    .bind(user_id.0)
    .bind(bigint(price.0)?)
    .bind(hold_id.map(|hold_id| hold_id.0))
    .execute(&mut **tx)
    .await?;
    sqlx::query("INSERT INTO swarm_groups (id, swarm_id, wave, position, root) VALUES ($1, $2, 0, 0, true)")
        .bind(group_id)
        .bind(download.swarm_id.0)
        .execute(&mut **tx)
        .await?;
    sqlx::query("INSERT INTO swarm_group_members (delivery_id, group_id, position) VALUES ($1, $2, 0)")
        .bind(delivery_id)
        .bind(group_id)
        .execute(&mut **tx)
        .await?;
    sqlx::query("INSERT INTO downloads (swarm_id, delivery_id, tariff_id, tariff_version) VALUES ($1, $2, $3, $4)")
        .bind(download.swarm_id.0)
        .bind(delivery_id)
        .bind(tariff.map(|tariff| tariff.tariff_id.0))
        .bind(tariff.map(|tariff| integer(tariff.version)).transpose()?)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
