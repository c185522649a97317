//! Webhooks and what was sent to them.

use protocol::rest::{ChangeWebhook, NewWebhook, Page, Webhook, WebhookDelivery, WebhookDeliveryState, WebhookSecret};
use protocol::{WebhookDeliveryId, WebhookId};

use super::request::Call;
use super::{Api, ApiError, PageQuery};

impl Api {
    /// Names an address that is told of the own events; the secret that signs them is in this answer and in no other.
    pub async fn create_webhook(&self, new: &NewWebhook) -> Result<WebhookSecret, ApiError> {
        self.call(Call::post("v1/webhooks").json(new).keyed()).await
    }

    /// The own webhooks.
    pub async fn webhooks(&self, page: &PageQuery) -> Result<Page<Webhook>, ApiError> {
        self.call(Call::get("v1/webhooks").page(page)).await
    }

    pub async fn webhook(&self, id: WebhookId) -> Result<Webhook, ApiError> {
        self.call(Call::get(format!("v1/webhooks/{id}"))).await
    }

    /// Changes an own webhook in the version that was `seen`; refused with `precondition_failed` if it has changed since.
    pub async fn change_webhook(&self, id: WebhookId, change: &ChangeWebhook, seen: u32) -> Result<Webhook, ApiError> {
        let call = Call::patch(format!("v1/webhooks/{id}")).json(change).header("If-Match", format!("\"{seen}\""));
        // A repetition after a lost answer would find its own change.
        self.call(call.repeat_if_unreached()).await
    }

    pub async fn remove_webhook(&self, id: WebhookId) -> Result<(), ApiError> {
        self.call_empty(Call::delete(format!("v1/webhooks/{id}")).repeat_if_unreached()).await
    }

    /// Draws another secret; the one before signs, too, for a day.
    pub async fn rotate_webhook_secret(&self, id: WebhookId) -> Result<WebhookSecret, ApiError> {
        self.call(Call::post(format!("v1/webhooks/{id}/rotate-secret")).keyed()).await
    }

    /// Has a `webhook.test` sent.
    pub async fn test_webhook(&self, id: WebhookId) -> Result<WebhookDelivery, ApiError> {
        self.call(Call::post(format!("v1/webhooks/{id}/test"))).await
    }

    /// What was sent to an own webhook, newest first; of one state, if it is named.
    pub async fn webhook_deliveries(
        &self,
        id: WebhookId,
        state: Option<WebhookDeliveryState>,
        page: &PageQuery,
    ) -> Result<Page<WebhookDelivery>, ApiError> {
        let call = Call::get(format!("v1/webhooks/{id}/deliveries")).page(page);
        self.call(match state {
            Some(state) => call.query("state", state.as_str()),
            None => call,
        })
        .await
    }

    pub async fn webhook_delivery(&self, id: WebhookId, delivery: WebhookDeliveryId) -> Result<WebhookDelivery, ApiError> {
        self.call(Call::get(format!("v1/webhooks/{id}/deliveries/{delivery}"))).await
    }

    /// Has a dead letter sent again, or what waits sent now.
    pub async fn retry_webhook_delivery(&self, id: WebhookId, delivery: WebhookDeliveryId) -> Result<WebhookDelivery, ApiError> {
        self.call(Call::post(format!("v1/webhooks/{id}/deliveries/{delivery}/retry"))).await
    }
}
