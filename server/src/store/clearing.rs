//! Closing a release: the books are cleared and the awards stand, in one transaction. Who wins what at which price is decided in [`rules::auction`].

use protocol::rest::{ReleaseState, Selection};
use protocol::{ApplicationId, Blake3, DeliveryId, EditionId, ErrorCode, HoldId, ReleaseId, SwarmId, TimestampMs};
use rules::auction::{Bid, Book, Outcome, RankTerms, clear};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{amount, bigint, byte_array, integer, small};
use super::lifecycle::{Lock, lift_statement_timeout, standing, void_holds};
use super::releases::selection_of;
use super::{Store, StoreError, Tx};

/// Starts the bytes that a release's book hash covers.
const BOOKS_MAGIC: &[u8; 17] = b"SPILLWAY-BOOKS-1\n";

/// What closing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The awards stand.
    Cleared(Cleared),
    /// Somebody else closed or cancelled the release before; this is its state.
    Before(ReleaseState),
}

/// The outcome of a release's books, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleared {
    pub book_hash: Blake3,
    pub winners: usize,
    pub losers: usize,
}

/// The closed book of one edition.
struct SwarmBook {
    edition_id: EditionId,
    book: Book,
}

/// The rows to be written for the winners, column by column.
#[derive(Default)]
struct Awards {
    applications: Vec<Uuid>,
    deliveries: Vec<Uuid>,
    ranks: Vec<i32>,
    prices: Vec<i64>,
    holds: Vec<Option<Uuid>>,
}

impl Awards {
    fn push(&mut self, award: &rules::auction::Award) -> Result<(), StoreError> {
        self.applications.push(award.application_id.0);
        self.deliveries.push(DeliveryId(Uuid::now_v7()).0);
        self.ranks.push(integer(award.rank)?);
        self.prices.push(bigint(award.price.0)?);
        self.holds.push((award.price.0 > 0).then(|| HoldId(Uuid::now_v7()).0));
        Ok(())
    }
}

/// The hash that a release publishes: BLAKE3 over `"SPILLWAY-BOOKS-1\n"`, then, per edition in the release's order, the edition id (32 bytes) and the
/// hash of its book (32 bytes, see [`Book::hash`]).
pub fn book_hash<'books>(books: impl IntoIterator<Item = (EditionId, &'books Book)>) -> Blake3 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(BOOKS_MAGIC);
    for (edition_id, book) in books {
        hasher.update(&edition_id.0).update(&book.hash().0);
    }
    Blake3(*hasher.finalize().as_bytes())
}

impl Store {
    /// Closes a release once its time has come: clears each edition's book, turns the awards into deliveries, releases what the losers had set aside
    /// and shrinks the winners' holds to their prices. Closing again changes nothing.
    ///
    /// # Errors
    /// `not_found`, `conflict` before `closes_at`, or the database fails.
    pub async fn close_release(&self, release_id: ReleaseId, now: OffsetDateTime) -> Result<Closing, StoreError> {
        let mut tx = self.begin().await?;
        lift_statement_timeout(&mut tx).await?;
        let standing = standing(&mut tx, release_id, Some(Lock::Exclusive)).await?;
        match standing.state {
            ReleaseState::Draft | ReleaseState::Open if now < standing.closes_at => {
                return Err(StoreError::refused_because(ErrorCode::Conflict, "the release is not to be closed yet"));
            }
            ReleaseState::Draft | ReleaseState::Open => {}
            before @ (ReleaseState::Closed
            | ReleaseState::Live
            | ReleaseState::Settled
            | ReleaseState::Cancelled
            | ReleaseState::Aborted) => return Ok(Closing::Before(before)),
        }
        let (selection, books) = read_books(&mut tx, release_id).await?;
        let (books, outcomes) = clear_books(selection, books).await?;
        let mut awards = Awards::default();
        for award in outcomes.iter().flat_map(|outcome| &outcome.awards) {
            awards.push(award)?;
        }
        let cleared = Cleared {
            book_hash: book_hash(books.iter().map(|swarm| (swarm.edition_id, &swarm.book))),
            winners: awards.applications.len(),
            losers: outcomes.iter().map(|outcome| outcome.losers.len()).sum(),
        };
        void_holds(&mut tx, release_id, now).await?;
        write_awards(&mut tx, &awards, now).await?;
        write_closed(&mut tx, release_id, &cleared).await?;
        tx.commit().await?;
        Ok(Closing::Cleared(cleared))
    }
}

