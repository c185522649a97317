//! What holds for every plan.

mod changes;
mod grouping;
mod message;
mod trees;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use protocol::ws::Peer;
use protocol::{BitsPerSecond, DeliveryId, GroupId, PublicKey, TerminalId};

use super::*;

fn terminal(number: u32) -> TerminalId {
    TerminalId::from_bytes((u128::from(number) + 1).to_be_bytes())
}

fn peer(number: u32, up_mbit: u64) -> Peer {
    Peer {
        terminal_id: terminal(number),
        public_key: PublicKey([0xAB; 32]),
        delivery_id: DeliveryId::from_bytes((u128::from(number) + 1).to_be_bytes()),
        up: BitsPerSecond::from_mbit(up_mbit),
    }
}

fn group_ids(wave: u32, count: usize) -> Vec<GroupId> {
    (0..count).map(|index| GroupId::from_bytes(((u128::from(wave) << 64) + index as u128 + 1).to_be_bytes())).collect()
}

/// Chunks of the editions that are planned for here, unless a test is about them.
const CHUNKS: u32 = 512;

/// Plans one wave below a tree that may be empty, in the shape that is chosen for it.
fn wave_below(tree: &SwarmTree, wave: u32, candidates: &[Candidate]) -> Vec<PlannedGroup> {
    let shape = choose_shape(candidates.len(), CHUNKS, 1);
    plan_wave(tree, wave, candidates, shape, !tree.groups().is_empty(), &group_ids(wave, shape.groups(candidates.len()))).unwrap()
}

/// Candidates of waves of these uplinks, terminals numbered through; those of later waves are tied to one of wave 0 each.
fn candidates_of(waves: &[Vec<u64>]) -> Vec<Vec<Candidate>> {
    let primaries = waves.first().map_or(0, |wave| u32::try_from(wave.len()).unwrap());
    let mut numbers = 0u32..;
    let tied = |number: u32| number.checked_rem(primaries).filter(|_| number >= primaries).map(terminal);
    let candidate = |(number, &up)| Candidate { primary: tied(number), ..peer(number, up).into() };
    waves.iter().map(|wave| numbers.by_ref().zip(wave).map(candidate).collect()).collect()
}

/// Plans waves of these uplinks, each wave with earlier holders if any earlier wave has members.
fn planned(waves: &[Vec<u64>]) -> SwarmTree {
    let mut tree = SwarmTree::default();
    for (wave, candidates) in (0u32..).zip(candidates_of(waves)) {
        let groups = wave_below(&tree, wave, &candidates);
        tree = tree.with_wave(groups).unwrap();
    }
    tree
}

fn views(tree: &SwarmTree) -> BTreeMap<TerminalId, TerminalView> {
    let terminals = tree.groups().iter().flat_map(|group| &group.members).map(|member| member.terminal_id);
    terminals.map(|terminal| (terminal, tree.view(terminal).unwrap())).collect()
}

fn ids(peers: &[Peer]) -> BTreeSet<TerminalId> {
    let set: BTreeSet<_> = peers.iter().map(|peer| peer.terminal_id).collect();
    assert_eq!(set.len(), peers.len(), "nobody stands twice in one list");
    set
}

fn wave_of(tree: &SwarmTree, terminal: TerminalId) -> u32 {
    let group = tree.view(terminal).unwrap().group_id;
    tree.groups().iter().find(|planned| planned.id == group).unwrap().wave
}

#[test]
fn one_wave_of_twenty_becomes_two_balanced_groups() {
    let tree = planned(&[(1..=20).collect()]);
    let [first, second] = tree.groups() else { panic!("{} groups", tree.groups().len()) };
    assert!(first.root && first.parent.is_none());
    assert!(!second.root && second.parent == Some(first.id));
    let sum = |group: &PlannedGroup| group.members.iter().map(|member| member.up.0 / 1_000_000).sum::<u64>();
    assert_eq!((sum(first), sum(second)), (105, 105));
    assert_eq!(first.members[0].up, BitsPerSecond::from_mbit(20), "the fastest stands first");
}

