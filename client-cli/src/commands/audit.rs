//! `audit`: every rank and price of a closed release recomputed from its published books, the books against the release's terms, and the own bids against the books.

use std::collections::BTreeMap;

use protocol::rest::{
    Application, ApplicationState, BookBid, BookRank, BookStep, EditionBook, LostBecause, Release, ReleaseBook, ReleaseEdition,
};
use protocol::{BidId, Blake3, TimestampMs};
use rules::auction::{Bid, Book, LossReason, Outcome, PriceStep, RankTerms, SetBy, clear, release_hash};
use serde::Serialize;

use super::all_pages;
use crate::arguments::BookArguments;
use crate::failure::{Failure, Outcome as Done};
use crate::folder::Folder;
use crate::screen::{Report, clean};
use crate::session::Login;

/// What an audit has found: nothing that differs, or it would have failed.
#[derive(Debug, Serialize)]
struct Audited {
    release_id: protocol::ReleaseId,
    book_hash: Blake3,
    bids: usize,
    winners: usize,
    /// Bids of owners with several in one book: for these the auction is not proof against misreports.
    of_several: usize,
    /// Bids of this account, each found in the books as it was made.
    own: usize,
}

pub(super) async fn audit(arguments: BookArguments, folder: &Folder) -> Done<Report> {
    let api = Login::from_folder(folder)?.api;
    let release = api.release(arguments.release).await?;
    let book = api.book(release.id).await?;
    let applications = all_pages(async |page| api.applications(release.id, page).await).await?;
    compare_terms(&release, &book).map_err(Failure::Failed)?;
    let mut audited = Audited { release_id: release.id, book_hash: book.book_hash, bids: 0, winners: 0, of_several: 0, own: 0 };
    let mut hashes = Vec::with_capacity(book.editions.len());
    for edition in &book.editions {
        let bids = all_pages(async |page| api.book_bids(release.id, edition.edition_id, page).await).await?;
        let (hash, outcome) = recomputed(&book, edition, &bids).map_err(|reason| differs(&edition.label, &reason))?;
        compare(edition, &bids, hash, &outcome).map_err(|reason| differs(&edition.label, &reason))?;
        let own = applications.iter().filter(|application| application.edition_id == edition.edition_id);
        audited.own += compare_own(edition, &bids, own).map_err(|reason| differs(&edition.label, &reason))?;
        hashes.push((edition.edition_id, hash));
        audited.bids += bids.len();
        audited.winners += outcome.awards.len();
        audited.of_several += bids.iter().filter(|bid| bid.same_owner.is_some()).count();
    }
    if Some(release_hash(hashes)) != release.book_hash {
        return Err(Failure::Failed("the books do not have the hash that the release has published".into()));
    }
    let text = page(&audited);
    Report::new(&audited, text)
}

fn page(audited: &Audited) -> String {
    let mut text = format!(
        "The books of {} bids have the hash that was published:\n  {}\nEvery rank and price of the {} winners follows from them.\n",
        audited.bids, audited.book_hash, audited.winners
    );
    match audited.own {
        0 => {}
        1 => text.push_str("The bid of this account stands in them as it was made.\n"),
        own => text.push_str(&format!("The {own} bids of this account stand in them as they were made.\n")),
    }
    if audited.of_several > 0 {
        text.push_str(&format!(
            "{} bids are of owners with several in one book: one of theirs may have moved the price of another.\n",
            audited.of_several
        ));
    }
    text
}

fn differs(label: &str, reason: &str) -> Failure {
    Failure::Failed(format!("edition {}: {reason}", clean(label)))
}

/// Whether the books were cleared under the terms that the bidders were shown.
fn compare_terms(release: &Release, book: &ReleaseBook) -> Result<(), String> {
    if book.selection != release.selection {
        return Err(format!("the books were cleared by {:?}, not by {:?}", book.selection, release.selection));
    }
    if book.reserve != release.reserve {
        return Err(format!("the books have a reserve of {}, not of {}", book.reserve, release.reserve));
    }
    let named: Vec<_> = release.editions.iter().map(|edition| edition.edition_id).collect();
    if named != book.editions.iter().map(|edition| edition.edition_id).collect::<Vec<_>>() {
        return Err(format!("there are books of {} editions, and the release has {}", book.editions.len(), named.len()));
    }
    for (edition, closed) in release.editions.iter().zip(&book.editions) {
        compare_ranks(release, edition, closed).map_err(|reason| format!("edition {}: {reason}", clean(&edition.label)))?;
    }
    Ok(())
}

