//! `/v1/swarms/{swarm_id}/chunks/{index}`: the origin's payload, to who holds a lease and within the budget.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use protocol::{ErrorCode, SwarmId, TerminalId};
use serde::Deserialize;
use tokio::time::Instant;

use super::refusals::{Conflict, NotFound, TooMany};
use crate::app::sealing;
use crate::app::swarm::{self, Member, allocation};
use crate::auth::Caller;
use crate::clock;
use crate::error::ApiError;
use crate::live::{Budget, FetchRight, Sender, Table};
use crate::metrics::MANIFEST_BYTES;
use crate::origin::budget::Taken;
use crate::origin::pace::PIECE;
use crate::state::AppState;
use crate::store::budget::Purpose;

/// Names the terminal that fetches.
pub const TERMINAL_HEADER: &str = "Spillway-Terminal";
/// How often a lease is renewed while its chunk is on its way: a slow origin must not lose leases to the clock.
const RENEW_EVERY: Duration = Duration::from_secs(5);

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config.service(web::resource("/v1/swarms/{swarm_id}/chunks/{index}").route(web::get().to(chunk)));
    config.service(web::resource("/v1/swarms/{swarm_id}/sealed-manifest").route(web::get().to(sealed_manifest)));
}

#[derive(Debug, Deserialize)]
pub struct ChunkPath {
    swarm_id: SwarmId,
    index: u32,
}

/// One chunk, for a terminal that holds a lease or a repair grant for it.
///
/// What is sent counts against the release's origin budget, however much of it is read.
#[utoipa::path(get, path = "/v1/swarms/{swarm_id}/chunks/{index}", tag = "releases", operation_id = "get_chunk",
    params(("swarm_id" = SwarmId, Path), ("index" = u32, Path), ("Spillway-Terminal" = TerminalId, Header, description = "The terminal that holds the lease.")),
    responses((status = 200, description = "The chunk's bytes.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 403, description = "The terminal holds no lease for the chunk, or is no member of the swarm."), NotFound, Conflict, TooMany))]
pub async fn chunk(
    state: web::Data<AppState>,
    caller: Caller,
    request: HttpRequest,
    path: web::Path<ChunkPath>,
) -> Result<HttpResponse, ApiError> {
    let terminal = terminal_of(&request)?;
    let member = swarm::member(&state, path.swarm_id, terminal).await?;
    if member.place.owner != caller.user_id {
        return Err(ApiError::new(ErrorCode::NotInSwarm));
    }
    let index = usize::try_from(path.index).map_err(ApiError::internal)?;
    let entry = *member.swarm.manifest.chunks.get(index).ok_or_else(ApiError::not_found)?;
    member.check_open(clock::now())?;
    let sealing = member.swarm.sealing.clone();
    if sealing.is_some() != member.swarm.facts.sealed.is_some() {
        return Err(ApiError::internal("a sealed swarm has no key"));
    }
    let fetch = Fetch { state: AppState::clone(&state), sender: allocation::sender(&state, &member), chunk: path.index };
    // A client that leaves in between must neither keep the mark of sending nor the bytes that were taken for it.
    let paid = state.to_the_end(async move { fetch.pay(&member, entry.length).await }).await?;
    let bytes = sealing::as_it_travels(&state.chunks, entry, sealing, path.index).await?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .no_chunking(u64::from(entry.length))
        .streaming(paid.body(bytes)))
}

/// The sealed manifest of a swarm of a sealed release, in the fixed binary layout of the protocol: what a terminal needs to receive what it cannot read
/// yet. It never changes, and names no file.
#[utoipa::path(get, path = "/v1/swarms/{swarm_id}/sealed-manifest", tag = "releases", operation_id = "get_sealed_manifest",
    params(("swarm_id" = SwarmId, Path)),
    responses((status = 200, description = "The sealed manifest.", content_type = "application/octet-stream", body = Vec<u8>,
            headers(("ETag" = String, description = "Its BLAKE3 hash in quotes."))),
        NotFound))]
pub async fn sealed_manifest(state: web::Data<AppState>, _caller: Caller, swarm_id: web::Path<SwarmId>) -> Result<HttpResponse, ApiError> {
    let hash = state.store.swarm_facts(*swarm_id).await?.sealed.and_then(|sealed| sealed.manifest).ok_or_else(ApiError::not_found)?;
    let bytes = state.chunks.sealed_manifest_bytes(hash).await?;
    metrics::counter!(MANIFEST_BYTES).increment(bytes.len() as u64);
    Ok(HttpResponse::Ok()
        .insert_header((header::ETAG, format!("\"{hash}\"")))
        .insert_header((header::CACHE_CONTROL, "private, max-age=31536000, immutable"))
        .content_type("application/octet-stream")
        .body(bytes))
}

