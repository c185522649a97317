//! The one way from an error to an HTTP answer: every failure becomes an [`ApiError`], and every `ApiError` a problem (RFC 9457).
//!
//! Nothing of an internal failure reaches the client but its request id; the chain of causes is logged once, where the answer is made
//! (`routes::problems`).

use std::error::Error as StdError;
use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use protocol::error::{Problem, ProblemError};
use protocol::{ErrorCode, RequestId};

use crate::live::LiveError;
use crate::origin::ChunkStoreError;
use crate::store::StoreError;

/// Why a request was refused or failed.
#[derive(Debug)]
pub struct ApiError {
    pub code: ErrorCode,
    /// For people; never holds internals.
    pub detail: Option<String>,
    /// The offending parts of the request.
    pub errors: Vec<ProblemError>,
    /// When a retry can help, in seconds.
    pub retry_after_s: Option<u32>,
    /// What lies behind an internal failure: logged, never sent.
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl ApiError {
    pub fn new(code: ErrorCode) -> Self {
        Self { code, detail: None, errors: Vec::new(), retry_after_s: None, cause: None }
    }

    /// A request whose part at `pointer` is not valid.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest).at(pointer, detail)
    }

    pub fn not_found() -> Self {
        Self::new(ErrorCode::NotFound)
    }

    /// A failure that is not the client's: logged with its chain, answered without it.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { cause: Some(cause.into()), ..Self::new(ErrorCode::Internal) }
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds an offending part: a JSON pointer into the body, or `query/NAME`, `header/NAME`, `path/NAME`.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors.push(ProblemError { pointer: pointer.into(), detail: detail.into() });
        self
    }

    /// Names the part of the request that a refusal is about, where the table knows it and none is named yet.
    #[must_use]
    pub fn about(self, parts: &[(ErrorCode, &str)]) -> Self {
        match parts.iter().find(|(code, _)| *code == self.code) {
            Some((_, pointer)) if self.errors.is_empty() => {
                let detail = self.detail.clone().unwrap_or_else(|| self.code.title().to_owned());
                self.at(*pointer, detail)
            }
            Some(_) | None => self,
        }
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The answer, as a problem that names the request.
    pub fn to_response(&self, request_id: RequestId) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if self.code.status() == 401 {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        let problem = Problem { detail: self.detail.clone(), errors: self.errors.clone(), ..Problem::new(self.code, request_id) };
        response.content_type("application/problem+json").json(problem)
    }

    /// What lies behind an internal failure.
    pub fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => write!(f, "{}: {detail}", self.code),
            None => write!(f, "{}", self.code),
        }
    }
}

impl StdError for ApiError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause()
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Without the request's id, which is not known here: `routes::problems` makes the answer again with it.
    fn error_response(&self) -> HttpResponse {
        self.to_response(RequestId::from_bytes([0; 16]))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = error.code();
        match error {
            StoreError::NotFound(what) => Self::new(code).detail(format!("There is no such {what}.")),
            StoreError::Refused { code, detail } => Self { detail, ..Self::new(code) },
            error @ (StoreError::Invariant(_) | StoreError::Db(_) | StoreError::Migrate(_) | StoreError::OtherHistory(_)) => {
                Self { cause: Some(Box::new(error)), ..Self::new(code) }
            }
        }
    }
}

impl From<ChunkStoreError> for ApiError {
    fn from(error: ChunkStoreError) -> Self {
        Self::internal(error)
    }
}

impl From<LiveError> for ApiError {
    fn from(error: LiveError) -> Self {
        let code = match &error {
            LiveError::Unavailable(_) => ErrorCode::Unavailable,
            LiveError::Reply(_) | LiveError::Encode(_) | LiveError::Random => ErrorCode::Internal,
        };
        Self { cause: Some(Box::new(error)), ..Self::new(code) }
    }
}
