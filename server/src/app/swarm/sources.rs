//! Who serves a download: selected when it is asked for, and again at once when a source goes or fails, when its receiver gets nothing, and when somebody
//! who holds the edition comes (a01 to a04). The choice is made by [`rules::sources`].
//!
//! The origin comes last: it gives leases to the receiver as to any root group, but only while no source is connected ([`origin_may_serve`]).

use std::collections::BTreeSet;

use protocol::rest::ReleaseState;
use protocol::ws::{LIST_MAX, LeaveReason, PushMessage, SuspectReason};
use protocol::{EditionId, SwarmId, TerminalId};
use rules::sources::{Choice, Failure, Holder, select};

use super::{KnownSwarm, Member, push_all};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::holders::{Selection, StoredHolder};

/// How often a choice is made anew when others made one meanwhile.
const TRIES: usize = 4;
const SELECTED: &str = "spillway_download_selections_total";

/// A download was asked for, perhaps again: its table is made and its first sources are selected, or those that it has are told again.
///
/// # Errors
/// A store fails.
pub async fn begin(state: &AppState, swarm_id: SwarmId) -> Result<(), ApiError> {
    let swarm = state.swarms.reload(swarm_id).await?;
    for group in swarm.tree.groups() {
        if let Some(spec) = swarm.group_spec(group.id).filter(|_| swarm.sources().next().is_none()) {
            // One that is there is left alone.
            state.live.create_group(&spec, clock::now()).await?;
        }
    }
    if !reselect(state, swarm_id).await? {
        tell(state, &swarm, &BTreeSet::new()).await?;
    }
    Ok(())
}

/// Selects the sources of a download anew, from what is stored and who is connected, and tells whom it concerns. `false` if nothing changes, or the
/// download has ended.
///
/// # Errors
/// A store fails.
pub async fn reselect(state: &AppState, swarm_id: SwarmId) -> Result<bool, ApiError> {
    for _ in 0..TRIES {
        let now = clock::now();
        let Some(selection) = state.store.selection(swarm_id, now).await? else { return Ok(false) };
        let chosen = choose(state, &selection).await?;
        let before: BTreeSet<TerminalId> =
            selection.holders.iter().filter(|holder| holder.chosen).map(|holder| holder.terminal_id).collect();
        let known = state.swarms.with_groups(swarm_id, selection.epoch).await?;
        let present: BTreeSet<TerminalId> = known.sources().collect();
        let after: BTreeSet<TerminalId> = chosen.iter().map(|choice| choice.terminal_id).collect();
        if after == before && after == present {
            return Ok(false);
        }
        let sources: Vec<(TerminalId, String)> = chosen.iter().map(|choice| (choice.terminal_id, choice.reason.to_string())).collect();
        let (store, epoch) = (state.store.clone(), selection.epoch);
        if !state.to_the_end(async move { store.set_sources(swarm_id, epoch, &sources, now).await }).await? {
            continue;
        }
        tracing::info!(%swarm_id, epoch = epoch + 1, sources = after.len(), before = present.len(), "selected the sources of a download");
        metrics::counter!(SELECTED).increment(1);
        let swarm = state.swarms.reload(swarm_id).await?;
        if after.is_empty() {
            fall_back_on_the_origin(state, &swarm).await?;
        }
        tell(state, &swarm, &present).await?;
        return Ok(true);
    }
    Ok(false)
}

async fn choose(state: &AppState, selection: &Selection) -> Result<Vec<Choice>, ApiError> {
    let holders = &selection.holders;
    let concerned: BTreeSet<TerminalId> =
        holders.iter().flat_map(|holder| holder.serves.iter().copied().chain([holder.terminal_id])).collect();
    let concerned: Vec<TerminalId> = concerned.into_iter().collect();
    let connected: BTreeSet<TerminalId> = state.live.connected(&concerned).await?.into_iter().collect();
    let of = |holder: &StoredHolder| Holder {
        terminal_id: holder.terminal_id,
        state: holder.state,
        up: holder.up,
        serving: holder.load(&connected),
        connected: connected.contains(&holder.terminal_id),
        chosen: holder.chosen,
        failure: holder.failure,
    };
    Ok(select(&selection.requester, &holders.iter().map(of).collect::<Vec<_>>()))
}

