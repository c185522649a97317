//! What holds for every plan.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use protocol::ws::{Peer, PushMessage, PushPosition, ServerMessage, SwarmPlan};
use protocol::{BitsPerSecond, DeliveryId, EditionId, GroupId, PublicKey, ReleaseId, SwarmId, TerminalId, TimestampMs};

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

/// Plans waves of these uplinks, terminals numbered through, each wave with earlier holders if any earlier wave has members.
fn planned(waves: &[Vec<u64>]) -> SwarmTree {
    let mut tree = SwarmTree::default();
    let mut number = 0;
    for (wave, uplinks) in (0u32..).zip(waves) {
        let candidates: Vec<Peer> = (number..).zip(uplinks).map(|(number, &up)| peer(number, up)).collect();
        number += u32::try_from(uplinks.len()).unwrap();
        let ids = group_ids(wave, groups_needed(candidates.len()));
        let groups = plan_wave(&tree, wave, &candidates, !tree.groups().is_empty(), &ids).unwrap();
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
fn one_wave_of_twenty_becomes_two_balanced_groups_in_a_chain() {
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
fn a_wave_without_an_earlier_holder_has_a_root_of_its_own() {
    // Wave 0 is empty.
    let tree = planned(&[vec![], vec![5; 17]]);
    assert_eq!(tree.groups().iter().map(|group| group.root).collect::<Vec<_>>(), [true, false]);
    // Wave 0 is planned, but nobody of it is there.
    let tree = planned(&[vec![5; 4]]);
    let groups = plan_wave(&tree, 1, &[peer(100, 5)], false, &group_ids(1, 1)).unwrap();
    assert!(groups[0].root && groups[0].parent.is_none());
    let tree = tree.with_wave(groups).unwrap();
    assert!(tree.view(terminal(0)).unwrap().children.is_empty());
}

#[test]
fn what_is_not_a_plan_is_refused() {
    let tree = planned(&[vec![5; 4], vec![5; 4]]);
    let plan = |wave, candidates: &[Peer], count| plan_wave(&tree, wave, candidates, true, &group_ids(9, count));
    assert_eq!(plan(1, &[peer(50, 1)], 1), Err(PlanError::WaveOrder { wave: 1, latest: 1 }));
    assert_eq!(plan(2, &[peer(50, 1)], 2), Err(PlanError::GroupIds { needed: 1, given: 2 }));
    assert_eq!(plan(2, &[peer(50, 1), peer(50, 2)], 1), Err(PlanError::TerminalTwice(terminal(50))));
    assert_eq!(plan(2, &[peer(3, 1)], 1), Err(PlanError::TerminalTwice(terminal(3))));
    assert_eq!(plan(2, &[], 0), Ok(Vec::new()));

    let broken = |change: &dyn Fn(&mut Vec<PlannedGroup>)| {
        let mut groups = tree.groups().to_vec();
        change(&mut groups);
        SwarmTree::new(groups).map(|_| ()).unwrap_err()
    };
    let (first, second) = (tree.groups()[0].id, tree.groups()[1].id);
    assert_eq!(broken(&|groups| groups[1].members.clear()), PlanError::GroupSize(second));
    assert_eq!(broken(&|groups| groups[0].members = (0..17).map(|number| peer(number, 1)).collect()), PlanError::GroupSize(first));
    assert_eq!(broken(&|groups| groups[1].id = first), PlanError::GroupTwice(first));
    assert_eq!(broken(&|groups| groups[1].wave = 0), PlanError::GroupTwice(second));
    assert_eq!(broken(&|groups| groups[1].parent = Some(second)), PlanError::Parent(second));
    assert_eq!(broken(&|groups| groups[1].parent = None), PlanError::Parent(second));
    assert_eq!(broken(&|groups| groups[1].root = true), PlanError::Parent(second));
    assert_eq!(broken(&|groups| groups[0].root = false), PlanError::Parent(first));
    assert_eq!(broken(&|groups| groups[1].members[0] = peer(0, 1)), PlanError::TerminalTwice(terminal(0)));
    assert_eq!(tree.view(terminal(99)), None);
}

#[test]
fn the_longest_plan_fits_a_websocket_message() {
    // Eight full groups, a group of one, eight full groups: the one in the middle is paired with everybody.
    let full = vec![9_999_999_999; 16];
    let mut waves = vec![full.clone(); 8];
    waves.push(vec![9_999_999_999]);
    waves.extend(vec![full; 8]);
    let tree = planned(&waves);
    let longest = views(&tree)
        .into_values()
        .map(|view| {
            let plan = SwarmPlan {
                release_id: ReleaseId::from_bytes([255; 16]),
                swarm_id: SwarmId::from_bytes([255; 16]),
                edition_id: EditionId([255; 32]),
                delivery_id: DeliveryId::from_bytes([255; 16]),
                epoch: u64::MAX >> 11,
                rank: u32::MAX,
                opens_at: TimestampMs(u64::MAX >> 11),
                deadline_at: TimestampMs(u64::MAX >> 11),
                group_id: view.group_id,
                root: view.root,
                members: view.members,
                parents: view.parents,
                children: view.children,
                serves: view.serves,
            };
            let position = PushPosition { epoch: u64::MAX >> 11, offset: u64::MAX >> 11 };
            serde_json::to_string(&ServerMessage::Push { position, message: PushMessage::Plan(Box::new(plan)) }).unwrap().len()
        })
        .max();
    assert!(longest.is_some_and(|bytes| (50_000..protocol::ws::MESSAGE_MAX).contains(&bytes)), "{longest:?} bytes");
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
            prop_assert_eq!(sizes.len(), uplinks.len().div_ceil(16));
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
    fn the_groups_of_a_wave_are_balanced_in_uplink(uplinks in prop::collection::vec(0u64..100, 17..120)) {
        let tree = planned(std::slice::from_ref(&uplinks));
        let full = tree.groups().iter().map(|group| group.members.len()).max().unwrap();
        let means: Vec<u64> = tree.groups().iter().filter(|group| group.members.len() == full)
            .map(|group| group.members.iter().map(|member| member.up.0 / 1_000_000).sum::<u64>()).collect();
        // Dealt forth and back, two groups differ by less than the whole spread of one seat, plus the last, unpaired round.
        let spread = uplinks.iter().max().unwrap() - uplinks.iter().min().unwrap();
        prop_assert!(means.iter().max().unwrap() - means.iter().min().unwrap() <= 2 * spread, "{means:?}, spread {spread}");
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
    fn everybody_below_the_root_has_a_source_and_every_group_but_the_last_somebody_to_copy_to(waves in some_waves()) {
        let tree = planned(&waves);
        let last = tree.groups().last().map(|group| group.id);
        for view in views(&tree).into_values() {
            prop_assert!(view.root || !view.parents.is_empty());
            prop_assert_eq!(view.children.len(), usize::from(Some(view.group_id) != last));
            prop_assert!(view.children.iter().all(|child| !child.contacts.is_empty()));
        }
        prop_assert_eq!(tree.groups().iter().filter(|group| group.root).count(), usize::from(last.is_some()));
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
        let mut number = 0;
        for (wave, uplinks) in (0u32..).zip(&waves) {
            let mut candidates: Vec<Peer> = (number..).zip(uplinks).map(|(number, &up)| peer(number, up)).collect();
            number += u32::try_from(uplinks.len()).unwrap();
            candidates.sort_by_key(|peer| blake3::hash(&[&peer.terminal_id.to_bytes()[..], &seed.to_le_bytes()].concat()).to_hex());
            let ids = group_ids(wave, groups_needed(candidates.len()));
            let groups = plan_wave(&shuffled, wave, &candidates, !shuffled.groups().is_empty(), &ids).unwrap();
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
