//! A money-changing request runs once, however often it is sent: its answer commits with what it did and is given again to whoever repeats it.
//!
//! A refused request changes nothing and leaves no answer behind, so that it may be sent again with the same key when the reason has gone.

use protocol::{ErrorCode, UserId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::{Duration, OffsetDateTime};

use super::conversions::byte_array;
use super::{Store, StoreError, Tx};

/// How long a request may be repeated; a client that has had no answer for so long asks what became of it.
const REMEMBERED_FOR: Duration = Duration::days(30);

/// What makes a request the same request.
#[derive(Clone, PartialEq, Eq)]
pub struct Idempotency {
    pub user_id: UserId,
    /// As the client sent it. Only a hash of it is stored, see [`super::vouchers`].
    pub key: String,
    /// Over method, path and canonical body.
    pub request_hash: [u8; 32],
}

/// The key stays out of logs: voucher codes are derived from it.
impl std::fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idempotency").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

impl Idempotency {
    /// How the key is stored: 64 hexadecimal digits.
    fn stored_key(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("spillway idempotency key v1");
        hasher.update(&self.user_id.to_bytes());
        hasher.update(self.key.as_bytes());
        hasher.finalize().to_hex().to_string()
    }
}

/// What a request is answered with: for the first time, or again.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `null` where there is nothing to say.
    pub body: serde_json::Value,
    /// Whether an earlier request did the work.
    pub replayed: bool,
}

impl Answer {
    /// The body as the type that it was made from.
    ///
    /// # Errors
    /// It is another type's.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_value(self.body.clone()).map_err(|error| StoreError::Invariant(format!("a stored answer cannot be read: {error}")))
    }
}

/// The outcome of [`Store::begin_once`].
pub(crate) enum Begun {
    /// Do the work in this transaction, then [`commit_once`].
    First(Tx),
    /// The work was done; this was the answer.
    Again(Answer),
}

impl Store {
    /// Opens the transaction of a request, or finds the answer to its first sending. A request whose twin is still running waits for it.
    ///
    /// # Errors
    /// `idempotency_key_reused` if the key stands for another request, `idempotency_key_busy` if the twin takes too long.
    pub(crate) async fn begin_once(&self, request: &Idempotency) -> Result<Begun, StoreError> {
        let mut tx = self.begin().await?;
        let key = request.stored_key();
        // The statement after the lock sees what its last holder has committed. Two keys with the same 64 bits only wait for each other.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))").bind(&key).execute(&mut *tx).await.map_err(busy)?;
        let stored: Option<(Vec<u8>, i16, serde_json::Value)> =
            sqlx::query_as("SELECT request_hash, status, body FROM idempotency_keys WHERE user_id = $1 AND key = $2")
                .bind(request.user_id.0)
                .bind(&key)
                .fetch_optional(&mut *tx)
                .await?;
        let Some((request_hash, status, body)) = stored else { return Ok(Begun::First(tx)) };
        tx.rollback().await?;
        if byte_array::<32>(&request_hash)? != request.request_hash {
            return Err(StoreError::refused(ErrorCode::IdempotencyKeyReused));
        }
        let status = u16::try_from(status).map_err(|_| StoreError::Invariant(format!("the stored status is {status}")))?;
        Ok(Begun::Again(Answer { status, body, replayed: true }))
    }

    /// Forgets the answers to requests that nobody repeats any more.
    ///
    /// # Errors
    /// The database fails.
    pub async fn forget_old_answers(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM idempotency_keys WHERE created_at < $1").bind(now - REMEMBERED_FOR).execute(&self.pool).await?;
        Ok(())
    }
}

/// Stores the answer beside what was done and commits both.
pub(crate) async fn commit_once<T: Serialize>(
    tx: Tx,
    request: &Idempotency,
    status: u16,
    body: &T,
    now: OffsetDateTime,
) -> Result<Answer, StoreError> {
    let body = serde_json::to_value(body).map_err(|error| StoreError::Invariant(format!("an answer cannot be written: {error}")))?;
    commit_once_showing(tx, request, Answer { status, body: body.clone(), replayed: false }, body, now).await
}

/// Like [`commit_once`] with an answer that holds more than what is stored of it.
pub(crate) async fn commit_once_showing(
    mut tx: Tx,
    request: &Idempotency,
    shown: Answer,
    stored_body: serde_json::Value,
    now: OffsetDateTime,
) -> Result<Answer, StoreError> {
    let status = i16::try_from(shown.status).map_err(|_| StoreError::Invariant(format!("{} is no status", shown.status)))?;
    sqlx::query("INSERT INTO idempotency_keys (user_id, key, request_hash, status, body, created_at) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(request.user_id.0)
        .bind(request.stored_key())
        .bind(request.request_hash.as_slice())
        .bind(status)
        .bind(stored_body)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(shown)
}

/// The lock was not to be had within the time limit: the twin is still at work.
fn busy(error: sqlx::Error) -> StoreError {
    match error.as_database_error().and_then(|error| error.code()) {
        Some(code) if code == "55P03" => StoreError::refused(ErrorCode::IdempotencyKeyBusy),
        _ => StoreError::Db(error),
    }
}
