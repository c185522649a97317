//! One call: headers, attempts, and what an answer means.

use std::time::Duration;

use protocol::{ErrorCode, Problem};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Api, ApiError, PageQuery, TokenProvider};
use crate::backoff::Backoff;

/// Attempts per call: with the waits between them about six seconds, a restart of the server.
const ATTEMPTS_MAX: u32 = 6;
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(4);
/// A longer `Retry-After` than this is the caller's to wait for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take to begin, and then to go on; operations answer within milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A body this long adds a second to the time that its answer may take: the slowest uplink that an upload's file list may come over.
const BODY_BYTES_PER_SECOND: u64 = 32 << 10;
/// The longest JSON answer: a page of 100 of the largest items stays below.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// When an attempt that failed may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The operation is idempotent, or carries a key that makes it so.
    Always,
    /// Only where the server cannot have acted on it.
    IfUnreached,
    /// The caller repeats it when it is time.
    Never,
}

/// One operation with its parameters.
#[derive(Debug)]
pub(super) struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Option<Result<Vec<u8>, serde_json::Error>>,
    repeat: Repeat,
    authenticated: bool,
}

impl Call {
    fn new(method: Method, path: impl Into<String>, repeat: Repeat) -> Self {
        Self { method, path: path.into(), query: Vec::new(), headers: Vec::new(), body: None, repeat, authenticated: true }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, Repeat::Always)
    }

    pub(super) fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path, Repeat::Always)
    }

    pub(super) fn patch(path: impl Into<String>) -> Self {
        Self::new(Method::PATCH, path, Repeat::Always)
    }

    pub(super) fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path, Repeat::Always)
    }

    /// A creation that must not happen twice: see [`Call::keyed`] for those that can be repeated.
    pub(super) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path, Repeat::IfUnreached)
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> Self {
        self.body = Some(serde_json::to_vec(body));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn page(mut self, page: &PageQuery) -> Self {
        if let Some(limit) = page.limit {
            self = self.query("limit", limit.to_string());
        }
        if let Some(cursor) = &page.cursor {
            self = self.query("cursor", cursor.clone());
        }
        self
    }

    /// Draws an idempotency key, which all attempts of this call share.
    pub(super) fn keyed(mut self) -> Self {
        self.repeat = Repeat::Always;
        self.header("Idempotency-Key", uuid::Uuid::new_v4().to_string())
    }

    /// For a creation whose body says which one it is.
    pub(super) fn repeatable(mut self) -> Self {
        self.repeat = Repeat::Always;
        self
    }

    /// For a change that cannot be made a second time.
    pub(super) fn repeat_if_unreached(mut self) -> Self {
        self.repeat = Repeat::IfUnreached;
        self
    }

    fn body_len(&self) -> u64 {
        self.body.as_ref().and_then(|body| body.as_ref().ok()).map_or(0, |body| body.len() as u64)
    }

    /// For what the caller itself repeats, when it is time.
    pub(super) fn once(mut self) -> Self {
        self.repeat = Repeat::Never;
        self
    }

    /// For the operations that need no login.
    pub(super) fn anonymous(mut self) -> Self {
        self.authenticated = false;
        self
    }
}

/// How an attempt ended that did not succeed.
struct Failure {
    error: ApiError,
    /// What the server asked to wait.
    retry_after: Option<Duration>,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { error, retry_after: None }
    }
}

