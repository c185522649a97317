//! Measuring a terminal's line against this server: who may, when, and what is kept.
//!
//! A measurement never counts against a release's budget, and gives way to releases: it is refused while one's first copies need the origin's line, and what
//! it sends stands in the same line as chunks ([`crate::origin::pace`]).

use std::time::Duration;

use protocol::rest::{CommunicationState, Measurement};
use protocol::{ErrorCode, TerminalId, UserId};
use time::OffsetDateTime;

use crate::error::ApiError;
use crate::state::AppState;

/// Exchanges that a terminal may make, and the window they are counted in: two whole measurements.
const EXCHANGES_MAX: u64 = 16;
const EXCHANGES_WINDOW: Duration = Duration::from_secs(60);
/// How long an exchange may take; what is slower than that is measured with fewer bytes.
pub const EXCHANGE_WITHIN: Duration = Duration::from_secs(10);
/// When a terminal that was refused may try again.
const TRY_AGAIN_S: u32 = 30;

/// Lets an exchange of an own terminal begin.
///
/// # Errors
/// `not_found` for a terminal that is not the caller's, `too_many_requests`, `unavailable` while a release needs the line, or a store fails.
pub async fn admit(state: &AppState, owner: UserId, terminal: TerminalId, now: OffsetDateTime) -> Result<(), ApiError> {
    own(state, owner, terminal).await?;
    let usage = state.live.count_use("measurement", &terminal.to_string(), EXCHANGES_WINDOW).await?;
    if usage.count > EXCHANGES_MAX {
        let seconds = u32::try_from(usage.resets_in.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
        let detail = format!("At most {EXCHANGES_MAX} exchanges a minute.");
        return Err(ApiError::new(ErrorCode::TooManyRequests).detail(detail).retry_after(seconds));
    }
    if state.store.first_copies_are_due(now, EXCHANGE_WITHIN).await? {
        let detail = "A release needs the origin's line now; measure when it has been sent.";
        return Err(ApiError::new(ErrorCode::Unavailable).detail(detail).retry_after(TRY_AGAIN_S));
    }
    Ok(())
}

async fn own(state: &AppState, owner: UserId, terminal: TerminalId) -> Result<(), ApiError> {
    let found = state.store.terminal(terminal).await?.filter(|found| found.owner == owner);
    found.map(|_| ()).ok_or_else(ApiError::not_found)
}

/// Keeps what an own terminal has measured.
///
/// # Errors
/// `not_found` for a terminal that is not the caller's, or a store fails.
pub async fn record(
    state: &AppState,
    owner: UserId,
    terminal: TerminalId,
    measured: Measurement,
    now: OffsetDateTime,
) -> Result<CommunicationState, ApiError> {
    own(state, owner, terminal).await?;
    let store = state.store.clone();
    state.to_the_end(async move { store.set_measurement(terminal, &measured, now).await }).await?;
    known(state, owner, terminal).await
}

/// What is known of how an own terminal communicates.
///
/// # Errors
/// `not_found` for a terminal that is not the caller's or of which nothing is known, or a store fails.
pub async fn known(state: &AppState, owner: UserId, terminal: TerminalId) -> Result<CommunicationState, ApiError> {
    own(state, owner, terminal).await?;
    state.store.communication_state(terminal).await?.ok_or_else(ApiError::not_found)
}
