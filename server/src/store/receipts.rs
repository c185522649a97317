//! Receipts as they were signed, and what of them counts for whom. Which receipt counts is decided by whoever calls
//! [`Store::update_receipts`], between reading and writing, while the deliveries' rows are locked.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt;
use protocol::bitmap::SEGMENT_BYTES;
use protocol::receipt::Receipt;
use protocol::rest::DeliveryState;
use protocol::{Bytes, DeliveryId, PublicKey, SwarmId, TerminalId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{bigint, byte_array, integer, small, unsigned};
use super::{Store, StoreError, Tx};

/// The delivery that receipts are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedDelivery {
    pub delivery_id: DeliveryId,
    pub swarm_id: SwarmId,
    pub receiver: TerminalId,
    pub receiver_key: PublicKey,
    pub state: DeliveryState,
    /// Chunks of the edition.
    pub chunks: u32,
    pub verified_chunks: u32,
    pub verified: Bytes,
}

impl ReceivedDelivery {
    /// Whether every chunk has arrived and nothing was paid yet.
    pub fn awaits_settlement(&self) -> bool {
        self.state == DeliveryState::Pending && self.verified_chunks == self.chunks
    }
}

/// What the receipts for one source and one segment add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedReceipt {
    pub source: TerminalId,
    pub segment: u32,
    /// The highest that was signed.
    pub sequence: u32,
    /// Every chunk that was ever signed for, by whichever receipt.
    pub bitmap: Box<[u8; SEGMENT_BYTES]>,
    /// The part of the bitmap that counts for the source. Those of one delivery never overlap.
    pub credited: Box<[u8; SEGMENT_BYTES]>,
}

/// What receipts are decided on: deliveries, and all that was recorded for their segments that are asked about.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    pub deliveries: BTreeMap<DeliveryId, ReceivedDelivery>,
    pub receipts: BTreeMap<DeliveryId, Vec<RecordedReceipt>>,
}

/// One receipt to be added to those before it.
///
/// The signature that is kept as evidence is the one with the highest sequence, beside its own sequence and time; an older receipt that comes late leaves
/// them as they are. It covers what its receiver had signed by then and not always the whole `bitmap`: that also has the chunks of receipts whose
/// contents the receiver took back or had forgotten, each of which was verified when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptWrite {
    pub receipt: Receipt,
    /// What all receipts for the source and the segment add up to, this one included.
    pub bitmap: Box<[u8; SEGMENT_BYTES]>,
    pub credited: Box<[u8; SEGMENT_BYTES]>,
    /// Payload of the credited chunks.
    pub credited_bytes: Bytes,
}

/// How far a delivery has come by receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedWrite {
    pub delivery_id: DeliveryId,
    pub chunks: u32,
    pub bytes: Bytes,
    pub complete: bool,
}

#[derive(sqlx::FromRow)]
struct DeliveryRow {
    id: Uuid,
    swarm_id: Uuid,
    terminal_id: Uuid,
    public_key: Vec<u8>,
    state: String,
    chunks: i32,
    verified_chunks: i32,
    verified_bytes: i64,
}

#[derive(sqlx::FromRow)]
struct ReceiptRow {
    delivery_id: Uuid,
    source: Uuid,
    segment: i32,
    sequence: i64,
    bitmap: Vec<u8>,
    credited: Vec<u8>,
}

impl Store {
    /// The deliveries of these ids that exist, without locking them.
    ///
    /// # Errors
    /// The database fails.
    pub async fn received_deliveries(&self, ids: &BTreeSet<DeliveryId>) -> Result<BTreeMap<DeliveryId, ReceivedDelivery>, StoreError> {
        read_deliveries(&mut *self.pool.acquire().await?, ids, false).await
    }

    /// What was recorded for these segments, without locking anything: it may have grown since.
    ///
    /// # Errors
    /// The database fails.
    pub async fn recorded_receipts(
        &self,
        segments: &BTreeSet<(DeliveryId, u32)>,
    ) -> Result<BTreeMap<DeliveryId, Vec<RecordedReceipt>>, StoreError> {
        read_receipts(&mut *self.pool.acquire().await?, segments).await
    }

