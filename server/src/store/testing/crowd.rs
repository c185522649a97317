//! A large release without the work of making it: many deliveries that wait for their settlement, and the postings of settling them.

use protocol::{Amount, DeliveryId, HoldId, UserId};
use rules::ledger::Transfer;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::conversions::bigint;
use crate::store::ledger::{self, PaidFrom};
use crate::store::{Store, StoreError};

const FUNCTIONS: &str = include_str!("crowd.sql");

const RELEASE: Uuid = Uuid::from_u128(1);
const SWARM: Uuid = Uuid::from_u128(2);

/// How large a crowd is.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    pub deliveries: u32,
    /// Owners of the terminals, which are dealt to them in turn.
    pub wallets: u32,
    /// What every delivery costs and is held for it.
    pub price: Amount,
    pub edition_chunks: u32,
    pub chunk_bytes: u32,
}

impl Crowd {
    pub fn user(number: u32) -> UserId {
        UserId(numbered(1, number))
    }

    pub fn delivery(number: u32) -> DeliveryId {
        DeliveryId(numbered(6, number))
    }

    /// Who pays for a delivery.
    pub fn payer(&self, number: u32) -> UserId {
        Self::user(number % self.wallets)
    }

    fn hold(number: u32) -> HoldId {
        HoldId(numbered(5, number))
    }
}

/// As the function of the same name.
pub fn numbered(kind: u32, number: u32) -> Uuid {
    Uuid::from_u128((u128::from(kind) << 96) | u128::from(number))
}

impl Store {
    /// Makes a live release and fills it with a crowd, once in a database.
    ///
    /// # Errors
    /// The database refuses it.
    pub async fn make_crowd(&self, crowd: &Crowd) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        sqlx::raw_sql("SET statement_timeout = 0").execute(&mut *connection).await?;
        sqlx::raw_sql(FUNCTIONS).execute(&mut *connection).await?;
        let (chunks, chunk_bytes) = (i64::from(crowd.edition_chunks), i64::from(crowd.chunk_bytes));
        sqlx::query("CALL make_release($1, $2, $3::bigint::integer, $4::bigint::integer)")
            .bind(RELEASE)
            .bind(SWARM)
            .bind(chunks)
            .bind(chunk_bytes)
            .execute(&mut *connection)
            .await?;
        sqlx::query("CALL make_crowd($1, $2, $3::bigint::integer, $4::bigint::integer, $5, $6::bigint::integer, $7::bigint::integer)")
            .bind(RELEASE)
            .bind(SWARM)
            .bind(i64::from(crowd.deliveries))
            .bind(i64::from(crowd.wallets))
            .bind(bigint(crowd.price.0)?)
            .bind(chunks)
            .bind(chunk_bytes)
            .execute(&mut *connection)
            .await?;
        connection.close().await?;
        Ok(())
    }

    /// Posts what settling one delivery of a crowd posts, out of its hold and in a transaction of its own, and nothing else of a settlement.
    ///
    /// # Errors
    /// The ledger refuses it, such as a second time.
    pub async fn post_of_crowd(&self, crowd: &Crowd, number: u32, transfer: &Transfer, now: OffsetDateTime) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let paid_from = PaidFrom { hold_id: Crowd::hold(number), held: crowd.price, payer: crowd.payer(number) };
        ledger::post(&mut tx, transfer, Some(Crowd::delivery(number)), Some(paid_from), now).await?;
        tx.commit().await?;
        Ok(())
    }
}
