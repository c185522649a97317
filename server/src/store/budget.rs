//! The origin's budget: payload bytes that may be sent for a release (or for all downloads of a content), reserved in blocks by conditional updates, so that all instances together never
//! send more than the publisher allowed. What an instance had reserved and not sent when it died counts as spent: nobody else knows how much of it was
//! sent. So that this never keeps a first copy from being sent, blocks are small beside what the budget has to spare, and repairs leave two of them.

use protocol::frame::CHUNK_MAX;
use protocol::{Bytes, ContentId, ReleaseId};
use uuid::Uuid;

use super::conversions::{bigint, bytes};
use super::{Store, StoreError};

/// One block out of so many of the whole budget, and of what it has to spare beyond the first copies.
const BLOCKS: u64 = 1_000;
const SPARE_BLOCKS: u64 = 8;
/// So many blocks are left for first copies by repairs: as many instances may die without a word while repairs take all that they can.
const KEPT_BLOCKS: u64 = 2;

/// Direct copies leave this part of the editions' sum to repairs.
const KEPT_FOR_REPAIRS: u64 = 4;

/// The smallest budget for editions of `sum` bytes in all: a hundredth more than the sum. A chunk whose receiver's connection broke is sent again, and
/// what an instance had reserved when it was killed is lost; with no more than the sum, either would keep a release from ever being complete.
pub fn smallest(sum: Bytes) -> Bytes {
    Bytes(sum.0.saturating_add(sum.0.div_ceil(100)))
}

/// Whose bytes: a release's, or those of all downloads of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BudgetId(pub Uuid);

impl From<ReleaseId> for BudgetId {
    fn from(release_id: ReleaseId) -> Self {
        Self(release_id.0)
    }
}

impl From<ContentId> for BudgetId {
    fn from(content_id: ContentId) -> Self {
        Self(content_id.0)
    }
}

/// A budget as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginBudget {
    pub limit: Bytes,
    /// Kept for first copies until it was reserved for them: the sum of the editions; nothing for downloads.
    pub first_copies: Bytes,
    pub reserved_first: Bytes,
    pub reserved_repair: Bytes,
    pub sent: Bytes,
    /// Reserved for first copies that were broken off, and not sent: see the migration.
    pub cut: Bytes,
}

/// What bytes are reserved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Chunks that were not sent before.
    FirstCopy,
    /// Chunks that were sent before: only from what first copies leave.
    Repair,
    /// Chunks for every member of a group: only from what first copies and [`KEPT_FOR_REPAIRS`] leave. Counted with repairs.
    Direct,
}

impl OriginBudget {
    /// How much is reserved at a time. A chunk may be longer.
    pub fn block(&self) -> Bytes {
        let spare = self.limit.0.saturating_sub(self.first_copies.0);
        Bytes((self.limit.0 / BLOCKS).max(u64::from(CHUNK_MAX)).min(spare / SPARE_BLOCKS))
    }

    /// How much may be sent again in all of what some terminal has, which the one that asks cannot get from it: half of what there is to spare, one chunk
    /// at least. On lines that are slower than they were said to be everybody asks; the other half stays for chunks that nobody has any more. Redis
    /// counts them: direct copies and repairs of what was lost take nothing of this part.
    pub fn for_doubles(&self) -> Bytes {
        let spare = self.limit.0.saturating_sub(self.first_copies.0);
        Bytes((spare / 2).max(u64::from(CHUNK_MAX)))
    }

    /// How much may still be reserved. The statements of [`Store::reserve_origin_bytes`] say the same in SQL.
    pub fn room(&self, purpose: Purpose) -> Bytes {
        let free = self.limit.0.saturating_sub(self.reserved_first.0 + self.reserved_repair.0);
        let kept = self.first_copies.0 + KEPT_BLOCKS * self.block().0;
        let spare = free.saturating_sub(kept.saturating_sub(self.reserved_first.0 + self.cut.0));
        Bytes(match purpose {
            Purpose::FirstCopy => free,
            Purpose::Repair => spare,
            Purpose::Direct => spare.saturating_sub(self.first_copies.0 / KEPT_FOR_REPAIRS),
        })
    }
}

impl Store {
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn origin_budget(&self, budget_id: BudgetId) -> Result<OriginBudget, StoreError> {
        let row: Option<(i64, i64, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT limit_bytes, first_copy_bytes, reserved_first, reserved_repair, sent, cut FROM origin_budgets WHERE id = $1",
        )
        .bind(budget_id.0)
        .fetch_optional(&self.pool)
        .await?;
        let (limit, first_copies, reserved_first, reserved_repair, sent, cut) = row.ok_or(StoreError::NotFound("budget"))?;
        Ok(OriginBudget {
            limit: bytes(limit)?,
            first_copies: bytes(first_copies)?,
            reserved_first: bytes(reserved_first)?,
            reserved_repair: bytes(reserved_repair)?,
            sent: bytes(sent)?,
            cut: bytes(cut)?,
        })
    }

