//! Events on their way to owners' webhooks: claimed, sent, recorded, for as long as the instance runs.
//!
//! Each is sent at least once, and in no promised order. Whoever dies while sending loses the claim when it ends, and another instance sends; whoever is
//! stopped gives its claims back.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use protocol::rest::{Event, WebhookFailure};
use time::OffsetDateTime;
use tokio::task::{Id, JoinSet};
use uuid::Uuid;

use crate::app::webhooks::secret_of;
use crate::clock;
use crate::error::ApiError;
use crate::metrics::{WEBHOOK_ATTEMPTS, WEBHOOK_DEAD, WEBHOOK_OLDEST_DUE, WEBHOOK_PENDING};
use crate::state::AppState;
use crate::store::StoreError;
use crate::store::sending::{ClaimLimits, Claimed, Recorded};
use crate::webhooks::schedule::after_failure;
use crate::webhooks::sender::{Failed, Message};

/// Attempts at once: with receivers that take all the time they may, two a second; with usual ones some hundred.
pub const AT_ONCE: usize = 32;
/// Attempts at once for one owner, so that eight whose receivers are slow are needed to hold up the others.
pub const PER_OWNER: u32 = 4;
/// Between two looks into an outbox that had nothing.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How much longer a claim holds than an attempt takes, for writing down how it went.
const LEASE_MORE: Duration = Duration::from_secs(30);
/// How long attempts may go on at a stop.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// The pause after the database failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the outbox is swept and counted.
const TEND_EVERY: Duration = Duration::from_secs(10);

/// The attempts that run, and under which claim.
#[derive(Debug, Default)]
struct Flights {
    running: JoinSet<()>,
    claims: HashMap<Id, Uuid>,
}

impl Flights {
    fn begin(&mut self, state: &AppState, event: Claimed) {
        let (state, claim) = (state.clone(), event.claim);
        let task = self.running.spawn(async move { attempt(&state, event).await });
        self.claims.insert(task.id(), claim);
    }

    /// Waits until one has ended; for ever if none runs.
    async fn ended(&mut self) {
        match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => drop(self.claims.remove(&id)),
            Some(Err(error)) => {
                self.claims.remove(&error.id());
                tracing::error!(%error, "an attempt to send an event did not end well; it is sent again when its claim ends");
            }
            None => std::future::pending().await,
        }
    }

    /// Lets those end that do in a moment, and gives the claims of the others back.
    async fn stop(mut self, state: &AppState) {
        let all_ended = async {
            while !self.running.is_empty() {
                self.ended().await;
            }
        };
        if tokio::time::timeout(STOP_GRACE, all_ended).await.is_ok() {
            return;
        }
        self.running.shutdown().await;
        let claims: Vec<Uuid> = self.claims.into_values().collect();
        let (store, now) = (state.store.clone(), clock::now());
        if let Err(error) = state.to_the_end(async move { store.release_events(&claims, now).await }).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "claims of events were not given back; they end by themselves");
        }
    }
}

/// Sends until the instance stops.
pub async fn run(state: AppState) {
    let mut stopping = state.stopping.clone();
    let tending = tokio::spawn(tend(state.clone()));
    let mut flights = Flights::default();
    while !*stopping.borrow() {
        let pause = match begin_due(&state, &mut flights).await {
            Ok(true) => continue,
            Ok(false) => LOOK_EVERY,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "events cannot be claimed; it is tried again");
                PAUSE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = flights.ended() => {}
            _ = stopping.wait_for(|stop| *stop) => break,
        }
    }
    tending.abort();
    flights.stop(&state).await;
}

/// Claims what is due, as far as there is room, and begins to send it; `false` if there was nothing or no room.
async fn begin_due(state: &AppState, flights: &mut Flights) -> Result<bool, ApiError> {
    let room = u32::try_from(AT_ONCE.saturating_sub(flights.running.len())).unwrap_or(0);
    if room == 0 {
        return Ok(false);
    }
    let lease = state.webhooks.attempt_max() + LEASE_MORE;
    let limits = ClaimLimits { all: room, per_owner: PER_OWNER, lease: time::Duration::try_from(lease).map_err(ApiError::internal)? };
    let (store, now) = (state.store.clone(), clock::now());
    let claimed = state.to_the_end(async move { store.claim_events(limits, now).await }).await?;
    let any = !claimed.is_empty();
    claimed.into_iter().for_each(|event| flights.begin(state, event));
    Ok(any)
}

/// One attempt, and how it went written down.
async fn attempt(state: &AppState, event: Claimed) {
    let sent = send(state, &event).await;
    let outcome = sent.as_ref().map_or_else(|failed| failed.failure.as_str(), |_| "delivered");
    metrics::counter!(WEBHOOK_ATTEMPTS, "outcome" => outcome).increment(1);
    let written = state.to_the_end(record(state.clone(), event, sent)).await;
    if let Err(error) = written {
        tracing::warn!(error = &error as &dyn std::error::Error, "how an event was sent could not be written; it is sent again");
    }
}

async fn send(state: &AppState, event: &Claimed) -> Result<u16, Failed> {
    let secrets: Option<Vec<_>> = event.secrets.iter().map(|wrapped| secret_of(state, event.webhook_id, wrapped)).collect();
    let body = serde_json::to_vec(&Event { kind: event.kind, timestamp: event.occurred_at, data: event.data.clone() });
    let (Some(secrets), Ok(body)) = (secrets, body) else {
        tracing::error!(webhook_id = %event.webhook_id, "a webhook's secret cannot be read: is this the key file that wrapped it?");
        return Err(Failed::by(WebhookFailure::Secret));
    };
    let timestamp = clock::now().unix_timestamp();
    state.webhooks.send(Message { url: &event.url, id: event.event_id.to_string(), body, secrets: &secrets, timestamp }).await
}

async fn record(state: AppState, event: Claimed, sent: Result<u16, Failed>) -> Result<(), StoreError> {
    let now = clock::now();
    let failed = match sent {
        Ok(status) => return state.store.event_delivered(&event, status, now).await,
        Err(failed) => failed,
    };
    let mut draw = [0];
    // Without randomness the pause is the shortest one.
    let _ = getrandom::fill(&mut draw);
    let next = after_failure(event.attempts + 1, failed.status, draw[0]);
    if let Recorded::Counted { disabled: Some(reason) } = state.store.event_failed(&event, failed, next, now).await? {
        tracing::info!(webhook_id = %event.webhook_id, ?reason, "a webhook is disabled");
    }
    Ok(())
}

/// Sweeps the outbox and counts what is in it, for ever.
async fn tend(state: AppState) {
    let mut ticks = tokio::time::interval(TEND_EVERY);
    loop {
        ticks.tick().await;
        let tended = async {
            while state.store.sweep_outbox(clock::now()).await? > 0 {}
            count(&state, clock::now()).await
        };
        if let Err(error) = tended.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the outbox could not be swept; it is tried again");
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float; counts of events stay far below 2^53")]
async fn count(state: &AppState, now: OffsetDateTime) -> Result<(), StoreError> {
    let figures = state.store.outbox_figures(now).await?;
    let age = figures.oldest_due.map_or(0.0, |due| (now - due).as_seconds_f64().max(0.0));
    metrics::gauge!(WEBHOOK_PENDING).set(figures.pending as f64);
    metrics::gauge!(WEBHOOK_DEAD).set(figures.dead as f64);
    metrics::gauge!(WEBHOOK_OLDEST_DUE).set(age);
    Ok(())
}
