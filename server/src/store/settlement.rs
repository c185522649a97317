//! Settling a delivery: what the receipts say is charged once and divided over the sources. The amounts are decided in [`rules::settlement`].

use std::collections::BTreeMap;

use protocol::bitmap::ChunkSet;
use protocol::rest::{DeliveryState, TariffVersion};
use protocol::{Amount, BasisPoints, Bytes, DeliveryId, HoldId, ReleaseId, SwarmId, TerminalId, UserId};
use rules::ledger::Transfer;
use rules::settlement::{Attribution, Charging, Record, Settlement, Terms, attribute, settle};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{amount, basis_points, bigint, byte_array, bytes, integer, small};
use super::ledger::{self, PaidFrom};
use super::lifecycle::{Lock, standing};
use super::tariffs::{relay_shares, tariff_version};
use super::{Store, StoreError, Tx, outbox};

/// A delivery that has just been settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    pub delivery_id: DeliveryId,
    pub release_id: ReleaseId,
    pub swarm_id: SwarmId,
    /// The receiver.
    pub terminal_id: TerminalId,
    pub user_id: UserId,
    /// [`DeliveryState::Settled`], or [`DeliveryState::Released`] if nothing was received.
    pub state: DeliveryState,
    /// Whether every chunk was received.
    pub complete: bool,
    pub verified: Bytes,
    pub charged: Amount,
    /// The platform's part of the charge.
    pub fee: Amount,
    /// The publisher's part of the charge, the origin's earnings included.
    pub publisher: Amount,
    /// Every source that delivered something, ascending by id, the origin last; the receiver itself for what nobody had to send.
    pub shares: Vec<Share>,
}

/// What one source delivered and earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// [`TerminalId::ORIGIN`] for the origin, whose earnings go to the publisher.
    pub source: TerminalId,
    pub bytes: Bytes,
    pub earned: Amount,
    /// The share of a relay that its tariff gave one of its own.
    pub relay_share: Option<BasisPoints>,
}

/// A delivery as it stands; its row stays locked.
#[derive(sqlx::FromRow)]
struct Pending {
    state: String,
    swarm_id: Uuid,
    terminal_id: Uuid,
    user_id: Uuid,
    price: i64,
    hold_id: Option<Uuid>,
    length: i64,
    chunks: i32,
    relay_bp: i32,
    fee_bp: i32,
    on_demand: bool,
    publisher_id: Uuid,
    starts_at: OffsetDateTime,
    tariff_id: Option<Uuid>,
    tariff_version: Option<i32>,
    unopened: bool,
}

impl Pending {
    /// The tariff that it was asked for under.
    fn tariff(&self) -> Result<Option<TariffVersion>, StoreError> {
        tariff_version(self.tariff_id, self.tariff_version)
    }
}

