//! `/v1/contents` and `/v1/editions`: what there is to distribute.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use protocol::rest::{Content, Edition, NewContent, Page, Role};
use protocol::{ContentId, EditionId};

use super::answers::created;
use super::input::query::{PagingParameters, cursor_fault};
use super::input::{Body, Paging};
use super::openapi::RawBytes;
use super::refusals::NotFound;
use crate::app::checks::Checks;
use crate::app::{contents, sealing};
use crate::auth::{Caller, Publisher};
use crate::clock;
use crate::error::ApiError;
use crate::metrics::MANIFEST_BYTES;
use crate::state::AppState;
use crate::store::contents::Viewer;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/contents").route(web::post().to(create)).route(web::get().to(list)))
        .service(web::resource("/v1/contents/{id}").route(web::get().to(get)))
        .service(web::resource("/v1/editions/{id}").route(web::get().to(edition)))
        .service(web::resource("/v1/editions/{id}/manifest").route(web::get().to(manifest)));
}

/// As whom a caller looks at contents and deliveries.
pub(super) fn viewer(caller: Caller) -> Viewer {
    match caller.role {
        Role::Operator => Viewer::Operator,
        Role::User | Role::Publisher => Viewer::User(caller.user_id),
    }
}

/// Make a content, which has no edition yet. Publishers only.
#[utoipa::path(post, path = "/v1/contents", tag = "contents", operation_id = "create_content", request_body = NewContent,
    responses((status = 201, description = "Made.", body = Content)))]
pub async fn create(state: web::Data<AppState>, publisher: Publisher, body: Body<NewContent>) -> Result<HttpResponse, ApiError> {
    let mut checks = Checks::default();
    checks.text("/title", &body.0.title, 1..=200);
    checks.done()?;
    let own = state.clone();
    let content = state.to_the_end(async move { contents::create(&own, publisher.user_id, body.0.title, clock::now()).await }).await?;
    Ok(created(format!("/v1/contents/{}", content.id), content))
}

/// The own contents and those that a release names, oldest first; for operators all.
#[utoipa::path(get, path = "/v1/contents", tag = "contents", operation_id = "list_contents", params(PagingParameters),
    responses((status = 200, description = "A page of contents.", body = Page<Content>)))]
pub async fn list(state: web::Data<AppState>, caller: Caller, paging: Paging) -> Result<HttpResponse, ApiError> {
    let page = state.store.contents(viewer(caller), &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// One content.
#[utoipa::path(get, path = "/v1/contents/{id}", tag = "contents", operation_id = "get_content", params(("id" = ContentId, Path)),
    responses((status = 200, description = "The content.", body = Content), NotFound))]
pub async fn get(state: web::Data<AppState>, caller: Caller, id: web::Path<ContentId>) -> Result<HttpResponse, ApiError> {
    let content = state.store.content(*id, viewer(caller)).await?.ok_or_else(ApiError::not_found)?;
    Ok(HttpResponse::Ok().json(content))
}

/// One edition.
#[utoipa::path(get, path = "/v1/editions/{id}", tag = "contents", operation_id = "get_edition", params(("id" = EditionId, Path)),
    responses((status = 200, description = "The edition.", body = Edition), NotFound))]
pub async fn edition(state: web::Data<AppState>, caller: Caller, id: web::Path<EditionId>) -> Result<HttpResponse, ApiError> {
    let edition = state.store.edition(*id, viewer(caller)).await?.ok_or_else(ApiError::not_found)?;
    Ok(HttpResponse::Ok().json(edition))
}

/// How an edition is cut into chunks and laid out as files, in the fixed binary layout of the protocol. It never changes: its BLAKE3 hash is the
/// edition's id.
#[utoipa::path(get, path = "/v1/editions/{id}/manifest", tag = "contents", operation_id = "get_manifest",
    params(("id" = EditionId, Path), ("If-None-Match" = Option<String>, Header)),
    responses(
        (status = 200, description = "The manifest.", body = RawBytes, content_type = "application/octet-stream",
            headers(("ETag" = String, description = "The edition's id in quotes."))),
        (status = 304, description = "The client has it."),
        NotFound))]
pub async fn manifest(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<EditionId>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    state.store.edition(*id, viewer(caller)).await?.ok_or_else(ApiError::not_found)?;
    sealing::check_released(&state, *id, viewer(caller), clock::now()).await?;
    let tag = format!("\"{id}\"");
    let known = request.headers().get_all(header::IF_NONE_MATCH).filter_map(|tags| tags.to_str().ok());
    let known = known.flat_map(|tags| tags.split(',')).any(|known| matches!(known.trim(), known if known == "*" || known == tag));
    let (mut response, body) = if known {
        (HttpResponse::NotModified(), None)
    } else {
        let bytes = state.chunks.manifest_bytes(*id).await?;
        metrics::counter!(MANIFEST_BYTES).increment(bytes.len() as u64);
        (HttpResponse::Ok(), Some(bytes))
    };
    response.insert_header((header::ETAG, tag)).insert_header((header::CACHE_CONTROL, "private, max-age=31536000, immutable"));
    Ok(match body {
        Some(bytes) => response.content_type("application/octet-stream").body(bytes),
        None => response.finish(),
    })
}
