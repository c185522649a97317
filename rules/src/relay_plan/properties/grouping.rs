//! The groups of a wave are alike and balanced in uplink.

use super::*;

fn candidate(number: u32, up_mbit: u64, state: CommunicationState) -> Candidate {
    Candidate { peer: peer(number, up_mbit), state, primary: None }
}

fn in_region(region: u16) -> CommunicationState {
    CommunicationState { region: Some(Region(region)), ..CommunicationState::default() }
}

/// Plans one wave, and answers the numbers of the candidates in each group.
fn grouped(candidates: &[Candidate]) -> Vec<Vec<usize>> {
    let places: BTreeMap<TerminalId, usize> =
        candidates.iter().enumerate().map(|(index, candidate)| (candidate.peer.terminal_id, index)).collect();
    let groups = wave_below(&SwarmTree::default(), 0, candidates);
    groups.iter().map(|group| group.members.iter().map(|member| places[&member.terminal_id]).collect()).collect()
}

/// How many groups are not alike in something.
fn mixed<T: Ord>(candidates: &[Candidate], groups: &[Vec<usize>], of: impl Fn(&CommunicationState) -> T) -> usize {
    let kinds = |group: &Vec<usize>| group.iter().map(|&index| of(&candidates[index].state)).collect::<BTreeSet<T>>().len();
    groups.iter().filter(|group| kinds(group) > 1).count()
}

