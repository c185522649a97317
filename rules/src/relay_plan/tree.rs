//! The tree of all waves planned so far, and what each terminal is told of it.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ws::{ChildGroup, Peer};
use protocol::{GroupId, TerminalId};

use super::{GROUP_MEMBERS_MAX, LINKED_GROUPS_MAX, PlanError, PlannedGroup};

/// The groups of one swarm with the links between them. Links of groups that exist never change when a wave is added below them.
#[derive(Debug, Clone, Default)]
pub struct SwarmTree {
    /// In the order (wave, position).
    groups: Vec<PlannedGroup>,
    /// Per group, the groups that it may pull from, ascending.
    sources: Vec<Vec<usize>>,
    /// The reverse.
    served: Vec<Vec<usize>>,
    /// Where each terminal stands: (group, position among its members).
    places: BTreeMap<TerminalId, (usize, usize)>,
}

/// What one terminal is told: the parts of its plan that follow from the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalView {
    pub group_id: GroupId,
    pub root: bool,
    /// The other members of its group.
    pub members: Vec<Peer>,
    /// Whom it may pull from outside its group: the parent group's contacts first, then those of earlier groups in order.
    pub parents: Vec<Peer>,
    /// Whom its group copies to.
    pub children: Vec<ChildGroup>,
    /// Who may pull from it outside its group: exactly those that have it among their `parents`.
    pub serves: Vec<Peer>,
}

impl SwarmTree {
    /// The tree of stored groups, in any order.
    ///
    /// # Errors
    /// Every variant of [`PlanError`] except those about arguments of [`super::plan_wave`]: the groups are not a plan.
    pub fn new(mut groups: Vec<PlannedGroup>) -> Result<Self, PlanError> {
        groups.sort_by_key(|group| (group.wave, group.position));
        let places = check(&groups)?;
        let (sources, served) = link(&groups);
        Ok(Self { groups, sources, served, places })
    }

    /// The tree with a wave more.
    ///
    /// # Errors
    /// As [`SwarmTree::new`].
    pub fn with_wave(self, wave: Vec<PlannedGroup>) -> Result<Self, PlanError> {
        Self::new([self.groups, wave].concat())
    }

    /// In the order (wave, position).
    pub fn groups(&self) -> &[PlannedGroup] {
        &self.groups
    }

    pub fn contains(&self, terminal: TerminalId) -> bool {
        self.places.contains_key(&terminal)
    }

    /// What `terminal` is told; `None` if it is in no group.
    pub fn view(&self, terminal: TerminalId) -> Option<TerminalView> {
        let &(own, position) = self.places.get(&terminal)?;
        let group = &self.groups[own];
        let chain_parent = self.chain_parent(own);
        let above = chain_parent.into_iter().chain(self.sources[own].iter().copied().filter(|&source| Some(source) != chain_parent));
        let contacts_below = |below: usize| contacts_in_child(position, group.members.len(), &self.groups[below].members);
        Some(TerminalView {
            group_id: group.id,
            root: group.root,
            members: group.members.iter().filter(|member| member.terminal_id != terminal).cloned().collect(),
            parents: above.flat_map(|above| contacts_in_parent(position, group.members.len(), &self.groups[above].members)).collect(),
            children: self.served[own]
                .iter()
                .filter(|&&below| self.chain_parent(below) == Some(own))
                .map(|&below| ChildGroup { group_id: self.groups[below].id, contacts: contacts_below(below) })
                .collect(),
            serves: self.served[own].iter().flat_map(|&below| contacts_below(below)).collect(),
        })
    }

    /// The group before, if this one hangs below it.
    fn chain_parent(&self, group: usize) -> Option<usize> {
        self.groups[group].parent.and(group.checked_sub(1))
    }
}

/// Whether ordered groups are a plan; and where each terminal stands.
fn check(groups: &[PlannedGroup]) -> Result<BTreeMap<TerminalId, (usize, usize)>, PlanError> {
    let (mut places, mut ids) = (BTreeMap::new(), BTreeSet::new());
    let mut before: Option<&PlannedGroup> = None;
    for (index, group) in groups.iter().enumerate() {
        let same_place = before.is_some_and(|before| (before.wave, before.position) == (group.wave, group.position));
        if same_place || !ids.insert(group.id) {
            return Err(PlanError::GroupTwice(group.id));
        }
        if group.members.is_empty() || group.members.len() > GROUP_MEMBERS_MAX {
            return Err(PlanError::GroupSize(group.id));
        }
        let below_the_one_before = group.parent.is_some() && group.parent == before.map(|before| before.id);
        if group.root == below_the_one_before || group.root != group.parent.is_none() {
            return Err(PlanError::Parent(group.id));
        }
        for (position, member) in group.members.iter().enumerate() {
            if places.insert(member.terminal_id, (index, position)).is_some() {
                return Err(PlanError::TerminalTwice(member.terminal_id));
            }
        }
        before = Some(group);
    }
    Ok(places)
}

/// Which groups each one may pull from: its parent in the chain, then groups of earlier waves, those first that serve the fewest so far. Groups are
/// linked in their order, so what a group is given depends on none after it.
fn link(groups: &[PlannedGroup]) -> (Vec<Vec<usize>>, Vec<Vec<usize>>) {
    let mut sources: Vec<Vec<usize>> = vec![Vec::new(); groups.len()];
    let mut served: Vec<Vec<usize>> = vec![Vec::new(); groups.len()];
    let mut wave_begins = 0;
    for (index, group) in groups.iter().enumerate() {
        if groups[wave_begins].wave < group.wave {
            wave_begins = index;
        }
        let chain_parent = group.parent.and(index.checked_sub(1));
        let mut others: Vec<usize> =
            (0..wave_begins).filter(|&other| Some(other) != chain_parent && served[other].len() < LINKED_GROUPS_MAX).collect();
        let room = LINKED_GROUPS_MAX - usize::from(chain_parent.is_some());
        others.sort_by_key(|&other| (served[other].len(), other));
        others.truncate(room);
        others.extend(chain_parent);
        others.sort_unstable();
        for &source in &others {
            served[source].push(index);
        }
        sources[index] = others;
    }
    (sources, served)
}

/// The members below that member `position` of `above` above is paired with.
fn contacts_in_child(position: usize, above: usize, below: &[Peer]) -> Vec<Peer> {
    let own = position % below.len();
    below.iter().enumerate().filter(|&(index, _)| index == own || index % above == position).map(|(_, peer)| peer.clone()).collect()
}

/// The members above that member `position` of `below` below is paired with.
fn contacts_in_parent(position: usize, below: usize, above: &[Peer]) -> Vec<Peer> {
    let own = position % above.len();
    above.iter().enumerate().filter(|&(index, _)| index == own || index % below == position).map(|(_, peer)| peer.clone()).collect()
}
