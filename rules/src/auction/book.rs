//! The closed book of one edition: its ranks, its reserve and its bids, checked once so that clearing it cannot fail on bad input.

use protocol::rest::Selection;
use protocol::units::JSON_INTEGER_MAX;
use protocol::{Amount, BidId, BitsPerSecond, Blake3, EditionId, TimestampMs};

use super::per_weight::PerWeight;

/// Most ranks of a release. More steps than this are no choice that a person can weigh up.
pub const RANKS_MAX: usize = 16;
/// Largest rank weight. Together with maxima below 2^53 it keeps every offer's sort key exact in 93 bits (see [`PerWeight`]).
pub const WEIGHT_MAX: u32 = 1_000_000;
/// Most bids in one book: four times the largest release that is planned for. A full book is cleared in some 500 MB.
pub const BIDS_MAX: usize = 4_000_000;

/// Starts the bytes that a book's hash covers, so that no other hashed layout can be mistaken for a book.
const BOOK_MAGIC: &[u8; 16] = b"SPILLWAY-BOOK-2\n";
/// Starts the bytes that a release's hash covers.
const BOOKS_MAGIC: &[u8; 17] = b"SPILLWAY-BOOKS-1\n";

/// What a rank is worth and how many it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankTerms {
    /// The public weight: how much a place in this rank is worth, relative to the others. 1 to [`WEIGHT_MAX`], falling from rank to rank.
    pub weight: u32,
    /// The number of places; `u32::MAX` for "everybody".
    pub capacity: u32,
}

/// One application of one terminal, under an id that tells nobody whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bid {
    pub bid_id: BidId,
    /// The best rank wanted, 1 for the first. A better one is worth nothing to the bidder and is never given.
    pub rank: u32,
    /// The most that the bidder pays, for the rank wanted, in minor units; for a worse rank the maximum shrinks with the weight.
    pub maximum: Amount,
    /// The server's clock when the application, as it stands now, was recorded. Decides ties, then the id does.
    pub applied_at: TimestampMs,
    /// The uplink that was seen in the terminal's transfers; 0 if none was. Decides under [`Selection::MeasuredQuality`] alone.
    pub up_seen: BitsPerSecond,
}

/// Why a book is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    #[error("a release needs 1 to {RANKS_MAX} ranks, not {0}")]
    RankCount(usize),
    #[error("the weight of rank {rank} is {weight}; it must be 1 to {WEIGHT_MAX}")]
    Weight { rank: usize, weight: u32 },
    #[error("the weight of rank {rank} is not below the weight of the rank before it")]
    WeightsNotFalling { rank: usize },
    #[error("the reserve {0} is above the largest amount, {JSON_INTEGER_MAX}")]
    Reserve(u64),
    #[error("{0} bids are more than the {BIDS_MAX} that a book takes")]
    TooManyBids(usize),
    #[error("bid {bid_id} wants rank {rank}, which does not exist")]
    UnknownRank { bid_id: BidId, rank: u32 },
    #[error("bid {bid_id} offers {maximum}, more than the largest amount, {JSON_INTEGER_MAX}")]
    Maximum { bid_id: BidId, maximum: u64 },
    #[error("bid {0} stands twice in the book")]
    DuplicateApplication(BidId),
}

/// A checked book, its bids in ascending order of id, whatever order they came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    ranks: Vec<RankTerms>,
    reserve: Amount,
    bids: Vec<Bid>,
}

impl Book {
    /// Checks and orders a book. `reserve` is the least amount for **rank 1**; for rank s it is `reserve · w_s / w_1`, so that it means the same
    /// price per weight everywhere: ρ = `reserve` / w_1. 0 for no reserve.
    ///
    /// # Errors
    /// [`BookError`] when a bound of this module does not hold; nothing is corrected silently.
    pub fn new(ranks: Vec<RankTerms>, reserve: Amount, mut bids: Vec<Bid>) -> Result<Self, BookError> {
        check_ranks(&ranks)?;
        if reserve.0 > JSON_INTEGER_MAX {
            return Err(BookError::Reserve(reserve.0));
        }
        if bids.len() > BIDS_MAX {
            return Err(BookError::TooManyBids(bids.len()));
        }
        for bid in &bids {
            if rank_index(bid.rank).is_none_or(|index| index >= ranks.len()) {
                return Err(BookError::UnknownRank { bid_id: bid.bid_id, rank: bid.rank });
            }
            if bid.maximum.0 > JSON_INTEGER_MAX {
                return Err(BookError::Maximum { bid_id: bid.bid_id, maximum: bid.maximum.0 });
            }
        }
        bids.sort_unstable_by_key(|bid| bid.bid_id);
        if let Some(twin) = bids.windows(2).find(|pair| pair[0].bid_id == pair[1].bid_id) {
            return Err(BookError::DuplicateApplication(twin[0].bid_id));
        }
        Ok(Self { ranks, reserve, bids })
    }

    /// The ranks, the first one first.
    pub fn ranks(&self) -> &[RankTerms] {
        &self.ranks
    }

