//! Webhooks: where an owner is told of events, and how each telling went. What is sent is signed as Standard Webhooks says.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::ids::{EventId, WebhookDeliveryId, WebhookId};

macro_rules! event_types {
    ($( $(#[$doc:meta])* $variant:ident, $word:literal; )*) => {
        /// What happened. The fields of a type's `data` are only ever added to; what would break a reader gets another name, such as
        /// `release.closed.v2`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum EventType {
            $( $(#[$doc])* #[serde(rename = $word)] $variant, )*
        }

        impl EventType {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

event_types! {
    /// To the publisher.
    ReleaseScheduled, "release.scheduled";
    /// To the publisher: the book is cleared.
    ReleaseClosed, "release.closed";
    /// To the publisher and to all who have won: the first wave begins.
    ReleaseLive, "release.live";
    /// To the publisher: no delivery is pending any more.
    ReleaseSettled, "release.settled";
    /// To the publisher and to all who have applied: it will not begin, and nothing is held for it any more.
    ReleaseCancelled, "release.cancelled";
    /// To the publisher and to all who have won: it was ended in the middle; what has arrived is paid for.
    ReleaseAborted, "release.aborted";
    /// To whoever applied: a place, at a price.
    ApplicationWon, "application.won";
    /// To whoever applied: no place; nothing is held any more.
    ApplicationLost, "application.lost";
    /// To whoever received: what was received and charged.
    DeliverySettled, "delivery.settled";
    /// To whoever was to receive: nothing arrived and nothing is charged.
    DeliveryReleased, "delivery.released";
    /// To whoever relayed for a delivery: what was relayed and earned.
    DeliveryRelayed, "delivery.relayed";
    /// To the publisher: what a delivery brought in.
    DeliverySold, "delivery.sold";
    /// To whoever owed it and to the publisher: a relay duty is over, and what of its deposit was forfeited.
    DutyEnded, "duty.ended";
    /// To whoever redeemed it: its value is in the wallet.
    VoucherRedeemed, "voucher.redeemed";
    /// To its owner: a terminal is shut out for a while, and why.
    TerminalShutOut, "terminal.shut_out";
    /// To its owner: what an operator has decided about that.
    QuarantineRuled, "quarantine.ruled";
    /// Sent when the owner asks for it.
    WebhookTest, "webhook.test";
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no type of event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there are no such events; there are {}", EventType::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "))]
pub struct UnknownEventType;

impl FromStr for EventType {
    type Err = UnknownEventType;

    fn from_str(text: &str) -> Result<Self, UnknownEventType> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or(UnknownEventType)
    }
}

/// The body of what is sent. `data` names what happened by its ids, with the amounts; the rest is read by the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: EventType,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    pub timestamp: OffsetDateTime,
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// An `https` address of a host that the Internet reaches, on port 443 or from 1024 on; no user name in it.
    #[schema(min_length = 1, max_length = 2048)]
    pub url: String,
    /// Only these; every type if none is named.
    #[serde(default)]
    #[schema(max_items = 32)]
    pub events: Vec<EventType>,
    #[serde(default)]
    #[schema(max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub description: String,
}

/// What is to be another one; what is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeWebhook {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(min_length = 1, max_length = 2048)]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(max_items = 32)]
    pub events: Option<Vec<EventType>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub description: Option<String>,
    /// While it is disabled it is told nothing: what happens then is not sent later, and what waits becomes a dead letter.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub enabled: Option<bool>,
}

/// Why nothing is sent to a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// Its owner said so.
    Owner,
    /// It answered 410: whoever stands there wants no more.
    Gone,
    /// Nothing has been taken there for five days.
    Failing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Webhook {
    pub id: WebhookId,
    pub url: String,
    /// Every type if none is named.
    pub events: Vec<EventType>,
    pub description: String,
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disabled_reason: Option<DisabledReason>,
    /// Since when every attempt has failed, if the last one did.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub failing_since: Option<OffsetDateTime>,
    /// Until when the secret before the last rotation signs, too.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub old_secret_until: Option<OffsetDateTime>,
    /// Events that are to be sent.
    pub pending: u32,
    /// Events that were given up.
    pub dead: u32,
    /// Rises with each change by the owner.
    pub version: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A webhook with the secret that signs what is sent to it. The secret is shown this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WebhookSecret {
    #[serde(flatten)]
    pub webhook: Webhook,
    /// `whsec_` and 32 bytes as base64.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub secret: String,
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSecret").field("webhook", &self.webhook).finish_non_exhaustive()
    }
}

/// How far the telling of an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookDeliveryState {
    Pending,
    /// Answered with 2xx.
    Delivered,
    /// Given up: a dead letter. Its owner may have it sent again.
    Dead,
}