/// Uplinks in Mbit/s as they count: what is not known as the median, and no more than four times the median.
fn counted(candidates: &[Candidate]) -> Vec<f64> {
    let mut known: Vec<u64> = candidates.iter().map(|candidate| candidate.peer.up.0).filter(|&up| up > 0).collect();
    known.sort_unstable();
    let median = known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or(0);
    let up = |candidate: &Candidate| if candidate.peer.up.0 == 0 { median } else { candidate.peer.up.0.min(4 * median) };
    candidates.iter().map(|candidate| up(candidate) as f64 / 1e6).collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// The means of the groups' uplinks over the wave's, least and most.
fn means(candidates: &[Candidate], groups: &[Vec<usize>]) -> (f64, f64) {
    let up = counted(candidates);
    let whole = mean(up.iter().copied());
    let means = groups.iter().map(|group| mean(group.iter().map(|&index| up[index])) / whole);
    means.fold((f64::MAX, 0.0), |(least, most), mean| (mean.min(least), mean.max(most)))
}

#[test]
fn a03_groups_are_of_one_region_where_regions_are_alike_in_uplink() {
    // Five regions of 200 with 2, 5, 10 and 23 Mbit/s each; at most the group at a border between two regions has members of both.
    let candidates: Vec<Candidate> =
        (0..1_000u32).map(|number| candidate(number, [2, 5, 10, 23][(number / 5 % 4) as usize], in_region((number % 5) as u16))).collect();
    let groups = grouped(&candidates);
    assert!(mixed(&candidates, &groups, |state| state.region) <= 4);
    let (least, most) = means(&candidates, &groups);
    assert!(least > 0.85 && most < 1.15, "{least} to {most} of the mean");
}

#[test]
fn a03_a_slow_region_is_mixed_with_others_and_those_in_balance_stay_by_themselves() {
    // Regions 0 and 4 have 5 and 15 Mbit/s, the three between them 10.
    let ups = [5, 10, 10, 10, 15];
    let candidates: Vec<Candidate> =
        (0..1_000u32).map(|number| candidate(number, ups[(number % 5) as usize], in_region((number % 5) as u16))).collect();
    let groups = grouped(&candidates);
    let (least, most) = means(&candidates, &groups);
    assert!(least > 0.85 && most < 1.15, "{least} to {most} of the mean");
    let regions = |group: &Vec<usize>| group.iter().filter_map(|&index| candidates[index].state.region).collect::<BTreeSet<Region>>();
    let pure = groups.iter().map(regions).filter(|regions| regions.len() == 1);
    let pure: Vec<u16> = pure.flatten().map(|region| region.0).collect();
    assert!(pure.iter().all(|region| (1..=3).contains(region)), "{pure:?}");
    let whole = 200 / groups[0].len() - 1;
    assert!((1..=3).all(|region| pure.iter().filter(|&&own| own == region).count() >= whole), "{pure:?}");
}

#[test]
fn a03_within_a_region_nat_then_round_trip_then_loss_decide() {
    let candidates: Vec<Candidate> = (0..1_600u32)
        .map(|number| {
            let state = CommunicationState {
                region: Some(Region((number % 2) as u16)),
                nat: if number / 2 % 2 == 0 { NatKind::Open } else { NatKind::EndpointDependent },
                round_trip_ms: Some(if number / 4 % 2 == 0 { 10 } else { 200 }),
                loss_ppm: Some(if number / 8 % 2 == 0 { 0 } else { 50_000 }),
            };
            candidate(number, 10, state)
        })
        .collect();
    let groups = grouped(&candidates);
    let mixed = [
        mixed(&candidates, &groups, |state| state.region),
        mixed(&candidates, &groups, |state| (state.region, state.nat == NatKind::Open)),
        mixed(&candidates, &groups, |state| (state.region, state.nat == NatKind::Open, state.round_trip_ms)),
        mixed(&candidates, &groups, |state| (state.region, state.nat == NatKind::Open, state.round_trip_ms, state.loss_ppm)),
    ];
    // Two regions have one border, the sixteen kinds fifteen.
    assert!(mixed.iter().zip([1, 3, 7, 15]).all(|(&mixed, borders)| mixed <= borders), "{mixed:?}");
}

#[test]
fn a03_one_machine_in_a_data_centre_does_not_mix_all_regions() {
    let up = |number| if number == 0 { 10_000 } else { [2, 5, 10, 23][(number / 5 % 4) as usize] };
    let candidates: Vec<Candidate> = (0..1_000u32).map(|number| candidate(number, up(number), in_region((number % 5) as u16))).collect();
    assert!(mixed(&candidates, &grouped(&candidates), |state| state.region) <= 4);
}

#[test]
fn b17_uplinks_that_are_not_known_are_spread_over_the_groups() {
    let candidates: Vec<Candidate> = (0..320u32)
        .map(|number| candidate(number, if number < 160 { 0 } else { u64::from(number % 7 + 1) }, CommunicationState::default()))
        .collect();
    for group in grouped(&candidates) {
        let unknown = group.iter().filter(|&&index| index < 160).count();
        assert!(unknown.abs_diff(group.len() / 2) <= 1, "{unknown} of {}", group.len());
    }
    let unknown: Vec<Candidate> = (0..100u32).map(|number| candidate(number, 0, CommunicationState::default())).collect();
    assert_eq!(grouped(&unknown).iter().map(Vec::len).sum::<usize>(), 100);
}

#[test]
fn a03_neighbours_in_the_tree_are_mostly_of_one_region() {
    // Four regions of 60 groups. A border is crossed by the links that are open at it: at most k − 1 per level and one. Filled level by level, 180 links
    // would cross one.
    let candidates: Vec<Candidate> = (0..3_840u32).map(|number| candidate(number, 10, in_region((number % 4) as u16))).collect();
    let shape = Shape { m: 16, k: 3, roots: 1 };
    let groups = plan_wave(&SwarmTree::default(), 0, &candidates, shape, false, &group_ids(0, 240)).unwrap();
    let region = |group: &PlannedGroup| (group.members[0].terminal_id.to_bytes()[15].wrapping_sub(1)) % 4;
    let regions: BTreeMap<GroupId, u8> = groups.iter().map(|group| (group.id, region(group))).collect();
    let across = groups.iter().filter(|group| group.parent.is_some_and(|parent| regions[&parent] != regions[&group.id])).count();
    assert_eq!(across, 14, "of 239 links");
}

#[test]
fn a03_a_region_of_unknown_uplinks_counts_as_the_median_and_stays_by_itself() {
    let ups = [0, 10, 10, 10];
    let candidates: Vec<Candidate> =
        (0..640u32).map(|number| candidate(number, ups[(number % 4) as usize], in_region((number % 4) as u16))).collect();
    assert!(mixed(&candidates, &grouped(&candidates), |state| state.region) <= 3);
}

fn some_state() -> impl Strategy<Value = CommunicationState> {
    let nat = prop::sample::select(vec![NatKind::Unknown, NatKind::Open, NatKind::EndpointIndependent, NatKind::EndpointDependent]);
    let region = prop::option::of((0u16..6).prop_map(Region));
    (region, prop::option::of(0u16..300), prop::option::of(0u32..200_000), nat)
        .prop_map(|(region, round_trip_ms, loss_ppm, nat)| CommunicationState { region, round_trip_ms, loss_ppm, nat })
}

fn some_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (prop_oneof![8 => 1u64..60, 1 => Just(0), 1 => 60u64..5_000], some_state());
    prop::collection::vec(one, 17..700)
        .prop_map(|all| (0u32..).zip(all).map(|(number, (up, state))| candidate(number, up, state)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a03_every_group_is_balanced_in_uplink_whatever_is_known(candidates in some_candidates()) {
        let groups = grouped(&candidates);
        let up = counted(&candidates);
        let whole = mean(up.iter().copied());
        let spread = up.iter().copied().fold(0.0, f64::max) - up.iter().copied().fold(f64::MAX, f64::min);
        for group in &groups {
            let own = mean(group.iter().map(|&index| up[index]));
            // An eighth for the block; what is dealt may miss its share by one seat at either end of the block, for each of two blocks.
            let within = whole / 8.0 + 2.0 * spread / group.len() as f64;
            prop_assert!((own - whole).abs() <= within * (1.0 + 1e-9), "a group has {own} Mbit/s, the wave {whole}, spread {spread}");
        }
    }

    #[test]
    fn a03_two_full_groups_of_one_kind_differ_by_less_than_one_member(uplinks in prop::collection::vec(1u64..100, 3..20), repeat in 1usize..5) {
        // A multiple of sixteen, of which nothing is known: one block of groups of one size.
        let count = uplinks.len() * 16 * repeat;
        let candidates: Vec<Candidate> = (0u32..).zip(uplinks.iter().cycle()).take(count)
            .map(|(number, &up)| candidate(number, up, CommunicationState::default())).collect();
        let shape = Shape { m: 16, k: 2, roots: 1 };
        let groups = plan_wave(&SwarmTree::default(), 0, &candidates, shape, false, &group_ids(0, count / 16)).unwrap();
        let sums: Vec<u64> = groups.iter().map(|group| group.members.iter().map(|member| member.up.0 / 1_000_000).sum()).collect();
        let spread = uplinks.iter().max().unwrap() - uplinks.iter().min().unwrap();
        prop_assert!(sums.iter().max().unwrap() - sums.iter().min().unwrap() <= spread, "{sums:?}, spread {spread}");
    }

    #[test]
    fn a03_kinds_that_fill_a_group_meet_only_at_their_borders(regions in prop::collection::vec(16usize..200, 2..7)) {
        let states = (0u16..).zip(&regions).flat_map(|(region, &count)| std::iter::repeat_n(in_region(region), count));
        let candidates: Vec<Candidate> = (0u32..).zip(states).map(|(number, state)| candidate(number, 10, state)).collect();
        prop_assert!(mixed(&candidates, &grouped(&candidates), |state| state.region) < regions.len());
    }

    #[test]
    fn a03_the_order_of_the_candidates_does_not_matter(candidates in some_candidates(), seed in any::<u64>()) {
        let mut shuffled = candidates.clone();
        shuffle(&mut shuffled, seed);
        let tree = SwarmTree::default();
        prop_assert_eq!(wave_below(&tree, 0, &shuffled), wave_below(&tree, 0, &candidates));
    }
}