    /// Locks the deliveries, reads what was recorded for these segments of them, lets `decide` say what to write, and writes it, all in one
    /// transaction. Answers what `decide` says besides.
    ///
    /// # Errors
    /// The database fails.
    pub async fn update_receipts<T>(
        &self,
        segments: &BTreeSet<(DeliveryId, u32)>,
        now: OffsetDateTime,
        decide: impl FnOnce(&Recorded) -> (Vec<ReceiptWrite>, Vec<VerifiedWrite>, T) + Send,
    ) -> Result<T, StoreError> {
        let mut tx = self.begin().await?;
        let ids: BTreeSet<DeliveryId> = segments.iter().map(|(delivery_id, _)| *delivery_id).collect();
        let deliveries = read_deliveries(&mut tx, &ids, true).await?;
        let receipts = read_receipts(&mut tx, segments).await?;
        let (writes, verified, rest) = decide(&Recorded { deliveries, receipts });
        write_receipts(&mut tx, &writes, now).await?;
        for write in &verified {
            sqlx::query(
                "UPDATE deliveries SET verified_chunks = $2, verified_bytes = $3, completed_at = CASE WHEN $4 THEN coalesce(completed_at, $5) END
                 WHERE id = $1 AND state = 'pending'",
            )
            .bind(write.delivery_id.0)
            .bind(integer(write.chunks)?)
            .bind(bigint(write.bytes.0)?)
            .bind(write.complete)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(rest)
    }

    /// Every chunk that somebody sent according to the receipts of these deliveries, as a bitmap: least significant bit first within a byte.
    ///
    /// # Errors
    /// The database fails.
    pub async fn receipted_bitmap(&self, deliveries: Vec<DeliveryId>) -> Result<Vec<u8>, StoreError> {
        let ids: Vec<Uuid> = deliveries.into_iter().map(|delivery_id| delivery_id.0).collect();
        // One row at a time: a group of sixteen has eight mebibytes of them in a swarm of the largest edition.
        let mut rows = sqlx::query_as::<_, (i32, Vec<u8>)>(
            "SELECT segment, credited FROM receipts JOIN deliveries ON deliveries.id = delivery_id
             WHERE delivery_id = ANY ($1) AND source <> terminal_id",
        )
        .bind(ids)
        .fetch(&self.pool);
        let mut bitmap = Vec::new();
        while let Some((segment, credited)) = rows.try_next().await? {
            let begin = usize::try_from(segment).unwrap_or(0) * SEGMENT_BYTES;
            let credited: [u8; SEGMENT_BYTES] = byte_array(&credited)?;
            bitmap.resize(bitmap.len().max(begin + SEGMENT_BYTES), 0);
            bitmap[begin..].iter_mut().zip(credited).for_each(|(all, more): (&mut u8, u8)| *all |= more);
        }
        Ok(bitmap)
    }

    /// Chunks that a terminal has signed for in a swarm: those of one receipt, whichever.
    ///
    /// # Errors
    /// The database fails.
    pub async fn signed_chunks(&self, terminal: TerminalId, swarm_id: SwarmId) -> Result<Vec<u32>, StoreError> {
        let row: Option<(i32, Vec<u8>)> = sqlx::query_as(
            "SELECT segment, credited FROM receipts JOIN deliveries ON deliveries.id = delivery_id
             WHERE terminal_id = $1 AND swarm_id = $2 AND credited_bytes > 0 ORDER BY random() LIMIT 1",
        )
        .bind(terminal.0)
        .bind(swarm_id.0)
        .fetch_optional(&self.pool)
        .await?;
        let Some((segment, credited)) = row else { return Ok(Vec::new()) };
        Ok(protocol::bitmap::segment_chunks(small(segment)?, &byte_array(&credited)?).collect())
    }

    /// Which of the chunks the receipts of these deliveries contain.
    ///
    /// # Errors
    /// The database fails.
    pub async fn receipted_chunks(&self, deliveries: &[DeliveryId], chunks: &BTreeSet<u32>) -> Result<BTreeSet<u32>, StoreError> {
        let ids: Vec<Uuid> = deliveries.iter().map(|delivery_id| delivery_id.0).collect();
        let segments: BTreeSet<u32> = chunks.iter().map(|chunk| chunk / protocol::bitmap::SEGMENT_CHUNKS).collect();
        let segments = segments.into_iter().map(integer).collect::<Result<Vec<_>, _>>()?;
        let rows: Vec<(i32, Vec<u8>)> =
            sqlx::query_as("SELECT segment, credited FROM receipts WHERE delivery_id = ANY ($1) AND segment = ANY ($2)")
                .bind(ids)
                .bind(segments)
                .fetch_all(&self.pool)
                .await?;
        let mut found = BTreeSet::new();
        for (segment, credited) in rows {
            let credited = byte_array(&credited)?;
            found.extend(protocol::bitmap::segment_chunks(small(segment)?, &credited).filter(|chunk| chunks.contains(chunk)));
        }
        Ok(found)
    }
}

async fn read_deliveries(
    connection: &mut sqlx::PgConnection,
    ids: &BTreeSet<DeliveryId>,
    lock: bool,
) -> Result<BTreeMap<DeliveryId, ReceivedDelivery>, StoreError> {
    const READ: &str = "SELECT deliveries.id, deliveries.swarm_id, terminal_id, public_key, state, chunks, verified_chunks, verified_bytes
        FROM deliveries JOIN terminals ON terminals.id = terminal_id JOIN release_editions ON release_editions.swarm_id = deliveries.swarm_id
        WHERE deliveries.id = ANY ($1) ORDER BY deliveries.id";
    const LOCK: &str = "SELECT deliveries.id, deliveries.swarm_id, terminal_id, public_key, state, chunks, verified_chunks, verified_bytes
        FROM deliveries JOIN terminals ON terminals.id = terminal_id JOIN release_editions ON release_editions.swarm_id = deliveries.swarm_id
        WHERE deliveries.id = ANY ($1) ORDER BY deliveries.id FOR UPDATE OF deliveries";
    let ids: Vec<Uuid> = ids.iter().map(|delivery_id| delivery_id.0).collect();
    let rows: Vec<DeliveryRow> = sqlx::query_as(if lock { LOCK } else { READ }).bind(ids).fetch_all(connection).await?;
    rows.into_iter()
        .map(|row| {
            let delivery_id = DeliveryId(row.id);
            let delivery = ReceivedDelivery {
                delivery_id,
                swarm_id: SwarmId(row.swarm_id),
                receiver: TerminalId(row.terminal_id),
                receiver_key: PublicKey(byte_array(&row.public_key)?),
                state: super::deliveries::state_of(&row.state)?,
                chunks: small(row.chunks)?,
                verified_chunks: small(row.verified_chunks)?,
                verified: Bytes(unsigned(row.verified_bytes)?),
            };
            Ok((delivery_id, delivery))
        })
        .collect()
}

async fn read_receipts(
    connection: &mut sqlx::PgConnection,
    segments: &BTreeSet<(DeliveryId, u32)>,
) -> Result<BTreeMap<DeliveryId, Vec<RecordedReceipt>>, StoreError> {
    let ids: Vec<Uuid> = segments.iter().map(|(delivery_id, _)| delivery_id.0).collect();
    let numbers = segments.iter().map(|(_, segment)| integer(*segment)).collect::<Result<Vec<_>, _>>()?;
    let rows: Vec<ReceiptRow> = sqlx::query_as(
        "SELECT delivery_id, source, segment, sequence, bitmap, credited FROM receipts
         JOIN unnest($1::uuid[], $2::integer[]) AS wanted (delivery_id, segment) USING (delivery_id, segment) ORDER BY delivery_id, source, segment",
    )
    .bind(ids)
    .bind(numbers)
    .fetch_all(connection)
    .await?;
    let mut receipts: BTreeMap<DeliveryId, Vec<RecordedReceipt>> = BTreeMap::new();
    for row in rows {
        let sequence = u32::try_from(row.sequence).map_err(|_| StoreError::Invariant(format!("{} is no sequence number", row.sequence)))?;
        receipts.entry(DeliveryId(row.delivery_id)).or_default().push(RecordedReceipt {
            source: TerminalId(row.source),
            segment: small(row.segment)?,
            sequence,
            bitmap: Box::new(byte_array(&row.bitmap)?),
            credited: Box::new(byte_array(&row.credited)?),
        });
    }
    Ok(receipts)
}

async fn write_receipts(tx: &mut Tx, writes: &[ReceiptWrite], now: OffsetDateTime) -> Result<(), StoreError> {
    let bodies = || writes.iter().map(|write| &write.receipt.body);
    let deliveries: Vec<Uuid> = bodies().map(|body| body.delivery_id.0).collect();
    let sources: Vec<Uuid> = bodies().map(|body| body.source.0).collect();
    let segments = bodies().map(|body| integer(body.segment)).collect::<Result<Vec<_>, _>>()?;
    let sequences: Vec<i64> = bodies().map(|body| i64::from(body.sequence)).collect();
    let times = bodies().map(|body| bigint(body.at.0)).collect::<Result<Vec<_>, _>>()?;
    let bitmaps: Vec<Vec<u8>> = writes.iter().map(|write| write.bitmap.to_vec()).collect();
    let credited: Vec<Vec<u8>> = writes.iter().map(|write| write.credited.to_vec()).collect();
    let credited_bytes = writes.iter().map(|write| bigint(write.credited_bytes.0)).collect::<Result<Vec<_>, _>>()?;
    let signatures: Vec<Vec<u8>> = writes.iter().map(|write| write.receipt.signature.0.to_vec()).collect();
    sqlx::query(
        "INSERT INTO receipts (delivery_id, source, segment, sequence, signed_at_ms, bitmap, credited, signature, credited_bytes, recorded_at)
         SELECT *, $10
         FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bigint[])
         ON CONFLICT (delivery_id, source, segment) DO UPDATE SET
             bitmap = excluded.bitmap, credited = excluded.credited, credited_bytes = excluded.credited_bytes, recorded_at = excluded.recorded_at,
             sequence = greatest(receipts.sequence, excluded.sequence),
             signed_at_ms = CASE WHEN excluded.sequence < receipts.sequence THEN receipts.signed_at_ms ELSE excluded.signed_at_ms END,
             signature = CASE WHEN excluded.sequence < receipts.sequence THEN receipts.signature ELSE excluded.signature END",
    )
    .bind(deliveries)
    .bind(sources)
    .bind(segments)
    .bind(sequences)
    .bind(times)
    .bind(bitmaps)
    .bind(credited)
    .bind(signatures)
    .bind(credited_bytes)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
