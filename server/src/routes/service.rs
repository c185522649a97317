//! What machines ask about the service itself: health, metrics, the keys that check access tokens.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use protocol::ErrorCode;
use serde::Serialize;

use crate::auth::keys::Jwks;
use crate::error::ApiError;
use crate::state::AppState;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/").route(web::get().to(home)))
        .service(web::resource("/health/live").route(web::get().to(live)))
        .service(web::resource("/health/ready").route(web::get().to(ready)))
        .service(web::resource("/metrics").route(web::get().to(metrics)))
        .service(web::resource("/.well-known/jwks.json").route(web::get().to(jwks)));
}

/// Where to read on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Home {
    #[schema(example = "Spillway")]
    service: &'static str,
    #[schema(example = "/docs/")]
    documentation: &'static str,
    #[schema(example = "/openapi.json")]
    openapi: &'static str,
}

/// What this is, for whoever opens the address.
#[utoipa::path(get, path = "/", tag = "service", operation_id = "get_home",
    responses((status = 200, description = "Where to read on.", body = Home)), security(()))]
pub async fn home() -> HttpResponse {
    HttpResponse::Ok().json(Home { service: "Spillway", documentation: "/docs/", openapi: "/openapi.json" })
}

/// The state of an instance.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

const OK: Health = Health { status: "ok" };

/// The process runs.
#[utoipa::path(get, path = "/health/live", tag = "service", operation_id = "get_live",
    responses((status = 200, description = "It does.", body = Health)), security(()))]
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(OK)
}

/// The instance can serve: Postgres and Redis answer, and it was not told to stop.
#[utoipa::path(get, path = "/health/ready", tag = "service", operation_id = "get_ready",
    responses((status = 200, description = "It can.", body = Health)), security(()))]
pub async fn ready(state: web::Data<AppState>) -> Result<HttpResponse, ApiError> {
    let unavailable = |what: &str| ApiError::new(ErrorCode::Unavailable).detail(what).retry_after(1);
    if *state.stopping.borrow() {
        return Err(unavailable("The instance is stopping."));
    }
    state.store.ping().await.map_err(|_| unavailable("The database does not answer."))?;
    state.live.ping().await.map_err(|_| unavailable("Redis does not answer."))?;
    Ok(HttpResponse::Ok().json(OK))
}

/// Counters in Prometheus's text form. Not for the public: a proxy should keep it back.
#[utoipa::path(get, path = "/metrics", tag = "service", operation_id = "get_metrics",
    responses((status = 200, description = "The counters of this instance.", body = String, content_type = "text/plain")), security(()))]
pub async fn metrics(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(state.metrics.render())
}

/// The public keys that check access tokens (RFC 7517).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "service", operation_id = "get_jwks",
    responses((status = 200, description = "The live keys, newest first.", body = Jwks)), security(()))]
pub async fn jwks(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "public, max-age=300")).json(state.keys.jwks())
}
