//! `GET /v1/ws`: the WebSocket of a terminal.
//!
//! Flow: the request carries an access token and, from a browser, an allowed `Origin` → challenge, hello, welcome ([`handshake`]) → messages of the
//! terminal ([`messages`]) and pushes to it ([`pushes`]) side by side, until either end closes ([`session`]). The terminal's place in its swarms, what is
//! pushed to it, and what it is owed live in Redis and Postgres: a session holds nothing that its successor, on any instance, does not find there.

mod audits;
mod handshake;
mod keys;
mod messages;
mod observing;
mod outbox;
mod pushes;
mod session;

#[cfg(test)]
pub(crate) mod tests;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use protocol::ErrorCode;

use crate::auth::Caller;
use crate::config::Config;
use crate::error::ApiError;
use crate::routes::limits::region_of;
use crate::state::AppState;

pub(crate) fn configure(config: &mut web::ServiceConfig) {
    config.service(web::resource("/v1/ws").route(web::get().to(open)));
}

/// Open a terminal's WebSocket. Messages are JSON texts of at most 64 KiB; `docs/PROTOCOL.md` lists them.
#[utoipa::path(get, path = "/v1/ws", tag = "terminals", operation_id = "open_websocket",
    responses((status = 101, description = "The WebSocket is open; the server sends its challenge."), (status = 400, description = "This is no WebSocket handshake.")))]
pub(crate) async fn open(
    state: web::Data<AppState>,
    caller: Caller,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    check_origin(&state.config, &request)?;
    let opened = actix_ws::handle(&request, body);
    let (response, sink, stream) = opened.map_err(|error| ApiError::invalid("header/Upgrade", error.to_string()))?;
    let region = region_of(&state, &request);
    let state = AppState::clone(&state);
    actix_web::rt::spawn(session::run(state, caller, region, sink, stream));
    Ok(response)
}

/// A page of another site must not use its visitor's terminal. Programs send no `Origin`.
fn check_origin(config: &Config, request: &HttpRequest) -> Result<(), ApiError> {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let known = origin
        .to_str()
        .is_ok_and(|origin| origin == own_origin(&config.public_url()) || config.allowed_origins.iter().any(|allowed| allowed == origin));
    if known { Ok(()) } else { Err(ApiError::new(ErrorCode::Forbidden).at("header/Origin", "this origin may not open a WebSocket here")) }
}

/// Scheme, host and port of an address.
fn own_origin(url: &str) -> &str {
    let host_begins = url.find("://").map_or(0, |scheme_ends| scheme_ends + 3);
    url[host_begins..].find('/').map_or(url, |host_ends| &url[..host_begins + host_ends])
}
