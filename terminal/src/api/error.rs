//! Why a call failed.

use std::error::Error as StdError;

use protocol::{ErrorCode, Problem};

use super::session::TokenError;

/// A call to the API that did not succeed. Refusals by the server and failures of the network are different cases.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server refused, and says why.
    #[error("{}", describe(.0))]
    Problem(Box<Problem>),
    /// No answer: the server could not be reached, or the connection broke.
    #[error("the server could not be reached")]
    Network {
        /// Whether the request cannot have reached the server.
        unreached: bool,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    #[error("the server did not answer in time")]
    Timeout,
    /// An answer that is no problem document, for instance a proxy's.
    #[error("the server answered with the status {status} and gave no reason")]
    Status { status: u16 },
    /// A success whose body is not what the operation answers.
    #[error("the server's answer cannot be read: {0}")]
    Answer(String),
    #[error("the server's answer is longer than {max} bytes")]
    TooLong { max: u64 },
    /// Bytes whose length or hash is not the one that was asked for.
    #[error("the bytes that came are not those that were asked for")]
    WrongBytes,
    #[error("there is no valid login")]
    Token(#[source] Box<TokenError>),
    /// What is to be uploaded could not be read, or is longer or shorter than announced.
    #[error("the content to upload cannot be read")]
    Source(#[source] std::io::Error),
    #[error("{0:?} is not the address of a server; expected https://host or http://host:port")]
    Address(String),
}

fn describe(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| problem.title.clone());
    for error in &problem.errors {
        text.push_str(&format!("; {}: {}", error.pointer, error.detail));
    }
    text
}

impl ApiError {
    pub(super) fn network(error: reqwest::Error) -> Self {
        if error.is_timeout() && !error.is_connect() {
            return Self::Timeout;
        }
        Self::Network { unreached: error.is_connect(), source: Box::new(error.without_url()) }
    }

    /// The server's code, if the server refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            Self::Network { .. }
            | Self::Timeout
            | Self::Status { .. }
            | Self::Answer(_)
            | Self::TooLong { .. }
            | Self::WrongBytes
            | Self::Token(_)
            | Self::Source(_)
            | Self::Address(_) => None,
        }
    }

    /// Whether the same call can succeed later without being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.code.is_retryable(),
            Self::Network { .. } | Self::Timeout | Self::WrongBytes => true,
            Self::Status { status } => *status >= 500,
            Self::Token(error) => error.is_retryable(),
            Self::Answer(_) | Self::TooLong { .. } | Self::Source(_) | Self::Address(_) => false,
        }
    }
}
