//! The groups of a wave stand in a tree, and stored groups are one or are refused.

use super::*;

/// The level of each group below its wave's first level, from 1, in the order of positions.
fn levels(groups: &[PlannedGroup]) -> Vec<usize> {
    let mut levels: BTreeMap<GroupId, usize> = BTreeMap::new();
    for group in groups {
        let above = group.parent.and_then(|parent| levels.get(&parent)).copied().unwrap_or(0);
        levels.insert(group.id, above + 1);
    }
    groups.iter().map(|group| levels[&group.id]).collect()
}

fn children(groups: &[PlannedGroup]) -> BTreeMap<GroupId, usize> {
    let mut children = BTreeMap::new();
    for parent in groups.iter().filter_map(|group| group.parent) {
        *children.entry(parent).or_default() += 1;
    }
    children
}

fn wave_of(count: usize, shape: Shape) -> Vec<PlannedGroup> {
    let candidates: Vec<Candidate> = (0u32..).take(count).map(|number| peer(number, 5).into()).collect();
    plan_wave(&SwarmTree::default(), 0, &candidates, shape, false, &group_ids(0, shape.groups(count))).unwrap()
}

#[test]
fn b29_positions_go_down_one_branch_after_the_other() {
    // Seven groups, two children each: 0 has 1 and 4; 1 has 2 and 3; 4 has 5 and 6.
    let groups = wave_of(7, Shape { m: 1, k: 2, roots: 1 });
    let parents: Vec<_> =
        groups.iter().map(|group| group.parent.map(|parent| groups.iter().position(|other| other.id == parent).unwrap())).collect();
    assert_eq!(parents, [None, Some(0), Some(1), Some(1), Some(0), Some(4), Some(4)]);
    assert_eq!(levels(&groups), [1, 2, 3, 3, 2, 3, 3]);
    // Two roots: 0 has 1 and 2, 3 has 4.
    let groups = wave_of(5, Shape { m: 1, k: 2, roots: 2 });
    assert_eq!(groups.iter().map(|group| group.root).collect::<Vec<_>>(), [true, false, false, true, false]);
}

#[test]
fn b29_a_group_copies_to_each_of_its_child_groups() {
    let tree = SwarmTree::new(wave_of(16 * 4, Shape { m: 16, k: 3, roots: 1 })).unwrap();
    let [root, below @ ..] = tree.groups() else { panic!("no group") };
    for member in &root.members {
        let view = tree.view(member.terminal_id).unwrap();
        assert_eq!(
            view.children.iter().map(|child| child.group_id).collect::<Vec<_>>(),
            below.iter().map(|group| group.id).collect::<Vec<_>>()
        );
        assert!(view.children.iter().all(|child| child.contacts.len() == 1), "of two full groups each has one contact");
    }
}

#[test]
fn what_is_not_a_plan_is_refused() {
    let tree = planned(&[vec![5; 4], vec![5; 4], vec![5; 4]]);
    let broken = |change: &dyn Fn(&mut Vec<PlannedGroup>)| {
        let mut groups = tree.groups().to_vec();
        change(&mut groups);
        SwarmTree::new(groups).map(|_| ()).unwrap_err()
    };
    let [first, second, third] = [0, 1, 2].map(|index| tree.groups()[index].id);
    assert_eq!(broken(&|groups| groups[1].members.clear()), PlanError::GroupSize(second));
    assert_eq!(broken(&|groups| groups[0].members = (0..17).map(|number| peer(number, 1)).collect()), PlanError::GroupSize(first));
    assert_eq!(broken(&|groups| groups[1].id = first), PlanError::GroupTwice(first));
    assert_eq!(broken(&|groups| groups[1].wave = 0), PlanError::GroupTwice(second));
    assert_eq!(broken(&|groups| groups[1].parent = Some(second)), PlanError::Parent(second));
    assert_eq!(broken(&|groups| groups[1].parent = Some(third)), PlanError::Parent(second));
    assert_eq!(broken(&|groups| groups[1].parent = Some(GroupId::from_bytes([9; 16]))), PlanError::Parent(second));
    assert_eq!(broken(&|groups| groups[1].parent = None), PlanError::Parent(second));
    assert_eq!(broken(&|groups| groups[1].root = true), PlanError::Parent(second));
    assert_eq!(broken(&|groups| groups[0].root = false), PlanError::Parent(first));
    assert_eq!(broken(&|groups| groups[2].parent = Some(first)), PlanError::Parent(third), "a second child of a later wave");
    assert_eq!(broken(&|groups| groups[1].members[0] = peer(0, 1)), PlanError::TerminalTwice(terminal(0)));
    assert_eq!(tree.view(terminal(99)), None);
}