impl Store {
    /// Settles a delivery if all of it was received, or, on the `last_call` at the deadline, as far as it was; what was held beyond the charge is
    /// available again, and nothing received costs nothing. Happens once: `None` if it was settled before, is not complete yet or is sealed still.
    ///
    /// `chunk_lengths` are those of the edition's manifest.
    ///
    /// # Errors
    /// `not_found`, or an invariant: the chunks are not the edition's.
    pub async fn settle_delivery(
        &self,
        delivery_id: DeliveryId,
        chunk_lengths: &[u32],
        now: OffsetDateTime,
        last_call: bool,
    ) -> Result<Option<Settled>, StoreError> {
        let mut tx = self.begin().await?;
        let Some((release_id, pending)) = lock_pending(&mut tx, delivery_id, now).await? else { return Ok(None) };
        check_edition(&pending, chunk_lengths)?;
        let receipts = read_receipts(&mut tx, delivery_id).await?;
        let attribution = attribute_receipts(delivery_id, TerminalId(pending.terminal_id), chunk_lengths, &receipts)?;
        let verified_chunks = receipts.iter().fold(ChunkSet::default(), |mut all, (_, chunks)| {
            all.extend(chunks);
            all
        });
        let complete = verified_chunks.len() == small(pending.chunks)?;
        if !complete && !last_call {
            return Ok(None);
        }
        let terms = Terms {
            price: amount(pending.price)?,
            charging: if pending.on_demand { Charging::OnDemand } else { Charging::Release },
            fee: basis_points(pending.fee_bp)?,
            relay_share: basis_points(pending.relay_bp)?,
        };
        let relay_shares = match pending.tariff()? {
            Some(version) => {
                let relays = attribution.sources.iter().map(|source| source.source);
                relay_shares(&mut tx, version, UserId(pending.publisher_id), pending.starts_at, relays).await?
            }
            None => BTreeMap::new(),
        };
        let settlement =
            settle(&terms, attribution.edition_bytes, &attribution.sources, attribution.held, &relay_shares).map_err(invariant)?;
        let relays: Vec<Uuid> = settlement.relays.iter().map(|part| part.terminal_id.0).collect();
        let owners = owners_of(&mut tx, &relays).await?;
        pay(&mut tx, delivery_id, &pending, &settlement, &owners, now).await?;
        let settled = Settled {
            delivery_id,
            release_id,
            swarm_id: SwarmId(pending.swarm_id),
            terminal_id: TerminalId(pending.terminal_id),
            user_id: UserId(pending.user_id),
            state: if settlement.counted.0 > 0 { DeliveryState::Settled } else { DeliveryState::Released },
            complete,
            verified: settlement.counted,
            charged: settlement.charge,
            fee: settlement.fee,
            publisher: settlement.publisher,
            shares: shares(TerminalId(pending.terminal_id), &attribution, &settlement, &relay_shares),
        };
        write_settled(&mut tx, &settled, UserId(pending.publisher_id), verified_chunks.len(), now).await?;
        let owner_of = |terminal: TerminalId| owners.get(&terminal).copied();
        outbox::tell_settled(&mut tx, &settled, UserId(pending.publisher_id), owner_of, self.currency, now).await?;
        tx.commit().await?;
        Ok(Some(settled))
    }
}

/// Whose terminals these are.
async fn owners_of(tx: &mut PgConnection, terminals: &[Uuid]) -> Result<BTreeMap<TerminalId, UserId>, StoreError> {
    let owners: Vec<(Uuid, Uuid)> =
        sqlx::query_as("SELECT id, user_id FROM terminals WHERE id = ANY ($1)").bind(terminals).fetch_all(tx).await?;
    Ok(owners.into_iter().map(|(id, user)| (TerminalId(id), UserId(user))).collect())
}

/// Posts the settlement out of the delivery's hold.
async fn pay(
    tx: &mut Tx,
    delivery_id: DeliveryId,
    pending: &Pending,
    settlement: &Settlement,
    owners: &BTreeMap<TerminalId, UserId>,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let payer = UserId(pending.user_id);
    let transfer = Transfer::delivery(settlement, payer, UserId(pending.publisher_id), |terminal| owners.get(&terminal).copied())
        .map_err(invariant)?;
    let held = amount(pending.price)?;
    let paid_from = pending.hold_id.map(|hold_id| PaidFrom { hold_id: HoldId(hold_id), held, payer });
    ledger::post(tx, &transfer, Some(delivery_id), paid_from, now).await?;
    Ok(())
}

fn invariant(error: impl std::fmt::Display) -> StoreError {
    StoreError::Invariant(error.to_string())
}

