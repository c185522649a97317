//! What became different in a terminal's plan: small where the plan is long, because a wave adds a few links to those who are there already.
//!
//! Flow: the server has told a plan of some epoch → the swarm's plan changes → [`PlanChange::between`] the two goes out → the terminal, if its plan is of an
//! epoch that the change begins at, makes the new plan by [`PlanChange::apply`]; if not, it asks for the whole one. Applied or told whole, the plan is
//! the same to the last position in a list.

use serde::{Deserialize, Serialize};

use crate::ids::*;
use crate::ws::{ChildGroup, Peer, SwarmPlan};

/// What stands in a list of a plan, each once.
pub trait Listed: Clone + PartialEq {
    type Id: Copy + PartialEq;
    fn id(&self) -> Self::Id;
}

impl Listed for Peer {
    type Id = TerminalId;
    fn id(&self) -> TerminalId {
        self.terminal_id
    }
}

/// A child group with other contacts or ways is another child group.
impl Listed for ChildGroup {
    type Id = GroupId;
    fn id(&self) -> GroupId {
        self.group_id
    }
}

/// What became different in one list: who left it, and who stands where that did not before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>, T::Id: Deserialize<'de>", serialize = "T: Serialize, T::Id: Serialize"))]
pub struct ListChange<T: Listed> {
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<T::Id>,
    /// With the position in the new list, rising.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<(u32, T)>,
}

impl<T: Listed> ListChange<T> {
    /// Whatever changed its facts or its place among the others leaves and joins.
    fn between(before: &[T], after: &[T]) -> Self {
        let (mut joined, mut stays, mut next) = (Vec::new(), vec![false; before.len()], 0);
        for (position, item) in (0..).zip(after) {
            let found = before.iter().skip(next).position(|known| known == item).map(|offset| next + offset);
            match found {
                Some(index) => {
                    stays[index] = true;
                    next = index + 1;
                }
                None => joined.push((position, item.clone())),
            }
        }
        let left = before.iter().zip(stays).filter(|(_, stays)| !stays).map(|(item, _)| item.id()).collect();
        Self { left, joined }
    }

    /// `None` if the list is not the one that this is the change of.
    fn apply(&self, before: &[T]) -> Option<Vec<T>> {
        if self.left.iter().any(|left| before.iter().all(|item| item.id() != *left)) {
            return None;
        }
        let mut list: Vec<T> = before.iter().filter(|item| !self.left.contains(&item.id())).cloned().collect();
        for (position, item) in &self.joined {
            let position = usize::try_from(*position).ok().filter(|position| *position <= list.len())?;
            if list.iter().any(|other| other.id() == item.id()) {
                return None;
            }
            list.insert(position, item.clone());
        }
        Some(list)
    }

    fn is_empty(&self) -> bool {
        self.left.is_empty() && self.joined.is_empty()
    }
}

/// How one epoch of a terminal's plan within a swarm comes out of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChange {
    pub release_id: ReleaseId,
    pub swarm_id: SwarmId,
    /// A plan of this epoch, or of one between it and `to`, is what this changes: in between, nothing that concerns this terminal became different.
    pub from: u64,
    pub to: u64,
    pub members: ListChange<Peer>,
    pub parents: ListChange<Peer>,
    pub children: ListChange<ChildGroup>,
    pub serves: ListChange<Peer>,
}

impl PlanChange {
    /// The change from one plan to a later one of the same terminal in the same swarm. `None` if more than the lists became different: then the whole plan
    /// is to be told.
    pub fn between(before: &SwarmPlan, after: &SwarmPlan) -> Option<Self> {
        let same = SwarmPlan {
            epoch: after.epoch,
            members: after.members.clone(),
            parents: after.parents.clone(),
            children: after.children.clone(),
            serves: after.serves.clone(),
            ..before.clone()
        };
        if same != *after || before.epoch >= after.epoch {
            return None;
        }
        Some(Self {
            release_id: after.release_id,
            swarm_id: after.swarm_id,
            from: before.epoch,
            to: after.epoch,
            members: ListChange::between(&before.members, &after.members),
            parents: ListChange::between(&before.parents, &after.parents),
            children: ListChange::between(&before.children, &after.children),
            serves: ListChange::between(&before.serves, &after.serves),
        })
    }