#[test]
fn a_parent_has_room_for_eight_groups_and_no_more() {
    let below_one = |count: u32| {
        let groups = wave_of(1, Shape { m: 1, k: 1, roots: 1 }).into_iter();
        let ids = group_ids(7, 20);
        let children = (1..=count).zip(ids).map(|(position, id)| PlannedGroup {
            id,
            wave: 0,
            position,
            parent: Some(group_ids(0, 1)[0]),
            root: false,
            members: vec![peer(position, 1)],
            primaries: Vec::new(),
        });
        SwarmTree::new(groups.chain(children).collect()).map(|tree| tree.groups().len())
    };
    assert_eq!(below_one(8), Ok(9));
    assert_eq!(below_one(9), Err(PlanError::Parent(group_ids(7, 20)[8])));
}

#[test]
fn a_chain_that_was_stored_before_groups_had_several_children_is_still_a_plan() {
    let ids = group_ids(0, 3).into_iter().chain(group_ids(1, 3)).collect::<Vec<_>>();
    let stored: Vec<PlannedGroup> = (0u32..6)
        .map(|index| PlannedGroup {
            id: ids[index as usize],
            wave: index / 3,
            position: index % 3,
            parent: index.checked_sub(1).map(|before| ids[before as usize]),
            root: index == 0,
            members: vec![peer(index, 1)],
            primaries: Vec::new(),
        })
        .collect();
    let tree = SwarmTree::new(stored).unwrap();
    // Each pulls from the one before; those of wave 1 from all of wave 0 besides.
    for (index, above) in [(0, vec![]), (1, vec![0]), (2, vec![1]), (3, vec![2, 0, 1]), (4, vec![3, 0, 1, 2]), (5, vec![4, 0, 1, 2])] {
        let parents: Vec<TerminalId> = tree.view(terminal(index)).unwrap().parents.iter().map(|peer| peer.terminal_id).collect();
        assert_eq!(parents, above.into_iter().map(terminal).collect::<Vec<_>>(), "group {index}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn b29_a_wave_is_a_tree_of_as_few_levels_as_its_children_allow(count in 0usize..400, m in 1usize..=16, k in 1usize..=8, roots in 1usize..4) {
        let shape = Shape { m, k, roots };
        let groups = wave_of(count, shape);
        prop_assert_eq!(levels(&groups).into_iter().max().unwrap_or(0), shape.depth(groups.len()));
        prop_assert!(children(&groups).values().all(|&children| children <= k));
        prop_assert_eq!(groups.iter().filter(|group| group.root).count(), roots.min(groups.len()));
        prop_assert!(groups.iter().all(|group| group.members.len() <= m));
        let tree = SwarmTree::new(groups.clone()).unwrap();
        prop_assert_eq!(tree.groups(), &groups[..]);
    }

    #[test]
    fn a_wave_hangs_below_the_last_group_before_it(waves in prop::collection::vec(1usize..300, 1..4)) {
        let tree = planned(&waves.iter().map(|&count| vec![5; count]).collect::<Vec<_>>());
        let children = children(tree.groups());
        for pair in tree.groups().windows(2).filter(|pair| pair[0].wave < pair[1].wave) {
            prop_assert_eq!(pair[1].parent, Some(pair[0].id));
            prop_assert_eq!(children[&pair[0].id], 1, "it has no child in its own wave");
        }
    }
}
