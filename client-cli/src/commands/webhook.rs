//! `webhook`: addresses that are told of the own events.

use std::time::Duration;

use protocol::WebhookId;
use protocol::rest::{ChangeWebhook, NewWebhook, WebhookDelivery, WebhookDeliveryState, WebhookSecret};
use terminal::api::{Api, PageQuery};
use tokio::time::Instant;

use super::{PAGE_ITEMS, all_pages};
use crate::arguments::{DeliveriesArguments, RetryArguments, WebhookCommand};
use crate::failure::{Failure, Outcome};
use crate::folder::Folder;
use crate::screen::{Report, attempt_line, secret_page, webhook_deliveries_table, webhooks_page};
use crate::session::Login;

/// How long the first attempt of a test is waited for: longer than a receiver may take to answer.
const TEST_WITHIN: Duration = Duration::from_secs(70);
/// How often it is asked for.
const TEST_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn webhook(command: WebhookCommand, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    match command {
        WebhookCommand::Create(arguments) => {
            let new = NewWebhook { url: arguments.url, events: arguments.events, description: arguments.description };
            secret(&api.create_webhook(&new).await?)
        }
        WebhookCommand::Rotate(arguments) => secret(&api.rotate_webhook_secret(arguments.webhook).await?),
        WebhookCommand::List => {
            let webhooks = all_pages(async |page| api.webhooks(page).await).await?;
            let text = webhooks_page(&webhooks);
            Report::new(&webhooks, text)
        }
        WebhookCommand::Deliveries(arguments) => deliveries(&api, arguments).await,
        WebhookCommand::Retry(arguments) => retry(&api, arguments).await,
        WebhookCommand::Test(arguments) => test(&api, arguments.webhook).await,
        WebhookCommand::Delete(arguments) => {
            api.remove_webhook(arguments.webhook).await?;
            Report::new(&arguments.webhook, format!("Removed {}. Nothing more is sent there.", arguments.webhook))
        }
        WebhookCommand::Change(arguments) => {
            let events = (arguments.all_events || !arguments.events.is_empty()).then_some(arguments.events);
            let change = ChangeWebhook { url: arguments.url, events, description: arguments.description, ..ChangeWebhook::default() };
            changed(&api, arguments.webhook, &change).await
        }
        WebhookCommand::Enable(arguments) => enable(&api, arguments.webhook, true).await,
        WebhookCommand::Disable(arguments) => enable(&api, arguments.webhook, false).await,
    }
}

fn secret(made: &WebhookSecret) -> Outcome<Report> {
    Report::new(made, secret_page(made))
}

async fn enable(api: &Api, id: WebhookId, enabled: bool) -> Outcome<Report> {
    changed(api, id, &ChangeWebhook { enabled: Some(enabled), ..ChangeWebhook::default() }).await
}

async fn changed(api: &Api, id: WebhookId, change: &ChangeWebhook) -> Outcome<Report> {
    let present = api.webhook(id).await?;
    let changed = api.change_webhook(id, change, present.version).await?;
    Report::new(&changed, webhooks_page(std::slice::from_ref(&changed)))
}

async fn deliveries(api: &Api, arguments: DeliveriesArguments) -> Outcome<Report> {
    let wanted = usize::try_from(arguments.entries).unwrap_or(usize::MAX);
    let mut items: Vec<WebhookDelivery> = Vec::new();
    let mut query = PageQuery { limit: Some(arguments.entries.min(PAGE_ITEMS)), cursor: None };
    loop {
        let page = api.webhook_deliveries(arguments.webhook, arguments.state, &query).await?;
        items.extend(page.items);
        match page.next_cursor {
            Some(cursor) if items.len() < wanted && query.cursor.as_ref() != Some(&cursor) => query.cursor = Some(cursor),
            Some(_) | None => break,
        }
    }
    items.truncate(wanted);
    let text = webhook_deliveries_table(&items);
    Report::new(&items, text)
}

async fn retry(api: &Api, arguments: RetryArguments) -> Outcome<Report> {
    let id = arguments.webhook;
    let chosen = match arguments.delivery {
        Some(delivery) => vec![delivery],
        None => {
            let dead = Some(WebhookDeliveryState::Dead);
            let letters = all_pages(async |page| api.webhook_deliveries(id, dead, page).await).await?;
            letters.into_iter().map(|letter| letter.id).collect()
        }
    };
    let mut retried = Vec::with_capacity(chosen.len());
    for delivery in chosen {
        retried.push(api.retry_webhook_delivery(id, delivery).await?);
    }
    let text = match retried.as_slice() {
        [] => "There is no dead letter.".to_owned(),
        [_] => "1 event is sent again.".to_owned(),
        several => format!("{} events are sent again.", several.len()),
    };
    Report::new(&retried, text)
}

/// Sends a test and waits for what its first attempt brings.
async fn test(api: &Api, id: WebhookId) -> Outcome<Report> {
    let begun = Instant::now();
    let sent = api.test_webhook(id).await?;
    let mut present = sent.clone();
    while present.attempts == sent.attempts && present.state == WebhookDeliveryState::Pending {
        if begun.elapsed() > TEST_WITHIN {
            return Err(Failure::Failed("the test was not sent in time; `spillway webhook deliveries` shows how it went on".into()));
        }
        tokio::time::sleep(TEST_EVERY).await;
        present = api.webhook_delivery(id, sent.id).await?;
    }
    if present.state == WebhookDeliveryState::Delivered {
        return Report::new(&present, format!("Delivered: {}.", attempt_line(&present)));
    }
    let again = if present.state == WebhookDeliveryState::Pending { "; it is tried again" } else { "" };
    Err(Failure::Failed(format!("the test was not taken: {}{again}", attempt_line(&present))))
}
