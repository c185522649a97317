//! What members say about chunks, brought to the lease table of their group; and the table built again when Redis has lost it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use protocol::bitmap::{SEGMENT_BYTES, segment_chunks, segment_count};
use protocol::frame::CHUNK_MAX;
use protocol::rest::{ReleaseState, ReselectionReason};
use protocol::ws::{ChunkNotice, GrantKind, LIST_MAX, LeaveReason, PushMessage, SuspectReason};
use protocol::{Bytes, DeliveryId, ErrorCode, GroupId, SwarmId, TerminalId};
use rules::suspicion::reports_needed;
use time::OffsetDateTime;

use super::reselections::reason_of;
use super::{Member, sources};
use crate::clock;
use crate::error::ApiError;
use crate::live::{Grant, GroupAnswer, Holdings, LeasesPassed, Limits, Missing, Sender, Table, Wanted, WhyReturned, passed};
use crate::state::AppState;
use crate::store::reselections::NewReselection;

/// How much of the origin's uplink may be leased ahead: enough that it never runs dry between two messages, little enough that a lease is fetched
/// long before it expires and that the choice among members is made late.
const LEASED_AHEAD: Duration = Duration::from_millis(500);
/// The most chunks that a terminal may fetch from the origin without having signed for them: at most 16 MiB, which is what somebody who never signs has
/// for nothing. An honest terminal signs for every 32 of them, so that it is not held up below some 1 Gbit/s.
const UNSIGNED_MAX: u32 = 128;
/// How long a member that others found silent is given nothing, unless nobody is left: its WebSocket may be well while its links are not.
const BENCH: Duration = Duration::from_secs(5);
/// The most credits that count: half a second of 10 Gbit/s.
const CREDITS_MAX: u32 = 4_096;

/// What the origin allows a group and its members.
pub fn limits(state: &AppState) -> Limits {
    Limits { in_flight_max: in_flight_max(state), unsigned_max: UNSIGNED_MAX, direct: Bytes(0) }
}

/// The most bytes of a group that may be leased and not received; 0 if the origin's uplink has no limit.
fn in_flight_max(state: &AppState) -> Bytes {
    let rate = state.pace.rate().0;
    if rate == 0 {
        return Bytes(0);
    }
    let ahead = u128::from(rate) / 8 * LEASED_AHEAD.as_millis() / 1_000;
    Bytes(u64::try_from(ahead).unwrap_or(u64::MAX).max(4 * u64::from(CHUNK_MAX)))
}

pub fn sender(state: &AppState, member: &Member) -> Sender {
    Sender { group: member.place.group_id, terminal: member.terminal, limits: limits(state) }
}

/// The same with what the budget has for direct copies: for messages that come often enough to use the origin's line with them.
async fn sender_for_direct(state: &AppState, member: &Member) -> Result<Sender, ApiError> {
    let mut sender = sender(state, member);
    if member.place.root {
        sender.limits.direct = state.budgets.direct_room(member.swarm.facts.budget_id).await?;
    }
    Ok(sender)
}

/// What a ready table said; nothing if it is being rebuilt, which this begins if nobody has.
async fn answered<T>(state: &AppState, member: &Member, table: Table<T>) -> Result<Option<T>, ApiError> {
    match table {
        Table::Ready(answer) => Ok(Some(answer)),
        Table::Rebuilding => Ok(None),
        Table::Stranger => Err(ApiError::new(ErrorCode::NotInSwarm)),
        Table::Lost => {
            rebuild(state, member.swarm.facts.swarm_id, member.place.group_id).await?;
            Ok(None)
        }
    }
}

