//! Contents at any time: a publisher's terms, and downloads as their owners see them. Who serves a download is decided in [`super::swarm::sources`].

use std::collections::BTreeMap;

use protocol::rest::{Download, DownloadState, NewDownload, OnDemand, OnDemandTerms, PriceQuote};
use protocol::units::JSON_INTEGER_MAX;
use protocol::{Amount, Bytes, ContentId, Currency, DownloadId, EditionId, ErrorCode, TerminalId, UserId};
use time::OffsetDateTime;

use super::checks::Checks;
use super::{sealing, swarm};
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::contents::Viewer;
use crate::store::downloads::{DownloadViewer, add_received};
use crate::store::idempotency::{Answer, Idempotency};

/// The longest that a download may take: a week, as for a release.
const LIMIT_MAX: u64 = 7 * 24 * 3600;
/// Which part of a request for a download each refusal of the store is about.
const PARTS: [(ErrorCode, &str); 5] = [
    (ErrorCode::InvalidRequest, "/terminal_id"),
    (ErrorCode::TerminalQuarantined, "/terminal_id"),
    (ErrorCode::UnknownEdition, "/edition_id"),
    (ErrorCode::PriceAboveMaximum, "/maximum"),
    (ErrorCode::InsufficientFunds, "/maximum"),
];

/// # Errors
/// `invalid_request` names what cannot be; else the store's.
pub async fn offer(
    state: &AppState,
    publisher: UserId,
    content: ContentId,
    terms: OnDemandTerms,
    seen: Option<Option<u32>>,
    now: OffsetDateTime,
) -> Result<OnDemand, ApiError> {
    let mut checks = Checks::default();
    check_pricing(&mut checks, &terms, state.config.currency);
    checks.count("/limit_s", terms.limit_s.into(), 1..=LIMIT_MAX);
    checks.count("/origin_budget", terms.origin_budget.0, 0..=JSON_INTEGER_MAX);
    checks.done()?;
    let store = state.store.clone();
    let offered = state.to_the_end(async move { store.set_on_demand(publisher, content, &terms, seen, now).await }).await;
    offered.map_err(|error| error.about(&[(ErrorCode::InvalidRequest, "/tariff_id")]))
}

/// A flat price with both shares, or a tariff and none of them.
fn check_pricing(checks: &mut Checks, terms: &OnDemandTerms, currency: Currency) {
    let stated = [("/price", terms.price.is_some()), ("/relay_share", terms.relay_share.is_some()), ("/fee", terms.fee.is_some())];
    for (pointer, is_stated) in stated {
        let detail = if is_stated { "the tariff says it: leave it out" } else { "needed, unless a tariff_id is given" };
        checks.ensure(is_stated != terms.tariff_id.is_some(), pointer, detail);
    }
    if let Some(price) = terms.price {
        checks.money("/price", price, currency);
    }
}

/// What an edition would cost an own terminal now.
///
/// # Errors
/// `not_found` for a content that the caller cannot see; else the store's.
pub async fn quote(
    state: &AppState,
    content: ContentId,
    edition: EditionId,
    (terminal, user): (TerminalId, UserId),
    now: OffsetDateTime,
) -> Result<PriceQuote, ApiError> {
    state.store.content(content, Viewer::User(user)).await?.ok_or_else(ApiError::not_found)?;
    let parts = [(ErrorCode::InvalidRequest, "query/terminal_id"), (ErrorCode::UnknownEdition, "query/edition_id")];
    state.store.quote(content, edition, (terminal, user), now).await.map_err(|error| ApiError::from(error).about(&parts))
}

/// # Errors
/// The store's.
pub async fn withdraw(state: &AppState, publisher: UserId, content: ContentId, seen: Option<Option<u32>>) -> Result<(), ApiError> {
    let store = state.store.clone();
    state.to_the_end(async move { store.remove_on_demand(publisher, content, seen).await }).await
}

/// Asks for an edition. Its sources are selected at once; whoever reads the download next sees them.
///
/// # Errors
/// `not_found` for a content that the caller cannot see; else the store's.
pub async fn ask(
    state: &AppState,
    content: ContentId,
    new: NewDownload,
    request: Idempotency,
    now: OffsetDateTime,
) -> Result<Answer, ApiError> {
    let mut checks = Checks::default();
    checks.money("/maximum", new.maximum, state.config.currency);
    checks.done()?;
    let viewer = Viewer::User(request.user_id);
    state.store.content(content, viewer).await?.ok_or_else(ApiError::not_found)?;
    sealing::check_released(state, new.edition_id, viewer, now).await?;
    let own = state.clone();
    let asked = async move {
        let answer = own.store.create_download(content, &new, &request, now).await?;
        let download: Download = answer.read()?;
        // The money is held and the download stands. If nobody can be told now, the terminal is when it connects, and asks for more.
        if let Err(error) = swarm::sources::begin(&own, download.swarm_id).await {
            tracing::warn!(download = %download.id, error = &error as &dyn std::error::Error, "sources are selected later");
        }
        Ok::<_, ApiError>(answer)
    };
    state.to_the_end(asked).await.map_err(|error| error.about(&PARTS))
}

/// # Errors
/// `not_found`, or a store fails.
pub async fn read(state: &AppState, id: DownloadId, viewer: DownloadViewer) -> Result<Download, ApiError> {
    let mut download = state.store.download(id, viewer).await?;
    if download.state == DownloadState::Running {
        let received = received(state, &download).await?;
        add_received(&mut download, received, state.store.money(Amount(0)));
    }
    Ok(download)
}

/// Bytes by source, from the receipts that are recorded.
async fn received(state: &AppState, download: &Download) -> Result<BTreeMap<TerminalId, Bytes>, ApiError> {
    let by_source = state.store.received_chunks(download.delivery_id).await?;
    if by_source.is_empty() {
        return Ok(BTreeMap::new());
    }
    let swarm = state.swarms.with_groups(download.swarm_id, 0).await?;
    let length =
        |chunk: u32| usize::try_from(chunk).ok().and_then(|chunk| swarm.chunk_lengths.get(chunk)).map_or(0, |&length| u64::from(length));
    Ok(by_source.into_iter().map(|(source, chunks)| (source, Bytes(chunks.iter().map(length).sum()))).collect())
}

/// What has arrived is paid for, the rest of the hold is released; the sources leave.
///
/// # Errors
/// The store's.
pub async fn cancel(state: &AppState, id: DownloadId, request: Idempotency, now: OffsetDateTime) -> Result<Answer, ApiError> {
    let own = state.clone();
    let cancelled = async move {
        let answer = own.store.cancel_download(id, &request, now).await?;
        // Due as well: another instance does what cannot be done here.
        let release_id = protocol::ReleaseId(id.0);
        if let Err(error) = swarm::on_deadline(&own, release_id).await {
            tracing::warn!(download = %id, error = &error as &dyn std::error::Error, "a cancelled download is settled later");
        }
        Ok::<_, ApiError>(answer)
    };
    state.to_the_end(cancelled).await
}
