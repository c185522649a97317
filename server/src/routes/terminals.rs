//! `/v1/terminals`: the own client machines.

use actix_web::{HttpResponse, web};
use protocol::TerminalId;
use protocol::rest::{NewTerminal, Page, Terminal};

use super::answers::created;
use super::input::query::{PagingParameters, cursor_fault};
use super::input::{Body, Paging};
use super::refusals::{Conflict, NotFound};
use crate::app::checks::Checks;
use crate::app::terminals;
use crate::auth::Caller;
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/terminals").route(web::post().to(create)).route(web::get().to(list)))
        .service(web::resource("/v1/terminals/{id}").route(web::get().to(get)));
}

/// Register a client machine by its key.
#[utoipa::path(post, path = "/v1/terminals", tag = "terminals", operation_id = "create_terminal", request_body = NewTerminal,
    responses((status = 201, description = "Registered.", body = Terminal), Conflict))]
pub async fn create(state: web::Data<AppState>, caller: Caller, body: Body<NewTerminal>) -> Result<HttpResponse, ApiError> {
    let mut checks = Checks::default();
    checks.text("/name", &body.0.name, 1..=64);
    checks.done()?;
    let own = state.clone();
    let terminal = state.to_the_end(async move { terminals::register(&own, caller.user_id, body.0, clock::now()).await }).await?;
    Ok(created(format!("/v1/terminals/{}", terminal.id), terminal))
}

/// The own terminals, oldest first.
#[utoipa::path(get, path = "/v1/terminals", tag = "terminals", operation_id = "list_terminals", params(PagingParameters),
    responses((status = 200, description = "A page of terminals.", body = Page<Terminal>)))]
pub async fn list(state: web::Data<AppState>, caller: Caller, paging: Paging) -> Result<HttpResponse, ApiError> {
    let page = state.store.terminals_of(caller.user_id, &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// One of the own terminals.
#[utoipa::path(get, path = "/v1/terminals/{id}", tag = "terminals", operation_id = "get_terminal", params(("id" = TerminalId, Path)),
    responses((status = 200, description = "The terminal.", body = Terminal), NotFound))]
pub async fn get(state: web::Data<AppState>, caller: Caller, id: web::Path<TerminalId>) -> Result<HttpResponse, ApiError> {
    let found = state.store.terminal(*id).await?.filter(|found| found.owner == caller.user_id);
    Ok(HttpResponse::Ok().json(found.ok_or_else(ApiError::not_found)?.terminal))
}