/// The release's books in the order of its editions. Its row is locked, so that no application changes any more.
async fn read_books(tx: &mut PgConnection, release_id: ReleaseId) -> Result<(Selection, Vec<SwarmBook>), StoreError> {
    let (selection, reserve): (String, i64) =
        sqlx::query_as("SELECT selection, reserve FROM releases WHERE id = $1").bind(release_id.0).fetch_one(&mut *tx).await?;
    let swarms: Vec<(Uuid, Vec<u8>)> =
        sqlx::query_as("SELECT swarm_id, edition_id FROM release_editions WHERE release_id = $1 ORDER BY position")
            .bind(release_id.0)
            .fetch_all(&mut *tx)
            .await?;
    let mut books = Vec::with_capacity(swarms.len());
    for (swarm_id, edition_id) in swarms {
        let ranks = read_terms(tx, SwarmId(swarm_id)).await?;
        let bids = read_bids(tx, SwarmId(swarm_id)).await?;
        let book = Book::new(ranks, amount(reserve)?, bids).map_err(|error| StoreError::Invariant(error.to_string()))?;
        books.push(SwarmBook { edition_id: EditionId(byte_array(&edition_id)?), book });
    }
    Ok((selection_of(&selection)?, books))
}

async fn read_terms(tx: &mut PgConnection, swarm_id: SwarmId) -> Result<Vec<RankTerms>, StoreError> {
    let rows: Vec<(i32, i32)> = sqlx::query_as(
        "SELECT weight, capacity FROM release_editions
         JOIN release_ranks USING (release_id) JOIN release_capacities USING (swarm_id, rank)
         WHERE swarm_id = $1 ORDER BY rank",
    )
    .bind(swarm_id.0)
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|(weight, capacity)| Ok(RankTerms { weight: small(weight)?, capacity: small(capacity)? })).collect()
}

async fn read_bids(tx: &mut PgConnection, swarm_id: SwarmId) -> Result<Vec<Bid>, StoreError> {
    let rows: Vec<(Uuid, i32, i64, OffsetDateTime)> =
        sqlx::query_as("SELECT id, rank_wanted, maximum, applied_at FROM applications WHERE swarm_id = $1 AND state = 'active'")
            .bind(swarm_id.0)
            .fetch_all(tx)
            .await?;
    rows.into_iter()
        .map(|(id, rank, maximum, applied_at)| {
            Ok(Bid {
                application_id: ApplicationId(id),
                rank: small(rank)?,
                maximum: amount(maximum)?,
                applied_at: TimestampMs(u64::try_from(applied_at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)),
            })
        })
        .collect()
}

/// A large book is sorted for seconds, so it does not stand on a thread that serves others.
async fn clear_books(selection: Selection, books: Vec<SwarmBook>) -> Result<(Vec<SwarmBook>, Vec<Outcome>), StoreError> {
    let cleared = tokio::task::spawn_blocking(move || {
        let outcomes = books.iter().map(|swarm| clear(&swarm.book, selection)).collect::<Result<Vec<_>, _>>();
        outcomes.map(|outcomes| (books, outcomes))
    });
    let cleared = cleared.await.map_err(|error| StoreError::Invariant(format!("the clearing did not end: {error}")))?;
    cleared.map_err(|error| StoreError::Invariant(error.to_string()))
}

/// New holds at the winners' prices, which their voided maxima cover, and the deliveries behind them.
async fn write_awards(tx: &mut Tx, awards: &Awards, now: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO holds (id, account_id, amount, created_at)
         SELECT award.hold_id, accounts.id, award.price, $4
         FROM unnest($1::uuid[], $2::bigint[], $3::uuid[]) AS award (application_id, price, hold_id)
         JOIN applications ON applications.id = award.application_id
         JOIN accounts ON accounts.user_id = applications.user_id AND accounts.kind = 'wallet'
         WHERE award.hold_id IS NOT NULL",
    )
    .bind(&awards.applications)
    .bind(&awards.prices)
    .bind(&awards.holds)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "INSERT INTO deliveries (id, application_id, release_id, swarm_id, terminal_id, user_id, rank, price, hold_id, state)
         SELECT award.id, applications.id, applications.release_id, applications.swarm_id, applications.terminal_id, applications.user_id,
             award.rank, award.price, award.hold_id, 'pending'
         FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::uuid[]) AS award (application_id, id, rank, price, hold_id)
         JOIN applications ON applications.id = award.application_id",
    )
    .bind(&awards.applications)
    .bind(&awards.deliveries)
    .bind(&awards.ranks)
    .bind(&awards.prices)
    .bind(&awards.holds)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn write_closed(tx: &mut Tx, release_id: ReleaseId, cleared: &Cleared) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE applications SET hold_id = NULL, version = version + 1,
             state = CASE WHEN EXISTS (SELECT FROM deliveries WHERE deliveries.application_id = applications.id) THEN 'won' ELSE 'lost' END
         WHERE release_id = $1 AND state = 'active'",
    )
    .bind(release_id.0)
    .execute(&mut **tx)
    .await?;
    sqlx::query("UPDATE releases SET state = 'closed', book_hash = $2 WHERE id = $1")
        .bind(release_id.0)
        .bind(cleared.book_hash.0.as_slice())
        .execute(&mut **tx)
        .await?;
    Ok(())
}
