//! Closed books as they are shown: under ids that tell nobody whose bid it is, with everything that the prices follow from.

use protocol::rest::{BookBid, BookRank, BookStep, EditionBook, Explanation, LostBecause, Page, ReleaseBook, ReleaseState, WonRank};
use protocol::{ApplicationId, BidId, BitsPerSecond, Blake3, EditionId, ErrorCode, ReleaseId, SwarmId, UserId};
use rules::auction::{Became, Decided, LossReason, Outcome, PriceStep, RankPrice, SetBy, least_maximum};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{amount, bigint, byte_array, integer, small, unsigned};
use super::releases::{selection_of, state_of};
use super::{PageRequest, Store, StoreError, Tx};
use crate::clock::to_timestamp_ms;

/// Stores what an edition's book came to.
pub(super) async fn write(tx: &mut Tx, swarm_id: SwarmId, hash: Blake3, outcome: &Outcome) -> Result<(), StoreError> {
    sqlx::query("UPDATE release_editions SET book_hash = $2 WHERE swarm_id = $1")
        .bind(swarm_id.0)
        .bind(hash.0.as_slice())
        .execute(&mut **tx)
        .await?;
    for price in &outcome.prices {
        sqlx::query("INSERT INTO rank_prices (swarm_id, rank, breakdown) VALUES ($1, $2, $3)")
            .bind(swarm_id.0)
            .bind(integer(price.rank)?)
            .bind(Json(price))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

fn loss_of(text: &str) -> Result<LossReason, StoreError> {
    match text {
        "below_reserve" => Ok(LossReason::BelowReserve),
        "no_place" => Ok(LossReason::NoPlace),
        other => Err(StoreError::Invariant(format!("{other} is no reason to lose"))),
    }
}

fn shown_loss(reason: LossReason) -> LostBecause {
    match reason {
        LossReason::BelowReserve => LostBecause::BelowReserve,
        LossReason::NoPlace => LostBecause::NoPlace,
    }
}

fn shown_step(step: &PriceStep) -> BookStep {
    let set_by = match step.set_by {
        SetBy::Offer { bid_id } => Some(bid_id),
        SetBy::Reserve => None,
    };
    BookStep { rank: step.rank, weight: step.weight, amount: step.per_weight.amount, per_weight: step.per_weight.weight, set_by }
}

#[derive(sqlx::FromRow)]
struct EditionRow {
    swarm_id: Uuid,
    edition_id: Vec<u8>,
    label: String,
    book_hash: Option<Vec<u8>>,
    bids: i64,
}

#[derive(sqlx::FromRow)]
struct BidRow {
    bid_id: Uuid,
    rank_wanted: i32,
    maximum: i64,
    applied_at: OffsetDateTime,
    up_seen_bps: i64,
    same_owner: Option<Uuid>,
    won: Option<i32>,
    lost_because: Option<String>,
}

#[derive(sqlx::FromRow)]
struct ExplainedRow {
    release_id: Uuid,
    edition_id: Vec<u8>,
    bid_id: Uuid,
    selection: String,
    rank_wanted: i32,
    maximum: i64,
    state: String,
    lost_because: Option<String>,
    breakdown: Option<Json<RankPrice>>,
    reserve: i64,
    wanted_weight: i32,
    first_weight: i32,
    up_seen_bps: Option<i64>,
}

const NOT_KEPT: &str = "The release closed before this service kept books that can be shown.";
/// What is told of a place that was won, if the release was cancelled before it started.
const CANCELLED: &str = "The release was cancelled after its book had closed: you pay nothing.";

impl Store {
    /// The closed books of a release, without their bids.
    ///
    /// # Errors
    /// `not_found`, `conflict` before the release has closed or if it was cancelled before, or the database fails.
    pub async fn release_book(&self, release_id: ReleaseId) -> Result<ReleaseBook, StoreError> {
        let row: Option<(String, String, i64, Option<Vec<u8>>)> =
            sqlx::query_as("SELECT state, selection, reserve, book_hash FROM releases WHERE id = $1 AND NOT on_demand")
                .bind(release_id.0)
                .fetch_optional(&self.pool)
                .await?;
        let (state, selection, reserve, book_hash) = row.ok_or(StoreError::NotFound("release"))?;
        let book_hash = book_hash.ok_or_else(|| not_closed(state_of(&state)))?;
        let rows: Vec<EditionRow> = sqlx::query_as(
            "SELECT swarm_id, edition_id, label, book_hash,
                 (SELECT count(*) FROM applications WHERE applications.swarm_id = release_editions.swarm_id AND up_seen_bps IS NOT NULL) AS bids
             FROM release_editions WHERE release_id = $1 ORDER BY position",
        )
        .bind(release_id.0)
        .fetch_all(&self.pool)
        .await?;
        let mut editions = Vec::with_capacity(rows.len());
        for row in rows {
            let hash = row.book_hash.ok_or_else(|| StoreError::refused_because(ErrorCode::Conflict, NOT_KEPT))?;
            editions.push(EditionBook {
                edition_id: EditionId(byte_array(&row.edition_id)?),
                label: row.label,
                ranks: self.book_ranks(row.swarm_id).await?,
                bids: u32::try_from(row.bids).unwrap_or(u32::MAX),
                hash: Blake3(byte_array(&hash)?),
            });
        }
        Ok(ReleaseBook {
            release_id,
            selection: selection_of(&selection)?,
            reserve: self.stored_money(reserve)?,
            book_hash: Blake3(byte_array(&book_hash)?),
            editions,
        })
    }

    async fn book_ranks(&self, swarm_id: Uuid) -> Result<Vec<BookRank>, StoreError> {
        let rows: Vec<(i32, i32, Json<RankPrice>)> = sqlx::query_as(
            "SELECT weight, places.capacity, breakdown FROM release_editions
             JOIN release_ranks USING (release_id)
             JOIN release_capacities places USING (swarm_id, rank)
             JOIN rank_prices USING (swarm_id, rank)
             WHERE swarm_id = $1 ORDER BY rank",
        )
        .bind(swarm_id)
        .fetch_all(&self.pool)
        .await?;
        let rank = |(weight, capacity, Json(breakdown)): (i32, i32, Json<RankPrice>)| {
            Ok(BookRank {
                weight: small(weight)?,
                capacity: small(capacity)?,
                price: self.stored_money(bigint(breakdown.price.0)?)?,
                steps: breakdown.steps.iter().map(shown_step).collect(),
            })
        };
        rows.into_iter().map(rank).collect()
    }

    /// The bids of an edition's closed book, in ascending order of their ids.
    ///
    /// # Errors
    /// `not_found` if there is no such edition in the release, `conflict` before it has closed, the cursor is not this list's, or the database fails.
    pub async fn book_bids(
        &self,
        release_id: ReleaseId,
        edition_id: EditionId,
        request: &PageRequest,
    ) -> Result<Page<BookBid>, StoreError> {
        let row: Option<(Uuid, String, bool)> = sqlx::query_as(
            "SELECT swarm_id, state, release_editions.book_hash IS NOT NULL FROM release_editions JOIN releases ON releases.id = release_id
             WHERE release_id = $1 AND edition_id = $2 AND NOT on_demand",
        )
        .bind(release_id.0)
        .bind(edition_id.0.as_slice())
        .fetch_optional(&self.pool)
        .await?;
        let (swarm_id, state, is_closed) = row.ok_or(StoreError::NotFound("edition of the release"))?;
        if !is_closed {
            return Err(not_closed(state_of(&state)));
        }
        let rows: Vec<BidRow> = sqlx::query_as(
            "SELECT bid_id, rank_wanted, maximum, applied_at, up_seen_bps, deliveries.rank AS won, lost_because,
                 (SELECT CASE WHEN count(*) > 1 THEN (array_agg(other.bid_id ORDER BY other.bid_id))[1] END FROM applications other
                  WHERE other.swarm_id = applications.swarm_id AND other.user_id = applications.user_id AND other.up_seen_bps IS NOT NULL) AS same_owner
             FROM applications LEFT JOIN deliveries ON deliveries.application_id = applications.id
             WHERE applications.swarm_id = $1 AND up_seen_bps IS NOT NULL AND ($2::uuid IS NULL OR bid_id > $2) ORDER BY bid_id LIMIT $3",
        )
        .bind(swarm_id)
        .bind(request.after::<Uuid>()?)
        .bind(request.rows_wanted())
        .fetch_all(&self.pool)
        .await?;
        let bids = rows.into_iter().map(|row| {
            Ok(BookBid {
                bid_id: BidId(row.bid_id),
                rank: small(row.rank_wanted)?,
                maximum: self.stored_money(row.maximum)?,
                applied_at: to_timestamp_ms(row.applied_at),
                up_seen: BitsPerSecond(unsigned(row.up_seen_bps)?),
                same_owner: row.same_owner.map(BidId),
                won: row.won.map(small).transpose()?,
                lost: row.lost_because.as_deref().map(loss_of).transpose()?.map(shown_loss),
            })
        });
        let bids = bids.collect::<Result<Vec<_>, StoreError>>()?;
        Ok(request.page(bids, |bid| bid.bid_id))
    }

    /// Why an application of this user costs what it costs, or got no place.
    ///
    /// # Errors
    /// `not_found`, `conflict` before its release has closed, or if it was withdrawn, or the database fails.
    pub async fn explanation(&self, id: ApplicationId, user_id: UserId) -> Result<Explanation, StoreError> {
        let row: Option<ExplainedRow> = sqlx::query_as(
            "SELECT applications.release_id, edition_id, bid_id, selection, rank_wanted, maximum, applications.state, lost_because, breakdown, reserve,
                 wanted.weight AS wanted_weight, first.weight AS first_weight, applications.up_seen_bps
             FROM applications JOIN releases ON releases.id = applications.release_id
             JOIN release_editions ON release_editions.swarm_id = applications.swarm_id
             JOIN release_ranks wanted ON wanted.release_id = releases.id AND wanted.rank = rank_wanted
             JOIN release_ranks first ON first.release_id = releases.id AND first.rank = 1
             LEFT JOIN deliveries ON deliveries.application_id = applications.id
             LEFT JOIN rank_prices ON rank_prices.swarm_id = deliveries.swarm_id AND rank_prices.rank = deliveries.rank
             WHERE applications.id = $1 AND applications.user_id = $2 AND NOT on_demand",
        )
        .bind(id.0)
        .bind(user_id.0)
        .fetch_optional(&self.pool)
        .await?;
        let row = row.ok_or(StoreError::NotFound("application"))?;
        if row.up_seen_bps.is_none() {
            let detail = "There is nothing to explain: the application stands in no closed book.";
            return Err(StoreError::refused_because(ErrorCode::Conflict, detail));
        }
        let lost = row.lost_because.as_deref().map(loss_of).transpose()?;
        let least = least_maximum(amount(row.reserve)?, small(row.wanted_weight)?, small(row.first_weight)?);
        let least = least.ok_or_else(|| StoreError::Invariant(format!("the least maximum of application {id}")))?;
        let became = match (&row.breakdown, lost) {
            (Some(Json(price)), _) => Became::Won(price),
            (None, Some(reason)) => Became::Lost { reason, least },
            (None, None) => return Err(StoreError::Invariant(format!("application {id} neither won nor lost"))),
        };
        let decided = Decided {
            selection: selection_of(&row.selection)?,
            wanted: small(row.rank_wanted)?,
            maximum: amount(row.maximum)?,
            became,
            currency: self.currency,
        };
        let won = row.breakdown.as_ref().map(|Json(price)| {
            let steps = price.steps.iter().map(shown_step).collect();
            Ok::<_, StoreError>(WonRank { rank: price.rank, price: self.stored_money(bigint(price.price.0)?)?, steps })
        });
        Ok(Explanation {
            application_id: id,
            release_id: ReleaseId(row.release_id),
            edition_id: EditionId(byte_array(&row.edition_id)?),
            bid_id: BidId(row.bid_id),
            sentence: if row.state == "cancelled" { CANCELLED.to_owned() } else { decided.sentence() },
            rank_wanted: decided.wanted,
            maximum: self.stored_money(row.maximum)?,
            won: won.transpose()?,
            lost: lost.map(shown_loss),
        })
    }
}

fn not_closed(state: Result<ReleaseState, StoreError>) -> StoreError {
    match state {
        Ok(ReleaseState::Cancelled) => {
            StoreError::refused_because(ErrorCode::Conflict, "The release was cancelled before its book closed.")
        }
        Ok(ReleaseState::Draft | ReleaseState::Open) => {
            StoreError::refused_because(ErrorCode::Conflict, "The book is open: it is shown once the release has closed.")
        }
        Ok(ReleaseState::Closed | ReleaseState::Live | ReleaseState::Settled | ReleaseState::Aborted) => {
            StoreError::refused_because(ErrorCode::Conflict, NOT_KEPT)
        }
        Err(error) => error,
    }
}
