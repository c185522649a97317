//! Who is who, and the real planner's plan of the swarm.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ws::{Peer, SwarmPlan};
use protocol::{DeliveryId, EditionId, GroupId, ReleaseId, SwarmId, TerminalId, TerminalKey, TimestampMs};
use rules::relay_plan::{Candidate, CommunicationState, PlanError, Region, SwarmTree, choose_shape, plan_wave};
use rules::ties::{Placed, ties};
use swarm::Now;

use crate::rng::mix;
use crate::scenario::{Scenario, TerminalSpec};

/// Groups that the origin feeds, as the server has it.
const ROOT_GROUPS: usize = 1;
pub(crate) const SWARM: SwarmId = SwarmId::from_bytes([2; 16]);
/// What the server's clock shows at the run's zero.
pub(crate) const CLOCK_AT_ZERO: u64 = 1_700_000_000_000;

/// A terminal's name and key.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) id: TerminalId,
    pub(crate) key: TerminalKey,
    pub(crate) delivery_id: DeliveryId,
}

fn bytes<const N: usize>(seed: u64, index: usize, purpose: u64) -> [u8; N] {
    let word = |part: usize| mix(mix(seed ^ purpose << 32) ^ mix(index as u64 + 1) ^ (part as u64 / 8) << 48).to_le_bytes()[part % 8];
    std::array::from_fn(word)
}

impl Identity {
    pub(crate) fn new(seed: u64, index: usize) -> Self {
        Self {
            id: TerminalId::from_bytes(bytes(seed, index, 1)),
            key: TerminalKey::from_secret(&bytes(seed, index, 2)),
            delivery_id: DeliveryId::from_bytes(bytes(seed, index, 3)),
        }
    }
}

fn candidate(identity: &Identity, spec: &TerminalSpec) -> Candidate {
    let peer = Peer { terminal_id: identity.id, public_key: identity.key.public(), delivery_id: identity.delivery_id, up: spec.up };
    let state = CommunicationState {
        region: u16::try_from(spec.region).ok().map(Region),
        round_trip_ms: u16::try_from(spec.access.as_millis() * 2).ok(),
        ..CommunicationState::default()
    };
    Candidate { peer, state, primary: None }
}

/// Ties everybody of a later wave to a terminal of the first one, as closing does.
fn tied(mut candidates: Vec<Candidate>, scenario: &Scenario) -> Vec<Candidate> {
    let placed =
        |candidate: &Candidate| Placed { terminal_id: candidate.peer.terminal_id, up: candidate.peer.up, region: candidate.state.region };
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|&index| scenario.terminals[index].wave);
    let (first, later): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&index| scenario.terminals[index].wave == 0);
    let of = |indices: &[usize]| indices.iter().map(|&index| placed(&candidates[index])).collect::<Vec<_>>();
    let primaries = ties(&of(&first), &of(&later));
    for (index, primary) in later.into_iter().zip(primaries) {
        candidates[index].primary = primary;
    }
    candidates
}

/// The time of the server's clock at a moment of the run.
pub(crate) fn timestamp(at: Now) -> TimestampMs {
    TimestampMs(CLOCK_AT_ZERO + u64::try_from(at.as_millis()).unwrap_or(0))
}

/// The plan as far as waves have been planned.
#[derive(Debug)]
pub(crate) struct Planner {
    seed: u64,
    edition_id: EditionId,
    chunks: u32,
    candidates: Vec<Candidate>,
    pub(crate) indices: BTreeMap<TerminalId, usize>,
    pub(crate) tree: SwarmTree,
}

impl Planner {
    pub(crate) fn new(scenario: &Scenario, edition_id: EditionId, identities: &[Identity]) -> Self {
        Self {
            seed: scenario.seed,
            edition_id,
            chunks: u32::try_from(scenario.chunks.len()).unwrap_or(u32::MAX),
            candidates: tied(
                identities.iter().zip(&scenario.terminals).map(|(identity, spec)| candidate(identity, spec)).collect(),
                scenario,
            ),
            indices: identities.iter().enumerate().map(|(index, identity)| (identity.id, index)).collect(),
            tree: SwarmTree::default(),
        }
    }

