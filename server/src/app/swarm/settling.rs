//! Paying for what has arrived: a delivery is settled once, when it is complete or at the deadline, and those concerned are told.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use protocol::rest::DeliveryState;
use protocol::ws::PushMessage;
use protocol::{Amount, DeliveryId, ReleaseId, SwarmId, TerminalId};

use super::{ending, push_all};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::settlement::Settled;

/// Deliveries of one release that are settled at once: more wait for each other's wallets and for the disk, and requests need connections, too.
const SETTLED_AT_ONCE: usize = 6;

pub const SETTLED: &str = "spillway_deliveries_settled_total";

/// Settles a delivery if it is complete, or as far as it came on the `last_call`; `false` if there was nothing to settle.
///
/// # Errors
/// A store fails; nothing was paid, and it is to be called again.
pub async fn settle(state: &AppState, delivery_id: DeliveryId, swarm_id: SwarmId, last_call: bool) -> Result<bool, ApiError> {
    let Some(settled) = settle_now(state, delivery_id, swarm_id, last_call).await? else { return Ok(false) };
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

async fn settle_now(state: &AppState, delivery_id: DeliveryId, swarm_id: SwarmId, last_call: bool) -> Result<Option<Settled>, ApiError> {
    let now = clock::now();
    if last_call {
        // Without the manifest: that it cannot be read is no reason to keep the money of those who received nothing.
        let store = state.store.clone();
        let released = state.to_the_end(async move { store.release_delivery(delivery_id, now).await }).await?;
        if released.is_some() {
            return Ok(released);
        }
    }
    let swarm = state.swarms.with_groups(swarm_id, 0).await?;
    let store = state.store.clone();
    state.to_the_end(async move { store.settle_delivery(delivery_id, &swarm.chunk_lengths, now, last_call).await }).await
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
        ending::after_the_end(state, release_id).await?;
    }
    Ok(())
}

/// Settles deliveries that are complete and were not settled because an instance died in between.
///
/// # Errors
/// A store fails, or a delivery could not be settled; that keeps none of the others from it.
pub async fn settle_left_over(state: &AppState) -> Result<(), ApiError> {
    /// Read at once.
    const ROUND: u32 = 100;
    let (mut swarms, mut outcome, mut after) = (BTreeSet::new(), Ok(()), None);
    loop {
        let round = state.store.unsettled_deliveries(after, ROUND, clock::now()).await?;
        let Some(&(last, _)) = round.last() else { break };
        after = Some(last);
        for (delivery_id, swarm_id) in round {
            match settle(state, delivery_id, swarm_id, false).await {
                Ok(true) => _ = swarms.insert(swarm_id),
                Ok(false) => {}
                Err(error) => outcome = not_settled(delivery_id, error),
            }
        }
    }
    let mut releases = BTreeSet::new();
    for swarm_id in swarms {
        releases.insert(state.store.swarm_facts(swarm_id).await?.release_id);
    }
    for release_id in releases {
        if let Err(error) = finish(state, release_id).await {
            outcome = Err(error);
        }
    }
    outcome
}

/// Settles everything of a release that is pending, as far as it came.
///
/// # Errors
/// A store fails, or a delivery could not be settled; that keeps none of the others from it.
pub(super) async fn settle_all(state: &AppState, release_id: ReleaseId) -> Result<(), ApiError> {
    /// Read at once; the largest release has many more.
    const ROUND: u32 = 1_000;
    let (mut outcome, mut after) = (Ok(()), None);
    loop {
        let round = state.store.pending_deliveries(release_id, after, ROUND).await?;
        let Some(&(last, _)) = round.last() else { return outcome };
        after = Some(last);
        let settling = round.into_iter().map(|(delivery_id, swarm_id)| async move {
            settle(state, delivery_id, swarm_id, true).await.err().map(|error| (delivery_id, error))
        });
        let mut settling = futures_util::stream::iter(settling).buffer_unordered(SETTLED_AT_ONCE);
        while let Some(failed) = settling.next().await {
            if let Some((delivery_id, error)) = failed {
                outcome = not_settled(delivery_id, error);
            }
        }
    }
}

/// The caller goes on with the others, so only the last error is reported; each is written down.
fn not_settled(delivery_id: DeliveryId, error: ApiError) -> Result<(), ApiError> {
    tracing::warn!(error = &error as &dyn std::error::Error, %delivery_id, "a delivery could not be settled");
    Err(error)
}
