//! Who holds which edition, and who serves which download: what sources are selected from (a01).

use std::collections::{BTreeMap, BTreeSet};

use protocol::ws::Peer;
use protocol::{BitsPerSecond, DeliveryId, EditionId, PublicKey, SwarmId, TerminalId, UserId};
use rules::relay_plan::{CommunicationState, NatKind, Region};
use rules::sources::{Failure, Requester};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::conversions::{byte_array, small, unsigned};
use super::{Store, StoreError};

/// The most holders that are looked at for one download: those seen last. Far more than are ever chosen.
const HOLDERS_MAX: i64 = 512;
/// How long a source that was found silent is passed over.
const SILENT_FOR: Duration = Duration::seconds(30);

/// A terminal that received an edition completely and says that it still has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHolder {
    pub terminal_id: TerminalId,
    pub state: CommunicationState,
    pub up: BitsPerSecond,
    /// It serves this download already.
    pub chosen: bool,
    pub failure: Option<Failure>,
    /// Whom it serves otherwise: the receivers of other downloads that run.
    pub serves: Vec<TerminalId>,
}

/// Everything that sources of a download are selected from, but for who is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The download's epoch when this was read.
    pub epoch: u64,
    pub receiver: TerminalId,
    pub requester: Requester,
    pub holders: Vec<StoredHolder>,
}

/// A source of a download, as its plan names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSource {
    /// With the source's place where others have a delivery.
    pub peer: Peer,
    pub owner: UserId,
    /// Whether it is to serve now; else it did once.
    pub serving: bool,
}

#[derive(sqlx::FromRow)]
struct HolderRow {
    terminal_id: Uuid,
    up_bps: i64,
    chosen: bool,
    failure: Option<String>,
    failed_at: Option<OffsetDateTime>,
    #[sqlx(flatten)]
    line: LineRow,
}

/// How a terminal communicates, as stored; all null or default if nobody has measured it.
#[derive(sqlx::FromRow)]
struct LineRow {
    region: Option<i32>,
    round_trip_ms: Option<i32>,
    loss_ppm: Option<i32>,
    nat: Option<String>,
    up_seen_bps: Option<i64>,
    down_seen_bps: Option<i64>,
}

impl LineRow {
    fn state(&self) -> Result<CommunicationState, StoreError> {
        let of = |value: Option<i32>| value.map(small).transpose();
        let to_u16 =
            |value: u32| u16::try_from(value).map_err(|_| StoreError::Invariant(format!("the stored {value} does not fit 16 bits")));
        Ok(CommunicationState {
            region: of(self.region)?.map(to_u16).transpose()?.map(Region),
            round_trip_ms: of(self.round_trip_ms)?.map(to_u16).transpose()?,
            loss_ppm: of(self.loss_ppm)?,
            nat: match self.nat.as_deref() {
                None | Some("unknown") => NatKind::Unknown,
                Some("open") => NatKind::Open,
                Some("endpoint_independent") => NatKind::EndpointIndependent,
                Some("endpoint_dependent") => NatKind::EndpointDependent,
                Some(other) => return Err(StoreError::Invariant(format!("{other} is no kind of NAT"))),
            },
        })
    }
}

/// What was seen counts if nothing was stated, and where it is less.
fn rate(stated: i64, seen: Option<i64>) -> Result<BitsPerSecond, StoreError> {
    let (stated, seen) = (unsigned(stated)?, unsigned(seen.unwrap_or(0))?);
    Ok(BitsPerSecond(if stated == 0 || (seen > 0 && seen < stated) { seen } else { stated }))
}

fn failure_of(text: &str) -> Result<Failure, StoreError> {
    match text {
        "silent" => Ok(Failure::Silent),
        "corrupt" => Ok(Failure::Corrupt),
        other => Err(StoreError::Invariant(format!("{other} is no failure of a source"))),
    }
}

fn failure_text(failure: Failure) -> &'static str {
    match failure {
        Failure::Silent => "silent",
        Failure::Corrupt => "corrupt",
    }
}

impl Store {
    /// Notes which complete editions a terminal says that it holds. `whole`: these and no others. Editions that this server does not know are passed over.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_holdings(
        &self,
        terminal: TerminalId,
        editions: &[EditionId],
        whole: bool,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let ids: Vec<Vec<u8>> = editions.iter().map(|edition| edition.0.to_vec()).collect();
        let mut tx = self.begin().await?;
        if whole {
            sqlx::query("DELETE FROM holdings WHERE terminal_id = $1 AND edition_id <> ALL ($2)")
                .bind(terminal.0)
                .bind(&ids)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query(
            "INSERT INTO holdings (terminal_id, edition_id, said_at) SELECT $1, id, $3 FROM editions WHERE id = ANY ($2) ORDER BY id
             ON CONFLICT (terminal_id, edition_id) DO UPDATE SET said_at = excluded.said_at",
        )
        .bind(terminal.0)
        .bind(&ids)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Running downloads that a terminal's holdings may change something about: those of editions that it holds and does not serve, and those that it is to
    /// serve and does not hold.
    ///
    /// # Errors
    /// The database fails.
    pub async fn downloads_to_look_at(&self, terminal: TerminalId) -> Result<Vec<SwarmId>, StoreError> {
        let rows: Vec<Uuid> = sqlx::query_scalar(
            "SELECT downloads.swarm_id FROM downloads
             JOIN release_editions ON release_editions.swarm_id = downloads.swarm_id
             JOIN releases ON releases.id = release_id AND releases.state = 'live'
             LEFT JOIN holdings ON holdings.edition_id = release_editions.edition_id AND holdings.terminal_id = $1
             LEFT JOIN download_sources chosen
                 ON chosen.swarm_id = downloads.swarm_id AND chosen.terminal_id = $1 AND chosen.dropped_at IS NULL
             WHERE (holdings.terminal_id IS NULL) <> (chosen.terminal_id IS NULL) ORDER BY 1",
        )
        .bind(terminal.0)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(SwarmId).collect())
    }

