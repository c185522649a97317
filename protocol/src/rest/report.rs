//! How a release went, or goes so far: how close it came to the fluid bound, who sent what to whom, money, and what had to be chosen again.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{DeliveryState, OriginUsage, Page, ReleaseState};
use crate::ids::*;
use crate::units::{BitsPerSecond, Bytes, Money};

/// By when half of all, 99 of 100, and the last one were there. Each is absent until so many are: whoever is not complete counts as later than anybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Spread {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub median: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p99: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last: Option<u64>,
}

/// The lines that a wave's bound was computed with. Rates that nobody knows count as unlimited, so that the bound stays one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BoundRates {
    /// The edition's part of the uplink of the instance that answers; 0 is unlimited. Absent where earlier waves feed the wave.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin_up: Option<BitsPerSecond>,
    /// The known uplinks of all earlier holders together.
    pub holders_up: BitsPerSecond,
    pub holders: u32,
    /// The known uplinks of the wave's own terminals together.
    pub receivers_up: BitsPerSecond,
    /// The slowest known downlink of the wave; 0 if none is known.
    pub slowest_down: BitsPerSecond,
    /// Terminals of the wave and earlier holders whose uplink is not known.
    pub unknown_up: u32,
    /// Terminals of the wave whose downlink is not known.
    pub unknown_down: u32,
}

/// One wave of one edition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WaveReport {
    pub edition_id: EditionId,
    pub label: String,
    pub rank: u32,
    /// From 0, the start.
    pub wave: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub opens_at: OffsetDateTime,
    pub terminals: u32,
    pub complete: u32,
    /// The least time in which these rates let any schedule finish the wave, from its opening; 0 if they set no limit.
    pub bound_ms: u64,
    /// Milliseconds from the wave's opening.
    pub elapsed_ms: Spread,
    /// Those times over the bound, in thousandths; absent where the bound is 0.
    pub ratio_permille: Spread,
    pub rates: BoundRates,
}

/// Everything of a release, or of an edition, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReportTotals {
    pub deliveries: u32,
    pub complete: u32,
    /// Acknowledged payload that came from the origin.
    pub from_origin: Bytes,
    /// Acknowledged payload that came from terminals.
    pub from_peers: Bytes,
    /// What all receivers were charged.
    pub charged: Money,
    /// What all relays earned.
    pub earned: Money,
}

/// One terminal in one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TerminalReport {
    pub delivery_id: DeliveryId,
    pub terminal_id: TerminalId,
    pub edition_id: EditionId,
    pub rank: u32,
    /// From 0, the start.
    pub wave: u32,
    pub state: DeliveryState,
    /// What it was planned with; 0 if not known.
    pub up: BitsPerSecond,
    pub down: BitsPerSecond,
    pub verified: Bytes,
    pub from_origin: Bytes,
    pub from_peers: Bytes,
    /// Payload of others that they acknowledge to have from this terminal.
    pub relayed: Bytes,
    pub price: Money,
    pub charged: Money,
    pub earned: Money,
    /// From its wave's opening until its last receipt was recorded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub elapsed_ms: Option<u64>,
    /// That over its wave's bound, in thousandths.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ratio_permille: Option<u64>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub completed_at: Option<OffsetDateTime>,
}

/// Why somebody else was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReselectionReason {
    /// Enough neighbours found the terminal silent: it was removed from its group for a while.
    Silent,
    /// They lost their links to it.
    Closed,
    /// They got a chunk from it whose hash was wrong.
    Corrupt,
    /// They got from it what is not allowed.
    Malformed,
    /// It did not acknowledge what it was sent.
    Unacknowledged,
    /// Its WebSocket ended.
    Disconnected,
    /// It did not fetch chunks in time that it was given.
    LeaseExpired,
    /// Nobody gave it chunks that it missed: the origin does.
    Missing,
    /// Nobody gave it chunks that it missed, and the origin may not: its budget has nothing left for them. Noted once a minute for each terminal.
    BudgetSpent,
}

/// Somebody else was chosen for chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reselection {
    pub swarm_id: SwarmId,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub reason: ReselectionReason,
    /// Whom it concerns: who lost its place, or, if chunks were missing, who missed them.
    pub terminal_id: TerminalId,
    /// Who took the place, or sends the chunks; the nil UUID is the origin. Absent if nobody was there at that moment.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replacement: Option<TerminalId>,
    /// How many chunks went over to the replacement, or wait for one.
    pub chunks: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReselectionCount {
    pub reason: ReselectionReason,
    pub events: u64,
    pub chunks: u64,
}

/// The report of a release, in the middle of it or at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReleaseReport {
    pub release_id: ReleaseId,
    pub title: String,
    pub state: ReleaseState,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Of every terminal its time over its wave's bound, in thousandths.
    pub ratio_permille: Spread,
    pub totals: ReportTotals,
    pub origin: OriginUsage,
    /// By edition and rank; none before the release has closed.
    pub waves: Vec<WaveReport>,
    /// How often each reason came up.
    pub reselections: Vec<ReselectionCount>,
    /// The latest ones, newest first, at most 100: all for the publisher and for operators, else those of the caller's terminals.
    pub latest_reselections: Vec<Reselection>,
    /// A page of the terminals, by the age of their deliveries: all for the publisher and for operators, else the caller's own.
    pub terminals: Page<TerminalReport>,
}