/// Locks the delivery, after its release; `None` if it is not pending any more, or sealed still: what cannot be opened is not paid.
async fn lock_pending(
    tx: &mut PgConnection,
    delivery_id: DeliveryId,
    now: OffsetDateTime,
) -> Result<Option<(ReleaseId, Pending)>, StoreError> {
    let release_id: Option<Uuid> =
        sqlx::query_scalar("SELECT release_id FROM deliveries WHERE id = $1").bind(delivery_id.0).fetch_optional(&mut *tx).await?;
    let release_id = ReleaseId(release_id.ok_or(StoreError::NotFound("delivery"))?);
    standing(tx, release_id, Some(Lock::Shared)).await?;
    let pending: Pending = sqlx::query_as(
        "SELECT deliveries.state, deliveries.swarm_id, terminal_id, user_id, price, hold_id, length, chunks, relay_bp, fee_bp, on_demand, publisher_id,
             starts_at, tariff_id, tariff_version, is_unopened(deliveries.release_id, wave, $2) AS unopened
         FROM deliveries
         JOIN release_editions ON release_editions.swarm_id = deliveries.swarm_id
         JOIN releases ON releases.id = deliveries.release_id
         LEFT JOIN downloads ON downloads.delivery_id = deliveries.id
         WHERE deliveries.id = $1 FOR UPDATE OF deliveries",
    )
    .bind(delivery_id.0)
    .bind(now)
    .fetch_one(&mut *tx)
    .await?;
    Ok((pending.state == "pending" && !pending.unopened).then_some((release_id, pending)))
}

/// Money is not computed from another edition's chunks.
fn check_edition(pending: &Pending, chunk_lengths: &[u32]) -> Result<(), StoreError> {
    let length: u64 = chunk_lengths.iter().map(|length| u64::from(*length)).sum();
    if u32::try_from(chunk_lengths.len()).ok() == Some(small(pending.chunks)?) && Bytes(length) == bytes(pending.length)? {
        return Ok(());
    }
    Err(StoreError::Invariant(format!("{} chunks of {length} bytes are not those of swarm {}", chunk_lengths.len(), pending.swarm_id)))
}

/// What was credited to each source, in the order in which the sources first appeared. Rows that nothing is credited by are left
/// where they are: a receiver can make many of them, and nothing is paid for them.
pub(super) async fn read_receipts(tx: &mut PgConnection, delivery_id: DeliveryId) -> Result<Vec<(TerminalId, ChunkSet)>, StoreError> {
    let rows: Vec<(Uuid, i32, Vec<u8>)> = sqlx::query_as(
        "SELECT source, segment, credited FROM receipts WHERE delivery_id = $1 AND bit_count(credited) > 0
         ORDER BY recorded_at, source, segment",
    )
    .bind(delivery_id.0)
    .fetch_all(tx)
    .await?;
    let mut receipts: Vec<(TerminalId, ChunkSet)> = Vec::new();
    for (source, segment, credited) in rows {
        let (source, credited) = (TerminalId(source), byte_array(&credited)?);
        match receipts.iter_mut().find(|(known, _)| *known == source) {
            Some((_, chunks)) => chunks.insert_segment(small(segment)?, &credited),
            None => {
                let mut chunks = ChunkSet::default();
                chunks.insert_segment(small(segment)?, &credited);
                receipts.push((source, chunks));
            }
        }
    }
    Ok(receipts)
}

/// What the receiver signed for itself it had, or it repeats another chunk: it is delivered by nobody.
fn attribute_receipts(
    delivery_id: DeliveryId,
    receiver: TerminalId,
    chunk_lengths: &[u32],
    receipts: &[(TerminalId, ChunkSet)],
) -> Result<Attribution, StoreError> {
    let sent = receipts.iter().filter(|(source, _)| *source != receiver);
    let records: Vec<Record<'_>> = sent.map(|(source, chunks)| Record { source: *source, chunks }).collect();
    let had = receipts.iter().find(|(source, _)| *source == receiver).map(|(_, chunks)| chunks);
    let attribution = attribute(chunk_lengths, &records, had.unwrap_or(&ChunkSet::default()), |_| None).map_err(invariant)?;
    if !attribution.contested.is_empty() {
        // Crediting keeps this from happening; should it happen all the same, the first one is paid and nobody twice.
        tracing::error!(%delivery_id, chunks = attribution.contested.len(), "chunks were credited to more than one source");
    }
    Ok(attribution)
}

