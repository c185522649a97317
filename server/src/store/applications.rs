//! Applications: a bid for a place in a release, backed by a hold on the bidder's wallet until the release closes.

use protocol::rest::{Application, ApplicationState, Award, ChangeApplication, NewApplication, Page};
use protocol::{Amount, ApplicationId, BidId, DeliveryId, EditionId, ErrorCode, HoldId, Money, ReleaseId, SwarmId, TerminalId, UserId};
use rules::auction::PerWeight;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{bigint, byte_array, integer, small};
use super::idempotency::{Answer, Begun, Idempotency, commit_once};
use super::lifecycle::{Lock, standing};
use super::quarantines::refuse_quarantined;
use super::{PageRequest, Store, StoreError, ledger};

#[derive(sqlx::FromRow)]
struct ApplicationRow {
    id: Uuid,
    bid_id: Uuid,
    release_id: Uuid,
    terminal_id: Uuid,
    edition_id: Vec<u8>,
    rank_wanted: i32,
    maximum: i64,
    deposit: i64,
    state: String,
    applied_at: OffsetDateTime,
    version: i32,
    delivery_id: Option<Uuid>,
    rank: Option<i32>,
    price: Option<i64>,
    award_deposit: Option<i64>,
    opens_at: Option<OffsetDateTime>,
    primary_terminal_id: Option<Uuid>,
}

/// What of an application is needed to change it; its row stays locked.
#[derive(sqlx::FromRow)]
struct Standing {
    state: String,
    version: i32,
    hold_id: Option<Uuid>,
}

/// A bid that the release has room for in its terms.
struct Bid {
    swarm_id: SwarmId,
    rank: u32,
    maximum: Amount,
    /// The largest of the ranks that it may be given.
    deposit: Amount,
}

impl Bid {
    /// What is set aside for it.
    fn held(&self) -> Amount {
        Amount(self.maximum.0.saturating_add(self.deposit.0))
    }
}

fn state_of(text: &str) -> Result<ApplicationState, StoreError> {
    Ok(match text {
        "active" => ApplicationState::Active,
        "withdrawn" => ApplicationState::Withdrawn,
        "won" => ApplicationState::Won,
        "lost" => ApplicationState::Lost,
        "cancelled" => ApplicationState::Cancelled,
        other => return Err(StoreError::Invariant(format!("{other} is no state of an application"))),
    })
}

