//! Databases for tests: each test has one of its own, brought to the present schema, and drops it at its end even if it panics.

pub mod crowd;

use protocol::Currency;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgPool};

use super::{Store, StoreError};

/// A database that exists as long as this does.
#[derive(Debug)]
pub struct TestDatabase {
    admin: PgConnectOptions,
    name: String,
    url: String,
}

impl TestDatabase {
    /// Makes an empty database on the server that the environment variable `DATABASE_URL` names.
    ///
    /// # Panics
    /// The variable is not set, or the server cannot be used: a test that needs Postgres must not pass without it.
    pub async fn create() -> Self {
        let Ok(url) = std::env::var("DATABASE_URL") else {
            panic!("DATABASE_URL must name a Postgres in which databases may be created");
        };
        let admin: PgConnectOptions = url.parse().unwrap_or_else(|error| panic!("DATABASE_URL cannot be read: {error}"));
        let name = format!("spillway_test_{}", uuid::Uuid::new_v4().simple());
        let made = Self { url: admin.clone().database(&name).to_url_lossy().to_string(), admin, name };
        made.as_admin(format!("CREATE DATABASE {}", made.name)).await.unwrap_or_else(|error| panic!("no test database: {error}"));
        made
    }

    /// Makes a database with the present schema.
    ///
    /// # Panics
    /// As [`TestDatabase::create`], or a migration fails.
    pub async fn migrated() -> (Self, Store) {
        let database = Self::create().await;
        let store = database.connect().await.unwrap_or_else(|error| panic!("the test database cannot be reached: {error:?}"));
        store.migrate().await.unwrap_or_else(|error| panic!("the schema cannot be made: {error:?}"));
        (database, store)
    }

    pub async fn connect(&self) -> Result<Store, StoreError> {
        Store::connect(&self.url, Currency::EUR).await
    }

    /// For a program that is tested as a whole.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn as_admin(&self, statement: String) -> Result<(), sqlx::Error> {
        let mut connection = self.admin.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await
    }
}

impl Drop for TestDatabase {
    /// On a thread of its own, because the test's runtime may be in the middle of a panic.
    fn drop(&mut self) {
        let dropped = std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime
                    .block_on(self.as_admin(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)))
                    .map_err(std::io::Error::other)
            });
            work.join()
        });
        if !matches!(dropped, Ok(Ok(()))) {
            tracing::error!(database = self.name, "the test database was not dropped: {dropped:?}");
        }
    }
}

impl Store {
    /// The connections, for what a test does behind the store's back.
    pub fn raw(&self) -> &PgPool {
        &self.pool
    }

    /// Does something behind the store's back: what an operator with `psql`, or a disaster, could do.
    ///
    /// # Panics
    /// The statement fails.
    pub async fn tamper(&self, statement: &'static str) {
        sqlx::raw_sql(statement).execute(&self.pool).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// Reads one column of byte strings behind the store's back.
    ///
    /// # Panics
    /// The query fails.
    pub async fn peek(&self, query: &'static str) -> Vec<Vec<u8>> {
        sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Checks every balance against the entries and holds, and that the ledger sums to zero.
    ///
    /// # Panics
    /// Something does not add up.
    pub async fn assert_books_balance(&self) {
        let wrong: Vec<(uuid::Uuid, String, i64, i64)> = sqlx::query_as("SELECT account_id, what, kept, booked FROM ledger_discrepancies")
            .fetch_all(&self.pool)
            .await
            .unwrap_or_else(|error| panic!("the ledger cannot be read: {error}"));
        assert!(wrong.is_empty(), "balances that do not follow from what was booked: {wrong:?}");
        let totals = self.ledger_totals().await.unwrap_or_else(|error| panic!("the ledger cannot be read: {error:?}"));
        assert_eq!(totals.sum.amount, 0, "{totals:?}");
    }
}