/// The bytes of all shares add up to what was counted. What the receiver had earns it nothing; the origin's part, which that belongs to, is the
/// publisher's whether the origin sent anything or not.
fn shares(
    receiver: TerminalId,
    attribution: &Attribution,
    settlement: &Settlement,
    relay_shares: &BTreeMap<TerminalId, BasisPoints>,
) -> Vec<Share> {
    let relays = settlement.relays.iter().filter(|part| part.bytes.0 > 0);
    let mut shares: Vec<Share> = relays
        .map(|part| Share {
            source: part.terminal_id,
            bytes: part.bytes,
            earned: part.amount,
            relay_share: relay_shares.get(&part.terminal_id).copied(),
        })
        .collect();
    let paid: u64 = shares.iter().map(|share| share.earned.0).sum();
    let origin = attribution.sources.iter().find(|source| source.source.is_origin());
    shares.extend(origin.map(|origin| Share {
        source: origin.source,
        bytes: origin.bytes,
        earned: Amount(settlement.pool.0.saturating_sub(paid)),
        relay_share: None,
    }));
    if attribution.held.0 > 0 {
        shares.push(Share { source: receiver, bytes: attribution.held, earned: Amount(0), relay_share: None });
    }
    shares.sort_by_key(|share| (share.source.is_origin(), share.source));
    shares
}

async fn write_shares(tx: &mut PgConnection, settled: &Settled, publisher: UserId, now: OffsetDateTime) -> Result<(), StoreError> {
    let (mut sources, mut bytes, mut earned, mut relay_bps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for share in &settled.shares {
        sources.push(share.source.0);
        bytes.push(bigint(share.bytes.0)?);
        earned.push(bigint(share.earned.0)?);
        relay_bps.push(share.relay_share.map(|relay_share| i32::from(relay_share.get())));
    }
    // Whose content it was stands with relays alone: neither the origin nor the receiver has sent it a volume.
    sqlx::query(
        "INSERT INTO delivery_shares (delivery_id, source, bytes, earned, relay_bp, publisher_id, settled_at, of_complete)
         SELECT $1, source, bytes, earned, relay_bp, CASE WHEN is_relay THEN $6 END, CASE WHEN is_relay THEN $7 END, CASE WHEN is_relay THEN $8 END
         FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::integer[]) AS share (source, bytes, earned, relay_bp),
             LATERAL (SELECT source <> $9 AND source <> $10 AS is_relay) AS kind",
    )
    .bind(settled.delivery_id.0)
    .bind(&sources)
    .bind(&bytes)
    .bind(&earned)
    .bind(&relay_bps)
    .bind(publisher.0)
    .bind(now)
    .bind(settled.complete)
    .bind(TerminalId::ORIGIN.0)
    .bind(settled.terminal_id.0)
    .execute(tx)
    .await?;
    Ok(())
}

async fn write_settled(
    tx: &mut PgConnection,
    settled: &Settled,
    publisher: UserId,
    chunks: u32,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    write_shares(tx, settled, publisher, now).await?;
    let state = match settled.state {
        DeliveryState::Settled => "settled",
        DeliveryState::Released => "released",
        DeliveryState::Pending => return Err(StoreError::Invariant("a settled delivery is not pending".to_owned())),
    };
    sqlx::query(
        "UPDATE deliveries SET state = $2, verified_bytes = $3, verified_chunks = $4, charged = $5, settled_at = $6,
             completed_at = CASE WHEN $7 THEN coalesce(completed_at, $6) END
         WHERE id = $1",
    )
    .bind(settled.delivery_id.0)
    .bind(state)
    .bind(bigint(settled.verified.0)?)
    .bind(integer(chunks)?)
    .bind(bigint(settled.charged.0)?)
    .bind(now)
    .bind(settled.complete)
    .execute(tx)
    .await?;
    Ok(())
}
