//! Users and their sessions.

use protocol::rest::{ChangePassword, Login, Password, Refresh, Role, Tokens, User};
use protocol::{ErrorCode, UserId};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::auth::Passwords;
use crate::auth::refresh::{REFRESH_DAYS, RefreshToken};
use crate::auth::tokens::ACCESS_SECONDS;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::Store;
use crate::store::sessions::{NewRefreshToken, Renewal};

/// The longest e-mail address (RFC 5321).
pub const EMAIL_MAX: usize = 254;
const PASSWORD_LENGTH: std::ops::RangeInclusive<usize> = 8..=128;

/// An e-mail address as it is stored and compared: in lower case, without spaces around it. ASCII only, so that Postgres and this program agree on
/// what lower case is.
pub fn normal_email(text: &str) -> Result<String, ApiError> {
    let email = text.trim().to_ascii_lowercase();
    let parts = email.rsplit_once('@');
    let plausible = email.len() <= EMAIL_MAX
        && email.bytes().all(|byte| byte.is_ascii_graphic())
        && parts.is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !name.contains('@'));
    if plausible { Ok(email) } else { Err(ApiError::invalid("/email", "expected an e-mail address such as name@example.org")) }
}

fn check_password(pointer: &str, password: &Password) -> Result<(), ApiError> {
    if PASSWORD_LENGTH.contains(&password.0.chars().count()) {
        return Ok(());
    }
    Err(ApiError::invalid(pointer, format!("expected {} to {} characters", PASSWORD_LENGTH.start(), PASSWORD_LENGTH.end())))
}

/// Adds a user. `email` is a [`normal_email`].
pub async fn register(
    store: &Store,
    passwords: &Passwords,
    email: String,
    password: Password,
    now: OffsetDateTime,
) -> Result<User, ApiError> {
    check_password("/password", &password)?;
    let hash = passwords.hash(password).await?;
    let user = User { id: UserId(Uuid::now_v7()), email, role: Role::User, created_at: now };
    store.create_user(&user, &hash).await?;
    Ok(user)
}

/// Begins a session. An unknown address and a wrong password give the same answer after the same time.
pub async fn log_in(state: &AppState, login: Login, now: OffsetDateTime) -> Result<Tokens, ApiError> {
    let found = match normal_email(&login.email) {
        Ok(email) => state.store.user_by_email(&email).await?,
        Err(_) => None,
    };
    let hash = found.as_ref().map(|found| found.password_hash.clone());
    let fits = state.passwords.verify(login.password, hash).await?;
    let found = found.filter(|_| fits).ok_or_else(|| ApiError::new(ErrorCode::InvalidCredentials))?;
    let token = RefreshToken::random()?;
    let (store, stored) = (state.store.clone(), stored(&token, now));
    let (user_id, hash) = (found.user.id, found.password_hash);
    state.to_the_end(async move { store.begin_session(user_id, &hash, stored).await }).await?;
    tokens(state, &found.user, token, now)
}

/// The next pair of tokens for a refresh token that was not used before.
pub async fn renew(state: &AppState, refresh: &Refresh, now: OffsetDateTime) -> Result<Tokens, ApiError> {
    let refused = || ApiError::new(ErrorCode::Unauthenticated).detail("The refresh token is not valid; log in again.");
    let used = RefreshToken::parse(refresh).ok_or_else(refused)?.hash();
    let next = RefreshToken::random()?;
    let (store, stored) = (state.store.clone(), stored(&next, now));
    match state.to_the_end(async move { store.renew_session(used, stored).await }).await? {
        Renewal::Renewed(user) => tokens(state, &user, next, now),
        Renewal::Refused => Err(refused()),
        Renewal::Reused => Err(ApiError::new(ErrorCode::RefreshTokenReused)),
    }
}

/// Ends the session of a refresh token. One that cannot be ours has none.
pub async fn log_out(state: &AppState, refresh: &Refresh, now: OffsetDateTime) -> Result<(), ApiError> {
    let Some(token) = RefreshToken::parse(refresh).map(|token| token.hash()) else { return Ok(()) };
    let store = state.store.clone();
    state.to_the_end(async move { store.end_session(token, now).await }).await
}

/// Changes a password and ends every session of its owner.
pub async fn change_password(state: &AppState, user: UserId, change: ChangePassword, now: OffsetDateTime) -> Result<(), ApiError> {
    check_password("/new", &change.new)?;
    let old = state.store.password_hash(user).await?;
    if !state.passwords.verify(change.current, old.clone()).await? {
        return Err(ApiError::new(ErrorCode::InvalidCredentials).at("/current", "this is not the present password"));
    }
    let old = old.ok_or_else(ApiError::not_found)?;
    let new = state.passwords.hash(change.new).await?;
    let store = state.store.clone();
    state.to_the_end(async move { store.change_password(user, &old, &new, now).await }).await
}

fn stored(token: &RefreshToken, now: OffsetDateTime) -> NewRefreshToken {
    NewRefreshToken { hash: token.hash(), created_at: now, expires_at: now + Duration::days(REFRESH_DAYS) }
}

fn tokens(state: &AppState, user: &User, refresh: RefreshToken, now: OffsetDateTime) -> Result<Tokens, ApiError> {
    let access_token = state.keys.issue(state.token_parties(), user.id, user.role, now).map_err(ApiError::internal)?;
    Ok(Tokens { access_token, refresh_token: refresh.into_text(), token_type: "Bearer".to_owned(), expires_in: ACCESS_SECONDS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_compared_in_lower_case_without_spaces_around_it() {
        assert_eq!(normal_email(" Anna@Example.ORG ").unwrap(), "anna@example.org");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.org", "a".repeat(EMAIL_MAX));
        for bad in ["", "anna", "@example.org", "anna@", "an na@example.org", "anna@@example.org", "änna@example.org", "a\u{0}@b.c", &long]
        {
            assert_eq!(normal_email(bad).unwrap_err().errors[0].pointer, "/email", "{bad:?}");
        }
    }

    #[test]
    fn a_password_has_eight_to_128_characters() {
        for (length, good) in [(7, false), (8, true), (128, true), (129, false)] {
            assert_eq!(check_password("/new", &Password("é".repeat(length))).is_ok(), good, "{length}");
        }
    }
}
