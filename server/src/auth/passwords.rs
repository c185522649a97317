//! Password hashing with Argon2id at the crate's defaults, 19 MiB and two passes (the OWASP recommendation), off the threads that serve requests.
//!
//! A hash costs tens of milliseconds and 19 MiB, so that only as many run at once as there are cores; a bounded number waits, and whoever comes
//! after that is told to come back. Without the bound a flood of logins would take all the memory.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use protocol::ErrorCode;
use protocol::rest::Password;
use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Hashes running or waiting: at some 30 ms each on two cores, the last in the queue waits for about a second.
const QUEUE_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
#[error("a password could not be hashed: {0}")]
pub struct HashError(argon2::password_hash::Error);

/// Hashes and checks passwords. Cheap to clone; all clones share the bound.
#[derive(Debug, Clone)]
pub struct Passwords {
    queue: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// The hash of nobody's password: checked when there is no such user, so that the answer takes the same time.
    nobody: Arc<str>,
}

impl Passwords {
    pub fn new() -> Result<Self, HashError> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let nobody = Argon2::default().hash_password(b"the password of nobody").map_err(HashError)?.to_string();
        Ok(Self { queue: Arc::new(Semaphore::new(QUEUE_MAX)), running: Arc::new(Semaphore::new(cores)), nobody: nobody.into() })
    }

    /// A PHC string with a fresh salt.
    pub async fn hash(&self, password: Password) -> Result<String, ApiError> {
        let hashed = self.run(move || Argon2::default().hash_password(password.0.as_bytes()).map(|hash| hash.to_string())).await?;
        hashed.map_err(|error| ApiError::internal(HashError(error)))
    }

    /// Whether the password belongs to the stored hash; `None` stands for a user who does not exist, and takes as long.
    pub async fn verify(&self, password: Password, stored: Option<String>) -> Result<bool, ApiError> {
        let exists = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.nobody.to_string());
        let checked = self
            .run(move || match PasswordHash::new(&stored) {
                Ok(hash) => Argon2::default().verify_password(password.0.as_bytes(), &hash),
                Err(error) => Err(error.into()),
            })
            .await?;
        match checked {
            Ok(()) => Ok(exists),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(ApiError::internal(HashError(error))),
        }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
        let busy = || ApiError::new(ErrorCode::Unavailable).detail("Too many logins at this moment.").retry_after(2);
        let place = self.queue.clone().try_acquire_owned().map_err(|_| busy())?;
        let turn = self.running.clone().acquire_owned().await.map_err(ApiError::internal)?;
        tokio::task::spawn_blocking(move || {
            // Both stay taken until the hash is done, also when the client that wanted it has left.
            let _held = (place, turn);
            work()
        })
        .await
        .map_err(ApiError::internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash(password("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(passwords.verify(password("correct horse"), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(password("correct horsf"), Some(hash.clone())).await.unwrap());
        assert_ne!(passwords.hash(password("correct horse")).await.unwrap(), hash, "each hash has its own salt");
    }

    #[tokio::test]
    async fn nobody_can_log_in_as_nobody() {
        let passwords = Passwords::new().unwrap();
        assert!(!passwords.verify(password("the password of nobody"), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_damaged_hash_is_the_servers_failure_and_not_a_wrong_password() {
        let passwords = Passwords::new().unwrap();
        let error = passwords.verify(password("x"), Some("not a hash".to_owned())).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Internal);
    }

    #[tokio::test]
    async fn a_flood_of_logins_is_told_to_come_back() {
        let passwords = Passwords::new().unwrap();
        let _taken = passwords.queue.clone().try_acquire_many_owned(u32::try_from(QUEUE_MAX).unwrap()).unwrap();
        let error = passwords.hash(password("correct horse")).await.unwrap_err();
        assert_eq!((error.code, error.retry_after_s), (ErrorCode::Unavailable, Some(2)));
    }
}