/// Begins to rebuild a group's table, unless its release has ended meanwhile: then the members are told so.
///
/// # Errors
/// A store fails.
pub async fn rebuild(state: &AppState, swarm_id: SwarmId, group_id: GroupId) -> Result<(), ApiError> {
    // After a loss every member of every group comes here: only the state is read anew.
    let swarm = state.swarms.with_groups(swarm_id, 0).await?;
    let reason = match state.store.swarm_facts(swarm_id).await?.state {
        ReleaseState::Closed | ReleaseState::Live => None,
        ReleaseState::Settled => Some(LeaveReason::Settled),
        ReleaseState::Aborted => Some(LeaveReason::Aborted),
        ReleaseState::Draft | ReleaseState::Open | ReleaseState::Cancelled => Some(LeaveReason::Cancelled),
    };
    let Some(spec) = swarm.group_spec(group_id) else { return Ok(()) };
    if let Some(reason) = reason {
        let leave = spec.members.iter().map(|(terminal, _)| (*terminal, PushMessage::Leave { swarm_id, reason }));
        return Ok(super::push_all(state, leave.collect()).await?);
    }
    tracing::warn!(%swarm_id, %group_id, "the group's table is gone; its members are asked what they hold");
    let deliveries = spec.members.iter().filter_map(|(terminal, _)| swarm.place(*terminal)).map(|place| place.delivery_id).collect();
    let receipted = state.store.receipted_bitmap(deliveries).await?;
    Ok(state.live.rebuild_group(&spec, &receipted, clock::now()).await?)
}

/// The member is there: after its connection, and again while it lasts.
///
/// # Errors
/// A store fails.
pub async fn join(state: &AppState, member: &Member) -> Result<(), ApiError> {
    if member.place.serves_only {
        // Nothing is allocated to it: its presence is all that counts.
        return Ok(());
    }
    let table = state.live.join(sender(state, member), clock::now()).await?;
    answered(state, member, table).await.map(|_| ())
}

/// The member's WebSocket is gone, and no newer one stands for it.
///
/// # Errors
/// A store fails.
pub async fn leave(state: &AppState, member: &Member) -> Result<(), ApiError> {
    if member.place.serves_only {
        // Whom it served gets another source at once.
        return sources::reselect(state, member.swarm.facts.swarm_id).await.map(|_| ());
    }
    let now = clock::now();
    // A lost table is not rebuilt for somebody who leaves.
    let table = state.live.leave(sender(state, member), Duration::ZERO, now).await?;
    // What it owed is noted where it was passed on; a relay is lost even if it owed nothing at that moment.
    if matches!(table, Table::Ready(answer) if answer.returned.is_empty()) && member.check_open(now).is_ok() {
        let (group_id, terminal_id, reason) = (member.place.group_id, member.terminal, ReselectionReason::Disconnected);
        state.reselections.note([NewReselection { group_id, at: now, reason, terminal_id, replacement: None, chunks: 0 }]);
    }
    tell_that_it_is_gone(state, member, now).await
}

/// Whoever is linked to the member asks others for what it owes. Not when this instance stops: its terminals are connected to another one in a moment.
async fn tell_that_it_is_gone(state: &AppState, member: &Member, now: OffsetDateTime) -> Result<(), ApiError> {
    if *state.stopping.borrow() || member.check_open(now).is_err() {
        return Ok(());
    }
    let message = PushMessage::PeerGone { swarm_id: member.swarm.facts.swarm_id, terminal_id: member.terminal };
    for peer in member.swarm.peers(member.terminal) {
        // Who is not connected has nothing to ask for, and learns by its links what has changed.
        state.live.push_to_connected(peer, &message, now).await?;
    }
    Ok(())
}

/// # Errors
/// A store fails.
pub async fn credits(state: &AppState, member: &Member, open: u32) -> Result<(), ApiError> {
    if !member.place.root || clock::now() >= member.swarm.facts.deadline_at {
        return Ok(());
    }
    let download = member.swarm.facts.on_demand;
    let open = if download { credits_of_download(state, member, open).await? } else { open };
    // The origin comes last in a download: it has nothing to spare for one.
    let sender = if download { sender(state, member) } else { sender_for_direct(state, member).await? };
    let table = state.live.credits(sender, open.min(CREDITS_MAX), clock::now()).await?;
    let Some(GroupAnswer { outcome: unsigned, .. }) = answered(state, member, table).await? else { return Ok(()) };
    if !unsigned.is_empty() && clear_signed(state, member, unsigned).await? {
        let table = state.live.credits(sender, open.min(CREDITS_MAX), clock::now()).await?;
        answered(state, member, table).await?;
    }
    Ok(())
}