    /// The least amount for rank 1.
    pub fn reserve(&self) -> Amount {
        self.reserve
    }

    /// The bids in ascending order of id.
    pub fn bids(&self) -> &[Bid] {
        &self.bids
    }

    /// ρ: the reserve as a price per weight.
    pub fn reserve_per_weight(&self) -> PerWeight {
        PerWeight { amount: self.reserve, weight: self.ranks.first().map_or(1, |first| first.weight) }
    }

    /// b_i: what a bid of this book offers per weight.
    pub(super) fn offer(&self, bid: &Bid) -> PerWeight {
        let weight = rank_index(bid.rank).and_then(|index| self.ranks.get(index)).map_or(1, |terms| terms.weight);
        PerWeight { amount: bid.maximum, weight }
    }

    /// The hash that is published when a release closes: whoever gets the book can recompute it and, from the book, every award and price.
    ///
    /// BLAKE3 over, little-endian:
    ///
    /// ```text
    /// "SPILLWAY-BOOK-2\n" | selection u8 | reserve u64 | ranks u32 | { weight u32 | capacity u32 }…
    ///     | bids u32 | { bid id (16) | rank u32 | maximum u64 | applied_at u64 ms | up_seen u64 bit/s }…
    /// ```
    ///
    /// with 0 for the auction, 1 for first come, 2 for measured quality, the ranks from first to last and the bids in ascending order of the 16 id bytes.
    pub fn hash(&self, selection: Selection) -> Blake3 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(BOOK_MAGIC);
        hasher.update(&[match selection {
            Selection::Auction => 0,
            Selection::FirstCome => 1,
            Selection::MeasuredQuality => 2,
        }]);
        hasher.update(&self.reserve.0.to_le_bytes());
        hasher.update(&u32::try_from(self.ranks.len()).unwrap_or(u32::MAX).to_le_bytes());
        for terms in &self.ranks {
            hasher.update(&terms.weight.to_le_bytes());
            hasher.update(&terms.capacity.to_le_bytes());
        }
        hasher.update(&u32::try_from(self.bids.len()).unwrap_or(u32::MAX).to_le_bytes());
        for bid in &self.bids {
            let mut row = [0; 44];
            row[..16].copy_from_slice(&bid.bid_id.to_bytes());
            row[16..20].copy_from_slice(&bid.rank.to_le_bytes());
            row[20..28].copy_from_slice(&bid.maximum.0.to_le_bytes());
            row[28..36].copy_from_slice(&bid.applied_at.0.to_le_bytes());
            row[36..].copy_from_slice(&bid.up_seen.0.to_le_bytes());
            hasher.update(&row);
        }
        Blake3(*hasher.finalize().as_bytes())
    }
}

/// An uplink as a book has it: its two leading binary digits, rounded down, so that steps are a third to a half. Exact to the bit, it would tell whose bid it is.
pub fn coarse_uplink(seen: BitsPerSecond) -> BitsPerSecond {
    let dropped = seen.0.checked_ilog2().unwrap_or(0).saturating_sub(1);
    BitsPerSecond(seen.0.checked_shr(dropped).and_then(|leading| leading.checked_shl(dropped)).unwrap_or(0))
}

/// The least maximum that is at the reserve in a rank of this weight: `reserve · weight / first_weight`, rounded up, where `reserve` is rank 1's.
///
/// `None` without a first weight, or if it is no amount.
pub fn least_maximum(reserve: Amount, weight: u32, first_weight: u32) -> Option<Amount> {
    let product = u128::from(reserve.0).checked_mul(weight.into())?;
    product.checked_add(u128::from(first_weight).checked_sub(1)?)?.checked_div(first_weight.into())?.try_into().ok().map(Amount)
}

/// The hash that a release publishes: BLAKE3 over `"SPILLWAY-BOOKS-1\n"`, then, per edition in the release's order, the edition id (32 bytes) and the
/// hash of its book (32 bytes, see [`Book::hash`]).
pub fn release_hash(books: impl IntoIterator<Item = (EditionId, Blake3)>) -> Blake3 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(BOOKS_MAGIC);
    for (edition_id, hash) in books {
        hasher.update(&edition_id.0).update(&hash.0);
    }
    Blake3(*hasher.finalize().as_bytes())
}

/// The place of a rank in lists that start with rank 1; `None` for rank 0.
fn rank_index(rank: u32) -> Option<usize> {
    rank.checked_sub(1).and_then(|index| usize::try_from(index).ok())
}

fn check_ranks(ranks: &[RankTerms]) -> Result<(), BookError> {
    if ranks.is_empty() || ranks.len() > RANKS_MAX {
        return Err(BookError::RankCount(ranks.len()));
    }
    let mut above = u32::MAX;
    for (rank, terms) in (1usize..).zip(ranks) {
        if terms.weight == 0 || terms.weight > WEIGHT_MAX {
            return Err(BookError::Weight { rank, weight: terms.weight });
        }
        if terms.weight >= above {
            return Err(BookError::WeightsNotFalling { rank });
        }
        above = terms.weight;
    }
    Ok(())
}
