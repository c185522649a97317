//! Receipts as they come in: read, checked against their signatures, recorded in one transaction a message, and settled when a delivery is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::receipt::Receipt;
use protocol::ws::RECEIPTS_MAX;
use protocol::{DeliveryId, ErrorCode, TerminalId};

use super::crediting::{Judgement, Refusal, is_news, judge};
use super::known::KnownSwarm;
use super::{allocation, settling};
use crate::clock;
use crate::error::ApiError;
use crate::live::Sender;
use crate::state::AppState;
use crate::store::receipts::{ReceivedDelivery, Recorded};

/// A receipt by its place in the message.
type Placed = (usize, Receipt);

/// A receipt that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedReceipt {
    /// Its place in the message.
    pub index: usize,
    pub detail: String,
}

impl RefusedReceipt {
    fn new(index: usize, why: Refusal) -> Self {
        Self { index, detail: format!("{why}.") }
    }
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
    let recorded = Recorded { receipts: state.store.recorded_receipts(&segments(&receipts)).await?, deliveries };
    // Whoever recorded the last receipt may have died before it settled.
    let mut complete: BTreeSet<DeliveryId> = receipts.iter().map(|(_, receipt)| receipt.body.delivery_id).collect();
    complete.retain(|delivery_id| recorded.deliveries.get(delivery_id).is_some_and(ReceivedDelivery::awaits_settlement));
    let receipts = keep_news(receipts, &recorded, &mut refused);
    let receipts = check_signatures(receipts, &recorded.deliveries, &mut refused).await?;
    if !receipts.is_empty() {
        let judgement = record(state, &receipts, &recorded.deliveries).await?;
        refused.extend(judgement.refused.iter().map(|&(index, why)| RefusedReceipt::new(index, why)));
        report(from, &judgement);
        tell_holdings(state, &judgement, &recorded.deliveries).await?;
        complete.extend(&judgement.complete);
    }
    settle_complete(state, &complete, &recorded.deliveries).await?;
    refused.sort_by_key(|refused| refused.index);
    Ok(refused)
}

/// Tells the lease tables what was signed for: its receivers hold it, so that it is not given again as a first copy, should a lease of it come back.
/// What Redis does not learn costs a chunk that is sent twice, and no receipt.
async fn tell_holdings(
    state: &AppState,
    judgement: &Judgement,
    deliveries: &BTreeMap<DeliveryId, ReceivedDelivery>,
) -> Result<(), ApiError> {
    for (delivery_id, chunks) in &judgement.fresh {
        let Some(delivery) = deliveries.get(delivery_id) else { continue };
        let Some(swarm) = state.swarms.with_member(delivery.swarm_id, delivery.receiver).await? else { continue };
        let Some(place) = swarm.place(delivery.receiver) else { continue };
        let sender = Sender { group: place.group_id, terminal: delivery.receiver, limits: allocation::limits(state) };
        if let Err(error) = state.live.signed(sender, chunks.iter().copied(), true, clock::now()).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the lease table did not learn of receipts");
        }
    }
    Ok(())
}

fn report(from: TerminalId, judgement: &Judgement) {
    if judgement.contested > 0 {
        metrics::counter!("spillway_contested_chunks_total").increment(judgement.contested.into());
        tracing::warn!(%from, chunks = judgement.contested, "chunks were signed for two sources; the first one is paid");
    }
    if judgement.contradictions > 0 {
        tracing::warn!(%from, receipts = judgement.contradictions, "receipts contradict what was signed before; all of it counts");
    }
}

fn segments(receipts: &[Placed]) -> BTreeSet<(DeliveryId, u32)> {
    receipts.iter().map(|(_, receipt)| (receipt.body.delivery_id, receipt.body.segment)).collect()
}

fn refuse(refused: &mut Vec<RefusedReceipt>, index: usize, detail: &str) {
    refused.push(RefusedReceipt { index, detail: detail.to_owned() });
}

