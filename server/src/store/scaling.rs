//! The scale of a release as it is read and written: what [`rules::scale`] decides from, and the waves that it and the awards make. Whom later terminals
//! are tied to is decided in [`rules::ties`].

use std::collections::BTreeMap;

use protocol::rest::NewRelease;
use protocol::{BidId, BitsPerSecond, EditionId, ReleaseId, SwarmId, TerminalId};
use rules::relay_plan::Region;
use rules::scale::{Demand, EditionScale, Limits, PRIMARIES_MAX, RankLimits, UNKNOWN_UPLINK};
use rules::ties::{Placed, ties};
use sqlx::PgConnection;
use uuid::Uuid;

use super::candidates::short;
use super::conversions::{byte_array, bytes, integer, small, unsigned};
use super::{StoreError, Tx};

/// What is known of a terminal's line; see [`super::candidates`].
const UP_BPS: &str = "CASE WHEN terminals.up_bps > 0 THEN terminals.up_bps ELSE coalesce(communication_states.up_seen_bps, 0) END";

/// An edition of a release that is being closed.
#[derive(Debug)]
pub(super) struct ScaledSwarm {
    pub(super) swarm_id: SwarmId,
    pub(super) edition_id: EditionId,
    pub(super) scale: EditionScale,
}

/// How an edition is wanted.
#[derive(sqlx::FromRow)]
struct DemandRow {
    swarm_id: Uuid,
    edition_id: Vec<u8>,
    length: i64,
    applications: i64,
    uplink: Option<i64>,
}

impl DemandRow {
    fn demand(&self) -> Result<Demand, StoreError> {
        let applications = u32::try_from(self.applications);
        Ok(Demand {
            edition_id: EditionId(byte_array(&self.edition_id)?),
            length: bytes(self.length)?,
            applications: applications.map_err(|_| StoreError::Invariant(format!("{} applications", self.applications)))?,
            uplink: self.uplink.map(unsigned).transpose()?.map_or(UNKNOWN_UPLINK, BitsPerSecond),
        })
    }
}

/// Where a winner begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) wave: u32,
    /// The primary terminal that it is tied to, if it is none itself.
    pub(super) primary: Option<TerminalId>,
}

/// What a publisher states in a new release.
pub(super) fn limits_of(new: &NewRelease) -> Limits {
    Limits {
        origin_budget: new.origin_budget,
        primaries_max: new.primaries_max.unwrap_or(PRIMARIES_MAX),
        places_max: new.places_max,
        ranks: new.ranks.iter().map(|rank| RankLimits { delay_s: rank.delay_s, capacity: rank.capacity }).collect(),
        wave_interval_s: new.wave_interval_s,
    }
}

/// What the publisher stated.
pub(super) async fn read_limits(tx: &mut PgConnection, release_id: ReleaseId) -> Result<Limits, StoreError> {
    let (primaries_max, places_max, wave_interval_s, budget): (i32, Option<i32>, Option<i32>, i64) = sqlx::query_as(
        "SELECT primaries_max, places_max, wave_interval_s, limit_bytes FROM releases JOIN origin_budgets ON origin_budgets.id = budget_id
         WHERE releases.id = $1",
    )
    .bind(release_id.0)
    .fetch_one(&mut *tx)
    .await?;
    let ranks: Vec<(i32, Option<i32>)> = sqlx::query_as("SELECT delay_s, capacity FROM release_ranks WHERE release_id = $1 ORDER BY rank")
        .bind(release_id.0)
        .fetch_all(tx)
        .await?;
    let rank = |(delay_s, capacity): (i32, Option<i32>)| {
        Ok::<_, StoreError>(RankLimits { delay_s: small(delay_s)?, capacity: capacity.map(small).transpose()? })
    };
    Ok(Limits {
        origin_budget: bytes(budget)?,
        primaries_max: small(primaries_max)?,
        places_max: places_max.map(small).transpose()?,
        ranks: ranks.into_iter().map(rank).collect::<Result<_, _>>()?,
        wave_interval_s: wave_interval_s.map(small).transpose()?,
    })
}

/// Decides and stores the places of every edition, in the release's order. The release is locked, so that no application changes any more.
pub(super) async fn scale_editions(tx: &mut Tx, release_id: ReleaseId, limits: &Limits) -> Result<Vec<ScaledSwarm>, StoreError> {
    let statement = format!(
        "SELECT release_editions.swarm_id, edition_id, length, count(applications.id) AS applications,
             percentile_disc(0.5) WITHIN GROUP (ORDER BY {UP_BPS}) FILTER (WHERE {UP_BPS} > 0) AS uplink
         FROM release_editions
         LEFT JOIN applications ON applications.swarm_id = release_editions.swarm_id AND applications.state = 'active'
         LEFT JOIN terminals ON terminals.id = applications.terminal_id
         LEFT JOIN communication_states ON communication_states.terminal_id = terminals.id
         WHERE release_editions.release_id = $1
         GROUP BY release_editions.swarm_id, edition_id, length, position ORDER BY position"
    );
    let rows: Vec<DemandRow> = sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(release_id.0).fetch_all(&mut **tx).await?;
    let demands = rows.iter().map(DemandRow::demand).collect::<Result<Vec<_>, _>>()?;
    let scales = rules::scale::scale(&demands, limits).map_err(|error| StoreError::Invariant(error.to_string()))?;
    let mut swarms = Vec::with_capacity(rows.len());
    for ((DemandRow { swarm_id, .. }, demand), scale) in rows.into_iter().zip(demands).zip(scales) {
        for (rank, &capacity) in (1i32..).zip(&scale.capacities) {
            sqlx::query("INSERT INTO release_capacities (swarm_id, rank, capacity) VALUES ($1, $2, $3)")
                .bind(swarm_id)
                .bind(rank)
                .bind(integer(capacity)?)
                .execute(&mut **tx)
                .await?;
        }
        swarms.push(ScaledSwarm { swarm_id: SwarmId(swarm_id), edition_id: demand.edition_id, scale });
    }
    Ok(swarms)
}

