//! `/v1/tariffs`: prices and shares of downloads, in versions that are never edited.

use actix_web::{HttpRequest, HttpResponse, web};
use protocol::TariffId;
use protocol::rest::{NewTariff, Page, Tariff, TariffTerms};

use super::answers::once_versioned;
use super::input::headers::{IfMatch, etag};
use super::input::query::{PagingParameters, Query, cursor_fault};
use super::input::{Body, IdempotencyKey, Paging};
use super::refusals::{Conflict, NotFound, Precondition, Unprocessable};
use crate::app::tariffs;
use crate::auth::{Caller, Publisher};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

/// As large as versions are stored.
const VERSION_MAX: u32 = 2_147_483_647;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/tariffs").route(web::post().to(create)).route(web::get().to(list)))
        .service(web::resource("/v1/tariffs/{id}").route(web::get().to(get)))
        .service(web::resource("/v1/tariffs/{id}/versions").route(web::post().to(change)));
}

/// Make a tariff in its first version. Publishers only.
#[utoipa::path(post, path = "/v1/tariffs", tag = "downloads", operation_id = "create_tariff",
    params(("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")), request_body = NewTariff,
    responses((status = 201, description = "Made.", body = Tariff, headers(("ETag" = String))), Conflict, Unprocessable))]
pub async fn create(
    state: web::Data<AppState>,
    publisher: Publisher,
    key: IdempotencyKey,
    body: Body<NewTariff>,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(publisher.user_id, &body.0)?;
    once_versioned(&tariffs::create(&state, body.0, request, clock::now()).await?)
}

/// The own tariffs in their latest versions, oldest first. Publishers only.
#[utoipa::path(get, path = "/v1/tariffs", tag = "downloads", operation_id = "list_tariffs", params(PagingParameters),
    responses((status = 200, description = "A page of tariffs.", body = Page<Tariff>)))]
pub async fn list(state: web::Data<AppState>, publisher: Publisher, paging: Paging) -> Result<HttpResponse, ApiError> {
    let page = state.store.tariffs(publisher.user_id, &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// A tariff in its latest version, or in the one that is named: what a price followed from can be read for as long as the price is on a statement.
#[utoipa::path(get, path = "/v1/tariffs/{id}", tag = "downloads", operation_id = "get_tariff",
    params(("id" = TariffId, Path), ("version" = Option<u32>, Query, minimum = 1, maximum = 2_147_483_647)),
    responses((status = 200, description = "The tariff.", body = Tariff, headers(("ETag" = String))), NotFound))]
pub async fn get(state: web::Data<AppState>, _: Caller, id: web::Path<TariffId>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut query = Query::of(&request)?;
    let version = query.take("version")?.map(|version| version.parse::<u32>()).transpose();
    let version = version.ok().filter(|version| version.is_none_or(|version| (1..=VERSION_MAX).contains(&version)));
    let version = version.ok_or_else(|| ApiError::invalid("query/version", "expected a number from 1 to 2147483647"))?;
    query.done()?;
    let tariff = state.store.tariff(*id, version).await?;
    Ok(HttpResponse::Ok().insert_header(etag(tariff.version)).json(tariff))
}

/// Add a version to an own tariff: downloads that are asked for from now on are under it. Publishers only.
#[utoipa::path(post, path = "/v1/tariffs/{id}/versions", tag = "downloads", operation_id = "change_tariff",
    params(("id" = TariffId, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was seen, or `*`. Without it the answer is 428."),
        ("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")),
    request_body = TariffTerms,
    responses((status = 201, description = "Added.", body = Tariff, headers(("ETag" = String))), NotFound, Conflict, Precondition, Unprocessable))]
pub async fn change(
    state: web::Data<AppState>,
    publisher: Publisher,
    id: web::Path<TariffId>,
    seen: IfMatch,
    key: IdempotencyKey,
    body: Body<TariffTerms>,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(publisher.user_id, &(*id, seen.version(), &body.0))?;
    once_versioned(&tariffs::change(&state, *id, seen.version(), body.0, request, clock::now()).await?)
}