    /// What the sources of a running download are selected from; `None` if it has ended.
    ///
    /// # Errors
    /// The database fails.
    pub async fn selection(&self, swarm_id: SwarmId, now: OffsetDateTime) -> Result<Option<Selection>, StoreError> {
        let asked: Option<(i64, Uuid, i64, Vec<u8>)> = sqlx::query_as(
            "SELECT epoch, deliveries.terminal_id, down_bps, edition_id FROM downloads
             JOIN deliveries ON deliveries.id = delivery_id JOIN terminals ON terminals.id = deliveries.terminal_id
             JOIN release_editions ON release_editions.swarm_id = downloads.swarm_id JOIN releases ON releases.id = release_editions.release_id
             WHERE downloads.swarm_id = $1 AND releases.state = 'live' AND deliveries.state = 'pending'",
        )
        .bind(swarm_id.0)
        .fetch_optional(&self.pool)
        .await?;
        let Some((epoch, receiver, down, edition)) = asked else { return Ok(None) };
        let line: Option<LineRow> = sqlx::query_as(
            "SELECT region, round_trip_ms, loss_ppm, nat, up_seen_bps, down_seen_bps FROM communication_states WHERE terminal_id = $1",
        )
        .bind(receiver)
        .fetch_optional(&self.pool)
        .await?;
        let state = line.as_ref().map(LineRow::state).transpose()?.unwrap_or_default();
        let requester = Requester { state, down: rate(down, line.and_then(|line| line.down_seen_bps))? };
        let holders = self.holders(swarm_id, &edition, receiver, now).await?;
        Ok(Some(Selection { epoch: unsigned(epoch)?, receiver: TerminalId(receiver), requester, holders }))
    }

