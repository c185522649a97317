//! Webhooks: made, changed, and their secrets drawn, wrapped, and shown to who has asked for them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::rest::{ChangeWebhook, EventType, NewWebhook, Webhook, WebhookSecret};
use protocol::{UserId, WebhookId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::checks::Checks;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::idempotency::{Answer, Idempotency};
use crate::store::webhooks::WRAPPED;
use crate::webhooks::signature::Secret;

/// More names than there are types of events.
const EVENTS_MAX: u64 = 32;

/// # Errors
/// `invalid_request` names what cannot be; else the store's.
pub async fn create(state: &AppState, new: NewWebhook, request: Idempotency, now: OffsetDateTime) -> Result<Answer, ApiError> {
    let mut checks = Checks::default();
    check(&mut checks, state, Some(&new.url), Some(&new.events), Some(&new.description));
    checks.done()?;
    let id = WebhookId(Uuid::now_v7());
    let wrapped = fresh_secret(state, id)?;
    let store = state.store.clone();
    let answer = state.to_the_end(async move { store.create_webhook(id, &new, &wrapped, &request, now).await }).await?;
    show_secret(state, answer)
}

/// `version` is the one that the client has seen; none stands for whichever it is.
///
/// # Errors
/// `invalid_request` names what cannot be; else the store's.
pub async fn change(
    state: &AppState,
    user_id: UserId,
    id: WebhookId,
    version: Option<u32>,
    change: ChangeWebhook,
) -> Result<Webhook, ApiError> {
    let mut checks = Checks::default();
    check(&mut checks, state, change.url.as_deref(), change.events.as_deref(), change.description.as_deref());
    checks.done()?;
    let store = state.store.clone();
    state.to_the_end(async move { store.change_webhook(user_id, id, version, &change).await }).await
}

/// # Errors
/// The store's.
pub async fn rotate(state: &AppState, id: WebhookId, request: Idempotency, now: OffsetDateTime) -> Result<Answer, ApiError> {
    let wrapped = fresh_secret(state, id)?;
    let store = state.store.clone();
    let answer = state.to_the_end(async move { store.rotate_webhook(id, &wrapped, &request, now).await }).await?;
    show_secret(state, answer)
}

fn check(checks: &mut Checks, state: &AppState, url: Option<&str>, events: Option<&[EventType]>, description: Option<&str>) {
    if let Some(url) = url
        && let Err(fault) = state.webhooks.addresses.check(url)
    {
        checks.ensure(false, "/url", fault);
    }
    if let Some(events) = events {
        checks.count("/events", events.len() as u64, 0..=EVENTS_MAX);
    }
    if let Some(description) = description {
        checks.text("/description", description, 0..=200);
    }
}

/// A secret is wrapped for its webhook: beside another one it is worth nothing.
fn context(id: WebhookId) -> Vec<u8> {
    [b"spillway webhook secret v1 ".as_slice(), &id.to_bytes()].concat()
}

fn fresh_secret(state: &AppState, id: WebhookId) -> Result<Vec<u8>, ApiError> {
    let secret = Secret::draw().map_err(ApiError::internal)?;
    state.secrets.wrap(&context(id), secret.bytes()).map_err(ApiError::internal)
}

/// The secret of a webhook, if it can be read.
pub(crate) fn secret_of(state: &AppState, id: WebhookId, wrapped: &[u8]) -> Option<Secret> {
    state.secrets.unwrap(&context(id), wrapped).map(Secret::from_bytes)
}

/// The stored answer has the secret wrapped; who is answered is shown it.
fn show_secret(state: &AppState, answer: Answer) -> Result<Answer, ApiError> {
    let webhook: Webhook = answer.read()?;
    let wrapped = answer.body.get(WRAPPED).and_then(serde_json::Value::as_str).and_then(|text| BASE64_STANDARD.decode(text).ok());
    let secret = wrapped.and_then(|wrapped| secret_of(state, webhook.id, &wrapped));
    let secret = secret.ok_or_else(|| ApiError::internal("a webhook's secret cannot be read"))?.shown();
    let body = serde_json::to_value(WebhookSecret { webhook, secret }).map_err(ApiError::internal)?;
    Ok(Answer { body, ..answer })
}
