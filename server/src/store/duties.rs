//! Relay duties: the deposits that stand beside prices, who was seen to be there, and how each duty ends. What counts and what it costs is decided in
//! [`rules::duty`].

use protocol::rest::{DeliveryState, DutyStanding, EventType, ReleaseState};
use protocol::{DeliveryId, HoldId, ReleaseId, TerminalId, UserId};
use rules::duty::{Duty, Look, Outcome, Presence};
use rules::ledger::Transfer;
use serde_json::json;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::conversions::{amount, bigint, integer, small, unsigned};
use super::deliveries::state_of;
use super::ledger::{self, PaidFrom};
use super::lifecycle::{Lock, standing};
use super::outbox::{self, Told};
use super::{Store, StoreError, Tx, releases};
use crate::clock::{from_timestamp_ms, to_timestamp_ms};

/// How long whoever has claimed a look has for it; an instance that dies in between delays the next one for so long.
const LOOK_WITHIN: Duration = Duration::seconds(20);

/// A look that is due at who of a release's terminals is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DutyWatch {
    pub release_id: ReleaseId,
    /// Of the release: when it is over, every duty that is left ends.
    pub state: ReleaseState,
    pub looked_at: Option<OffsetDateTime>,
}

impl DutyWatch {
    pub fn look(&self, now: OffsetDateTime) -> Look {
        Look { before: self.looked_at.map(to_timestamp_ms), now: to_timestamp_ms(now) }
    }
}

/// A duty that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenDuty {
    pub delivery_id: DeliveryId,
    pub terminal_id: TerminalId,
    pub delivery: DeliveryState,
    pub duty: Duty,
    pub presence: Presence,
}

impl OpenDuty {
    /// Whether there is nothing more to wait for: the time is over, the release is, or the delivery has ended without becoming complete.
    pub fn is_due(&self, release: ReleaseState, now: OffsetDateTime) -> bool {
        let is_over = match release {
            ReleaseState::Settled | ReleaseState::Cancelled | ReleaseState::Aborted => true,
            ReleaseState::Draft | ReleaseState::Open | ReleaseState::Closed | ReleaseState::Live => false,
        };
        match self.delivery {
            // Complete, and not paid for yet: what is owed begins.
            DeliveryState::Pending => false,
            DeliveryState::Released => true,
            DeliveryState::Settled => is_over || self.duty.until().is_none_or(|until| until <= to_timestamp_ms(now)),
        }
    }
}

#[derive(sqlx::FromRow)]
struct DutyRow {
    delivery_id: Uuid,
    terminal_id: Uuid,
    state: String,
    completed_at: Option<OffsetDateTime>,
    after_s: i32,
    deposit: i64,
    absent_since: Option<OffsetDateTime>,
    absent_ms: i64,
}

impl DutyRow {
    fn open(&self) -> Result<OpenDuty, StoreError> {
        Ok(OpenDuty {
            delivery_id: DeliveryId(self.delivery_id),
            terminal_id: TerminalId(self.terminal_id),
            delivery: state_of(&self.state)?,
            duty: duty_of(self.after_s, self.deposit, self.completed_at)?,
            presence: presence_of(self.absent_since, self.absent_ms)?,
        })
    }
}

fn duty_of(after_s: i32, deposit: i64, completed_at: Option<OffsetDateTime>) -> Result<Duty, StoreError> {
    let after_ms = u64::from(small(after_s)?) * 1_000;
    Ok(Duty { after_ms, deposit: amount(deposit)?, completed_at: completed_at.map(to_timestamp_ms) })
}

fn presence_of(absent_since: Option<OffsetDateTime>, absent_ms: i64) -> Result<Presence, StoreError> {
    Ok(Presence { absent_since: absent_since.map(to_timestamp_ms), absent_ms: unsigned(absent_ms)? })
}

