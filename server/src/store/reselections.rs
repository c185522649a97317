//! Who was chosen instead of whom: counts per reason, and the latest rows of each release.

use protocol::rest::{Reselection, ReselectionCount, ReselectionReason};
use protocol::{GroupId, ReleaseId, SwarmId, TerminalId, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{integer, small, unsigned};
use super::{Store, StoreError};

/// Rows that are kept of each release; the counts go on.
const KEPT: i64 = 1_000;

/// A re-selection as it is noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReselection {
    pub group_id: GroupId,
    pub at: OffsetDateTime,
    pub reason: ReselectionReason,
    pub terminal_id: TerminalId,
    pub replacement: Option<TerminalId>,
    pub chunks: u32,
}

const REASONS: [(ReselectionReason, &str); 9] = [
    (ReselectionReason::Silent, "silent"),
    (ReselectionReason::Closed, "closed"),
    (ReselectionReason::Corrupt, "corrupt"),
    (ReselectionReason::Malformed, "malformed"),
    (ReselectionReason::Unacknowledged, "unacknowledged"),
    (ReselectionReason::Disconnected, "disconnected"),
    (ReselectionReason::LeaseExpired, "lease_expired"),
    (ReselectionReason::Missing, "missing"),
    (ReselectionReason::BudgetSpent, "budget_spent"),
];

fn word(reason: ReselectionReason) -> Result<&'static str, StoreError> {
    let found = REASONS.iter().find(|(known, _)| *known == reason);
    found.map(|(_, word)| *word).ok_or_else(|| StoreError::Invariant(format!("{reason:?} has no word")))
}

fn reason_of(text: &str) -> Result<ReselectionReason, StoreError> {
    let found = REASONS.iter().find(|(_, word)| *word == text);
    found.map(|(reason, _)| *reason).ok_or_else(|| StoreError::Invariant(format!("{text} is no reason")))
}

impl Store {
    /// Adds re-selections in their order. Those of a group that does not exist are passed over.
    ///
    /// # Errors
    /// The database fails; nothing was added.
    pub async fn write_reselections(&self, events: &[NewReselection]) -> Result<(), StoreError> {
        let groups: Vec<Uuid> = events.iter().map(|event| event.group_id.0).collect();
        let times: Vec<OffsetDateTime> = events.iter().map(|event| event.at).collect();
        let reasons = events.iter().map(|event| word(event.reason).map(str::to_owned)).collect::<Result<Vec<_>, _>>()?;
        let terminals: Vec<Uuid> = events.iter().map(|event| event.terminal_id.0).collect();
        let replacements: Vec<Option<Uuid>> = events.iter().map(|event| event.replacement.map(|terminal| terminal.0)).collect();
        let chunks = events.iter().map(|event| integer(event.chunks)).collect::<Result<Vec<_>, _>>()?;
        let mut tx = self.begin().await?;
        let mut releases: Vec<Uuid> = sqlx::query_scalar(
            "WITH noted AS (
                 SELECT release_id, swarm_id, at, reason, terminal_id, replacement, event.chunks, place
                 FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::uuid[], $6::integer[]) WITH ORDINALITY
                     AS event (group_id, at, reason, terminal_id, replacement, chunks, place)
                 JOIN swarm_groups ON swarm_groups.id = event.group_id JOIN release_editions USING (swarm_id)
             ), counted AS (
                 INSERT INTO reselection_counts (release_id, reason, events, chunks)
                 SELECT release_id, reason, count(*), sum(chunks) FROM noted GROUP BY release_id, reason ORDER BY release_id, reason
                 ON CONFLICT (release_id, reason) DO UPDATE
                 SET events = reselection_counts.events + excluded.events, chunks = reselection_counts.chunks + excluded.chunks
             )
             INSERT INTO reselections (release_id, swarm_id, at, reason, terminal_id, replacement, chunks)
             SELECT release_id, swarm_id, at, reason, terminal_id, replacement, chunks FROM noted ORDER BY place RETURNING release_id",
        )
        .bind(groups)
        .bind(times)
        .bind(reasons)
        .bind(terminals)
        .bind(replacements)
        .bind(chunks)
        .fetch_all(&mut *tx)
        .await?;
        releases.sort_unstable();
        releases.dedup();
        sqlx::query(
            "DELETE FROM reselections USING unnest($1::uuid[]) AS written (release_id)
             WHERE reselections.release_id = written.release_id
               AND id <= (SELECT kept.id FROM reselections kept WHERE kept.release_id = written.release_id ORDER BY kept.id DESC OFFSET $2 LIMIT 1)",
        )
        .bind(releases)
        .bind(KEPT)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// How often each reason came up in a release.
    ///
    /// # Errors
    /// The database fails.
    pub async fn reselection_counts(&self, release_id: ReleaseId) -> Result<Vec<ReselectionCount>, StoreError> {
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as("SELECT reason, events, chunks FROM reselection_counts WHERE release_id = $1 ORDER BY events DESC, reason")
                .bind(release_id.0)
                .fetch_all(&self.pool)
                .await?;
        let counts = rows.into_iter().map(|(reason, events, chunks)| {
            Ok(ReselectionCount { reason: reason_of(&reason)?, events: unsigned(events)?, chunks: unsigned(chunks)? })
        });
        counts.collect()
    }

    /// The latest re-selections of a release, newest first; of the terminals of `only_of` alone if it is given.
    ///
    /// # Errors
    /// The database fails.
    pub async fn latest_reselections(
        &self,
        release_id: ReleaseId,
        only_of: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<Reselection>, StoreError> {
        let rows: Vec<(Uuid, OffsetDateTime, String, Uuid, Option<Uuid>, i32)> = sqlx::query_as(
            "SELECT swarm_id, at, reason, terminal_id, replacement, chunks FROM reselections
             WHERE release_id = $1 AND ($2::uuid IS NULL OR terminal_id IN (SELECT id FROM terminals WHERE user_id = $2))
             ORDER BY id DESC LIMIT $3",
        )
        .bind(release_id.0)
        .bind(only_of.map(|user| user.0))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let events = rows.into_iter().map(|(swarm_id, at, reason, terminal_id, replacement, chunks)| {
            Ok(Reselection {
                swarm_id: SwarmId(swarm_id),
                at,
                reason: reason_of(&reason)?,
                terminal_id: TerminalId(terminal_id),
                replacement: replacement.map(TerminalId),
                chunks: small(chunks)?,
            })
        });
        events.collect()
    }
}
