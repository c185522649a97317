//! Sessions: families of refresh tokens, of which each is good for one use (RFC 9700, 4.14.2).
//!
//! An answer can be lost on its way to a terminal that runs for weeks, and its login must not be lost with it. So a used token is good once more until
//! its successor is used. The successor that is passed over counts as used: if it was not lost but stolen, or the used token was, then whoever comes
//! second ends the family.
//!
//! **Locks:** the user's row (`FOR SHARE`), then the family (an advisory lock), then token rows. A password change takes the user's row for itself
//! first, so that it waits for a renewal that is under way and then also ends the session that this renewal made.

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
        let Some((owner, family)) = lock_family(&mut tx, used).await? else { return Ok(Renewal::Refused) };
        let user = sqlx::query("SELECT id, email, role, created_at FROM users WHERE id = $1").bind(owner).fetch_one(&mut *tx).await?;
        let token = sqlx::query(
            "SELECT token.expires_at, token.used_at, token.revoked_at, token.successor, next.used_at IS NULL AS successor_unused
             FROM refresh_tokens token LEFT JOIN refresh_tokens next ON next.token_hash = token.successor WHERE token.token_hash = $1",
        );
        let token = token.bind(used.0.as_slice()).fetch_one(&mut *tx).await?;
        let was_used = token.try_get::<Option<OffsetDateTime>, _>("used_at")?.is_some();
        let successor: Option<Vec<u8>> = token.try_get("successor")?;
        let once_more = successor.is_some() && token.try_get("successor_unused")?;
        if was_used && !once_more {
            revoke(&mut tx, family, now).await?;
            tx.commit().await?;
            return Ok(Renewal::Reused);
        }
        let ended = token.try_get::<Option<OffsetDateTime>, _>("revoked_at")?.is_some();
        if ended || token.try_get::<OffsetDateTime, _>("expires_at")? <= now {
            return Ok(Renewal::Refused);
        }
        sqlx::query("UPDATE refresh_tokens SET used_at = $2 WHERE token_hash = $1").bind(successor).bind(now).execute(&mut *tx).await?;
        insert(&mut tx, UserId(owner), family, next).await?;
        sqlx::query("UPDATE refresh_tokens SET used_at = $2, successor = $3 WHERE token_hash = $1")
            .bind(used.0.as_slice())
            .bind(now)
            .bind(next.hash.0.as_slice())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Renewal::Renewed(user_of(&user)?))
    }

    /// Ends the session that a refresh token belongs to, used or not. An unknown token is no error: there is nothing to end.
    pub async fn end_session(&self, token: Blake3, now: OffsetDateTime) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        if let Some((_, family)) = lock_family(&mut tx, token).await? {
            revoke(&mut tx, family, stored_time(now)).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// The user and the family of a token, both locked: one at a time changes a family. `None` for a token that is not ours.
async fn lock_family(tx: &mut Tx, token: Blake3) -> Result<Option<(Uuid, Uuid)>, StoreError> {
    let found: Option<(Uuid, Uuid)> = sqlx::query_as(
        "SELECT user_id, family_id FROM refresh_tokens JOIN users ON users.id = user_id WHERE token_hash = $1 FOR SHARE OF users",
    )
    .bind(token.0.as_slice())
    .fetch_optional(&mut **tx)
    .await?;
    if let Some((_, family)) = found {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))").bind(family).execute(&mut **tx).await?;
    }
    Ok(found)
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
