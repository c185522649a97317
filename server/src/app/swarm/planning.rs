//! Making plans and telling them: wave 0 at closing, each later wave at its opening, and to whoever asks again.
//!
//! Unsealed releases keep a secret: nothing about a wave, no link and no destination, reaches anybody before the wave opens. Only wave 0 is told
//! early, so that its links are open at the start.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::plan_change::PlanChange;
use protocol::rest::{DeliveryState, ReleaseState};
use protocol::ws::{LeaveReason, PushMessage};
use protocol::{BitsPerSecond, DeliveryId, GroupId, ReleaseId, SwarmId, TerminalId};
use rules::relay_plan::{Candidate, Shape, SwarmTree, choose_shape, plan_wave};
use rules::suspicion::absence_is_known;
use uuid::Uuid;

use super::known::KnownSwarm;
use super::{allocation, ending, push_all, settling};
use crate::clock;
use crate::error::ApiError;
use crate::live::Table;
use crate::state::AppState;
use crate::store::plan::DeliveryStanding;

/// Groups of a wave that the origin feeds where no earlier wave does: one, because a first copy is counted once per swarm.
const ROOT_GROUPS: usize = 1;
/// For how long a terminal that comes back is told how its deliveries ended.
const TOLD_FOR: time::Duration = time::Duration::hours(1);

/// The release was closed: plans wave 0 and tells it.
///
/// # Errors
/// A store fails; it is to be called again.
pub async fn on_closed(state: &AppState, release_id: ReleaseId) -> Result<(), ApiError> {
    for swarm_id in state.store.swarms_of(release_id).await? {
        // What is not sealed yet is planned when it is: its wave waits for that.
        let sealed = state.store.swarm_facts(swarm_id).await?.sealed;
        if sealed.is_none_or(|sealed| sealed.manifest.is_some()) {
            plan(state, swarm_id, 0).await?;
        }
    }
    Ok(())
}

/// A wave opens. Wave 0 is the start: the release is live, and what was asked for already is given.
///
/// # Errors
/// A store fails; it is to be called again.
pub async fn on_wave(state: &AppState, release_id: ReleaseId, wave: u32) -> Result<(), ApiError> {
    if wave == 0 {
        state.store.start_release(release_id, clock::now()).await?;
    }
    for swarm_id in state.store.swarms_of(release_id).await? {
        let swarm = if wave == 0 { planned(state, swarm_id).await? } else { plan(state, swarm_id, wave).await? };
        give_at_opening(state, &swarm, wave).await?;
    }
    settling::finish(state, release_id).await
}

/// Wave 0 as it was planned at closing; makes up for a closing whose plan was not made.
async fn planned(state: &AppState, swarm_id: SwarmId) -> Result<Arc<KnownSwarm>, ApiError> {
    let swarm = state.swarms.reload(swarm_id).await?;
    if swarm.tree.groups().is_empty() { plan(state, swarm_id, 0).await } else { Ok(swarm) }
}

/// Plans a wave if that was not done yet, and tells the plan in any case: whoever did it may have died before.
async fn plan(state: &AppState, swarm_id: SwarmId, wave: u32) -> Result<Arc<KnownSwarm>, ApiError> {
    let before = state.swarms.reload(swarm_id).await?;
    if !matches!(before.facts.state, ReleaseState::Closed | ReleaseState::Live) {
        return Ok(before);
    }
    let mut fresh = Vec::new();
    if before.tree.groups().iter().all(|group| group.wave < wave) {
        fresh = store_new_wave(state, &before, wave).await?;
    }
    let swarm = state.swarms.reload(swarm_id).await?;
    // Nobody can hold a chunk of a group that did not exist a moment ago, so its table may begin empty. The table of a group that was stored by a call
    // that died is built by asking its members.
    for group in fresh {
        if let Some(spec) = swarm.group_spec(group) {
            state.live.create_group(&spec, clock::now()).await?;
        }
    }
    let told = trees_before(&swarm, wave)?;
    push_all(state, swarm.terminals().filter_map(|terminal| Some((terminal, news_of(&swarm, &told, terminal)?))).collect()).await?;
    // Whoever ended the release meanwhile did not know of this wave.
    if !matches!(state.store.swarm_facts(swarm_id).await?.state, ReleaseState::Closed | ReleaseState::Live) {
        ending::after_the_end(state, swarm.facts.release_id).await?;
    }
    Ok(swarm)
}

/// The plan as it was before each wave up to `wave`.
fn trees_before(swarm: &KnownSwarm, wave: u32) -> Result<Vec<SwarmTree>, ApiError> {
    let before = |wave: u32| {
        let earlier = swarm.tree.groups().iter().filter(|group| group.wave < wave).cloned().collect();
        SwarmTree::new(earlier).map_err(ApiError::internal)
    };
    (0..=wave).map(before).collect()
}

/// What a terminal is told of the plan's last wave, if it concerns it: the difference to what it was told before, or the whole plan if that was nothing.
fn news_of(swarm: &KnownSwarm, told: &[SwarmTree], terminal: TerminalId) -> Option<PushMessage> {
    let (after, view) = (swarm.plan(terminal)?, swarm.tree.view(terminal));
    let last = told.last()?;
    if last.view(terminal) == view {
        return None;
    }
    // The terminal has heard nothing of waves that did not concern it: its plan may be of an earlier epoch.
    let same = told.iter().rev().take_while(|tree| tree.view(terminal) == last.view(terminal));
    let before = same.last().and_then(|tree| swarm.plan_in(tree, terminal));
    let change = before.and_then(|before| PlanChange::between(&before, &after));
    Some(change.map_or_else(|| PushMessage::Plan(Box::new(after)), |change| PushMessage::PlanChange(Box::new(change))))
}

