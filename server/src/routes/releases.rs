//! `/v1/releases`: scheduled distributions, and what became of them.

use actix_web::{HttpResponse, web};
use protocol::rest::{BookBid, Delivery, NewRelease, Page, Release, ReleaseBook, ReleaseReport, Role};
use protocol::{EditionId, ReleaseId};

use super::answers::once;
use super::contents::viewer;
use super::input::query::{PagingParameters, cursor_fault};
use super::input::{Body, IdempotencyKey, Paging};
use super::refusals::{Conflict, NotFound, Unprocessable};
use crate::app::{releases, reports};
use crate::auth::{Caller, Publisher};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::lifecycle::CancelledBy;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/releases").route(web::post().to(create)).route(web::get().to(list)))
        .service(web::resource("/v1/releases/{id}").route(web::get().to(get)))
        .service(web::resource("/v1/releases/{id}/cancel").route(web::post().to(cancel)))
        .service(web::resource("/v1/releases/{id}/abort").route(web::post().to(abort)))
        .service(web::resource("/v1/releases/{id}/deliveries").route(web::get().to(deliveries)))
        .service(web::resource("/v1/releases/{id}/report").route(web::get().to(report)))
        .service(web::resource("/v1/releases/{id}/book").route(web::get().to(book)))
        .service(web::resource("/v1/releases/{id}/book/{edition_id}/bids").route(web::get().to(book_bids)));
}

/// Schedule a release of an own content. Publishers only.
#[utoipa::path(post, path = "/v1/releases", tag = "releases", operation_id = "create_release",
    params(("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")), request_body = NewRelease,
    responses((status = 201, description = "Scheduled.", body = Release), NotFound, Conflict, Unprocessable))]
pub async fn create(
    state: web::Data<AppState>,
    publisher: Publisher,
    key: IdempotencyKey,
    body: Body<NewRelease>,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(publisher.user_id, &body.0)?;
    once(&releases::schedule(&state, body.0, request, clock::now()).await?)
}

/// All releases, oldest first.
#[utoipa::path(get, path = "/v1/releases", tag = "releases", operation_id = "list_releases", params(PagingParameters),
    responses((status = 200, description = "A page of releases.", body = Page<Release>)))]
pub async fn list(state: web::Data<AppState>, _: Caller, paging: Paging) -> Result<HttpResponse, ApiError> {
    let page = state.store.releases(&paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// One release.
#[utoipa::path(get, path = "/v1/releases/{id}", tag = "releases", operation_id = "get_release", params(("id" = ReleaseId, Path)),
    responses((status = 200, description = "The release.", body = Release), NotFound))]
pub async fn get(state: web::Data<AppState>, _: Caller, id: web::Path<ReleaseId>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(state.store.release(*id).await?))
}

/// Cancel an own release before its start; every hold is released. Operators may cancel any.
#[utoipa::path(post, path = "/v1/releases/{id}/cancel", tag = "releases", operation_id = "cancel_release",
    params(("id" = ReleaseId, Path), ("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")),
    responses((status = 200, description = "Cancelled.", body = Release), NotFound, Conflict, Unprocessable))]
pub async fn cancel(
    state: web::Data<AppState>,
    publisher: Publisher,
    id: web::Path<ReleaseId>,
    key: IdempotencyKey,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(publisher.user_id, &())?;
    once(&releases::cancel(&state, *id, on_behalf_of(&publisher), request, clock::now()).await?)
}

/// End an own release in the middle: what has arrived is paid for, the rest of every hold is released. Operators may abort any.
#[utoipa::path(post, path = "/v1/releases/{id}/abort", tag = "releases", operation_id = "abort_release",
    params(("id" = ReleaseId, Path), ("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")),
    responses((status = 200, description = "Aborted.", body = Release), NotFound, Conflict, Unprocessable))]
pub async fn abort(
    state: web::Data<AppState>,
    publisher: Publisher,
    id: web::Path<ReleaseId>,
    key: IdempotencyKey,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(publisher.user_id, &"abort")?;
    once(&releases::abort(&state, *id, on_behalf_of(&publisher), request, clock::now()).await?)
}

fn on_behalf_of(publisher: &Publisher) -> CancelledBy {
    match publisher.role {
        Role::Operator => CancelledBy::Operator,
        Role::User | Role::Publisher => CancelledBy::Publisher(publisher.user_id),
    }
}

/// The deliveries of a release, oldest first: all for its publisher and for operators, else the caller's own.
#[utoipa::path(get, path = "/v1/releases/{id}/deliveries", tag = "releases", operation_id = "list_deliveries",
    params(("id" = ReleaseId, Path), PagingParameters),
    responses((status = 200, description = "A page of deliveries.", body = Page<Delivery>), NotFound))]
pub async fn deliveries(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<ReleaseId>,
    paging: Paging,
) -> Result<HttpResponse, ApiError> {
    let page = releases::deliveries(&state, *id, viewer(caller), &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// How a release went, or goes so far: its waves beside their fluid bounds, bytes by source, money, re-selections, and a page of its terminals. The
/// publisher and operators see every terminal; who has won in the release sees the totals and the own ones.
#[utoipa::path(get, path = "/v1/releases/{id}/report", tag = "releases", operation_id = "get_release_report",
    params(("id" = ReleaseId, Path), PagingParameters),
    responses((status = 200, description = "The report.", body = ReleaseReport), NotFound))]
pub async fn report(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<ReleaseId>,
    paging: Paging,
) -> Result<HttpResponse, ApiError> {
    let found = reports::report(&state, *id, viewer(caller), &paging.0, clock::now()).await;
    Ok(HttpResponse::Ok().json(found.map_err(cursor_fault)?))
}

/// The closed books of a release: what every price follows from, beside the hash that the release has published. The bids are listed by edition.
#[utoipa::path(get, path = "/v1/releases/{id}/book", tag = "releases", operation_id = "get_release_book", params(("id" = ReleaseId, Path)),
    responses((status = 200, description = "The books.", body = ReleaseBook), NotFound, Conflict))]
pub async fn book(state: web::Data<AppState>, _: Caller, id: web::Path<ReleaseId>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(state.store.release_book(*id).await?))
}

/// The bids of an edition's closed book in ascending order of their ids, which are random: they tell nobody whose bid it is.
#[utoipa::path(get, path = "/v1/releases/{id}/book/{edition_id}/bids", tag = "releases", operation_id = "list_book_bids",
    params(("id" = ReleaseId, Path), ("edition_id" = EditionId, Path), PagingParameters),
    responses((status = 200, description = "A page of bids.", body = Page<BookBid>), NotFound, Conflict))]
pub async fn book_bids(
    state: web::Data<AppState>,
    _: Caller,
    path: web::Path<(ReleaseId, EditionId)>,
    paging: Paging,
) -> Result<HttpResponse, ApiError> {
    let (release_id, edition_id) = path.into_inner();
    let page = state.store.book_bids(release_id, edition_id, &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}
