//! One message of a terminal: read, authorized, carried out. Each is authorized by itself: what a plan allowed a moment ago may be over.

use std::cell::Cell;
use std::time::Duration;

use protocol::ws::{ClientMessage, MESSAGE_MAX, ServerMessage};
use protocol::{BitsPerSecond, ErrorCode, TerminalId};
use tokio::time::Instant;

use super::audits::Audits;
use super::keys::Keys;
use super::observing::Observed;
use super::outbox::Outbox;
use super::pushes::Links;
use crate::app::swarm::{self, allocation, pairs, planning, receipts};
use crate::clock::{self, to_timestamp_ms};
use crate::error::ApiError;
use crate::state::AppState;

/// The least time between two tellings of everything: it is the one message whose answer is long.
const SYNC_EVERY: Duration = Duration::from_millis(500);

/// Whose messages these are and what answers go into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Desk<'session> {
    pub(super) state: &'session AppState,
    pub(super) outbox: &'session Outbox,
    pub(super) links: &'session Links,
    pub(super) observed: &'session Observed,
    pub(super) keys: &'session Keys,
    pub(super) audits: &'session Audits,
    pub(super) terminal: TerminalId,
    /// When the plans were last asked for.
    pub(super) synced_at: &'session Cell<Option<Instant>>,
}

/// Reads one text.
///
/// # Errors
/// `payload_too_large`, or `malformed_message` with what is wrong.
pub(super) fn read(text: &str) -> Result<ClientMessage, ApiError> {
    if text.len() > MESSAGE_MAX {
        return Err(ApiError::new(ErrorCode::PayloadTooLarge).detail(format!("At most {MESSAGE_MAX} bytes.")));
    }
    serde_json::from_str(text).map_err(|error| ApiError::new(ErrorCode::MalformedMessage).detail(error.to_string()))
}

impl Desk<'_> {
    /// Carries out one message.
    ///
    /// # Errors
    /// Whatever refuses it; nothing was changed then.
    pub(super) async fn handle(&self, message: ClientMessage) -> Result<(), ApiError> {
        let (state, terminal) = (self.state, self.terminal);
        match message {
            ClientMessage::Hello { .. } => {
                Err(ApiError::new(ErrorCode::MalformedMessage).detail("A hello comes once, as the first message."))
            }
            ClientMessage::Clock { sent_at } => {
                self.outbox.send(&ServerMessage::Clock { sent_at, server_time: to_timestamp_ms(clock::now()) });
                Ok(())
            }
            ClientMessage::Credits { swarm_id, open } => {
                allocation::credits(state, &swarm::member(state, swarm_id, terminal).await?, open).await
            }
            ClientMessage::Notices { swarm_id, notices } => {
                allocation::notices(state, &swarm::member(state, swarm_id, terminal).await?, &notices).await
            }
            ClientMessage::Receipts { receipts } => {
                let refused = receipts::take(state, terminal, &receipts).await?;
                receipts::as_errors(&refused).for_each(|error| self.outbox.refuse(&error));
                Ok(())
            }
            ClientMessage::Missing { swarm_id, chunks } => {
                allocation::missing(state, &swarm::member(state, swarm_id, terminal).await?, &chunks).await
            }
            ClientMessage::Holdings { swarm_id, segment, bitmap, last, leases } => {
                let told = allocation::ToldHoldings { segment, bitmap: &bitmap, last, leases: &leases };
                allocation::holdings(state, &swarm::member(state, swarm_id, terminal).await?, &told).await
            }
            ClientMessage::Signal { to, signal } => {
                if !self.links.has(to) {
                    return Err(ApiError::new(ErrorCode::NotInSwarm).at("/to", "no plan links this terminal to that one"));
                }
                pairs::signal(state, terminal, to, signal).await
            }
            ClientMessage::Suspect { swarm_id, terminal_id, reason } => {
                allocation::suspect(state, &swarm::member(state, swarm_id, terminal).await?, terminal_id, reason).await
            }
            ClientMessage::Progress { swarm_id, progress } => {
                let member = swarm::member(state, swarm_id, terminal).await?;
                state.live.set_progress(member.place.delivery_id, &progress).await?;
                note_rates(state, terminal, self.observed.progress(&progress, Instant::now())).await
            }
            ClientMessage::Audited { question, answer } => self.audits.answered(state, terminal, question, answer).await,
            ClientMessage::WantKey { swarm_id } => self.keys.want(state, self.outbox, swarm_id, terminal).await,
            ClientMessage::Holds { editions, whole } => swarm::sources::holds(state, terminal, editions, whole).await,
            ClientMessage::Sync => {
                if self.synced_at.get().is_some_and(|synced_at| synced_at.elapsed() < SYNC_EVERY) {
                    return Err(ApiError::new(ErrorCode::TooManyRequests).detail("The plans were told a moment ago."));
                }
                self.synced_at.set(Some(Instant::now()));
                planning::tell_everything(state, terminal).await.map(|_| ())
            }
        }
    }
}

/// Keeps the highest rates of a window of transfers, if one is over.
pub(super) async fn note_rates(
    state: &AppState,
    terminal: TerminalId,
    highest: Option<(BitsPerSecond, BitsPerSecond)>,
) -> Result<(), ApiError> {
    let Some((up, down)) = highest else { return Ok(()) };
    let store = state.store.clone();
    state.to_the_end(async move { store.note_seen_rates(terminal, up, down, clock::now()).await }).await
}
