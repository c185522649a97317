//! Makes every refusal and failure a problem (RFC 9457) with the request's id, also those that the framework answers itself; counts and logs each
//! request once, here, where its outcome is known.

use std::error::Error as StdError;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpMessage, HttpRequest};
use protocol::{ErrorCode, RequestId};
use tracing::Span;
use tracing_actix_web::RootSpanBuilder;

use crate::error::ApiError;
use crate::metrics::{REQUEST_SECONDS, REQUESTS};

/// Names a request in the log. The query is left out: it may hold an address or a ticket.
#[derive(Debug)]
pub struct RequestSpan;

impl RootSpanBuilder for RequestSpan {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let id = request.extensions().get::<tracing_actix_web::RequestId>().map(ToString::to_string);
        tracing::info_span!("request", id, method = %request.method(), path = request.path())
    }

    fn on_request_end<B: MessageBody>(_: Span, _: &Result<ServiceResponse<B>, actix_web::Error>) {}
}

/// The innermost of the middlewares: sees the error that a handler returned.
pub async fn problems(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let began = Instant::now();
    let response = next.call(request).await?;
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    let response = if failed { as_problem(response) } else { response.map_into_boxed_body() };
    record(response.request(), response.status(), began);
    Ok(response)
}

fn as_problem(response: ServiceResponse<impl MessageBody + 'static>) -> ServiceResponse<BoxBody> {
    let request_id = request_id(response.request());
    let thrown = response.response().error().and_then(|error| error.as_error::<ApiError>());
    let mut answer = match thrown {
        Some(error) => {
            log_failure(error);
            error.to_response(request_id)
        }
        None => {
            let error = framework_error(response.status());
            if error.code == ErrorCode::Internal {
                let cause = response.response().error().map(ToString::to_string);
                tracing::error!(status = response.status().as_u16(), cause, "the framework failed");
            }
            error.to_response(request_id)
        }
    };
    // What was said beside the body stays, such as `Allow` and the rate limit.
    for (name, value) in response.headers() {
        if !answer.headers().contains_key(name) {
            answer.headers_mut().append(name.clone(), value.clone());
        }
    }
    let (request, _) = response.into_parts();
    ServiceResponse::new(request, answer)
}

/// The id under which the log has this request.
pub fn request_id(request: &HttpRequest) -> RequestId {
    request.extensions().get::<tracing_actix_web::RequestId>().map_or(RequestId::from_bytes([0; 16]), |id| RequestId((*id).into()))
}

/// What the framework refused by itself.
fn framework_error(status: StatusCode) -> ApiError {
    ApiError::new(match status.as_u16() {
        404 => ErrorCode::NotFound,
        405 => ErrorCode::MethodNotAllowed,
        413 => ErrorCode::PayloadTooLarge,
        415 => ErrorCode::UnsupportedMediaType,
        400..=499 => ErrorCode::InvalidRequest,
        503 => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    })
}

fn log_failure(error: &ApiError) {
    if error.code.status() >= 500 {
        let chain = error.cause().map(chain_of);
        tracing::error!(code = %error.code, cause = chain, "a request failed");
    }
}

/// An error and its sources, outermost first.
fn chain_of(error: &dyn StdError) -> String {
    let mut chain = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        chain = format!("{chain}: {source}");
        next = source.source();
    }
    chain
}

fn record(request: &HttpRequest, status: StatusCode, began: Instant) {
    let (method, route) = (method_label(request.method()), request.match_pattern().unwrap_or_else(|| "unmatched".to_owned()));
    let elapsed = began.elapsed();
    tracing::info!(status = status.as_u16(), elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), "answered");
    metrics::histogram!(REQUEST_SECONDS, "method" => method, "route" => route.clone()).record(elapsed.as_secs_f64());
    metrics::counter!(REQUESTS, "method" => method, "route" => route, "status" => status.as_u16().to_string()).increment(1);
}

/// Only known methods become labels: anybody may send made-up ones.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        _ => "other",
    }
}