pub(super) fn terminal_of(request: &HttpRequest) -> Result<TerminalId, ApiError> {
    let header = request.headers().get(TERMINAL_HEADER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    header.ok_or_else(|| ApiError::invalid(format!("header/{TERMINAL_HEADER}"), "the id of the terminal that fetches is needed"))
}

/// One chunk on its way to one terminal.
struct Fetch {
    state: AppState,
    sender: Sender,
    chunk: u32,
}

impl Fetch {
    /// # Errors
    /// `no_lease`, also while the leases are being gathered again: the terminal tells of its own, and has them back. `too_many_requests` if it has
    /// fetched too much without signing for it.
    async fn right(&self, member: &Member) -> Result<(Budget, String), ApiError> {
        let mut right = self.state.live.fetch(self.sender, self.chunk, clock::now()).await?;
        if let Table::Ready(FetchRight::Unsigned(unsigned)) = &right
            && allocation::clear_signed(&self.state, member, unsigned.clone()).await?
        {
            right = self.state.live.fetch(self.sender, self.chunk, clock::now()).await?;
        }
        match right {
            Table::Ready(FetchRight::Granted { budget, marks }) => Ok((budget, marks)),
            Table::Ready(FetchRight::Unsigned(_)) => {
                let detail = "Sign receipts for the chunks fetched before; the lease stands.";
                Err(ApiError::new(ErrorCode::TooManyRequests).detail(detail).retry_after(1))
            }
            Table::Ready(FetchRight::None) | Table::Stranger => Err(ApiError::new(ErrorCode::NoLease)),
            Table::Rebuilding => Err(ApiError::new(ErrorCode::NoLease).detail("Leases are being gathered again.").retry_after(1)),
            Table::Lost => {
                allocation::rebuild(&self.state, member.swarm.facts.swarm_id, self.sender.group).await?;
                Err(ApiError::new(ErrorCode::NoLease).detail("Leases are being gathered again.").retry_after(1))
            }
        }
    }

    /// # Errors
    /// As [`Fetch::right`], `budget_spent`, or a store fails; then nothing is sent.
    async fn pay(self, member: &Member, length: u32) -> Result<Paid, ApiError> {
        let (budget, marks) = self.right(member).await?;
        let purpose = match budget {
            Budget::First => Purpose::FirstCopy,
            Budget::Repair => Purpose::Repair,
            Budget::Direct => Purpose::Direct,
        };
        let taken = self.state.budgets.take(member.swarm.facts.budget_id, purpose, protocol::Bytes(length.into())).await;
        let mut mark = Mark { fetch: self, marks, kept: false };
        match taken? {
            Some(taken) => Ok(Paid { mark, taken }),
            None => {
                mark.kept = true;
                mark.fetch.state.live.unaffordable(mark.fetch.sender, mark.fetch.chunk, &mark.marks, clock::now()).await?;
                Err(ApiError::new(ErrorCode::BudgetSpent).detail("The bytes can come from terminals only."))
            }
        }
    }
}

/// The marks that the chunk was sent, its lease's count among them. They go when it was not.
struct Mark {
    fetch: Fetch,
    marks: String,
    kept: bool,
}

impl Drop for Mark {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (live, sender, chunk) = (self.fetch.state.live.clone(), self.fetch.sender, self.fetch.chunk);
        let marks = std::mem::take(&mut self.marks);
        self.fetch.state.runtime.spawn(async move {
            if let Err(error) = live.unfetch(sender, chunk, &marks, clock::now()).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a chunk counts as sent that was not");
            }
        });
    }
}

/// A chunk that may be sent.
struct Paid {
    mark: Mark,
    taken: Taken,
}

impl Paid {
    /// The body, no faster than the origin's uplink.
    fn body(self, bytes: Bytes) -> impl stream::Stream<Item = Result<Bytes, std::convert::Infallible>> {
        let renewed_at = Instant::now();
        stream::unfold((self, bytes, renewed_at), |(mut paid, mut bytes, mut renewed_at)| async move {
            if bytes.is_empty() {
                return None;
            }
            let piece = bytes.split_to(PIECE.min(bytes.len()));
            let Fetch { state, sender, chunk } = &paid.mark.fetch;
            state.pace.send(piece.len()).await;
            if renewed_at.elapsed() >= RENEW_EVERY {
                renewed_at = Instant::now();
                if let Err(error) = state.live.renew_lease(*sender, *chunk, clock::now()).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a lease could not be renewed");
                }
            }
            paid.mark.kept = true;
            paid.taken.send(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            Some((Ok(piece), (paid, bytes, renewed_at)))
        })
    }
}
