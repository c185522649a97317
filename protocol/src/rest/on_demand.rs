//! Contents at any time: a publisher's terms, and downloads.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{OriginUsage, TariffVersion};
use crate::ids::*;
use crate::units::{BasisPoints, Bytes, Money};

/// What a publisher asks for a content at any time, in place of what was asked before: a flat price with both shares, or a tariff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OnDemandTerms {
    /// For a whole edition, whichever it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub price: Option<Money>,
    /// Relays' share of what is left of a charge after the fee.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay_share: Option<BasisPoints>,
    /// The platform's share of a charge.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fee: Option<BasisPoints>,
    /// An own tariff, in place of the three above. Its latest version counts, also those that come later.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tariff_id: Option<TariffId>,
    /// Payload bytes that the origin may send for all downloads of the content together, those before included. 0: never; terminals alone serve it.
    pub origin_budget: Bytes,
    /// Seconds after a download was asked for until what has not come is given up, 1 to 604,800.
    #[schema(minimum = 1, maximum = 604_800)]
    pub limit_s: u32,
}

/// The terms as they stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OnDemand {
    pub content_id: ContentId,
    /// Absent with a tariff: what an edition costs then, `GET /v1/contents/{id}/on-demand/quote` says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub price: Option<Money>,
    /// With a tariff, what its latest version states without windows and steps.
    pub relay_share: BasisPoints,
    pub fee: BasisPoints,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tariff: Option<TariffVersion>,
    pub limit_s: u32,
    /// What the origin sent for all downloads of the content. A budget that was lowered below what is reserved stands at that.
    pub origin: OriginUsage,
    /// Rises with each change; the `ETag` is this number in quotes.
    pub version: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDownload {
    /// One of the caller's own terminals.
    pub terminal_id: TerminalId,
    pub edition_id: EditionId,
    /// The most to be paid. The present price is held; it is refused if it is higher than this.
    pub maximum: Money,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DownloadState {
    /// The price is held, and bytes come as soon as somebody has them.
    Running,
    /// Everything was received and paid for.
    Complete,
    /// Ended before everything was received: what was is paid for, the rest of the hold is released.
    Ended,
}

/// A terminal that was chosen to serve a download, or the origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DownloadSource {
    /// The nil UUID is the origin.
    pub terminal_id: TerminalId,
    /// Whether it is to serve the download now.
    pub serving: bool,
    /// Why it was chosen, in words.
    pub reason: String,
    /// Why it serves no more, if the download itself saw it fail: `silent` or `corrupt`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<String>,
    /// Received from it, by signed receipts.
    pub bytes: Bytes,
    /// Known once the download is settled.
    pub earned: Money,
    /// Its share of what is left of the charge of its bytes after the fee, where the tariff gave it another one than those that had sent nothing before. Known
    /// once the download is settled.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay_share: Option<BasisPoints>,
}

/// One edition on its way to one terminal that asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Download {
    pub id: DownloadId,
    /// The release that carries it: one delivery, in no list.
    pub release_id: ReleaseId,
    pub swarm_id: SwarmId,
    pub delivery_id: DeliveryId,
    pub content_id: ContentId,
    pub edition_id: EditionId,
    pub label: String,
    pub length: Bytes,
    pub terminal_id: TerminalId,
    pub state: DownloadState,
    /// What was held for it.
    pub price: Money,
    /// The version of the tariff that it was asked for under; absent at a flat price.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tariff: Option<TariffVersion>,
    pub charged: Money,
    /// Acknowledged by signed receipts.
    pub verified: Bytes,
    /// Whoever is serving, or has delivered something.
    pub sources: Vec<DownloadSource>,
    /// What the origin may send for all downloads of the content.
    pub origin: OriginUsage,
    #[serde(with = "time::serde::rfc3339")]
    pub requested_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub deadline_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none", default)]
    pub completed_at: Option<OffsetDateTime>,
}
