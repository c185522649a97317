//! Scheduling, applying, changing, withdrawing, cancelling.

use protocol::rest::{Application, ApplicationState, ChangeApplication, NewApplication, NewRelease, Release, ReleaseState};
use protocol::{Bytes, EditionId, ErrorCode, TerminalId};
use time::Duration;

use super::fixture::{CLOSES, START, STARTS, World, after, code_of, eur, new_release, request};
use crate::store::PageRequest;
use crate::store::lifecycle::CancelledBy;

#[tokio::test]
async fn a_release_is_stored_as_it_was_ordered_with_its_work_noted() {
    let world = World::new().await;
    let (publisher, content_id, editions) = world.content(2).await;
    let release = world.schedule(publisher, &new_release(content_id, &[editions[1], editions[0]], &[(100, 2), (60, 3)], 40)).await;
    assert_eq!(release, world.store.release(release.id).await.unwrap());
    assert_eq!(release.editions.iter().map(|edition| edition.edition_id).collect::<Vec<_>>(), [editions[1], editions[0]]);
    assert_eq!((release.state, release.deadline_at), (ReleaseState::Draft, after(STARTS, 6)));
    assert_eq!(
        release.ranks.iter().map(|rank| (rank.weight, rank.delay_s, rank.capacity)).collect::<Vec<_>>(),
        [(100, 0, Some(2)), (60, 60, Some(3))]
    );
    assert_eq!((release.origin.budget, release.origin.sent, release.origin.reserved), (Bytes(2_020), Bytes(0), Bytes(0)));
    let work: Vec<(String, i32, time::OffsetDateTime)> =
        sqlx::query_as("SELECT kind, wave, due_at FROM due_work ORDER BY due_at").fetch_all(world.store.raw()).await.unwrap();
    let expected =
        [("open", 0, START), ("close", 0, CLOSES), ("wave", 0, STARTS), ("wave", 1, after(STARTS, 1)), ("deadline", 0, after(STARTS, 6))];
    assert_eq!(work, expected.map(|(kind, wave, due_at)| (kind.to_owned(), wave, due_at)));
}