/// Decides on the groups of a wave and stores them. Answers those that this call stored.
pub(super) async fn store_new_wave(state: &AppState, swarm: &KnownSwarm, wave: u32) -> Result<Vec<GroupId>, ApiError> {
    let swarm_id = swarm.facts.swarm_id;
    let found = state.store.wave_candidates(swarm_id, wave).await?;
    let downs: BTreeMap<DeliveryId, BitsPerSecond> = found.iter().map(|found| (found.candidate.peer.delivery_id, found.down)).collect();
    let candidates: Vec<Candidate> = found.into_iter().map(|found| found.candidate).collect();
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let earlier_holder = earlier_holder(state, swarm, wave).await?;
    let shape = choose_shape(candidates.len(), swarm.chunk_count(), ROOT_GROUPS);
    let ids: Vec<GroupId> = (0..shape.groups(candidates.len())).map(|_| GroupId(Uuid::now_v7())).collect();
    let groups = plan_wave(&swarm.tree, wave, &candidates, shape, earlier_holder, &ids).map_err(ApiError::internal)?;
    let (store, count, groups_for_store) = (state.store.clone(), groups.len(), groups);
    let stored = state.to_the_end(async move { store.store_wave(swarm_id, wave, &groups_for_store, &downs).await }).await?;
    let Shape { m, k, .. } = shape;
    tracing::info!(%swarm_id, wave, groups = count, members = candidates.len(), m, k, earlier_holder, stored, "planned a wave");
    Ok(if stored { ids } else { Vec::new() })
}

/// Whether somebody of an earlier wave is there to copy from: connected now, or known to have received something. Without one, the wave has a group
/// of its own that the origin feeds; but not where this server missed the opening before, so that nobody has had the time to connect.
async fn earlier_holder(state: &AppState, swarm: &KnownSwarm, wave: u32) -> Result<bool, ApiError> {
    let Some(earlier) = wave.checked_sub(1).filter(|_| !swarm.tree.groups().is_empty()) else { return Ok(false) };
    if state.store.has_earlier_holder(swarm.facts.swarm_id, wave).await? {
        return Ok(true);
    }
    let terminals: Vec<TerminalId> = swarm.terminals().collect();
    if !state.live.connected(&terminals).await?.is_empty() {
        return Ok(true);
    }
    let before =
        usize::try_from(earlier).ok().and_then(|earlier| swarm.facts.waves.get(earlier)).map_or_else(clock::now, |wave| wave.opens_at);
    let [since, opened, now] = [state.started_at, before, clock::now()].map(|at| clock::to_timestamp_ms(at).0);
    Ok(!absence_is_known(since, opened, now))
}

/// Members ask a little early or exactly on time; what is open at the opening is given at the opening.
async fn give_at_opening(state: &AppState, swarm: &KnownSwarm, wave: u32) -> Result<(), ApiError> {
    for group in swarm.tree.groups().iter().filter(|group| group.wave == wave && group.root) {
        match state.live.allocate(group.id, allocation::limits(state), clock::now()).await? {
            Table::Ready(_) | Table::Rebuilding | Table::Stranger => {}
            Table::Lost => allocation::rebuild(state, swarm.facts.swarm_id, group.id).await?,
        }
    }
    Ok(())
}

/// Tells a terminal everything that concerns it now, through its push stream: the plans of its swarms, and how its deliveries stand that are settled.
/// Answers the swarms that it is a member of.
///
/// # Errors
/// A store fails.
pub async fn tell_everything(state: &AppState, terminal: TerminalId) -> Result<Vec<SwarmId>, ApiError> {
    let now = clock::now();
    let mut messages = Vec::new();
    let swarms = memberships(state, terminal).await?;
    for swarm in &swarms {
        messages.extend(swarm.plan(terminal).map(|plan| PushMessage::Plan(Box::new(plan))));
    }
    for standing in state.store.standings_of(terminal, now - TOLD_FOR).await? {
        messages.extend(messages_of(&standing));
    }
    for message in &messages {
        state.live.push(terminal, message, now).await?;
    }
    Ok(swarms.iter().map(|swarm| swarm.facts.swarm_id).collect())
}

/// The planned and running swarms with this terminal in them.
///
/// # Errors
/// A store fails.
pub async fn memberships(state: &AppState, terminal: TerminalId) -> Result<Vec<Arc<KnownSwarm>>, ApiError> {
    let mut swarms = Vec::new();
    for membership in state.store.memberships_of(terminal).await? {
        swarms.push(state.swarms.with_groups(membership.swarm_id, membership.groups).await?);
    }
    Ok(swarms)
}

fn messages_of(standing: &DeliveryStanding) -> Vec<PushMessage> {
    let DeliveryStanding { swarm_id, delivery_id, charged, earned, .. } = *standing;
    let settled = PushMessage::Settled { swarm_id, delivery_id, charged, earned };
    let settled = matches!(standing.state, DeliveryState::Settled).then_some(settled);
    let reason = match standing.release_state {
        ReleaseState::Settled => Some(LeaveReason::Settled),
        ReleaseState::Cancelled => Some(LeaveReason::Cancelled),
        ReleaseState::Aborted => Some(LeaveReason::Aborted),
        ReleaseState::Draft | ReleaseState::Open | ReleaseState::Closed | ReleaseState::Live => None,
    };
    settled.into_iter().chain(reason.map(|reason| PushMessage::Leave { swarm_id, reason })).collect()
}
