//! Scheduling a release: its terms are checked, its swarms, ranks and origin budget written, and the work that falls due noted.

use protocol::rest::{EventType, NewRelease, Selection};
use protocol::{Bytes, ErrorCode, ReleaseId, SwarmId, UserId};
use rules::auction::{Book, RankTerms};
use rules::scale::PRIMARIES_MAX;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::conversions::{bigint, bytes, integer, stored_time};
use super::duties::stored_duty;
use super::idempotency::{Answer, Begun, Idempotency, commit_once};
use super::scaling::limits_of;
use super::{Store, StoreError, Tx, budget, outbox};

fn selection_text(selection: Selection) -> &'static str {
    match selection {
        Selection::Auction => "auction",
        Selection::FirstCome => "first_come",
        Selection::MeasuredQuality => "measured_quality",
    }
}

/// An edition that takes part in a new release.
#[derive(sqlx::FromRow)]
struct Part {
    id: Vec<u8>,
    label: String,
    length: i64,
    chunks: i32,
}

impl Store {
    /// Schedules a release for the publisher who sends the request; answered with 201 and the `Release`.
    ///
    /// # Errors
    /// `not_found` if the content is not the publisher's, `unknown_edition`, `budget_too_small`, `invalid_request` for times, ranks or amounts that
    /// cannot be, or the errors of a repeated key.
    pub async fn create_release(&self, new: &NewRelease, request: &Idempotency, now: OffsetDateTime) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        let schedule = Schedule::of(new, now)?;
        self.check_ranks(new)?;
        let limits = limits_of(new);
        limits.check().map_err(|error| invalid(error.to_string()))?;
        let parts = parts_of(&mut tx, new, request.user_id).await?;
        let release_id = ReleaseId(Uuid::now_v7());
        self.insert_release(&mut tx, release_id, new, request.user_id, &schedule, now).await?;
        self.insert_ranks(&mut tx, release_id, new).await?;
        insert_editions(&mut tx, release_id, new, &parts).await?;
        insert_due_work(&mut tx, release_id, new, &schedule, now).await?;
        outbox::tell_publisher(&mut tx, release_id, request.user_id, EventType::ReleaseScheduled, now).await?;
        let release = self.release_in(&mut tx, release_id).await?;
        commit_once(tx, request, 201, &release, now).await
    }

    /// The ranks must be ones that an auction can be held over.
    fn check_ranks(&self, new: &NewRelease) -> Result<(), StoreError> {
        let terms = new.ranks.iter().map(|rank| RankTerms { weight: rank.weight, capacity: rank.capacity.unwrap_or(u32::MAX) }).collect();
        Book::new(terms, self.amount_of(new.reserve)?, Vec::new()).map_err(|error| invalid(error.to_string()))?;
        if new.ranks.iter().filter_map(|rank| rank.capacity).any(|capacity| capacity == 0 || i32::try_from(capacity).is_err()) {
            return Err(invalid("a rank has at least one place"));
        }
        if new.ranks.iter().filter_map(|rank| rank.duty).any(|duty| duty.after_s == 0 || duty.deposit.amount.0 == 0) {
            return Err(invalid("a relay duty takes some seconds and has a deposit"));
        }
        Ok(())
    }

    async fn insert_release(
        &self,
        tx: &mut Tx,
        release_id: ReleaseId,
        new: &NewRelease,
        publisher_id: UserId,
        schedule: &Schedule,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO releases (id, publisher_id, content_id, title, state, selection, reserve, opens_at, closes_at, starts_at, deadline_at,
                 limit_s, relay_bp, fee_bp, created_at, primaries_max, places_max, wave_interval_s, sealed)
             VALUES ($1, $2, $3, $4, 'draft', $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
        )
        .bind(release_id.0)
        .bind(publisher_id.0)
        .bind(new.content_id.0)
        .bind(&new.title)
        .bind(selection_text(new.selection))
        .bind(bigint(self.amount_of(new.reserve)?.0)?)
        .bind(schedule.opens_at)
        .bind(schedule.closes_at)
        .bind(schedule.starts_at)
        .bind(schedule.deadline_at)
        .bind(integer(new.limit_s)?)
        .bind(i32::from(new.relay_share.get()))
        .bind(i32::from(new.fee.get()))
        .bind(now)
        .bind(integer(new.primaries_max.unwrap_or(PRIMARIES_MAX))?)
        .bind(new.places_max.map(integer).transpose()?)
        .bind(new.wave_interval_s.map(integer).transpose()?)
        .bind(new.sealed)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    async fn insert_ranks(&self, tx: &mut PgConnection, release_id: ReleaseId, new: &NewRelease) -> Result<(), StoreError> {
        for (rank, terms) in (1i32..).zip(&new.ranks) {
            let (duty_s, deposit) = stored_duty(self, terms.duty)?;
            sqlx::query(
                "INSERT INTO release_ranks (release_id, rank, weight, delay_s, capacity, duty_s, deposit) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(release_id.0)
            .bind(rank)
            .bind(integer(terms.weight)?)
            .bind(integer(terms.delay_s)?)
            .bind(terms.capacity.map(integer).transpose()?)
            .bind(duty_s)
            .bind(deposit)
            .execute(&mut *tx)
            .await?;
            sqlx::query("INSERT INTO release_waves (release_id, wave, rank, delay_s) VALUES ($1, $2 - 1, $2, $3)")
                .bind(release_id.0)
                .bind(rank)
                .bind(i64::from(terms.delay_s))
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }
}

fn invalid(detail: impl Into<String>) -> StoreError {
    StoreError::refused_because(ErrorCode::InvalidRequest, detail)
}

/// The moments of a release, cut to what is stored.
struct Schedule {
    opens_at: OffsetDateTime,
    closes_at: OffsetDateTime,
    starts_at: OffsetDateTime,
    deadline_at: OffsetDateTime,
}

impl Schedule {
    fn of(new: &NewRelease, now: OffsetDateTime) -> Result<Self, StoreError> {
        let (opens_at, closes_at, starts_at) = (stored_time(new.opens_at), stored_time(new.closes_at), stored_time(new.starts_at));
        if opens_at >= closes_at || closes_at >= starts_at {
            return Err(invalid("a release opens, then closes, then starts"));
        }
        if closes_at <= now {
            return Err(invalid("the release would have closed already"));
        }
        let last_wave = new.ranks.iter().map(|rank| rank.delay_s).max().unwrap_or(0);
        let running = Duration::seconds(i64::from(last_wave)) + Duration::seconds(i64::from(new.limit_s));
        let deadline_at = starts_at.checked_add(running).ok_or_else(|| invalid("the release would never end"))?;
        if new.limit_s == 0 {
            return Err(invalid("the last wave needs at least a second"));
        }
        Ok(Self { opens_at, closes_at, starts_at, deadline_at })
    }
}

/// The editions in the order in which the publisher named them.
async fn parts_of(tx: &mut PgConnection, new: &NewRelease, publisher_id: UserId) -> Result<Vec<Part>, StoreError> {
    let owned: Option<bool> = sqlx::query_scalar("SELECT true FROM contents WHERE id = $1 AND publisher_id = $2")
        .bind(new.content_id.0)
        .bind(publisher_id.0)
        .fetch_optional(&mut *tx)
        .await?;
    owned.ok_or(StoreError::NotFound("content"))?;
    let mut wanted: Vec<Vec<u8>> = new.editions.iter().map(|edition| edition.0.to_vec()).collect();
    let parts: Vec<Part> = sqlx::query_as(
        "SELECT editions.id, content_editions.label, editions.length, editions.chunks
         FROM content_editions JOIN editions ON editions.id = content_editions.edition_id
         WHERE content_editions.content_id = $1 AND editions.id = ANY ($2) ORDER BY array_position($2, editions.id)",
    )
    .bind(new.content_id.0)
    .bind(&wanted)
    .fetch_all(&mut *tx)
    .await?;
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.len() != new.editions.len() || wanted.is_empty() {
        return Err(invalid("a release has at least one edition, each named once"));
    }
    if parts.len() != wanted.len() {
        return Err(StoreError::refused(ErrorCode::UnknownEdition));
    }
    Ok(parts)
}

/// The swarms, and the origin's budget for all of them.
async fn insert_editions(tx: &mut PgConnection, release_id: ReleaseId, new: &NewRelease, parts: &[Part]) -> Result<(), StoreError> {
    let mut total = 0u64;
    for (position, part) in (0i32..).zip(parts) {
        total = total.saturating_add(bytes(part.length)?.0);
        let swarm_id = SwarmId(Uuid::now_v7());
        sqlx::query(
            "INSERT INTO release_editions (swarm_id, release_id, edition_id, label, position, length, chunks) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(swarm_id.0)
        .bind(release_id.0)
        .bind(&part.id)
        .bind(&part.label)
        .bind(position)
        .bind(part.length)
        .bind(part.chunks)
        .execute(&mut *tx)
        .await?;
    }
    let smallest = budget::smallest(Bytes(total)).0;
    if new.origin_budget < Bytes(smallest) {
        let detail = format!("the smallest budget is {smallest} bytes: the {total} of the editions and a hundredth for what is sent again");
        return Err(StoreError::refused_because(ErrorCode::BudgetTooSmall, detail));
    }
    sqlx::query("INSERT INTO origin_budgets (release_id, limit_bytes, first_copy_bytes) VALUES ($1, $2, $3)")
        .bind(release_id.0)
        .bind(bigint(new.origin_budget.0)?)
        .bind(bigint(total)?)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// What any instance does when the time has come: open, close, one wave per rank, and give up at the deadline. A sealed release is sealed at once, and all
/// its ranks are one wave from the closing on.
async fn insert_due_work(
    tx: &mut PgConnection,
    release_id: ReleaseId,
    new: &NewRelease,
    schedule: &Schedule,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let opening = |delay_s: u32| schedule.starts_at + Duration::seconds(i64::from(delay_s));
    let waves: Vec<(&str, i32, OffsetDateTime)> = if new.sealed {
        vec![("seal", 0, now), ("wave", 0, schedule.closes_at)]
    } else {
        (0..).zip(&new.ranks).map(|(wave, rank)| ("wave", wave, opening(rank.delay_s))).collect()
    };
    let once = [("open", 0, schedule.opens_at), ("close", 0, schedule.closes_at), ("deadline", 0, schedule.deadline_at)];
    for (kind, wave, due_at) in once.into_iter().chain(waves) {
        sqlx::query("INSERT INTO due_work (kind, release_id, wave, due_at) VALUES ($1, $2, $3, $4)")
            .bind(kind)
            .bind(release_id.0)
            .bind(wave)
            .bind(due_at)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}
