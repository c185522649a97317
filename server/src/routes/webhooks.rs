//! `/v1/webhooks`: where the caller is told of events, and how each telling went.

use actix_web::{HttpRequest, HttpResponse, web};
use protocol::rest::{ChangeWebhook, NewWebhook, Page, Webhook, WebhookDelivery, WebhookDeliveryState, WebhookSecret};
use protocol::{WebhookDeliveryId, WebhookId};

use super::answers::once_versioned;
use super::input::headers::etag;
use super::input::query::{PagingParameters, Query, cursor_fault};
use super::input::{Body, IdempotencyKey, IfMatch, Paging};
use super::refusals::{Conflict, NotFound, Precondition, Unprocessable};
use crate::app::webhooks;
use crate::auth::Caller;
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    let one = web::resource("/v1/webhooks/{id}");
    let delivery = "/v1/webhooks/{id}/deliveries/{delivery_id}";
    config
        .service(web::resource("/v1/webhooks").route(web::post().to(create)).route(web::get().to(list)))
        .service(one.route(web::get().to(get)).route(web::patch().to(change)).route(web::delete().to(remove)))
        .service(web::resource("/v1/webhooks/{id}/rotate-secret").route(web::post().to(rotate)))
        .service(web::resource("/v1/webhooks/{id}/test").route(web::post().to(test)))
        .service(web::resource("/v1/webhooks/{id}/deliveries").route(web::get().to(deliveries)))
        .service(web::resource(delivery).route(web::get().to(delivered)))
        .service(web::resource(format!("{delivery}/retry")).route(web::post().to(retry)));
}

fn tagged(webhook: &Webhook) -> HttpResponse {
    HttpResponse::Ok().insert_header(etag(webhook.version)).json(webhook)
}

/// Name an address that is told of the caller's events. The secret that signs them is in this answer and in no other.
#[utoipa::path(post, path = "/v1/webhooks", tag = "webhooks", operation_id = "create_webhook",
    params(("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")), request_body = NewWebhook,
    responses((status = 201, description = "Made.", body = WebhookSecret, headers(("ETag" = String))), Conflict, Unprocessable))]
pub async fn create(
    state: web::Data<AppState>,
    caller: Caller,
    key: IdempotencyKey,
    body: Body<NewWebhook>,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(caller.user_id, &body.0)?;
    once_versioned(&webhooks::create(&state, body.0, request, clock::now()).await?)
}

/// The own webhooks, oldest first.
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks", operation_id = "list_webhooks", params(PagingParameters),
    responses((status = 200, description = "A page of webhooks.", body = Page<Webhook>)))]
pub async fn list(state: web::Data<AppState>, caller: Caller, paging: Paging) -> Result<HttpResponse, ApiError> {
    let page = state.store.webhooks(caller.user_id, &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// One of the own webhooks.
#[utoipa::path(get, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "get_webhook", params(("id" = WebhookId, Path)),
    responses((status = 200, description = "The webhook.", body = Webhook, headers(("ETag" = String))), NotFound))]
pub async fn get(state: web::Data<AppState>, caller: Caller, id: web::Path<WebhookId>) -> Result<HttpResponse, ApiError> {
    Ok(tagged(&state.store.webhook(caller.user_id, *id).await?))
}

/// Change an own webhook, disable it, or enable it again. What is absent stays.
#[utoipa::path(patch, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "change_webhook",
    params(("id" = WebhookId, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that was seen, or `*`. Without it the answer is 428.")),
    request_body = ChangeWebhook,
    responses((status = 200, description = "Changed.", body = Webhook, headers(("ETag" = String))), NotFound, Precondition))]
pub async fn change(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<WebhookId>,
    seen: IfMatch,
    body: Body<ChangeWebhook>,
) -> Result<HttpResponse, ApiError> {
    Ok(tagged(&webhooks::change(&state, caller.user_id, *id, seen.version(), body.0).await?))
}

/// Remove an own webhook. What waits for it is not sent any more.
#[utoipa::path(delete, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "remove_webhook", params(("id" = WebhookId, Path)),
    responses((status = 204, description = "Removed."), NotFound))]
