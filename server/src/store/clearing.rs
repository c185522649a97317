//! Closing a release: the books are cleared and the awards stand, in one transaction. Who wins what at which price is decided in [`rules::auction`].

use std::collections::HashMap;

use protocol::rest::{ReleaseState, Selection};
use protocol::{ApplicationId, BidId, BitsPerSecond, Blake3, DeliveryId, ErrorCode, HoldId, ReleaseId, SwarmId};
use rules::auction::{Bid, Book, LossReason, Outcome, RankTerms, clear, coarse_uplink, release_hash};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{amount, bigint, integer, small, unsigned};
use super::duties::write_duties;
use super::lifecycle::{Lock, lift_statement_timeout, standing, void_holds};
use super::releases::selection_of;
use super::scaling::{ScaledSwarm, Seat, read_applicants, read_limits, scale_editions, seats, write_last_waves};
use super::{Store, StoreError, Tx, books, outbox};
use crate::clock::to_timestamp_ms;

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
    swarm: ScaledSwarm,
    book: Book,
    applications: HashMap<BidId, ApplicationId>,
}

impl SwarmBook {
    fn application(&self, bid_id: BidId) -> Result<ApplicationId, StoreError> {
        let found = self.applications.get(&bid_id).copied();
        found.ok_or_else(|| StoreError::Invariant(format!("bid {bid_id} is of no application")))
    }
}

/// What is to be written of every application in a book, column by column.
#[derive(Default)]
struct Verdicts {
    applications: Vec<Uuid>,
    ups_seen: Vec<i64>,
    lost_because: Vec<Option<&'static str>>,
}

impl Verdicts {
    fn push_book(&mut self, book: &SwarmBook, outcome: &Outcome) -> Result<(), StoreError> {
        let lost: HashMap<BidId, LossReason> = outcome.losers.iter().map(|loser| (loser.bid_id, loser.reason)).collect();
        for bid in book.book.bids() {
            self.applications.push(book.application(bid.bid_id)?.0);
            self.ups_seen.push(bigint(bid.up_seen.0)?);
            self.lost_because.push(lost.get(&bid.bid_id).map(|&reason| loss_text(reason)));
        }
        Ok(())
    }
}

/// The rows to be written for the winners, column by column.
#[derive(Default)]
struct Awards {
    applications: Vec<Uuid>,
    deliveries: Vec<Uuid>,
    ranks: Vec<i32>,
    waves: Vec<i32>,
    primaries: Vec<Option<Uuid>>,
    prices: Vec<i64>,
    holds: Vec<Option<Uuid>>,
}

impl Awards {
    fn push(&mut self, award: &rules::auction::Award, application_id: ApplicationId, seat: Seat) -> Result<(), StoreError> {
        self.applications.push(application_id.0);
        self.deliveries.push(DeliveryId(Uuid::now_v7()).0);
        self.ranks.push(integer(award.rank)?);
        self.waves.push(integer(seat.wave)?);
        self.primaries.push(seat.primary.map(|primary| primary.0));
        self.prices.push(bigint(award.price.0)?);
        self.holds.push((award.price.0 > 0).then(|| HoldId(Uuid::now_v7()).0));
        Ok(())
    }
}

impl Store {
    /// Closes a release once its time has come: the applications are counted and decide the places, each edition's book is cleared, the awards become
    /// deliveries in their waves, what the losers had set aside is released, and the winners' holds shrink to their prices. Closing again changes nothing.
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
        let limits = read_limits(&mut tx, release_id).await?;
        let swarms = scale_editions(&mut tx, release_id, &limits).await?;
        let (selection, books) = read_books(&mut tx, release_id, swarms).await?;
        let (books, outcomes) = clear_books(selection, books).await?;
        let (mut awards, mut verdicts, mut last_wave) = (Awards::default(), Verdicts::default(), 0);
        let mut hashes = Vec::with_capacity(books.len());
        for (book, outcome) in books.iter().zip(&outcomes) {
            let applicants = read_applicants(&mut tx, book.swarm.swarm_id).await?;
            for (award, seat) in outcome.awards.iter().zip(seats(&outcome.awards, &book.swarm.scale, &applicants)?) {
                last_wave = last_wave.max(seat.wave);
                awards.push(award, book.application(award.bid_id)?, seat)?;
            }
            verdicts.push_book(book, outcome)?;
            let hash = book.book.hash(selection);
            books::write(&mut tx, book.swarm.swarm_id, hash, outcome).await?;
            hashes.push((book.swarm.edition_id, hash));
        }
        let cleared = Cleared {
            book_hash: release_hash(hashes),
            winners: awards.applications.len(),
            losers: outcomes.iter().map(|outcome| outcome.losers.len()).sum(),
        };
        void_holds(&mut tx, release_id, now).await?;
        write_awards(&mut tx, &awards, now).await?;
        write_duties(&mut tx, release_id, standing.begins_at, now).await?;
        write_last_waves(&mut tx, release_id, &limits, last_wave).await?;
        write_closed(&mut tx, release_id, &cleared, &verdicts).await?;
        outbox::tell_closed(&mut tx, release_id, standing.publisher_id, &cleared, now).await?;
        outbox::tell_awards(&mut tx, release_id, self.currency, now).await?;
        tx.commit().await?;
        Ok(Closing::Cleared(cleared))
    }
}