impl Store {
    /// Applies for a terminal of whoever sends the request; answered with 201 and the [`Application`].
    ///
    /// # Errors
    /// `not_found` (release or terminal), `release_not_open`, `release_closed`, `unknown_edition`, `unknown_rank`, `below_reserve`,
    /// `insufficient_funds`, `already_applied`, or the errors of a repeated key.
    pub async fn apply(
        &self,
        release_id: ReleaseId,
        new: &NewApplication,
        request: &Idempotency,
        now: OffsetDateTime,
    ) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        still_open(&mut tx, release_id, now).await?;
        let owned: Option<bool> = sqlx::query_scalar("SELECT true FROM terminals WHERE id = $1 AND user_id = $2")
            .bind(new.terminal_id.0)
            .bind(request.user_id.0)
            .fetch_optional(&mut *tx)
            .await?;
        owned.ok_or_else(|| StoreError::refused_because(ErrorCode::InvalidRequest, "You have no such terminal."))?;
        refuse_quarantined(&mut tx, new.terminal_id, now).await?;
        let bid = self.bid(&mut tx, release_id, new.edition_id, new.rank, new.maximum).await?;
        let hold_id = set_aside(&mut tx, request.user_id, bid.held(), now).await?;
        let id = ApplicationId(Uuid::now_v7());
        sqlx::query(
            "INSERT INTO applications (id, release_id, swarm_id, terminal_id, user_id, rank_wanted, maximum, hold_id, state, applied_at, bid_id, deposit)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'active', $9, $10, $11)",
        )
        .bind(id.0)
        .bind(release_id.0)
        .bind(bid.swarm_id.0)
        .bind(new.terminal_id.0)
        .bind(request.user_id.0)
        .bind(integer(bid.rank)?)
        .bind(bigint(bid.maximum.0)?)
        .bind(hold_id.map(|id| id.0))
        .bind(now)
        // Random, and not of the time: the book must not tell whose bid it is.
        .bind(Uuid::new_v4())
        .bind(bigint(bid.deposit.0)?)
        .execute(&mut *tx)
        .await
        .map_err(applied_before)?;
        let application = self.application_in(&mut tx, id, request.user_id).await?;
        commit_once(tx, request, 201, &application, now).await
    }

    /// Puts another bid in the place of an application's present one, which then counts from now; answered with 200 and the [`Application`].
    ///
    /// # Errors
    /// `precondition_failed` if `version` is not the present one, `conflict` for one that was withdrawn, else as for [`Store::apply`].
    pub async fn change_application(
        &self,
        id: ApplicationId,
        version: u32,
        change: &ChangeApplication,
        request: &Idempotency,
        now: OffsetDateTime,
    ) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        let (release_id, application) = locked_application(&mut tx, id, request.user_id, now).await?;
        if small(application.version)? != version {
            return Err(StoreError::refused(ErrorCode::PreconditionFailed));
        }
        let bid = self.bid(&mut tx, release_id, change.edition_id, change.rank, change.maximum).await?;
        give_back(&mut tx, request.user_id, application.hold_id, now).await?;
        let hold_id = set_aside(&mut tx, request.user_id, bid.held(), now).await?;
        sqlx::query(
            "UPDATE applications SET swarm_id = $2, rank_wanted = $3, maximum = $4, hold_id = $5, applied_at = $6, deposit = $7, version = version + 1
             WHERE id = $1",
        )
        .bind(id.0)
        .bind(bid.swarm_id.0)
        .bind(integer(bid.rank)?)
        .bind(bigint(bid.maximum.0)?)
        .bind(hold_id.map(|id| id.0))
        .bind(now)
        .bind(bigint(bid.deposit.0)?)
        .execute(&mut *tx)
        .await?;
        let application = self.application_in(&mut tx, id, request.user_id).await?;
        commit_once(tx, request, 200, &application, now).await
    }

    /// Takes an application back and releases its hold; answered with 200 and the [`Application`]. The terminal may apply again.
    ///
    /// # Errors
    /// `not_found`, `release_closed`, `conflict` if it was withdrawn before, or the errors of a repeated key.
    pub async fn withdraw_application(&self, id: ApplicationId, request: &Idempotency, now: OffsetDateTime) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        let (_, application) = locked_application(&mut tx, id, request.user_id, now).await?;
        give_back(&mut tx, request.user_id, application.hold_id, now).await?;
        sqlx::query("UPDATE applications SET state = 'withdrawn', hold_id = NULL, version = version + 1 WHERE id = $1")
            .bind(id.0)
            .execute(&mut *tx)
            .await?;
        let application = self.application_in(&mut tx, id, request.user_id).await?;
        commit_once(tx, request, 200, &application, now).await
    }

    /// An application of this user.
    ///
    /// # Errors
    /// `not_found`, also for somebody else's, or the database fails.
    pub async fn application(&self, id: ApplicationId, user_id: UserId) -> Result<Application, StoreError> {
        let mut connection = self.pool.acquire().await?;
        self.application_in(&mut connection, id, user_id).await
    }

    /// This user's applications to a release, oldest first.
    ///
    /// # Errors
    /// The cursor is not this list's, or the database fails.
    pub async fn applications(
        &self,
        release_id: ReleaseId,
        user_id: UserId,
        request: &PageRequest,
    ) -> Result<Page<Application>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let wanted = Wanted { id: None, release_id: Some(release_id), after: request.after()?, limit: request.rows_wanted() };
        let applications = self.read_applications(&mut connection, user_id, &wanted).await?;
        Ok(request.page(applications, |application| application.id))
    }

    async fn application_in(&self, connection: &mut PgConnection, id: ApplicationId, user_id: UserId) -> Result<Application, StoreError> {
        let wanted = Wanted { id: Some(id), release_id: None, after: None, limit: 1 };
        self.read_applications(connection, user_id, &wanted).await?.pop().ok_or(StoreError::NotFound("application"))
    }

    async fn read_applications(
        &self,
        connection: &mut PgConnection,
        user_id: UserId,
        wanted: &Wanted,
    ) -> Result<Vec<Application>, StoreError> {
        let rows: Vec<ApplicationRow> = sqlx::query_as(
            "SELECT applications.id, bid_id, applications.release_id, applications.terminal_id, edition_id, rank_wanted, maximum,
                 applications.deposit, applications.state, applied_at, version, deliveries.id AS delivery_id, deliveries.rank, price,
                 duties.deposit AS award_deposit,
                 starts_at + make_interval(secs => release_waves.delay_s) AS opens_at, primary_terminal_id
             FROM applications
             JOIN release_editions ON release_editions.swarm_id = applications.swarm_id
             JOIN releases ON releases.id = applications.release_id
             LEFT JOIN deliveries ON deliveries.application_id = applications.id AND applications.state = 'won'
             LEFT JOIN duties ON duties.delivery_id = deliveries.id
             LEFT JOIN release_waves ON release_waves.release_id = deliveries.release_id AND release_waves.wave = deliveries.wave
             WHERE applications.user_id = $1 AND ($2::uuid IS NULL OR applications.id = $2)
                 AND ($3::uuid IS NULL OR applications.release_id = $3) AND ($4::uuid IS NULL OR applications.id > $4)
             ORDER BY applications.id LIMIT $5",
        )
        .bind(user_id.0)
        .bind(wanted.id.map(|id| id.0))
        .bind(wanted.release_id.map(|id| id.0))
        .bind(wanted.after)
        .bind(wanted.limit)
        .fetch_all(connection)
        .await?;
        rows.into_iter().map(|row| self.application_of(row)).collect()
    }

    fn application_of(&self, row: ApplicationRow) -> Result<Application, StoreError> {
        let award = match (row.delivery_id, row.rank, row.price, row.opens_at) {
            (Some(delivery_id), Some(rank), Some(price), Some(opens_at)) => Some(Award {
                delivery_id: DeliveryId(delivery_id),
                rank: small(rank)?,
                price: self.stored_money(price)?,
                deposit: row.award_deposit.map(|deposit| self.stored_money(deposit)).transpose()?,
                opens_at,
                primary_terminal_id: row.primary_terminal_id.map(TerminalId),
            }),
            _ => None,
        };
        Ok(Application {
            id: ApplicationId(row.id),
            bid_id: BidId(row.bid_id),
            release_id: ReleaseId(row.release_id),
            terminal_id: TerminalId(row.terminal_id),
            edition_id: EditionId(byte_array(&row.edition_id)?),
            rank_wanted: small(row.rank_wanted)?,
            maximum: self.stored_money(row.maximum)?,
            deposit: (row.deposit > 0).then(|| self.stored_money(row.deposit)).transpose()?,
            state: state_of(&row.state)?,
            applied_at: row.applied_at,
            award,
            version: small(row.version)?,
        })
    }

    /// Checks a bid against the release's terms.
    async fn bid(
        &self,
        tx: &mut PgConnection,
        release_id: ReleaseId,
        edition_id: EditionId,
        rank: u32,
        maximum: Money,
    ) -> Result<Bid, StoreError> {
        let maximum = self.amount_of(maximum)?;
        let swarm_id: Option<Uuid> = sqlx::query_scalar("SELECT swarm_id FROM release_editions WHERE release_id = $1 AND edition_id = $2")
            .bind(release_id.0)
            .bind(edition_id.0.as_slice())
            .fetch_optional(&mut *tx)
            .await?;
        let swarm_id = SwarmId(swarm_id.ok_or(StoreError::refused(ErrorCode::UnknownEdition))?);
        let terms: Option<(i64, i32, i32, i64)> = sqlx::query_as(
            "SELECT releases.reserve, wanted.weight, first.weight,
                 (SELECT coalesce(max(deposit), 0) FROM release_ranks given WHERE given.release_id = releases.id AND given.rank >= $2)
             FROM releases
             JOIN release_ranks wanted ON wanted.release_id = releases.id AND wanted.rank = $2
             JOIN release_ranks first ON first.release_id = releases.id AND first.rank = 1
             WHERE releases.id = $1",
        )
        .bind(release_id.0)
        .bind(i64::from(rank))
        .fetch_optional(&mut *tx)
        .await?;
        let (reserve, weight, first_weight, deposit) = terms.ok_or(StoreError::refused(ErrorCode::UnknownRank))?;
        let reserve = PerWeight { amount: super::conversions::amount(reserve)?, weight: small(first_weight)? };
        if (PerWeight { amount: maximum, weight: small(weight)? }) < reserve {
            return Err(StoreError::refused(ErrorCode::BelowReserve));
        }
        Ok(Bid { swarm_id, rank, maximum, deposit: super::conversions::amount(deposit)? })
    }
}

