//! Where access tokens come from, and how they are renewed.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::rest::{Refresh, Tokens};
use time::OffsetDateTime;
use tokio::sync::Mutex;

use super::{Api, ApiError};

/// A token is renewed ahead of its end by this much, so that a request that is on its way does not outlive it.
const RENEW_AHEAD: Duration = Duration::from_secs(30);
/// A token younger than this is used whatever the local clock says: a wrong clock must not renew at every call.
const RENEW_EVERY_MIN: Duration = Duration::from_secs(60);

/// Gives the tokens that calls carry. The command line keeps its tokens on disk and implements this, or uses [`Session`] with a hook that stores them.
#[async_trait]
pub trait TokenProvider: Send + Sync + std::fmt::Debug {
    /// The token to send.
    async fn access_token(&self) -> Result<String, TokenError>;

    /// The server refused `refused`: gives a newer one. If another caller has renewed it meanwhile, that one is given.
    async fn renew(&self, refused: &str) -> Result<String, TokenError>;
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("nobody is logged in")]
    NotLoggedIn,
    /// The session is over, or the server could not be asked.
    #[error("the access token could not be renewed")]
    Renewal(#[source] ApiError),
    /// The new tokens could not be stored. They are used, but the login is lost with the process.
    #[error("the login could not be stored")]
    Store(#[source] std::io::Error),
}

impl TokenError {
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Renewal(error) => error.is_retryable(),
            Self::NotLoggedIn | Self::Store(_) => false,
        }
    }
}

/// One token that cannot be renewed.
#[derive(Clone)]
pub struct FixedToken(pub String);

impl std::fmt::Debug for FixedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FixedToken(…)")
    }
}

#[async_trait]
impl TokenProvider for FixedToken {
    async fn access_token(&self) -> Result<String, TokenError> {
        Ok(self.0.clone())
    }

    async fn renew(&self, _refused: &str) -> Result<String, TokenError> {
        Err(TokenError::NotLoggedIn)
    }
}

/// Called with every new pair of tokens before they are used, to store them.
type Store = Box<dyn Fn(&Tokens) -> std::io::Result<()> + Send + Sync>;

/// A login that renews itself. Only one renewal runs at a time: a refresh token that is used twice ends the session everywhere.
pub struct Session {
    api: Api,
    /// Locked while a renewal runs, so that others wait for its outcome instead of starting their own.
    current: Mutex<Current>,
    store: Store,
}

struct Current {
    tokens: Tokens,
    /// When this process got them; `None` for tokens that an earlier one stored.
    renewed_at: Option<Instant>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// A session from tokens of a login or of an earlier process. `store` is called with every new pair.
    pub fn new(api: &Api, tokens: Tokens, store: impl Fn(&Tokens) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let api = Api { tokens: None, ..api.clone() };
        Self { api, current: Mutex::new(Current { tokens, renewed_at: None }), store: Box::new(store) }
    }

    async fn renew_locked(&self, current: &mut Current) -> Result<String, TokenError> {
        let refresh = Refresh { refresh_token: current.tokens.refresh_token.clone() };
        current.tokens = self.api.refresh_session(&refresh).await.map_err(TokenError::Renewal)?;
        current.renewed_at = Some(Instant::now());
        (self.store)(&current.tokens).map_err(TokenError::Store)?;
        Ok(current.tokens.access_token.clone())
    }
}

impl Current {
    fn is_about_to_end(&self) -> bool {
        let is_fresh = self.renewed_at.is_some_and(|at| at.elapsed() < RENEW_EVERY_MIN);
        !is_fresh && expiry(&self.tokens.access_token).is_some_and(|at| at < OffsetDateTime::now_utc() + RENEW_AHEAD)
    }
}

#[async_trait]
impl TokenProvider for Session {
    async fn access_token(&self) -> Result<String, TokenError> {
        let mut current = self.current.lock().await;
        if current.is_about_to_end() {
            return self.renew_locked(&mut current).await;
        }
        Ok(current.tokens.access_token.clone())
    }

    async fn renew(&self, refused: &str) -> Result<String, TokenError> {
        let mut current = self.current.lock().await;
        if current.tokens.access_token != refused {
            return Ok(current.tokens.access_token.clone());
        }
        self.renew_locked(&mut current).await
    }
}

/// When a JWT ends by its own words. The signature is the server's affair; this only saves a request that would be refused.
fn expiry(token: &str) -> Option<OffsetDateTime> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: i64,
    }
    let payload = token.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    OffsetDateTime::from_unix_timestamp(claims.exp).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_token_is_read_from_its_claims() {
        let token = format!("x.{}.y", URL_SAFE_NO_PAD.encode(r#"{"exp":1700000000,"sub":"me"}"#));
        assert_eq!(expiry(&token).unwrap().unix_timestamp(), 1_700_000_000);
        for bad in ["", "opaque", "a.b.c", "a.e30.c"] {
            assert!(expiry(bad).is_none(), "{bad:?}");
        }
    }
}
