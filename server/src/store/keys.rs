//! The keys that sign access tokens.

use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::conversions::{byte_array, stored_time};
use super::{Store, StoreError};

/// Only one instance at a time makes a key. Any constant serves that no other lock of this database uses.
const ROTATION_LOCK: i64 = 0x5350_4b45_5953;
/// The newest signs; the one before it still checks what it has signed.
const LIVE_KEYS: i64 = 2;

/// An Ed25519 key as it is stored.
#[derive(Clone)]
pub struct StoredKey {
    pub kid: String,
    pub seed: [u8; 32],
    pub created_at: OffsetDateTime,
}

impl std::fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredKey").field("kid", &self.kid).field("created_at", &self.created_at).finish_non_exhaustive()
    }
}

fn key_of(row: &PgRow) -> Result<StoredKey, StoreError> {
    Ok(StoredKey { kid: row.try_get("kid")?, seed: byte_array(row.try_get("seed")?)?, created_at: row.try_get("created_at")? })
}

const SELECT_LIVE: &str = "SELECT kid, seed, created_at FROM signing_keys ORDER BY created_at DESC, kid DESC LIMIT $1";

impl Store {
    /// The live keys, newest first.
    pub async fn signing_keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        let rows = sqlx::query(SELECT_LIVE).bind(LIVE_KEYS).fetch_all(&self.pool).await?;
        rows.iter().map(key_of).collect()
    }

    /// Stores `fresh` if there is no key made after `oldest_newest`, removes keys that have two successors, and returns the live ones, newest first.
    pub async fn rotate_signing_keys(&self, fresh: StoredKey, oldest_newest: OffsetDateTime) -> Result<Vec<StoredKey>, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(ROTATION_LOCK).execute(&mut *tx).await?;
        sqlx::query(
            "INSERT INTO signing_keys (kid, seed, created_at)
             SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT 1 FROM signing_keys WHERE created_at > $4)",
        )
        .bind(&fresh.kid)
        .bind(fresh.seed.as_slice())
        .bind(stored_time(fresh.created_at))
        .bind(stored_time(oldest_newest))
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM signing_keys WHERE kid NOT IN (SELECT kid FROM signing_keys ORDER BY created_at DESC, kid DESC LIMIT $1)")
            .bind(LIVE_KEYS)
            .execute(&mut *tx)
            .await?;
        let rows = sqlx::query(SELECT_LIVE).bind(LIVE_KEYS).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        rows.iter().map(key_of).collect()
    }
}
