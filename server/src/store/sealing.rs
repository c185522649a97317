//! The keys and the sealed manifests of sealed releases, and when who may have a key.

use protocol::rest::ReleaseState;
use protocol::{Blake3, EditionId, ErrorCode, PublicKey, ReleaseId, SwarmId, TerminalId};
use time::OffsetDateTime;
use uuid::Uuid;

use super::contents::Viewer;
use super::conversions::byte_array;
use super::releases::state_of;
use super::{Store, StoreError};

/// A swarm of a sealed release that is not sealed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsealed {
    pub release_id: ReleaseId,
    pub swarm_id: SwarmId,
    pub edition_id: EditionId,
}

/// What a terminal of a sealed swarm is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDue {
    pub at: OffsetDateTime,
    pub public_key: PublicKey,
    /// As it was wrapped.
    pub wrapped: Vec<u8>,
}

#[derive(sqlx::FromRow)]
struct KeyRow {
    at: OffsetDateTime,
    public_key: Vec<u8>,
    wrapped: Vec<u8>,
    state: String,
    aborted_at: Option<OffsetDateTime>,
}

impl Store {
    /// The swarms of a release that are to be sealed; none if it is not a sealed one, or has ended.
    ///
    /// # Errors
    /// The database fails.
    pub async fn unsealed_swarms(&self, release_id: ReleaseId) -> Result<Vec<Unsealed>, StoreError> {
        let rows: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(
            "SELECT swarm_id, edition_id FROM release_editions JOIN releases ON releases.id = release_id
             WHERE release_id = $1 AND sealed AND sealed_manifest IS NULL AND state IN ('draft', 'open', 'closed', 'live') ORDER BY position",
        )
        .bind(release_id.0)
        .fetch_all(&self.pool)
        .await?;
        let unsealed = |(swarm_id, edition_id): (Uuid, Vec<u8>)| {
            Ok(Unsealed { release_id, swarm_id: SwarmId(swarm_id), edition_id: EditionId(byte_array(&edition_id)?) })
        };
        rows.into_iter().map(unsealed).collect()
    }

    /// Notes the wrapped key of a swarm, unless it has one; answers the one that it has. A key is never changed: chunks were sealed with it.
    ///
    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn keep_sealed_key(&self, swarm_id: SwarmId, wrapped: &[u8]) -> Result<Vec<u8>, StoreError> {
        let kept: Option<Vec<u8>> = sqlx::query_scalar(
            "UPDATE release_editions SET sealed_key = coalesce(sealed_key, $2) WHERE swarm_id = $1 RETURNING sealed_key",
        )
        .bind(swarm_id.0)
        .bind(wrapped)
        .fetch_optional(&self.pool)
        .await?;
        kept.ok_or(StoreError::NotFound("swarm"))
    }

    /// The wrapped key of a swarm, if it is sealed.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sealed_key(&self, swarm_id: SwarmId) -> Result<Option<Vec<u8>>, StoreError> {
        let key: Option<Option<Vec<u8>>> = sqlx::query_scalar("SELECT sealed_key FROM release_editions WHERE swarm_id = $1")
            .bind(swarm_id.0)
            .fetch_optional(&self.pool)
            .await?;
        Ok(key.flatten())
    }

    /// Every chunk of a swarm is sealed, and its sealed manifest stored.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_sealed_manifest(&self, swarm_id: SwarmId, manifest: Blake3) -> Result<(), StoreError> {
        sqlx::query("UPDATE release_editions SET sealed_manifest = $2 WHERE swarm_id = $1")
            .bind(swarm_id.0)
            .bind(manifest.0.as_slice())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The key that a terminal is due and when; `None` if it never will be: its release was cancelled, or aborted before, or it got nothing.
    ///
    /// # Errors
    /// `not_in_swarm` if no sealed delivery of this swarm is the terminal's, or the database fails.
    pub async fn key_due(&self, swarm_id: SwarmId, terminal: TerminalId) -> Result<Option<KeyDue>, StoreError> {
        let row: Option<KeyRow> = sqlx::query_as(
            "SELECT key_at(deliveries.release_id, wave) AS at, public_key, sealed_key AS wrapped, releases.state, aborted_at
             FROM deliveries
             JOIN release_editions ON release_editions.swarm_id = deliveries.swarm_id
             JOIN releases ON releases.id = deliveries.release_id
             JOIN terminals ON terminals.id = terminal_id
             WHERE deliveries.swarm_id = $1 AND terminal_id = $2 AND sealed AND sealed_key IS NOT NULL",
        )
        .bind(swarm_id.0)
        .bind(terminal.0)
        .fetch_optional(&self.pool)
        .await?;
        let row = row.ok_or_else(|| StoreError::refused(ErrorCode::NotInSwarm))?;
        let is_due = match state_of(&row.state)? {
            ReleaseState::Closed | ReleaseState::Live | ReleaseState::Settled => true,
            ReleaseState::Aborted => row.aborted_at.is_some_and(|aborted_at| row.at <= aborted_at),
            ReleaseState::Draft | ReleaseState::Open | ReleaseState::Cancelled => false,
        };
        let due = || Ok(KeyDue { at: row.at, public_key: PublicKey(byte_array(&row.public_key)?), wrapped: row.wrapped });
        is_due.then(due).transpose()
    }

    /// Until when an edition is a secret to this viewer, if it is one: its publisher and operators know it.
    ///
    /// # Errors
    /// The database fails.
    pub async fn secret_until(
        &self,
        edition: EditionId,
        viewer: Viewer,
        now: OffsetDateTime,
    ) -> Result<Option<OffsetDateTime>, StoreError> {
        if viewer == Viewer::Operator {
            return Ok(None);
        }
        let until: Option<OffsetDateTime> = sqlx::query_scalar(
            "SELECT CASE WHEN NOT EXISTS (
                 SELECT FROM content_editions JOIN contents ON contents.id = content_id WHERE edition_id = $1 AND publisher_id = $2)
             THEN secret_until($1) END",
        )
        .bind(edition.0.as_slice())
        .bind(viewer.user())
        .fetch_one(&self.pool)
        .await?;
        Ok(until.filter(|until| *until > now))
    }
}
