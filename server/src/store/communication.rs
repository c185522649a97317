//! How each terminal communicates: what it, its WebSocket and its transfers have measured.

use std::time::Duration;

use protocol::rest::{CommunicationState, Measurement, NatMapping};
use protocol::{BitsPerSecond, TerminalId};
use rules::relay_plan::NatKind;
use rules::seen_rate::seen_rate;
use time::OffsetDateTime;
use uuid::Uuid;

use super::candidates::{nat_of, short};
use super::conversions::{bigint, small, unsigned};
use super::{Store, StoreError};

#[derive(sqlx::FromRow)]
struct StateRow {
    region: Option<i32>,
    round_trip_ms: Option<i32>,
    loss_ppm: Option<i32>,
    nat: String,
    up_seen_bps: i64,
    down_seen_bps: i64,
    disk_write_bps: Option<i64>,
    measured_at: OffsetDateTime,
}

fn mapping(nat: NatKind) -> NatMapping {
    match nat {
        NatKind::Unknown => NatMapping::Unknown,
        NatKind::Open => NatMapping::Open,
        NatKind::EndpointIndependent => NatMapping::EndpointIndependent,
        NatKind::EndpointDependent => NatMapping::EndpointDependent,
    }
}

impl Store {
    /// What is known of how a terminal communicates; `None` if nothing is.
    ///
    /// # Errors
    /// The database fails.
    pub async fn communication_state(&self, terminal_id: TerminalId) -> Result<Option<CommunicationState>, StoreError> {
        let row: Option<StateRow> = sqlx::query_as(
            "SELECT region, round_trip_ms, loss_ppm, nat, up_seen_bps, down_seen_bps, disk_write_bps, measured_at
             FROM communication_states WHERE terminal_id = $1",
        )
        .bind(terminal_id.0)
        .fetch_optional(&self.pool)
        .await?;
        let state = row.map(|row| {
            Ok(CommunicationState {
                terminal_id,
                region: row.region.map(short).transpose()?,
                round_trip_ms: row.round_trip_ms.map(short).transpose()?,
                loss_ppm: row.loss_ppm.map(small).transpose()?,
                nat: mapping(nat_of(&row.nat)?),
                up_seen: BitsPerSecond(unsigned(row.up_seen_bps)?),
                down_seen: BitsPerSecond(unsigned(row.down_seen_bps)?),
                disk_write: row.disk_write_bps.map(unsigned).transpose()?.map(BitsPerSecond),
                measured_at: row.measured_at,
            })
        });
        state.transpose()
    }

    /// What a terminal has measured of itself; its rates take the place of those stated before.
    ///
    /// # Errors
    /// The database fails; nothing was changed.
    pub async fn set_measurement(&self, terminal_id: TerminalId, measured: &Measurement, now: OffsetDateTime) -> Result<(), StoreError> {
        let rate = |rate: Option<BitsPerSecond>| rate.map(|rate| bigint(rate.0)).transpose();
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE terminals SET up_bps = coalesce($2, up_bps), down_bps = coalesce($3, down_bps) WHERE id = $1")
            .bind(terminal_id.0)
            .bind(rate(measured.up)?)
            .bind(rate(measured.down)?)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO communication_states (terminal_id, region, round_trip_ms, disk_write_bps, measured_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (terminal_id) DO UPDATE SET
                 region = coalesce(excluded.region, communication_states.region),
                 round_trip_ms = coalesce(excluded.round_trip_ms, communication_states.round_trip_ms),
                 disk_write_bps = coalesce(excluded.disk_write_bps, communication_states.disk_write_bps),
                 measured_at = excluded.measured_at",
        )
        .bind(terminal_id.0)
        .bind(measured.region.map(i32::from))
        .bind(measured.round_trip_ms.map(i32::from))
        .bind(rate(measured.disk_write)?)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The highest rates of a window of a terminal's transfers: what is known afterwards is [`rules::seen_rate`]'s.
    ///
    /// # Errors
    /// The database fails; nothing was changed.
    pub async fn note_seen_rates(
        &self,
        terminal_id: TerminalId,
        up: BitsPerSecond,
        down: BitsPerSecond,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("INSERT INTO communication_states (terminal_id, measured_at) VALUES ($1, $2) ON CONFLICT (terminal_id) DO NOTHING")
            .bind(terminal_id.0)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        let (_, up_before, down_before, seen_at): (Uuid, i64, i64, Option<OffsetDateTime>) = sqlx::query_as(
            "SELECT terminal_id, up_seen_bps, down_seen_bps, seen_at FROM communication_states WHERE terminal_id = $1 FOR UPDATE",
        )
        .bind(terminal_id.0)
        .fetch_one(&mut *tx)
        .await?;
        let age = seen_at.map_or(Duration::MAX, |seen_at| Duration::try_from(now - seen_at).unwrap_or(Duration::ZERO));
        let after = |before: i64, highest| Ok::<_, StoreError>(seen_rate(BitsPerSecond(unsigned(before)?), age, highest));
        sqlx::query(
            "UPDATE communication_states SET up_seen_bps = $2, down_seen_bps = $3, seen_at = $4, measured_at = $4 WHERE terminal_id = $1",
        )
        .bind(terminal_id.0)
        .bind(bigint(after(up_before, up)?.0)?)
        .bind(bigint(after(down_before, down)?.0)?)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Whether a release needs the origin's line for first copies now, or will within `ahead`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn first_copies_are_due(&self, now: OffsetDateTime, ahead: Duration) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (
                 SELECT FROM releases JOIN origin_budgets ON origin_budgets.release_id = releases.id
                 WHERE (state = 'live' OR (state = 'closed' AND begins_at <= $1)) AND deadline_at > $2
                   AND reserved_first - cut < first_copy_bytes AND EXISTS (SELECT FROM deliveries WHERE deliveries.release_id = releases.id))",
        )
        .bind(now + ahead)
        .bind(now)
        .fetch_one(&self.pool)
        .await?)
    }
}
