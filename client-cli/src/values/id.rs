//! Ids on the command line. What is wrong is said in the words of the help, not with the names of types.

use std::str::FromStr;

use protocol::{ContentId, QuarantineId, ReleaseId, TariffId, TerminalId, WebhookDeliveryId, WebhookId};

/// What an id looks like, for people who have not seen one.
const EXAMPLE: &str = "01a1fc1f-9f34-72a5-bbb5-2ca69802b664";

/// A release's id, as `list` shows it.
pub(crate) fn release_id(text: &str) -> Result<ReleaseId, String> {
    id(text, "a release id", "list")
}

/// A content's id, as `publish` printed it.
pub(crate) fn content_id(text: &str) -> Result<ContentId, String> {
    id(text, "a content id", "contents")
}

/// A tariff's id, as `tariff show` lists it.
pub(crate) fn tariff_id(text: &str) -> Result<TariffId, String> {
    id(text, "a tariff id", "tariff show")
}

/// A webhook's id, as `webhook list` shows it.
pub(crate) fn webhook_id(text: &str) -> Result<WebhookId, String> {
    id(text, "a webhook id", "webhook list")
}

/// The id of what was sent to a webhook, as `webhook deliveries` shows it.
pub(crate) fn webhook_delivery_id(text: &str) -> Result<WebhookDeliveryId, String> {
    id(text, "a delivery id", "webhook deliveries")
}

/// A quarantine's id, as `quarantine list` shows it.
pub(crate) fn quarantine_id(text: &str) -> Result<QuarantineId, String> {
    id(text, "a quarantine id", "quarantine list")
}

/// A terminal's id, as `status` and a release's report show it.
pub(crate) fn terminal_id(text: &str) -> Result<TerminalId, String> {
    id(text, "a terminal id", "report RELEASE")
}

fn id<T: FromStr>(text: &str, what: &str, shown_by: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{what} looks like {EXAMPLE}; see `spillway {shown_by}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_shown() {
        assert_eq!(release_id(EXAMPLE).unwrap().to_string(), EXAMPLE);
        assert_eq!(content_id(EXAMPLE).unwrap().to_string(), EXAMPLE);
    }

    #[test]
    fn what_is_no_id_is_refused_with_an_example_and_without_the_name_of_a_type() {
        for bad in ["", "42", "film", &EXAMPLE[1..], &format!("{EXAMPLE}0")] {
            for error in [release_id(bad).unwrap_err(), content_id(bad).unwrap_err()] {
                assert!(error.contains(EXAMPLE) && error.contains("`spillway "), "{error}");
                assert!(!error.contains("ReleaseId") && !error.contains("ContentId"), "{error}");
            }
        }
    }
}
