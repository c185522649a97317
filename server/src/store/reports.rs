//! What a release's report is made from. Bytes by source are what receivers have signed for: shares where a delivery is settled, credited receipts before.

use std::collections::BTreeMap;

use protocol::rest::{Page, ReportTotals, TerminalReport};
use protocol::{BitsPerSecond, Bytes, DeliveryId, EditionId, ReleaseId, SwarmId, TerminalId, UserId};
use rules::bound::Lines;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{byte_array, bytes, small, unsigned};
use super::deliveries::state_of;
use super::{PageRequest, Store, StoreError};

/// What the bound of a wave needs to know of one of its terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedDelivery {
    pub swarm_id: SwarmId,
    pub wave: u32,
    /// As planned; as known now while nothing is planned.
    pub lines: Lines,
    /// Whether it has received anything.
    pub holds: bool,
    pub completed_at: Option<OffsetDateTime>,
}

#[derive(sqlx::FromRow)]
struct TerminalRow {
    id: Uuid,
    terminal_id: Uuid,
    edition_id: Vec<u8>,
    rank: i32,
    wave: i32,
    state: String,
    up_bps: i64,
    down_bps: i64,
    verified_bytes: i64,
    price: i64,
    charged: i64,
    earned: i64,
    completed_at: Option<OffsetDateTime>,
}

