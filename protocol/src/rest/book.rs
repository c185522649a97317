//! The closed books of a release: whoever reads them can recompute who got which rank at which price, and compare the hash with the one published.

use serde::{Deserialize, Serialize};

use super::Selection;
use crate::ids::*;
use crate::units::{Amount, BitsPerSecond, Money, TimestampMs};

/// The closed books of a release, without their bids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReleaseBook {
    pub release_id: ReleaseId,
    pub selection: Selection,
    /// The least price of a place in rank 1.
    pub reserve: Money,
    /// As the release shows it: over the editions' ids and hashes, in this order.
    pub book_hash: Blake3,
    pub editions: Vec<EditionBook>,
}

/// The book of one edition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EditionBook {
    pub edition_id: EditionId,
    pub label: String,
    /// The first one is rank 1.
    pub ranks: Vec<BookRank>,
    /// How many bids it has.
    pub bids: u32,
    /// BLAKE3 over the book, in the layout that the documentation of the auction gives.
    pub hash: Blake3,
}

/// A rank as the book was cleared with it, and its price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BookRank {
    pub weight: u32,
    pub capacity: u32,
    pub price: Money,
    /// What the price adds up from, this rank's own step first; rounded down once, at the end.
    pub steps: Vec<BookStep>,
}

/// One step of a price: from the rank after `rank`, or from nothing, up to `rank`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BookStep {
    pub rank: u32,
    /// What the step adds in weight.
    pub weight: u32,
    /// What is paid per weight is `amount / per_weight`.
    pub amount: Amount,
    pub per_weight: u32,
    /// The bid that was kept out of the step first and offered this; absent where it is the reserve.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub set_by: Option<BidId>,
}

/// Why a bid got no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LostBecause {
    /// The maximum is less than the reserve of the rank wanted.
    BelowReserve,
    /// The rank wanted and all after it were full.
    NoPlace,
}

/// One bid of a closed book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BookBid {
    pub bid_id: BidId,
    /// The best rank wanted.
    pub rank: u32,
    pub maximum: Money,
    pub applied_at: TimestampMs,
    /// The two leading binary digits of the uplink that was seen in the terminal's transfers when the book closed; 0 if none was, or if places do not go by it.
    pub up_seen: BitsPerSecond,
    /// The least bid id of an owner who has several bids in this book: the price of one may have been moved by another. Absent where it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub same_owner: Option<BidId>,
    /// The rank that it got.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub won: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<LostBecause>,
}

/// Why an application costs what it costs, or got no place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Explanation {
    pub application_id: ApplicationId,
    pub release_id: ReleaseId,
    pub edition_id: EditionId,
    pub bid_id: BidId,
    /// For people, in English.
    pub sentence: String,
    pub rank_wanted: u32,
    pub maximum: Money,
    /// The rank that it got, with the price and the steps that it adds up from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub won: Option<WonRank>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<LostBecause>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WonRank {
    pub rank: u32,
    pub price: Money,
    pub steps: Vec<BookStep>,
}