    /// The plan of epoch `to`. `None` if `before` is not a plan that this is the change of: then the whole plan is to be asked for.
    pub fn apply(&self, before: &SwarmPlan) -> Option<SwarmPlan> {
        let is_its = (before.release_id, before.swarm_id) == (self.release_id, self.swarm_id);
        if !is_its || before.epoch < self.from || before.epoch >= self.to {
            return None;
        }
        Some(SwarmPlan {
            epoch: self.to,
            members: self.members.apply(&before.members)?,
            parents: self.parents.apply(&before.parents)?,
            children: self.children.apply(&before.children)?,
            serves: self.serves.apply(&before.serves)?,
            ..before.clone()
        })
    }

    /// Whether nothing but the epoch became different.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.parents.is_empty() && self.children.is_empty() && self.serves.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BitsPerSecond, TimestampMs};

    fn peer(number: u8, up: u64) -> Peer {
        Peer {
            terminal_id: TerminalId::from_bytes([number; 16]),
            public_key: PublicKey([number; 32]),
            delivery_id: DeliveryId::from_bytes([number; 16]),
            up: BitsPerSecond(up),
        }
    }

    fn peers(numbers: &[u8]) -> Vec<Peer> {
        numbers.iter().map(|&number| peer(number, 1)).collect()
    }

    fn plan(epoch: u64, members: Vec<Peer>, serves: Vec<Peer>) -> SwarmPlan {
        SwarmPlan {
            release_id: ReleaseId::from_bytes([1; 16]),
            swarm_id: SwarmId::from_bytes([2; 16]),
            edition_id: EditionId([3; 32]),
            delivery_id: DeliveryId::from_bytes([4; 16]),
            epoch,
            rank: 1,
            opens_at: TimestampMs(5),
            deadline_at: TimestampMs(6),
            group_id: GroupId::from_bytes([7; 16]),
            root: true,
            members,
            parents: Vec::new(),
            children: vec![ChildGroup { group_id: GroupId::from_bytes([8; 16]), contacts: peers(&[9]), ways: vec![] }],
            serves,
            sealed: None,
        }
    }

    #[test]
    fn every_change_of_a_list_comes_out_as_the_whole_list_would() {
        let lists: [&[u8]; 8] = [&[], &[1], &[1, 2, 3], &[3, 2, 1], &[2, 1, 3], &[4, 1, 2, 3], &[1, 4, 2], &[5, 6]];
        for before in lists {
            for after in lists {
                let change = ListChange::between(&peers(before), &peers(after));
                assert_eq!(change.apply(&peers(before)), Some(peers(after)), "{before:?} → {after:?}: {change:?}");
                assert_eq!(change.is_empty(), before == after);
            }
        }
        let faster = ListChange::between(&peers(&[1, 2]), &[peer(1, 1), peer(2, 7)]);
        assert_eq!((faster.left.len(), &faster.joined), (1, &vec![(1, peer(2, 7))]), "other facts: it leaves and joins");
    }

    #[test]
    fn a_plan_is_changed_by_what_became_different_alone() {
        let (before, mut after) = (plan(3, peers(&[1, 2]), peers(&[])), plan(5, peers(&[1, 2]), peers(&[10, 11])));
        after.children[0].contacts = peers(&[9, 12]);
        let change = PlanChange::between(&before, &after).unwrap();
        assert!(change.members.is_empty() && change.parents.is_empty() && !change.is_empty());
        let json = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<PlanChange>(&json).unwrap(), change);
        assert!(json.contains(r#""members":{},"parents":{},"#), "{json}");
        assert_eq!(change.apply(&before), Some(after.clone()));
        let later = SwarmPlan { epoch: 4, ..before.clone() };
        assert_eq!(change.apply(&later), Some(after), "nothing that concerns it became different in between");
    }

    #[test]
    fn a_change_of_another_plan_is_not_applied() {
        let (before, after) = (plan(3, peers(&[1, 2]), peers(&[])), plan(5, peers(&[2, 4]), peers(&[10])));
        let change = PlanChange::between(&before, &after).unwrap();
        for epoch in [2, 5, 6] {
            assert_eq!(change.apply(&SwarmPlan { epoch, ..before.clone() }), None, "epoch {epoch}");
        }
        assert_eq!(change.apply(&SwarmPlan { swarm_id: SwarmId::from_bytes([9; 16]), ..before.clone() }), None);
        assert_eq!(change.apply(&plan(3, peers(&[2]), peers(&[]))), None, "who leaves was not there");
        assert_eq!(change.apply(&plan(3, peers(&[1, 2, 4]), peers(&[]))), None, "who joins was there");
        assert_eq!(change.apply(&plan(3, peers(&[1]), peers(&[]))), None);
        assert_eq!(PlanChange::between(&after, &before), None, "epochs rise");
        assert_eq!(PlanChange::between(&before, &SwarmPlan { rank: 2, ..after }), None, "more than the lists became different");
    }
}
