//! The table's rules by small examples.

use super::*;

fn table(members: usize) -> (Table, Shared) {
    let members: BTreeMap<usize, u64> = (0..members).map(|terminal| (terminal, 800)).collect();
    let shared = Shared { present: members.keys().copied().collect(), ..Shared::default() };
    let spec = Spec { root: true, opens: Now::ZERO, in_flight_max: 0, members };
    (Table::new(spec, vec![100; 8]), shared)
}

fn chunks(grants: &[Grant]) -> Vec<(usize, u32)> {
    grants.iter().map(|grant| (grant.terminal, grant.chunk)).collect()
}

#[test]
fn what_a_member_that_left_had_leased_is_given_to_the_next_one_first() {
    let (mut table, shared) = table(2);
    assert_eq!(chunks(&table.credits(Some(0), Some(2), &shared, Now::ZERO)), [(0, 0), (0, 1)]);
    let notice = |chunk| (ChunkNotice { chunk, received_at: protocol::TimestampMs(0), copies_done_at: None }, None);
    table.notices(0, &[notice(0)], &shared, Now::ZERO);
    table.leave(0, Duration::ZERO, &shared, Now::ZERO);
    assert_eq!(chunks(&table.credits(Some(1), Some(3), &shared, Now::ZERO)), [(1, 1), (1, 2), (1, 3)], "chunk 0 was received");
}

#[test]
fn a_lease_that_is_not_used_comes_back_and_one_that_is_fetched_lasts() {
    let (mut table, mut shared) = table(2);
    table.credits(Some(0), Some(2), &shared, Now::ZERO);
    let later = Now::from_secs(14);
    assert_eq!(table.fetch(0, 1, &mut shared, later), FetchRight::Granted { first: true, owes: true });
    assert_eq!(table.fetch(1, 0, &mut shared, later), FetchRight::None, "another one's lease");
    assert_eq!(chunks(&table.credits(Some(1), Some(2), &shared, Now::from_secs(16))), [(1, 0), (1, 2)]);
}

#[test]
fn after_a_loss_nothing_is_given_that_somebody_holds_or_claims() {
    let (table, shared) = table(2);
    let told = BTreeMap::from([(0, ChunkSet::from_iter([0, 3])), (1, ChunkSet::default())]);
    let claims = BTreeMap::from([(1, 1), (3, 1)]);
    let mut rebuilt = Table::rebuilt(table.spec, table.lengths, told, &claims, Now::ZERO);
    assert_eq!(chunks(&rebuilt.credits(Some(0), Some(2), &shared, Now::ZERO)), [(0, 2), (0, 4)]);
}

#[test]
fn a_chunk_that_a_live_member_has_is_sent_again_only_after_patience_and_within_the_budget() {
    let (mut table, mut shared) = table(2);
    table.credits(Some(0), Some(1), &shared, Now::ZERO);
    assert!(matches!(table.fetch(0, 0, &mut shared, Now::ZERO), FetchRight::Granted { .. }));
    let notice = ChunkNotice { chunk: 0, received_at: protocol::TimestampMs(0), copies_done_at: None };
    table.notices(0, &[(notice, Some(Now::ZERO))], &shared, Now::ZERO);
    let wanted = BTreeMap::from([(0, false)]);
    let rich = Affordable { again: 100, first: 100, doubled: 100 };
    let mut ask = |budget, at| {
        let (grants, elsewhere, spent) = table.missing(1, &wanted, false, budget, &shared, Now::from_secs(at));
        (grants.len(), elsewhere.len(), spent.len())
    };
    assert_eq!(ask(rich, 1), (0, 1, 0));
    assert_eq!(ask(rich, 5), (0, 1, 0));
    assert_eq!(ask(Affordable { doubled: 99, ..rich }, 7), (0, 1, 0), "half of what is to spare is for what nobody has");
    assert_eq!(ask(Affordable { again: 99, ..rich }, 7), (0, 0, 1));
    assert_eq!(ask(rich, 7), (1, 0, 0));
}
