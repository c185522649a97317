//! The one table of error codes: code → HTTP status, whether a retry can help, title. REST problems, WebSocket errors and the CLI all speak it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::RequestId;

macro_rules! error_codes {
    ($( $(#[$doc:meta])* $variant:ident, $code:literal, $status:literal, $retryable:literal, $title:literal; )*) => {
        /// What went wrong, as a stable word that a program may act on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $( $(#[$doc])* #[serde(rename = $code)] $variant, )*
        }

        impl ErrorCode {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
            /// The HTTP status (RFC 9110).
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
            /// Whether the same request can succeed later without being changed.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

error_codes! {
    InvalidRequest, "invalid_request", 400, false, "The request is not valid";
    Unauthenticated, "unauthenticated", 401, false, "A valid access token is needed";
    InvalidCredentials, "invalid_credentials", 401, false, "The e-mail address or the password is wrong";
    RefreshTokenReused, "refresh_token_reused", 401, false, "This refresh token was used before; log in again";
    Forbidden, "forbidden", 403, false, "This account may not do that";
    /// The origin serves a chunk only to the terminal that holds a lease or a repair grant for it.
    NoLease, "no_lease", 403, false, "This terminal holds no lease for the chunk";
    NotFound, "not_found", 404, false, "There is no such thing here";
    MethodNotAllowed, "method_not_allowed", 405, false, "This path does not know that method";
    Conflict, "conflict", 409, false, "The request conflicts with the present state";
    EmailTaken, "email_taken", 409, false, "An account with this e-mail address exists";
    AlreadyApplied, "already_applied", 409, false, "This terminal has applied to the release";
    /// Applications are closed, or the release is past the state that the request needs.
    ReleaseClosed, "release_closed", 409, false, "The release does not take this any more";
    ReleaseNotOpen, "release_not_open", 409, true, "The release does not take applications yet";
    IdempotencyKeyReused, "idempotency_key_reused", 422, false, "This idempotency key was used with another request";
    IdempotencyKeyBusy, "idempotency_key_busy", 409, true, "The first request with this idempotency key is still running";
    VoucherUsed, "voucher_used", 409, false, "This voucher was redeemed before";
    /// Two copies of the kit were used, or it was put back to an earlier state.
    KitForked, "kit_forked", 409, false, "This kit was copied or put back; it is refused from now on";
    TerminalQuarantined, "terminal_quarantined", 403, false, "This terminal is in quarantine";
    WebhookLimit, "webhook_limit", 409, false, "This account has as many webhooks as it may";
    VoucherExpired, "voucher_expired", 409, false, "This voucher has expired";
    PreconditionFailed, "precondition_failed", 412, false, "The resource was changed by somebody else";
    PayloadTooLarge, "payload_too_large", 413, false, "The body or frame is too large";
    UnsupportedMediaType, "unsupported_media_type", 415, false, "The body's media type is not supported";
    UnknownEdition, "unknown_edition", 422, false, "The release has no such edition";
    UnknownRank, "unknown_rank", 422, false, "The release has no such rank";
    BelowReserve, "below_reserve", 422, false, "The maximum price is below the reserve";
    InsufficientFunds, "insufficient_funds", 422, false, "The wallet cannot pay for this";
    PriceAboveMaximum, "price_above_maximum", 422, false, "The price is above the stated maximum";
    /// The edition is part of a sealed release whose last rank has not come yet.
    EditionSealed, "edition_sealed", 409, true, "The edition is sealed until its release";
    NotOnDemand, "not_on_demand", 409, false, "The content cannot be had on demand";
    EmptyEdition, "empty_edition", 422, false, "An edition must have at least one byte";
    BudgetTooSmall, "budget_too_small", 422, false, "The origin budget is too small for the editions";
    PreconditionRequired, "precondition_required", 428, false, "An If-Match header with the resource's ETag is needed";
    IdempotencyKeyRequired, "idempotency_key_required", 400, false, "An Idempotency-Key header is needed";
    TooManyRequests, "too_many_requests", 429, true, "Too many requests";
    /// The origin budget of the release is spent; the bytes can come from terminals only.
    BudgetSpent, "budget_spent", 409, true, "The origin budget is spent";
    /// A WebSocket message that is not valid JSON of a known type.
    MalformedMessage, "malformed_message", 400, false, "The message cannot be read";
    NotInSwarm, "not_in_swarm", 403, false, "This terminal is not a member of that swarm";
    InvalidReceipt, "invalid_receipt", 422, false, "The receipt is not valid";
    ProtocolVersion, "protocol_version", 426, false, "This protocol version is not supported";
    Internal, "internal", 500, true, "Something went wrong on the server";
    Unavailable, "unavailable", 503, true, "The service is not ready";
}

/// By hand, because the derive does not see a word that a macro hands on.
impl utoipa::PartialSchema for ErrorCode {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::Type::String)
            .description(Some("What went wrong, as a stable word that a program may act on."))
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .into()
    }
}

impl utoipa::ToSchema for ErrorCode {}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One offending part of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProblemError {
    /// JSON pointer (RFC 6901) into the body, or `query/NAME`, `header/NAME`, `path/NAME`.
    pub pointer: String,
    /// What is wrong with it and what to do.
    pub detail: String,
}

/// Problem details (RFC 9457), media type `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// A relative reference that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub code: ErrorCode,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    pub request_id: RequestId,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<ProblemError>,
}

impl Problem {
    pub fn new(code: ErrorCode, request_id: RequestId) -> Self {
        Self {
            kind: format!("/problems/{code}"),
            title: code.title().to_owned(),
            status: code.status(),
            code,
            detail: None,
            request_id,
            errors: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_an_error_status_and_its_own_word() {
        let mut words: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&code.status()), "{code}");
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
        }
    }
}
