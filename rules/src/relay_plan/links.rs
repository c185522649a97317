//! Which groups each group may pull from.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use protocol::TerminalId;

use super::{LINKED_GROUPS_MAX, PlanError, PlannedGroup};

/// The links between the groups of a swarm, by their index in the order (wave, position).
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    /// Per group, the one that copies to it; none for a root.
    pub(super) parents: Vec<Option<usize>>,
    /// Per group, the groups that it may pull from, ascending.
    pub(super) sources: Vec<Vec<usize>>,
    /// The reverse.
    pub(super) served: Vec<Vec<usize>>,
}

/// Groups of earlier waves that have room, as (how many groups they serve, index): the first one serves the fewest.
type Earlier = BTreeSet<(usize, usize)>;

impl Links {
    /// Links each group to its parent, then to the groups of its members' primaries, those of most of them first, and then to other groups of earlier
    /// waves, those first that serve the fewest so far. Groups are linked in their order, so what a group is given depends on none after it.
    ///
    /// # Errors
    /// [`PlanError::Parent`] if a parent serves [`LINKED_GROUPS_MAX`] groups already.
    pub(super) fn new(groups: &[PlannedGroup], parents: Vec<Option<usize>>) -> Result<Self, PlanError> {
        let mut links = Self { parents, sources: vec![Vec::new(); groups.len()], served: vec![Vec::new(); groups.len()] };
        let primaries = groups_of_primaries(groups);
        let mut earlier = Earlier::new();
        let mut wave_begins = 0;
        for wave in groups.chunk_by(|one, other| one.wave == other.wave) {
            for (index, group) in (wave_begins..).zip(wave) {
                let chosen = links.choose(index, &tied_groups(group, &primaries), &mut earlier).ok_or(PlanError::Parent(group.id))?;
                for (served, source) in chosen {
                    links.served[source].push(index);
                    links.sources[index].push(source);
                    if source < wave_begins && served + 1 < LINKED_GROUPS_MAX {
                        earlier.insert((served + 1, source));
                    }
                }
                links.sources[index].sort_unstable();
            }
            let own = wave_begins..wave_begins + wave.len();
            wave_begins = own.end;
            earlier.extend(own.map(|group| (links.served[group].len(), group)).filter(|&(served, _)| served < LINKED_GROUPS_MAX));
        }
        Ok(links)
    }

    /// Takes the sources of a group out of `earlier`, those of `wanted` first that are there; `None` if its parent has no room.
    fn choose(&self, group: usize, wanted: &[usize], earlier: &mut Earlier) -> Option<Vec<(usize, usize)>> {
        let mut chosen = Vec::new();
        if let Some(parent) = self.parents[group] {
            let served = self.served[parent].len();
            if served >= LINKED_GROUPS_MAX {
                return None;
            }
            // It is there only if it is of an earlier wave.
            earlier.remove(&(served, parent));
            chosen.push((served, parent));
        }
        for &source in wanted {
            let entry = (self.served[source].len(), source);
            if chosen.len() < LINKED_GROUPS_MAX && earlier.remove(&entry) {
                chosen.push(entry);
            }
        }
        while chosen.len() < LINKED_GROUPS_MAX
            && let Some(source) = earlier.pop_first()
        {
            chosen.push(source);
        }
        Some(chosen)
    }
}

/// Where the primaries stand that somebody is tied to.
fn groups_of_primaries(groups: &[PlannedGroup]) -> BTreeMap<TerminalId, usize> {
    let named: BTreeSet<TerminalId> = groups.iter().flat_map(|group| &group.primaries).copied().collect();
    if named.is_empty() {
        return BTreeMap::new();
    }
    let places = groups.iter().enumerate().flat_map(|(index, group)| group.members.iter().map(move |member| (member.terminal_id, index)));
    places.filter(|(terminal, _)| named.contains(terminal)).collect()
}

/// The groups of a group's primaries, those of most of its members first.
fn tied_groups(group: &PlannedGroup, places: &BTreeMap<TerminalId, usize>) -> Vec<usize> {
    let mut tied: BTreeMap<usize, usize> = BTreeMap::new();
    for place in group.primaries.iter().filter_map(|primary| places.get(primary)) {
        *tied.entry(*place).or_default() += 1;
    }
    let mut order: Vec<(usize, usize)> = tied.into_iter().collect();
    order.sort_by_key(|&(place, members)| (Reverse(members), place));
    order.into_iter().map(|(place, _)| place).collect()
}
