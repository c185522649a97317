//! Which source delivered each verified chunk.

use std::collections::BTreeMap;

use protocol::bitmap::ChunkSet;
use protocol::{Bytes, TerminalId};

use super::{SettlementError, SourceBytes};

/// Chunks that the receiver signed for one source, as they were recorded. Receipts are cumulative, so a source may stand in many records that
/// repeat each other.
#[derive(Debug, Clone, Copy)]
pub struct Record<'receipts> {
    /// [`TerminalId::ORIGIN`] for the origin.
    pub source: TerminalId,
    pub chunks: &'receipts ChunkSet,
}

/// A chunk that the receiver signed for more than one source: proof of double signing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contested {
    pub chunk: u32,
    /// The source that is paid.
    pub paid: TerminalId,
    /// The others, in the order of their records.
    pub unpaid: Vec<TerminalId>,
}

/// What each source delivered, every chunk counted once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribution {
    pub edition_bytes: Bytes,
    /// Ascending by terminal id, the origin last; only sources with something to count.
    pub sources: Vec<SourceBytes>,
    /// Held before and delivered by nobody.
    pub held: Bytes,
    /// Ascending by chunk. Not empty: the receiver is to be quarantined and the sources told.
    pub contested: Vec<Contested>,
}

/// Counts every chunk for one source: the one that `lease_holder` names if it is among those that the receiver signed for, else the one recorded
/// first. A chunk in `held` (had before, or a repeat of an earlier chunk) that was signed for as well counts as delivered.
///
/// `chunk_lengths` are the edition's chunks in bytes; `records` stand in the order in which the server recorded them.
///
/// # Errors
/// [`SettlementError::UnknownChunk`] for a chunk beyond the edition.
pub fn attribute(
    chunk_lengths: &[u32],
    records: &[Record<'_>],
    held: &ChunkSet,
    lease_holder: impl Fn(u32) -> Option<TerminalId>,
) -> Result<Attribution, SettlementError> {
    let unknown = |chunk| SettlementError::UnknownChunk { chunk, chunks: chunk_lengths.len() };
    let mut paid: Vec<Option<TerminalId>> = vec![None; chunk_lengths.len()];
    let mut contested: BTreeMap<u32, Vec<TerminalId>> = BTreeMap::new();
    for record in records {
        for chunk in record.chunks.iter() {
            let first = slot(&mut paid, chunk).ok_or_else(|| unknown(chunk))?;
            let known = *first.get_or_insert(record.source);
            if known != record.source {
                let claims = contested.entry(chunk).or_insert_with(|| vec![known]);
                if !claims.contains(&record.source) {
                    claims.push(record.source);
                }
            }
        }
    }
    let contested = contested.into_iter().map(|(chunk, claims)| judge(chunk, &claims, lease_holder(chunk), &mut paid)).collect();
    if let Some(chunk) = held.iter().find(|&chunk| slot(&mut paid, chunk).is_none()) {
        return Err(unknown(chunk));
    }
    let mut by_source: BTreeMap<TerminalId, u64> = BTreeMap::new();
    let (mut edition, mut held_bytes) = (0u64, 0u64);
    for ((chunk, length), paid) in (0u32..).zip(chunk_lengths).zip(&paid) {
        // 2^32 chunks of 2^32 bytes just fit 64 bits; saturating keeps the sum total without an error that cannot happen.
        let length = u64::from(*length);
        edition = edition.saturating_add(length);
        if let Some(source) = paid {
            let bytes = by_source.entry(*source).or_default();
            *bytes = bytes.saturating_add(length);
        } else if held.contains(chunk) {
            held_bytes = held_bytes.saturating_add(length);
        }
    }
    let mut sources: Vec<SourceBytes> = by_source.into_iter().map(|(source, bytes)| SourceBytes { source, bytes: Bytes(bytes) }).collect();
    sources.sort_by_key(|source| (source.source.is_origin(), source.source));
    Ok(Attribution { edition_bytes: Bytes(edition), sources, held: Bytes(held_bytes), contested })
}

fn slot(paid: &mut [Option<TerminalId>], chunk: u32) -> Option<&mut Option<TerminalId>> {
    usize::try_from(chunk).ok().and_then(|index| paid.get_mut(index))
}

/// Decides a chunk that several sources claim; `claims` stand in the order of recording.
fn judge(chunk: u32, claims: &[TerminalId], lease_holder: Option<TerminalId>, paid: &mut [Option<TerminalId>]) -> Contested {
    let earliest = claims.first().copied().unwrap_or(TerminalId::ORIGIN);
    let winner = lease_holder.filter(|holder| claims.contains(holder)).unwrap_or(earliest);
    if let Some(slot) = slot(paid, chunk) {
        *slot = Some(winner);
    }
    Contested { chunk, paid: winner, unpaid: claims.iter().copied().filter(|&claim| claim != winner).collect() }
}
