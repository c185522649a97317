//! Applications to a release: made, changed and taken back by their owners.

use protocol::rest::{ChangeApplication, NewApplication};
use protocol::{ApplicationId, ErrorCode, ReleaseId};
use time::OffsetDateTime;

use super::checks::Checks;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::idempotency::{Answer, Idempotency};

/// Which part of an application each refusal of the store is about.
const PARTS: [(ErrorCode, &str); 6] = [
    (ErrorCode::InvalidRequest, "/terminal_id"),
    (ErrorCode::TerminalQuarantined, "/terminal_id"),
    (ErrorCode::UnknownEdition, "/edition_id"),
    (ErrorCode::UnknownRank, "/rank"),
    (ErrorCode::BelowReserve, "/maximum"),
    (ErrorCode::InsufficientFunds, "/maximum"),
];

pub async fn apply(
    state: &AppState,
    release: ReleaseId,
    new: NewApplication,
    request: Idempotency,
    now: OffsetDateTime,
) -> Result<Answer, ApiError> {
    let mut checks = Checks::default();
    checks.money("/maximum", new.maximum, state.config.currency);
    checks.ensure(new.rank >= 1, "/rank", "the best rank is 1");
    checks.done()?;
    let store = state.store.clone();
    state.to_the_end(async move { store.apply(release, &new, &request, now).await }).await.map_err(|error| error.about(&PARTS))
}

/// `version` is the one that the client has seen; none stands for whichever it is.
pub async fn change(
    state: &AppState,
    id: ApplicationId,
    version: Option<u32>,
    change: ChangeApplication,
    request: Idempotency,
    now: OffsetDateTime,
) -> Result<Answer, ApiError> {
    let mut checks = Checks::default();
    checks.money("/maximum", change.maximum, state.config.currency);
    checks.ensure(change.rank >= 1, "/rank", "the best rank is 1");
    checks.done()?;
    let version = match version {
        Some(version) => version,
        None => state.store.application(id, request.user_id).await?.version,
    };
    let store = state.store.clone();
    state
        .to_the_end(async move { store.change_application(id, version, &change, &request, now).await })
        .await
        .map_err(|error| error.about(&PARTS[2..]))
}

pub async fn withdraw(state: &AppState, id: ApplicationId, request: Idempotency, now: OffsetDateTime) -> Result<Answer, ApiError> {
    let store = state.store.clone();
    state.to_the_end(async move { store.withdraw_application(id, &request, now).await }).await
}