#[test]
fn the_pairs_between_two_groups_are_those_of_the_rule() {
    // 16 above, 3 below: (i, i mod 3) for all 16, and (j, j), which are among them.
    let tree = planned(&[vec![1; 16], vec![1; 3]]);
    let parent = tree.groups()[0].members[4].terminal_id;
    let child = tree.groups()[1].members[1].terminal_id;
    let below = tree.view(child).unwrap();
    let above: BTreeSet<_> = [1, 4, 7, 10, 13].into_iter().map(|index| tree.groups()[0].members[index].terminal_id).collect();
    assert_eq!(ids(&below.parents), above);
    assert_eq!(ids(&tree.view(parent).unwrap().serves), BTreeSet::from([child]));
    // 2 above, 5 below: (j mod 2, j).
    let tree = planned(&[vec![1; 2], vec![1; 5]]);
    let first = tree.view(tree.groups()[0].members[0].terminal_id).unwrap();
    assert_eq!(ids(&first.serves), [0, 2, 4].into_iter().map(|index| tree.groups()[1].members[index].terminal_id).collect());
}

#[test]
fn a17_a_group_pulls_from_the_groups_of_its_primaries_before_any_other() {
    // Sixteen groups, of which the first one serves most of all, so that it is nobody's choice without a tie.
    let tree = planned(&[vec![5; 256]]);
    let above_of = |primaries: [u32; 2]| {
        let candidates: Vec<Candidate> = (300..316)
            .map(|number| Candidate { primary: Some(terminal(primaries[usize::from(number < 303)])), ..peer(number, 5).into() })
            .collect();
        let tree = tree.clone().with_wave(wave_below(&tree, 1, &candidates)).unwrap();
        let group_of = |peer: &Peer| tree.groups().iter().position(|group| group.members.contains(peer)).unwrap();
        let linked: BTreeSet<usize> =
            (300..316).flat_map(|number| tree.view(terminal(number)).unwrap().parents).map(|peer| group_of(&peer)).collect();
        assert_eq!(linked.len(), LINKED_GROUPS_MAX);
        linked
    };
    let member = |group: usize| tree.groups()[group].members[3].terminal_id;
    let number = |terminal: TerminalId| u32::try_from(terminal.0.as_u128() - 1).unwrap();
    let least_chosen = |linked: &BTreeSet<usize>| (0..15).find(|group| !linked.contains(group)).unwrap();
    let first = least_chosen(&above_of([number(member(15)); 2]));
    let tied = above_of([number(member(first)); 2]);
    assert!(tied.contains(&first), "{first} is not in {tied:?}");
    let second = least_chosen(&tied);
    let both = above_of([number(member(first)), number(member(second))]);
    assert!(both.contains(&first) && both.contains(&second), "{first} and {second} are not in {both:?}");
}

