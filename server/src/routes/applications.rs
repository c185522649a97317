//! Applications to a release.

use actix_web::{HttpResponse, web};
use protocol::rest::{Application, ChangeApplication, Explanation, NewApplication, Page};
use protocol::{ApplicationId, ReleaseId};

use super::answers::once_versioned;
use super::input::headers::etag;
use super::input::query::{PagingParameters, cursor_fault};
use super::input::{Body, IdempotencyKey, IfMatch, Paging};
use super::refusals::{Conflict, NotFound, Precondition, Unprocessable};
use crate::app::applications;
use crate::auth::Caller;
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    let one = web::resource("/v1/applications/{id}");
    config
        .service(web::resource("/v1/releases/{id}/applications").route(web::post().to(create)).route(web::get().to(list)))
        .service(one.route(web::get().to(get)).route(web::put().to(change)).route(web::delete().to(withdraw)))
        .service(web::resource("/v1/applications/{id}/explanation").route(web::get().to(explanation)));
}

/// Apply for an edition and a rank with an own terminal. The maximum is held in the wallet.
#[utoipa::path(post, path = "/v1/releases/{id}/applications", tag = "applications", operation_id = "create_application",
    params(("id" = ReleaseId, Path), ("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")),
    request_body = NewApplication,
    responses((status = 201, description = "Applied.", body = Application, headers(("ETag" = String))), NotFound, Conflict, Unprocessable))]
pub async fn create(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<ReleaseId>,
    key: IdempotencyKey,
    body: Body<NewApplication>,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(caller.user_id, &body.0)?;
    once_versioned(&applications::apply(&state, *id, body.0, request, clock::now()).await?)
}

/// The own applications to a release, oldest first.
#[utoipa::path(get, path = "/v1/releases/{id}/applications", tag = "applications", operation_id = "list_applications",
    params(("id" = ReleaseId, Path), PagingParameters),
    responses((status = 200, description = "A page of applications.", body = Page<Application>), NotFound))]
pub async fn list(state: web::Data<AppState>, caller: Caller, id: web::Path<ReleaseId>, paging: Paging) -> Result<HttpResponse, ApiError> {
    state.store.release(*id).await?;
    let page = state.store.applications(*id, caller.user_id, &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// One of the own applications.
#[utoipa::path(get, path = "/v1/applications/{id}", tag = "applications", operation_id = "get_application", params(("id" = ApplicationId, Path)),
    responses((status = 200, description = "The application.", body = Application, headers(("ETag" = String))), NotFound))]
pub async fn get(state: web::Data<AppState>, caller: Caller, id: web::Path<ApplicationId>) -> Result<HttpResponse, ApiError> {
    let application = state.store.application(*id, caller.user_id).await?;
    Ok(HttpResponse::Ok().insert_header(etag(application.version)).json(application))
}

/// Why one of the own applications costs what it costs, or got no place: a sentence, and the numbers that it follows from.
#[utoipa::path(get, path = "/v1/applications/{id}/explanation", tag = "applications", operation_id = "explain_application",
    params(("id" = ApplicationId, Path)), responses((status = 200, description = "The explanation.", body = Explanation), NotFound, Conflict))]
pub async fn explanation(state: web::Data<AppState>, caller: Caller, id: web::Path<ApplicationId>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(state.store.explanation(*id, caller.user_id).await?))
}

/// Change the edition, the rank or the maximum, until the release closes. Counts as applied now.
#[utoipa::path(put, path = "/v1/applications/{id}", tag = "applications", operation_id = "change_application",
    params(("id" = ApplicationId, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was seen, or `*`. Without it the answer is 428."),
        ("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")),
    request_body = ChangeApplication,
    responses((status = 200, description = "Changed.", body = Application, headers(("ETag" = String))),
        NotFound, Conflict, Unprocessable, Precondition))]
pub async fn change(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<ApplicationId>,
    seen: IfMatch,
    key: IdempotencyKey,
    body: Body<ChangeApplication>,
) -> Result<HttpResponse, ApiError> {
    let version = seen.version();
    let request = key.of(caller.user_id, &(version, &body.0))?;
    once_versioned(&applications::change(&state, *id, version, body.0, request, clock::now()).await?)
}

/// Take an application back, until the release closes; its hold is released.
#[utoipa::path(delete, path = "/v1/applications/{id}", tag = "applications", operation_id = "withdraw_application",
    params(("id" = ApplicationId, Path), ("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")),
    responses((status = 200, description = "Withdrawn.", body = Application, headers(("ETag" = String))), NotFound, Conflict, Unprocessable))]
pub async fn withdraw(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<ApplicationId>,
    key: IdempotencyKey,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(caller.user_id, &())?;
    once_versioned(&applications::withdraw(&state, *id, request, clock::now()).await?)
}