    /// Plans a wave of these terminals below those planned so far. Answers the new groups.
    ///
    /// # Errors
    /// The planner finds fault with its own plan: a defect in `rules`.
    pub(crate) fn plan(&mut self, wave: u32, terminals: &[usize], earlier_holder: bool) -> Result<Vec<GroupId>, PlanError> {
        if terminals.is_empty() {
            return Ok(Vec::new());
        }
        let candidates: Vec<Candidate> = terminals.iter().map(|&terminal| self.candidates[terminal].clone()).collect();
        let shape = choose_shape(candidates.len(), self.chunks, ROOT_GROUPS);
        let first = self.tree.groups().len();
        let ids: Vec<GroupId> =
            (first..first + shape.groups(candidates.len())).map(|group| GroupId::from_bytes(bytes(self.seed, group, 4))).collect();
        let groups = plan_wave(&self.tree, wave, &candidates, shape, earlier_holder, &ids)?;
        self.tree = std::mem::take(&mut self.tree).with_wave(groups)?;
        Ok(ids)
    }

    /// What a terminal is told; `None` for one that is not planned.
    pub(crate) fn plan_of(&self, terminal: usize, wave: u32, opens: Now, deadline: Now) -> Option<SwarmPlan> {
        let peer = &self.candidates[terminal].peer;
        let view = self.tree.view(peer.terminal_id)?;
        Some(SwarmPlan {
            release_id: ReleaseId::from_bytes([1; 16]),
            swarm_id: SWARM,
            edition_id: self.edition_id,
            delivery_id: peer.delivery_id,
            epoch: u64::try_from(self.tree.groups().len()).unwrap_or(u64::MAX),
            rank: wave + 1,
            opens_at: timestamp(opens),
            deadline_at: timestamp(deadline),
            group_id: view.group_id,
            root: view.root,
            members: view.members,
            parents: view.parents,
            children: view.children,
            serves: view.serves,
            sealed: None,
        })
    }

    /// From whom chunks can come to a terminal, by the plan as it stands.
    pub(crate) fn upstream(&self, terminal: usize) -> BTreeSet<usize> {
        let above = self.tree.upstream(self.candidates[terminal].peer.terminal_id);
        above.iter().filter_map(|peer| self.indices.get(peer).copied()).collect()
    }

    pub(crate) fn id(&self, terminal: usize) -> TerminalId {
        self.candidates[terminal].peer.terminal_id
    }

    /// Whom a terminal is linked to, by the plan as it stands.
    pub(crate) fn linked(&self, terminal: usize) -> BTreeSet<usize> {
        let Some(view) = self.tree.view(self.candidates[terminal].peer.terminal_id) else { return BTreeSet::new() };
        let contacts = view.children.iter().flat_map(|child| &child.contacts);
        let peers = view.members.iter().chain(&view.parents).chain(contacts).chain(&view.serves);
        peers.filter_map(|peer| self.indices.get(&peer.terminal_id).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Wish;

    #[test]
    fn a17_everybody_of_a_later_wave_is_tied_to_a_terminal_of_the_first() {
        let wish = Wish { seed: 7, terminals: 24, chunks: 8, waves: 3, faults: BTreeSet::new(), strict: false };
        let scenario = Scenario::new(&wish);
        let identities: Vec<Identity> = (0..24).map(|index| Identity::new(7, index)).collect();
        let planner = Planner::new(&scenario, EditionId([0; 32]), &identities);
        for (candidate, spec) in planner.candidates.iter().zip(&scenario.terminals) {
            let primary = candidate.primary.and_then(|id| planner.indices.get(&id));
            assert_eq!(primary.is_some(), spec.wave > 0);
            assert!(primary.is_none_or(|&index| scenario.terminals[index].wave == 0));
        }
    }
}
