//! The tree of all waves planned so far, and what each terminal is told of it.

use std::collections::BTreeSet;

use protocol::ws::{ChildGroup, Peer, WAYS_MAX, Way};
use protocol::{GroupId, TerminalId};

use super::links::Links;
use super::{GROUP_MEMBERS_MAX, PlanError, PlannedGroup};

/// The groups of one swarm with the links between them. Links of groups that exist never change when a wave is added below them.
#[derive(Debug, Clone, Default)]
pub struct SwarmTree {
    /// In the order (wave, position).
    groups: Vec<PlannedGroup>,
    links: Links,
    /// In the order of the terminals' ids: a quarter of the memory of a map, and half of the time.
    places: Vec<Place>,
}

/// Where a terminal stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    terminal: TerminalId,
    /// Index in the order (wave, position).
    group: u32,
    /// Among the group's members.
    position: u8,
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
        let parents = check(&groups)?;
        let places = places_of(&groups)?;
        let links = Links::new(&groups, parents)?;
        Ok(Self { groups, links, places })
    }

    /// The tree with a wave more.
    ///
    /// # Errors
    /// As [`SwarmTree::new`].
    pub fn with_wave(self, wave: Vec<PlannedGroup>) -> Result<Self, PlanError> {
        let mut groups = self.groups;
        groups.extend(wave);
        Self::new(groups)
    }

    /// In the order (wave, position).
    pub fn groups(&self) -> &[PlannedGroup] {
        &self.groups
    }

    pub fn contains(&self, terminal: TerminalId) -> bool {
        self.place(terminal).is_some()
    }

    fn place(&self, terminal: TerminalId) -> Option<Place> {
        let found = self.places.binary_search_by_key(&terminal, |place| place.terminal).ok()?;
        Some(self.places[found])
    }

    /// From whom a chunk can come to `terminal`: the other members of its group, whom it is linked to, and the groups above it up to the root. As many
    /// as there are levels, times sixteen.
    pub fn upstream(&self, terminal: TerminalId) -> BTreeSet<TerminalId> {
        let (Some(place), Some(view)) = (self.place(terminal), self.view(terminal)) else { return BTreeSet::new() };
        let contacts = view.children.iter().flat_map(|child| &child.contacts);
        let linked = view.members.iter().chain(&view.parents).chain(contacts).chain(&view.serves);
        let mut found: BTreeSet<TerminalId> = linked.map(|peer| peer.terminal_id).collect();
        let mut above = usize::try_from(place.group).ok().and_then(|own| self.links.parents[own]);
        while let Some(group) = above {
            found.extend(self.groups[group].members.iter().map(|member| member.terminal_id));
            above = self.links.parents[group];
        }
        found
    }

    /// What `terminal` is told; `None` if it is in no group.
    pub fn view(&self, terminal: TerminalId) -> Option<TerminalView> {
        let place = self.place(terminal)?;
        let (own, position) = (usize::try_from(place.group).ok()?, usize::from(place.position));
        let group = &self.groups[own];
        let (parent, served) = (self.links.parents[own], &self.links.served[own]);
        let above = parent.into_iter().chain(self.links.sources[own].iter().copied().filter(|&source| Some(source) != parent));
        let contacts_below = |below: usize| contacts_in_child(position, group.members.len(), &self.groups[below].members);
        Some(TerminalView {
            group_id: group.id,
            root: group.root,
            members: group.members.iter().filter(|member| member.terminal_id != terminal).cloned().collect(),
            parents: above.flat_map(|above| contacts_in_parent(position, group.members.len(), &self.groups[above].members)).collect(),
            children: served
                .iter()
                .filter(|&&below| self.links.parents[below] == Some(own))
                .map(|&below| {
                    let ways = ways_into_child(position, &group.members, &self.groups[below].members);
                    ChildGroup { group_id: self.groups[below].id, contacts: contacts_below(below), ways }
                })
                .collect(),
            serves: served.iter().flat_map(|&below| contacts_below(below)).collect(),
        })
    }
}

/// Whether ordered groups are a plan, and the index of each one's parent.
fn check(groups: &[PlannedGroup]) -> Result<Vec<Option<usize>>, PlanError> {
    let mut ids: Vec<(GroupId, usize)> = groups.iter().enumerate().map(|(index, group)| (group.id, index)).collect();
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(PlanError::GroupTwice(pair[1].0));
    }
    if let Some(pair) = groups.windows(2).find(|pair| (pair[0].wave, pair[0].position) == (pair[1].wave, pair[1].position)) {
        return Err(PlanError::GroupTwice(pair[1].id));
    }
    let mut has_later_child = BTreeSet::new();
    let mut parents = Vec::with_capacity(groups.len());
    for (index, group) in groups.iter().enumerate() {
        if group.members.is_empty() || group.members.len() > GROUP_MEMBERS_MAX {
            return Err(PlanError::GroupSize(group.id));
        }
        let place_of = |parent: GroupId| ids.binary_search_by_key(&parent, |(id, _)| *id).ok().map(|found| ids[found].1);
        let parent = group.parent.map(|parent| place_of(parent).filter(|&place| place < index).ok_or(PlanError::Parent(group.id)));
        let parent = parent.transpose()?;
        let second_of_later_waves = parent.is_some_and(|parent| groups[parent].wave < group.wave && !has_later_child.insert(parent));
        if group.root != parent.is_none() || second_of_later_waves {
            return Err(PlanError::Parent(group.id));
        }
        parents.push(parent);
    }
    Ok(parents)
}

/// Where each terminal stands, in the order of their ids.
fn places_of(groups: &[PlannedGroup]) -> Result<Vec<Place>, PlanError> {
    let mut places = Vec::with_capacity(groups.iter().map(|group| group.members.len()).sum());
    for (group, planned) in (0u32..).zip(groups) {
        places.extend((0u8..).zip(&planned.members).map(|(position, member)| Place { terminal: member.terminal_id, group, position }));
    }
    places.sort_unstable_by_key(|place| place.terminal);
    match places.windows(2).find(|pair| pair[0].terminal == pair[1].terminal) {
        Some(pair) => Err(PlanError::TerminalTwice(pair[0].terminal)),
        None => Ok(places),
    }
}

/// The members below that member `position` of `above` above is paired with.
fn contacts_in_child(position: usize, above: usize, below: &[Peer]) -> Vec<Peer> {
    let own = position % below.len();
    below.iter().enumerate().filter(|&(index, _)| index == own || index % above == position).map(|(_, peer)| peer.clone()).collect()
}

/// Over whom member `position` of `above` can have a copy brought to `below`: members that stand evenly apart, so that fast and slow ones are among
/// them, each with the one below that it is always paired with.
fn ways_into_child(position: usize, above: &[Peer], below: &[Peer]) -> Vec<Way> {
    let ways = WAYS_MAX.min(above.len().saturating_sub(1));
    let places = (1..=ways).map(|way| (position + (above.len() * way).div_ceil(ways + 1)) % above.len());
    places.map(|place| Way { member: above[place].terminal_id, contact: below[place % below.len()].terminal_id }).collect()
}

/// The members above that member `position` of `below` below is paired with.
fn contacts_in_parent(position: usize, below: usize, above: &[Peer]) -> Vec<Peer> {
    let own = position % above.len();
    above.iter().enumerate().filter(|&(index, _)| index == own || index % below == position).map(|(_, peer)| peer.clone()).collect()
}
