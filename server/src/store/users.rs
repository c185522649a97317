//! People and organisations: who they are, what they may do, and the hash of their password.

use protocol::rest::{Page, Role, User};
use protocol::{ErrorCode, UserId};
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::conversions::stored_time;
use super::{PageRequest, Store, StoreError};

/// A user with what a login is checked against.
#[derive(Clone)]
pub struct UserWithPassword {
    pub user: User,
    /// A PHC string.
    pub password_hash: String,
}

impl std::fmt::Debug for UserWithPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserWithPassword").field("user", &self.user).finish_non_exhaustive()
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::User => "user",
        Role::Publisher => "publisher",
        Role::Operator => "operator",
    }
}

fn role_of(word: &str) -> Result<Role, StoreError> {
    match word {
        "user" => Ok(Role::User),
        "publisher" => Ok(Role::Publisher),
        "operator" => Ok(Role::Operator),
        other => Err(StoreError::Invariant(format!("{other:?} is no role"))),
    }
}

pub(super) fn user_of(row: &PgRow) -> Result<User, StoreError> {
    Ok(User {
        id: UserId(row.try_get("id")?),
        email: row.try_get("email")?,
        role: role_of(row.try_get("role")?)?,
        created_at: row.try_get("created_at")?,
    })
}

impl Store {
    /// Adds a user whose e-mail address is in lower case.
    ///
    /// # Errors
    /// `email_taken` if somebody has it.
    pub async fn create_user(&self, user: &User, password_hash: &str) -> Result<(), StoreError> {
        let at = stored_time(user.created_at);
        let inserted = sqlx::query(
            "INSERT INTO users (id, email, password_hash, role, created_at, password_changed_at) VALUES ($1, $2, $3, $4, $5, $5)
             ON CONFLICT (email) DO NOTHING",
        )
        .bind(user.id.0)
        .bind(&user.email)
        .bind(password_hash)
        .bind(role_word(user.role))
        .bind(at)
        .execute(&self.pool)
        .await?;
        if inserted.rows_affected() == 0 { Err(StoreError::refused(ErrorCode::EmailTaken)) } else { Ok(()) }
    }

    pub async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        let row = sqlx::query("SELECT id, email, role, created_at FROM users WHERE id = $1").bind(id.0).fetch_optional(&self.pool).await?;
        row.as_ref().map(user_of).transpose()
    }

    /// By e-mail address, in lower case.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<UserWithPassword>, StoreError> {
        let query = sqlx::query("SELECT id, email, role, created_at, password_hash FROM users WHERE email = $1").bind(email);
        let row = query.fetch_optional(&self.pool).await?;
        row.map(|row| Ok(UserWithPassword { user: user_of(&row)?, password_hash: row.try_get("password_hash")? })).transpose()
    }

    /// The hash of a user's password.
    pub async fn password_hash(&self, id: UserId) -> Result<Option<String>, StoreError> {
        Ok(sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1").bind(id.0).fetch_optional(&self.pool).await?)
    }

    /// All users, or the one with an e-mail address, oldest first.
    pub async fn users(&self, email: Option<&str>, request: &PageRequest) -> Result<Page<User>, StoreError> {
        let after = request.after::<uuid::Uuid>()?;
        let rows = sqlx::query(
            "SELECT id, email, role, created_at FROM users
             WHERE ($1::text IS NULL OR email = $1) AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        )
        .bind(email)
        .bind(after)
        .bind(request.rows_wanted())
        .fetch_all(&self.pool)
        .await?;
        let users = rows.iter().map(user_of).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(users, |user| user.id))
    }

    /// Gives a user a role.
    ///
    /// # Errors
    /// There is no such user.
    pub async fn set_role(&self, id: UserId, role: Role) -> Result<User, StoreError> {
        let row = sqlx::query("UPDATE users SET role = $2 WHERE id = $1 RETURNING id, email, role, created_at")
            .bind(id.0)
            .bind(role_word(role))
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(user_of).transpose()?.ok_or(StoreError::NotFound("user"))
    }

    /// Replaces the password that hashed to `old_hash`, and ends every session of the user.
    ///
    /// # Errors
    /// `invalid_credentials` if the password was changed since it was checked.
    pub async fn change_password(&self, id: UserId, old_hash: &str, new_hash: &str, now: OffsetDateTime) -> Result<(), StoreError> {
        let now = stored_time(now);
        let mut tx = self.begin().await?;
        // The user's row first: whoever begins or renews a session locks it too, so that no session slips through.
        let changed = sqlx::query("UPDATE users SET password_hash = $3, password_changed_at = $4 WHERE id = $1 AND password_hash = $2")
            .bind(id.0)
            .bind(old_hash)
            .bind(new_hash)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::refused(ErrorCode::InvalidCredentials));
        }
        sqlx::query("UPDATE refresh_tokens SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL")
            .bind(id.0)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}
