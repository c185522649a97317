//! Headers that a request must carry: the key that makes a repeat harmless, and the version that an edit is meant for.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::HeaderValue;
use actix_web::{FromRequest, HttpRequest};
use protocol::{ErrorCode, UserId};
use serde::Serialize;

use crate::error::ApiError;
use crate::store::idempotency::Idempotency;

/// The longest idempotency key that is stored.
const KEY_MAX: usize = 128;

/// `Idempotency-Key`: 1 to 128 visible ASCII characters, drawn by the client for each new request and repeated with a repeat.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    key: String,
    /// Method and path.
    request: String,
}

/// The key stays out of logs: voucher codes are derived from it.
impl std::fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdempotencyKey").field("request", &self.request).finish_non_exhaustive()
    }
}

impl IdempotencyKey {
    /// What makes this request the same as another: the user, the key, the method, the path and the body as it was understood.
    pub fn of(self, user_id: UserId, body: &impl Serialize) -> Result<Idempotency, ApiError> {
        let body = serde_json::to_vec(body).map_err(ApiError::internal)?;
        let mut hasher = blake3::Hasher::new_derive_key("spillway request v1");
        hasher.update(self.request.as_bytes()).update(&[0]).update(&body);
        Ok(Idempotency { user_id, key: self.key, request_hash: *hasher.finalize().as_bytes() })
    }
}

impl FromRequest for IdempotencyKey {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let named = format!("{} {}", request.method(), request.path());
        ready(idempotency_key(request.headers().get("Idempotency-Key")).map(|key| Self { key, request: named }))
    }
}

fn idempotency_key(header: Option<&HeaderValue>) -> Result<String, ApiError> {
    let header = header.ok_or_else(|| {
        ApiError::new(ErrorCode::IdempotencyKeyRequired)
            .at("header/Idempotency-Key", "draw a new key, such as a UUID, for each new request")
    })?;
    let key = header.to_str().unwrap_or_default();
    if key.is_empty() || key.len() > KEY_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ApiError::invalid("header/Idempotency-Key", format!("expected 1 to {KEY_MAX} visible ASCII characters")));
    }
    Ok(key.to_owned())
}

/// `If-Match` with the version that the client has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMatch {
    Version(u32),
    /// `*`: whichever it is.
    Any,
}

impl IfMatch {
    /// The version that is meant; none stands for whichever it is.
    pub fn version(self) -> Option<u32> {
        match self {
            Self::Version(version) => Some(version),
            Self::Any => None,
        }
    }
}

impl FromRequest for IfMatch {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(if_match(request.headers().get("If-Match")))
    }
}

/// `If-Match` where what is edited may not be there yet: without it, what is there must not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IfMatchAny(Option<IfMatch>);

impl IfMatchAny {
    /// The version that is meant, whichever it is for `Some(None)`; none if the client has seen none.
    pub fn seen(self) -> Option<Option<u32>> {
        self.0.map(IfMatch::version)
    }
}

impl FromRequest for IfMatchAny {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(request.headers().get("If-Match").map(|header| if_match(Some(header))).transpose().map(Self))
    }
}

/// A tag that is not one of ours never matches, nor does a weak one: 412 as for an old one (RFC 9110, 13.1.1). What is no tag is no such header.
fn if_match(header: Option<&HeaderValue>) -> Result<IfMatch, ApiError> {
    let header = header.ok_or_else(|| ApiError::new(ErrorCode::PreconditionRequired))?.to_str().unwrap_or_default().trim();
    if header == "*" {
        return Ok(IfMatch::Any);
    }
    let strong = header.strip_prefix("W/").unwrap_or(header);
    let tag = strong.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    let tag = tag.ok_or_else(|| ApiError::invalid("header/If-Match", "expected the ETag that was seen, or *"))?;
    let version = tag.parse().ok().filter(|_| strong.len() == header.len());
    version.map(IfMatch::Version).ok_or_else(|| ApiError::new(ErrorCode::PreconditionFailed))
}

/// The `ETag` of a version.
pub fn etag(version: u32) -> (&'static str, String) {
    ("etag", format!("\"{version}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_needed_and_must_be_storable() {
        assert_eq!(idempotency_key(None).unwrap_err().code, ErrorCode::IdempotencyKeyRequired);
        for bad in ["", "a b", "é", &"x".repeat(129)] {
            let header = HeaderValue::from_bytes(bad.as_bytes()).unwrap();
            assert_eq!(idempotency_key(Some(&header)).unwrap_err().code, ErrorCode::InvalidRequest, "{bad:?} was accepted");
        }
        assert_eq!(idempotency_key(Some(&HeaderValue::from_static("a-1"))).unwrap(), "a-1");
    }

    #[test]
    fn another_method_path_or_body_is_another_request() {
        let hash = |request: &str, body: &str| {
            let key = IdempotencyKey { key: "k".to_owned(), request: request.to_owned() };
            key.of(UserId::from_bytes([1; 16]), &body).unwrap().request_hash
        };
        assert_eq!(hash("POST /v1/a", "x"), hash("POST /v1/a", "x"));
        for (request, body) in [("POST /v1/a", "y"), ("PUT /v1/a", "x"), ("POST /v1/b", "x")] {
            assert_ne!(hash("POST /v1/a", "x"), hash(request, body));
        }
    }

    #[test]
    fn an_edit_needs_the_tag_of_the_present_version() {
        assert_eq!(if_match(None).unwrap_err().code, ErrorCode::PreconditionRequired);
        for other in ["W/\"3\"", "\"x\"", "\"-1\"", "\"\""] {
            assert_eq!(if_match(Some(&HeaderValue::from_static(other))).unwrap_err().code, ErrorCode::PreconditionFailed, "{other:?}");
        }
        for bad in ["", "3", "\"", "W/", "W/*"] {
            assert_eq!(if_match(Some(&HeaderValue::from_static(bad))).unwrap_err().code, ErrorCode::InvalidRequest, "{bad:?}");
        }
        assert_eq!(if_match(Some(&HeaderValue::from_str(&etag(3).1).unwrap())).unwrap().version(), Some(3));
        assert_eq!(if_match(Some(&HeaderValue::from_static("*"))).unwrap().version(), None);
    }
}