/// What of a download's credits counts: the origin gives nothing while somebody else can, or when no chunk is left in the budget.
async fn credits_of_download(state: &AppState, member: &Member, open: u32) -> Result<u32, ApiError> {
    let shortest = member.swarm.chunk_lengths.iter().min().copied().unwrap_or(0);
    let may_serve = open > 0
        && sources::origin_may_serve(state, &member.swarm).await?
        && state.budgets.affordable(member.swarm.facts.budget_id, member.swarm.manifest.length).await?.first.0 >= u64::from(shortest);
    Ok(if may_serve { open } else { 0 })
}

/// Redis learns only here which of these chunks the member has signed for: the receipts in Postgres are what counts, so nothing that is lost on the way
/// keeps an honest terminal from fetching on. `false` if it was none.
///
/// # Errors
/// A store fails.
pub async fn clear_signed(state: &AppState, member: &Member, unsigned: Vec<u32>) -> Result<bool, ApiError> {
    let signed = state.store.receipted_chunks(&[member.place.delivery_id], &unsigned.into_iter().collect()).await?;
    if signed.is_empty() {
        tracing::debug!(terminal = %member.terminal, "a terminal has fetched much from the origin and signed for none of it");
        return Ok(false);
    }
    state.live.signed(sender(state, member), signed, false, clock::now()).await?;
    Ok(true)
}

/// # Errors
/// `invalid_request` for a list that is too long or a chunk that does not exist; or a store fails.
pub async fn notices(state: &AppState, member: &Member, notices: &[ChunkNotice]) -> Result<(), ApiError> {
    check_length("/notices", notices.len())?;
    member.check_chunks("/notices", notices.iter().map(|notice| notice.chunk))?;
    let table = state.live.notices(sender_for_direct(state, member).await?, notices, clock::now()).await?;
    let answer = answered(state, member, table).await?;
    if let Some(sample) = answer.as_ref().and_then(|GroupAnswer { outcome: samples, .. }| samples.last()) {
        state.live.set_overhead(member.place.delivery_id, *sample).await?;
    }
    Ok(())
}

/// The member finds nobody who offers these chunks.
///
/// # Errors
/// `invalid_request` for a list that is too long or a chunk that does not exist; or a store fails.
pub async fn missing(state: &AppState, member: &Member, chunks: &[u32]) -> Result<(), ApiError> {
    check_length("/chunks", chunks.len())?;
    member.check_chunks("/chunks", chunks.iter().copied())?;
    member.check_open(clock::now())?;
    let wanted: BTreeSet<u32> = chunks.iter().copied().collect();
    let receipted = if member.swarm.facts.on_demand {
        match missing_in_download(state, member, &wanted).await? {
            Some(held) => held,
            None => return Ok(()),
        }
    } else {
        held_upstream(state, member, &wanted).await?
    };
    let chunks: BTreeMap<u32, bool> = wanted.into_iter().map(|chunk| (chunk, receipted.contains(&chunk))).collect();
    let wanted = Wanted { chunks: &chunks, feeders_connected: !member.place.root && feeders_connected(state, member).await? };
    let affordable = state.budgets.affordable(member.swarm.facts.budget_id, member.swarm.manifest.length).await?;
    let table = state.live.missing(sender(state, member), affordable, wanted, clock::now()).await?;
    let Some(answer) = answered(state, member, table).await? else { return Ok(()) };
    note_repairs(state, member, &answer.granted);
    let Missing { elsewhere, unaffordable } = answer.outcome;
    note_short(state, member, &unaffordable);
    for (chunks, code) in [(elsewhere, ErrorCode::Conflict), (unaffordable, ErrorCode::BudgetSpent)] {
        if !chunks.is_empty() {
            let refused = PushMessage::RepairRefused { swarm_id: member.swarm.facts.swarm_id, chunks, code };
            state.live.push(member.terminal, &refused, clock::now()).await?;
        }
    }
    Ok(())
}

