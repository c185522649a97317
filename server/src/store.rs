//! Everything that must never be lost, in Postgres. This folder is the only place that knows sqlx.
//!
//! A method that changes money takes an [`idempotency::Idempotency`] or is exactly-once by its nature (closing, settling), runs in one transaction
//! and must not be cancelled half-way: a handler whose client may leave runs it on a task of its own.
//!
//! **Lock order**, the same in every transaction, so that none waits for another in a circle:
//! 1. the advisory lock of the idempotency key,
//! 2. the release row (`FOR SHARE` by whoever only needs it to stay as it is, `FOR UPDATE` by whoever changes its state),
//! 3. a terminal's row (`FOR NO KEY UPDATE`, by whoever asks for a download: rows that refer to it are written by others after their wallets are locked),
//!    application and delivery rows, the latter with their duties, in the order of their ids,
//! 4. the voucher row,
//! 5. wallet rows in the order of their owners' ids (the order of [`rules::ledger::AccountRef`]); then entries and holds on them.
//!
//! What is to be told of it goes into the outbox at the end, which locks nothing that anybody else holds.
//!
//! Publishers, the platform and the vouchers issued are never locked: their accounts only grow.

pub mod applications;
pub mod books;
pub mod budget;
pub mod candidates;
pub mod clearing;
pub mod communication;
pub mod contents;
pub mod conversions;
pub mod deliveries;
pub mod downloads;
pub mod due_work;
pub mod duties;
pub mod holders;
pub mod idempotency;
pub mod keys;
pub mod kits;
pub mod ledger;
pub mod lifecycle;
pub mod on_demand;
pub(crate) mod outbox;
pub mod outgoing;
pub mod page;
pub mod plan;
pub mod quarantines;
pub mod receipts;
#[cfg(test)]
pub(crate) mod rehearsal;
pub mod releases;
pub mod releasing;
pub mod reports;
pub mod reselections;
mod scaling;
pub mod scheduling;
pub mod sealing;
pub mod sending;
pub mod sessions;
pub mod settlement;
pub mod tariffs;
pub mod terminals;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod users;
pub mod vouchers;
pub mod wallets;
pub mod webhooks;

use std::time::Duration;

use protocol::{Amount, Currency, ErrorCode, Money};
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

pub use page::PageRequest;

/// Connections per instance. Postgres allows 100 by default: room for several instances, tools, and the migrations of the next version.
const CONNECTIONS_MAX: u32 = 20;
/// How long a request waits for a connection before it is told to come back later.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two tries to reach the database at a start.
const REACH_PAUSE: Duration = Duration::from_millis(250);
/// Ends a statement that has waited this long for somebody else's lock; every ordinary transaction holds its locks for milliseconds.
const LOCK_TIMEOUT: &str = "15s";
/// Ends a statement that runs away. Closing a large book lifts it for its own transaction.
const STATEMENT_TIMEOUT: &str = "60s";
/// Ends a transaction whose owner has died without closing its connection.
const IDLE_TRANSACTION_TIMEOUT: &str = "60s";

/// A connection that was used less than this ago is not asked whether it lives: under load that would be one more question before every transaction.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// A transaction of this store. It rolls back when dropped.
pub(crate) type Tx = sqlx::Transaction<'static, sqlx::Postgres>;

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The named thing does not exist, or not for whoever asks.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A rule of the service forbids it; nothing was changed.
    #[error("refused: {code}")]
    Refused { code: ErrorCode, detail: Option<String> },
    /// A stored value or an argument breaks a rule that the code relies on: a defect, never the client's fault.
    #[error("an invariant does not hold: {0}")]
    Invariant(String),
    #[error("the database refused or failed")]
    Db(#[from] sqlx::Error),
    #[error("the database could not be brought to this version")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error(
        "the database was made by another version of spillway-server, as its migration {0} says; start that version, or name an empty database \
         (for `cargo xtask up`: remove the folder `target/spillway`)"
    )]
    OtherHistory(i64),
}

impl StoreError {
    pub fn refused(code: ErrorCode) -> Self {
        Self::Refused { code, detail: None }
    }

    /// A refusal with a sentence for people; it must hold no internals.
    pub fn refused_because(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self::Refused { code, detail: Some(detail.into()) }
    }

    /// The word that a client is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::Refused { code, detail: _ } => *code,
            Self::Db(error) if is_passing(error) => ErrorCode::Unavailable,
            Self::Invariant(_) | Self::Db(_) | Self::Migrate(_) | Self::OtherHistory(_) => ErrorCode::Internal,
        }
    }

    /// The constraint that refused a write, if one did.
    pub(crate) fn constraint(&self) -> Option<&str> {
        match self {
            Self::Db(sqlx::Error::Database(error)) => error.constraint(),
            Self::NotFound(_) | Self::Refused { .. } | Self::Invariant(_) | Self::Db(_) | Self::Migrate(_) | Self::OtherHistory(_) => None,
        }
    }
}

