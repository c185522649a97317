//! A lost table is built again from what the members tell.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use protocol::bitmap::{ChunkSet, SEGMENT_BYTES};
use protocol::ws::{GrantKind, PushMessage};
use protocol::{Bytes, GroupId, SwarmId};

use super::*;

const SWARM: SwarmId = SwarmId::from_bytes([8; 16]);

fn spec(chunks: usize, root: bool) -> GroupSpec {
    GroupSpec {
        group: GroupId::from_bytes([7; 16]),
        swarm: SWARM,
        root,
        opens_at: at(0),
        keep_until: OffsetDateTime::now_utc() + Duration::from_secs(600),
        chunk_lengths: vec![1000; chunks],
        members: (0..3).map(|member| (terminal(member), 10)).collect(),
    }
}

fn from(member: u8) -> Sender {
    Sender {
        group: GroupId::from_bytes([7; 16]),
        terminal: terminal(member),
        limits: Limits { in_flight_max: Bytes(0), unsigned_max: 100, direct: Bytes(0) },
    }
}

fn bitmap(chunks: &[u32]) -> [u8; SEGMENT_BYTES] {
    chunks.iter().copied().collect::<ChunkSet>().segment(0)
}

/// The chunks given by a call on a ready table.
fn given<T>(table: Result<Table<GroupAnswer<T>>, LiveError>) -> Vec<(protocol::TerminalId, u32)> {
    match table.unwrap() {
        Table::Ready(answer) => answer.granted.into_iter().map(|grant| (grant.terminal, grant.chunk)).collect(),
        Table::Rebuilding | Table::Lost | Table::Stranger => panic!("the table is not ready"),
    }
}

async fn tell(live: &Live, member: u8, chunks: &[u32], leases: &[u32], ms: u64) -> Table<GroupAnswer<()>> {
    live.holdings(from(member), &Holdings { segment: 0, bitmap: &bitmap(chunks), last: true, leases }, at(ms)).await.unwrap()
}

#[tokio::test]
async fn a_rebuilt_table_gives_holes_first_and_nothing_that_a_member_holds_or_leases() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    assert_eq!(live.credits(from(0), 3, at(0)).await.unwrap(), Table::Lost);
    live.rebuild_group(&spec(12, true), &[], at(0)).await.unwrap();
    assert_eq!(live.credits(from(0), 3, at(1)).await.unwrap(), Table::Rebuilding);
    assert_eq!(tell(live, 0, &[0, 1, 6], &[2], 10).await, Table::Rebuilding);
    assert_eq!(tell(live, 1, &[0, 3], &[8], 11).await, Table::Rebuilding);
    assert!(matches!(tell(live, 2, &[], &[], 12).await, Table::Ready(_)), "everybody has answered");
    for member in 0..3 {
        fixture.set_present(terminal(member), true).await;
    }
    let chunks = given(live.credits(from(2), 20, at(20)).await).into_iter().map(|(_, chunk)| chunk).collect::<Vec<_>>();
    assert_eq!(chunks, [4, 5, 7, 9, 10, 11]);
    // The leases told are leases again.
    assert!(matches!(live.fetch(from(0), 2, at(21)).await.unwrap(), Table::Ready(FetchRight::Granted { budget: Budget::First, .. })));
    assert_eq!(live.fetch(from(0), 8, at(21)).await.unwrap(), Table::Ready(FetchRight::None));
    fixture.lose_everything().await;
}

