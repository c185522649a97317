//! Rate limits on what costs a password hash, counted in Redis over all instances.
//!
//! Every answer of a limited operation says how much is left (`RateLimit-Policy` and `RateLimit`, as in the IETF draft on rate-limit headers). When
//! Redis is away nothing is counted: people must be able to log in, and the bound on password hashes still protects the instance.

use std::net::IpAddr;
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpRequest, web};
use protocol::{ErrorCode, UserId};

use crate::error::ApiError;
use crate::live::Usage;
use crate::state::AppState;

/// The window of the limits on a client address.
const ADDRESS_WINDOW: Duration = Duration::from_secs(60);
/// Tries that one client address has for one account, and the window they are counted in.
const GUESSES_MAX: u64 = 10;
const GUESSES_WINDOW: Duration = Duration::from_secs(300);
/// Password changes that one user may try, and the window they are counted in: each one tells whether a password is the present one.
const CHANGES_MAX: u64 = 10;
const CHANGES_WINDOW: Duration = Duration::from_secs(300);
/// How long a request waits to be counted.
const COUNT_WITHIN: Duration = Duration::from_millis(500);

/// Limits logins by client address.
pub(super) async fn logins(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    by_address("login", request, next).await
}

/// Limits registrations by client address.
pub(super) async fn registrations(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    by_address("register", request, next).await
}

async fn by_address<B: MessageBody + 'static>(
    what: &'static str,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<actix_web::body::EitherBody<B>>, actix_web::Error> {
    let counted = match request.app_data::<web::Data<AppState>>().cloned() {
        Some(state) if state.config.login_limit > 0 => {
            let limit = u64::from(state.config.login_limit);
            let who = client_address(&state, request.request());
            count(&state, what, &who, ADDRESS_WINDOW).await.map(|usage| (limit, usage))
        }
        Some(_) | None => None,
    };
    let Some((limit, usage)) = counted else { return Ok(next.call(request).await?.map_into_left_body()) };
    let mut response = if usage.count > limit {
        request.error_response(too_many(usage)).map_into_right_body()
    } else {
        next.call(request).await?.map_into_left_body()
    };
    say(response.headers_mut(), what, limit, usage);
    Ok(response)
}

/// Limits how often one client address may try to log in to one account, whether it exists or not.
pub(super) async fn guesses(state: &AppState, request: &HttpRequest, email: &str) -> Result<(), ApiError> {
    if state.config.login_limit == 0 {
        return Ok(());
    }
    let who = format!("{} {}", client_address(state, request), email.trim().to_ascii_lowercase());
    match count(state, "guess", &who, GUESSES_WINDOW).await {
        Some(usage) if usage.count > GUESSES_MAX => Err(too_many(usage)),
        Some(_) | None => Ok(()),
    }
}

/// Limits how often one user tries to change the password: whoever has a stolen access token must not be able to guess.
pub(super) async fn password_changes(state: &AppState, user: UserId) -> Result<(), ApiError> {
    match count(state, "password-change", &user.to_string(), CHANGES_WINDOW).await {
        Some(usage) if usage.count > CHANGES_MAX => Err(too_many(usage)),
        Some(_) | None => Ok(()),
    }
}

async fn count(state: &AppState, what: &str, who: &str, window: Duration) -> Option<Usage> {
    match tokio::time::timeout(COUNT_WITHIN, state.live.count_use(what, who, window)).await {
        Ok(Ok(usage)) => Some(usage),
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, what, "not counted");
            None
        }
        Err(_) => {
            tracing::warn!(what, "not counted in time");
            None
        }
    }
}

/// Where the operator says that the client's address stands.
pub(crate) fn region_of(state: &AppState, request: &HttpRequest) -> Option<u16> {
    client_address(state, request).parse::<IpAddr>().ok().and_then(|address| state.config.regions.of(address))
}

/// The address of the client as the network has it, or as our own proxy says. What a client itself claims never counts.
fn client_address(state: &AppState, request: &HttpRequest) -> String {
    let network = || request.peer_addr().map_or_else(String::new, |address| address.ip().to_string());
    if !state.config.behind_proxy {
        return network();
    }
    let forwarded = request.headers().get_all("X-Forwarded-For").last().and_then(|value| value.to_str().ok());
    forwarded.and_then(|list| list.rsplit(',').next()).map_or_else(network, |last| last.trim().to_owned())
}

fn seconds(usage: Usage) -> u64 {
    usage.resets_in.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX)
}

fn too_many(usage: Usage) -> ApiError {
    ApiError::new(ErrorCode::TooManyRequests).retry_after(u32::try_from(seconds(usage)).unwrap_or(u32::MAX).max(1))
}

fn say(headers: &mut HeaderMap, what: &str, limit: u64, usage: Usage) {
    let policy = format!("\"{what}\";q={limit};w={}", ADDRESS_WINDOW.as_secs());
    let left = format!("\"{what}\";r={};t={}", limit.saturating_sub(usage.count), seconds(usage));
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", left)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
