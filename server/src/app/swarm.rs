//! Swarms: the plan of a release's editions, who is given which chunk, receipts, and what is paid on them.
//!
//! Flow: closing → [`planning::on_closed`] plans and pushes wave 0 → each wave's opening ([`planning::on_wave`]) → members ask for chunks and tell what
//! became of them ([`allocation`]) → receipts ([`receipts`]) → a delivery that is complete is settled ([`settling`]) → the deadline
//! ([`ending::on_deadline`]). A download is a swarm of its receiver and its sources ([`sources`]). All of it may run twice, on two instances, or again after a crash: what was done is found done.

pub mod allocation;
mod crediting;
pub mod ending;
pub mod known;
pub mod pairs;
pub mod planning;
pub mod receipts;
pub mod reselections;
pub mod settling;
mod shelf;
pub mod sources;
pub mod swarms;

#[cfg(test)]
pub(crate) mod tests;

use protocol::ws::PushMessage;
use protocol::{ErrorCode, SwarmId, TerminalId};

pub use ending::{on_cancelled, on_deadline};
pub use known::{KnownSwarm, Place};
pub use planning::{on_closed, on_wave};
pub use reselections::Reselections;
pub use swarms::Swarms;

use crate::clock;
use crate::error::ApiError;
use crate::live::LiveError;
use crate::state::AppState;

/// How many pushes are under way at once when many terminals are told something: Redis answers them in one stream, so more would only queue.
const PUSHES_AT_ONCE: usize = 32;

/// A planned member that speaks.
#[derive(Debug, Clone)]
pub struct Member {
    pub terminal: TerminalId,
    pub swarm: std::sync::Arc<KnownSwarm>,
    pub place: Place,
}

/// The member that `terminal` is of a swarm.
///
/// # Errors
/// `not_in_swarm`, also for a swarm that does not exist: who is no member learns nothing about it.
pub async fn member(state: &AppState, swarm_id: SwarmId, terminal: TerminalId) -> Result<Member, ApiError> {
    let swarm = state.swarms.with_member(swarm_id, terminal).await?;
    let swarm = swarm.ok_or_else(|| ApiError::new(ErrorCode::NotInSwarm))?;
    let place = swarm.place(terminal).ok_or_else(|| ApiError::new(ErrorCode::NotInSwarm))?;
    Ok(Member { terminal, swarm, place })
}

impl Member {
    /// Whether bytes may move for this member now.
    ///
    /// # Errors
    /// `no_lease` before the wave opens and after the deadline.
    pub fn check_open(&self, now: time::OffsetDateTime) -> Result<(), ApiError> {
        if now < self.place.opens_at {
            return Err(ApiError::new(ErrorCode::NoLease).detail("The wave of this terminal has not opened."));
        }
        if now >= self.swarm.facts.deadline_at {
            return Err(ApiError::new(ErrorCode::NoLease).detail("The deadline of the release is over."));
        }
        Ok(())
    }

    /// Whether all of these are chunks of the edition.
    ///
    /// # Errors
    /// `invalid_request` names the first one that is not.
    pub fn check_chunks(&self, pointer: &str, chunks: impl IntoIterator<Item = u32>) -> Result<(), ApiError> {
        let count = self.swarm.chunk_count();
        match chunks.into_iter().position(|chunk| chunk >= count) {
            Some(index) => Err(ApiError::invalid(format!("{pointer}/{index}"), format!("the edition has {count} chunks"))),
            None => Ok(()),
        }
    }
}

/// Pushes one message to each of many terminals. Every one is tried; the first failure is reported.
pub(crate) async fn push_all(state: &AppState, messages: Vec<(TerminalId, PushMessage)>) -> Result<(), LiveError> {
    use futures_util::StreamExt;
    let now = clock::now();
    let pushes = messages.into_iter().map(|(terminal, message)| async move { state.live.push(terminal, &message, now).await });
    let results: Vec<Result<(), LiveError>> = futures_util::stream::iter(pushes).buffer_unordered(PUSHES_AT_ONCE).collect().await;
    results.into_iter().collect()
}
