//! Work with a due time, claimed by any instance. A claim moves the due time into the future: an instance that dies while it works loses the claim then.

use protocol::ReleaseId;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::conversions::small;
use super::{Store, StoreError};

/// How long a claim holds; whoever works for longer renews it. Short, because work that an instance died with waits for so long.
pub const CLAIM_FOR: Duration = Duration::seconds(5);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkKind {
    Open,
    Close,
    /// The chunks of a sealed release are encrypted once, to know their hashes.
    Seal,
    /// Counted from 0, the start.
    Wave(u32),
    Deadline,
}

/// A claimed piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    pub id: i64,
    pub kind: WorkKind,
    pub release_id: ReleaseId,
    /// How often it was claimed, this time included.
    pub attempts: u32,
}

/// Work of one release is done in this order, whatever has become of due times: nothing before what precedes it is done. But the deadline waits for no
/// wave: money must not stay held because a wave cannot be planned. And sealing waits for nothing: it is to be done long before the closing.
const UNBLOCKED: &str =
    "NOT EXISTS (SELECT FROM due_work earlier WHERE earlier.release_id = due_work.release_id AND earlier.done_at IS NULL
    AND (array_position(ARRAY['open', 'close', 'seal', 'wave', 'deadline'], earlier.kind), earlier.wave)
        < (array_position(ARRAY['open', 'close', 'seal', 'wave', 'deadline'], due_work.kind), due_work.wave)
    AND NOT (due_work.kind = 'deadline' AND earlier.kind IN ('seal', 'wave')) AND due_work.kind <> 'seal')";

impl Store {
    /// Claims the work that has been due for longest, if any is due.
    ///
    /// # Errors
    /// The database fails.
    pub async fn claim_work(&self, now: OffsetDateTime) -> Result<Option<Work>, StoreError> {
        let statement = format!(
            "UPDATE due_work SET attempts = attempts + 1, due_at = $2
             WHERE id = (
                 SELECT id FROM due_work WHERE done_at IS NULL AND due_at <= $1 AND {UNBLOCKED}
                 ORDER BY due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING id, kind, release_id, wave, attempts"
        );
        let row: Option<(i64, String, Uuid, i32, i32)> =
            sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(now).bind(now + CLAIM_FOR).fetch_optional(&self.pool).await?;
        row.map(|(id, kind, release_id, wave, attempts)| {
            let kind = match kind.as_str() {
                "open" => WorkKind::Open,
                "close" => WorkKind::Close,
                "seal" => WorkKind::Seal,
                "wave" => WorkKind::Wave(small(wave)?),
                "deadline" => WorkKind::Deadline,
                other => return Err(StoreError::Invariant(format!("{other} is no kind of work"))),
            };
            Ok(Work { id, kind, release_id: ReleaseId(release_id), attempts: small(attempts)? })
        })
        .transpose()
    }

    /// When the next work is due that waits for nothing else; `None` if there is none.
    ///
    /// # Errors
    /// The database fails.
    pub async fn next_work_at(&self) -> Result<Option<OffsetDateTime>, StoreError> {
        let statement = format!("SELECT min(due_at) FROM due_work WHERE done_at IS NULL AND {UNBLOCKED}");
        Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(&self.pool).await?)
    }

    /// The work goes on: nobody else may claim it yet.
    ///
    /// # Errors
    /// The database fails.
    pub async fn renew_work(&self, work: &Work, now: OffsetDateTime) -> Result<(), StoreError> {
        sqlx::query("UPDATE due_work SET due_at = $2 WHERE id = $1 AND done_at IS NULL")
            .bind(work.id)
            .bind(now + CLAIM_FOR)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The work is done, and is never claimed again.
    ///
    /// # Errors
    /// The database fails.
    pub async fn finish_work(&self, work: &Work, now: OffsetDateTime) -> Result<(), StoreError> {
        sqlx::query("UPDATE due_work SET done_at = coalesce(done_at, $2), last_error = NULL WHERE id = $1")
            .bind(work.id)
            .bind(now)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The work failed and is due again at `again_at`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn postpone_work(&self, work: &Work, again_at: OffsetDateTime, error: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE due_work SET due_at = $2, last_error = $3 WHERE id = $1 AND done_at IS NULL")
            .bind(work.id)
            .bind(again_at)
            .bind(error)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
