//! How results become HTTP answers.

use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use serde::Serialize;

use super::input::headers::etag;
use crate::error::ApiError;
use crate::store::idempotency::Answer;

/// 201 with the place of what was made.
pub(super) fn created(location: String, body: impl Serialize) -> HttpResponse {
    HttpResponse::Created().insert_header((header::LOCATION, location)).json(body)
}

/// The answer to a request that runs once; a repeat says so.
pub(super) fn once(answer: &Answer) -> Result<HttpResponse, ApiError> {
    let status = StatusCode::from_u16(answer.status).map_err(ApiError::internal)?;
    let mut response = HttpResponse::build(status);
    if answer.replayed {
        response.insert_header(("Idempotency-Replayed", "true"));
    }
    Ok(response.json(&answer.body))
}

/// Like [`once`], with the tag of the version of what was made or changed. Nothing else of it is read: an answer that is given again may be of an earlier version of the service.
pub(super) fn once_versioned(answer: &Answer) -> Result<HttpResponse, ApiError> {
    let version = answer.body.get("version").and_then(serde_json::Value::as_u64).and_then(|version| u32::try_from(version).ok());
    let version = version.ok_or_else(|| ApiError::internal("an answer without its version"))?;
    let mut response = once(answer)?;
    let (name, tag) = etag(version);
    let tag = tag.parse().map_err(|_| ApiError::internal("an entity tag is no header"))?;
    response.headers_mut().insert(header::HeaderName::from_static(name), tag);
    Ok(response)
}
