//! Arguments of `webhook`: addresses that are told of the own events.

use clap::{ArgGroup, Args, Subcommand, value_parser};
use protocol::rest::{EventType, WebhookDeliveryState};
use protocol::{WebhookDeliveryId, WebhookId};

use crate::values::{webhook_delivery_id, webhook_id};

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Have an address told of the own events; prints the secret that signs them, once
    Create(NewWebhookArguments),
    /// Show the own webhooks, and what waits for them or was given up
    List,
    /// Change where a webhook is sent to, for what, or what it says it is for
    Change(ChangeWebhookArguments),
    /// Draw another secret and print it, once; the one before signs, too, for a day
    Rotate(WebhookArguments),
    /// Show what was sent to a webhook, newest first
    Deliveries(DeliveriesArguments),
    /// Send again what was given up
    Retry(RetryArguments),
    /// Send a test and say how it was answered
    Test(WebhookArguments),
    /// Remove a webhook; what waits for it is not sent any more
    Delete(WebhookArguments),
    /// Send to a webhook again
    Enable(WebhookArguments),
    /// Send nothing to a webhook; what waits for it is given up
    Disable(WebhookArguments),
}

#[derive(Debug, Args)]
pub(crate) struct NewWebhookArguments {
    /// Where to send: an https address that the server can reach
    #[arg(value_name = "URL")]
    pub url: String,
    /// Send only events of this type, such as delivery.settled; may be given several times [default: all]
    #[arg(long = "event", value_name = "TYPE", value_parser = |text: &str| text.parse::<EventType>())]
    pub events: Vec<EventType>,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    pub description: String,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["url", "events", "all_events", "description"])))]
pub(crate) struct ChangeWebhookArguments {
    /// The webhook's id, as `webhook list` shows it
    #[arg(value_parser = webhook_id)]
    pub webhook: WebhookId,
    /// Where to send from now on
    #[arg(long)]
    pub url: Option<String>,
    /// Send only events of this type from now on; may be given several times
    #[arg(long = "event", value_name = "TYPE", value_parser = |text: &str| text.parse::<EventType>())]
    pub events: Vec<EventType>,
    /// Send events of all types
    #[arg(long, conflicts_with = "events")]
    pub all_events: bool,
    /// What it is for
    #[arg(long)]
    pub description: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WebhookArguments {
    /// The webhook's id, as `webhook list` shows it
    #[arg(value_parser = webhook_id)]
    pub webhook: WebhookId,
}

#[derive(Debug, Args)]
pub(crate) struct DeliveriesArguments {
    /// The webhook's id, as `webhook list` shows it
    #[arg(value_parser = webhook_id)]
    pub webhook: WebhookId,
    /// Only those that are pending, delivered or dead
    #[arg(long, value_parser = |text: &str| text.parse::<WebhookDeliveryState>())]
    pub state: Option<WebhookDeliveryState>,
    /// How many to show
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = value_parser!(u32).range(1..))]
    pub entries: u32,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["delivery", "dead"])))]
pub(crate) struct RetryArguments {
    /// The webhook's id, as `webhook list` shows it
    #[arg(value_parser = webhook_id)]
    pub webhook: WebhookId,
    /// The delivery's id, as `webhook deliveries` shows it
    #[arg(value_parser = webhook_delivery_id)]
    pub delivery: Option<WebhookDeliveryId>,
    /// All dead letters of the webhook
    #[arg(long)]
    pub dead: bool,
}