#[tokio::test]
async fn members_that_are_away_are_waited_for_a_second_and_connected_ones_longer() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    live.rebuild_group(&spec(4, true), &[], at(0)).await.unwrap();
    for member in 0..2 {
        fixture.set_present(terminal(member), true).await;
    }
    tell(live, 0, &[0], &[], 10).await;
    assert_eq!(live.credits(from(0), 1, at(999)).await.unwrap(), Table::Rebuilding);
    assert_eq!(live.credits(from(0), 1, at(1_500)).await.unwrap(), Table::Rebuilding, "member 1 is connected and has not answered");
    tell(live, 1, &[1], &[], 1_600).await;
    assert_eq!(given(live.credits(from(0), 1, at(1_601)).await), [(terminal(0), 2)], "member 2 is away");
    // It comes back with a chunk that was not given yet, and with one that was.
    fixture.set_present(terminal(2), true).await;
    assert_eq!(given(Ok(tell(live, 2, &[2, 3], &[], 1_700).await)), []);
    assert_eq!(given(live.credits(from(0), 5, at(1_701)).await), []);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_table_that_is_there_gives_nobody_the_chunks_that_it_names() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    live.create_group(&spec(4, true), at(0)).await.unwrap();
    for member in 0..3 {
        fixture.set_present(terminal(member), true).await;
    }
    assert_eq!(given(live.credits(from(1), 1, at(1)).await), [(terminal(1), 0)]);
    assert_eq!(given(Ok(tell(live, 0, &[], &[0, 1, 2, 3], 2).await)), []);
    assert_eq!(given(Ok(tell(live, 1, &[], &[0], 2).await)), []);
    for chunk in 0..4 {
        assert_eq!(live.fetch(from(0), chunk, at(3)).await.unwrap(), Table::Ready(FetchRight::None), "chunk {chunk}");
    }
    assert!(matches!(live.fetch(from(1), 0, at(3)).await.unwrap(), Table::Ready(FetchRight::Granted { .. })), "its own lease stands");
    assert_eq!(given(live.credits(from(2), 4, at(4)).await), [1, 2, 3].map(|chunk| (terminal(2), chunk)));
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_group_that_the_origin_does_not_feed_has_no_leases_after_a_loss() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    live.rebuild_group(&spec(4, false), &[], at(0)).await.unwrap();
    for member in 0..3 {
        tell(live, member, &[], &[u32::from(member)], 1).await;
    }
    for member in 0..3 {
        assert_eq!(live.fetch(from(member), u32::from(member), at(2)).await.unwrap(), Table::Ready(FetchRight::None));
    }
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_member_that_never_answers_does_not_stop_the_group_for_ever() {
    let fixture = Fixture::new().await;
    fixture.live.rebuild_group(&spec(2, true), &[], at(0)).await.unwrap();
    fixture.set_present(terminal(1), true).await;
    assert_eq!(fixture.live.credits(from(0), 1, at(4_999)).await.unwrap(), Table::Rebuilding);
    assert_eq!(given(fixture.live.credits(from(0), 1, at(5_000)).await), [(terminal(0), 0)]);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn beginning_to_rebuild_asks_every_member_and_a_second_beginning_asks_nobody() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    let attached = live.attach(terminal(1), "t", at(0)).await.unwrap();
    live.rebuild_group(&spec(4, true), &[], at(0)).await.unwrap();
    live.rebuild_group(&spec(4, true), &[], at(1)).await.unwrap();
    let Pushes::Next(pushes) = live.pushes(terminal(1), "t", attached.end, at(1)).await.unwrap() else { panic!("no pushes") };
    let messages: Vec<PushMessage> = pushes.into_iter().map(|(_, message)| message).collect();
    assert_eq!(messages, [PushMessage::ReportHoldings { swarm_id: SWARM }]);
    for member in 0..3 {
        tell(live, member, &[0, 1, 2, 3], &[], 2).await;
    }
    live.rebuild_group(&spec(4, true), &[], at(3)).await.unwrap();
    assert_eq!(given(live.credits(from(0), 4, at(4)).await), [], "the table that is there was left alone");
    fixture.lose_everything().await;
}

