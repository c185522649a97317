//! Each check finds the step that it is there for, and lets its honest neighbour pass.

use super::*;

const GROUP: GroupId = GroupId::from_bytes([1; 16]);
const NOW: Now = Now::from_secs(1);

fn broken(checked: Checked) -> Option<Invariant> {
    checked.err().map(|violation| violation.invariant)
}

fn first(terminal: usize, chunk: u32) -> Fact {
    Fact::Granted { group: GROUP, terminal, chunk, kind: GrantKind::FirstCopy }
}

fn group_of_two() -> Invariants {
    let mut invariants = Invariants::new(1_000);
    for terminal in [0, 1] {
        invariants.fact(Fact::Here { group: GROUP, terminal }, NOW).unwrap();
    }
    invariants
}

#[test]
fn b29_a_first_copy_of_what_a_live_member_leases_or_holds_is_found() {
    let mut invariants = group_of_two();
    invariants.fact(first(0, 3), NOW).unwrap();
    assert_eq!(broken(invariants.fact(first(1, 3), NOW)), Some(Invariant::FirstCopyOnce), "leased");
    let mut invariants = group_of_two();
    invariants.fact(Fact::Holds { group: GROUP, terminal: 0, chunk: 3, done: true }, NOW).unwrap();
    assert_eq!(broken(invariants.fact(first(1, 3), NOW)), Some(Invariant::FirstCopyOnce), "held");
    let repair = Fact::Granted { group: GROUP, terminal: 1, chunk: 3, kind: GrantKind::Repair };
    assert_eq!(broken(invariants.fact(repair, NOW)), None);
}

#[test]
fn b29_a_first_copy_after_the_holder_left_or_the_lease_ended_is_allowed() {
    let mut invariants = group_of_two();
    invariants.fact(first(0, 3), NOW).unwrap();
    assert_eq!(broken(invariants.fact(first(1, 3), NOW + LEASE)), None, "the lease ended by itself");
    let mut invariants = group_of_two();
    invariants.fact(Fact::Holds { group: GROUP, terminal: 0, chunk: 3, done: false }, NOW).unwrap();
    invariants.fact(Fact::Gone { group: GROUP, terminal: 0 }, NOW).unwrap();
    assert_eq!(broken(invariants.fact(first(1, 3), NOW)), None, "the holder left");
    invariants.fact(Fact::Forgotten, NOW).unwrap();
    assert_eq!(broken(invariants.fact(first(0, 3), NOW)), None, "nobody knows of it any more");
    let mut invariants = group_of_two();
    invariants.fact(first(0, 3), NOW).unwrap();
    invariants.fact(Fact::Fetching { group: GROUP, terminal: 0, chunk: 3 }, NOW + LEASE / 2).unwrap();
    assert_eq!(broken(invariants.fact(first(1, 3), NOW + LEASE)), Some(Invariant::FirstCopyOnce), "a fetch renews the lease");
}

#[test]
fn b29_a_first_copy_of_what_the_server_has_a_receipt_for_is_counted_and_found_if_that_is_asked_for() {
    let mut invariants = group_of_two();
    assert_eq!(broken(invariants.truly_held(0, 1, 3, true, false)), None);
    assert_eq!(broken(invariants.truly_held(0, 1, 3, false, true)), None, "the receipt is on its way");
    assert_eq!(broken(invariants.truly_held(0, 1, 3, true, true)), Some(Invariant::FirstCopyOnce));
    assert_eq!(invariants.untold, 3);
}

#[test]
fn x07_a_byte_beyond_the_budget_is_found() {
    let mut invariants = Invariants::new(1_000);
    assert_eq!(broken(invariants.origin_sends(1_000)), None);
    assert_eq!(broken(invariants.origin_sends(1)), Some(Invariant::BudgetKept));
}

#[test]
fn wrong_bytes_a_second_copy_and_passing_on_what_is_not_stored_are_found() {
    let mut invariants = Invariants::new(0);
    assert_eq!(broken(invariants.stores(0, 1, true, false)), None);
    assert_eq!(broken(invariants.stores(0, 1, false, false)), Some(Invariant::VerifiedOnly));
    assert_eq!(broken(invariants.stores(0, 1, true, true)), Some(Invariant::VerifiedOnly));
    assert_eq!(broken(invariants.transmits(0, 1, (1, 0..10), false, true)), Some(Invariant::VerifiedOnly));
    assert_eq!(broken(invariants.transmits(0, 1, (1, 0..10), true, false)), Some(Invariant::OpeningKept));
}

#[test]
fn a_window_that_overflows_a_long_queue_and_a_long_message_are_found() {
    let mut invariants = Invariants::new(0);
    let window = u32::try_from(WINDOW_BYTES).unwrap();
    assert_eq!(broken(invariants.transmits(0, 1, (1, 0..window), true, true)), None);
    assert_eq!(broken(invariants.transmits(0, 2, (2, 0..1), true, true)), None, "another link has its own window");
    assert_eq!(broken(invariants.transmits(0, 1, (2, 0..1), true, true)), Some(Invariant::MemoryBounds));
    invariants.acknowledged(0, 1, [1, 2].into_iter());
    assert_eq!(broken(invariants.transmits(0, 1, (3, 0..window), true, true)), None);
    invariants.link_closed(0, 1);
    assert_eq!(broken(invariants.transmits(0, 1, (4, 0..window), true, true)), None);
    invariants.link_closed(0, 1);
    assert_eq!(broken(invariants.transmits(0, 1, (5, 0..window - 1), true, true)), None);
    assert_eq!(broken(invariants.transmits(0, 1, (5, window - 1..window), true, true)), None, "a chunk counts as far as it was sent");
    invariants.acknowledged(0, 1, [5].into_iter());
    assert_eq!(broken(invariants.transmits(0, 1, (5, window..window + 1), true, true)), None, "nobody waits for the rest");
    assert_eq!(broken(invariants.fetches(0, FETCHES_MAX)), None);
    assert_eq!(broken(invariants.fetches(0, FETCHES_MAX + 1)), Some(Invariant::MemoryBounds));
    assert_eq!(broken(invariants.bounded(0, "entries", 3, 2)), Some(Invariant::MemoryBounds));
}

#[test]
fn a_signature_for_what_the_receiver_does_not_have_is_found() {
    let mut invariants = Invariants::new(0);
    assert_eq!(broken(invariants.signs(0, [1, 2].into_iter(), |_| true)), None);
    assert_eq!(broken(invariants.signs(0, [1, 2].into_iter(), |chunk| chunk == 1)), Some(Invariant::HonestReceipts));
}

#[test]
fn an_honest_terminal_that_is_cut_off_is_found() {
    let mut invariants = Invariants::new(0);
    assert_eq!(broken(invariants.bans(0, 1, true, "Corrupt")), None);
    assert_eq!(broken(invariants.bans(0, 1, false, "Corrupt")), Some(Invariant::HonestNotBanned));
}
