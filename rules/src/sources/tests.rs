use proptest::prelude::*;

use super::*;
use crate::relay_plan::Region;

fn id(byte: u8) -> TerminalId {
    TerminalId::from_bytes([byte; 16])
}

fn line(region: u16, round_trip_ms: u16, loss_ppm: u32) -> CommunicationState {
    CommunicationState { region: Some(Region(region)), round_trip_ms: Some(round_trip_ms), loss_ppm: Some(loss_ppm), nat: NatKind::Open }
}

fn holder(byte: u8, state: CommunicationState) -> Holder {
    Holder { terminal_id: id(byte), state, up: BitsPerSecond(20_000_000), serving: 0, connected: true, chosen: false, failure: None }
}

fn asker(state: CommunicationState, down_mbit: u64) -> Requester {
    Requester { state, down: BitsPerSecond(down_mbit * 1_000_000) }
}

fn order(requester: &Requester, holders: &[Holder]) -> Vec<u8> {
    select(requester, holders).iter().map(|choice| choice.terminal_id.to_bytes()[0]).collect()
}

#[test]
fn a03_the_more_a_holder_is_like_the_requester_the_earlier_it_stands() {
    let own = line(1, 20, 100);
    let holders = [
        holder(1, line(2, 20, 100)),
        holder(2, CommunicationState { region: None, ..own }),
        holder(3, line(1, 300, 100)),
        holder(4, line(1, 20, 50_000)),
        holder(5, own),
        Holder { up: BitsPerSecond(1_000_000), ..holder(6, own) },
    ];
    assert_eq!(order(&asker(own, 120), &holders), [5, 4, 2, 3, 6, 1], "alike, lossy, unknown region, far, slow, elsewhere");
    let symmetric = |state: CommunicationState| CommunicationState { nat: NatKind::EndpointDependent, ..state };
    let holders = [holder(1, symmetric(own)), holder(2, line(1, 60, 100))];
    assert_eq!(order(&asker(symmetric(own), 20), &holders), [2, 1], "two such translations need a relay between them");
}

#[test]
fn a02_who_is_not_connected_or_sent_wrong_bytes_is_no_source_and_who_is_loaded_stands_behind() {
    let own = line(1, 20, 100);
    let requester = asker(own, 30);
    let holders = [
        Holder { connected: false, ..holder(1, own) },
        Holder { failure: Some(Failure::Corrupt), ..holder(2, own) },
        Holder { serving: 3, ..holder(3, own) },
        holder(4, own),
        Holder { up: BitsPerSecond(40_000_000), ..holder(5, own) },
    ];
    assert_eq!(order(&requester, &holders), [5, 4, 3]);
    let full = Holder { serving: SERVED_MAX, ..holder(6, own) };
    let silent = Holder { failure: Some(Failure::Silent), ..holder(7, own) };
    assert_eq!(order(&requester, &[silent, full, holders[3]]), [4, 6, 7], "rather a busy one and one that was silent than too few");
    assert_eq!(order(&requester, &[silent, full, holders[3], holders[4], holder(8, own)]), [5, 4, 8], "and none of them where others are");
    assert_eq!(order(&requester, &[silent]), [7], "rather one that was silent than nobody");
    assert!(select(&requester, &[]).is_empty());
}

#[test]
fn as_many_serve_as_the_downlink_takes_and_at_least_three() {
    let own = CommunicationState::default();
    let holders: Vec<Holder> = (1..=20).map(|byte| holder(byte, own)).collect();
    let count = |down| select(&asker(own, down), &holders).len();
    assert_eq!([0, 10, 60, 61, 100, 1000].map(count), [3, 3, 3, 4, 5, SOURCES_MAX]);
    assert_eq!(select(&asker(own, 1000), &holders[..2]).len(), 2);
}

