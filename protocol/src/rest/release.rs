//! Releases, applications and deliveries.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::OriginUsage;
use crate::ids::*;
use crate::units::{BasisPoints, Bytes, Money};
use crate::ws::Progress;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseState {
    /// Known, not open yet.
    Draft,
    /// Takes applications.
    Open,
    /// The book is cleared, the awards stand, the plan is being made.
    Closed,
    /// The first wave has opened.
    Live,
    /// Every delivery is settled.
    Settled,
    /// Ended before the start; every hold was released.
    Cancelled,
    /// Ended while live; verified bytes were settled.
    Aborted,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// The truthful rank auction.
    #[default]
    Auction,
    /// By time of application; everybody pays the reserve.
    FirstCome,
    /// By the uplink that was seen in the terminal's transfers, then by time of application; everybody pays the reserve.
    MeasuredQuality,
}

/// One rank of a release; the first in the list is rank 1, the best.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rank {
    /// Worth of a place relative to the other ranks; strictly falling from rank to rank, 1 to 1,000,000.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub weight: u32,
    /// Seconds from the start to this rank's wave; 0 for rank 1, rising.
    #[schema(maximum = 604_800)]
    pub delay_s: u32,
    /// Places per edition; without it, as many as follow from how many applied.
    #[schema(minimum = 1, maximum = 1_000_000)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub capacity: Option<u32>,
    /// What whoever has a place in this rank owes the others; without it, nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duty: Option<RelayDuty>,
}

