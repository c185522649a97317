//! Webhooks and what was sent to them, as text.

use protocol::rest::{DisabledReason, Webhook, WebhookDelivery, WebhookFailure, WebhookSecret};

use super::table::table;
use super::{clean, date_time};

/// A few lines per webhook.
pub(crate) fn webhooks_page(webhooks: &[Webhook]) -> String {
    if webhooks.is_empty() {
        return "No webhooks. `spillway webhook create` makes one.\n".into();
    }
    let pages: Vec<String> = webhooks.iter().map(webhook_lines).collect();
    pages.join("\n")
}

fn webhook_lines(webhook: &Webhook) -> String {
    let mut lines = format!("{}  {}\n{}\n", webhook.id, state_words(webhook), clean(&webhook.url));
    if !webhook.description.is_empty() {
        lines.push_str(&format!("  {}\n", clean(&webhook.description)));
    }
    for events in webhook.events.chunks(3) {
        let names: Vec<&str> = events.iter().map(|kind| kind.as_str()).collect();
        lines.push_str(&format!("  only {}\n", names.join(", ")));
    }
    let letters = if webhook.dead == 1 { "letter" } else { "letters" };
    lines.push_str(&format!("  {} to be sent, {} dead {letters}\n", webhook.pending, webhook.dead));
    if let Some(since) = webhook.failing_since {
        lines.push_str(&format!("  nothing taken since {}\n", date_time(since)));
    }
    if let Some(until) = webhook.old_secret_until {
        lines.push_str(&format!("  signed by the old secret, too, until {}\n", date_time(until)));
    }
    lines
}

fn state_words(webhook: &Webhook) -> &'static str {
    match webhook.disabled_reason {
        None => "enabled",
        Some(DisabledReason::Owner) => "disabled",
        Some(DisabledReason::Gone) => "disabled: it answered 410, gone",
        Some(DisabledReason::Failing) => "disabled: five days of failures",
    }
}

/// A webhook with its secret.
pub(crate) fn secret_page(made: &WebhookSecret) -> String {
    format!("{}\nIts secret, shown this once:\n{}\n", webhook_lines(&made.webhook), clean(&made.secret))
}

/// One line per event.
pub(crate) fn webhook_deliveries_table(deliveries: &[WebhookDelivery]) -> String {
    if deliveries.is_empty() {
        return "Nothing was sent there in the last 30 days.\n".into();
    }
    let row = |delivery: &WebhookDelivery| {
        vec![delivery.id.to_string(), delivery.state.as_str().to_owned(), delivery.kind.to_string(), last_word(delivery)]
    };
    table(&["DELIVERY", "STATE", "EVENT", "LAST"], &deliveries.iter().map(row).collect::<Vec<_>>())
}

/// How the last attempt went, in a word.
fn last_word(delivery: &WebhookDelivery) -> String {
    match (delivery.last_failure, delivery.last_status) {
        (Some(WebhookFailure::Status) | None, Some(status)) => status.to_string(),
        (Some(WebhookFailure::NotAllowed), _) => "not allowed".to_owned(),
        (Some(failure), _) => failure.as_str().to_owned(),
        (None, None) => "-".to_owned(),
    }
}

/// How the last attempt went, in a sentence's part.
pub(crate) fn attempt_line(delivery: &WebhookDelivery) -> String {
    match (delivery.last_failure, delivery.last_status) {
        (Some(WebhookFailure::Status) | None, Some(status)) => format!("it answered {status}"),
        (Some(WebhookFailure::Status) | None, None) => "it has not been tried".to_owned(),
        (Some(WebhookFailure::Timeout), _) => "it did not answer in time".to_owned(),
        (Some(WebhookFailure::Connection), _) => "no connection could be made".to_owned(),
        (Some(WebhookFailure::Unresolved), _) => "the name of its host leads nowhere".to_owned(),
        (Some(WebhookFailure::NotAllowed), _) => "the address is not allowed".to_owned(),
        (Some(WebhookFailure::Secret), _) => "the server cannot read its secret; `spillway webhook rotate` helps".to_owned(),
        (Some(WebhookFailure::Disabled), _) => "the webhook was disabled".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{LINE_CHARACTERS_MAX, width};
    use super::*;
    use protocol::rest::{EventType, WebhookDeliveryState};
    use protocol::{EventId, WebhookDeliveryId, WebhookId};
    use time::macros::datetime;

    fn webhook() -> Webhook {
        Webhook {
            id: WebhookId::from_bytes([1; 16]),
            url: "https://example.org/spillway".into(),
            events: EventType::ALL[..4].to_vec(),
            description: "accounts".into(),
            enabled: false,
            disabled_reason: Some(DisabledReason::Failing),
            failing_since: Some(datetime!(2026-11-21 12:00:05 UTC)),
            old_secret_until: Some(datetime!(2026-11-22 12:00:05 UTC)),
            pending: 2,
            dead: 1,
            version: 3,
            created_at: datetime!(2026-11-20 12:00 UTC),
        }
    }

    fn delivery(kind: EventType, failure: Option<WebhookFailure>, status: Option<u16>) -> WebhookDelivery {
        WebhookDelivery {
            id: WebhookDeliveryId::from_bytes([2; 16]),
            event_id: EventId::from_bytes([3; 16]),
            kind,
            state: WebhookDeliveryState::Delivered,
            attempts: 1,
            last_status: status,
            last_failure: failure,
            occurred_at: datetime!(2026-11-21 12:00 UTC),
            due_at: None,
            ended_at: None,
        }
    }

    #[test]
    fn a_webhook_says_why_it_is_disabled_and_what_waits_within_eighty_columns() {
        let page = webhooks_page(&[webhook()]);
        for part in [
            "disabled: five days of failures",
            "2 to be sent, 1 dead letter\n",
            "nothing taken since 2026-11-21 12:00:05Z",
            "release.live\n  only release.settled",
            "until 2026-11-22",
        ] {
            assert!(page.contains(part), "no {part} in\n{page}");
        }
        assert!(page.lines().all(|line| width(line) <= LINE_CHARACTERS_MAX), "{page}");
        let shown = secret_page(&WebhookSecret { webhook: webhook(), secret: "whsec_x".into() });
        assert!(shown.ends_with("shown this once:\nwhsec_x\n"), "{shown}");
        assert!(webhooks_page(&[]).contains("webhook create"));
    }

    #[test]
    fn each_way_an_attempt_can_end_has_a_word_that_fits_its_line() {
        let longest = EventType::ALL.iter().max_by_key(|kind| kind.as_str().len()).unwrap();
        for failure in WebhookFailure::ALL {
            let row = delivery(*longest, Some(failure), None);
            let text = webhook_deliveries_table(std::slice::from_ref(&row));
            assert!(text.lines().all(|line| width(line) <= LINE_CHARACTERS_MAX) && !text.contains('…'), "{text}");
            assert!(!attempt_line(&row).is_empty());
        }
        let answered = delivery(EventType::WebhookTest, Some(WebhookFailure::Status), Some(503));
        assert!(webhook_deliveries_table(std::slice::from_ref(&answered)).ends_with("webhook.test  503\n"));
        assert_eq!(attempt_line(&answered), "it answered 503");
    }
}