/// Which applications of a user are read.
struct Wanted {
    id: Option<ApplicationId>,
    release_id: Option<ReleaseId>,
    after: Option<Uuid>,
    limit: i64,
}

/// The release takes applications and does so until the transaction ends.
async fn still_open(tx: &mut PgConnection, release_id: ReleaseId, now: OffsetDateTime) -> Result<(), StoreError> {
    // Looked at without a lock first, so that latecomers never stand between the closing and its lock.
    standing(tx, release_id, None).await?.takes_applications(now)?;
    standing(tx, release_id, Some(Lock::Shared)).await?.takes_applications(now)
}

/// Locks an active application of this user.
async fn locked_application(
    tx: &mut PgConnection,
    id: ApplicationId,
    user_id: UserId,
    now: OffsetDateTime,
) -> Result<(ReleaseId, Standing), StoreError> {
    let release_id: Option<Uuid> = sqlx::query_scalar("SELECT release_id FROM applications WHERE id = $1 AND user_id = $2")
        .bind(id.0)
        .bind(user_id.0)
        .fetch_optional(&mut *tx)
        .await?;
    let release_id = ReleaseId(release_id.ok_or(StoreError::NotFound("application"))?);
    still_open(tx, release_id, now).await?;
    let application: Standing =
        sqlx::query_as("SELECT state, version, hold_id FROM applications WHERE id = $1 FOR UPDATE").bind(id.0).fetch_one(&mut *tx).await?;
    match state_of(&application.state)? {
        ApplicationState::Active => Ok((release_id, application)),
        ApplicationState::Withdrawn => Err(StoreError::refused_because(ErrorCode::Conflict, "the application was withdrawn")),
        ApplicationState::Won | ApplicationState::Lost | ApplicationState::Cancelled => Err(StoreError::refused(ErrorCode::ReleaseClosed)),
    }
}

/// Nothing is held for a bid of 0.
async fn set_aside(tx: &mut PgConnection, user_id: UserId, maximum: Amount, now: OffsetDateTime) -> Result<Option<HoldId>, StoreError> {
    if maximum.0 == 0 {
        return Ok(None);
    }
    ledger::hold(tx, user_id, maximum, now).await.map(Some)
}

async fn give_back(tx: &mut PgConnection, user_id: UserId, hold_id: Option<Uuid>, now: OffsetDateTime) -> Result<(), StoreError> {
    let Some(hold_id) = hold_id else { return Ok(()) };
    ledger::lock_wallets(tx, [user_id]).await?;
    ledger::void(tx, HoldId(hold_id), now).await
}

fn applied_before(error: sqlx::Error) -> StoreError {
    let error = StoreError::Db(error);
    match error.constraint() {
        Some("applications_one_per_terminal") => StoreError::refused(ErrorCode::AlreadyApplied),
        _ => error,
    }
}
