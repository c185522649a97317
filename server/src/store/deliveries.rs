//! Deliveries as the API shows them: who got what, from whom, and what was paid. What a terminal reports while it runs is added by the caller.

use std::collections::BTreeMap;

use protocol::rest::{Delivery, DeliveryState, Page, SourceShare};
use protocol::{DeliveryId, EditionId, ReleaseId, TerminalId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::contents::Viewer;
use super::conversions::{byte_array, bytes, small};
use super::duties::DutyColumns;
use super::{PageRequest, Store, StoreError};

#[derive(sqlx::FromRow)]
struct DeliveryRow {
    id: Uuid,
    release_id: Uuid,
    terminal_id: Uuid,
    edition_id: Vec<u8>,
    rank: i32,
    wave: i32,
    primary_terminal_id: Option<Uuid>,
    price: i64,
    state: String,
    verified_bytes: i64,
    charged: i64,
    earned: i64,
    completed_at: Option<OffsetDateTime>,
    looked_at: Option<OffsetDateTime>,
    #[sqlx(flatten)]
    duty: DutyColumns,
}

pub(crate) fn state_of(text: &str) -> Result<DeliveryState, StoreError> {
    match text {
        "pending" => Ok(DeliveryState::Pending),
        "settled" => Ok(DeliveryState::Settled),
        "released" => Ok(DeliveryState::Released),
        other => Err(StoreError::Invariant(format!("{other} is no state of a delivery"))),
    }
}

impl Store {
    /// A release's deliveries, oldest first: all of them for its publisher and for operators, else the viewer's own. `progress` is left out.
    ///
    /// # Errors
    /// `not_found` if there is no such release, the cursor is not this list's, or the database fails.
    pub async fn deliveries(&self, release_id: ReleaseId, viewer: Viewer, request: &PageRequest) -> Result<Page<Delivery>, StoreError> {
        let publisher_id: Option<Uuid> =
            sqlx::query_scalar("SELECT publisher_id FROM releases WHERE id = $1").bind(release_id.0).fetch_optional(&self.pool).await?;
        let publisher_id = publisher_id.ok_or(StoreError::NotFound("release"))?;
        let only_of = match viewer {
            Viewer::User(user_id) if user_id.0 != publisher_id => Some(user_id.0),
            Viewer::User(_) | Viewer::Operator => None,
        };
        // Both queries see the same moment: else receipts that come between them are told by source and not in the sum.
        let mut snapshot = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        let rows: Vec<DeliveryRow> = sqlx::query_as(
            "SELECT deliveries.id, deliveries.release_id, terminal_id, edition_id, rank, wave, primary_terminal_id, price, state, verified_bytes, charged, completed_at,
                 (SELECT coalesce(sum(delivery_shares.earned), 0)::bigint FROM delivery_shares
                  JOIN deliveries served ON served.id = delivery_shares.delivery_id
                  WHERE delivery_shares.source = deliveries.terminal_id AND served.release_id = deliveries.release_id) AS earned,
                 looked_at, after_s, deposit, absent_since, absent_ms, ended_at, missed_ms, forfeited
             FROM deliveries JOIN release_editions USING (swarm_id)
             LEFT JOIN duties ON duties.delivery_id = deliveries.id
             LEFT JOIN duty_watches ON duty_watches.release_id = duties.release_id
             WHERE deliveries.release_id = $1 AND ($2::uuid IS NULL OR user_id = $2) AND ($3::uuid IS NULL OR deliveries.id > $3)
             ORDER BY deliveries.id LIMIT $4",
        )
        .bind(release_id.0)
        .bind(only_of)
        .bind(request.after::<Uuid>()?)
        .bind(request.rows_wanted())
        .fetch_all(&mut *snapshot)
        .await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let mut sources = self.sources(&mut snapshot, &ids).await?;
        snapshot.commit().await?;
        let deliveries: Result<Vec<Delivery>, StoreError> = rows
            .into_iter()
            .map(|row| {
                let of_this = sources.remove(&row.id).unwrap_or_default();
                self.delivery_of(row, of_this)
            })
            .collect();
        Ok(request.page(deliveries?, |delivery| delivery.id))
    }

    async fn sources(&self, snapshot: &mut PgConnection, deliveries: &[Uuid]) -> Result<BTreeMap<Uuid, Vec<SourceShare>>, StoreError> {
        let rows: Vec<(Uuid, Uuid, i64, i64)> = sqlx::query_as(
            "SELECT delivery_id, source, bytes, earned FROM (
                 SELECT delivery_id, source, bytes, earned FROM delivery_shares WHERE delivery_id = ANY ($1)
                 UNION ALL
                 SELECT delivery_id, source, sum(credited_bytes)::bigint, 0 FROM receipts JOIN deliveries ON deliveries.id = delivery_id
                 WHERE delivery_id = ANY ($1) AND state = 'pending' AND credited_bytes > 0 GROUP BY delivery_id, source
             ) AS moved
             ORDER BY delivery_id, source = '00000000-0000-0000-0000-000000000000', source",
        )
        .bind(deliveries)
        .fetch_all(snapshot)
        .await?;
        let mut sources: BTreeMap<Uuid, Vec<SourceShare>> = BTreeMap::new();
        for (delivery_id, source, sent, earned) in rows {
            let share = SourceShare { source: TerminalId(source), bytes: bytes(sent)?, earned: self.stored_money(earned)? };
            sources.entry(delivery_id).or_default().push(share);
        }
        Ok(sources)
    }

    fn delivery_of(&self, row: DeliveryRow, sources: Vec<SourceShare>) -> Result<Delivery, StoreError> {
        Ok(Delivery {
            id: DeliveryId(row.id),
            release_id: ReleaseId(row.release_id),
            terminal_id: TerminalId(row.terminal_id),
            edition_id: EditionId(byte_array(&row.edition_id)?),
            rank: small(row.rank)?,
            wave: small(row.wave)?,
            primary_terminal_id: row.primary_terminal_id.map(TerminalId),
            price: self.stored_money(row.price)?,
            state: state_of(&row.state)?,
            verified: bytes(row.verified_bytes)?,
            charged: self.stored_money(row.charged)?,
            earned: self.stored_money(row.earned)?,
            sources,
            duty: row.duty.standing(self, row.completed_at, row.looked_at)?,
            progress: None,
            overhead_ns_per_byte: None,
            completed_at: row.completed_at,
        })
    }
}
