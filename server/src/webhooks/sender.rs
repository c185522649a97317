//! One attempt: a signed POST, and what came of it.

#[cfg(test)]
mod tests;

use std::error::Error as StdError;
use std::time::Duration;

use protocol::rest::WebhookFailure;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response, redirect};

use super::address::{Addresses, NotAllowed, Unresolved};
use super::signature::{self, Secret};

/// What of an answer's body is read, so that its sender is not cut off in the middle of a line; nobody is shown it.
const ANSWER_MAX: usize = 4 << 10;
/// How long for: the status is all that counts.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What is sent.
#[derive(Debug)]
pub struct Message<'a> {
    pub url: &'a str,
    /// The same in every attempt.
    pub id: String,
    pub body: Vec<u8>,
    /// The newest first.
    pub secrets: &'a [Secret],
    /// The time of this attempt, in seconds since 1970.
    pub timestamp: i64,
}

/// An attempt that brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    pub failure: WebhookFailure,
    pub status: Option<u16>,
}

impl Failed {
    pub(crate) fn by(failure: WebhookFailure) -> Self {
        Self { failure, status: None }
    }
}

/// Sends to owners' addresses. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sender {
    client: Client,
    pub addresses: Addresses,
    timeout: Duration,
}

impl Sender {
    /// An attempt may take `timeout`, from looking the name up to the head of the answer.
    ///
    /// # Errors
    /// The machine has no usable TLS.
    pub fn new(addresses: Addresses, timeout: Duration) -> reqwest::Result<Self> {
        let client = Client::builder()
            .user_agent(concat!("spillway-webhooks/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(addresses.clone())
            // A proxy would look the name up itself.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            // Each attempt looks up and checks anew, and no owner keeps a connection of ours.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { client, addresses, timeout })
    }

    /// How long an attempt may take, with what is read of an answer.
    pub fn attempt_max(&self) -> Duration {
        self.timeout + ANSWER_WITHIN
    }

    /// Sends once; the status of an answer with 2xx.
    ///
    /// # Errors
    /// Anything else.
    pub async fn send(&self, message: Message<'_>) -> Result<u16, Failed> {
        // Once more: what is allowed may have changed since the owner stated it.
        let url = self.addresses.check(message.url).map_err(|_| Failed::by(WebhookFailure::NotAllowed))?;
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", message.timestamp)
            .header("webhook-signature", signature::header(message.secrets, &message.id, message.timestamp, &message.body))
            .body(message.body);
        let answer = tokio::time::timeout(self.timeout, request.send()).await.map_err(|_| Failed::by(WebhookFailure::Timeout))?;
        let answer = answer.map_err(|error| Failed::by(failure_of(&error)))?;
        let status = answer.status();
        // However that ends.
        let _ = tokio::time::timeout(ANSWER_WITHIN, pass_over(answer)).await;
        if status.is_success() {
            return Ok(status.as_u16());
        }
        Err(Failed { failure: WebhookFailure::Status, status: Some(status.as_u16()) })
    }
}

async fn pass_over(mut answer: Response) {
    let mut read = 0;
    while read < ANSWER_MAX
        && let Ok(Some(piece)) = answer.chunk().await
    {
        read += piece.len();
    }
}

fn failure_of(error: &reqwest::Error) -> WebhookFailure {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<NotAllowed>() {
            return WebhookFailure::NotAllowed;
        }
        if error.is::<Unresolved>() {
            return WebhookFailure::Unresolved;
        }
        cause = error.source();
    }
    if error.is_timeout() { WebhookFailure::Timeout } else { WebhookFailure::Connection }
}