/// The columns of a duty in the list of deliveries; all absent where there is none.
#[derive(sqlx::FromRow)]
pub(super) struct DutyColumns {
    after_s: Option<i32>,
    deposit: Option<i64>,
    absent_since: Option<OffsetDateTime>,
    absent_ms: Option<i64>,
    ended_at: Option<OffsetDateTime>,
    missed_ms: Option<i64>,
    forfeited: Option<i64>,
}

impl DutyColumns {
    /// How the duty stands at the last look.
    pub(super) fn standing(
        &self,
        store: &Store,
        completed_at: Option<OffsetDateTime>,
        looked_at: Option<OffsetDateTime>,
    ) -> Result<Option<DutyStanding>, StoreError> {
        let (Some(after_s), Some(deposit), Some(absent_ms)) = (self.after_s, self.deposit, self.absent_ms) else { return Ok(None) };
        let duty = duty_of(after_s, deposit, completed_at)?;
        let seen = looked_at.or(self.ended_at).map(to_timestamp_ms);
        let missed_ms = match (self.missed_ms, seen) {
            (Some(missed), _) => unsigned(missed)?,
            // Before the completion nothing is owed that could be missed already.
            (None, Some(seen)) if completed_at.is_some() => duty.missed_ms(presence_of(self.absent_since, absent_ms)?, seen),
            (None, _) => 0,
        };
        Ok(Some(DutyStanding {
            after_s: small(after_s)?,
            deposit: store.stored_money(deposit)?,
            missed_s: u32::try_from(missed_ms / 1_000).unwrap_or(u32::MAX),
            until: duty.until().and_then(from_timestamp_ms),
            forfeited: self.forfeited.map(|forfeited| store.stored_money(forfeited)).transpose()?,
        }))
    }
}

/// Holds the deposits of a release's new deliveries, and has their presence watched from when bytes begin to move.
pub(super) async fn write_duties(
    tx: &mut Tx,
    release_id: ReleaseId,
    begins_at: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let deliveries: Vec<Uuid> = sqlx::query_scalar(
        "SELECT deliveries.id FROM deliveries JOIN release_ranks USING (release_id, rank)
         WHERE release_id = $1 AND release_ranks.deposit IS NOT NULL ORDER BY deliveries.id",
    )
    .bind(release_id.0)
    .fetch_all(&mut **tx)
    .await?;
    if deliveries.is_empty() {
        return Ok(());
    }
    let holds: Vec<Uuid> = deliveries.iter().map(|_| Uuid::now_v7()).collect();
    sqlx::query(
        "INSERT INTO holds (id, account_id, amount, created_at)
         SELECT owed.hold_id, accounts.id, release_ranks.deposit, $3
         FROM unnest($1::uuid[], $2::uuid[]) AS owed (delivery_id, hold_id)
         JOIN deliveries ON deliveries.id = owed.delivery_id
         JOIN release_ranks USING (release_id, rank)
         JOIN accounts ON accounts.user_id = deliveries.user_id AND accounts.kind = 'wallet'",
    )
    .bind(&deliveries)
    .bind(&holds)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "INSERT INTO duties (delivery_id, release_id, after_s, deposit, hold_id)
         SELECT owed.delivery_id, release_id, duty_s, deposit, owed.hold_id
         FROM unnest($1::uuid[], $2::uuid[]) AS owed (delivery_id, hold_id)
         JOIN deliveries ON deliveries.id = owed.delivery_id
         JOIN release_ranks USING (release_id, rank)",
    )
    .bind(&deliveries)
    .bind(&holds)
    .execute(&mut **tx)
    .await?;
    sqlx::query("INSERT INTO duty_watches (release_id, due_at) VALUES ($1, $2)")
        .bind(release_id.0)
        .bind(begins_at)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The release is cancelled and the holds are voided: nothing is owed.
pub(super) async fn cancel_duties(tx: &mut PgConnection, release_id: ReleaseId, now: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query("UPDATE duties SET ended_at = $2, missed_ms = 0, forfeited = 0 WHERE release_id = $1 AND ended_at IS NULL")
        .bind(release_id.0)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM duty_watches WHERE release_id = $1").bind(release_id.0).execute(tx).await?;
    Ok(())
}