/// To stay connected after the delivery is complete, so that others can be served, and what it costs not to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RelayDuty {
    /// Seconds from the completion; the duty ends with the release at the latest.
    #[schema(minimum = 1, maximum = 604_800)]
    pub after_s: u32,
    /// Held beside the price. Of it, the part of `after_s` that the terminal was away goes to the publisher; the rest is available again.
    pub deposit: Money,
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRelease {
    pub content_id: ContentId,
    #[schema(min_length = 1, max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub title: String,
    /// Bytes travel sealed from the closing on, and each rank is given the key at its second (x02). Else nothing moves before the start.
    #[serde(default)]
    pub sealed: bool,
    /// Which of the content's editions take part.
    #[schema(min_items = 1, max_items = 64)]
    pub editions: Vec<EditionId>,
    #[schema(min_items = 1, max_items = 16)]
    pub ranks: Vec<Rank>,
    #[serde(default)]
    pub selection: Selection,
    /// The least price of a place in rank 1; in rank r it is this times weight_r / weight_1.
    pub reserve: Money,
    #[serde(with = "time::serde::rfc3339")]
    pub opens_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub closes_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub starts_at: OffsetDateTime,
    /// Most primary terminals per edition, where rank 1 has no stated capacity; 16 without it.
    #[schema(minimum = 1, maximum = 4096)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub primaries_max: Option<u32>,
    /// Most places per edition, in all ranks together; without it, nobody who bids enough is left out of a last rank without a stated capacity.
    #[schema(minimum = 1, maximum = 1_000_000)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub places_max: Option<u32>,
    /// Seconds between the waves that a last rank without a stated capacity opens in; without it, as long as from the rank before to the last one, and 60
    /// with one rank.
    #[schema(minimum = 1, maximum = 604_800)]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wave_interval_s: Option<u32>,
    /// Payload bytes that the origin may send in all; at least the sum of the editions.
    pub origin_budget: Bytes,
    /// Relays' share of what is left of a charge after the fee.
    pub relay_share: BasisPoints,
    /// The platform's share of a charge.
    pub fee: BasisPoints,
    /// Seconds after the last wave until what is not delivered is given up, 1 to 604,800.
    #[schema(minimum = 1, maximum = 604_800)]
    pub limit_s: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReleaseEdition {
    pub swarm_id: SwarmId,
    pub edition_id: EditionId,
    pub label: String,
    pub length: Bytes,
    pub chunks: u32,
    /// How many active applications name this edition.
    pub applications: u32,
    /// Places per rank, the first one first, as the number of applications decided; empty until closing.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub places: Vec<u32>,
}

/// One opening of a release: who has a place in this wave begins then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Wave {
    pub rank: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub opens_at: OffsetDateTime,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Release {
    pub id: ReleaseId,
    pub publisher_id: UserId,
    pub content_id: ContentId,
    pub title: String,
    pub state: ReleaseState,
    pub editions: Vec<ReleaseEdition>,
    pub ranks: Vec<Rank>,
    /// One per rank, in order; closing adds more of the last rank if one cannot take all who won in it.
    pub waves: Vec<Wave>,
    pub primaries_max: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub places_max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wave_interval_s: Option<u32>,
    /// Whether bytes travel sealed before the start.
    #[serde(default)]
    pub sealed: bool,
    pub selection: Selection,
    pub reserve: Money,
    #[serde(with = "time::serde::rfc3339")]
    pub opens_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub closes_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub starts_at: OffsetDateTime,
    /// When the last wave's limit ends; closing moves it when it adds waves.
    #[serde(with = "time::serde::rfc3339")]
    pub deadline_at: OffsetDateTime,
    pub relay_share: BasisPoints,
    pub fee: BasisPoints,
    pub limit_s: u32,
    pub origin: OriginUsage,
    /// BLAKE3 over the closed book, so that anyone can recompute the prices; absent until closing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub book_hash: Option<Blake3>,
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApplication {
    pub terminal_id: TerminalId,
    pub edition_id: EditionId,
    /// The best rank wanted; a better one is never given.
    #[serde(default = "first_rank")]
    #[schema(minimum = 1, default = 1)]
    pub rank: u32,
    /// The most to be paid for the rank wanted; held in the wallet.
    pub maximum: Money,
}

fn first_rank() -> u32 {
    1
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeApplication {
    pub edition_id: EditionId,
    #[schema(minimum = 1)]
    pub rank: u32,
    pub maximum: Money,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApplicationState {
    Active,
    Withdrawn,
    Won,
    Lost,
    /// The release was cancelled.
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Application {
    pub id: ApplicationId,
    /// What the closed book knows this application by.
    pub bid_id: BidId,
    pub release_id: ReleaseId,
    pub terminal_id: TerminalId,
    pub edition_id: EditionId,
    pub rank_wanted: u32,
    pub maximum: Money,
    /// Held beside the maximum: the largest deposit of the ranks that this bid may be given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deposit: Option<Money>,
    pub state: ApplicationState,
    #[serde(with = "time::serde::rfc3339")]
    pub applied_at: OffsetDateTime,
    /// Set when the application has won.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub award: Option<Award>,
    /// Rises with each change; the `ETag` is this number in quotes.
    pub version: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Award {
    pub delivery_id: DeliveryId,
    pub rank: u32,
    pub price: Money,
    /// Held beside the price, for the rank's relay duty.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deposit: Option<Money>,
    /// When the terminal's wave opens.
    #[serde(with = "time::serde::rfc3339")]
    pub opens_at: OffsetDateTime,
    /// The primary terminal that this one is tied to; absent for primaries.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub primary_terminal_id: Option<TerminalId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Awarded, not complete.
    Pending,
    /// Settled: complete, or as far as it came by the deadline.
    Settled,
    /// Released without a charge.
    Released,
}

/// Payload that one source delivered to a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SourceShare {
    /// The nil UUID is the origin; the receiver itself stands for what nobody had to send: it had that before, or it repeats another chunk.
    pub source: TerminalId,
    pub bytes: Bytes,
    pub earned: Money,
}

/// How a terminal has met its relay duty so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DutyStanding {
    /// Seconds of presence that are owed once the delivery is complete.
    pub after_s: u32,
    pub deposit: Money,
    /// Seconds of them that count as missed; an absence of up to a minute does not count.
    pub missed_s: u32,
    /// When the duty ends if the release goes on for as long; known once the delivery is complete.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub until: Option<OffsetDateTime>,
    /// What of the deposit went to the publisher; known once the duty has ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub forfeited: Option<Money>,
}

/// One delivery as the server accounts for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Delivery {
    pub id: DeliveryId,
    pub release_id: ReleaseId,
    pub terminal_id: TerminalId,
    pub edition_id: EditionId,
    pub rank: u32,
    /// The release's wave that it opens with, from 0.
    pub wave: u32,
    /// The primary terminal that this one is tied to; absent for primaries, and where there are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub primary_terminal_id: Option<TerminalId>,
    pub price: Money,
    pub state: DeliveryState,
    /// Acknowledged by signed receipts.
    pub verified: Bytes,
    pub charged: Money,
    /// What this terminal was paid so far in this release as a relay.
    pub earned: Money,
    /// Absent where the rank has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duty: Option<DutyStanding>,
    /// By source, as receipts have it; what each earned is known once the delivery is settled.
    pub sources: Vec<SourceShare>,
    /// What the terminal itself last reported.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub progress: Option<Progress>,
    /// The relay's overhead as last measured: from the origin's sending of a chunk to the last acknowledged copy of it, in nanoseconds per byte
    /// outstanding at the time. Known while the terminal relays chunks of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub overhead_ns_per_byte: Option<u64>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub completed_at: Option<OffsetDateTime>,
}