fn read(from: TerminalId, encoded: &[String], refused: &mut Vec<RefusedReceipt>) -> Vec<Placed> {
    let mut receipts = Vec::with_capacity(encoded.len());
    for (index, text) in encoded.iter().enumerate() {
        let receipt = BASE64_STANDARD.decode(text).ok().and_then(|bytes| Receipt::unpack(&bytes).ok());
        match receipt {
            Some(receipt) if receipt.body.receiver == from || receipt.body.source == from => receipts.push((index, receipt)),
            Some(_) => refuse(refused, index, "This terminal is neither the receiver nor the source."),
            None => refuse(refused, index, "This is no base64 of a receipt."),
        }
    }
    receipts
}

/// Keeps receipts that name a planned delivery's own receiver, and as the source the origin, a terminal that the plan pairs with the receiver, or the
/// receiver itself for what nobody had to send: it had that from another edition, or it repeats another chunk.
async fn check_parties(
    state: &AppState,
    receipts: Vec<Placed>,
    deliveries: &BTreeMap<DeliveryId, ReceivedDelivery>,
    refused: &mut Vec<RefusedReceipt>,
) -> Result<Vec<Placed>, ApiError> {
    let now = clock::now();
    let mut peers: BTreeMap<DeliveryId, BTreeSet<TerminalId>> = BTreeMap::new();
    let mut kept = Vec::with_capacity(receipts.len());
    for (index, receipt) in receipts {
        let body = &receipt.body;
        let Some(delivery) = deliveries.get(&body.delivery_id).filter(|delivery| delivery.receiver == body.receiver) else {
            refuse(refused, index, "The receiver has no such delivery.");
            continue;
        };
        let known = state.swarms.with_member(delivery.swarm_id, body.receiver).await?;
        let Some(known) = known.filter(|swarm| swarm.place(body.receiver).is_some_and(|place| place.opens_at <= now)) else {
            refuse(refused, index, "The receiver's wave has not opened.");
            continue;
        };
        if body.source == body.receiver {
            kept.push((index, receipt));
            continue;
        }
        let paired = peers.entry(body.delivery_id).or_insert_with(|| known.paired(body.receiver));
        if !body.source.is_origin() && !paired.contains(&body.source) {
            // The plan at hand may be without the wave of the source. A pair that it has is never unplanned.
            if let Some(grown) = state.swarms.with_member(delivery.swarm_id, body.source).await? {
                *paired = grown.paired(body.receiver);
            }
        }
        if body.source.is_origin() || paired.contains(&body.source) {
            kept.push((index, receipt));
        } else {
            refuse(refused, index, "The source is neither the origin nor a terminal that the plan pairs with the receiver.");
        }
    }
    Ok(kept)
}

/// Keeps receipts that say something new, so that repeating a message costs no signature checks. One of a delivery that is over is dropped as well.
fn keep_news(receipts: Vec<Placed>, recorded: &Recorded, refused: &mut Vec<RefusedReceipt>) -> Vec<Placed> {
    let mut kept = Vec::with_capacity(receipts.len());
    for (index, receipt) in receipts {
        match is_news(recorded, &receipt) {
            Ok(true) => kept.push((index, receipt)),
            Ok(false) => {}
            Err(why) => refused.push(RefusedReceipt::new(index, why)),
        }
    }
    kept
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
    let segments = segments(receipts);
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
    complete: &BTreeSet<DeliveryId>,
    deliveries: &BTreeMap<DeliveryId, ReceivedDelivery>,
) -> Result<(), ApiError> {
    for delivery in complete.iter().filter_map(|delivery_id| deliveries.get(delivery_id)) {
        if settling::settle(state, delivery.delivery_id, delivery.swarm_id, false).await? {
            let swarm = state.swarms.with_groups(delivery.swarm_id, 0).await?;
            state.budgets.write_budget(swarm.facts.budget_id).await?;
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