    /// Reserves `block` bytes, or at least `need` if a block is not to be had any more. Answers what was reserved; 0 if the budget is spent.
    ///
    /// # Errors
    /// The database fails.
    pub async fn reserve_origin_bytes(
        &self,
        budget_id: BudgetId,
        purpose: Purpose,
        need: Bytes,
        block: Bytes,
    ) -> Result<Bytes, StoreError> {
        let statement = match purpose {
            Purpose::FirstCopy => {
                "UPDATE origin_budgets SET reserved_first = reserved_first + $2
                 WHERE id = $1 AND limit_bytes - reserved_first - reserved_repair >= $2 AND $3 >= 0
                 AND EXISTS (SELECT FROM releases WHERE budget_id = $1 AND state IN ('closed', 'live'))"
            }
            Purpose::Repair => {
                "UPDATE origin_budgets SET reserved_repair = reserved_repair + $2
                 WHERE id = $1 AND limit_bytes - reserved_first - reserved_repair - greatest(0, first_copy_bytes + $3 - reserved_first - cut) >= $2
                 AND EXISTS (SELECT FROM releases WHERE budget_id = $1 AND state IN ('closed', 'live'))"
            }
            Purpose::Direct => {
                "UPDATE origin_budgets SET reserved_repair = reserved_repair + $2
                 WHERE release_id = $1 AND limit_bytes - reserved_first - reserved_repair - greatest(0, first_copy_bytes + $3 - reserved_first - cut) - first_copy_bytes / 4 >= $2
                 AND EXISTS (SELECT FROM releases WHERE id = $1 AND state IN ('closed', 'live'))"
            }
        };
        let kept = bigint(KEPT_BLOCKS.saturating_mul(block.0))?;
        for amount in [block.0.max(need.0), need.0] {
            let updated = sqlx::query(statement).bind(budget_id.0).bind(bigint(amount)?).bind(kept).execute(&self.pool).await?;
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
    pub async fn return_origin_bytes(&self, budget_id: BudgetId, first: Bytes, repair: Bytes) -> Result<(), StoreError> {
        sqlx::query("UPDATE origin_budgets SET reserved_first = reserved_first - $2, reserved_repair = reserved_repair - $3 WHERE id = $1")
            .bind(budget_id.0)
            .bind(bigint(first.0)?)
            .bind(bigint(repair.0)?)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Adds to what was sent, and to what was not because a first copy was broken off.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_origin_sent(&self, budget_id: BudgetId, sent: Bytes, cut: Bytes) -> Result<(), StoreError> {
        sqlx::query("UPDATE origin_budgets SET sent = sent + $2, cut = cut + $3 WHERE id = $1")
            .bind(budget_id.0)
            .bind(bigint(sent.0)?)
            .bind(bigint(cut.0)?)
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
        // Two blocks of one byte stay for what a killed instance takes with it.
        for (first, repair, cut, room_first, room_repair) in [
            (0, 0, 0, 108, 6),
            (50, 6, 0, 52, 0),
            (100, 3, 0, 5, 3),
            (103, 0, 0, 5, 5),
            (108, 0, 0, 0, 0),
            // Of 10 bytes for first copies 4 were not sent: somebody else may be sent 4 more.
            (46, 0, 4, 62, 10),
        ] {
            let budget = OriginBudget { cut: Bytes(cut), ..budget(108, first, repair) };
            assert_eq!((budget.room(Purpose::FirstCopy).0, budget.room(Purpose::Repair).0), (room_first, room_repair), "{budget:?}");
        }
    }

    fn budget(limit: u64, reserved_first: u64, reserved_repair: u64) -> OriginBudget {
        let [limit, first_copies, reserved_first, reserved_repair] = [limit, 100, reserved_first, reserved_repair].map(Bytes);
        OriginBudget { limit, first_copies, reserved_first, reserved_repair, sent: Bytes(0), cut: Bytes(0) }
    }

    #[test]
    fn what_terminals_have_is_sent_again_out_of_half_of_what_there_is_to_spare() {
        let mib = |mib: u64| Bytes(mib << 20);
        let doubles = |limit, repair| {
            OriginBudget { limit: mib(limit), first_copies: mib(100), reserved_repair: mib(repair), ..budget(0, 0, 0) }.for_doubles()
        };
        assert_eq!([doubles(120, 0), doubles(120, 7)], [mib(10), mib(10)], "whatever other repairs and direct copies have taken");
        assert_eq!(doubles(100, 0).0, u64::from(CHUNK_MAX), "a small content has one chunk");
    }

    #[test]
    fn direct_copies_leave_first_copies_and_a_quarter_of_the_editions() {
        // Of 150 bytes 50 are to spare: two blocks of 6 and 25 bytes are kept.
        for (limit, first, repair, room) in [(108, 0, 0, 0), (125, 100, 0, 0), (150, 0, 0, 13), (150, 100, 3, 10), (150, 100, 13, 0)] {
            assert_eq!(budget(limit, first, repair).room(Purpose::Direct).0, room, "{limit} {first} {repair}");
        }
    }

    #[test]
    fn blocks_are_few_and_small_beside_what_there_is_to_spare() {
        let block = |first_copies, limit| OriginBudget { first_copies: Bytes(first_copies), ..budget(limit, 0, 0) }.block().0;
        assert_eq!(block(100, 101), 0, "each chunk by itself");
        assert_eq!(block(32 << 20, 36 << 20), 131_072, "one of the longest chunks");
        assert_eq!(block(32 << 30, 36 << 30), (36 << 30) / 1_000);
        assert_eq!(block(100 << 20, 101 << 20), 131_072);
        assert_eq!(block(10_000_000, 10_100_000), 12_500);
    }

    #[test]
    fn the_smallest_budget_is_a_hundredth_more_than_the_editions() {
        assert_eq!([1, 100, 101, 32 << 20, u64::MAX].map(|sum| smallest(Bytes(sum)).0), [2, 101, 103, 33_889_977, u64::MAX]);
    }
}
