//! Work with a due time, and events to be sent ([`outgoing`]). Of the first kind: releases open, close, start, go on wave by wave, and end, on whichever instance is free.
//!
//! Each piece may be done twice (an instance that is slow loses its claim and goes on): everything done here finds out what was done before. Pieces of one
//! release are done in their order; after a standstill everything overdue is done at once.

pub mod outgoing;
mod work;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Notify, Semaphore};

use crate::app::duties;
use crate::app::swarm::settling;
use crate::clock;
use crate::state::AppState;
use crate::store::StoreError;

/// The longest sleep: work that another instance has written meanwhile is found within this time.
const SLEEP_MAX: Duration = Duration::from_millis(250);
/// The shortest: another instance may be claiming what is due now.
const SLEEP_MIN: Duration = Duration::from_millis(5);
/// Pieces done at once, so that a large book that is being cleared keeps no other release from opening.
const AT_ONCE: usize = 8;
/// The pause after the database failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How often deliveries are looked for that are complete and were not settled because an instance died.
const LEFT_OVER_EVERY: Duration = Duration::from_secs(10);

/// How often it is asked whether a look at who meets its relay duty is due.
const DUTIES_EVERY: Duration = Duration::from_secs(1);

/// Does due work until the instance stops; what is begun is ended.
pub async fn run(state: AppState) {
    let mut stopping = state.stopping.clone();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    // What was done may be what the next piece has waited for.
    let done = Arc::new(Notify::new());
    let left_over = tokio::spawn(settle_left_over(state.clone()));
    let duties = tokio::spawn(watch_duties(state.clone()));
    while !*stopping.borrow() {
        let pause = match begin_next(&state, &places, &done).await {
            Ok(true) => continue,
            Ok(false) => sleep_for(&state).await,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "due work cannot be read; it is tried again");
                PAUSE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = done.notified() => {}
            _ = stopping.wait_for(|stop| *stop) => break,
        }
    }
    left_over.abort();
    duties.abort();
    // All places free: everything that was begun is done.
    let _ = places.acquire_many(u32::try_from(AT_ONCE).unwrap_or(1)).await;
}

/// Claims one piece of work and begins it; `false` if none is due.
async fn begin_next(state: &AppState, places: &Arc<Semaphore>, done: &Arc<Notify>) -> Result<bool, StoreError> {
    let Ok(place) = Arc::clone(places).acquire_owned().await else { return Ok(false) };
    let Some(claimed) = state.store.claim_work(clock::now()).await? else { return Ok(false) };
    let (state, done) = (state.clone(), Arc::clone(done));
    tokio::spawn(async move {
        work::carry_out(&state, claimed).await;
        drop(place);
        done.notify_one();
    });
    Ok(true)
}

/// Until the next piece is due, within the limits.
async fn sleep_for(state: &AppState) -> Duration {
    let next = state.store.next_work_at().await.ok().flatten();
    next.map_or(SLEEP_MAX, |next| until(next, clock::now()))
}

fn until(next: OffsetDateTime, now: OffsetDateTime) -> Duration {
    Duration::try_from(next - now).unwrap_or(Duration::ZERO).clamp(SLEEP_MIN, SLEEP_MAX)
}

async fn settle_left_over(state: AppState) {
    let mut ticks = tokio::time::interval(LEFT_OVER_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = settling::settle_left_over(&state).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "complete deliveries could not be settled; it is tried again");
        }
    }
}

async fn watch_duties(state: AppState) {
    let mut ticks = tokio::time::interval(DUTIES_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = duties::watch_all(&state).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "nobody could look who meets its relay duty; it is tried again");
        }
    }
}
