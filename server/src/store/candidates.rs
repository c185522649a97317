//! Those whom a wave is planned for, and what is known of their lines: what a terminal's owner states comes first, then what was seen in its transfers.

use protocol::{BitsPerSecond, SwarmId, TerminalId};
use rules::relay_plan::{Candidate, CommunicationState, NatKind, Region};
use uuid::Uuid;

use super::conversions::{integer, small, unsigned};
use super::plan::peer_of;
use super::{Store, StoreError};

/// A winner whose delivery is pending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaveCandidate {
    pub candidate: Candidate,
    /// 0 if nobody stated it and none was seen.
    pub down: BitsPerSecond,
}

#[derive(sqlx::FromRow)]
struct CandidateRow {
    id: Uuid,
    terminal_id: Uuid,
    public_key: Vec<u8>,
    up_bps: i64,
    down_bps: i64,
    region: Option<i32>,
    round_trip_ms: Option<i32>,
    loss_ppm: Option<i32>,
    nat: Option<String>,
    primary_terminal_id: Option<Uuid>,
}

pub(crate) fn nat_of(text: &str) -> Result<NatKind, StoreError> {
    match text {
        "unknown" => Ok(NatKind::Unknown),
        "open" => Ok(NatKind::Open),
        "endpoint_independent" => Ok(NatKind::EndpointIndependent),
        "endpoint_dependent" => Ok(NatKind::EndpointDependent),
        other => Err(StoreError::Invariant(format!("{other} is no kind of NAT"))),
    }
}

pub(crate) fn short(value: i32) -> Result<u16, StoreError> {
    u16::try_from(value).map_err(|_| StoreError::Invariant(format!("the stored {value} is not within 0 and 65535")))
}

impl CandidateRow {
    fn candidate(self) -> Result<WaveCandidate, StoreError> {
        let state = CommunicationState {
            region: self.region.map(short).transpose()?.map(Region),
            round_trip_ms: self.round_trip_ms.map(short).transpose()?,
            loss_ppm: self.loss_ppm.map(small).transpose()?,
            nat: self.nat.as_deref().map(nat_of).transpose()?.unwrap_or_default(),
        };
        let peer = peer_of(self.id, self.terminal_id, &self.public_key, self.up_bps)?;
        Ok(WaveCandidate {
            candidate: Candidate { peer, state, primary: self.primary_terminal_id.map(TerminalId) },
            down: BitsPerSecond(unsigned(self.down_bps)?),
        })
    }
}

impl Store {
    /// The winners of one wave whose deliveries are pending; of a sealed release, which has one wave of copying, those of all ranks.
    ///
    /// # Errors
    /// The database fails.
    pub async fn wave_candidates(&self, swarm_id: SwarmId, wave: u32) -> Result<Vec<WaveCandidate>, StoreError> {
        let rows: Vec<CandidateRow> = sqlx::query_as(
            "SELECT deliveries.id, deliveries.terminal_id, public_key, region, round_trip_ms, loss_ppm, nat, primary_terminal_id,
                 CASE WHEN up_bps > 0 THEN up_bps ELSE coalesce(up_seen_bps, 0) END AS up_bps,
                 CASE WHEN down_bps > 0 THEN down_bps ELSE coalesce(down_seen_bps, 0) END AS down_bps
             FROM deliveries JOIN terminals ON terminals.id = terminal_id
             LEFT JOIN communication_states ON communication_states.terminal_id = terminals.id
             WHERE swarm_id = $1 AND state = 'pending'
                 AND (wave = $2 OR ($2 = 0 AND (SELECT sealed FROM releases WHERE releases.id = deliveries.release_id)))
             ORDER BY deliveries.id",
        )
        .bind(swarm_id.0)
        .bind(integer(wave)?)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(CandidateRow::candidate).collect()
    }
}