/// The receiver of a download gets nothing: its sources are selected anew. Answers which of the chunks somebody connected holds: those the origin sends
/// only to whoever goes on asking. `None` if nobody has them and the origin may not send them either, and the receiver has been told.
async fn missing_in_download(state: &AppState, member: &Member, wanted: &BTreeSet<u32>) -> Result<Option<BTreeSet<u32>>, ApiError> {
    let swarm_id = member.swarm.facts.swarm_id;
    if member.place.serves_only {
        return Err(ApiError::new(ErrorCode::NotInSwarm).detail("A source gets nothing in the swarm that it serves."));
    }
    sources::reselect(state, swarm_id).await?;
    let swarm = state.swarms.with_groups(swarm_id, member.swarm.epoch).await?;
    if !sources::origin_may_serve(state, &swarm).await? {
        return Ok(Some(wanted.clone()));
    }
    let affordable = state.budgets.affordable(swarm.facts.budget_id, swarm.manifest.length).await?;
    let length = |chunk: &u32| usize::try_from(*chunk).ok().and_then(|chunk| swarm.chunk_lengths.get(chunk)).copied().unwrap_or(0);
    if wanted.iter().map(length).min().is_none_or(|shortest| u64::from(shortest) <= affordable.first.0) {
        return Ok(Some(BTreeSet::new()));
    }
    let chunks = wanted.iter().copied().collect();
    let refused = PushMessage::RepairRefused { swarm_id, chunks, code: ErrorCode::BudgetSpent };
    state.live.push(member.terminal, &refused, clock::now()).await?;
    Ok(None)
}

/// The origin gives what the terminals should have given.
fn note_repairs(state: &AppState, member: &Member, granted: &[Grant]) {
    let repairs = granted.iter().filter(|grant| grant.terminal == member.terminal && grant.kind == GrantKind::Repair).count();
    let event = missing_event(member, ReselectionReason::Missing, Some(TerminalId::ORIGIN), repairs);
    state.reselections.note((repairs > 0).then_some(event));
}

/// Nobody gives what the terminals should have given: the publisher is told by the report, the member by the refusal.
fn note_short(state: &AppState, member: &Member, unaffordable: &[u32]) {
    if !unaffordable.is_empty() {
        state.reselections.note_short(missing_event(member, ReselectionReason::BudgetSpent, None, unaffordable.len()));
    }
}

fn missing_event(member: &Member, reason: ReselectionReason, replacement: Option<TerminalId>, chunks: usize) -> NewReselection {
    NewReselection {
        group_id: member.place.group_id,
        at: clock::now(),
        reason,
        terminal_id: member.terminal,
        replacement,
        chunks: u32::try_from(chunks).unwrap_or(u32::MAX),
    }
}

/// Whether a member of a group that the origin feeds is connected.
async fn feeders_connected(state: &AppState, member: &Member) -> Result<bool, ApiError> {
    let roots = member.swarm.tree.groups().iter().filter(|group| group.root);
    let feeders: Vec<TerminalId> = roots.flat_map(|group| &group.members).map(|feeder| feeder.terminal_id).collect();
    Ok(!state.live.connected(&feeders).await?.is_empty())
}

/// Which chunks the receipts of somebody contain who is connected and from whom they can come to the member: its group, its links, or a group above it.
async fn held_upstream(state: &AppState, member: &Member, chunks: &BTreeSet<u32>) -> Result<BTreeSet<u32>, ApiError> {
    let peers: Vec<TerminalId> = member.swarm.tree.upstream(member.terminal).into_iter().collect();
    let connected = state.live.connected(&peers).await?;
    let deliveries: Vec<DeliveryId> =
        connected.into_iter().filter_map(|terminal| member.swarm.place(terminal)).map(|place| place.delivery_id).collect();
    Ok(state.store.receipted_chunks(&deliveries, chunks).await?)
}

/// The answer to a question for holdings.
#[derive(Debug)]
pub struct ToldHoldings<'a> {
    pub segment: u32,
    /// Base64 of 512 bytes.
    pub bitmap: &'a str,
    pub last: bool,
    pub leases: &'a [u32],
}

