//! The scale at closing: from how many applied to places, waves and ties.

use std::collections::BTreeMap;

use protocol::rest::{Application, ApplicationState, NewRelease, Rank, Release, Wave};
use protocol::{TerminalId, UserId};
use time::{Duration, OffsetDateTime};

use super::fixture::{CLOSES, START, STARTS, World, after, new_release, request};
use crate::store::PageRequest;
use crate::store::clearing::Closing;
use crate::store::contents::Viewer;

/// Ranks without stated places, a minute apart.
fn unstated(weights: &[u32]) -> Vec<Rank> {
    (0u32..).zip(weights).map(|(index, &weight)| Rank { weight, delay_s: index * 60, capacity: None, duty: None }).collect()
}

/// So many bidders for one edition, the first one with the best offer; all want rank 1.
async fn apply_all(world: &World, release: &Release, edition: usize, bidders: u64) -> Vec<(UserId, Application)> {
    let mut of_edition = release.clone();
    of_edition.editions.rotate_left(edition);
    let mut applied = Vec::new();
    for number in 0..bidders {
        let bidder = world.bidder(1_000).await;
        applied.push((bidder.0, world.apply(&of_edition, bidder, 1, 900 - number).await.unwrap()));
    }
    applied
}

async fn closed(world: &World, release: &Release) -> Release {
    assert!(matches!(world.store.close_release(release.id, CLOSES).await.unwrap(), Closing::Cleared(_)));
    world.store.release(release.id).await.unwrap()
}

async fn due(world: &World, kind: &str) -> Vec<(i32, OffsetDateTime)> {
    let statement = "SELECT wave, due_at FROM due_work WHERE kind = $1 ORDER BY wave";
    sqlx::query_as(statement).bind(kind).fetch_all(world.store.raw()).await.unwrap()
}

#[tokio::test]
async fn a15_a16_the_count_of_applications_decides_the_places_and_the_waves() {
    let world = World::new().await;
    let (publisher, content_id, editions) = world.content(2).await;
    let new = NewRelease { ranks: unstated(&[100, 60]), primaries_max: Some(4), ..new_release(content_id, &editions, &[], 0) };
    let release = world.schedule(publisher, &new).await;
    assert_eq!(release.waves, [Wave { rank: 1, opens_at: STARTS }, Wave { rank: 2, opens_at: after(STARTS, 1) }]);
    assert!(release.editions.iter().all(|edition| edition.places.is_empty()), "nothing is decided yet");
    let many = apply_all(&world, &release, 0, 20).await;
    let few = apply_all(&world, &release, 1, 1).await;
    let withdrawn = apply_all(&world, &release, 1, 1).await;
    let (user, gone) = &withdrawn[0];
    world.store.withdraw_application(gone.id, &request(*user), START).await.unwrap();
    // 100 bit/s: nobody brings 8,000 bits to anybody within a minute, so each wave is as wide as all before it.
    sqlx::query("UPDATE terminals SET up_bps = 100").execute(world.store.raw()).await.unwrap();

    let release = closed(&world, &release).await;
    assert_eq!(release.editions[0].places, [4, 20], "the last rank has room for everybody, whatever rank they want");
    assert_eq!(release.editions[1].places, [1, 1]);
    let waves: Vec<(u32, OffsetDateTime)> = release.waves.iter().map(|wave| (wave.rank, wave.opens_at)).collect();
    assert_eq!(waves, [(1, STARTS), (2, after(STARTS, 1)), (2, after(STARTS, 2)), (2, after(STARTS, 3))]);
    assert_eq!(release.deadline_at, after(STARTS, 8), "five minutes after the last wave");
    assert_eq!(due(&world, "wave").await, [(0, STARTS), (1, after(STARTS, 1)), (2, after(STARTS, 2)), (3, after(STARTS, 3))]);
    assert_eq!(due(&world, "deadline").await, [(0, release.deadline_at)]);

    // 4 primaries, then 4, 8 and the 4 that are left, in the order of their offers.
    let opens = [(4, 0), (4, 1), (8, 2), (4, 3)].into_iter().flat_map(|(places, wave)| std::iter::repeat_n(after(STARTS, wave), places));
    for ((user, application), opens_at) in many.iter().zip(opens) {
        let application = world.store.application(application.id, *user).await.unwrap();
        assert_eq!(application.award.map(|award| award.opens_at), Some(opens_at));
    }
    let alone = world.store.application(few[0].1.id, few[0].0).await.unwrap();
    assert_eq!(alone.award.map(|award| (award.rank, award.opens_at)), Some((1, STARTS)), "one applicant is a primary");
    world.store.assert_books_balance().await;
}

