//! `/v1/measurements`: exchanges that measure a terminal's line, and what is known of how it communicates.

use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use futures_util::{StreamExt, stream};
use protocol::rest::{CommunicationState, MEASURED_BYTES_MAX, MeasuredUpload, Measurement, incompressible};
use protocol::{BitsPerSecond, ErrorCode, TerminalId};
use tokio::time::Instant;

use super::input::Body;
use super::input::query::Query;
use super::limits::region_of;
use super::openapi::RawBytes;
use super::origin::terminal_of;
use super::refusals::{NotFound, TooMany};
use crate::app::measurements::{self, EXCHANGE_WITHIN};
use crate::auth::Caller;
use crate::clock;
use crate::error::ApiError;
use crate::origin::pace::PIECE;
use crate::state::AppState;

pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/measurements/downlink").route(web::get().to(downlink)))
        .service(web::resource("/v1/measurements/uplink").route(web::post().to(uplink)))
        .service(web::resource("/v1/terminals/{id}/measurement").route(web::put().to(record)).route(web::get().to(get)));
}

/// How much is to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Wanted(u64);

impl FromRequest for Wanted {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        let wanted = Query::of(request).and_then(|mut query| {
            let bytes = query.take("bytes")?.and_then(|text| text.parse().ok()).filter(|bytes| (1..=MEASURED_BYTES_MAX).contains(bytes));
            query.done()?;
            bytes.map(Self).ok_or_else(|| ApiError::invalid("query/bytes", format!("expected 1 to {MEASURED_BYTES_MAX}")))
        });
        std::future::ready(wanted)
    }
}

/// Bytes for a terminal to measure its downlink by, no faster than the origin's line and for ten seconds at most. Refused while a release needs the line.
#[utoipa::path(get, path = "/v1/measurements/downlink", tag = "terminals", operation_id = "measure_downlink",
    params(("Spillway-Terminal" = TerminalId, Header, description = "The own terminal that measures."),
        ("bytes" = u64, Query, minimum = 1, maximum = 8_388_608)),
    responses((status = 200, description = "Bytes without a meaning.", body = RawBytes, content_type = "application/octet-stream"), NotFound, TooMany))]
pub async fn downlink(state: web::Data<AppState>, caller: Caller, wanted: Wanted, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    measurements::admit(&state, caller.user_id, terminal_of(&request)?, clock::now()).await?;
    let (state, until) = (AppState::clone(&state), Instant::now() + EXCHANGE_WITHIN);
    let noise = incompressible(PIECE);
    let pieces = stream::unfold(wanted.0, move |left| {
        let (state, noise) = (state.clone(), noise.clone());
        async move {
            if left == 0 || Instant::now() >= until {
                return None;
            }
            let piece = noise.slice(..noise.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            state.pace.send(piece.len()).await;
            let left = left - piece.len() as u64;
            Some((Ok::<_, std::convert::Infallible>(piece), left))
        }
    });
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_ENCODING, "identity"))
        .streaming(pieces))
}

/// Takes bytes that a terminal measures its uplink by, and says how fast they came. Refused while a release needs the line.
#[utoipa::path(post, path = "/v1/measurements/uplink", tag = "terminals", operation_id = "measure_uplink",
    params(("Spillway-Terminal" = TerminalId, Header, description = "The own terminal that measures.")),
    request_body(content = RawBytes, content_type = "application/octet-stream"),
    responses((status = 200, description = "How fast they came.", body = MeasuredUpload), NotFound, TooMany))]
pub async fn uplink(
    state: web::Data<AppState>,
    caller: Caller,
    request: HttpRequest,
    mut payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    measurements::admit(&state, caller.user_id, terminal_of(&request)?, clock::now()).await?;
    let until = Instant::now() + EXCHANGE_WITHIN;
    let (mut bytes, mut first, mut began, mut ended) = (0_u64, 0_u64, None, None);
    loop {
        let piece = tokio::time::timeout_at(until, payload.next()).await.map_err(|_| too_slow())?;
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|error| ApiError::invalid("", error.to_string()))?;
        let now = Instant::now();
        if began.is_none() {
            (began, first) = (Some(now), piece.len() as u64);
        }
        (bytes, ended) = (bytes + piece.len() as u64, Some(now));
        if bytes > MEASURED_BYTES_MAX {
            return Err(ApiError::new(ErrorCode::PayloadTooLarge).detail(format!("At most {MEASURED_BYTES_MAX} bytes.")));
        }
    }
    let elapsed = began.zip(ended).map(|(began, ended)| ended - began).unwrap_or_default();
    let nanos = elapsed.as_nanos();
    let rate = (u128::from(bytes - first) * 8_000_000_000).checked_div(nanos).unwrap_or(0);
    Ok(HttpResponse::Ok().json(MeasuredUpload {
        bytes: protocol::Bytes(bytes),
        elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        rate: BitsPerSecond(u64::try_from(rate).unwrap_or(u64::MAX).min(protocol::units::JSON_INTEGER_MAX)),
    }))
}

fn too_slow() -> ApiError {
    let detail = format!("The bytes did not come within {} seconds; send fewer.", EXCHANGE_WITHIN.as_secs());
    ApiError::invalid("", detail)
}

/// Keep what an own terminal has measured of itself. Its rates take the place of those stated before.
#[utoipa::path(put, path = "/v1/terminals/{id}/measurement", tag = "terminals", operation_id = "put_measurement",
    params(("id" = TerminalId, Path)), request_body = Measurement,
    responses((status = 200, description = "What is known now.", body = CommunicationState), NotFound))]
pub async fn record(
    state: web::Data<AppState>,
    caller: Caller,
    id: web::Path<TerminalId>,
    request: HttpRequest,
    body: Body<Measurement>,
) -> Result<HttpResponse, ApiError> {
    let region = region_of(&state, &request).or(body.0.region);
    let measured = Measurement { region, ..body.0 };
    Ok(HttpResponse::Ok().json(measurements::record(&state, caller.user_id, *id, measured, clock::now()).await?))
}

/// What is known of how an own terminal communicates: measured by itself, by its WebSocket, and by its transfers.
#[utoipa::path(get, path = "/v1/terminals/{id}/measurement", tag = "terminals", operation_id = "get_measurement", params(("id" = TerminalId, Path)),
    responses((status = 200, description = "What is known.", body = CommunicationState), NotFound))]
pub async fn get(state: web::Data<AppState>, caller: Caller, id: web::Path<TerminalId>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(measurements::known(&state, caller.user_id, *id).await?))
}
