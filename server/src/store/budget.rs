//! The origin's budget: payload bytes that may be sent for a release, reserved in blocks by conditional updates, so that all instances together never
//! send more than the publisher allowed. What an instance had reserved and not sent when it died counts as spent.

use protocol::{Bytes, ReleaseId};

use super::conversions::{bigint, bytes};
use super::{Store, StoreError};

/// A release's budget as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginBudget {
    pub limit: Bytes,
    /// Kept for first copies until it was reserved for them: the sum of the editions.
    pub first_copies: Bytes,
    pub reserved_first: Bytes,
    pub reserved_repair: Bytes,
    pub sent: Bytes,
}

/// What bytes are reserved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Chunks that were not sent before.
    FirstCopy,
    /// Chunks that were sent before: only from what first copies leave.
    Repair,
}

impl OriginBudget {
    /// How much may still be reserved. The statements of [`Store::reserve_origin_bytes`] say the same in SQL.
    pub fn room(&self, purpose: Purpose) -> Bytes {
        let free = self.limit.0.saturating_sub(self.reserved_first.0 + self.reserved_repair.0);
        Bytes(match purpose {
            Purpose::FirstCopy => free,
            Purpose::Repair => free.saturating_sub(self.first_copies.0.saturating_sub(self.reserved_first.0)),
        })
    }
}

impl Store {
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn origin_budget(&self, release_id: ReleaseId) -> Result<OriginBudget, StoreError> {
        let row: Option<(i64, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT limit_bytes, first_copy_bytes, reserved_first, reserved_repair, sent FROM origin_budgets WHERE release_id = $1",
        )
        .bind(release_id.0)
        .fetch_optional(&self.pool)
        .await?;
        let (limit, first_copies, reserved_first, reserved_repair, sent) = row.ok_or(StoreError::NotFound("release"))?;
        Ok(OriginBudget {
            limit: bytes(limit)?,
            first_copies: bytes(first_copies)?,
            reserved_first: bytes(reserved_first)?,
            reserved_repair: bytes(reserved_repair)?,
            sent: bytes(sent)?,
        })
    }

    /// Reserves `block` bytes, or at least `need` if a block is not to be had any more. Answers what was reserved; 0 if the budget is spent.
    ///
    /// # Errors
    /// The database fails.
    pub async fn reserve_origin_bytes(
        &self,
        release_id: ReleaseId,
        purpose: Purpose,
        need: Bytes,
        block: Bytes,
    ) -> Result<Bytes, StoreError> {
        let statement = match purpose {
            Purpose::FirstCopy => {
                "UPDATE origin_budgets SET reserved_first = reserved_first + $2
                 WHERE release_id = $1 AND limit_bytes - reserved_first - reserved_repair >= $2
                 AND EXISTS (SELECT FROM releases WHERE id = $1 AND state IN ('closed', 'live'))"
            }
            Purpose::Repair => {
                "UPDATE origin_budgets SET reserved_repair = reserved_repair + $2
                 WHERE release_id = $1 AND limit_bytes - reserved_first - reserved_repair - greatest(0, first_copy_bytes - reserved_first) >= $2
                 AND EXISTS (SELECT FROM releases WHERE id = $1 AND state IN ('closed', 'live'))"
            }
        };
        for amount in [block.0.max(need.0), need.0] {
            let updated = sqlx::query(statement).bind(release_id.0).bind(bigint(amount)?).execute(&self.pool).await?;
            if updated.rows_affected() > 0 {
                return Ok(Bytes(amount));
            }
        }
        Ok(Bytes(0))
    }

    /// Gives back what was reserved and not sent.
    ///
    /// # Errors
    /// The database fails.
    pub async fn return_origin_bytes(&self, release_id: ReleaseId, first: Bytes, repair: Bytes) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE origin_budgets SET reserved_first = reserved_first - $2, reserved_repair = reserved_repair - $3 WHERE release_id = $1",
        )
        .bind(release_id.0)
        .bind(bigint(first.0)?)
        .bind(bigint(repair.0)?)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Adds to what was sent.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_origin_sent(&self, release_id: ReleaseId, sent: Bytes) -> Result<(), StoreError> {
        sqlx::query("UPDATE origin_budgets SET sent = sent + $2 WHERE release_id = $1")
            .bind(release_id.0)
            .bind(bigint(sent.0)?)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_take_nothing_that_first_copies_still_need() {
        let budget = |reserved_first, reserved_repair| OriginBudget {
            limit: Bytes(105),
            first_copies: Bytes(100),
            reserved_first: Bytes(reserved_first),
            reserved_repair: Bytes(reserved_repair),
            sent: Bytes(0),
        };
        for (first, repair, room_first, room_repair) in [(0, 0, 105, 5), (50, 5, 50, 0), (100, 3, 2, 2), (103, 0, 2, 2), (105, 0, 0, 0)] {
            let budget = budget(first, repair);
            assert_eq!((budget.room(Purpose::FirstCopy).0, budget.room(Purpose::Repair).0), (room_first, room_repair), "{budget:?}");
        }
    }
}