#[tokio::test]
async fn chunks_are_found_again_across_segments() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    let held: ChunkSet = (0..4_000).chain(4_100..8_200).collect();
    live.rebuild_group(&spec(9_000, true), &[], at(0)).await.unwrap();
    for segment in 0..3 {
        let holdings = Holdings { segment, bitmap: &held.segment(segment), last: segment == 2, leases: &[] };
        live.holdings(from(0), &holdings, at(1)).await.unwrap();
    }
    tell(live, 1, &[], &[], 2).await;
    tell(live, 2, &[], &[], 3).await;
    fixture.set_present(terminal(0), true).await;
    let chunks: Vec<u32> = given(live.credits(from(0), 102, at(4)).await).into_iter().map(|(_, chunk)| chunk).collect();
    assert_eq!(chunks, (4_000..4_100).chain(8_200..8_202).collect::<Vec<_>>());
    fixture.lose_everything().await;
}

#[tokio::test]
async fn x09_what_members_tell_that_they_hold_is_passed_over_and_the_rest_is_given() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    live.create_group(&spec(9_000, true), at(0)).await.unwrap();
    let missing = [0, 9, 4_095, 4_096, 6_001, 8_999];
    let held: ChunkSet = (0..9_000).filter(|chunk| !missing.contains(chunk)).collect();
    for member in 0..2 {
        fixture.set_present(terminal(member), true).await;
        // Each tells half of it, in turns of 100 chunks.
        let half: ChunkSet = held.iter().filter(|chunk| chunk / 100 % 2 == u32::from(member)).collect();
        for segment in 0..3 {
            let holdings = Holdings { segment, bitmap: &half.segment(segment), last: segment == 2, leases: &[] };
            assert!(matches!(live.holdings(from(member), &holdings, at(1)).await.unwrap(), Table::Ready(_)));
        }
    }
    let chunks: Vec<u32> = given(live.credits(from(0), 20, at(2)).await).into_iter().map(|(_, chunk)| chunk).collect();
    assert_eq!(chunks, missing);
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_group_that_the_origin_does_not_feed_gives_repairs_only() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    live.create_group(&spec(4, false), at(0)).await.unwrap();
    for member in 0..3 {
        fixture.set_present(terminal(member), true).await;
    }
    assert_eq!(given(live.credits(from(0), 4, at(1)).await), []);
    let chunks = BTreeMap::from([(0, false), (1, true), (2, false)]);
    let Table::Ready(answer) = live
        .missing(
            from(0),
            Affordable { again: Bytes(0), first: Bytes(1_500), doubled: Bytes(0) },
            Wanted { chunks: &chunks, feeders_connected: false },
            at(2),
        )
        .await
        .unwrap()
    else {
        panic!("the table is not ready")
    };
    assert_eq!(answer.granted, [Grant { terminal: terminal(0), chunk: 0, kind: GrantKind::Repair }]);
    assert_eq!(answer.outcome, Missing { elsewhere: vec![1], unaffordable: vec![2] });
    assert!(matches!(live.fetch(from(0), 0, at(3)).await.unwrap(), Table::Ready(FetchRight::Granted { budget: Budget::First, .. })));
    fixture.lose_everything().await;
}

#[tokio::test]
async fn a_table_that_misses_a_part_counts_as_lost() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    live.create_group(&spec(4, true), at(0)).await.unwrap();
    let mut delete = redis::cmd("DEL");
    delete.arg(format!("{}:swarm:{SWARM}:lengths", fixture.namespace));
    live.command::<u64>(delete).await.unwrap();
    assert_eq!(live.credits(from(0), 1, at(1)).await.unwrap(), Table::Lost);
    live.rebuild_group(&spec(4, true), &[], at(2)).await.unwrap();
    assert_eq!(live.credits(from(0), 1, at(3)).await.unwrap(), Table::Rebuilding);
    fixture.lose_everything().await;
}