    async fn holders(
        &self,
        swarm_id: SwarmId,
        edition: &[u8],
        receiver: Uuid,
        now: OffsetDateTime,
    ) -> Result<Vec<StoredHolder>, StoreError> {
        let rows: Vec<HolderRow> = sqlx::query_as(
            "SELECT holdings.terminal_id, up_bps, chosen.terminal_id IS NOT NULL AND chosen.dropped_at IS NULL AS chosen, failure, failed_at,
                 region, round_trip_ms, loss_ppm, nat, up_seen_bps, down_seen_bps
             FROM holdings
             JOIN terminals ON terminals.id = holdings.terminal_id
             LEFT JOIN communication_states ON communication_states.terminal_id = holdings.terminal_id
             LEFT JOIN download_sources chosen ON chosen.swarm_id = $1 AND chosen.terminal_id = holdings.terminal_id
             WHERE edition_id = $2 AND holdings.terminal_id <> $3
               AND EXISTS (SELECT FROM deliveries JOIN release_editions USING (swarm_id)
                           WHERE deliveries.terminal_id = holdings.terminal_id AND release_editions.edition_id = $2
                             AND deliveries.completed_at IS NOT NULL)
             ORDER BY (chosen.terminal_id IS NOT NULL AND chosen.dropped_at IS NULL) DESC, said_at DESC, holdings.terminal_id LIMIT $4",
        )
        .bind(swarm_id.0)
        .bind(edition)
        .bind(receiver)
        .bind(HOLDERS_MAX)
        .fetch_all(&self.pool)
        .await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.terminal_id).collect();
        let mut serves = self.served_by(swarm_id, &ids).await?;
        rows.into_iter()
            .map(|row| {
                let failure = row.failure.as_deref().map(failure_of).transpose()?;
                let recent = row.failed_at.is_some_and(|at| now - at < SILENT_FOR);
                Ok(StoredHolder {
                    terminal_id: TerminalId(row.terminal_id),
                    state: row.line.state()?,
                    up: rate(row.up_bps, row.line.up_seen_bps)?,
                    chosen: row.chosen,
                    failure: failure.filter(|failure| *failure == Failure::Corrupt || recent),
                    serves: serves.remove(&row.terminal_id).unwrap_or_default(),
                })
            })
            .collect()
    }

    /// Whom these terminals serve in other running downloads.
    async fn served_by(&self, but: SwarmId, terminals: &[Uuid]) -> Result<BTreeMap<Uuid, Vec<TerminalId>>, StoreError> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT download_sources.terminal_id, deliveries.terminal_id FROM download_sources
             JOIN downloads USING (swarm_id) JOIN deliveries ON deliveries.id = delivery_id JOIN releases ON releases.id = release_id
             WHERE download_sources.terminal_id = ANY ($1) AND dropped_at IS NULL AND releases.state = 'live' AND downloads.swarm_id <> $2",
        )
        .bind(terminals)
        .bind(but.0)
        .fetch_all(&self.pool)
        .await?;
        let mut serves: BTreeMap<Uuid, Vec<TerminalId>> = BTreeMap::new();
        for (source, receiver) in rows {
            serves.entry(source).or_default().push(TerminalId(receiver));
        }
        Ok(serves)
    }

    /// Puts `chosen` in the place of a download's present sources, unless somebody else has changed them since `epoch`; then `false`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_sources(
        &self,
        swarm_id: SwarmId,
        epoch: u64,
        chosen: &[(TerminalId, String)],
        now: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let present: i64 =
            sqlx::query_scalar("SELECT epoch FROM downloads WHERE swarm_id = $1 FOR UPDATE").bind(swarm_id.0).fetch_one(&mut *tx).await?;
        if unsigned(present)? != epoch {
            return Ok(false);
        }
        sqlx::query("UPDATE downloads SET epoch = epoch + 1 WHERE swarm_id = $1").bind(swarm_id.0).execute(&mut *tx).await?;
        let terminals: Vec<Uuid> = chosen.iter().map(|(terminal, _)| terminal.0).collect();
        let reasons: Vec<&str> = chosen.iter().map(|(_, reason)| reason.as_str()).collect();
        let places: Vec<Uuid> = chosen.iter().map(|_| Uuid::now_v7()).collect();
        sqlx::query("UPDATE download_sources SET dropped_at = $3 WHERE swarm_id = $1 AND dropped_at IS NULL AND terminal_id <> ALL ($2)")
            .bind(swarm_id.0)
            .bind(&terminals)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO download_sources (swarm_id, terminal_id, place_id, reason, chosen_at)
             SELECT $1, chosen.terminal_id, place_id, reason, $5 FROM unnest($2::uuid[], $3::uuid[], $4::text[]) AS chosen (terminal_id, place_id, reason)
             ON CONFLICT (swarm_id, terminal_id) DO UPDATE SET
                 reason = excluded.reason, dropped_at = NULL,
                 chosen_at = CASE WHEN download_sources.dropped_at IS NULL THEN download_sources.chosen_at ELSE excluded.chosen_at END",
        )
        .bind(swarm_id.0)
        .bind(&terminals)
        .bind(&places)
        .bind(&reasons)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Notes that a source has failed its receiver. What it was found to do once does not become less.
    ///
    /// # Errors
    /// The database fails.
    pub async fn source_failed(
        &self,
        swarm_id: SwarmId,
        source: TerminalId,
        failure: Failure,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE download_sources SET failure = CASE WHEN failure = 'corrupt' THEN failure ELSE $3 END, failed_at = $4
             WHERE swarm_id = $1 AND terminal_id = $2",
        )
        .bind(swarm_id.0)
        .bind(source.0)
        .bind(failure_text(failure))
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// A download's epoch, and every source that it ever had.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn stored_sources(&self, swarm_id: SwarmId) -> Result<(u64, Vec<StoredSource>), StoreError> {
        let epoch: Option<i64> =
            sqlx::query_scalar("SELECT epoch FROM downloads WHERE swarm_id = $1").bind(swarm_id.0).fetch_optional(&self.pool).await?;
        let epoch = unsigned(epoch.ok_or(StoreError::NotFound("download"))?)?;
        let rows: Vec<(Uuid, Uuid, Uuid, Vec<u8>, i64, bool)> = sqlx::query_as(
            "SELECT terminal_id, place_id, user_id, public_key, up_bps, dropped_at IS NULL FROM download_sources
             JOIN terminals ON terminals.id = terminal_id WHERE swarm_id = $1 ORDER BY chosen_at, terminal_id",
        )
        .bind(swarm_id.0)
        .fetch_all(&self.pool)
        .await?;
        let sources = rows.into_iter().map(|(terminal, place, owner, key, up, serving)| {
            let peer = Peer {
                terminal_id: TerminalId(terminal),
                public_key: PublicKey(byte_array(&key)?),
                delivery_id: DeliveryId(place),
                up: BitsPerSecond(unsigned(up)?),
            };
            Ok(StoredSource { peer, owner: UserId(owner), serving })
        });
        Ok((epoch, sources.collect::<Result<_, StoreError>>()?))
    }
}

impl StoredHolder {
    /// How many others it serves of those that are there to be served.
    pub fn load(&self, connected: &BTreeSet<TerminalId>) -> u32 {
        u32::try_from(self.serves.iter().filter(|receiver| connected.contains(receiver)).count()).unwrap_or(u32::MAX)
    }
}