impl Store {
    /// Claims the look that has been due for longest, if any is due.
    ///
    /// # Errors
    /// The database fails.
    pub async fn claim_duty_watch(&self, now: OffsetDateTime) -> Result<Option<DutyWatch>, StoreError> {
        let row: Option<(Uuid, Option<OffsetDateTime>, String)> = sqlx::query_as(
            "UPDATE duty_watches SET due_at = $2
             FROM (SELECT release_id, state FROM duty_watches JOIN releases ON releases.id = release_id
                   WHERE due_at <= $1 ORDER BY due_at LIMIT 1 FOR UPDATE OF duty_watches SKIP LOCKED) AS due
             WHERE duty_watches.release_id = due.release_id RETURNING due.release_id, looked_at, due.state",
        )
        .bind(now)
        .bind(now + LOOK_WITHIN)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(release_id, looked_at, state)| {
            Ok(DutyWatch { release_id: ReleaseId(release_id), state: releases::state_of(&state)?, looked_at })
        })
        .transpose()
    }

    /// Duties of a release that have not ended, in the order of their deliveries, from after `after` on.
    ///
    /// # Errors
    /// The database fails.
    pub async fn open_duties(&self, release_id: ReleaseId, after: Option<DeliveryId>, limit: u32) -> Result<Vec<OpenDuty>, StoreError> {
        let rows: Vec<DutyRow> = sqlx::query_as(
            "SELECT delivery_id, terminal_id, state, completed_at, after_s, deposit, absent_since, absent_ms
             FROM duties JOIN deliveries ON deliveries.id = delivery_id
             WHERE duties.release_id = $1 AND ended_at IS NULL AND ($2::uuid IS NULL OR delivery_id > $2) ORDER BY delivery_id LIMIT $3",
        )
        .bind(release_id.0)
        .bind(after.map(|id| id.0))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(DutyRow::open).collect()
    }

    /// Writes what a look has found of these duties. One that somebody else has written since it was read keeps that.
    ///
    /// # Errors
    /// The database fails.
    pub async fn write_presences(&self, seen: &[(OpenDuty, Presence)]) -> Result<(), StoreError> {
        let (mut ids, mut before, mut since, mut absent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (duty, presence) in seen {
            ids.push(duty.delivery_id.0);
            before.push(duty.presence.absent_since.and_then(from_timestamp_ms));
            since.push(presence.absent_since.and_then(from_timestamp_ms));
            absent.push(bigint(presence.absent_ms)?);
        }
        sqlx::query(
            "UPDATE duties SET absent_since = seen.absent_since, absent_ms = seen.absent_ms
             FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::bigint[]) AS seen (delivery_id, before, absent_since, absent_ms)
             WHERE duties.delivery_id = seen.delivery_id AND ended_at IS NULL AND duties.absent_since IS NOT DISTINCT FROM seen.before",
        )
        .bind(&ids)
        .bind(&before)
        .bind(&since)
        .bind(&absent)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The look was taken at `now`; the next one is due at `again_at`. A release without duties that have not ended is looked at no more.
    ///
    /// # Errors
    /// The database fails.
    pub async fn finish_look(&self, release_id: ReleaseId, now: OffsetDateTime, again_at: OffsetDateTime) -> Result<(), StoreError> {
        const OWED: &str = "EXISTS (SELECT FROM duties WHERE duties.release_id = $1 AND ended_at IS NULL)";
        let ended = format!("DELETE FROM duty_watches WHERE release_id = $1 AND NOT {OWED}");
        sqlx::query(sqlx::AssertSqlSafe(ended)).bind(release_id.0).execute(&self.pool).await?;
        sqlx::query("UPDATE duty_watches SET looked_at = $2, due_at = $3 WHERE release_id = $1")
            .bind(release_id.0)
            .bind(now)
            .bind(again_at)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Ends a duty as of `now`: what was missed is paid to the publisher out of the deposit, and the rest is available again. Happens once: `None` if it ended
    /// before or its delivery is pending.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn end_duty(&self, delivery_id: DeliveryId, now: OffsetDateTime) -> Result<Option<Outcome>, StoreError> {
        let mut tx = self.begin().await?;
        let release_id: Option<Uuid> =
            sqlx::query_scalar("SELECT release_id FROM duties WHERE delivery_id = $1").bind(delivery_id.0).fetch_optional(&mut *tx).await?;
        let release_id = ReleaseId(release_id.ok_or(StoreError::NotFound("relay duty"))?);
        let publisher_id = standing(&mut tx, release_id, Some(Lock::Shared)).await?.publisher_id;
        let locked: Option<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT duties.hold_id, user_id FROM duties JOIN deliveries ON deliveries.id = delivery_id
             WHERE delivery_id = $1 AND ended_at IS NULL AND state <> 'pending' FOR UPDATE",
        )
        .bind(delivery_id.0)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((hold_id, user_id)) = locked else { return Ok(None) };
        let row: DutyRow = sqlx::query_as(
            "SELECT delivery_id, terminal_id, state, completed_at, after_s, deposit, absent_since, absent_ms
             FROM duties JOIN deliveries ON deliveries.id = delivery_id WHERE delivery_id = $1",
        )
        .bind(delivery_id.0)
        .fetch_one(&mut *tx)
        .await?;
        let OpenDuty { delivery, duty, presence, .. } = row.open()?;
        let outcome = duty.ended(presence, to_timestamp_ms(now), delivery == DeliveryState::Settled);
        let owner = UserId(user_id);
        let transfer =
            Transfer::duty_forfeit(outcome.forfeited, owner, publisher_id).map_err(|error| StoreError::Invariant(error.to_string()))?;
        let paid_from = PaidFrom { hold_id: HoldId(hold_id), held: duty.deposit, payer: owner };
        let transfer_id = ledger::post(&mut tx, &transfer, None, Some(paid_from), now).await?;
        sqlx::query("UPDATE duties SET ended_at = $2, missed_ms = $3, forfeited = $4, transfer_id = $5 WHERE delivery_id = $1")
            .bind(delivery_id.0)
            .bind(now)
            .bind(bigint(outcome.missed_ms)?)
            .bind(bigint(outcome.forfeited.0)?)
            .bind(transfer_id.map(|id| id.0))
            .execute(&mut *tx)
            .await?;
        let data = json!({ "delivery_id": delivery_id, "release_id": release_id, "missed_s": outcome.missed_ms / 1_000,
            "forfeited": self.money(outcome.forfeited) });
        let told = [owner, publisher_id].map(|user_id| Told::new(user_id, EventType::DutyEnded, delivery_id, data.clone()));
        outbox::tell(&mut tx, &told, now).await?;
        tx.commit().await?;
        Ok(Some(outcome))
    }
}

/// A rank's duty as it is stored.
pub(super) fn rank_duty(
    store: &Store,
    after_s: Option<i32>,
    deposit: Option<i64>,
) -> Result<Option<protocol::rest::RelayDuty>, StoreError> {
    let Some((after_s, deposit)) = after_s.zip(deposit) else { return Ok(None) };
    Ok(Some(protocol::rest::RelayDuty { after_s: small(after_s)?, deposit: store.stored_money(deposit)? }))
}

/// A new rank's duty as it is to be stored: seconds and deposit.
pub(super) fn stored_duty(store: &Store, duty: Option<protocol::rest::RelayDuty>) -> Result<(Option<i32>, Option<i64>), StoreError> {
    let Some(duty) = duty else { return Ok((None, None)) };
    Ok((Some(integer(duty.after_s)?), Some(bigint(store.amount_of(duty.deposit)?.0)?)))
}