impl Api {
    /// Runs a call whose answer is JSON.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, ApiError> {
        let bytes = self.fetch(call, ANSWER_BYTES_MAX).await?;
        serde_json::from_slice(&bytes).map_err(|error| ApiError::Answer(error.to_string()))
    }

    /// Runs a call whose answer has no body of interest.
    pub(super) async fn call_empty(&self, call: Call) -> Result<(), ApiError> {
        self.fetch(call, ANSWER_BYTES_MAX).await.map(drop)
    }

    /// Runs a call, with its attempts, to the end of an answer of at most `max` bytes.
    pub(super) async fn fetch(&self, call: Call, max: u64) -> Result<Vec<u8>, ApiError> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
        let mut token = self.token_for(&call).await?;
        let mut renewed = false;
        let mut attempt = 1;
        loop {
            let failure = match self.attempt(&call, token.as_deref(), max).await {
                Ok(body) => return Ok(body),
                Err(failure) => failure,
            };
            if let (Some(code), Some(refused), false) = (failure.error.code(), &token, renewed)
                && code == ErrorCode::Unauthenticated
            {
                renewed = true;
                token = Some(self.renewed_token(refused).await?);
                continue;
            }
            if attempt >= ATTEMPTS_MAX || !may_repeat(&failure.error, call.repeat) {
                return Err(failure.error);
            }
            attempt += 1;
            let wait = backoff.wait();
            match failure.retry_after {
                Some(asked) if asked > RETRY_AFTER_MAX => return Err(failure.error),
                Some(asked) => tokio::time::sleep(asked.max(wait)).await,
                None => tokio::time::sleep(wait).await,
            }
        }
    }

    async fn attempt(&self, call: &Call, token: Option<&str>, max: u64) -> Result<Vec<u8>, Failure> {
        let mut request = self.request(call.method.clone(), &call.path, &call.query)?;
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        match &call.body {
            Some(Ok(body)) => request = request.header(CONTENT_TYPE, "application/json").body(body.clone()),
            Some(Err(error)) => return Err(ApiError::Answer(error.to_string()).into()),
            None => {}
        }
        let timeout = CALL_TIMEOUT + Duration::from_secs(call.body_len() / BODY_BYTES_PER_SECOND);
        let response = tokio::time::timeout(timeout, request.send()).await.map_err(|_| ApiError::Timeout)?.map_err(ApiError::network)?;
        let retry_after = retry_after(response.headers());
        match accepted(response).await {
            Ok(response) => Ok(read_bounded(response, max, CALL_TIMEOUT).await?),
            Err(error) => Err(Failure { error, retry_after }),
        }
    }

    pub(super) fn request(&self, method: Method, path: &str, query: &[(&'static str, String)]) -> Result<RequestBuilder, ApiError> {
        let mut url = self.base.join(path).map_err(|_| ApiError::Address(path.to_owned()))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(self.http.request(method, url))
    }

    async fn token_for(&self, call: &Call) -> Result<Option<String>, ApiError> {
        if call.authenticated { self.access_token().await } else { Ok(None) }
    }

    /// The token to send now, if this client has a login.
    pub(super) async fn access_token(&self) -> Result<Option<String>, ApiError> {
        match &self.tokens {
            Some(tokens) => tokens.access_token().await.map(Some).map_err(|error| ApiError::Token(Box::new(error))),
            None => Ok(None),
        }
    }

    async fn renewed_token(&self, refused: &str) -> Result<String, ApiError> {
        let tokens: &dyn TokenProvider = self.tokens.as_deref().ok_or(ApiError::Status { status: 401 })?;
        tokens.renew(refused).await.map_err(|error| ApiError::Token(Box::new(error)))
    }
}

fn may_repeat(error: &ApiError, repeat: Repeat) -> bool {
    let unreached = matches!(error, ApiError::Network { unreached: true, .. });
    match repeat {
        Repeat::Never => false,
        Repeat::IfUnreached => unreached || error.code() == Some(ErrorCode::TooManyRequests),
        Repeat::Always => match error {
            ApiError::Network { .. } | ApiError::Timeout => true,
            ApiError::Status { status } => *status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
            ApiError::Problem(problem) => {
                matches!(problem.code, ErrorCode::Unavailable | ErrorCode::IdempotencyKeyBusy | ErrorCode::TooManyRequests)
            }
            ApiError::Answer(_)
            | ApiError::TooLong { .. }
            | ApiError::WrongBytes
            | ApiError::Token(_)
            | ApiError::Source(_)
            | ApiError::Address(_) => false,
        },
    }
}

/// Passes a success on and reads the problem out of anything else.
pub(super) async fn accepted(response: Response) -> Result<Response, ApiError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = read_bounded(response, ANSWER_BYTES_MAX, CALL_TIMEOUT).await?;
    match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => Err(ApiError::Problem(Box::new(problem))),
        Err(_) => Err(ApiError::Status { status: status.as_u16() }),
    }
}

/// Reads a body of at most `max` bytes, each piece of which must come within `idle`.
pub(super) async fn read_bounded(mut response: Response, max: u64, idle: Duration) -> Result<Vec<u8>, ApiError> {
    let announced = response.content_length().unwrap_or(0);
    if announced > max {
        return Err(ApiError::TooLong { max });
    }
    let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    loop {
        let piece = tokio::time::timeout(idle, response.chunk()).await.map_err(|_| ApiError::Timeout)?.map_err(ApiError::network)?;
        let Some(piece) = piece else { return Ok(body) };
        if body.len() as u64 + piece.len() as u64 > max {
            return Err(ApiError::TooLong { max });
        }
        body.extend_from_slice(&piece);
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}