#[test]
fn a04_whoever_serves_already_goes_on_while_it_can() {
    let own = line(1, 20, 100);
    let requester = asker(own, 30);
    let serving = Holder { chosen: true, ..holder(9, line(2, 200, 5_000)) };
    let others: Vec<Holder> = (1..=4).map(|byte| holder(byte, own)).collect();
    let with = |first: Holder| order(&requester, &[&others[..], &[first]].concat());
    assert_eq!(with(serving), [9, 1, 2], "moving to a better one costs more than it gains");
    assert_eq!(with(Holder { failure: Some(Failure::Silent), ..serving }), [1, 2, 3]);
    assert_eq!(with(Holder { connected: false, ..serving }), [1, 2, 3]);
}

#[test]
fn a_reason_is_a_sentence_for_people() {
    let own = line(1, 20, 100);
    let choice = select(&asker(own, 10), &[Holder { serving: 1, failure: Some(Failure::Silent), ..holder(1, line(1, 70, 100)) }])[0];
    assert_eq!(choice.reason.to_string(), "same region, 2 points apart, 10.0 Mbit/s to spare, serves 1 others, was silent lately");
}

fn any_state() -> impl Strategy<Value = CommunicationState> {
    let nats = [NatKind::Unknown, NatKind::Open, NatKind::EndpointIndependent, NatKind::EndpointDependent];
    (prop::option::of(0u16..3), prop::option::of(0u16..500), prop::option::of(0u32..200_000), prop::sample::select(nats.to_vec()))
        .prop_map(|(region, round_trip_ms, loss_ppm, nat)| CommunicationState { region: region.map(Region), round_trip_ms, loss_ppm, nat })
}

fn any_holders() -> impl Strategy<Value = Vec<Holder>> {
    let failures = [None, None, None, Some(Failure::Silent), Some(Failure::Corrupt)];
    let one = (any_state(), 0u64..50_000_000, 0u32..12, any::<bool>(), any::<bool>(), prop::sample::select(failures.to_vec()));
    prop::collection::vec(one, 0..24).prop_map(|all| {
        let holders = (1u8..).zip(all).map(|(byte, (state, up, serving, connected, chosen, failure))| Holder {
            terminal_id: id(byte),
            state,
            up: BitsPerSecond(up),
            serving,
            connected,
            chosen,
            failure,
        });
        holders.collect()
    })
}

proptest! {
    #[test]
    fn sources_are_usable_distinct_bounded_and_independent_of_the_order(
        holders in any_holders(), state in any_state(), down in 0u64..200_000_000, turn in 0usize..24,
    ) {
        let requester = Requester { state, down: BitsPerSecond(down) };
        let chosen = select(&requester, &holders);
        let usable: Vec<_> = holders.iter().filter(|holder| holder.connected && holder.failure != Some(Failure::Corrupt)).collect();
        prop_assert!(chosen.len() <= SOURCES_MAX && chosen.len() >= usable.len().min(SOURCES_MIN));
        prop_assert!(chosen.iter().all(|choice| usable.iter().any(|holder| holder.terminal_id == choice.terminal_id)));
        let mut ids: Vec<_> = chosen.iter().map(|choice| choice.terminal_id).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), chosen.len());
        let mut turned = holders.clone();
        turned.rotate_left(turn % holders.len().max(1));
        prop_assert_eq!(select(&requester, &turned), chosen);
    }

    #[test]
    fn whoever_becomes_more_like_the_requester_or_less_loaded_never_falls_behind(
        holders in any_holders(), state in any_state(), down in 0u64..200_000_000, which in 0usize..24,
    ) {
        prop_assume!(!holders.is_empty());
        let requester = Requester { state, down: BitsPerSecond(down) };
        let place = which % holders.len();
        let mut better = holders.clone();
        better[place] = Holder { state: CommunicationState { nat: NatKind::Open, ..state }, serving: 0, failure: None, ..holders[place] };
        let rank = |holders: &[Holder]| select(&requester, holders).iter().position(|choice| choice.terminal_id == holders[place].terminal_id);
        if let Some(before) = rank(&holders) {
            prop_assert!(rank(&better).is_some_and(|after| after <= before));
        }
    }
}