impl WebhookDeliveryState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

impl FromStr for WebhookDeliveryState {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let all = [Self::Pending, Self::Delivered, Self::Dead];
        all.into_iter().find(|state| state.as_str() == text).ok_or("expected pending, delivered or dead")
    }
}

/// Why the last attempt brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFailure {
    /// Answered, and not with 2xx; redirects are not followed. `last_status` has the answer.
    Status,
    /// No answer in time.
    Timeout,
    /// No connection, no TLS, or an answer that is no HTTP.
    Connection,
    /// The host's name leads nowhere.
    Unresolved,
    /// The address is not allowed.
    NotAllowed,
    /// The service could not read the secret; rotating it helps.
    Secret,
    /// The webhook was disabled or removed before it was sent.
    Disabled,
}

impl WebhookFailure {
    pub const ALL: [Self; 7] =
        [Self::Status, Self::Timeout, Self::Connection, Self::Unresolved, Self::NotAllowed, Self::Secret, Self::Disabled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Unresolved => "unresolved",
            Self::NotAllowed => "not_allowed",
            Self::Secret => "secret",
            Self::Disabled => "disabled",
        }
    }

    /// Whether it is held against whoever stands at the address.
    pub const fn is_receivers(self) -> bool {
        match self {
            Self::Status | Self::Timeout | Self::Connection | Self::Unresolved | Self::NotAllowed => true,
            Self::Secret | Self::Disabled => false,
        }
    }
}

/// An event on its way to a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WebhookDelivery {
    pub id: WebhookDeliveryId,
    /// The header `webhook-id` of every attempt.
    pub event_id: EventId,
    #[serde(rename = "type")]
    pub kind: EventType,
    pub state: WebhookDeliveryState,
    /// Attempts that have ended; counted anew when it is sent again by hand.
    pub attempts: u32,
    /// The HTTP status of the last answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_failure: Option<WebhookFailure>,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    pub occurred_at: OffsetDateTime,
    /// When it is tried next, at the earliest; while it is being tried, when another try begins if this one is never heard of again.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub due_at: Option<OffsetDateTime>,
    /// When it was delivered or given up.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub ended_at: Option<OffsetDateTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_state_and_failure_is_one_word_everywhere() {
        for kind in EventType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(kind.as_str().parse(), Ok(*kind));
        }
        assert!("release.close".parse::<EventType>().unwrap_err().to_string().contains("release.closed"));
        for state in [WebhookDeliveryState::Pending, WebhookDeliveryState::Delivered, WebhookDeliveryState::Dead] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        for failure in WebhookFailure::ALL {
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.as_str());
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let text = r#"{"id":"01010101-0101-0101-0101-010101010101","url":"https://a.example/","events":[],"description":"","enabled":true,
            "pending":0,"dead":0,"version":1,"created_at":"2026-11-23T12:00:00Z","secret":"whsec_abc"}"#;
        let made: WebhookSecret = serde_json::from_str(text).unwrap();
        assert_eq!(made.secret, "whsec_abc");
        assert!(!format!("{made:?}").contains("whsec_abc"));
    }
}
