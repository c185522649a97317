//! `/v1/sessions`: log in, stay logged in, log out.

use actix_web::http::header;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use protocol::rest::{Login, Refresh, Tokens};

use super::input::Body;
use super::limits;
use super::refusals::{Credentials, TooMany};
use crate::app::accounts;
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/sessions").route(web::post().to(create).wrap(from_fn(limits::logins))).route(web::delete().to(end)))
        .service(web::resource("/v1/sessions/refresh").route(web::post().to(refresh)));
}

/// Tokens must not stay in a cache (RFC 6749, 5.1).
fn tokens_answer(mut response: HttpResponseBuilder, tokens: &Tokens) -> HttpResponse {
    response.insert_header((header::CACHE_CONTROL, "no-store")).json(tokens)
}

/// Log in.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", operation_id = "create_session", request_body = Login,
    responses((status = 201, description = "Logged in.", body = Tokens), Credentials, TooMany), security(()))]
pub async fn create(state: web::Data<AppState>, request: HttpRequest, body: Body<Login>) -> Result<HttpResponse, ApiError> {
    limits::guesses(&state, &request, &body.0.email).await?;
    let tokens = accounts::log_in(&state, body.0, clock::now()).await?;
    Ok(tokens_answer(HttpResponse::Created(), &tokens))
}

/// The next tokens for a refresh token, which is used up. Using it again ends the session.
#[utoipa::path(post, path = "/v1/sessions/refresh", tag = "sessions", operation_id = "refresh_session", request_body = Refresh,
    responses((status = 200, description = "Renewed.", body = Tokens), Credentials), security(()))]
pub async fn refresh(state: web::Data<AppState>, body: Body<Refresh>) -> Result<HttpResponse, ApiError> {
    let tokens = accounts::renew(&state, &body.0, clock::now()).await?;
    Ok(tokens_answer(HttpResponse::Ok(), &tokens))
}

/// Log out: ends the session that a refresh token belongs to. A token that is not known has none, which is as good.
#[utoipa::path(delete, path = "/v1/sessions", tag = "sessions", operation_id = "end_session", request_body = Refresh,
    responses((status = 204, description = "The session has ended.")), security(()))]
pub async fn end(state: web::Data<AppState>, body: Body<Refresh>) -> Result<HttpResponse, ApiError> {
    accounts::log_out(&state, &body.0, clock::now()).await?;
    Ok(HttpResponse::NoContent().finish())
}