/// The books of a release's editions. Its row is locked, so that no application changes any more.
async fn read_books(
    tx: &mut PgConnection,
    release_id: ReleaseId,
    swarms: Vec<ScaledSwarm>,
) -> Result<(Selection, Vec<SwarmBook>), StoreError> {
    let (selection, reserve): (String, i64) =
        sqlx::query_as("SELECT selection, reserve FROM releases WHERE id = $1").bind(release_id.0).fetch_one(&mut *tx).await?;
    let selection = selection_of(&selection)?;
    let weights: Vec<i32> = sqlx::query_scalar("SELECT weight FROM release_ranks WHERE release_id = $1 ORDER BY rank")
        .bind(release_id.0)
        .fetch_all(&mut *tx)
        .await?;
    let mut books = Vec::with_capacity(swarms.len());
    for swarm in swarms {
        let terms = |(&weight, &capacity)| Ok::<_, StoreError>(RankTerms { weight: small(weight)?, capacity });
        let ranks = weights.iter().zip(&swarm.scale.capacities).map(terms).collect::<Result<_, _>>()?;
        let (bids, applications) = read_bids(tx, swarm.swarm_id, selection).await?;
        let book = Book::new(ranks, amount(reserve)?, bids).map_err(|error| StoreError::Invariant(error.to_string()))?;
        books.push(SwarmBook { swarm, book, applications });
    }
    Ok((selection, books))
}

/// The book is public: of a terminal's uplink it has no more than its selection needs, or whoever knows the uplink would know whose bid it is.
async fn read_bids(
    tx: &mut PgConnection,
    swarm_id: SwarmId,
    selection: Selection,
) -> Result<(Vec<Bid>, HashMap<BidId, ApplicationId>), StoreError> {
    let rows: Vec<(Uuid, Uuid, i32, i64, OffsetDateTime, i64)> = sqlx::query_as(
        "SELECT id, bid_id, rank_wanted, maximum, applied_at, coalesce(communication_states.up_seen_bps, 0)
         FROM applications LEFT JOIN communication_states USING (terminal_id) WHERE swarm_id = $1 AND state = 'active'",
    )
    .bind(swarm_id.0)
    .fetch_all(tx)
    .await?;
    let applications = rows.iter().map(|&(id, bid_id, ..)| (BidId(bid_id), ApplicationId(id))).collect();
    let bids = rows.into_iter().map(|(_, bid_id, rank, maximum, applied_at, up_seen)| {
        Ok::<_, StoreError>(Bid {
            bid_id: BidId(bid_id),
            rank: small(rank)?,
            maximum: amount(maximum)?,
            applied_at: to_timestamp_ms(applied_at),
            up_seen: match selection {
                Selection::MeasuredQuality => coarse_uplink(BitsPerSecond(unsigned(up_seen)?)),
                Selection::Auction | Selection::FirstCome => BitsPerSecond(0),
            },
        })
    });
    Ok((bids.collect::<Result<_, _>>()?, applications))
}

pub(super) fn loss_text(reason: LossReason) -> &'static str {
    match reason {
        LossReason::BelowReserve => "below_reserve",
        LossReason::NoPlace => "no_place",
    }
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
        "INSERT INTO deliveries (id, application_id, release_id, swarm_id, terminal_id, user_id, rank, wave, primary_terminal_id, price, hold_id, state)
         SELECT award.id, applications.id, applications.release_id, applications.swarm_id, applications.terminal_id, applications.user_id,
             award.rank, award.wave, award.primary_terminal_id, award.price, award.hold_id, 'pending'
         FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::integer[], $5::uuid[], $6::bigint[], $7::uuid[])
             AS award (application_id, id, rank, wave, primary_terminal_id, price, hold_id)
         JOIN applications ON applications.id = award.application_id",
    )
    .bind(&awards.applications)
    .bind(&awards.deliveries)
    .bind(&awards.ranks)
    .bind(&awards.waves)
    .bind(&awards.primaries)
    .bind(&awards.prices)
    .bind(&awards.holds)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn write_closed(tx: &mut Tx, release_id: ReleaseId, cleared: &Cleared, verdicts: &Verdicts) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE applications SET hold_id = NULL, version = version + 1, up_seen_bps = verdict.up_seen_bps, lost_because = verdict.lost_because,
             state = CASE WHEN verdict.lost_because IS NULL THEN 'won' ELSE 'lost' END
         FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS verdict (id, up_seen_bps, lost_because)
         WHERE applications.id = verdict.id",
    )
    .bind(&verdicts.applications)
    .bind(&verdicts.ups_seen)
    .bind(&verdicts.lost_because)
    .execute(&mut **tx)
    .await?;
    sqlx::query("UPDATE releases SET state = 'closed', book_hash = $2 WHERE id = $1")
        .bind(release_id.0)
        .bind(cleared.book_hash.0.as_slice())
        .execute(&mut **tx)
        .await?;
    Ok(())
}