/// The terminals of an edition's applicants, as far as ties depend on them.
pub(super) async fn read_applicants(tx: &mut PgConnection, swarm_id: SwarmId) -> Result<BTreeMap<BidId, Placed>, StoreError> {
    let statement = format!(
        "SELECT bid_id, applications.terminal_id, {UP_BPS}, region FROM applications
         JOIN terminals ON terminals.id = applications.terminal_id
         LEFT JOIN communication_states ON communication_states.terminal_id = terminals.id
         WHERE swarm_id = $1 AND state = 'active'"
    );
    let rows: Vec<(Uuid, Uuid, i64, Option<i32>)> = sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(swarm_id.0).fetch_all(tx).await?;
    rows.into_iter()
        .map(|(id, terminal_id, up, region)| {
            let region = region.map(short).transpose()?.map(Region);
            Ok((BidId(id), Placed { terminal_id: TerminalId(terminal_id), up: BitsPerSecond(unsigned(up)?), region }))
        })
        .collect()
}

/// Where each of an edition's winners begins, in the order of the awards, which is the order of their places: those of the last rank fill its waves one after
/// the other, and whoever is in no primaries' wave is tied to a primary.
pub(super) fn seats(
    awards: &[rules::auction::Award],
    scale: &EditionScale,
    applicants: &BTreeMap<BidId, Placed>,
) -> Result<Vec<Seat>, StoreError> {
    let last_rank = u32::try_from(scale.capacities.len()).unwrap_or(u32::MAX);
    let mut last_waves = (last_rank.saturating_sub(1)..).zip(&scale.waves).flat_map(|(wave, &places)| (0..places).map(move |_| wave));
    let mut waves = Vec::with_capacity(awards.len());
    for award in awards {
        let wave = if award.rank == last_rank { last_waves.next() } else { award.rank.checked_sub(1) };
        waves.push(wave.ok_or_else(|| StoreError::Invariant(format!("bid {} has no place", award.bid_id)))?);
    }
    // Later waves in their order, and within one the better place first.
    let mut order: Vec<usize> = (0..awards.len()).collect();
    order.sort_by_key(|&index| waves[index]);
    let placed = |index: usize| {
        let placed = applicants.get(&awards[index].bid_id).copied();
        placed.ok_or_else(|| StoreError::Invariant(format!("bid {} has no terminal", awards[index].bid_id)))
    };
    let (primaries, later) = order.split_at(order.partition_point(|&index| waves[index] == 0));
    let placed_of = |order: &[usize]| order.iter().map(|&index| placed(index)).collect::<Result<Vec<_>, _>>();
    let tied = ties(&placed_of(primaries)?, &placed_of(later)?);
    let mut seats: Vec<Seat> = waves.into_iter().map(|wave| Seat { wave, primary: None }).collect();
    for (&index, primary) in later.iter().zip(tied) {
        seats[index].primary = primary;
    }
    Ok(seats)
}

/// Notes the waves of the last rank after its first one, up to `last`, with the work that they are, and moves the deadline behind them, if there are any.
pub(super) async fn write_last_waves(tx: &mut Tx, release_id: ReleaseId, limits: &Limits, last: u32) -> Result<(), StoreError> {
    let ranks = integer(u32::try_from(limits.ranks.len()).unwrap_or(u32::MAX))?;
    let last = integer(last)?;
    let Some(first_delay_s) = limits.ranks.last().map(|rank| rank.delay_s).filter(|_| last >= ranks) else { return Ok(()) };
    for (step, wave) in (1i64..).zip(ranks..=last) {
        let delay_s = i64::from(first_delay_s) + step * i64::from(limits.last_interval_s());
        sqlx::query("INSERT INTO release_waves (release_id, wave, rank, delay_s) VALUES ($1, $2, $3, $4)")
            .bind(release_id.0)
            .bind(wave)
            .bind(ranks)
            .bind(delay_s)
            .execute(&mut **tx)
            .await?;
        sqlx::query(
            "INSERT INTO due_work (kind, release_id, wave, due_at)
             SELECT 'wave', id, $2, starts_at + $3 * interval '1 second' FROM releases WHERE id = $1 AND NOT sealed",
        )
        .bind(release_id.0)
        .bind(wave)
        .bind(delay_s)
        .execute(&mut **tx)
        .await?;
    }
    let statements = [
        "UPDATE releases SET deadline_at = starts_at + make_interval(secs => limit_s + (SELECT max(delay_s) FROM release_waves WHERE release_id = $1))
         WHERE id = $1",
        "UPDATE due_work SET due_at = deadline_at FROM releases WHERE releases.id = $1 AND release_id = $1 AND kind = 'deadline'",
    ];
    for statement in statements {
        sqlx::query(statement).bind(release_id.0).execute(&mut **tx).await?;
    }
    Ok(())
}
