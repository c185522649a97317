//! `/v1/kits`: terminals that are carried on a stick, and their balance statements.

use actix_web::{HttpResponse, web};
use protocol::rest::{Kit, NewKit, NextStatement, Page, SignedStatement};
use protocol::{KitId, TerminalId};

use super::input::query::{PagingParameters, cursor_fault};
use super::input::{Body, Paging};
use super::refusals::{Conflict, NotFound};
use crate::auth::Caller;
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/terminals/{id}/kit").route(web::put().to(create)))
        .service(web::resource("/v1/kits").route(web::get().to(list)))
        .service(web::resource("/v1/kits/{id}/statements").route(web::post().to(next)));
}

/// Make an own terminal a kit's. The list of its read-only files is signed, and the first balance statement made. Asked for once more, it is the same kit.
#[utoipa::path(put, path = "/v1/terminals/{id}/kit", tag = "terminals", operation_id = "create_kit", params(("id" = TerminalId, Path)),
    request_body = NewKit, responses((status = 200, description = "The kit.", body = Kit), NotFound, Conflict))]
pub async fn create(
    state: web::Data<AppState>,
    caller: Caller,
    terminal: web::Path<TerminalId>,
    body: Body<NewKit>,
) -> Result<HttpResponse, ApiError> {
    let own = state.clone();
    let created = async move { own.store.create_kit(caller.user_id, *terminal, &body.0, &own.secrets, clock::now()).await };
    Ok(HttpResponse::Ok().json(state.to_the_end(created).await?))
}

/// The own kits, by id. One that was copied and used twice has `forked_at`.
#[utoipa::path(get, path = "/v1/kits", tag = "terminals", operation_id = "list_kits", params(PagingParameters),
    responses((status = 200, description = "A page of kits.", body = Page<Kit>)))]
pub async fn list(state: web::Data<AppState>, caller: Caller, paging: Paging) -> Result<HttpResponse, ApiError> {
    let page = state.store.kits(caller.user_id, &paging.0, &state.secrets).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// The next balance statement of an own kit. What it names must be the last statement; with the `attempt` of a request whose answer was lost, that answer is
/// given again. A kit that names another one was copied or put back: it is refused with `kit_forked` from then on, and so is its terminal.
#[utoipa::path(post, path = "/v1/kits/{id}/statements", tag = "terminals", operation_id = "next_statement", params(("id" = KitId, Path)),
    request_body = NextStatement, responses((status = 200, description = "The statement.", body = SignedStatement), NotFound, Conflict))]
pub async fn next(
    state: web::Data<AppState>,
    caller: Caller,
    kit: web::Path<KitId>,
    body: Body<NextStatement>,
) -> Result<HttpResponse, ApiError> {
    let own = state.clone();
    let next = async move { own.store.next_statement(caller.user_id, *kit, &body.0, &own.secrets, clock::now()).await };
    Ok(HttpResponse::Ok().json(state.to_the_end(next).await?))
}
