//! What a handler asks for to know who is asking.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};
use protocol::rest::Role;
use protocol::{ErrorCode, UserId};
use time::OffsetDateTime;

use super::tokens::TokenError;
use crate::error::ApiError;
use crate::state::AppState;

type Extracted<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>>>>;

/// Somebody with a valid access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub user_id: UserId,
    /// As the token has it: at most 15 minutes old. What may only be done in a role asks for [`Publisher`] or [`Operator`].
    pub role: Role,
    /// When the token expires; what lasts longer than a request ends then.
    pub expires_at: OffsetDateTime,
}

/// A caller who is a publisher or an operator at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publisher {
    pub user_id: UserId,
    pub role: Role,
}

/// A caller who is an operator at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    pub user_id: UserId,
}

impl Caller {
    /// Checks the `Authorization` header of a request; the WebSocket does so too.
    pub async fn authenticate(state: &AppState, request: &HttpRequest) -> Result<Self, ApiError> {
        let header = request.headers().get(actix_web::http::header::AUTHORIZATION);
        let header = header.ok_or_else(|| ApiError::new(ErrorCode::Unauthenticated))?;
        let token = header.to_str().ok().and_then(bearer).ok_or_else(|| {
            ApiError::new(ErrorCode::Unauthenticated).at("header/Authorization", "expected \"Bearer\" and an access token")
        })?;
        match state.keys.verify(state.token_parties(), token).await {
            Ok(claims) => {
                let expires_at = OffsetDateTime::from_unix_timestamp(claims.exp).map_err(ApiError::internal)?;
                Ok(Self { user_id: claims.sub, role: claims.role, expires_at })
            }
            Err(error @ (TokenError::Invalid | TokenError::Expired)) => {
                Err(ApiError::new(ErrorCode::Unauthenticated).detail(format!("{}.", capitalized(&error.to_string()))))
            }
            Err(error @ (TokenError::Keys(_) | TokenError::Sign(_))) => Err(ApiError::internal(error)),
        }
    }

    /// The role at this moment: a role that was taken away must not live on in a token.
    /// Whether the caller is an operator at this moment.
    ///
    /// # Errors
    /// The database fails.
    pub async fn is_operator(self, state: &AppState) -> Result<bool, ApiError> {
        Ok(self.present_role(state).await? == Role::Operator)
    }

    async fn present_role(self, state: &AppState) -> Result<Role, ApiError> {
        let user = state.store.user(self.user_id).await?;
        user.map(|user| user.role).ok_or_else(|| ApiError::new(ErrorCode::Unauthenticated))
    }
}

/// The token after the scheme, whose name is case-insensitive (RFC 9110).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' '))
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn with_state<T: 'static, F: Future<Output = Result<T, ApiError>> + 'static>(
    request: &HttpRequest,
    extract: impl FnOnce(AppState, HttpRequest) -> F + 'static,
) -> Extracted<T> {
    let request = request.clone();
    Box::pin(async move {
        let state = request.app_data::<web::Data<AppState>>().map(|state| AppState::clone(state));
        extract(state.ok_or_else(|| ApiError::internal("the application has no state"))?, request).await
    })
}

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        with_state(request, |state, request| async move { Self::authenticate(&state, &request).await })
    }
}

impl FromRequest for Publisher {
    type Error = ApiError;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        with_state(request, |state, request| async move {
            let caller = Caller::authenticate(&state, &request).await?;
            match caller.present_role(&state).await? {
                role @ (Role::Publisher | Role::Operator) => Ok(Self { user_id: caller.user_id, role }),
                Role::User => Err(ApiError::new(ErrorCode::Forbidden).detail("This needs the role of a publisher.")),
            }
        })
    }
}

impl FromRequest for Operator {
    type Error = ApiError;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        with_state(request, |state, request| async move {
            let caller = Caller::authenticate(&state, &request).await?;
            match caller.present_role(&state).await? {
                Role::Operator => Ok(Self { user_id: caller.user_id }),
                Role::Publisher | Role::User => Err(ApiError::new(ErrorCode::Forbidden).detail("This needs the role of an operator.")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bEARER  abc"), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("Bearerabc"), None);
    }
}