#[test]
fn whatever_the_members_tell_a_rebuilt_table_gives_exactly_the_rest_once() {
    const CHUNKS: u32 = 60;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let some_chunks = |most| prop::collection::btree_set(0..CHUNKS, 0..most);
    // No more leases than count.
    let told = prop::collection::vec((some_chunks(40), some_chunks(33)), 3);
    let mut runner = TestRunner::new(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&(told, 0u8..4), |(told, silent)| {
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let live = &fixture.live;
            let mut spec = spec(CHUNKS as usize, true);
            spec.chunk_lengths = (0..CHUNKS).map(|chunk| 1_000 + chunk * 37 % CHUNKS).collect();
            live.rebuild_group(&spec, &[], at(0)).await.unwrap();
            let mut taken: BTreeSet<u32> = BTreeSet::new();
            for (member, (held, leases)) in (0u8..).zip(&told) {
                if member == silent {
                    continue;
                }
                fixture.set_present(terminal(member), true).await;
                let lists = (held.iter().copied().collect::<Vec<_>>(), leases.iter().copied().collect::<Vec<_>>());
                tell(live, member, &lists.0, &lists.1, 1).await;
                taken.extend(held.iter().chain(leases));
            }
            let asker = (silent + 1) % 3;
            let mut given: Vec<u32> = given(live.credits(from(asker), 200, at(1_000)).await).into_iter().map(|(_, chunk)| chunk).collect();
            given.sort_unstable();
            let rest: Vec<u32> = (0..CHUNKS).filter(|chunk| !taken.contains(chunk)).collect();
            assert_eq!(given, rest, "held or leased: {taken:?}");
            fixture.lose_everything().await;
        });
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[tokio::test]
async fn no_terminal_can_claim_more_leases_than_it_asks_for_at_a_time() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    live.rebuild_group(&spec(100, true), &[], at(0)).await.unwrap();
    let claims: Vec<u32> = (0..100).collect();
    // In two messages, and once again.
    let half = Holdings { segment: 0, bitmap: &bitmap(&[]), last: false, leases: &claims[..50] };
    live.holdings(from(0), &half, at(1)).await.unwrap();
    tell(live, 0, &[], &claims, 1).await;
    tell(live, 1, &[], &[5, 99], 2).await;
    tell(live, 2, &[], &[], 3).await;
    for member in 0..3 {
        fixture.set_present(terminal(member), true).await;
    }
    let given: Vec<u32> = given(live.credits(from(2), 100, at(4)).await).into_iter().map(|(_, chunk)| chunk).collect();
    assert_eq!(given, (32..99).collect::<Vec<_>>(), "32 are the first one's, 99 the second one's");
    assert_eq!(live.fetch(from(1), 5, at(5)).await.unwrap(), Table::Ready(FetchRight::None), "somebody else had claimed it");
    fixture.lose_everything().await;
}

#[tokio::test]
async fn after_a_loss_receipts_tell_what_was_sent_and_not_what_a_terminal_says_it_holds() {
    let fixture = Fixture::new().await;
    let live = &fixture.live;
    live.rebuild_group(&spec(4, true), &bitmap(&[1]), at(0)).await.unwrap();
    // It has nothing, and dies.
    tell(live, 0, &[0, 1, 2, 3], &[], 1).await;
    tell(live, 1, &[], &[], 1).await;
    tell(live, 2, &[], &[], 1).await;
    fixture.set_present(terminal(1), true).await;
    ready_now(live.leave(from(0), Duration::ZERO, at(2)).await);
    let wanted = BTreeMap::from([(1, false), (2, false)]);
    let affordable = Affordable { again: Bytes(1_000), first: Bytes(9_000), doubled: Bytes(1_000) };
    ready_now(live.missing(from(1), affordable, Wanted { chunks: &wanted, feeders_connected: true }, at(3)).await);
    for (chunk, expected) in [(1, Budget::Repair), (2, Budget::First)] {
        let Table::Ready(FetchRight::Granted { budget, .. }) = live.fetch(from(1), chunk, at(4)).await.unwrap() else { panic!("no lease") };
        assert_eq!(budget, expected, "chunk {chunk}");
    }
    fixture.lose_everything().await;
}

fn ready_now<T>(table: Result<Table<T>, LiveError>) {
    assert!(matches!(table, Ok(Table::Ready(_))));
}
