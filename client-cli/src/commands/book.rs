//! `explain` and `audit`: what a closed release's prices follow from.

use std::collections::BTreeMap;

use protocol::rest::{Application, ApplicationState, BookBid, EditionBook, Explanation, ReleaseBook};
use protocol::{Amount, BidId, Blake3};
use rules::auction::{Bid, Book, Outcome, RankTerms, clear, release_hash};
use serde::Serialize;

use super::all_pages;
use crate::arguments::BookArguments;
use crate::failure::{Failure, Outcome as Done};
use crate::folder::Folder;
use crate::screen::{Report, clean, date_time, explanations_page};
use crate::session::Login;

pub(super) async fn explain(arguments: BookArguments, folder: &Folder) -> Done<Report> {
    let api = Login::from_folder(folder)?.api;
    let release = api.release(arguments.release).await?;
    let applications = all_pages(async |page| api.applications(release.id, page).await).await?;
    let decided = |application: &&Application| matches!(application.state, ApplicationState::Won | ApplicationState::Lost);
    let mut explanations: Vec<Explanation> = Vec::with_capacity(applications.len());
    for application in applications.iter().filter(decided) {
        explanations.push(api.explanation(application.id).await?);
    }
    if explanations.is_empty() {
        let nothing = match applications.iter().any(|application| application.state == ApplicationState::Active) {
            true => format!("nothing is decided before the release closes at {}", date_time(release.closes_at)),
            false => "this account has no application to the release that was decided".to_owned(),
        };
        return Err(Failure::Failed(nothing));
    }
    let text = explanations_page(&release, &explanations);
    Report::new(&explanations, text)
}

/// What an audit has found: nothing that differs, or it would have failed.
#[derive(Debug, Serialize)]
struct Audited {
    release_id: protocol::ReleaseId,
    book_hash: Blake3,
    bids: usize,
    winners: usize,
    /// Bids of owners with several in one book: for these the auction is not proof against misreports.
    of_several: usize,
}

pub(super) async fn audit(arguments: BookArguments, folder: &Folder) -> Done<Report> {
    let api = Login::from_folder(folder)?.api;
    let release = api.release(arguments.release).await?;
    let book = api.book(release.id).await?;
    let mut audited = Audited { release_id: release.id, book_hash: book.book_hash, bids: 0, winners: 0, of_several: 0 };
    let mut hashes = Vec::with_capacity(book.editions.len());
    for edition in &book.editions {
        let bids = all_pages(async |page| api.book_bids(release.id, edition.edition_id, page).await).await?;
        let (hash, outcome) = recomputed(&book, edition, &bids).map_err(|reason| differs(&edition.label, &reason))?;
        compare(edition, &bids, hash, &outcome).map_err(|reason| differs(&edition.label, &reason))?;
        hashes.push((edition.edition_id, hash));
        audited.bids += bids.len();
        audited.winners += outcome.awards.len();
        audited.of_several += bids.iter().filter(|bid| bid.same_owner.is_some()).count();
    }
    if Some(release_hash(hashes)) != release.book_hash {
        return Err(Failure::Failed("the books do not have the hash that the release has published".into()));
    }
    let mut text = format!(
        "The books of {} bids have the hash that was published:\n  {}\nEvery rank and price of the {} winners follows from them.\n",
        audited.bids, audited.book_hash, audited.winners
    );
    if audited.of_several > 0 {
        text.push_str(&format!(
            "{} bids are of owners with several in one book: one of theirs may have moved the price of another.\n",
            audited.of_several
        ));
    }
    Report::new(&audited, text)
}

fn differs(label: &str, reason: &str) -> Failure {
    Failure::Failed(format!("edition {}: {reason}", clean(label)))
}

/// The book's hash, and what comes out of it.
fn recomputed(book: &ReleaseBook, edition: &EditionBook, bids: &[BookBid]) -> Result<(Blake3, Outcome), String> {
    let ranks = edition.ranks.iter().map(|rank| RankTerms { weight: rank.weight, capacity: rank.capacity }).collect();
    let bid = |bid: &BookBid| Bid {
        bid_id: bid.bid_id,
        rank: bid.rank,
        maximum: bid.maximum.amount,
        applied_at: bid.applied_at,
        up_seen: bid.up_seen,
    };
    let closed = Book::new(ranks, book.reserve.amount, bids.iter().map(bid).collect()).map_err(|error| error.to_string())?;
    let outcome = clear(&closed, book.selection).map_err(|error| error.to_string())?;
    Ok((closed.hash(book.selection), outcome))
}

