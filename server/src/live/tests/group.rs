//! The promises of the lease table, one by one. That the scripts keep what the model promises is in `histories`.

mod histories;
mod pair;

use std::collections::BTreeMap;

use protocol::ws::{ChunkNotice, GrantKind};
use protocol::{Bytes, GroupId, SwarmId, TimestampMs};

use self::histories::Step;
use self::pair::{Pair, UNSIGNED_MAX, ready};
use super::*;

#[tokio::test]
async fn a_chunk_that_came_back_is_given_before_a_new_one_and_to_the_member_that_finishes_first() {
    let fixture = Fixture::new().await;
    let mut pair = Pair::new(&fixture, vec![1000; 10], [100, 10, 40, 1], true, (0, 0)).await;
    pair.model.now += 1000;
    pair.step(&Step::Credits { member: 0, open: 2 }).await;
    pair.step(&Step::Leave { member: 0, bench_ms: 0 }).await;
    let answer = ready(fixture.live.credits(pair.from(2), 1, pair.now()).await);
    assert_eq!(answer.granted, [Grant { terminal: terminal(2), chunk: 0, kind: GrantKind::FirstCopy }]);
    // Chunk 1 is left over from member 0. Members 1 (10 ns) and 2 (40 ns) both have room, 2 already owes 1000 bytes.
    let answer = ready(fixture.live.credits(pair.from(1), 3, pair.now()).await);
    let chunks: Vec<u32> = answer.granted.iter().map(|grant| grant.chunk).collect();
    assert_eq!(chunks, [1, 2, 3]);
    assert!(answer.granted.iter().all(|grant| grant.terminal == terminal(1)));
    fixture.lose_everything().await;
}

