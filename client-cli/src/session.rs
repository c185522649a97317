//! The login: tokens that live in the configuration folder and are renewed there, whichever process needs it first.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use protocol::rest::{Refresh, Tokens};
use terminal::api::{Api, ApiError, TokenError, TokenProvider};
use time::{Duration, OffsetDateTime};

use crate::failure::{Failure, Outcome};
use crate::folder::{Account, Folder, TerminalFile};

/// A token is renewed this much before its end, so that a request on its way does not outlive it.
const RENEW_AHEAD: Duration = Duration::seconds(30);

/// A logged-in client.
#[derive(Debug)]
pub(crate) struct Login {
    pub api: Api,
    pub account: Account,
}

impl Login {
    /// The login that the folder holds.
    pub(crate) fn from_folder(folder: &Folder) -> Outcome<Self> {
        let account = folder.account()?.ok_or_else(not_logged_in)?;
        let anonymous = Api::new(&account.server)?;
        let tokens = FolderTokens::new(folder.clone(), anonymous.clone(), account.clone());
        Ok(Self { api: anonymous.with_tokens(Arc::new(tokens)), account })
    }

    /// This machine's terminal, if it belongs to this login.
    pub(crate) fn terminal(&self, folder: &Folder) -> Outcome<(TerminalFile, protocol::TerminalId)> {
        let file = folder.terminal()?.filter(|file| file.server == self.account.server && file.user_id == self.account.user_id);
        match file.and_then(|file| file.id.map(|id| (file, id))) {
            Some(terminal) => Ok(terminal),
            None => Err(Failure::NotLoggedIn("this terminal is not registered: log in again with `spillway login`".into())),
        }
    }
}

pub(crate) fn not_logged_in() -> Failure {
    Failure::NotLoggedIn("not logged in: use `spillway login`, or `spillway register` for a new account".into())
}

impl Account {
    /// The account with new tokens, got at `now`.
    pub(crate) fn with_tokens(&self, tokens: Tokens, now: OffsetDateTime) -> Self {
        Self {
            access_token: tokens.access_token,
            access_expires_at: now.saturating_add(Duration::seconds(i64::from(tokens.expires_in))),
            refresh_token: tokens.refresh_token,
            ..self.clone()
        }
    }

    fn is_about_to_end(&self, now: OffsetDateTime) -> bool {
        self.access_expires_at <= now.saturating_add(RENEW_AHEAD)
    }
}

/// Tokens of the folder's account. A renewal holds the folder's lock from reading the refresh token to storing its successor, because a refresh token
/// that is used twice ends the session everywhere.
#[derive(Debug)]
struct FolderTokens {
    folder: Folder,
    /// Without a login.
    api: Api,
    known: Mutex<Account>,
}

impl FolderTokens {
    fn new(folder: Folder, api: Api, account: Account) -> Self {
        Self { folder, api, known: Mutex::new(account) }
    }

    fn known(&self) -> Account {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, account: Account) -> String {
        let token = account.access_token.clone();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = account;
        token
    }

    /// A token that is not `refused` and lasts a while: the one that another process has stored meanwhile, or a renewed one.
    async fn newer(&self, refused: Option<&str>) -> Result<String, TokenError> {
        let lock = self.folder.lock().await.map_err(stored)?;
        let stored_account = self.folder.account().map_err(stored)?.ok_or(TokenError::NotLoggedIn)?;
        if stored_account.user_id != self.known().user_id {
            // Somebody has logged in as another user beside this process.
            return Err(TokenError::NotLoggedIn);
        }
        let is_refused = refused == Some(stored_account.access_token.as_str());
        if !is_refused && !stored_account.is_about_to_end(OffsetDateTime::now_utc()) {
            return Ok(self.remember(stored_account));
        }
        let refresh = Refresh { refresh_token: stored_account.refresh_token.clone() };
        let tokens = self.api.refresh_session(&refresh).await.map_err(TokenError::Renewal)?;
        let renewed = stored_account.with_tokens(tokens, OffsetDateTime::now_utc());
        self.folder.write_account(&renewed, &lock).map_err(stored)?;
        Ok(self.remember(renewed))
    }
}

fn stored(failure: Failure) -> TokenError {
    TokenError::Store(io::Error::other(failure.to_string()))
}

#[async_trait]
impl TokenProvider for FolderTokens {
    async fn access_token(&self) -> Result<String, TokenError> {
        let known = self.known();
        if known.is_about_to_end(OffsetDateTime::now_utc()) { self.newer(None).await } else { Ok(known.access_token) }
    }

    async fn renew(&self, refused: &str) -> Result<String, TokenError> {
        self.newer(Some(refused)).await
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let line = with_causes(&error);
        match error {
            ApiError::Problem(problem) => Self::from_problem(*problem),
            ApiError::Network { .. } | ApiError::Timeout => Self::Unavailable(line),
            ApiError::Status { status: 500.. } => Self::Unavailable(line),
            ApiError::Status { .. } | ApiError::Answer(_) | ApiError::TooLong { .. } | ApiError::WrongBytes => {
                Self::Unavailable(format!("{line}; is this the address of a Spillway server of the same version?"))
            }
            ApiError::Address(_) => Self::Usage(line),
            ApiError::Source(_) => Self::Failed(line),
            ApiError::Token(token) => token_failure(*token),
        }
    }
}

pub(crate) fn token_failure(error: TokenError) -> Failure {
    match error {
        TokenError::NotLoggedIn => not_logged_in(),
        TokenError::Renewal(renewal) => match Failure::from(renewal) {
            Failure::NotLoggedIn(_) => Failure::NotLoggedIn("the login has ended: log in again with `spillway login`".into()),
            other @ (Failure::Usage(_) | Failure::Refused(_) | Failure::Unavailable(_) | Failure::Interrupted | Failure::Failed(_)) => {
                other
            }
        },
        TokenError::Store(error) => Failure::Failed(format!("the login could not be stored: {error}")),
    }
}

/// An error with what is behind it, on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

#[cfg(test)]
pub(crate) mod tests;