#[tokio::test]
async fn a17_later_terminals_are_tied_to_a_primary_of_their_edition() {
    let world = World::new().await;
    let (publisher, content_id, editions) = world.content(2).await;
    let new = NewRelease { ranks: unstated(&[100, 60]), primaries_max: Some(2), ..new_release(content_id, &editions, &[], 0) };
    let release = world.schedule(publisher, &new).await;
    let applied = apply_all(&world, &release, 0, 8).await;
    apply_all(&world, &release, 1, 3).await;
    // The first primary has twice the uplink of the second one.
    for (application, up_bps) in [(0, 20_000_000i64), (1, 10_000_000)] {
        let terminal = applied[application].1.terminal_id;
        sqlx::query("UPDATE terminals SET up_bps = $2 WHERE id = $1")
            .bind(terminal.0)
            .bind(up_bps)
            .execute(world.store.raw())
            .await
            .unwrap();
    }
    let release = closed(&world, &release).await;
    let all = PageRequest::default();
    let deliveries = world.store.deliveries(release.id, Viewer::Operator, &all).await.unwrap().items;
    assert_eq!(deliveries.len(), 11);
    let mut tied: BTreeMap<TerminalId, usize> = BTreeMap::new();
    for delivery in &deliveries {
        let Some(primary) = delivery.primary_terminal_id else {
            assert_eq!((delivery.wave, delivery.rank), (0, 1), "only primaries are tied to nobody");
            continue;
        };
        let primary = deliveries.iter().find(|other| other.terminal_id == primary).unwrap();
        assert_eq!((primary.wave, primary.edition_id), (0, delivery.edition_id));
        *tied.entry(primary.terminal_id).or_default() += 1;
    }
    assert_eq!((tied[&applied[0].1.terminal_id], tied[&applied[1].1.terminal_id]), (4, 2));
}

#[tokio::test]
async fn a15_a_stated_total_leaves_out_the_lowest_offers() {
    let world = World::new().await;
    let (publisher, content_id, editions) = world.content(1).await;
    let new = NewRelease {
        ranks: unstated(&[100]),
        places_max: Some(3),
        primaries_max: Some(1),
        wave_interval_s: Some(7),
        ..new_release(content_id, &editions, &[], 0)
    };
    let release = world.schedule(publisher, &new).await;
    let applied = apply_all(&world, &release, 0, 5).await;
    sqlx::query("UPDATE terminals SET up_bps = 100").execute(world.store.raw()).await.unwrap();
    let release = closed(&world, &release).await;
    assert_eq!(release.editions[0].places, [3]);
    assert_eq!(release.waves.iter().map(|wave| wave.opens_at - STARTS).collect::<Vec<_>>(), [0, 7, 14].map(Duration::seconds));
    for (index, (user, application)) in applied.iter().enumerate() {
        let state = world.store.application(application.id, *user).await.unwrap().state;
        assert_eq!(state, if index < 3 { ApplicationState::Won } else { ApplicationState::Lost });
    }
}

#[tokio::test]
async fn a15_an_edition_that_nobody_wants_has_no_places_and_the_release_closes() {
    let world = World::new().await;
    let (publisher, content_id, editions) = world.content(2).await;
    let new = NewRelease { ranks: unstated(&[100, 60]), ..new_release(content_id, &editions, &[], 0) };
    let release = world.schedule(publisher, &new).await;
    apply_all(&world, &release, 1, 2).await;
    let release = closed(&world, &release).await;
    assert_eq!(release.editions.iter().map(|edition| edition.places.clone()).collect::<Vec<_>>(), [vec![0, 0], vec![2, 2]]);
    assert_eq!(release.waves.len(), 2);
}
