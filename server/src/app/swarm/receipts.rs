//! Receipts as they come in: read, checked against their signatures, recorded in one transaction a message, and settled when a delivery is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::receipt::Receipt;
use protocol::ws::RECEIPTS_MAX;
use protocol::{DeliveryId, ErrorCode, SwarmId, TerminalId};

use super::crediting::{Judgement, judge};
use super::known::KnownSwarm;
use super::settling;
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::receipts::ReceivedDelivery;

/// A receipt by its place in the message.
type Placed = (usize, Receipt);

/// A receipt that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedReceipt {
    /// Its place in the message.
    pub index: usize,
    pub detail: String,
}

/// Takes a message of receipts from their receiver or their sources. Those that are valid are recorded whatever is wrong with the others; the answer
/// are the others.
///
/// # Errors
/// `invalid_request` for too many; or a store fails and nothing was recorded.
pub async fn take(state: &AppState, from: TerminalId, encoded: &[String]) -> Result<Vec<RefusedReceipt>, ApiError> {
    if encoded.len() > RECEIPTS_MAX {
        return Err(ApiError::invalid("/receipts", format!("at most {RECEIPTS_MAX} receipts")));
    }
    let mut refused = Vec::new();
    let receipts = read(from, encoded, &mut refused);
    let ids: BTreeSet<DeliveryId> = receipts.iter().map(|(_, receipt)| receipt.body.delivery_id).collect();
    let deliveries = state.store.received_deliveries(&ids).await?;
    let receipts = check_parties(state, receipts, &deliveries, &mut refused).await?;
    let receipts = check_signatures(receipts, &deliveries, &mut refused).await?;
    if !receipts.is_empty() {
        let judgement = record(state, &receipts, &deliveries).await?;
        refused.extend(judgement.refused.iter().map(|(index, why)| RefusedReceipt { index: *index, detail: format!("{why}.") }));
        if judgement.contested > 0 {
            metrics::counter!("spillway_contested_chunks_total").increment(judgement.contested.into());
            tracing::warn!(%from, chunks = judgement.contested, "chunks were signed for two sources; the first one is paid");
        }
        settle_complete(state, &judgement.complete, &deliveries).await?;
    }
    refused.sort_by_key(|refused| refused.index);
    Ok(refused)
}

fn refuse(refused: &mut Vec<RefusedReceipt>, index: usize, detail: &str) {
    refused.push(RefusedReceipt { index, detail: detail.to_owned() });
}

fn read(from: TerminalId, encoded: &[String], refused: &mut Vec<RefusedReceipt>) -> Vec<Placed> {
    let mut receipts = Vec::with_capacity(encoded.len());
    for (index, text) in encoded.iter().enumerate() {
        let receipt = BASE64_STANDARD.decode(text).ok().and_then(|bytes| Receipt::decode(&bytes).ok());
        match receipt {
            Some(receipt) if receipt.body.receiver == from || receipt.body.source == from => receipts.push((index, receipt)),
            Some(_) => refuse(refused, index, "This terminal is neither the receiver nor the source."),
            None => refuse(refused, index, "This is no base64 of a receipt."),
        }
    }
    receipts
}

/// Keeps receipts that name a planned delivery's own receiver, and as the source the origin or another winner of the same swarm.
async fn check_parties(
    state: &AppState,
    receipts: Vec<Placed>,
    deliveries: &BTreeMap<DeliveryId, ReceivedDelivery>,
    refused: &mut Vec<RefusedReceipt>,
) -> Result<Vec<Placed>, ApiError> {
    let now = clock::now();
    let mut sources: BTreeMap<SwarmId, BTreeSet<TerminalId>> = BTreeMap::new();
    for (_, receipt) in &receipts {
        if let Some(delivery) = deliveries.get(&receipt.body.delivery_id) {
            sources.entry(delivery.swarm_id).or_default().insert(receipt.body.source);
        }
    }
    let mut winners: BTreeMap<SwarmId, BTreeSet<TerminalId>> = BTreeMap::new();
    for (swarm_id, sources) in sources {
        winners.insert(swarm_id, state.store.winners_among(swarm_id, &sources).await?);
    }
    let mut kept = Vec::with_capacity(receipts.len());
    for (index, receipt) in receipts {
        let body = &receipt.body;
        let Some(delivery) = deliveries.get(&body.delivery_id).filter(|delivery| delivery.receiver == body.receiver) else {
            refuse(refused, index, "The receiver has no such delivery.");
            continue;
        };
        let known = state.swarms.with_member(delivery.swarm_id, body.receiver).await?;
        let opens_at = known.and_then(|swarm| swarm.place(body.receiver)).map(|place| place.opens_at);
        let won = winners.get(&delivery.swarm_id).is_some_and(|winners| winners.contains(&body.source));
        if opens_at.is_none_or(|opens_at| now < opens_at) {
            refuse(refused, index, "The receiver's wave has not opened.");
        } else if body.source == body.receiver || !(body.source.is_origin() || won) {
            refuse(refused, index, "The source is neither the origin nor another winner of the same edition.");
        } else {
            kept.push((index, receipt));
        }
    }
    Ok(kept)
}