/// Nobody is left who holds the edition. The table does not know what came from terminals: the receiver is asked what it holds, so that the origin is
/// given out only what is missing.
async fn fall_back_on_the_origin(state: &AppState, swarm: &KnownSwarm) -> Result<(), ApiError> {
    for group in swarm.tree.groups() {
        let members: Vec<TerminalId> = group.members.iter().map(|member| member.terminal_id).collect();
        state.live.drop_group(group.id, &members, clock::now()).await?;
        super::allocation::rebuild(state, swarm.facts.swarm_id, group.id).await?;
    }
    Ok(())
}

/// Pushes their plans to the receiver and to all sources, and tells those of `before` who are none any more that they are not needed.
async fn tell(state: &AppState, swarm: &KnownSwarm, before: &BTreeSet<TerminalId>) -> Result<(), ApiError> {
    let present: BTreeSet<TerminalId> = swarm.sources().collect();
    let swarm_id = swarm.facts.swarm_id;
    // The sources first: they know the receiver before it offers a link.
    let receivers = swarm.tree.groups().iter().flat_map(|group| &group.members).map(|member| member.terminal_id);
    for round in [present.iter().copied().collect::<Vec<_>>(), receivers.collect()] {
        let plans = round.into_iter().filter_map(|terminal| Some((terminal, PushMessage::Plan(Box::new(swarm.plan(terminal)?)))));
        push_all(state, plans.collect()).await?;
    }
    let leave = PushMessage::Leave { swarm_id, reason: LeaveReason::Removed };
    push_all(state, before.difference(&present).map(|&terminal| (terminal, leave.clone())).collect()).await?;
    // Whoever ended the download meanwhile did not know of these sources.
    if !matches!(state.store.swarm_facts(swarm_id).await?.state, ReleaseState::Closed | ReleaseState::Live) {
        super::ending::after_the_end(state, swarm.facts.release_id).await?;
    }
    Ok(())
}

/// A terminal says which complete editions it holds: running downloads of them may gain a source, or lose one.
///
/// # Errors
/// `invalid_request` for a list that is too long; or a store fails.
pub async fn holds(state: &AppState, terminal: TerminalId, editions: Vec<EditionId>, whole: bool) -> Result<(), ApiError> {
    if editions.len() > LIST_MAX {
        return Err(ApiError::invalid("/editions", format!("at most {LIST_MAX} entries")));
    }
    let (store, now) = (state.store.clone(), clock::now());
    state.to_the_end(async move { store.set_holdings(terminal, &editions, whole, now).await }).await?;
    for swarm_id in state.store.downloads_to_look_at(terminal).await? {
        reselect(state, swarm_id).await?;
    }
    Ok(())
}

/// The receiver finds a source silent or misbehaving.
///
/// # Errors
/// A store fails.
pub(super) async fn suspected(state: &AppState, member: &Member, source: TerminalId, reason: SuspectReason) -> Result<(), ApiError> {
    // What a source thinks of the receiver is the receiver's loss alone.
    if member.place.serves_only {
        return Ok(());
    }
    let failure = match reason {
        SuspectReason::Corrupt | SuspectReason::Malformed => Failure::Corrupt,
        SuspectReason::Silent | SuspectReason::Closed | SuspectReason::Unacknowledged => Failure::Silent,
    };
    let (store, swarm_id, now) = (state.store.clone(), member.swarm.facts.swarm_id, clock::now());
    tracing::info!(%swarm_id, %source, ?reason, "a source fails its receiver");
    state.to_the_end(async move { store.source_failed(swarm_id, source, failure, now).await }).await?;
    reselect(state, swarm_id).await.map(|_| ())
}

/// Whether the origin may serve a download now: only while none of its sources is connected.
///
/// # Errors
/// Redis is away.
pub(super) async fn origin_may_serve(state: &AppState, swarm: &KnownSwarm) -> Result<bool, ApiError> {
    let sources: Vec<TerminalId> = swarm.sources().collect();
    Ok(state.live.connected(&sources).await?.is_empty())
}
