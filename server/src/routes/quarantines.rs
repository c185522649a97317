//! `/v1/quarantines`: terminals that are shut out, what their owners say to it, and what operators decide.

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use protocol::QuarantineId;
use protocol::rest::{NewAppeal, NewDecision, NewQuarantine, Page, Quarantine};
use std::future::{Ready, ready};

use super::answers::once;
use super::input::query::{PagingParameters, Query, cursor_fault};
use super::input::{Body, IdempotencyKey, Paging};
use super::refusals::{Conflict, NotFound};
use crate::app::quarantines;
use crate::auth::{Caller, Operator};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::quarantines::QuarantineViewer;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/quarantines").route(web::post().to(impose)).route(web::get().to(list)))
        .service(web::resource("/v1/quarantines/{id}").route(web::get().to(get)))
        .service(web::resource("/v1/quarantines/{id}/appeal").route(web::put().to(appeal)))
        .service(web::resource("/v1/quarantines/{id}/decision").route(web::put().to(decide)));
}

/// Operators see every terminal's, everybody else those of the own terminals.
async fn viewer(state: &AppState, caller: Caller) -> Result<QuarantineViewer, ApiError> {
    Ok(if caller.is_operator(state).await? { QuarantineViewer::Operator } else { QuarantineViewer::Owner(caller.user_id) })
}

/// Shut a terminal out for a while: its connection ends, and connections, applications and downloads are refused. What was earned stays, and what runs is
/// settled as for a terminal that is away. Operators only.
#[utoipa::path(post, path = "/v1/quarantines", tag = "quarantines", operation_id = "impose_quarantine",
    params(("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")), request_body = NewQuarantine,
    responses((status = 201, description = "It is shut out.", body = Quarantine), NotFound, Conflict))]
pub async fn impose(
    state: web::Data<AppState>,
    operator: Operator,
    key: IdempotencyKey,
    body: Body<NewQuarantine>,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(operator.user_id, &body.0)?;
    once(&quarantines::impose(&state, body.0, request, clock::now()).await?)
}

/// The quarantines of the own terminals, for operators of all, oldest first. With `open=true` only those in force with an appeal that is not decided.
#[utoipa::path(get, path = "/v1/quarantines", tag = "quarantines", operation_id = "list_quarantines",
    params(("open" = Option<bool>, Query), PagingParameters),
    responses((status = 200, description = "A page of quarantines.", body = Page<Quarantine>)))]
pub async fn list(state: web::Data<AppState>, caller: Caller, wanted: WantedQuarantines) -> Result<HttpResponse, ApiError> {
    let viewer = viewer(&state, caller).await?;
    let page = state.store.quarantines(viewer, wanted.open, &wanted.paging.0, clock::now()).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// One of them.
#[utoipa::path(get, path = "/v1/quarantines/{id}", tag = "quarantines", operation_id = "get_quarantine", params(("id" = QuarantineId, Path)),
    responses((status = 200, description = "The quarantine.", body = Quarantine), NotFound))]
pub async fn get(state: web::Data<AppState>, caller: Caller, id: web::Path<QuarantineId>) -> Result<HttpResponse, ApiError> {
    let viewer = viewer(&state, caller).await?;
    Ok(HttpResponse::Ok().json(state.store.quarantine(*id, viewer).await?))
}

/// Say why an own terminal should come back. Until it is decided the text can be replaced.
#[utoipa::path(put, path = "/v1/quarantines/{id}/appeal", tag = "quarantines", operation_id = "appeal_quarantine", params(("id" = QuarantineId, Path)),
    request_body = NewAppeal, responses((status = 200, description = "Noted.", body = Quarantine), NotFound, Conflict))]
pub async fn appeal(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<QuarantineId>,
    body: Body<NewAppeal>,
) -> Result<HttpResponse, ApiError> {
    quarantines::check_appeal(&body.0.text)?;
    let (store, id) = (state.store.clone(), id.into_inner());
    let appealed = async move { store.appeal(id, caller.user_id, &body.0.text, clock::now()).await };
    Ok(HttpResponse::Ok().json(state.to_the_end(appealed).await?))
}

/// Lift a quarantine, or uphold it. Decided once; the same again changes nothing. Operators only.
#[utoipa::path(put, path = "/v1/quarantines/{id}/decision", tag = "quarantines", operation_id = "decide_quarantine",
    params(("id" = QuarantineId, Path)), request_body = NewDecision,
    responses((status = 200, description = "Decided.", body = Quarantine), NotFound, Conflict))]
pub async fn decide(
    state: web::Data<AppState>,
    operator: Operator,
    id: web::Path<QuarantineId>,
    body: Body<NewDecision>,
) -> Result<HttpResponse, ApiError> {
    quarantines::check_decision(&body.0.note)?;
    let (store, id) = (state.store.clone(), id.into_inner());
    let decided = async move { store.decide_quarantine(id, operator.user_id, &body.0, clock::now()).await };
    Ok(HttpResponse::Ok().json(state.to_the_end(decided).await?))
}

/// The parameters of the list.
#[derive(Debug)]
pub struct WantedQuarantines {
    open: bool,
    paging: Paging,
}

impl FromRequest for WantedQuarantines {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Query::of(request).and_then(|mut query| {
            let open = match query.take("open")?.as_deref() {
                None | Some("false") => false,
                Some("true") => true,
                Some(_) => return Err(ApiError::invalid("query/open", "expected true or false")),
            };
            let paging = query.paging()?;
            query.done()?;
            Ok(Self { open, paging })
        }))
    }
}
