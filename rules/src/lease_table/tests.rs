//! The table's rules by small examples.

use super::*;

/// A table with all that its calls are made with.
struct Small {
    table: Table<usize>,
    shared: Shared<usize>,
    limits: Limits,
}

impl Small {
    /// `overheads`: of each member, in nanoseconds per byte. Eight chunks of 100 bytes.
    fn new(overheads: &[u64]) -> Self {
        let members: BTreeMap<usize, u64> = overheads.iter().copied().enumerate().collect();
        let shared = Shared { present: members.keys().copied().collect(), ..Shared::default() };
        let limits = Limits { in_flight_max: 0, unsigned_max: 100, direct: 0 };
        Self { table: Table::new(Spec { root: true, opens: 0, members }, vec![100; 8]), shared, limits }
    }

    fn at<R>(&mut self, now: u64, act: impl FnOnce(&mut Table<usize>, &mut Call<'_, usize>) -> R) -> R {
        act(&mut self.table, &mut Call { shared: &mut self.shared, limits: self.limits, now })
    }

    fn credits(&mut self, now: u64, terminal: usize, open: u32) -> Vec<(usize, u32)> {
        given(&self.at(now, |table, call| table.credits(Some(terminal), Some(open), call)))
    }

    fn notice(&mut self, now: u64, terminal: usize, chunk: u32) -> Vec<(usize, u32)> {
        given(&self.at(now, |table, call| table.notices(terminal, &[(chunk, None)], call)).0)
    }

    fn fetch(&mut self, now: u64, terminal: usize, chunk: u32) -> Option<Part> {
        match self.at(now, |table, call| table.fetch(terminal, chunk, call)) {
            FetchRight::Granted { part, .. } => Some(part),
            FetchRight::None | FetchRight::Unsigned => None,
        }
    }

    /// (given, refused because elsewhere, refused because of the budget)
    fn missing(&mut self, now: u64, terminal: usize, chunk: u32, affordable: Affordable) -> (usize, usize, usize) {
        let chunks = BTreeMap::from([(chunk, false)]);
        let wanted = Wanted { chunks: &chunks, feeders_connected: false };
        let (outcome, refused) = self.at(now, |table, call| table.missing(terminal, affordable, wanted, call));
        (outcome.grants.len(), refused.elsewhere.len(), refused.unaffordable.len())
    }
}

fn given(outcome: &Outcome<usize>) -> Vec<(usize, u32)> {
    outcome.grants.iter().map(|grant| (grant.terminal, grant.chunk)).collect()
}

#[test]
fn b02_what_a_member_that_left_had_leased_is_given_to_the_next_one_first() {
    let mut small = Small::new(&[800; 2]);
    assert_eq!(small.credits(0, 0, 2), [(0, 0), (0, 1)]);
    small.notice(0, 0, 0);
    small.at(0, |table, call| table.leave(0, 0, call));
    assert_eq!(small.credits(0, 1, 3), [(1, 1), (1, 2), (1, 3)], "chunk 0 was received");
}

#[test]
fn b02_a_lease_that_is_not_used_comes_back_and_one_that_is_fetched_lasts() {
    let mut small = Small::new(&[800; 2]);
    small.credits(0, 0, 2);
    assert_eq!(small.fetch(14_000, 0, 1), Some(Part::First));
    assert_eq!(small.fetch(14_000, 1, 0), None, "another one's lease");
    assert_eq!(small.credits(16_000, 1, 2), [(1, 0), (1, 2)]);
}

#[test]
fn b29_what_came_back_is_not_given_again_if_a_live_member_has_signed_for_it() {
    let mut small = Small::new(&[800; 3]);
    small.credits(0, 1, 0);
    small.credits(0, 0, 2);
    small.at(0, |table, _| table.signed(1, [0], true));
    small.at(0, |table, call| table.leave(0, 0, call));
    assert_eq!(small.credits(0, 2, 2), [(2, 1), (2, 2)]);
    small.at(0, |table, _| table.signed(1, [3], false));
    assert_eq!(small.credits(0, 1, 1), [(1, 3)], "a signature of any time is no word for what is held now");
}

#[test]
fn after_a_loss_nothing_is_given_that_somebody_holds_or_claims() {
    let mut small = Small::new(&[800; 2]);
    let told = BTreeMap::from([(0, ChunkSet::from_iter([0, 3])), (1, ChunkSet::default())]);
    let claims = BTreeMap::from([(1, 1), (3, 1)]);
    small.table = Table::rebuilt(small.table.spec.clone(), vec![100; 8], told, &claims, 0);
    assert_eq!(small.credits(0, 0, 2), [(0, 2), (0, 4)]);
}

#[test]
fn a_chunk_that_a_live_member_has_is_sent_again_only_after_patience_and_within_its_part_of_the_budget() {
    let mut small = Small::new(&[800; 2]);
    small.credits(0, 0, 1);
    assert!(small.fetch(0, 0, 0).is_some());
    small.notice(0, 0, 0);
    let rich = Affordable { again: 100, first: 100, doubled: 100 };
    // Zero is long ago for who never asked.
    assert_eq!(small.missing(101_000, 1, 0, rich), (0, 1, 0));
    assert_eq!(small.missing(105_000, 1, 0, rich), (0, 1, 0));
    assert_eq!(
        small.missing(107_000, 1, 0, Affordable { doubled: 99, ..rich }),
        (0, 0, 1),
        "half of what is to spare is for what nobody has"
    );
    assert_eq!(small.missing(107_000, 1, 0, Affordable { again: 99, ..rich }), (0, 0, 1));
    assert_eq!(small.missing(107_000, 1, 0, rich), (1, 0, 0));
    assert_eq!(small.shared.doubled, 100);
    assert_eq!(small.missing(107_500, 1, 0, rich), (1, 0, 0), "the same lease, told again");
    small.at(108_000, |table, call| table.leave(1, 0, call));
    assert_eq!(small.shared.doubled, 0, "it was not fetched");
}

#[test]
fn x07_repairs_of_what_was_lost_take_nothing_of_the_part_for_what_somebody_has() {
    let mut small = Small::new(&[800; 2]);
    small.credits(0, 0, 1);
    assert!(small.fetch(0, 0, 0).is_some());
    small.at(0, |table, call| table.leave(0, 0, call));
    small.credits(0, 1, 1);
    assert_eq!(small.fetch(0, 1, 0), Some(Part::Repair));
    assert_eq!(small.shared.doubled, 0);
}

#[test]
fn b03_the_relay_with_the_least_expected_finish_is_given_the_chunk() {
    let mut small = Small::new(&[4_000, 1_000, 2_000]);
    for member in [0, 2] {
        small.credits(0, member, 0);
    }
    small.table.open.extend([(0, (8, 0)), (2, (8, 0))]);
    // 1 owes nothing and is the fastest, until it owes as much as the others would take.
    let order: Vec<usize> = small.credits(0, 1, 8).into_iter().map(|(terminal, _)| terminal).collect();
    assert_eq!(order, [1, 1, 2, 1, 0, 1, 2, 1]);
}

#[test]
fn b03_a_relay_that_would_be_the_last_to_finish_waits_for_one_without_credits_and_not_for_ever() {
    // 100 bytes take member 0 ten seconds and the others one.
    let mut small = Small::new(&[100_000_000, 10_000_000, 10_000_000]);
    assert_eq!(small.credits(10_000, 1, 3), [(1, 0), (1, 1), (1, 2)]);
    assert_eq!(small.credits(10_000, 2, 4).len(), 4);
    // One chunk is left, all are to be done in four seconds.
    assert_eq!(small.credits(10_500, 0, 1), []);
    assert_eq!(small.credits(10_999, 0, 1), []);
    assert_eq!(small.credits(11_000, 0, 1), [(0, 7)], "nobody else has asked");
    let mut small = Small::new(&[100_000_000, 10_000_000, 10_000_000]);
    small.credits(10_000, 1, 7);
    assert_eq!(small.credits(10_500, 0, 1), []);
    assert_eq!(small.credits(10_600, 2, 1), [(2, 7)], "whoever is done first");
}

/// A table whose members have been given a first copy each, and have received it.
fn begun(members: usize, direct: u64) -> Small {
    let mut small = Small::new(&vec![800; members]);
    small.limits.direct = direct;
    for member in 0..members {
        small.credits(0, member, 0);
    }
    for (member, chunk) in (0..members).zip(0..) {
        if member + 1 == members {
            assert!(small.table.directs.is_empty(), "members need a chunk each to copy on first");
            small.limits.direct = 0;
        }
        assert_eq!(small.credits(0, member, 1), [(member, chunk)]);
        small.notice(0, member, chunk);
    }
    small.limits.direct = direct;
    small
}

#[test]
fn b01_a_chunk_that_the_origin_has_to_spare_goes_to_every_member_and_no_two_at_once() {
    let mut small = begun(3, 300);
    small.limits.in_flight_max = 600;
    small.credits(0, 0, 0);
    // Half of what may be on its way.
    assert_eq!(small.table.directs.keys().copied().collect::<Vec<_>>(), [(3, 0), (3, 1), (3, 2)], "the budget has one chunk for all three");
    assert_eq!((small.fetch(1, 0, 3), small.fetch(1, 1, 3)), (Some(Part::First), Some(Part::Direct)));
    assert_eq!(small.credits(2, 1, 1), [(1, 4)], "a first copy is another chunk");
    // Without room in the budget for everybody none is begun.
    small.limits.direct = 299;
    for member in 0..3 {
        small.notice(3, member, 3);
    }
    assert!(!small.table.sends_directly());
    assert_eq!(small.credits(4, 2, 1), [(2, 5)]);
    small.limits.direct = 300;
    small.at(5, |table, call| table.credits(None, None, call));
    assert_eq!(small.table.coming_to(0), [0, 6], "its first copy is still being copied on");
}

#[test]
fn b01_a_direct_copy_that_reaches_nobody_is_a_first_copy_for_somebody() {
    let mut small = begun(2, 200);
    small.at(0, |table, call| table.leave(1, 0, call));
    assert!(small.table.directs.is_empty(), "one member alone needs no direct copy");
    small.credits(0, 1, 0);
    assert_eq!(small.table.directs.len(), 2);
    small.limits.direct = 0;
    small.at(1, |table, call| table.leave(1, 0, call));
    assert_eq!(small.credits(1, 0, 1), [(0, 3)], "it is still on its way to the other one");
    assert_eq!(small.credits(LEASE_MS, 0, 1), [(0, 2)]);
}

#[test]
fn b03_who_has_become_slow_is_believed_sooner_than_who_has_become_fast() {
    let mut small = Small::new(&[800; 2]);
    let mut copied = |chunk, from, until| {
        assert_eq!(small.credits(from, 0, 1), [(0, chunk)]);
        small.fetch(from, 0, chunk);
        small.at(until, |table, call| table.notices(0, &[(chunk, Some(until))], call));
        small.table.spec.members[&0]
    };
    // 80 ms for 100 bytes are 800,000 ns each: half of it counts. Then 10 ms, of which a quarter does.
    assert_eq!(copied(0, 0, 80), (800 + 800_000) / 2);
    assert_eq!(copied(1, 100, 110), (3 * 400_400 + 100_000) / 4);
}
