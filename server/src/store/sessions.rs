//! Sessions: families of refresh tokens, of which each is good for one use.
//!
//! **Locks:** the user's row (`FOR SHARE`) before any token row. A password change takes the user's row for itself first, so that it waits for a
//! renewal that is under way and then also ends the session that this renewal made.

use protocol::rest::User;
use protocol::{Blake3, ErrorCode, UserId};
use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::stored_time;
use super::users::user_of;
use super::{Store, StoreError, Tx};

/// A refresh token to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewRefreshToken {
    pub hash: Blake3,
    pub created_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

/// What became of a refresh token that was sent in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// It is used up and the new one stands in its place.
    Renewed(User),
    /// It is not one of ours, has expired, or its session has ended.
    Refused,
    /// It was used before: its whole family has now ended.
    Reused,
}

impl Store {
    /// Begins a session for a user whose password was checked against `password_hash`.
    ///
    /// # Errors
    /// `invalid_credentials` if the password was changed since it was checked.
    pub async fn begin_session(&self, user: UserId, password_hash: &str, token: NewRefreshToken) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let current: Option<String> =
            sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1 FOR SHARE").bind(user.0).fetch_optional(&mut *tx).await?;
        if current.as_deref() != Some(password_hash) {
            return Err(StoreError::refused(ErrorCode::InvalidCredentials));
        }
        // What has expired is of no use any more, not even to notice that it is used again.
        sqlx::query("DELETE FROM refresh_tokens WHERE user_id = $1 AND expires_at <= $2")
            .bind(user.0)
            .bind(stored_time(token.created_at))
            .execute(&mut *tx)
            .await?;
        insert(&mut tx, user, Uuid::now_v7(), token).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Uses a refresh token up and puts the next one of its family in its place.
    pub async fn renew_session(&self, used: Blake3, next: NewRefreshToken) -> Result<Renewal, StoreError> {
        let now = stored_time(next.created_at);
        let mut tx = self.begin().await?;
        let owner: Option<Uuid> = sqlx::query_scalar("SELECT user_id FROM refresh_tokens WHERE token_hash = $1")
            .bind(used.0.as_slice())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(owner) = owner else { return Ok(Renewal::Refused) };
        let user = sqlx::query("SELECT id, email, role, created_at FROM users WHERE id = $1 FOR SHARE").bind(owner);
        let Some(user) = user.fetch_optional(&mut *tx).await? else { return Ok(Renewal::Refused) };
        let token = sqlx::query("SELECT family_id, expires_at, used_at, revoked_at FROM refresh_tokens WHERE token_hash = $1 FOR UPDATE")
            .bind(used.0.as_slice())
            .fetch_optional(&mut *tx)
            .await?;
        let Some(token) = token else { return Ok(Renewal::Refused) };
        let family: Uuid = token.try_get("family_id")?;
        if token.try_get::<Option<OffsetDateTime>, _>("used_at")?.is_some() {
            revoke(&mut tx, family, now).await?;
            tx.commit().await?;
            return Ok(Renewal::Reused);
        }
        let ended = token.try_get::<Option<OffsetDateTime>, _>("revoked_at")?.is_some();
        if ended || token.try_get::<OffsetDateTime, _>("expires_at")? <= now {
            return Ok(Renewal::Refused);
        }
        sqlx::query("UPDATE refresh_tokens SET used_at = $2 WHERE token_hash = $1")
            .bind(used.0.as_slice())
            .bind(now)
            .execute(&mut *tx)
            .await?;
        insert(&mut tx, UserId(owner), family, next).await?;
        tx.commit().await?;
        Ok(Renewal::Renewed(user_of(&user)?))
    }

    /// Ends the session that a refresh token belongs to, used or not. An unknown token is no error: there is nothing to end.
    pub async fn end_session(&self, token: Blake3, now: OffsetDateTime) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let family: Option<Uuid> = sqlx::query_scalar(
            "SELECT family_id FROM refresh_tokens JOIN users ON users.id = user_id WHERE token_hash = $1 FOR SHARE OF users",
        )
        .bind(token.0.as_slice())
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(family) = family {
            // The token's own row before the rest: a renewal that holds it inserts its successor first, and then this ends both.
            sqlx::query("SELECT 1 FROM refresh_tokens WHERE token_hash = $1 FOR UPDATE").bind(token.0.as_slice()).execute(&mut *tx).await?;
            revoke(&mut tx, family, stored_time(now)).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

async fn insert(tx: &mut Tx, user: UserId, family: Uuid, token: NewRefreshToken) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO refresh_tokens (token_hash, family_id, user_id, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(token.hash.0.as_slice())
        .bind(family)
        .bind(user.0)
        .bind(stored_time(token.created_at))
        .bind(stored_time(token.expires_at))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn revoke(tx: &mut Tx, family: Uuid, now: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query("UPDATE refresh_tokens SET revoked_at = $2 WHERE family_id = $1 AND revoked_at IS NULL")
        .bind(family)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