fn compare_ranks(release: &Release, edition: &ReleaseEdition, closed: &EditionBook) -> Result<(), String> {
    let stated: Vec<u32> = release.ranks.iter().map(|rank| rank.weight).collect();
    let weights: Vec<u32> = closed.ranks.iter().map(|rank| rank.weight).collect();
    if stated != weights {
        return Err(format!("the ranks of the book weigh {weights:?}, not {stated:?}"));
    }
    let places: Vec<u32> = closed.ranks.iter().map(|rank| rank.capacity).collect();
    if edition.places != places {
        return Err(format!("the ranks of the book have {places:?} places, not {:?}", edition.places));
    }
    // Of a total, or where nobody applied, what was stated is the most.
    let is_exact = release.places_max.is_none() && closed.bids > 0;
    let differs = |stated: u32, places: u32| if is_exact { places != stated } else { places > stated };
    let stated = release.ranks.iter().map(|rank| rank.capacity);
    match places.iter().zip(stated).find(|(places, stated)| stated.is_some_and(|stated| differs(stated, **places))) {
        Some((places, stated)) => Err(format!("a rank has {places} places, and {} were stated", stated.unwrap_or_default())),
        None => Ok(()),
    }
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
    for (price, shown) in outcome.prices.iter().zip(&edition.ranks) {
        if price.price != shown.price.amount {
            return Err(format!("rank {} costs {}, not {}", price.rank, price.price.0, shown.price.amount.0));
        }
        if price.steps.iter().map(step).collect::<Vec<_>>() != shown.steps {
            return Err(format!("the price of rank {} does not add up from the steps shown", price.rank));
        }
    }
    let won: BTreeMap<BidId, u32> = outcome.awards.iter().map(|award| (award.bid_id, award.rank)).collect();
    let lost: BTreeMap<BidId, LostBecause> = outcome.losers.iter().map(|loser| (loser.bid_id, because(loser.reason))).collect();
    for bid in bids {
        let (rank, loss) = (won.get(&bid.bid_id).copied(), lost.get(&bid.bid_id).copied());
        if bid.won != rank {
            return Err(format!("bid {} got rank {rank:?}, not {:?}", bid.bid_id, bid.won));
        }
        if bid.lost != loss {
            return Err(format!("bid {} was lost because of {loss:?}, not {:?}", bid.bid_id, bid.lost));
        }
    }
    Ok(())
}

fn step(step: &PriceStep) -> BookStep {
    let set_by = match step.set_by {
        SetBy::Offer { bid_id } => Some(bid_id),
        SetBy::Reserve => None,
    };
    BookStep { rank: step.rank, weight: step.weight, amount: step.per_weight.amount, per_weight: step.per_weight.weight, set_by }
}

fn because(reason: LossReason) -> LostBecause {
    match reason {
        LossReason::BelowReserve => LostBecause::BelowReserve,
        LossReason::NoPlace => LostBecause::NoPlace,
    }
}

/// Whether the own applications stand in the book as they were made, and were awarded what it says. Answers how many there are.
fn compare_own<'a>(edition: &EditionBook, bids: &[BookBid], own: impl Iterator<Item = &'a Application>) -> Result<usize, String> {
    let book: BTreeMap<BidId, &BookBid> = bids.iter().map(|bid| (bid.bid_id, bid)).collect();
    let mut compared = 0;
    for application in own {
        match application.state {
            ApplicationState::Won | ApplicationState::Lost => {}
            ApplicationState::Active | ApplicationState::Withdrawn | ApplicationState::Cancelled => continue,
        }
        let Some(bid) = book.get(&application.bid_id) else {
            return Err(format!("the own bid {} is not in the book", application.bid_id));
        };
        let made = (application.rank_wanted, application.maximum, in_milliseconds(application.applied_at));
        if (bid.rank, bid.maximum, Some(bid.applied_at)) != made {
            return Err(format!("the own bid {} stands in the book with other terms than it was made with", application.bid_id));
        }
        let price = |won: u32| edition.ranks.get(usize::try_from(won).ok()?.checked_sub(1)?).map(|rank: &BookRank| rank.price);
        let awarded = application.award.as_ref().map(|award| (award.rank, Some(award.price)));
        if bid.won.map(|won| (won, price(won))) != awarded {
            return Err(format!("the own bid {} was awarded something else than the book says", application.bid_id));
        }
        compared += 1;
    }
    Ok(compared)
}

fn in_milliseconds(moment: time::OffsetDateTime) -> Option<TimestampMs> {
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok().map(TimestampMs)
}