#[tokio::test]
async fn nothing_is_given_before_the_wave_opens_and_what_was_asked_for_is_given_at_that_moment() {
    let fixture = Fixture::new().await;
    let pair = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    assert!(ready(fixture.live.credits(pair.from(0), 2, at(499)).await).granted.is_empty());
    let given = ready(fixture.live.allocate(pair.group, pair.limits(), at(500)).await).granted;
    assert_eq!(given.iter().map(|grant| grant.chunk).collect::<Vec<_>>(), [0, 1]);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_stranger_is_given_nothing_and_changes_nothing() {
    let fixture = Fixture::new().await;
    let pair = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    assert_eq!(fixture.live.credits(pair.from(99), 4, at(1000)).await.unwrap(), Table::Stranger);
    assert_eq!(fixture.live.notices(pair.from(99), &[], at(1000)).await.unwrap(), Table::Stranger);
    assert_eq!(ready(fixture.live.credits(pair.from(0), 4, at(1000)).await).granted.len(), 4);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn the_origin_counts_the_first_sending_of_a_chunk_as_a_first_copy_and_every_other_as_a_repair() {
    let fixture = Fixture::new().await;
    let pair = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    let (live, now) = (&fixture.live, at(1000));
    ready(live.credits(pair.from(0), 1, now).await);
    assert_eq!(live.fetch(pair.from(1), 0, now).await.unwrap(), Table::Ready(FetchRight::None));
    let Table::Ready(FetchRight::Granted { budget: Budget::First, marks }) = live.fetch(pair.from(0), 0, now).await.unwrap() else {
        panic!("the first sending is no first copy")
    };
    // Refused by the budget: the next try is the first one again.
    live.unfetch(pair.from(0), 0, &marks, now).await.unwrap();
    let first = live.fetch(pair.from(0), 0, now).await.unwrap();
    assert!(matches!(first, Table::Ready(FetchRight::Granted { budget: Budget::First, .. })));
    let again = live.fetch(pair.from(0), 0, now).await.unwrap();
    assert!(matches!(again, Table::Ready(FetchRight::Granted { budget: Budget::Repair, .. })));
    // The grant's fetch and two more, however long it takes; keeping the lease and what was not sent count for nothing.
    live.renew_lease(pair.from(0), 0, now).await.unwrap();
    for _ in 0..2 {
        let Table::Ready(FetchRight::Granted { marks, .. }) = live.fetch(pair.from(0), 0, now).await.unwrap() else {
            panic!("a third fetch is refused")
        };
        live.unfetch(pair.from(0), 0, &marks, now).await.unwrap();
    }
    let third = live.fetch(pair.from(0), 0, now).await.unwrap();
    assert!(matches!(third, Table::Ready(FetchRight::Granted { budget: Budget::Repair, .. })));
    assert_eq!(live.fetch(pair.from(0), 0, now).await.unwrap(), Table::Ready(FetchRight::None));
    // Received: the lease is over.
    let notice = ChunkNotice { chunk: 0, received_at: TimestampMs(0), copies_done_at: None };
    ready(live.notices(pair.from(0), &[notice], now).await);
    assert_eq!(live.fetch(pair.from(0), 0, now).await.unwrap(), Table::Ready(FetchRight::None));
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_grant_is_pushed_in_the_step_that_makes_it() {
    let fixture = Fixture::new().await;
    let pair = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    fixture.set_present(terminal(0), false).await;
    let attached = fixture.live.attach(terminal(0), "t", at(1000)).await.unwrap();
    ready(fixture.live.credits(pair.from(0), 2, at(1000)).await);
    let Pushes::Next(pushes) = fixture.live.pushes(terminal(0), "t", attached.end, at(1000)).await.unwrap() else { panic!("no pushes") };
    let expires_at = crate::clock::to_timestamp_ms(at(16_000));
    let grant = protocol::ws::PushMessage::Grant {
        swarm_id: SwarmId::from_bytes([8; 16]),
        kind: GrantKind::FirstCopy,
        chunks: vec![0, 1],
        expires_at,
    };
    assert_eq!(pushes.into_iter().map(|(_, message)| message).collect::<Vec<_>>(), [grant]);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn who_fetches_and_does_not_sign_is_given_and_sent_nothing_more_until_it_signs() {
    let fixture = Fixture::new().await;
    let pair = Pair::new(&fixture, vec![1000; 20], [10; 4], true, (0, 0)).await;
    let (live, now) = (&fixture.live, at(1000));
    let given = ready(live.credits(pair.from(0), 10, now).await);
    assert_eq!((given.granted.len(), given.outcome), (10, vec![]));
    for chunk in 0..UNSIGNED_MAX {
        assert!(matches!(live.fetch(pair.from(0), chunk, now).await.unwrap(), Table::Ready(FetchRight::Granted { .. })), "chunk {chunk}");
    }
    let owed: Vec<u32> = (0..UNSIGNED_MAX).collect();
    assert_eq!(live.fetch(pair.from(0), 7, now).await.unwrap(), Table::Ready(FetchRight::Unsigned(owed.clone())));
    assert!(matches!(live.fetch(pair.from(0), 5, now).await.unwrap(), Table::Ready(FetchRight::Granted { .. })), "the same one again");
    let asked = ready(live.credits(pair.from(0), 4, now).await);
    assert_eq!((asked.granted, asked.outcome), (vec![], owed));
    assert_eq!(ready(live.credits(pair.from(1), 4, now).await).granted.len(), 4, "the others go on");
    live.signed(pair.from(0), [3], false, now).await.unwrap();
    let Table::Ready(FetchRight::Granted { marks, .. }) = live.fetch(pair.from(0), 7, now).await.unwrap() else { panic!("it has signed") };
    // What was not sent need not be signed for.
    live.unfetch(pair.from(0), 7, &marks, now).await.unwrap();
    assert_eq!(ready(live.credits(pair.from(0), 2, now).await).granted.len(), 2);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_group_that_the_origin_does_not_feed_waits_for_the_one_that_it_does_and_is_then_charged_as_the_first() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    let root = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    let below = GroupId::from_bytes([9; 16]);
    let members = (0..2).map(|member| (terminal(10 + member), 10)).collect();
    let spec = GroupSpec {
        group: below,
        swarm: SwarmId::from_bytes([8; 16]),
        root: false,
        opens_at: at(500),
        keep_until: OffsetDateTime::now_utc() + Duration::from_secs(600),
        chunk_lengths: vec![1000; 4],
        members,
    };
    live.create_group(&spec, at(0)).await.unwrap();
    fixture.set_present(terminal(10), true).await;
    let from = Sender { group: below, terminal: terminal(10), limits: root.limits() };
    let affordable = Affordable { again: Bytes(1_000), first: Bytes(4_000), doubled: Bytes(1_000) };
    let missing = async |ms, feeders_connected, chunk| {
        let chunks = BTreeMap::from([(chunk, false)]);
        let answer = ready(live.missing(from, affordable, Wanted { chunks: &chunks, feeders_connected }, at(ms)).await);
        assert_eq!(answer.granted.len() + answer.outcome.elsewhere.len(), 1, "{answer:?}");
        !answer.granted.is_empty()
    };
    ready(live.credits(root.from(0), 2, at(1_000)).await);
    // For as long as the root fetches, and from each fetch as long as a lease lasts.
    assert!(!missing(6_000, true, 3).await);
    assert!(!missing(12_000, true, 3).await, "asking for long does not help");
    assert!(matches!(live.fetch(root.from(0), 0, at(13_000)).await.unwrap(), Table::Ready(FetchRight::Granted { .. })));
    assert!(!missing(27_999, true, 3).await);
    assert!(missing(28_000, true, 3).await);
    // Nobody is there who could fetch it.
    assert!(missing(13_500, false, 2).await);
    // What the root was sent and lost is a repair, as ever.
    assert!(missing(13_500, true, 0).await);
    let budget = async |from, chunk| {
        let Table::Ready(FetchRight::Granted { budget, .. }) = live.fetch(from, chunk, at(28_100)).await.unwrap() else {
            panic!("no lease")
        };
        budget
    };
    assert_eq!(budget(from, 3).await, Budget::First);
    assert_eq!(budget(from, 0).await, Budget::Repair);
    // The root group's own copy of it is not the first of the swarm any more.
    fixture.set_present(terminal(0), true).await;
    let given = ready(live.credits(root.from(0), 4, at(28_100)).await).granted;
    assert!(given.iter().any(|grant| grant.chunk == 3), "{given:?}");
    assert_eq!(budget(root.from(0), 3).await, Budget::Repair);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn what_a_live_terminal_has_is_sent_again_only_out_of_its_part_of_the_budget() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    let pair = Pair::new(&fixture, vec![1000; 4], [10; 4], true, (0, 0)).await;
    ready(live.credits(pair.from(0), 2, at(1_000)).await);
    for chunk in [0, 1] {
        live.fetch(pair.from(0), chunk, at(1_000)).await.unwrap();
        let notice = ChunkNotice { chunk, received_at: TimestampMs(2_000), copies_done_at: None };
        ready(live.notices(pair.from(0), &[notice], at(2_000)).await);
    }
    let missing = async |ms, doubled| {
        let chunks = BTreeMap::from([(0, true), (1, true)]);
        let affordable = Affordable { again: Bytes(4_000), first: Bytes(8_000), doubled: Bytes(doubled) };
        let answer = ready(live.missing(pair.from(1), affordable, Wanted { chunks: &chunks, feeders_connected: true }, at(ms)).await);
        let granted: Vec<u32> = answer.granted.iter().map(|grant| grant.chunk).collect();
        (granted, answer.outcome)
    };
    let elsewhere = |chunks: &[u32]| Missing { elsewhere: chunks.to_vec(), unaffordable: vec![] };
    assert_eq!(missing(3_000, 4_000).await, (vec![], elsewhere(&[0, 1])), "the other one has them");
    let spent = |chunks: &[u32]| Missing { elsewhere: vec![], unaffordable: chunks.to_vec() };
    assert_eq!(missing(9_000, 999).await, (vec![], spent(&[0, 1])), "they are to come from there for good");
    assert_eq!(missing(9_500, 1_999).await, (vec![0], spent(&[1])));
    // What was given of that part and not fetched is there again.
    ready(live.leave(pair.from(1), Duration::ZERO, at(9_550)).await);
    assert_eq!(missing(9_560, 1_999).await, (vec![1], elsewhere(&[0])));
    // What somebody says that it holds and was never sent is a first copy, which that part is not there for.
    let lie = ChunkNotice { chunk: 3, received_at: TimestampMs(14_800), copies_done_at: None };
    ready(live.notices(pair.from(0), &[lie], at(14_800)).await);
    let affordable = Affordable { again: Bytes(0), first: Bytes(4_000), doubled: Bytes(0) };
    let chunks = BTreeMap::from([(3, false)]);
    let wanted = Wanted { chunks: &chunks, feeders_connected: true };
    assert_eq!(ready(live.missing(pair.from(1), affordable, wanted, at(14_900)).await).outcome, elsewhere(&[3]));
    assert_eq!(ready(live.missing(pair.from(1), affordable, wanted, at(20_000)).await).granted.len(), 1);
    fixture.lose_everything().await;
}
