//! What the operator of the machine does on the database, without an access token.

use protocol::Currency;
use protocol::rest::{Password, Role, User};

use crate::app::accounts;
use crate::auth::Passwords;
use crate::auth::passwords::HashError;
use crate::clock;
use crate::error::ApiError;
use crate::store::{Store, StoreError};

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("the database is not ready")]
    Store(#[from] StoreError),
    #[error("passwords cannot be hashed")]
    Passwords(#[from] HashError),
    #[error("a new user needs a password; give it with --password-stdin")]
    PasswordNeeded,
    #[error("refused: {0}")]
    Refused(String),
}

impl From<ApiError> for AdminError {
    fn from(error: ApiError) -> Self {
        let reasons = error.errors.iter().map(|part| format!("{} {}", part.pointer, part.detail));
        Self::Refused(std::iter::once(error.to_string()).chain(reasons).collect::<Vec<_>>().join("; "))
    }
}

/// Makes an operator of a new user, or of an existing one, who keeps the password. The schema is brought up to date first.
pub async fn create_operator(database_url: &str, currency: Currency, email: &str, password: Option<Password>) -> Result<User, AdminError> {
    let store = Store::connect(database_url, currency).await?;
    store.migrate().await?;
    let made = make_operator(&store, email, password).await;
    store.close().await;
    made
}

async fn make_operator(store: &Store, email: &str, password: Option<Password>) -> Result<User, AdminError> {
    let email = accounts::normal_email(email)?;
    if let Some(found) = store.user_by_email(&email).await? {
        return Ok(store.set_role(found.user.id, Role::Operator).await?);
    }
    let password = password.ok_or(AdminError::PasswordNeeded)?;
    let user = accounts::register(store, &Passwords::new()?, email, password, clock::now()).await?;
    Ok(store.set_role(user.id, Role::Operator).await?)
}