#[cfg(test)]
mod tests {
    use protocol::rest::{Award, BookRank, OriginUsage, Rank, ReleaseState, Selection};
    use protocol::*;
    use time::macros::datetime;

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
        let (hash, outcome) = recomputed(&book, &book.editions[0], &bids).unwrap();
        book.editions[0].hash = hash;
        for (rank, price) in book.editions[0].ranks.iter_mut().zip(&outcome.prices) {
            rank.steps = price.steps.iter().map(step).collect();
        }
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
        assert!(spoiled(&|_, bids| bids[3].lost = Some(LostBecause::BelowReserve)).contains("because of Some(NoPlace)"));
        assert!(spoiled(&|_, bids| bids[0].lost = Some(LostBecause::NoPlace)).contains("because of None"));
        assert!(spoiled(&|book, _| book.editions[0].ranks[1].steps[0].amount.0 += 1).contains("add up"));
        assert!(spoiled(&|book, _| book.editions[0].ranks[2].steps[0].set_by = None).contains("add up"));
    }

    fn release() -> Release {
        let moment = datetime!(2026-11-21 12:00 UTC);
        let rank = |(weight, capacity)| Rank { weight, delay_s: 0, capacity, duty: None };
        Release {
            id: ReleaseId::from_bytes([1; 16]),
            publisher_id: UserId::from_bytes([2; 16]),
            content_id: ContentId::from_bytes([3; 16]),
            title: "Film".into(),
            state: ReleaseState::Closed,
            editions: vec![ReleaseEdition {
                swarm_id: SwarmId::from_bytes([4; 16]),
                edition_id: EditionId([1; 32]),
                label: "en".into(),
                length: Bytes(1),
                chunks: 1,
                applications: 4,
                places: vec![1, 1, 1],
            }],
            ranks: [(100, Some(1)), (60, None), (25, Some(1))].map(rank).to_vec(),
            waves: Vec::new(),
            primaries_max: 16,
            places_max: None,
            wave_interval_s: None,
            sealed: false,
            selection: Selection::Auction,
            reserve: eur(0),
            opens_at: moment,
            closes_at: moment,
            starts_at: moment,
            deadline_at: moment,
            relay_share: BasisPoints::ALL,
            fee: BasisPoints::ALL,
            limit_s: 1,
            origin: OriginUsage { budget: Bytes(1), sent: Bytes(0), reserved: Bytes(0) },
            book_hash: None,
        }
    }

    #[test]
    fn x05_a_book_that_was_cleared_under_other_terms_than_the_release_has_is_found() {
        let (book, _) = example();
        assert_eq!(compare_terms(&release(), &book), Ok(()));
        type Spoil = fn(&mut Release);
        let faults: [(Spoil, &str); 7] = [
            (|release| release.selection = Selection::FirstCome, "cleared by Auction"),
            (|release| release.reserve = eur(1), "a reserve of 0.00 EUR"),
            (|release| release.editions.clear(), "books of 1 editions"),
            (|release| release.editions[0].edition_id = EditionId([9; 32]), "books of 1 editions"),
            (|release| release.ranks[1].weight = 61, "weigh [100, 60, 25], not [100, 61, 25]"),
            (|release| release.editions[0].places = vec![1, 2, 1], "[1, 1, 1] places, not [1, 2, 1]"),
            (|release| release.ranks[0].capacity = Some(2), "1 places, and 2 were stated"),
        ];
        for (spoil, reason) in faults {
            let mut release = release();
            spoil(&mut release);
            let found = compare_terms(&release, &book).unwrap_err();
            assert!(found.contains(reason), "{found}");
        }
    }

    #[test]
    fn x05_an_own_bid_that_stands_in_the_book_otherwise_than_it_was_made_is_found() {
        let (book, bids) = example();
        let own = Application {
            id: ApplicationId::from_bytes([1; 16]),
            bid_id: bids[1].bid_id,
            release_id: book.release_id,
            terminal_id: TerminalId::from_bytes([1; 16]),
            edition_id: EditionId([1; 32]),
            rank_wanted: 1,
            maximum: eur(400),
            deposit: None,
            state: ApplicationState::Won,
            applied_at: time::OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(2_999),
            award: Some(Award {
                delivery_id: DeliveryId::from_bytes([1; 16]),
                rank: 2,
                price: eur(155),
                deposit: None,
                opens_at: datetime!(2026-11-21 12:00 UTC),
                primary_terminal_id: None,
            }),
            version: 1,
        };
        let compared = |own: &Application| compare_own(&book.editions[0], &bids, std::iter::once(own));
        assert_eq!(compared(&own), Ok(1));
        assert_eq!(compared(&Application { state: ApplicationState::Withdrawn, bid_id: BidId::from_bytes([9; 16]), ..own.clone() }), Ok(0));
        let spoiled = |change: &dyn Fn(&mut Application)| {
            let mut own = own.clone();
            change(&mut own);
            compared(&own).unwrap_err()
        };
        assert!(spoiled(&|own| own.bid_id = BidId::from_bytes([9; 16])).contains("not in the book"));
        assert!(spoiled(&|own| own.maximum = eur(401)).contains("other terms"));
        assert!(spoiled(&|own| own.rank_wanted = 2).contains("other terms"));
        assert!(spoiled(&|own| own.applied_at += time::Duration::seconds(1)).contains("other terms"));
        assert!(spoiled(&|own| own.award.as_mut().unwrap().price = eur(156)).contains("something else"));
        assert!(spoiled(&|own| own.award = None).contains("something else"));
    }
}