#[test]
fn a_wave_without_an_earlier_holder_has_a_root_of_its_own() {
    // Wave 0 is empty.
    let tree = planned(&[vec![], vec![5; 17]]);
    assert_eq!(tree.groups().iter().map(|group| group.root).collect::<Vec<_>>(), [true, false]);
    // Wave 0 is planned, but nobody of it is there.
    let tree = planned(&[vec![5; 4]]);
    let alone = Shape { m: 1, k: 0, roots: 1 };
    let groups = plan_wave(&tree, 1, &[peer(100, 5).into()], alone, false, &group_ids(1, 1)).unwrap();
    assert!(groups[0].root && groups[0].parent.is_none());
    let tree = tree.with_wave(groups).unwrap();
    assert!(tree.view(terminal(0)).unwrap().children.is_empty());
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let tree = planned(&[vec![5; 4], vec![5; 4]]);
    let plan = |wave, peers: &[Peer], count| {
        let candidates: Vec<Candidate> = peers.iter().cloned().map(Candidate::from).collect();
        plan_wave(&tree, wave, &candidates, choose_shape(candidates.len(), CHUNKS, 1), true, &group_ids(9, count))
    };
    assert_eq!(plan(1, &[peer(50, 1)], 1), Err(PlanError::WaveOrder { wave: 1, latest: 1 }));
    assert_eq!(plan(2, &[peer(50, 1)], 2), Err(PlanError::GroupIds { needed: 1, given: 2 }));
    assert_eq!(plan(2, &[peer(50, 1), peer(50, 2)], 1), Err(PlanError::TerminalTwice(terminal(50))));
    assert_eq!(plan(2, &[peer(3, 1)], 1), Err(PlanError::TerminalTwice(terminal(3))));
    assert_eq!(plan(2, &[], 0), Ok(Vec::new()));

    let candidates: Vec<Candidate> = (50..70).map(|number| peer(number, 1).into()).collect();
    let shaped = |m, k, roots, earlier_holder| {
        let shape = Shape { m, k, roots };
        let groups = plan_wave(&tree, 2, &candidates, shape, earlier_holder, &group_ids(9, shape.groups(20)));
        groups.map(|groups| groups.len()).map_err(|error| error == PlanError::Shape { shape, candidates: 20 })
    };
    let cases = [
        ((16, 1, 1, true), Ok(2)),
        ((0, 1, 1, true), Err(true)),
        ((17, 1, 1, true), Err(true)),
        ((16, 9, 1, true), Err(true)),
        ((16, 1, 0, true), Err(true)),
        ((16, 0, 1, true), Err(true)),
        // Two groups that the origin feeds need no child; below an earlier holder the second one does.
        ((16, 0, 2, false), Ok(2)),
        ((16, 0, 2, true), Err(true)),
    ];
    for ((m, k, roots, earlier_holder), expected) in cases {
        assert_eq!(shaped(m, k, roots, earlier_holder), expected, "m = {m}, k = {k}, {roots} roots, {earlier_holder}");
    }
}

fn shuffle(candidates: &mut [Candidate], seed: u64) {
    candidates
        .sort_by_key(|candidate| *blake3::hash(&[&candidate.peer.terminal_id.to_bytes()[..], &seed.to_le_bytes()].concat()).as_bytes());
}