pub async fn remove(state: web::Data<AppState>, caller: Caller, id: web::Path<WebhookId>) -> Result<HttpResponse, ApiError> {
    let (store, id) = (state.store.clone(), id.into_inner());
    state.to_the_end(async move { store.remove_webhook(caller.user_id, id).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Draw another secret, which is in this answer and in no other. For a day what is sent is signed by the one before, too.
#[utoipa::path(post, path = "/v1/webhooks/{id}/rotate-secret", tag = "webhooks", operation_id = "rotate_webhook_secret",
    params(("id" = WebhookId, Path), ("Idempotency-Key" = String, Header, min_length = 1, max_length = 128, pattern = "^[!-~]+$")),
    responses((status = 200, description = "Rotated.", body = WebhookSecret, headers(("ETag" = String))), NotFound, Conflict, Unprocessable))]
pub async fn rotate(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<WebhookId>,
    key: IdempotencyKey,
) -> Result<HttpResponse, ApiError> {
    let request = key.of(caller.user_id, &())?;
    once_versioned(&webhooks::rotate(&state, *id, request, clock::now()).await?)
}

/// Send a `webhook.test`, whatever types the webhook wants. While one waits to be sent, that one is answered.
#[utoipa::path(post, path = "/v1/webhooks/{id}/test", tag = "webhooks", operation_id = "test_webhook", params(("id" = WebhookId, Path)),
    responses((status = 202, description = "It is sent.", body = WebhookDelivery), NotFound, Conflict))]
pub async fn test(state: web::Data<AppState>, caller: Caller, id: web::Path<WebhookId>) -> Result<HttpResponse, ApiError> {
    let (store, id, now) = (state.store.clone(), id.into_inner(), clock::now());
    let test = state.to_the_end(async move { store.test_webhook(caller.user_id, id, now).await }).await?;
    Ok(HttpResponse::Accepted().json(test))
}

/// What was sent to an own webhook, or is to be, newest first; 30 days of it.
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks", operation_id = "list_webhook_deliveries",
    params(("id" = WebhookId, Path), ("state" = Option<WebhookDeliveryState>, Query), PagingParameters),
    responses((status = 200, description = "A page of deliveries.", body = Page<WebhookDelivery>), NotFound))]
pub async fn deliveries(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<WebhookId>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let mut query = Query::of(&request)?;
    let wanted = query.take("state")?.map(|state| state.parse::<WebhookDeliveryState>()).transpose();
    let wanted = wanted.map_err(|expected| ApiError::invalid("query/state", expected))?;
    let paging = query.paging()?;
    query.done()?;
    let page = state.store.webhook_deliveries(caller.user_id, *id, wanted, &paging.0).await.map_err(cursor_fault)?;
    Ok(HttpResponse::Ok().json(page))
}

/// One of what was sent to an own webhook.
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries/{delivery_id}", tag = "webhooks", operation_id = "get_webhook_delivery",
    params(("id" = WebhookId, Path), ("delivery_id" = WebhookDeliveryId, Path)),
    responses((status = 200, description = "The delivery.", body = WebhookDelivery), NotFound))]
pub async fn delivered(
    state: web::Data<AppState>,
    caller: Caller,
    ids: web::Path<(WebhookId, WebhookDeliveryId)>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(state.store.webhook_delivery(caller.user_id, ids.0, ids.1).await?))
}

/// Have a dead letter sent again, or what waits sent now.
#[utoipa::path(post, path = "/v1/webhooks/{id}/deliveries/{delivery_id}/retry", tag = "webhooks", operation_id = "retry_webhook_delivery",
    params(("id" = WebhookId, Path), ("delivery_id" = WebhookDeliveryId, Path)),
    responses((status = 202, description = "It is sent.", body = WebhookDelivery), NotFound, Conflict))]
pub async fn retry(
    state: web::Data<AppState>,
    caller: Caller,
    ids: web::Path<(WebhookId, WebhookDeliveryId)>,
) -> Result<HttpResponse, ApiError> {
    let (store, (webhook_id, id), now) = (state.store.clone(), ids.into_inner(), clock::now());
    let retried = state.to_the_end(async move { store.retry_delivery(caller.user_id, webhook_id, id, now).await }).await?;
    Ok(HttpResponse::Accepted().json(retried))
}
