//! A plan that was told as a difference is the plan that would have been told whole.

use protocol::plan_change::PlanChange;
use protocol::ws::{ChildGroup, SwarmPlan};
use protocol::{EditionId, ReleaseId, SwarmId, TimestampMs};

use super::*;

/// What the server tells of a view.
fn told(view: &TerminalView, epoch: u64) -> SwarmPlan {
    let own = DeliveryId::from_bytes([7; 16]);
    SwarmPlan {
        release_id: ReleaseId::from_bytes([1; 16]),
        swarm_id: SwarmId::from_bytes([2; 16]),
        edition_id: EditionId([3; 32]),
        delivery_id: own,
        epoch,
        rank: 1,
        opens_at: TimestampMs(0),
        deadline_at: TimestampMs(1),
        group_id: view.group_id,
        root: view.root,
        members: view.members.clone(),
        parents: view.parents.clone(),
        children: view.children.clone(),
        serves: view.serves.clone(),
        sealed: None,
    }
}

proptest! {
    #[test]
    fn b13_each_wave_told_as_a_difference_is_the_plan_told_whole(waves in some_waves()) {
        let mut known: BTreeMap<TerminalId, SwarmPlan> = BTreeMap::new();
        for opened in 1..=waves.len() {
            let tree = planned(&waves[..opened]);
            let epoch = tree.groups().len() as u64;
            for (terminal, view) in views(&tree) {
                let whole = told(&view, epoch);
                if let Some(before) = known.get(&terminal).filter(|before| before.epoch < epoch) {
                    let change = PlanChange::between(before, &whole);
                    prop_assert!(change.is_some(), "the group of a terminal stays the same");
                    prop_assert_eq!(change.and_then(|change| change.apply(before)), Some(whole.clone()));
                }
                known.insert(terminal, whole);
            }
        }
    }

    /// Whoever leaves the lists for a while and comes back stands where it stood.
    #[test]
    fn b17_a_member_that_leaves_and_returns_is_in_the_lists_as_before(waves in some_waves(), pick in any::<prop::sample::Index>()) {
        let tree = planned(&waves);
        let all = views(&tree);
        if all.is_empty() {
            return Ok(());
        }
        let gone = *all.keys().nth(pick.index(all.len())).unwrap();
        let without = |peers: &[Peer]| peers.iter().filter(|peer| peer.terminal_id != gone).cloned().collect::<Vec<_>>();
        for (_, view) in all.iter().filter(|(terminal, _)| **terminal != gone) {
            let before = told(view, 1);
            let mut thinner = SwarmPlan { epoch: 2, ..before.clone() };
            (thinner.members, thinner.parents, thinner.serves) = (without(&before.members), without(&before.parents), without(&before.serves));
            let contacts = |child: &ChildGroup| ChildGroup {
                group_id: child.group_id,
                contacts: without(&child.contacts),
                ways: child.ways.iter().filter(|way| way.member != gone && way.contact != gone).copied().collect(),
            };
            thinner.children = before.children.iter().map(contacts).collect();
            let away = PlanChange::between(&before, &thinner).unwrap().apply(&before);
            prop_assert_eq!(away.as_ref(), Some(&thinner));
            prop_assert!(thinner.peers().all(|peer| peer.terminal_id != gone));
            let back = SwarmPlan { epoch: 3, ..before };
            prop_assert_eq!(PlanChange::between(&thinner, &back).unwrap().apply(&thinner), Some(back));
        }
    }
}
