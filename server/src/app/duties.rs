//! Watching relay duties: a look at who is connected every few seconds, on whichever instance is free, and the end of duties whose time is over.
//!
//! Redis says who is connected. While it or every instance is away nobody looks, and nothing counts as missed ([`rules::duty`]).

use std::collections::BTreeSet;

use protocol::TerminalId;
use rules::duty::Presence;
use time::{Duration, OffsetDateTime};

use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::duties::{DutyWatch, OpenDuty};

/// Between two looks at one release: what an absence may be longer than it is counted.
pub const LOOK_EVERY: Duration = Duration::seconds(5);
/// Duties that are read, asked about and written at once; the largest release has many more.
const ROUND: u32 = 1_000;

const ENDED: &str = "spillway_relay_duties_ended_total";

/// Takes every look that is due.
///
/// # Errors
/// A store fails; what was not looked at is looked at again.
pub async fn watch_all(state: &AppState) -> Result<(), ApiError> {
    while let Some(watch) = state.store.claim_duty_watch(clock::now()).await? {
        look(state, &watch, clock::now()).await?;
    }
    Ok(())
}

/// Looks at one release as of `now`, and ends the duties that are due.
async fn look(state: &AppState, watch: &DutyWatch, now: OffsetDateTime) -> Result<(), ApiError> {
    let mut after = None;
    loop {
        let duties = state.store.open_duties(watch.release_id, after, ROUND).await?;
        let Some(last) = duties.last() else { break };
        after = Some(last.delivery_id);
        let terminals: Vec<TerminalId> = duties.iter().map(|duty| duty.terminal_id).collect();
        let connected: BTreeSet<TerminalId> = state.live.connected(&terminals).await?.into_iter().collect();
        let seen: Vec<(OpenDuty, Presence)> = duties
            .iter()
            .map(|duty| (*duty, duty.presence.after(watch.look(now), &duty.duty, connected.contains(&duty.terminal_id))))
            .filter(|(duty, presence)| duty.presence != *presence)
            .collect();
        if !seen.is_empty() {
            state.store.write_presences(&seen).await?;
        }
        for duty in duties.iter().filter(|duty| duty.is_due(watch.state, now)) {
            end(state, duty, now).await?;
        }
    }
    Ok(state.store.finish_look(watch.release_id, now, now + LOOK_EVERY).await?)
}

async fn end(state: &AppState, duty: &OpenDuty, now: OffsetDateTime) -> Result<(), ApiError> {
    let (store, delivery_id) = (state.store.clone(), duty.delivery_id);
    let ended = state.to_the_end(async move { store.end_duty(delivery_id, now).await }).await?;
    if let Some(outcome) = ended {
        metrics::counter!(ENDED, "outcome" => if outcome.missed_ms == 0 { "met" } else { "missed" }).increment(1);
        tracing::info!(%delivery_id, missed_ms = outcome.missed_ms, forfeited = outcome.forfeited.0, "a relay duty has ended");
    }
    Ok(())
}
