//! The REST API as typed calls: one method per operation, one error type.
//!
//! Flow of a call: the token is asked of the [`TokenProvider`] → the request is sent → a 401 renews the token once → a failure that a repetition can
//! cure (no connection, 503, a busy idempotency key) is tried again after a growing wait. An operation that changes money carries one
//! `Idempotency-Key` over all its attempts, so that a lost answer never pays twice; an operation that is neither idempotent nor keyed is only repeated
//! where the server cannot have acted on it.

mod account;
mod content;
mod download;
mod error;
mod measurement;
mod quarantine;
mod release;
mod request;
mod session;
#[cfg(test)]
mod tests;
mod transfer;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

pub use error::ApiError;
pub use measurement::Measured;
pub use session::{FixedToken, Session, TokenError, TokenProvider};
pub use transfer::MANIFEST_BYTES_MAX;

/// A host that accepts no connection in this time is treated as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The client of one server. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    base: reqwest::Url,
    tokens: Option<Arc<dyn TokenProvider>>,
}

/// Which page of a list to read: `limit` of 1 to 100 items from `cursor` on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageQuery {
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

impl PageQuery {
    /// The page after one that named `next_cursor`.
    #[must_use]
    pub fn after(cursor: String) -> Self {
        Self { limit: None, cursor: Some(cursor) }
    }
}

impl Api {
    /// A client without a login, for `server` such as `https://spillway.example` or `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// [`ApiError::Address`] if that is not an HTTP address.
    pub fn new(server: &str) -> Result<Self, ApiError> {
        let address = || ApiError::Address(server.chars().take(200).collect());
        let mut base = reqwest::Url::parse(server).map_err(|_| address())?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(address());
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        base.set_query(None);
        base.set_fragment(None);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("spillway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect could carry the token to another host; the API has none.
            .redirect(reqwest::redirect::Policy::none());
        if base.scheme() == "http" {
            // Without TLS there is nothing to verify, and a machine without certificates can still use a local server.
            builder = builder.tls_certs_only([]);
        }
        if matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(ApiError::network)?;
        Ok(Self { http, base, tokens: None })
    }

    /// The same client with the tokens of a logged-in user.
    #[must_use]
    pub fn with_tokens(&self, tokens: Arc<dyn TokenProvider>) -> Self {
        Self { tokens: Some(tokens), ..self.clone() }
    }

    /// Where the tokens of this client come from.
    #[must_use]
    pub fn tokens(&self) -> Option<&Arc<dyn TokenProvider>> {
        self.tokens.as_ref()
    }

    /// The address of the terminal's WebSocket.
    #[must_use]
    pub fn websocket_address(&self) -> String {
        let mut url = self.base.clone();
        url.set_path(&format!("{}v1/ws", self.base.path()));
        let address = url.as_str();
        // `http` → `ws` and `https` → `wss`; the URL type refuses to change between these schemes.
        format!("ws{}", address.strip_prefix("http").unwrap_or(address))
    }
}

#[cfg(test)]
mod address_tests {
    use super::*;

    #[test]
    fn the_websocket_stands_beside_the_api() {
        for (server, socket) in [
            ("http://127.0.0.1:80", "ws://127.0.0.1/v1/ws"),
            ("https://spillway.example/", "wss://spillway.example/v1/ws"),
            ("https://example.org/spillway?x=1#y", "wss://example.org/spillway/v1/ws"),
        ] {
            assert_eq!(Api::new(server).unwrap().websocket_address(), socket);
        }
    }

    #[test]
    fn what_is_no_http_address_is_refused() {
        for bad in ["", "spillway.example", "ftp://spillway.example", "file:///etc/passwd", "http://"] {
            assert!(matches!(Api::new(bad), Err(ApiError::Address(_))), "{bad:?} was accepted");
        }
    }
}