/// Whether what the server shows is what comes out.
fn compare(edition: &EditionBook, bids: &[BookBid], hash: Blake3, outcome: &Outcome) -> Result<(), String> {
    if hash != edition.hash {
        return Err(format!("the {} bids have the hash {hash}, not {}", bids.len(), edition.hash));
    }
    let prices: Vec<Amount> = outcome.prices.iter().map(|price| price.price).collect();
    let shown: Vec<Amount> = edition.ranks.iter().map(|rank| rank.price.amount).collect();
    if prices != shown {
        return Err(format!("the ranks cost {prices:?}, not {shown:?}"));
    }
    let won: BTreeMap<BidId, u32> = outcome.awards.iter().map(|award| (award.bid_id, award.rank)).collect();
    match bids.iter().find(|bid| bid.won != won.get(&bid.bid_id).copied()) {
        Some(bid) => Err(format!("bid {} got rank {:?}, not {:?}", bid.bid_id, won.get(&bid.bid_id), bid.won)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::rest::{BookRank, LostBecause, Selection};
    use protocol::{BitsPerSecond, Currency, EditionId, Money, ReleaseId, TimestampMs};

    use super::*;

    fn eur(amount: u64) -> Money {
        Money { amount: Amount(amount), currency: Currency::EUR }
    }

    /// The worked example of the auction: 315, 155 and 50 for maxima of 500, 400, 300 and 200.
    fn example() -> (ReleaseBook, Vec<BookBid>) {
        let bid = |(number, maximum): (u8, u64)| BookBid {
            bid_id: BidId::from_bytes([number; 16]),
            rank: 1,
            maximum: eur(maximum),
            applied_at: TimestampMs(u64::from(number)),
            up_seen: BitsPerSecond(0),
            same_owner: None,
            won: (number < 4).then_some(number.into()),
            lost: (number == 4).then_some(LostBecause::NoPlace),
        };
        let bids: Vec<BookBid> = (1u8..).zip([500, 400, 300, 200]).map(bid).collect();
        let ranks = [(100, 315), (60, 155), (25, 50)];
        let ranks = ranks.map(|(weight, price)| BookRank { weight, capacity: 1, price: eur(price), steps: Vec::new() }).to_vec();
        let edition = EditionBook { edition_id: EditionId([1; 32]), label: "en".into(), ranks, bids: 4, hash: Blake3([0; 32]) };
        let mut book = ReleaseBook {
            release_id: ReleaseId::from_bytes([1; 16]),
            selection: Selection::Auction,
            reserve: eur(0),
            book_hash: Blake3([0; 32]),
            editions: vec![edition],
        };
        book.editions[0].hash = recomputed(&book, &book.editions[0], &bids).unwrap().0;
        (book, bids)
    }

    fn checked(book: &ReleaseBook, bids: &[BookBid]) -> Result<(), String> {
        let (hash, outcome) = recomputed(book, &book.editions[0], bids)?;
        compare(&book.editions[0], bids, hash, &outcome)
    }

    #[test]
    fn x05_an_honest_book_passes_and_any_change_of_it_is_found() {
        let (book, bids) = example();
        assert_eq!(checked(&book, &bids), Ok(()));
        let spoiled = |change: &dyn Fn(&mut ReleaseBook, &mut Vec<BookBid>)| {
            let (mut book, mut bids) = example();
            change(&mut book, &mut bids);
            checked(&book, &bids).unwrap_err()
        };
        assert!(spoiled(&|_, bids| bids[3].maximum = eur(201)).contains("the hash"));
        assert!(spoiled(&|_, bids| bids.truncate(3)).contains("the 3 bids"));
        assert!(spoiled(&|book, _| book.editions[0].ranks[0].price = eur(316)).contains("cost"));
        assert!(spoiled(&|_, bids| bids[0].won = Some(2)).contains("got rank Some(1), not Some(2)"));
        assert!(spoiled(&|_, bids| bids[1].bid_id = bids[0].bid_id).contains("stands twice"));
    }
}
