//! JSON bodies: bounded, of the right media type, without fields that nobody knows.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use futures_util::StreamExt;
use protocol::ErrorCode;
use serde::de::DeserializeOwned;

use super::located;
use crate::error::ApiError;

/// The longest common body: a release with 64 editions and 16 ranks takes 10 KiB.
pub const BODY_MAX: usize = 64 << 10;
/// The longest announcement of an upload: 100,000 files with paths of some 100 bytes.
pub const ANNOUNCEMENT_MAX: usize = 16 << 20;
/// Up to this length a document is first read in a form that tells which part is at fault; that takes some ten times the memory of its text.
const LOCATED_MAX: usize = 1 << 20;

/// A JSON body of at most `LIMIT` bytes.
#[derive(Debug, Clone)]
pub struct Body<T, const LIMIT: usize = BODY_MAX>(pub T);

impl<T: DeserializeOwned + 'static, const LIMIT: usize> FromRequest for Body<T, LIMIT> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let checked = check_headers(request, LIMIT);
        let payload = payload.take();
        Box::pin(async move {
            checked?;
            parse(&collect(payload, LIMIT).await?).map(Self)
        })
    }
}

fn check_headers(request: &HttpRequest, limit: usize) -> Result<(), ApiError> {
    let json = request.content_type().eq_ignore_ascii_case("application/json");
    let plain = request.headers().get(header::CONTENT_ENCODING).is_none_or(|coding| coding == "identity");
    if !json || !plain {
        let part = if json { "header/Content-Encoding" } else { "header/Content-Type" };
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType).at(part, "expected application/json without a content coding"));
    }
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > limit)) {
        return Err(too_large(limit));
    }
    Ok(())
}

async fn collect(mut payload: Payload, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    while let Some(part) = payload.next().await {
        let part = part.map_err(|_| ApiError::invalid("", "the body ended before its length"))?;
        if body.len() + part.len() > limit {
            return Err(too_large(limit));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(ErrorCode::PayloadTooLarge).detail(format!("The body may have at most {limit} bytes."))
}

/// Reads a document; a refusal names the part at fault.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let fault = |error: serde_json::Error| ApiError::invalid("", error.to_string());
    if body.len() <= LOCATED_MAX {
        let document = serde_json::from_slice(body).map_err(fault)?;
        located::from_value::<T>(&document).map_err(|error| ApiError::invalid(error.pointer(), error.message))?;
    }
    // Straight from the text, because only so a key that stands twice is noticed.
    serde_json::from_slice(body).map_err(fault)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use protocol::rest::NewContent;

    use super::*;

    async fn read(request: TestRequest) -> Result<String, ApiError> {
        let (request, mut payload) = request.to_http_parts();
        Body::<NewContent>::from_request(&request, &mut payload).await.map(|body| body.0.title)
    }

    fn json(body: &'static str) -> TestRequest {
        TestRequest::post().insert_header(("Content-Type", "application/json; charset=utf-8")).set_payload(body)
    }

    #[actix_web::test]
    async fn a_good_body_is_read() {
        assert_eq!(read(json(r#"{"title":"A film"}"#)).await.unwrap(), "A film");
    }

    #[actix_web::test]
    async fn what_is_not_json_has_the_document_as_its_fault() {
        for bad in ["", "{", "{\"title\":\"a\"} x", "nonsense", "{\"title\":\"\u{1}\"}"] {
            let error = read(json(bad)).await.unwrap_err();
            assert_eq!((error.code, error.errors[0].pointer.as_str()), (ErrorCode::InvalidRequest, ""), "{bad}");
        }
    }

    #[actix_web::test]
    async fn a_field_of_the_wrong_type_unknown_or_given_twice_is_refused() {
        for (bad, pointer) in
            [(r#"{"title":1}"#, "/title"), (r#"{"title":"a","x":1}"#, "/x"), (r#"{"title":"a","title":"b"}"#, ""), (r#"["a"]"#, "")]
        {
            let error = read(json(bad)).await.unwrap_err();
            assert_eq!((error.code, error.errors[0].pointer.as_str()), (ErrorCode::InvalidRequest, pointer), "{bad}");
        }
    }

    #[actix_web::test]
    async fn a_body_that_is_too_large_is_refused_announced_or_not() {
        let long = vec![b' '; BODY_MAX + 1];
        let request = || TestRequest::post().insert_header(("Content-Type", "application/json"));
        assert_eq!(read(request().set_payload(long)).await.unwrap_err().code, ErrorCode::PayloadTooLarge);
        let announced = request().insert_header(("Content-Length", (BODY_MAX + 1).to_string()));
        assert_eq!(read(announced).await.unwrap_err().code, ErrorCode::PayloadTooLarge);
    }

    #[actix_web::test]
    async fn another_media_type_or_a_packed_body_is_refused() {
        let body = r#"{"title":"a"}"#;
        for request in [
            TestRequest::post().set_payload(body),
            TestRequest::post().insert_header(("Content-Type", "text/plain")).set_payload(body),
            json(body).insert_header(("Content-Encoding", "gzip")),
        ] {
            assert_eq!(read(request).await.unwrap_err().code, ErrorCode::UnsupportedMediaType);
        }
    }
}