/// Whether the same statement can succeed a moment later: the connection or the server went away, a lock was not to be had in time, or two
/// transactions stood in each other's way.
fn is_passing(error: &sqlx::Error) -> bool {
    if let sqlx::Error::Database(error) = error {
        // Classes of SQLSTATE: 08 connection, 40 rollback, 53 resources, 55P03 lock not available, 57 operator intervention and time limits.
        return error.code().is_some_and(|code| code == "55P03" || ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)));
    }
    matches!(
        error,
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed
    )
}

/// Whether a pooled connection is worth using. One that died in its idle time is replaced without anybody noticing.
async fn is_alive(connection: &mut PgConnection, idle_for: Duration) -> Result<bool, sqlx::Error> {
    if idle_for > TRUSTED_FOR {
        connection.ping().await?;
    }
    Ok(true)
}

/// Waits until the database takes a connection, for as long as a request would wait for one: it may be starting, too. The pool by itself would only say
/// that the time is over, and not why.
async fn reach(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let give_up_at = tokio::time::Instant::now() + ACQUIRE_TIMEOUT;
    loop {
        let tried = match tokio::time::timeout_at(give_up_at, options.connect()).await {
            Ok(Ok(connection)) => return connection.close().await,
            Ok(Err(error)) => error,
            Err(_) => return Err(sqlx::Error::PoolTimedOut),
        };
        let starting = matches!(&tried, sqlx::Error::Database(error) if error.code().is_some_and(|code| code == "57P03"));
        let refused = matches!(&tried, sqlx::Error::Io(_));
        if !(starting || refused) || tokio::time::Instant::now() + REACH_PAUSE >= give_up_at {
            return Err(tried);
        }
        tokio::time::sleep(REACH_PAUSE).await;
    }
}

/// The database of the service. Cheap to clone: all clones share one pool of connections.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    currency: Currency,
}

impl Store {
    /// Opens the pool; the schema is left as it is, see [`Store::migrate`].
    ///
    /// # Errors
    /// The address cannot be read or the database not be reached.
    pub async fn connect(url: &str, currency: Currency) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse::<PgConnectOptions>()?.application_name("spillway-server").options([
            ("lock_timeout", LOCK_TIMEOUT),
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_TRANSACTION_TIMEOUT),
            ("timezone", "UTC"),
        ]);
        reach(&options).await?;
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(ACQUIRE_TIMEOUT).test_before_acquire(false);
        let pool = pool.before_acquire(|connection, known| Box::pin(async move { is_alive(connection, known.idle_for).await }));
        let pool = pool.connect_lazy_with(options);
        Ok(Self { pool, currency })
    }

    /// Brings the schema to this version, once however many instances start at the same time, and fixes the ledger's currency at the first start.
    ///
    /// # Errors
    /// A migration fails, or the ledger was begun in another currency: its amounts must never be read as this one's.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        if let Err(error) = sqlx::migrate!("../migrations").run(&self.pool).await {
            if let MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) = error {
                return Err(StoreError::OtherHistory(version));
            }
            return Err(StoreError::Migrate(error));
        }
        sqlx::query("INSERT INTO ledger_currency (currency) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(self.currency.as_str())
            .execute(&self.pool)
            .await?;
        let begun_in: String = sqlx::query_scalar("SELECT currency FROM ledger_currency").fetch_one(&self.pool).await?;
        if begun_in != self.currency.as_str() {
            return Err(StoreError::Invariant(format!("the ledger is in {begun_in}, the service is set to {}", self.currency)));
        }
        Ok(())
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Closes every connection, waiting for those in use.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The one currency of the ledger.
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// An amount as it stands in answers.
    pub fn money(&self, amount: Amount) -> Money {
        Money { amount, currency: self.currency }
    }

    /// The number of an amount that a client states.
    ///
    /// # Errors
    /// `invalid_request` for another currency than the ledger's.
    pub(crate) fn amount_of(&self, money: Money) -> Result<Amount, StoreError> {
        if money.currency == self.currency {
            return Ok(money.amount);
        }
        Err(StoreError::refused_because(
            ErrorCode::InvalidRequest,
            format!("amounts here are in {}, not in {}", self.currency, money.currency),
        ))
    }

    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(self.pool.begin().await?)
    }
}
