//! Cutting one wave into groups, and putting them in a tree.

use std::cmp::Reverse;

use protocol::ws::Peer;
use protocol::{GroupId, TerminalId};

use super::balance::{Record, blocks, median_uplink};
use super::candidate::Likeness;
use super::dealing::{Sizes, deal};
use super::{CHILD_GROUPS_MAX, Candidate, GROUP_MEMBERS_MAX, PlanError, PlannedGroup, Shape, SwarmTree};

/// Plans `wave` below the groups that exist: groups of near-equal sizes, alike and balanced in uplink, in a tree of as few levels as the shape allows.
///
/// `earlier_holder` says whether a terminal of an earlier wave is there to copy from; the first group hangs below the last one of the tree then.
/// Without one, the origin feeds `shape.roots` groups. `ids` are the new groups' ids in the order of their positions. The outcome does not depend on
/// the order of `candidates`.
///
/// # Errors
/// [`PlanError::Shape`] if `shape` is none, or has no child groups where there are more groups than roots; [`PlanError::GroupIds`] if there are not
/// exactly [`Shape::groups`] ids; [`PlanError::WaveOrder`] if this wave or a later one is planned already; [`PlanError::TerminalTwice`], also for a
/// terminal that an earlier wave has.
pub fn plan_wave(
    tree: &SwarmTree,
    wave: u32,
    candidates: &[Candidate],
    shape: Shape,
    earlier_holder: bool,
    ids: &[GroupId],
) -> Result<Vec<PlannedGroup>, PlanError> {
    let last = tree.groups().last();
    let above = last.filter(|_| earlier_holder).map(|group| group.id);
    let needed = shape.groups(candidates.len());
    let roots = if above.is_some() { 1 } else { shape.roots };
    let is_shape = (1..=GROUP_MEMBERS_MAX).contains(&shape.m) && shape.k <= CHILD_GROUPS_MAX && shape.roots > 0;
    if !is_shape || (shape.k == 0 && needed > roots) {
        return Err(PlanError::Shape { shape, candidates: candidates.len() });
    }
    if ids.len() != needed {
        return Err(PlanError::GroupIds { needed, given: ids.len() });
    }
    if let Some(last) = last
        && last.wave >= wave
    {
        return Err(PlanError::WaveOrder { wave, latest: last.wave });
    }
    let mut records = records_of(candidates);
    refuse_twice(tree, &records)?;
    let sizes = Sizes::new(candidates.len(), needed);
    let block_ends = blocks(&mut records, sizes.largest());
    let seated = deal(&mut records, &block_ends, sizes);
    drop(records);
    let parents = parents(needed, shape.k, roots.min(needed));
    let mut groups: Vec<PlannedGroup> = Vec::with_capacity(needed);
    for (group, (position, &id)) in (0u32..).zip(ids).enumerate() {
        let seated = || seated[sizes.places(group)].iter().map(|&index| &candidates[index as usize]);
        let mut members: Vec<Peer> = seated().map(|candidate| candidate.peer.clone()).collect();
        members.sort_unstable_by_key(|member| (Reverse(member.up), member.terminal_id));
        let mut primaries: Vec<TerminalId> = seated().filter_map(|candidate| candidate.primary).collect();
        primaries.sort_unstable();
        let parent = parents[group].map(|parent| ids[parent]).or(above);
        groups.push(PlannedGroup { id, wave, position, parent, root: parent.is_none(), members, primaries });
    }
    Ok(groups)
}

/// What the planner sorts by: 32 bytes per candidate. An uplink that is not known counts as the median of those that are.
fn records_of(candidates: &[Candidate]) -> Vec<Record> {
    let mut known: Vec<u64> = candidates.iter().map(|candidate| candidate.peer.up.0).filter(|&up| up != 0).collect();
    let median = median_uplink(&mut known);
    let record = |(index, candidate): (u32, &Candidate)| Record {
        terminal: candidate.peer.terminal_id.0.as_u128(),
        up: if candidate.peer.up.0 == 0 { median } else { candidate.peer.up.0 },
        likeness: Likeness::of(&candidate.state),
        index,
    };
    (0u32..).zip(candidates).map(record).collect()
}

fn refuse_twice(tree: &SwarmTree, records: &[Record]) -> Result<(), PlanError> {
    let mut terminals: Vec<u128> = records.iter().map(|record| record.terminal).collect();
    terminals.sort_unstable();
    let twice = terminals.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| terminal(pair[0]));
    let earlier = || terminals.iter().copied().map(terminal).find(|&terminal| tree.contains(terminal));
    match twice.or_else(earlier) {
        Some(terminal) => Err(PlanError::TerminalTwice(terminal)),
        None => Ok(()),
    }
}

fn terminal(number: u128) -> TerminalId {
    TerminalId::from_bytes(number.to_be_bytes())
}

/// The parent of each position in a tree of `groups` groups, of which `roots` are roots, with up to `k` children each; `None` for a root.
///
/// The tree is the complete one, whose levels are full but for the last, so that no other has fewer levels. Positions go down one branch after the
/// other and not level by level: groups that are alike have neighbouring positions, and so most have a parent of their own kind.
fn parents(groups: usize, k: usize, roots: usize) -> Vec<Option<usize>> {
    let mut parents = Vec::with_capacity(groups);
    // By their place in the order of levels, in which the children of the place h are roots + k·h and the k − 1 after it; with the parent's position.
    let mut open: Vec<(usize, Option<usize>)> = (0..roots).rev().map(|root| (root, None)).collect();
    while let Some((place, parent)) = open.pop() {
        let position = parents.len();
        parents.push(parent);
        let first = roots + k * place;
        open.extend((first..(first + k).min(groups)).rev().map(|child| (child, Some(position))));
    }
    parents
}
