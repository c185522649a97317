//! Cutting one wave into groups.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use protocol::GroupId;
use protocol::ws::Peer;

use super::{GROUP_MEMBERS_MAX, PlanError, PlannedGroup, SwarmTree};

/// How many groups a wave of `candidates` terminals takes, and so how many ids [`plan_wave`] needs.
pub fn groups_needed(candidates: usize) -> usize {
    candidates.div_ceil(GROUP_MEMBERS_MAX)
}

/// Plans `wave` below the groups that exist: near-equal sizes, balanced in uplink, in a chain.
///
/// `earlier_holder` says whether a terminal of an earlier wave is there to copy from; the first group hangs below the last one of the tree then, and
/// is fed by the origin otherwise. `ids` are the new groups' ids in their order. The outcome does not depend on the order of `candidates`.
///
/// # Errors
/// [`PlanError::GroupIds`] if there are not exactly [`groups_needed`] ids; [`PlanError::WaveOrder`] if this wave or a later one is planned already;
/// [`PlanError::TerminalTwice`], also for a terminal that an earlier wave has.
pub fn plan_wave(
    tree: &SwarmTree,
    wave: u32,
    candidates: &[Peer],
    earlier_holder: bool,
    ids: &[GroupId],
) -> Result<Vec<PlannedGroup>, PlanError> {
    let needed = groups_needed(candidates.len());
    if ids.len() != needed {
        return Err(PlanError::GroupIds { needed, given: ids.len() });
    }
    let last = tree.groups().last();
    if let Some(last) = last
        && last.wave >= wave
    {
        return Err(PlanError::WaveOrder { wave, latest: last.wave });
    }
    let mut seen = BTreeSet::new();
    for candidate in candidates {
        if tree.contains(candidate.terminal_id) || !seen.insert(candidate.terminal_id) {
            return Err(PlanError::TerminalTwice(candidate.terminal_id));
        }
    }
    let mut parent = last.filter(|_| earlier_holder).map(|group| group.id);
    let mut groups = Vec::with_capacity(needed);
    for ((position, &id), members) in (0u32..).zip(ids).zip(draft(candidates, needed)) {
        groups.push(PlannedGroup { id, wave, position, parent, root: parent.is_none(), members });
        parent = Some(id);
    }
    Ok(groups)
}

/// Deals the candidates, fastest uplink first, to the groups forth and back, so that the groups' sums stay close to each other and their sizes differ
/// by one at most. Members stay in the order in which they were dealt: between groups, fast ones are paired with fast ones.
fn draft(candidates: &[Peer], groups: usize) -> Vec<Vec<Peer>> {
    let mut ordered: Vec<&Peer> = candidates.iter().collect();
    ordered.sort_by_key(|peer| (Reverse(peer.up), peer.terminal_id));
    let mut drafted = vec![Vec::with_capacity(GROUP_MEMBERS_MAX); groups];
    for (round, hand) in ordered.chunks(groups.max(1)).enumerate() {
        for (seat, &peer) in hand.iter().enumerate() {
            let group = if round % 2 == 0 { seat } else { groups - 1 - seat };
            drafted[group].push(peer.clone());
        }
    }
    drafted
}