impl Store {
    /// Whether a user's terminal has won in a release.
    ///
    /// # Errors
    /// The database fails.
    pub async fn has_delivery(&self, release_id: ReleaseId, user_id: UserId) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM deliveries WHERE release_id = $1 AND user_id = $2)")
            .bind(release_id.0)
            .bind(user_id.0)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Every delivery of a release.
    ///
    /// # Errors
    /// The database fails.
    pub async fn reported_deliveries(&self, release_id: ReleaseId) -> Result<Vec<ReportedDelivery>, StoreError> {
        let rows: Vec<(Uuid, i32, i64, i64, bool, Option<OffsetDateTime>)> = sqlx::query_as(
            "SELECT swarm_id, wave, coalesce(member.up_bps, terminals.up_bps), coalesce(member.down_bps, terminals.down_bps),
                 verified_bytes > 0, completed_at
             FROM deliveries JOIN terminals ON terminals.id = terminal_id
             LEFT JOIN swarm_group_members AS member ON member.delivery_id = deliveries.id
             WHERE release_id = $1 ORDER BY deliveries.id",
        )
        .bind(release_id.0)
        .fetch_all(&self.pool)
        .await?;
        let deliveries = rows.into_iter().map(|(swarm_id, wave, up, down, holds, completed_at)| {
            let lines = Lines { up: BitsPerSecond(unsigned(up)?), down: BitsPerSecond(unsigned(down)?) };
            Ok(ReportedDelivery { swarm_id: SwarmId(swarm_id), wave: small(wave)?, lines, holds, completed_at })
        });
        deliveries.collect()
    }

    /// A release's deliveries added up.
    ///
    /// # Errors
    /// The database fails.
    pub async fn report_totals(&self, release_id: ReleaseId) -> Result<ReportTotals, StoreError> {
        let (deliveries, complete, charged): (i64, i64, i64) =
            sqlx::query_as("SELECT count(*), count(completed_at), coalesce(sum(charged), 0)::bigint FROM deliveries WHERE release_id = $1")
                .bind(release_id.0)
                .fetch_one(&self.pool)
                .await?;
        let (from_origin, from_peers, earned): (i64, i64, i64) = sqlx::query_as(
            "SELECT coalesce(sum(bytes) FILTER (WHERE of_origin), 0)::bigint, coalesce(sum(bytes) FILTER (WHERE NOT of_origin), 0)::bigint,
                 coalesce(sum(earned) FILTER (WHERE NOT of_origin), 0)::bigint
             FROM (
                 SELECT source = '00000000-0000-0000-0000-000000000000' AS of_origin, bytes, earned
                 FROM delivery_shares JOIN deliveries ON deliveries.id = delivery_id WHERE release_id = $1
                 UNION ALL
                 SELECT source = '00000000-0000-0000-0000-000000000000', credited_bytes, 0
                 FROM receipts JOIN deliveries ON deliveries.id = delivery_id WHERE release_id = $1 AND state = 'pending'
             ) AS moved",
        )
        .bind(release_id.0)
        .fetch_one(&self.pool)
        .await?;
        let count = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(ReportTotals {
            deliveries: count(deliveries),
            complete: count(complete),
            from_origin: bytes(from_origin)?,
            from_peers: bytes(from_peers)?,
            charged: self.stored_money(charged)?,
            earned: self.stored_money(earned)?,
        })
    }

    /// The terminals of a release by the age of their deliveries: all, or those of one user. Times from the opening and ratios are left out.
    ///
    /// # Errors
    /// The cursor is not this list's, or the database fails.
    pub async fn reported_terminals(
        &self,
        release_id: ReleaseId,
        only_of: Option<UserId>,
        request: &PageRequest,
    ) -> Result<Page<TerminalReport>, StoreError> {
        let rows: Vec<TerminalRow> = sqlx::query_as(
            "SELECT deliveries.id, terminal_id, edition_id, rank, wave, state, verified_bytes, price, charged, completed_at,
                 coalesce(member.up_bps, terminals.up_bps) AS up_bps, coalesce(member.down_bps, terminals.down_bps) AS down_bps,
                 (SELECT coalesce(sum(delivery_shares.earned), 0)::bigint FROM delivery_shares
                  JOIN deliveries served ON served.id = delivery_shares.delivery_id
                  WHERE delivery_shares.source = deliveries.terminal_id AND served.release_id = deliveries.release_id) AS earned
             FROM deliveries JOIN release_editions USING (swarm_id) JOIN terminals ON terminals.id = terminal_id
             LEFT JOIN swarm_group_members AS member ON member.delivery_id = deliveries.id
             WHERE deliveries.release_id = $1 AND ($2::uuid IS NULL OR deliveries.user_id = $2) AND ($3::uuid IS NULL OR deliveries.id > $3)
             ORDER BY deliveries.id LIMIT $4",
        )
        .bind(release_id.0)
        .bind(only_of.map(|user| user.0))
        .bind(request.after::<Uuid>()?)
        .bind(request.rows_wanted())
        .fetch_all(&self.pool)
        .await?;
        let deliveries: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let terminals: Vec<Uuid> = rows.iter().map(|row| row.terminal_id).collect();
        let received = self.received_by_source(&deliveries).await?;
        let relayed = self.relayed_in(release_id, &terminals).await?;
        let reports = rows.into_iter().map(|row| {
            let (from_origin, from_peers) = received.get(&row.id).copied().unwrap_or_default();
            Ok(TerminalReport {
                delivery_id: DeliveryId(row.id),
                terminal_id: TerminalId(row.terminal_id),
                edition_id: EditionId(byte_array(&row.edition_id)?),
                rank: small(row.rank)?,
                wave: small(row.wave)?,
                state: state_of(&row.state)?,
                up: BitsPerSecond(unsigned(row.up_bps)?),
                down: BitsPerSecond(unsigned(row.down_bps)?),
                verified: bytes(row.verified_bytes)?,
                from_origin,
                from_peers,
                relayed: relayed.get(&row.terminal_id).copied().unwrap_or_default(),
                price: self.stored_money(row.price)?,
                charged: self.stored_money(row.charged)?,
                earned: self.stored_money(row.earned)?,
                elapsed_ms: None,
                ratio_permille: None,
                completed_at: row.completed_at,
            })
        });
        let reports = reports.collect::<Result<Vec<_>, StoreError>>()?;
        Ok(request.page(reports, |report| report.delivery_id))
    }

    /// By delivery, what came from the origin and what from terminals.
    async fn received_by_source(&self, deliveries: &[Uuid]) -> Result<BTreeMap<Uuid, (Bytes, Bytes)>, StoreError> {
        let rows: Vec<(Uuid, bool, i64)> = sqlx::query_as(
            "SELECT delivery_id, source = '00000000-0000-0000-0000-000000000000', sum(bytes)::bigint
             FROM (
                 SELECT delivery_id, source, bytes FROM delivery_shares WHERE delivery_id = ANY ($1)
                 UNION ALL
                 SELECT delivery_id, source, credited_bytes FROM receipts JOIN deliveries ON deliveries.id = delivery_id
                 WHERE delivery_id = ANY ($1) AND state = 'pending'
             ) AS moved GROUP BY 1, 2",
        )
        .bind(deliveries)
        .fetch_all(&self.pool)
        .await?;
        let mut received: BTreeMap<Uuid, (Bytes, Bytes)> = BTreeMap::new();
        for (delivery_id, of_origin, sum) in rows {
            let (from_origin, from_peers) = received.entry(delivery_id).or_default();
            *(if of_origin { from_origin } else { from_peers }) = bytes(sum)?;
        }
        Ok(received)
    }

    /// By terminal, what others of a release received from it.
    async fn relayed_in(&self, release_id: ReleaseId, terminals: &[Uuid]) -> Result<BTreeMap<Uuid, Bytes>, StoreError> {
        let rows: Vec<(Uuid, i64)> = sqlx::query_as(
            "SELECT source, sum(bytes)::bigint
             FROM (
                 SELECT source, bytes FROM delivery_shares JOIN deliveries ON deliveries.id = delivery_id
                 WHERE release_id = $1 AND source = ANY ($2)
                 UNION ALL
                 SELECT source, credited_bytes FROM receipts JOIN deliveries ON deliveries.id = delivery_id
                 WHERE release_id = $1 AND state = 'pending' AND source = ANY ($2)
             ) AS moved GROUP BY source",
        )
        .bind(release_id.0)
        .bind(terminals)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|(terminal, sum)| Ok((terminal, bytes(sum)?))).collect()
    }
}
