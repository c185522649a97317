//! A release on its way: draft → open → closed → live → settled, cancelled from the first three, and aborted from live. Closing, which decides, is in
//! [`super::clearing`].

use protocol::rest::{EventType, ReleaseState};
use protocol::{ErrorCode, ReleaseId, UserId};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::duties::cancel_duties;
use super::idempotency::{Answer, Begun, Idempotency, commit_once};
use super::releases::state_of;
use super::{Store, StoreError, ledger, outbox};

/// On whose behalf a release is cancelled or aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelledBy {
    /// Only the release's own one; for another it does not exist.
    Publisher(UserId),
    Operator,
}

impl CancelledBy {
    fn check(self, standing: &Standing) -> Result<(), StoreError> {
        match self {
            Self::Publisher(user_id) if user_id != standing.publisher_id => Err(StoreError::NotFound("release")),
            Self::Publisher(_) | Self::Operator => Ok(()),
        }
    }
}

/// What the decisions about a release start from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) publisher_id: UserId,
    pub(crate) state: ReleaseState,
    pub(crate) opens_at: OffsetDateTime,
    pub(crate) closes_at: OffsetDateTime,
    /// When bytes begin to move: at the start, or at the closing of a sealed release.
    pub(crate) begins_at: OffsetDateTime,
}

impl Standing {
    /// Whether applications may be made, changed and withdrawn. The clock decides, not whether the work that was due has run already.
    ///
    /// # Errors
    /// `release_not_open` or `release_closed`.
    pub(crate) fn takes_applications(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        match self.state {
            ReleaseState::Draft | ReleaseState::Open if now >= self.closes_at => Err(StoreError::refused(ErrorCode::ReleaseClosed)),
            ReleaseState::Draft if now < self.opens_at => Err(StoreError::refused(ErrorCode::ReleaseNotOpen)),
            ReleaseState::Draft | ReleaseState::Open => Ok(()),
            ReleaseState::Closed | ReleaseState::Live | ReleaseState::Settled | ReleaseState::Cancelled | ReleaseState::Aborted => {
                Err(StoreError::refused(ErrorCode::ReleaseClosed))
            }
        }
    }

    /// A release that has begun is not cancelled: bytes are on their way.
    fn may_be_cancelled(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        match self.state {
            ReleaseState::Draft | ReleaseState::Open | ReleaseState::Closed if now < self.begins_at => Ok(()),
            ReleaseState::Draft
            | ReleaseState::Open
            | ReleaseState::Closed
            | ReleaseState::Live
            | ReleaseState::Settled
            | ReleaseState::Cancelled
            | ReleaseState::Aborted => Err(StoreError::refused(ErrorCode::ReleaseClosed)),
        }
    }
}

impl Standing {
    /// A release that has begun and not ended. Before its start it is cancelled instead: nothing has been received that would have to be paid.
    fn may_be_aborted(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        match self.state {
            ReleaseState::Live => Ok(()),
            ReleaseState::Closed if now >= self.begins_at => Ok(()),
            ReleaseState::Draft | ReleaseState::Open | ReleaseState::Closed => {
                Err(StoreError::refused_because(ErrorCode::Conflict, "The release has not started; cancel it."))
            }
            ReleaseState::Settled | ReleaseState::Cancelled | ReleaseState::Aborted => Err(StoreError::refused(ErrorCode::ReleaseClosed)),
        }
    }
}

/// How a release's row is locked; see the lock order in [`super`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lock {
    /// It stays as it is until the transaction ends; any number of transactions may hold this.
    Shared,
    /// Nobody else decides anything about it.
    Exclusive,
}