/// Keeps receipts that their receivers have signed. A message's worth takes milliseconds, so it stands on no thread that serves others.
async fn check_signatures(
    receipts: Vec<Placed>,
    deliveries: &BTreeMap<DeliveryId, ReceivedDelivery>,
    refused: &mut Vec<RefusedReceipt>,
) -> Result<Vec<Placed>, ApiError> {
    let keyed: Vec<_> = receipts
        .into_iter()
        .filter_map(|(index, receipt)| Some((deliveries.get(&receipt.body.delivery_id)?.receiver_key, index, receipt)))
        .collect();
    let checked = tokio::task::spawn_blocking(move || {
        keyed.into_iter().map(|(key, index, receipt)| (receipt.is_signed_by(&key), index, receipt)).collect::<Vec<_>>()
    });
    let mut kept = Vec::new();
    for (signed, index, receipt) in checked.await.map_err(ApiError::internal)? {
        if signed {
            kept.push((index, receipt));
        } else {
            refuse(refused, index, "The signature is not the receiver's.");
        }
    }
    Ok(kept)
}

async fn record(state: &AppState, receipts: &[Placed], deliveries: &BTreeMap<DeliveryId, ReceivedDelivery>) -> Result<Judgement, ApiError> {
    let mut swarms: BTreeMap<DeliveryId, Arc<KnownSwarm>> = BTreeMap::new();
    for delivery in deliveries.values() {
        swarms.insert(delivery.delivery_id, state.swarms.with_groups(delivery.swarm_id, 0).await?);
    }
    let segments: BTreeSet<(DeliveryId, u32)> =
        receipts.iter().map(|(_, receipt)| (receipt.body.delivery_id, receipt.body.segment)).collect();
    let (store, now, receipts) = (state.store.clone(), clock::now(), receipts.to_vec());
    let length_of = move |delivery_id: DeliveryId, chunk: u32| {
        let length = swarms.get(&delivery_id).zip(usize::try_from(chunk).ok()).and_then(|(swarm, chunk)| swarm.chunk_lengths.get(chunk));
        length.copied().map_or(0, u64::from)
    };
    let recording = async move {
        let decide = |recorded: &_| {
            let mut judgement = judge(recorded, &receipts, length_of);
            (std::mem::take(&mut judgement.writes), std::mem::take(&mut judgement.verified), judgement)
        };
        store.update_receipts(&segments, now, decide).await
    };
    state.to_the_end(recording).await
}

async fn settle_complete(
    state: &AppState,
    complete: &[DeliveryId],
    deliveries: &BTreeMap<DeliveryId, ReceivedDelivery>,
) -> Result<(), ApiError> {
    for delivery in complete.iter().filter_map(|delivery_id| deliveries.get(delivery_id)) {
        if settling::settle(state, delivery.delivery_id, delivery.swarm_id, false).await? {
            let swarm = state.swarms.with_groups(delivery.swarm_id, 0).await?;
            state.budgets.write_release(swarm.facts.release_id).await?;
            settling::finish(state, swarm.facts.release_id).await?;
        }
    }
    Ok(())
}

/// The refusals as the terminal is told them.
pub fn as_errors(refused: &[RefusedReceipt]) -> impl Iterator<Item = ApiError> + '_ {
    refused.iter().map(|refused| {
        ApiError::new(ErrorCode::InvalidReceipt)
            .detail(refused.detail.clone())
            .at(format!("/receipts/{}", refused.index), refused.detail.clone())
    })
}
