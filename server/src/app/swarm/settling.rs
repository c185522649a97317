//! Paying for what has arrived: a delivery is settled once, when it is complete or at the deadline, and those concerned are told.

use std::collections::BTreeSet;

use protocol::rest::DeliveryState;
use protocol::ws::PushMessage;
use protocol::{Amount, DeliveryId, ReleaseId, SwarmId, TerminalId};

use super::{ending, push_all};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::settlement::Settled;

pub const SETTLED: &str = "spillway_deliveries_settled_total";

/// Settles a delivery if it is complete, or as far as it came on the `last_call`; `false` if there was nothing to settle.
///
/// # Errors
/// A store fails; nothing was paid, and it is to be called again.
pub async fn settle(state: &AppState, delivery_id: DeliveryId, swarm_id: SwarmId, last_call: bool) -> Result<bool, ApiError> {
    let swarm = state.swarms.with_groups(swarm_id, 0).await?;
    let (store, now) = (state.store.clone(), clock::now());
    let settling = async move { store.settle_delivery(delivery_id, &swarm.chunk_lengths, now, last_call).await };
    let Some(settled) = state.to_the_end(settling).await? else { return Ok(false) };
    let outcome = match settled.state {
        DeliveryState::Settled if settled.complete => "complete",
        DeliveryState::Settled => "partial",
        DeliveryState::Released | DeliveryState::Pending => "released",
    };
    metrics::counter!(SETTLED, "outcome" => outcome).increment(1);
    tracing::info!(%delivery_id, %swarm_id, charged = settled.charged.0, outcome, "settled");
    // The money is where it belongs; that somebody was not told is no reason to say that settling failed.
    if let Err(error) = tell(state, &settled).await {
        tracing::warn!(error = &error as &dyn std::error::Error, %delivery_id, "a settlement could not be told; the terminal asks when it is back");
    }
    Ok(true)
}

/// Tells the receiver what it paid, and each relay what it has earned in the swarm by now.
async fn tell(state: &AppState, settled: &Settled) -> Result<(), ApiError> {
    let sources: BTreeSet<TerminalId> = settled.shares.iter().map(|share| share.source).filter(|source| !source.is_origin()).collect();
    let mut concerned: Vec<TerminalId> = sources.iter().copied().collect();
    concerned.push(settled.terminal_id);
    let earned = state.store.earned_in(settled.swarm_id, &concerned).await?;
    let earned = |terminal| earned.get(&terminal).copied().unwrap_or(Amount(0));
    let Settled { swarm_id, delivery_id, charged, terminal_id, .. } = *settled;
    let mut messages = vec![(terminal_id, PushMessage::Settled { swarm_id, delivery_id, charged, earned: earned(terminal_id) })];
    messages.extend(sources.into_iter().map(|source| (source, PushMessage::Earned { swarm_id, earned: earned(source) })));
    Ok(push_all(state, messages).await?)
}

/// Ends the release if no delivery of it is pending.
///
/// # Errors
/// A store fails; it is to be called again.
pub async fn finish(state: &AppState, release_id: ReleaseId) -> Result<(), ApiError> {
    let (store, now) = (state.store.clone(), clock::now());
    if state.to_the_end(async move { store.finish_release(release_id, now).await }).await? {
        tracing::info!(%release_id, "the release is settled");
        ending::after_the_end(state, release_id, protocol::ws::LeaveReason::Settled).await?;
    }
    Ok(())
}

/// Settles deliveries that are complete and were not settled because an instance died in between.
///
/// # Errors
/// A store fails.
pub async fn settle_left_over(state: &AppState) -> Result<(), ApiError> {
    /// At once; the next round takes the rest.
    const ROUND: u32 = 100;
    let mut releases = BTreeSet::new();
    for (delivery_id, swarm_id) in state.store.unsettled_deliveries(ROUND).await? {
        if settle(state, delivery_id, swarm_id, false).await? {
            releases.insert(state.swarms.with_groups(swarm_id, 0).await?.facts.release_id);
        }
    }
    for release_id in releases {
        finish(state, release_id).await?;
    }
    Ok(())
}