pub(crate) async fn standing(tx: &mut PgConnection, release_id: ReleaseId, lock: Option<Lock>) -> Result<Standing, StoreError> {
    const READ: &str = "SELECT publisher_id, state, opens_at, closes_at, begins_at FROM releases WHERE id = $1";
    const SHARED: &str = "SELECT publisher_id, state, opens_at, closes_at, begins_at FROM releases WHERE id = $1 FOR SHARE";
    const EXCLUSIVE: &str = "SELECT publisher_id, state, opens_at, closes_at, begins_at FROM releases WHERE id = $1 FOR UPDATE";
    let statement = match lock {
        None => READ,
        Some(Lock::Shared) => SHARED,
        Some(Lock::Exclusive) => EXCLUSIVE,
    };
    let row: Option<(Uuid, String, OffsetDateTime, OffsetDateTime, OffsetDateTime)> =
        sqlx::query_as(statement).bind(release_id.0).fetch_optional(tx).await?;
    let (publisher_id, state, opens_at, closes_at, begins_at) = row.ok_or(StoreError::NotFound("release"))?;
    Ok(Standing { publisher_id: UserId(publisher_id), state: state_of(&state)?, opens_at, closes_at, begins_at })
}

/// Voids every hold that stands behind the release's applications, deliveries and duties. The release is locked, and with it its applications.
pub(crate) async fn void_holds(tx: &mut PgConnection, release_id: ReleaseId, now: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query("SELECT FROM deliveries WHERE release_id = $1 AND state = 'pending' ORDER BY id FOR UPDATE")
        .bind(release_id.0)
        .execute(&mut *tx)
        .await?;
    let payers: Vec<Uuid> = sqlx::query_scalar(
        "SELECT user_id FROM applications WHERE release_id = $1 AND state = 'active' AND hold_id IS NOT NULL
         UNION SELECT user_id FROM deliveries WHERE release_id = $1 AND state = 'pending' AND hold_id IS NOT NULL
         UNION SELECT user_id FROM duties JOIN deliveries ON deliveries.id = delivery_id WHERE duties.release_id = $1 AND ended_at IS NULL",
    )
    .bind(release_id.0)
    .fetch_all(&mut *tx)
    .await?;
    ledger::lock_wallets(tx, payers.into_iter().map(UserId)).await?;
    sqlx::query(
        "INSERT INTO hold_resolutions (hold_id, posted, created_at)
         SELECT hold_id, 0, $2 FROM applications WHERE release_id = $1 AND state = 'active' AND hold_id IS NOT NULL
         UNION ALL SELECT hold_id, 0, $2 FROM deliveries WHERE release_id = $1 AND state = 'pending' AND hold_id IS NOT NULL
         UNION ALL SELECT hold_id, 0, $2 FROM duties WHERE release_id = $1 AND ended_at IS NULL",
    )
    .bind(release_id.0)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

impl Store {
    /// Opens a release whose time has come; `false` if there was nothing to do.
    ///
    /// # Errors
    /// The database fails.
    pub async fn open_release(&self, release_id: ReleaseId, now: OffsetDateTime) -> Result<bool, StoreError> {
        let opened = sqlx::query("UPDATE releases SET state = 'open' WHERE id = $1 AND state = 'draft' AND opens_at <= $2")
            .bind(release_id.0)
            .bind(now)
            .execute(&self.pool)
            .await?;
        Ok(opened.rows_affected() > 0)
    }

    /// Makes a closed release live when its start has come; `false` if there was nothing to do.
    ///
    /// # Errors
    /// The database fails.
    pub async fn start_release(&self, release_id: ReleaseId, now: OffsetDateTime) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let started = sqlx::query("UPDATE releases SET state = 'live' WHERE id = $1 AND state = 'closed' AND begins_at <= $2")
            .bind(release_id.0)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        if started.rows_affected() == 0 {
            return Ok(false);
        }
        outbox::tell_participants(&mut tx, release_id, EventType::ReleaseLive, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ends a release before its start and releases every hold; answered with 200 and the release.
    ///
    /// # Errors
    /// `not_found`, `release_closed` once it has started or ended, or the errors of a repeated key.
    pub async fn cancel_release(
        &self,
        release_id: ReleaseId,
        by: CancelledBy,
        request: &Idempotency,
        now: OffsetDateTime,
    ) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        lift_statement_timeout(&mut tx).await?;
        let standing = standing(&mut tx, release_id, Some(Lock::Exclusive)).await?;
        by.check(&standing)?;
        standing.may_be_cancelled(now)?;
        void_holds(&mut tx, release_id, now).await?;
        cancel_duties(&mut tx, release_id, now).await?;
        // While the applications still stand.
        outbox::tell_participants(&mut tx, release_id, EventType::ReleaseCancelled, now).await?;
        for ended_at in [
            "UPDATE deliveries SET state = 'released', settled_at = $2 WHERE release_id = $1 AND state = 'pending'",
            "UPDATE due_work SET done_at = $2 WHERE release_id = $1 AND done_at IS NULL",
        ] {
            sqlx::query(ended_at).bind(release_id.0).bind(now).execute(&mut *tx).await?;
        }
        for ended in [
            "UPDATE applications SET state = 'cancelled', hold_id = NULL, version = version + 1 WHERE release_id = $1 AND state IN ('active', 'won')",
            "UPDATE releases SET state = 'cancelled' WHERE id = $1",
        ] {
            sqlx::query(ended).bind(release_id.0).execute(&mut *tx).await?;
        }
        let release = self.release_in(&mut tx, release_id).await?;
        commit_once(tx, request, 200, &release, now).await
    }

    /// Ends a release in the middle; answered with 200 and the release. Nothing more is sent for it. Its deliveries are settled as at the deadline, which
    /// falls due now.
    ///
    /// # Errors
    /// `not_found`, `conflict` before its start, `release_closed` once it has ended, or the errors of a repeated key.
    pub async fn abort_release(
        &self,
        release_id: ReleaseId,
        by: CancelledBy,
        request: &Idempotency,
        now: OffsetDateTime,
    ) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        let standing = standing(&mut tx, release_id, Some(Lock::Exclusive)).await?;
        by.check(&standing)?;
        standing.may_be_aborted(now)?;
        sqlx::query("UPDATE releases SET state = 'aborted', aborted_at = $2 WHERE id = $1")
            .bind(release_id.0)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "UPDATE due_work SET done_at = CASE WHEN kind = 'deadline' THEN done_at ELSE $2 END, due_at = least(due_at, $2)
             WHERE release_id = $1 AND done_at IS NULL",
        )
        .bind(release_id.0)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        outbox::tell_participants(&mut tx, release_id, EventType::ReleaseAborted, now).await?;
        let release = self.release_in(&mut tx, release_id).await?;
        commit_once(tx, request, 200, &release, now).await
    }

    /// Makes a release settled once it has started and no delivery is pending; `false` if it is not so far, or was settled before.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn finish_release(&self, release_id: ReleaseId, now: OffsetDateTime) -> Result<bool, StoreError> {
        // Asked after every settlement, so it must not lock the release each time. Of the last ones, the later sees none pending.
        const PENDING: &str = "SELECT EXISTS (SELECT FROM deliveries WHERE release_id = $1 AND state = 'pending')";
        let pending: bool = sqlx::query_scalar(PENDING).bind(release_id.0).fetch_one(&self.pool).await?;
        if pending {
            return Ok(false);
        }
        let mut tx = self.begin().await?;
        let standing = standing(&mut tx, release_id, Some(Lock::Exclusive)).await?;
        let started = match standing.state {
            ReleaseState::Live => true,
            ReleaseState::Closed => now >= standing.begins_at,
            ReleaseState::Draft | ReleaseState::Open | ReleaseState::Settled | ReleaseState::Cancelled | ReleaseState::Aborted => false,
        };
        let pending: bool = sqlx::query_scalar(PENDING).bind(release_id.0).fetch_one(&mut *tx).await?;
        if !started || pending {
            return Ok(false);
        }
        let on_demand: bool = sqlx::query_scalar("UPDATE releases SET state = 'settled' WHERE id = $1 RETURNING on_demand")
            .bind(release_id.0)
            .fetch_one(&mut *tx)
            .await?;
        if !on_demand {
            outbox::tell_publisher(&mut tx, release_id, standing.publisher_id, EventType::ReleaseSettled, now).await?;
        }
        tx.commit().await?;
        if !on_demand {
            self.tidy(now).await;
        }
        Ok(true)
    }

    /// What is done now and then: not after each download. The end of a release is when its publisher looks at the balance, and it is seldom enough for the lock that a roll-up
    /// takes. A failure changes nothing but the speed of reading; the next release's end makes up for it.
    async fn tidy(&self, now: OffsetDateTime) {
        for done in [self.roll_up_balances().await, self.forget_old_answers(now).await] {
            if let Err(error) = done {
                tracing::warn!(error = &error as &dyn std::error::Error, "tidying up waits for the next release");
            }
        }
    }
}

