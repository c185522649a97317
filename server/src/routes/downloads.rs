//! `/v1/contents/{id}/on-demand` and `/v1/downloads`: contents at any time.

use actix_web::{HttpRequest, HttpResponse, web};
use protocol::rest::{Download, NewDownload, OnDemand, OnDemandTerms, Page, PriceQuote, Role};
use protocol::{ContentId, DownloadId, EditionId, TerminalId};

use super::answers::once;
use super::contents::viewer;
use super::input::headers::etag;
use super::input::query::{PagingParameters, Query, cursor_fault};
use super::input::{Body, IdempotencyKey, IfMatchAny, Paging};
use super::refusals::{Conflict, NotFound, Precondition, Unprocessable};
use crate::app::downloads;
use crate::auth::{Caller, Publisher};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::downloads::DownloadViewer;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/v1/contents/{id}/on-demand")
                .route(web::get().to(terms))
                .route(web::put().to(offer))
                .route(web::delete().to(withdraw)),
        )
        .service(web::resource("/v1/contents/{id}/on-demand/quote").route(web::get().to(quote)))
        .service(web::resource("/v1/contents/{id}/downloads").route(web::post().to(ask)).route(web::get().to(list)))
        .service(web::resource("/v1/downloads/{id}").route(web::get().to(get)).route(web::delete().to(cancel)));
}

fn tagged(terms: &OnDemand) -> HttpResponse {
    HttpResponse::Ok().insert_header(etag(terms.version)).json(terms)
}

/// On what terms a content can be had at any time.
#[utoipa::path(get, path = "/v1/contents/{id}/on-demand", tag = "downloads", operation_id = "get_on_demand", params(("id" = ContentId, Path)),
    responses((status = 200, description = "The terms.", body = OnDemand, headers(("ETag" = String))), NotFound))]
pub async fn terms(state: web::Data<AppState>, caller: Caller, id: web::Path<ContentId>) -> Result<HttpResponse, ApiError> {
    state.store.content(*id, viewer(caller)).await?.ok_or_else(ApiError::not_found)?;
    let terms = state.store.on_demand(*id).await?;
    let terms = terms.ok_or_else(|| ApiError::not_found().detail("The publisher of this content has set no price for it on demand."))?;
    Ok(tagged(&terms))
}

/// Offer an own content at any time, or change on what terms. Publishers only.
///
/// Downloads that run go on at the price that was held for them.
#[utoipa::path(put, path = "/v1/contents/{id}/on-demand", tag = "downloads", operation_id = "set_on_demand",
    params(("id" = ContentId, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was seen, or `*`; absent when there are no terms yet. Else the answer is 428.")),
    request_body = OnDemandTerms,
    responses((status = 200, description = "Set.", body = OnDemand, headers(("ETag" = String))), NotFound, Precondition))]
pub async fn offer(
    state: web::Data<AppState>,
    publisher: Publisher,
    id: web::Path<ContentId>,
    seen: IfMatchAny,
    body: Body<OnDemandTerms>,
) -> Result<HttpResponse, ApiError> {
    Ok(tagged(&downloads::offer(&state, publisher.user_id, *id, body.0, seen.seen(), clock::now()).await?))
}

/// Offer an own content no longer. Downloads that run go on. Publishers only.
#[utoipa::path(delete, path = "/v1/contents/{id}/on-demand", tag = "downloads", operation_id = "remove_on_demand",
    params(("id" = ContentId, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was seen, or `*`. Without it the answer is 428.")),
    responses((status = 204, description = "Done."), NotFound, Precondition))]
pub async fn withdraw(
    state: web::Data<AppState>,
    publisher: Publisher,
    id: web::Path<ContentId>,
    seen: IfMatchAny,
) -> Result<HttpResponse, ApiError> {
    downloads::withdraw(&state, publisher.user_id, *id, seen.seen()).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// What an edition would cost an own terminal if it were asked for now, and why. The price of another hour, or after another download, may be another one.
#[utoipa::path(get, path = "/v1/contents/{id}/on-demand/quote", tag = "downloads", operation_id = "quote_download",
    params(("id" = ContentId, Path), ("edition_id" = EditionId, Query), ("terminal_id" = TerminalId, Query)),
    responses((status = 200, description = "The price.", body = PriceQuote), NotFound, Unprocessable))]
pub async fn quote(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<ContentId>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut query = Query::of(&request)?;
    let edition: EditionId = query.needed("edition_id")?;
    let terminal: TerminalId = query.needed("terminal_id")?;
    query.done()?;
    let quote = downloads::quote(&state, *id, edition, (terminal, caller.user_id), clock::now()).await?;
    Ok(HttpResponse::Ok().json(quote))
}

/// Ask for an edition now, for an own terminal. The price is held in the wallet; what arrives is paid for.
///
/// While a download of the edition runs for the terminal, that one is the answer.
#[utoipa::path(post, path = "/v1/contents/{id}/downloads", tag = "downloads", operation_id = "create_download",
    params(("id" = ContentId, Path), ("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")),
    request_body = NewDownload,
    responses((status = 201, description = "Asked for.", body = Download), (status = 200, description = "It runs already.", body = Download),
        NotFound, Conflict, Unprocessable))]
pub async fn ask(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<ContentId>,
    key: IdempotencyKey,
    body: Body<NewDownload>,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(caller.user_id, &body.0)?;
    once(&downloads::ask(&state, *id, body.0, request, clock::now()).await?)
}

/// The own downloads of a content, oldest first; also those that have ended.
#[utoipa::path(get, path = "/v1/contents/{id}/downloads", tag = "downloads", operation_id = "list_downloads",
    params(("id" = ContentId, Path), PagingParameters), responses((status = 200, description = "A page of downloads.", body = Page<Download>), NotFound))]
pub async fn list(state: web::Data<AppState>, caller: Caller, id: web::Path<ContentId>, paging: Paging) -> Result<HttpResponse, ApiError> {
    state.store.content(*id, viewer(caller)).await?.ok_or_else(ApiError::not_found)?;
    let page = state.store.downloads(*id, caller.user_id, &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// A download with its sources: the own ones, those of an own content, and for operators all.
#[utoipa::path(get, path = "/v1/downloads/{id}", tag = "downloads", operation_id = "get_download", params(("id" = DownloadId, Path)),
    responses((status = 200, description = "The download.", body = Download), NotFound))]
pub async fn get(state: web::Data<AppState>, caller: Caller, id: web::Path<DownloadId>) -> Result<HttpResponse, ApiError> {
    let viewer = match caller.role {
        Role::Operator => DownloadViewer::Operator,
        Role::User | Role::Publisher => DownloadViewer::User(caller.user_id),
    };
    Ok(HttpResponse::Ok().json(downloads::read(&state, *id, viewer).await?))
}

/// End an own download that runs: what has arrived is paid for, the rest of the hold is released.
#[utoipa::path(delete, path = "/v1/downloads/{id}", tag = "downloads", operation_id = "cancel_download",
    params(("id" = DownloadId, Path), ("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")),
    responses((status = 200, description = "Ended.", body = Download), NotFound, Conflict, Unprocessable))]
pub async fn cancel(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<DownloadId>,
    key: IdempotencyKey,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(caller.user_id, &())?;
    once(&downloads::cancel(&state, *id, request, clock::now()).await?)
}