#[tokio::test]
async fn a_release_that_cannot_be_is_not_scheduled() {
    let world = World::new().await;
    let (publisher, content_id, editions) = world.content(2).await;
    let (stranger, _, foreign) = world.content(1).await;
    let good = || new_release(content_id, &editions, &[(100, 2), (60, 3)], 40);
    let changed = |change: &dyn Fn(&mut NewRelease)| {
        let mut new = good();
        change(&mut new);
        new
    };
    let cases: Vec<(&str, ErrorCode, NewRelease)> = vec![
        ("too small a budget", ErrorCode::BudgetTooSmall, changed(&|new| new.origin_budget = Bytes(2_019))),
        ("an edition of another content", ErrorCode::UnknownEdition, changed(&|new| new.editions[1] = foreign[0])),
        ("an edition twice", ErrorCode::InvalidRequest, changed(&|new| new.editions[1] = new.editions[0])),
        ("no edition", ErrorCode::InvalidRequest, changed(&|new| new.editions.clear())),
        ("no rank", ErrorCode::InvalidRequest, changed(&|new| new.ranks.clear())),
        ("weights that rise", ErrorCode::InvalidRequest, changed(&|new| new.ranks[1].weight = 101)),
        ("no places", ErrorCode::InvalidRequest, changed(&|new| new.ranks[1].capacity = Some(0))),
        ("a first wave that waits", ErrorCode::InvalidRequest, changed(&|new| new.ranks[0].delay_s = 1)),
        ("two ranks in one wave", ErrorCode::InvalidRequest, changed(&|new| new.ranks[1].delay_s = 0)),
        ("a start before the closing", ErrorCode::InvalidRequest, changed(&|new| new.starts_at = CLOSES)),
        ("a closing before the opening", ErrorCode::InvalidRequest, changed(&|new| new.opens_at = CLOSES)),
        ("a closing in the past", ErrorCode::InvalidRequest, changed(&|new| (new.opens_at, new.closes_at) = (after(START, -2), START))),
        ("another currency", ErrorCode::InvalidRequest, changed(&|new| new.reserve.currency = "USD".parse().unwrap())),
        ("no time", ErrorCode::InvalidRequest, changed(&|new| new.limit_s = 0)),
    ];
    for (what, code, new) in cases {
        assert_eq!(code_of(world.store.create_release(&new, &request(publisher), START).await), code, "{what}");
    }
    assert_eq!(code_of(world.store.create_release(&good(), &request(stranger), START).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn an_application_is_refused_for_the_reason_that_holds() {
    let world = World::new().await;
    let (publisher, content_id, editions) = world.content(1).await;
    let release = world.schedule(publisher, &new_release(content_id, &editions, &[(3, 1), (2, 1)], 100)).await;
    let (user, terminal_id) = world.bidder(1_000).await;
    let (stranger, _) = world.bidder(1_000).await;
    let good = NewApplication { terminal_id, edition_id: editions[0], rank: 1, maximum: eur(100) };
    let apply = async |user, new: &NewApplication, now| code_of(world.store.apply(release.id, new, &request(user), now).await);
    assert_eq!(apply(user, &NewApplication { edition_id: EditionId([1; 32]), ..good.clone() }, START).await, ErrorCode::UnknownEdition);
    for rank in [0, 3, u32::MAX] {
        assert_eq!(apply(user, &NewApplication { rank, ..good.clone() }, START).await, ErrorCode::UnknownRank);
    }
    assert_eq!(apply(user, &NewApplication { maximum: eur(99), ..good.clone() }, START).await, ErrorCode::BelowReserve);
    // The reserve of rank 2 is 100 · 2/3 = 66⅔: 66 is below it and 67 is not.
    assert_eq!(apply(user, &NewApplication { rank: 2, maximum: eur(66), ..good.clone() }, START).await, ErrorCode::BelowReserve);
    assert_eq!(apply(user, &NewApplication { maximum: eur(1_001), ..good.clone() }, START).await, ErrorCode::InsufficientFunds);
    assert_eq!(apply(stranger, &good, START).await, ErrorCode::InvalidRequest, "somebody else's terminal");
    assert_eq!(
        apply(user, &NewApplication { terminal_id: TerminalId::from_bytes([7; 16]), ..good.clone() }, START).await,
        ErrorCode::InvalidRequest
    );
    assert_eq!(apply(user, &good, START - Duration::microseconds(1)).await, ErrorCode::ReleaseNotOpen);
    assert_eq!(apply(user, &good, CLOSES).await, ErrorCode::ReleaseClosed, "although nobody has run the closing");
    assert_eq!(world.purse(user).await, (1_000, 0), "a refusal holds nothing");
    let second = NewApplication { rank: 2, maximum: eur(67), ..good.clone() };
    world.store.apply(release.id, &second, &request(user), CLOSES - Duration::microseconds(1)).await.unwrap();
    assert_eq!(apply(user, &good, START).await, ErrorCode::AlreadyApplied);
    assert_eq!(world.purse(user).await, (933, 67), "the second application's hold is gone with it");
}

#[tokio::test]
async fn a_change_holds_the_new_maximum_instead_of_the_old() {
    let world = World::new().await;
    let release = world.release(&[(100, 1), (50, 1)], 10).await;
    let (user, terminal_id) = world.bidder(100).await;
    let application = world.apply(&release, (user, terminal_id), 1, 80).await.unwrap();
    assert_eq!(world.purse(user).await, (20, 80));
    let change = |rank, maximum| ChangeApplication { edition_id: application.edition_id, rank, maximum: eur(maximum) };
    let later = after(START, 1);
    let store = &world.store;
    // 100 is more than is available beside the old hold, but not more than is there.
    let changed: Application =
        store.change_application(application.id, 1, &change(1, 100), &request(user), later).await.unwrap().read().unwrap();
    assert_eq!((changed.version, changed.maximum, changed.applied_at), (2, eur(100), later));
    assert_eq!(world.purse(user).await, (0, 100));
    for (version, change, code) in [
        (1, change(1, 50), ErrorCode::PreconditionFailed),
        (2, change(1, 101), ErrorCode::InsufficientFunds),
        (2, change(3, 50), ErrorCode::UnknownRank),
        (2, change(2, 4), ErrorCode::BelowReserve),
    ] {
        assert_eq!(code_of(store.change_application(application.id, version, &change, &request(user), later).await), code);
    }
    let stranger = world.user().await;
    let foreign = store.change_application(application.id, 2, &change(1, 50), &request(stranger), later).await;
    assert_eq!(code_of(foreign), ErrorCode::NotFound);
    store.change_application(application.id, 2, &change(2, 5), &request(user), later).await.unwrap();
    assert_eq!(world.purse(user).await, (95, 5));
    let late = store.change_application(application.id, 3, &change(2, 6), &request(user), CLOSES).await;
    assert_eq!(code_of(late), ErrorCode::ReleaseClosed);
    store.assert_books_balance().await;
}

#[tokio::test]
async fn a_withdrawn_application_holds_nothing_and_may_be_made_anew() {
    let world = World::new().await;
    let release = world.release(&[(100, 1)], 0).await;
    let (user, terminal_id) = world.bidder(100).await;
    let application = world.apply(&release, (user, terminal_id), 1, 80).await.unwrap();
    let stranger = world.user().await;
    assert_eq!(code_of(world.store.withdraw_application(application.id, &request(stranger), START).await), ErrorCode::NotFound);
    assert_eq!(code_of(world.store.withdraw_application(application.id, &request(user), CLOSES).await), ErrorCode::ReleaseClosed);
    let gone: Application = world.store.withdraw_application(application.id, &request(user), START).await.unwrap().read().unwrap();
    assert_eq!((gone.state, gone.version), (ApplicationState::Withdrawn, 2));
    assert_eq!(world.purse(user).await, (100, 0));
    assert_eq!(code_of(world.store.withdraw_application(application.id, &request(user), START).await), ErrorCode::Conflict);
    let anew = world.apply(&release, (user, terminal_id), 1, 90).await.unwrap();
    assert_eq!(world.purse(user).await, (10, 90));
    let all = world.store.applications(release.id, user, &PageRequest::default()).await.unwrap().items;
    assert_eq!(all.iter().map(|application| application.id).collect::<Vec<_>>(), [application.id, anew.id]);
    assert_eq!(world.store.release(release.id).await.unwrap().editions[0].applications, 1);
}

#[tokio::test]
async fn a_bid_of_nothing_holds_nothing() {
    let world = World::new().await;
    let release = world.release(&[(100, 1)], 0).await;
    let (user, terminal_id) = world.bidder(0).await;
    let application = world.apply(&release, (user, terminal_id), 1, 0).await.unwrap();
    assert_eq!(world.purse(user).await, (0, 0));
    let change = ChangeApplication { edition_id: application.edition_id, rank: 1, maximum: eur(1) };
    let refused = world.store.change_application(application.id, 1, &change, &request(user), START).await;
    assert_eq!(code_of(refused), ErrorCode::InsufficientFunds);
    world.store.withdraw_application(application.id, &request(user), START).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_applications_at_once_a_wallet_pays_for_the_ten_that_it_can() {
    let world = World::new().await;
    let release = world.release(&[(100, 50)], 0).await;
    let user = world.user().await;
    world.fund(user, 1_099).await;
    let mut tasks = Vec::new();
    for _ in 0..50 {
        let new = NewApplication {
            terminal_id: world.terminal(user).await,
            edition_id: release.editions[0].edition_id,
            rank: 1,
            maximum: eur(100),
        };
        let (store, id) = (world.store.clone(), release.id);
        tasks.push(tokio::spawn(async move { store.apply(id, &new, &request(user), START).await }));
    }
    let mut held = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => held += 1,
            Err(error) => assert_eq!(error.code(), ErrorCode::InsufficientFunds),
        }
    }
    assert_eq!(held, 10);
    assert_eq!(world.purse(user).await, (99, 1_000));
    assert_eq!(world.store.release(release.id).await.unwrap().editions[0].applications, 10);
    world.store.assert_books_balance().await;
}

#[tokio::test]
async fn a_cancelled_release_gives_every_hold_back() {
    let world = World::new().await;
    let release = world.release(&[(100, 1)], 0).await;
    let (winner, loser) = (world.bidder(100).await, world.bidder(100).await);
    let won = world.apply(&release, winner, 1, 90).await.unwrap();
    world.apply(&release, loser, 1, 80).await.unwrap();
    world.store.close_release(release.id, CLOSES).await.unwrap();
    assert_eq!((world.purse(winner.0).await, world.purse(loser.0).await), ((20, 80), (100, 0)));
    let now = after(CLOSES, 1);
    let stranger = world.user_with("publisher").await;
    let refused = world.store.cancel_release(release.id, CancelledBy::Publisher(stranger), &request(stranger), now).await;
    assert_eq!(code_of(refused), ErrorCode::NotFound);
    let by = CancelledBy::Publisher(release.publisher_id);
    let late = world.store.cancel_release(release.id, by, &request(release.publisher_id), STARTS).await;
    assert_eq!(code_of(late), ErrorCode::ReleaseClosed);
    let ended: Release = world.store.cancel_release(release.id, by, &request(release.publisher_id), now).await.unwrap().read().unwrap();
    assert_eq!(ended.state, ReleaseState::Cancelled);
    assert_eq!((world.purse(winner.0).await, world.purse(loser.0).await), ((100, 0), (100, 0)));
    let application = world.store.application(won.id, winner.0).await.unwrap();
    assert_eq!((application.state, application.award), (ApplicationState::Cancelled, None));
    let due: i64 = sqlx::query_scalar("SELECT count(*) FROM due_work WHERE done_at IS NULL").fetch_one(world.store.raw()).await.unwrap();
    assert_eq!(due, 0);
    assert!(!world.store.open_release(release.id, now).await.unwrap() && !world.store.start_release(release.id, STARTS).await.unwrap());
    let again = world.store.cancel_release(release.id, CancelledBy::Operator, &request(stranger), now).await;
    assert_eq!(code_of(again), ErrorCode::ReleaseClosed);
    world.store.assert_books_balance().await;
}

#[tokio::test]
async fn releases_are_listed_page_by_page_and_open_at_their_time() {
    let world = World::new().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(world.release(&[(100, 1)], 0).await.id);
    }
    let first = world.store.releases(&PageRequest { limit: 2, cursor: None }).await.unwrap();
    let rest = world.store.releases(&PageRequest { limit: 2, cursor: first.next_cursor.clone() }).await.unwrap();
    let listed: Vec<_> = first.items.iter().chain(&rest.items).map(|release| release.id).collect();
    assert_eq!((listed, rest.next_cursor), (made.clone(), None));
    assert!(!world.store.open_release(made[0], START - Duration::seconds(1)).await.unwrap());
    assert!(world.store.open_release(made[0], START).await.unwrap());
    assert!(!world.store.open_release(made[0], START).await.unwrap(), "once");
    assert_eq!(world.state_of(made[0]).await, ReleaseState::Open);
}