/// For work whose length follows the size of a book.
pub(crate) async fn lift_statement_timeout(tx: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("SET LOCAL statement_timeout = 0").execute(tx).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    fn standing(state: ReleaseState) -> Standing {
        let opens_at = OffsetDateTime::UNIX_EPOCH;
        let second = Duration::seconds(1);
        Standing {
            publisher_id: UserId::from_bytes([1; 16]),
            state,
            opens_at,
            closes_at: opens_at + second,
            begins_at: opens_at + second * 2,
        }
    }

    #[test]
    fn applications_are_taken_from_the_opening_to_the_closing_whatever_has_run() {
        let at = |millis| OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(millis);
        let code = |state, now| standing(state).takes_applications(now).err().map(|error| error.code());
        assert_eq!(code(ReleaseState::Draft, at(-1)), Some(ErrorCode::ReleaseNotOpen));
        for state in [ReleaseState::Draft, ReleaseState::Open] {
            assert_eq!(code(state, at(0)), None);
            assert_eq!(code(state, at(999)), None);
            assert_eq!(code(state, at(1_000)), Some(ErrorCode::ReleaseClosed));
        }
        for state in [ReleaseState::Closed, ReleaseState::Live, ReleaseState::Settled, ReleaseState::Cancelled, ReleaseState::Aborted] {
            assert_eq!(code(state, at(500)), Some(ErrorCode::ReleaseClosed));
        }
    }

    #[test]
    fn a_release_is_cancelled_before_its_start_or_not_at_all() {
        let at = |millis| OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(millis);
        for state in [ReleaseState::Draft, ReleaseState::Open, ReleaseState::Closed] {
            assert!(standing(state).may_be_cancelled(at(1_999)).is_ok());
            assert!(standing(state).may_be_cancelled(at(2_000)).is_err());
        }
        for state in [ReleaseState::Live, ReleaseState::Settled, ReleaseState::Cancelled, ReleaseState::Aborted] {
            assert!(standing(state).may_be_cancelled(at(0)).is_err());
        }
    }

    #[test]
    fn a_release_is_aborted_between_its_start_and_its_end() {
        let at = |millis| OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(millis);
        let code = |state, now| standing(state).may_be_aborted(now).err().map(|error| error.code());
        for state in [ReleaseState::Draft, ReleaseState::Open, ReleaseState::Closed] {
            assert_eq!(code(state, at(1_999)), Some(ErrorCode::Conflict));
        }
        assert_eq!(code(ReleaseState::Closed, at(2_000)), None, "its start is due and not done");
        assert_eq!(code(ReleaseState::Live, at(2_000)), None);
        for state in [ReleaseState::Settled, ReleaseState::Cancelled, ReleaseState::Aborted] {
            assert_eq!(code(state, at(2_000)), Some(ErrorCode::ReleaseClosed));
        }
    }
}