fn some_waves() -> impl Strategy<Value = Vec<Vec<u64>>> {
    prop::collection::vec(prop::collection::vec(0u64..100, 0..90), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_winner_is_in_exactly_one_group_and_sizes_differ_by_one_at_most(waves in some_waves()) {
        let tree = planned(&waves);
        let mut seen = BTreeSet::new();
        for (wave, uplinks) in (0u32..).zip(&waves) {
            let sizes: Vec<usize> = tree.groups().iter().filter(|group| group.wave == wave).map(|group| group.members.len()).collect();
            prop_assert_eq!(sizes.len(), choose_shape(uplinks.len(), CHUNKS, 1).groups(uplinks.len()));
            prop_assert_eq!(sizes.iter().sum::<usize>(), uplinks.len());
            let (least, most) = (sizes.iter().min(), sizes.iter().max());
            prop_assert!(most.zip(least).is_none_or(|(most, least)| most - least <= 1 && *most <= 16));
        }
        for member in tree.groups().iter().flat_map(|group| &group.members) {
            prop_assert!(seen.insert(member.terminal_id));
        }
        prop_assert_eq!(seen.len(), waves.iter().map(Vec::len).sum::<usize>());
    }

    #[test]
    fn pairs_are_the_same_seen_from_both_ends(waves in some_waves()) {
        let tree = planned(&waves);
        let views = views(&tree);
        for (&own, view) in &views {
            prop_assert!(!ids(&view.members).contains(&own));
            for member in ids(&view.members) {
                prop_assert!(ids(&views[&member].members).contains(&own));
            }
            for parent in ids(&view.parents) {
                prop_assert!(ids(&views[&parent].serves).contains(&own), "a parent does not serve");
            }
            for served in ids(&view.serves) {
                prop_assert!(ids(&views[&served].parents).contains(&own), "one that is served has no such parent");
            }
            for contact in view.children.iter().flat_map(|child| ids(&child.contacts)) {
                prop_assert!(ids(&view.serves).contains(&contact), "a push target may also pull");
            }
        }
    }

    #[test]
    fn b31_each_way_leads_over_a_member_that_may_contact_the_destination(waves in some_waves()) {
        let tree = planned(&waves);
        let all = views(&tree);
        for (&terminal, view) in &all {
            let members = ids(&view.members);
            for child in &view.children {
                prop_assert_eq!(child.ways.len(), protocol::ws::WAYS_MAX.min(members.len()));
                let over: BTreeSet<_> = child.ways.iter().map(|way| way.member).collect();
                prop_assert_eq!(over.len(), child.ways.len(), "each over another member");
                for way in &child.ways {
                    prop_assert!(way.member != terminal && members.contains(&way.member));
                    let theirs = all[&way.member].children.iter().find(|other| other.group_id == child.group_id);
                    prop_assert!(theirs.is_some_and(|theirs| ids(&theirs.contacts).contains(&way.contact)));
                }
            }
        }
    }

    #[test]
    fn everybody_below_the_root_has_a_source_and_nobody_a_child_group_without_a_contact(waves in some_waves()) {
        let tree = planned(&waves);
        for view in views(&tree).into_values() {
            prop_assert!(view.root || !view.parents.is_empty());
            prop_assert!(view.children.iter().all(|child| !child.contacts.is_empty()));
        }
        prop_assert_eq!(tree.groups().iter().filter(|group| group.root).count(), usize::from(!tree.groups().is_empty()));
    }

    #[test]
    fn with_few_groups_every_group_of_an_earlier_wave_is_a_source(waves in prop::collection::vec(prop::collection::vec(0u64..100, 1..17), 1..9)) {
        let tree = planned(&waves);
        let groups: BTreeMap<TerminalId, u32> =
            tree.groups().iter().flat_map(|group| group.members.iter().map(|member| (member.terminal_id, group.wave))).collect();
        for (own, view) in views(&tree) {
            let above: BTreeSet<u32> = view.parents.iter().map(|parent| groups[&parent.terminal_id]).collect();
            prop_assert_eq!(above, (0..groups[&own]).collect::<BTreeSet<u32>>());
        }
    }

    #[test]
    fn nobody_is_told_of_a_later_wave_and_the_earlier_links_stay_when_it_comes(waves in some_waves()) {
        let tree = planned(&waves);
        for known in 1..=waves.len() {
            let earlier = planned(&waves[..known]);
            for (own, view) in views(&earlier) {
                let later = tree.view(own).unwrap();
                prop_assert_eq!(&later.members, &view.members);
                prop_assert_eq!(&later.parents, &view.parents);
                prop_assert!(ids(&view.serves).is_subset(&ids(&later.serves)));
                let own_wave = wave_of(&tree, own);
                prop_assert!(view.parents.iter().all(|parent| wave_of(&tree, parent.terminal_id) <= own_wave));
                prop_assert!(view.serves.iter().all(|served| wave_of(&tree, served.terminal_id) < u32::try_from(known).unwrap()));
            }
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(waves in some_waves(), seed in any::<u64>()) {
        let tree = planned(&waves);
        let mut shuffled = SwarmTree::default();
        for (wave, mut candidates) in (0u32..).zip(candidates_of(&waves)) {
            shuffle(&mut candidates, seed);
            let groups = wave_below(&shuffled, wave, &candidates);
            shuffled = shuffled.with_wave(groups).unwrap();
        }
        prop_assert_eq!(shuffled.groups(), tree.groups());
        let reversed = SwarmTree::new(tree.groups().iter().rev().cloned().collect()).unwrap();
        prop_assert_eq!(views(&reversed), views(&tree));
    }

    #[test]
    fn no_group_is_linked_to_more_than_it_can_carry(waves in prop::collection::vec(prop::collection::vec(0u64..100, 100..400), 1..4)) {
        let tree = planned(&waves);
        let groups: BTreeMap<TerminalId, GroupId> =
            tree.groups().iter().flat_map(|group| group.members.iter().map(|member| (member.terminal_id, group.id))).collect();
        for view in views(&tree).into_values() {
            for peers in [&view.parents, &view.serves] {
                let linked: BTreeSet<GroupId> = peers.iter().map(|peer| groups[&peer.terminal_id]).collect();
                prop_assert!(linked.len() <= LINKED_GROUPS_MAX);
            }
        }
    }
}