/// # Errors
/// `invalid_request` for what is no segment of the edition; or a store fails.
pub async fn holdings(state: &AppState, member: &Member, told: &ToldHoldings<'_>) -> Result<(), ApiError> {
    let count = member.swarm.chunk_count();
    check_length("/leases", told.leases.len())?;
    member.check_chunks("/leases", told.leases.iter().copied())?;
    if told.segment >= segment_count(count) {
        return Err(ApiError::invalid("/segment", format!("the edition has {} segments", segment_count(count))));
    }
    let bytes = BASE64_STANDARD.decode(told.bitmap).ok().and_then(|bytes| <[u8; SEGMENT_BYTES]>::try_from(bytes).ok());
    let bitmap = bytes.ok_or_else(|| ApiError::invalid("/bitmap", format!("expected base64 of {SEGMENT_BYTES} bytes")))?;
    if segment_chunks(told.segment, &bitmap).any(|chunk| chunk >= count) {
        return Err(ApiError::invalid("/bitmap", format!("the edition has {count} chunks")));
    }
    let holdings = Holdings { segment: told.segment, bitmap: &bitmap, last: told.last, leases: told.leases };
    let table = state.live.holdings(sender(state, member), &holdings, clock::now()).await?;
    answered(state, member, table).await.map(|_| ())
}

/// The member finds a linked terminal silent or misbehaving. A third of its neighbours, or one if the WebSocket is gone as well, remove it from its
/// group: what it leases goes to others. It is back with its next message, once its bench is over.
///
/// # Errors
/// `not_in_swarm` if the two are not linked; or a store fails.
pub async fn suspect(state: &AppState, member: &Member, suspected: TerminalId, reason: SuspectReason) -> Result<(), ApiError> {
    let swarm_id = member.swarm.facts.swarm_id;
    if !member.swarm.peers(member.terminal).contains(&suspected) {
        return Err(ApiError::new(ErrorCode::NotInSwarm).at("/terminal_id", "this terminal is not linked to that one"));
    }
    if member.swarm.facts.on_demand {
        return sources::suspected(state, member, suspected, reason).await;
    }
    let needed = reports_needed(member.swarm.peers(suspected).len());
    let agreed = state.live.suspect(swarm_id, suspected, member.terminal, needed, clock::now()).await?;
    tracing::debug!(%swarm_id, %suspected, reporter = %member.terminal, ?reason, agreed, "a terminal is suspected");
    let Some(place) = member.swarm.place(suspected).filter(|_| agreed) else { return Ok(()) };
    let removed = Sender { group: place.group_id, terminal: suspected, limits: limits(state) };
    let now = clock::now();
    // A table that is gone, or about to be built again, has nothing to take from anybody.
    let Table::Ready(answer) = state.live.leave(removed, BENCH, now).await? else { return Ok(()) };
    if !answer.outcome {
        tracing::info!(%swarm_id, %suspected, ?reason, "a terminal is removed from its group for a while");
        metrics::counter!("spillway_members_removed_total").increment(1);
    }
    note_removal(state, &removed, reason, &answer, now);
    Ok(())
}

/// The terminal lost its place, and maybe chunks to others. Reports that come while it is removed anyway say nothing new.
fn note_removal(state: &AppState, removed: &Sender, suspicion: SuspectReason, answer: &GroupAnswer<bool>, at: OffsetDateTime) {
    let reason = reason_of(suspicion);
    let event = |terminal_id, replacement, chunks| NewReselection { group_id: removed.group, at, reason, terminal_id, replacement, chunks };
    let passed: Vec<LeasesPassed> = passed(removed.group, &answer.returned, &answer.granted, at);
    if passed.is_empty() && !answer.outcome {
        state.reselections.note([event(removed.terminal, None, 0)]);
    }
    state.reselections.note(passed.into_iter().map(|passed| match passed.why {
        WhyReturned::Gone if passed.from == removed.terminal => event(passed.from, passed.to, passed.chunks),
        WhyReturned::Gone => NewReselection { reason: ReselectionReason::Disconnected, ..event(passed.from, passed.to, passed.chunks) },
        WhyReturned::Expired => NewReselection { reason: ReselectionReason::LeaseExpired, ..event(passed.from, passed.to, passed.chunks) },
    }));
}

fn check_length(pointer: &str, length: usize) -> Result<(), ApiError> {
    if length > LIST_MAX {
        return Err(ApiError::invalid(pointer, format!("at most {LIST_MAX} entries")));
    }
    Ok(())
}
