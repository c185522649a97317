//! One piece of due work.

use std::time::Duration;

use protocol::ReleaseId;

use crate::app::{sealing, swarm};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::due_work::{CLAIM_FOR, Work, WorkKind};

/// The pause after the first failure; it doubles with each further one up to [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_millis(250);
const AGAIN_MAX: Duration = Duration::from_secs(30);

const DONE: &str = "spillway_due_work_total";

/// Does the work, keeps its claim meanwhile, and writes down how it went.
pub(super) async fn carry_out(state: &AppState, work: Work) {
    let doing = state.clone();
    let mut task = tokio::spawn(async move { act(&doing, work.kind, work.release_id).await });
    let renew_every = Duration::try_from(CLAIM_FOR / 3).unwrap_or(AGAIN);
    let outcome = loop {
        tokio::select! {
            outcome = &mut task => break outcome,
            () = tokio::time::sleep(renew_every) => {
                if let Err(error) = state.store.renew_work(&work, clock::now()).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a claim could not be renewed");
                }
            }
        }
    };
    let failure = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error}{}", cause_of(&error))),
        Err(panic) => Some(panic.to_string()),
    };
    metrics::counter!(DONE, "outcome" => if failure.is_none() { "done" } else { "failed" }).increment(1);
    let written = match &failure {
        None => {
            tracing::info!(release_id = %work.release_id, kind = ?work.kind, attempts = work.attempts, "done");
            state.store.finish_work(&work, clock::now()).await
        }
        Some(error) => {
            tracing::error!(release_id = %work.release_id, kind = ?work.kind, attempts = work.attempts, error, "due work failed; it is tried again");
            state.store.postpone_work(&work, clock::now() + pause_after(work.attempts), error).await
        }
    };
    if let Err(error) = written {
        tracing::warn!(error = &error as &dyn std::error::Error, "how due work went could not be written; it is done again");
    }
}

fn pause_after(attempts: u32) -> Duration {
    AGAIN.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(AGAIN_MAX)
}

fn cause_of(error: &ApiError) -> String {
    let mut chain = String::new();
    let mut next = error.cause().map(|cause| cause as &dyn std::error::Error);
    while let Some(cause) = next {
        chain.push_str(": ");
        chain.push_str(&cause.to_string());
        next = cause.source();
    }
    chain
}

async fn act(state: &AppState, kind: WorkKind, release_id: ReleaseId) -> Result<(), ApiError> {
    let now = clock::now();
    match kind {
        WorkKind::Open => {
            state.store.open_release(release_id, now).await?;
            Ok(())
        }
        WorkKind::Close => {
            let closing = state.store.close_release(release_id, now).await?;
            tracing::info!(%release_id, ?closing, "closed");
            swarm::on_closed(state, release_id).await
        }
        WorkKind::Seal => sealing::seal(state, release_id).await,
        WorkKind::Wave(wave) => swarm::on_wave(state, release_id, wave).await,
        WorkKind::Deadline => swarm::on_deadline(state, release_id).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_work_is_tried_again_soon_and_then_ever_more_seldom() {
        assert_eq!(pause_after(1), AGAIN);
        assert_eq!(pause_after(2), 2 * AGAIN);
        assert_eq!(pause_after(u32::MAX), AGAIN_MAX);
        assert!((1..40).is_sorted_by_key(pause_after));
    }
}
