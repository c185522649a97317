//! One swarm while it runs: events go into the machine, and what the machine asks is done.

mod finishing;
mod full;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use protocol::audit::AuditQuestion;
use protocol::ws::{GrantKind, LeaveReason, Progress, SwarmPlan};
use protocol::{Amount, DeliveryId, ErrorCode, TerminalId};
use swarm::{Action, Now, Swarm};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::opening::Ready;
use super::origin::{Fetched, OriginQueue};
use super::rates::RateMeter;
use super::sending::Sending;
use super::{Context, EngineError, EngineEvent, SwarmSummary, holdings};
use crate::links::{Inbound, LinkHandle, PlannedPeer, SwarmEnd, SwarmLinks};
use crate::socket::ServerClock;
use crate::store::{Finished, Store, StoreError};
pub(super) use finishing::chain;
pub(super) use full::LOOK_FOR_ROOM_EVERY;
use full::{Full, Writing};

/// Verified bytes that may wait to be written. Above it no frames are taken and nothing is fetched, until the disk has caught up.
const STORING_MAX: usize = 8 << 20;
/// The same while the disk is full and nothing is asked for: what some thirty links may still bring, a window of 256 KiB each, and fetches under way.
const STORING_MAX_WHEN_FULL: usize = 24 << 20;
/// A timer that goes off this late means that the machine had no processor time to spare. What was not heard meanwhile says nothing about the peers.
const STARVED_AFTER: Duration = Duration::from_millis(150);

/// What the server says about a swarm, and what the coordinator says to its task.
#[derive(Debug)]
pub(super) enum Input {
    Plan(Box<SwarmPlan>),
    Grant {
        kind: GrantKind,
        chunks: Vec<u32>,
    },
    RepairRefused {
        chunks: Vec<u32>,
        code: ErrorCode,
    },
    /// A linked terminal is no longer connected to the server.
    PeerGone(TerminalId),
    ReportHoldings,
    /// The connection to the server is new.
    Connected,
    Settled {
        delivery_id: DeliveryId,
        charged: Amount,
        earned: Amount,
    },
    Earned {
        earned: Amount,
    },
    /// The server asks whether a chunk is here.
    Audit(AuditQuestion),
    Leave(LeaveReason),
    Stop,
}

/// Why a swarm's machine stopped.
#[derive(Debug)]
pub(super) enum Ending {
    Left(LeaveReason),
    Stopped,
    /// A chunk on disk has changed: start over from what is still right.
    Restart,
    Failed(EngineError),
}

type Storing = BoxFuture<'static, (Writing, Result<(), StoreError>)>;

/// What a task waits for.
enum Event {
    Input(Option<Input>),
    LinksChanged,
    Frame(Option<Inbound>),
    Stored(Writing, Result<(), StoreError>),
    /// It may be that the disk has room again.
    LookForRoom,
    Fetched(Fetched),
    /// The uplink or a link has room again.
    Room,
    Corrupt(StoreError),
    Clock,
    Finished(Result<Finished, StoreError>),
    /// The machine's deadline, and when it was.
    Due(Now),
    Report,
}

pub(super) struct Running<'a> {
    context: Arc<Context>,
    pub(super) swarm: Swarm,
    store: Store,
    end: &'a SwarmEnd,
    links: &'a mut SwarmLinks,
    /// The links as the machine knows them.
    linked: BTreeMap<TerminalId, LinkHandle>,
    /// When each of them was last heard, as the machine knows it.
    heard: BTreeMap<TerminalId, Now>,
    storing: FuturesUnordered<Storing>,
    storing_bytes: usize,
    full: Full,
    origin: OriginQueue,
    sending: Sending,
    clock: watch::Receiver<Option<ServerClock>>,
    finishing: Option<BoxFuture<'static, Result<Finished, StoreError>>>,
    finish_error: Option<StoreError>,
    /// Every chunk was here before this run.
    held_all: bool,
    /// From the wave's opening to the last chunk.
    completed_after: Option<Duration>,
    leaving: Option<LeaveReason>,
    /// The owner knows that the origin sends nothing more.
    told_budget_spent: bool,
    summary: &'a mut SwarmSummary,
    report_at: Instant,
    reported: Option<Progress>,
    up: RateMeter,
    down: RateMeter,
}

impl<'a> Running<'a> {
    pub(super) fn new(
        context: &Arc<Context>,
        ready: Ready,
        plan: SwarmPlan,
        end: &'a SwarmEnd,
        links: &'a mut SwarmLinks,
        summary: &'a mut SwarmSummary,
    ) -> Result<Self, EngineError> {
        let Ready { manifest, clock, opened } = ready;
        let config = swarm::Config { me: context.me, key: context.key.clone(), up: context.up_rate };
        let (swarm_id, total) = (plan.swarm_id, manifest.length);
        summary.total = Some(total);
        let (serving, at_zero, now) = (summary.serving, clock.server_time_at_zero, context.now());
        let swarm = if serving {
            Swarm::serving(config, plan, manifest, at_zero, now)
        } else {
            Swarm::new(config, plan, manifest, &opened.held, &opened.lost, at_zero, now)
        };
        let swarm = swarm.map_err(EngineError::Plan)?;
        if !serving {
            let to_fetch = to_fetch(&swarm);
            context.tell(EngineEvent::Opened { swarm_id, verified: swarm.progress().verified, to_fetch, total });
        }
        let mut running = Self {
            context: Arc::clone(context),
            sending: Sending::new(Arc::clone(context), swarm_id, opened.store.clone()),
            origin: OriginQueue::new(Arc::clone(context), swarm_id),
            swarm,
            store: opened.store,
            end,
            links,
            linked: BTreeMap::new(),
            heard: BTreeMap::new(),
            storing: FuturesUnordered::new(),
            storing_bytes: 0,
            full: Full::default(),
            clock: context.clock.clone(),
            finishing: None,
            finish_error: None,
            held_all: false,
            completed_after: None,
            leaving: None,
            told_budget_spent: false,
            summary,
            report_at: Instant::now(),
            reported: None,
            up: RateMeter::default(),
            down: RateMeter::default(),
        };
        running.held_all = running.swarm.is_complete();
        if let Some(finished) = opened.finished {
            running.tell_completed(finished);
        }
        Ok(running)
    }

    /// Runs until the swarm is over, or its task is told to stop.
    pub(super) async fn run(&mut self, mailbox: &mut mpsc::Receiver<Input>) -> Ending {
        self.links.up.mark_changed();
        self.clock.mark_changed();
        loop {
            if let Err(ending) = self.carry_out().await {
                return ending;
            }
            self.transmit();
            if let (Some(reason), None) = (self.leaving, &self.finishing) {
                return match self.finish_error.take() {
                    Some(error) => Ending::Failed(EngineError::Store(error)),
                    None => Ending::Left(reason),
                };
            }
            let event = self.wait(mailbox).await;
            if let Err(ending) = self.take(event).await {
                return ending;
            }
        }
    }

    async fn wait(&mut self, mailbox: &mut mpsc::Receiver<Input>) -> Event {
        let deadline = self.swarm.next_deadline();
        // The runtime's timers wait for the next whole millisecond: a receipt that is due now would be sent two thousand packets later.
        if deadline <= self.context.now() {
            return Event::Due(deadline);
        }
        let due = Instant::from_std(self.context.start + deadline);
        let has_room = self.storing_bytes < if self.full.is_full() { STORING_MAX_WHEN_FULL } else { STORING_MAX };
        if has_room && !self.full.is_full() {
            self.origin.start();
        }
        let (paying, corrupt) = self.sending.waits();
        tokio::select! {
            input = mailbox.recv() => Event::Input(input),
            changed = self.links.up.changed() => if changed.is_ok() { Event::LinksChanged } else { Event::Input(None) },
            frame = self.links.frames.recv(), if has_room => Event::Frame(frame),
            Some((writing, result)) = self.storing.next() => Event::Stored(writing, result),
            () = self.full.wait() => Event::LookForRoom,
            fetched = self.origin.next() => Event::Fetched(fetched),
            () = Sending::paid(paying) => Event::Room,
            _ = self.links.room.changed() => Event::Room,
            Some(error) = corrupt.recv() => Event::Corrupt(error),
            changed = self.clock.changed() => if changed.is_ok() { Event::Clock } else { Event::Input(None) },
            finished = finished(&mut self.finishing) => Event::Finished(finished),
            () = tokio::time::sleep_until(due) => Event::Due(deadline),
            () = tokio::time::sleep_until(self.report_at) => Event::Report,
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), Ending> {
        let now = self.context.now();
        match event {
            Event::Input(Some(input)) => return self.take_input(input).await,
            Event::Input(None) => return Err(Ending::Stopped),
            Event::LinksChanged => self.reconcile(now),
            Event::Frame(Some(inbound)) => {
                // The link that it came by is known before its first frame is.
                if self.links.up.has_changed().unwrap_or(false) {
                    self.reconcile(now);
                }
                if self.linked.get(&inbound.peer).is_some_and(|link| link.generation() == inbound.generation) {
                    self.swarm.handle_frame(inbound.peer, inbound.frame, now);
                }
            }
            Event::Frame(None) => return Err(Ending::Stopped),
            Event::Stored(writing, result) => return self.stored(writing, result, now).await,
            Event::LookForRoom => self.try_again(),
            Event::Fetched(Fetched::Chunk { chunk, bytes }) => self.swarm.handle_origin_chunk(chunk, bytes, now),
            Event::Fetched(Fetched::Failed { chunk, retry_later }) => self.swarm.handle_origin_failed(chunk, retry_later, now),
            Event::Room => {}
            Event::Corrupt(error) if self.summary.serving => {
                self.context.warn(format!("{error}; the edition is served no more"));
                self.context.shelf.remove(self.summary.edition_id);
                self.context.tell_holdings();
                return Err(Ending::Left(LeaveReason::Removed));
            }
            Event::Corrupt(error) => {
                self.context.warn(format!("{error}; it is fetched again"));
                return Err(Ending::Restart);
            }
            Event::Clock => {
                if let Some(clock) = *self.clock.borrow_and_update() {
                    self.swarm.handle_clock(clock.server_time_at_zero);
                }
            }
            Event::Finished(result) => self.finished(result).await,
            Event::Due(deadline) => self.due(deadline, now),
            Event::Report => self.report(now),
        }
        Ok(())
    }

    pub(super) async fn take_input(&mut self, input: Input) -> Result<(), Ending> {
        let now = self.context.now();
        match input {
            Input::Plan(plan) => {
                if plan.epoch > self.swarm.plan().epoch {
                    let (epoch, peers) = (plan.epoch, planned_peers(&plan));
                    // The machine first: it must know a peer before its link comes up.
                    self.swarm.handle_plan(*plan, now);
                    self.context.links.plan(self.end, epoch, peers).await;
                }
            }
            Input::Grant { kind, chunks } => self.swarm.handle_grant(kind, &chunks, now),
            Input::RepairRefused { chunks, code } => {
                if code == ErrorCode::BudgetSpent && !std::mem::replace(&mut self.told_budget_spent, true) {
                    self.context.warn("the origin's budget is spent (budget_spent): what is missing can come from terminals only");
                }
                self.swarm.handle_repair_refused(&chunks, code);
            }
            Input::PeerGone(peer) => self.swarm.handle_peer_gone(peer, now),
            Input::ReportHoldings => self.swarm.handle_report_holdings(now),
            Input::Audit(question) => {
                let (store, context) = (self.store.clone(), Arc::clone(&self.context));
                // Beside the machine: a disk may take a while. What cannot be read is said to be gone, which is no fault.
                tokio::spawn(async move {
                    let digest = store.read(question.chunk).await.ok().map(|bytes| question.digest(&bytes));
                    context.audited(question, digest);
                });
            }
            Input::Connected => {
                self.swarm.handle_connected(now);
                self.reported = None;
            }
            Input::Settled { delivery_id, charged, earned } => {
                self.context.tell_all(self.summary.settled(delivery_id, charged, earned));
            }
            Input::Earned { earned } => self.context.tell_all(self.summary.earned(earned)),
            Input::Leave(reason) => {
                self.last_words(now);
                self.carry_out().await?;
                self.context.links.leave(self.summary.swarm_id).await;
                // What is never opened is not waited for; of a settled release the key is due.
                if self.store.wants_key() && reason != LeaveReason::Settled {
                    self.finishing = None;
                }
                self.leaving = Some(reason);
            }
            Input::Stop => {
                self.last_words(now);
                self.carry_out().await?;
                return Err(Ending::Stopped);
            }
        }
        Ok(())
    }

    /// Has the machine say what it has not said yet.
    fn last_words(&mut self, now: Now) {
        self.swarm.flush(now);
        self.report(now);
    }

    /// Does what the machine asks, in its order.
    async fn carry_out(&mut self) -> Result<(), Ending> {
        let swarm_id = self.summary.swarm_id;
        while let Some(action) = self.swarm.poll_action() {
            let outbox = &self.context.outbox;
            match action {
                Action::Send { peer, frame } => {
                    if let Some(link) = self.linked.get(&peer) {
                        link.control(frame);
                    }
                }
                Action::FetchOrigin { chunk } => {
                    let length = self.swarm.manifest().chunks.get(chunk as usize).map_or(0, |entry| entry.length);
                    self.origin.push(chunk, length);
                }
                Action::OriginSpoilt { chunk } => {
                    self.context.warn(format!("the origin sent chunk {chunk} with wrong bytes; it is fetched again until it is right"));
                }
                Action::Store { chunk, source, bytes } => {
                    self.storing_bytes += bytes.len();
                    self.write(Writing::Chunk { chunk, source, bytes });
                }
                Action::Repeat { chunk, into } => self.write(Writing::Repeats { chunk, into }),
                Action::Credits { open } => outbox.credits(swarm_id, open),
                Action::Notices(notices) => outbox.notices(swarm_id, &notices),
                Action::SubmitReceipts(receipts) => outbox.receipts(receipts),
                Action::Missing(chunks) => outbox.missing(swarm_id, chunks),
                Action::ReportHoldings { leases } => {
                    let count = self.swarm.manifest().chunk_count();
                    outbox.holdings(swarm_id, holdings::messages(swarm_id, self.swarm.needs_no_sending(), count, leases));
                }
                Action::Suspect { peer, reason } => outbox.suspect(swarm_id, peer, reason),
                Action::CloseLink { peer, reason } => {
                    tracing::debug!(%peer, ?reason, "a peer broke the rules");
                    self.context.links.block(swarm_id, peer).await;
                }
                Action::Replaced { relay, source, chunk, silent_for } => {
                    self.context.tell(EngineEvent::Replaced { swarm_id, relay, source, chunk, silent_for });
                }
                Action::Complete { delivery_id: _ } => self.completed(),
            }
        }
        Ok(())
    }

    /// Sends what the uplink and the links have room for.
    fn transmit(&mut self) {
        while self.sending.is_free() {
            // A place is taken before the machine hands out the frame: a frame that it counts as sent is never dropped.
            let slots = std::cell::RefCell::new(BTreeMap::new());
            let is_ready = |peer: TerminalId| {
                let mut slots = slots.borrow_mut();
                if !slots.contains_key(&peer)
                    && let Some(slot) = self.linked.get(&peer).and_then(LinkHandle::reserve)
                {
                    slots.insert(peer, slot);
                }
                slots.contains_key(&peer)
            };
            let Some(transmit) = self.swarm.poll_transmit(self.context.now(), &is_ready) else { return };
            match slots.borrow_mut().remove(&transmit.peer) {
                Some(slot) => {
                    if transmit.offset == 0
                        && let Some(next) = self.swarm.next_chunk_for(transmit.peer)
                    {
                        self.store.warm(next);
                    }
                    self.sending.send(slot, transmit);
                }
                None => return,
            }
        }
    }

    /// Tells the machine which links came up and went down.
    fn reconcile(&mut self, now: Now) {
        let up = self.links.up.borrow_and_update().clone();
        let same = |peer: &TerminalId, link: &LinkHandle, others: &BTreeMap<TerminalId, LinkHandle>| {
            others.get(peer).is_some_and(|other| other.generation() == link.generation())
        };
        for (peer, link) in &self.linked {
            if !same(peer, link, &up) {
                self.heard.remove(peer);
                self.swarm.handle_link_down(*peer, now);
            }
        }
        for (peer, link) in up.iter() {
            if !same(peer, link, &self.linked) {
                self.swarm.handle_link_up(*peer, now);
            }
        }
        self.linked = (*up).clone();
    }

    fn due(&mut self, deadline: Now, now: Now) {
        let starved = now.saturating_sub(deadline) > STARVED_AFTER;
        for (peer, link) in &self.linked {
            let heard_at = if starved { now } else { link.heard_at(now) };
            let known = self.heard.entry(*peer).or_default();
            if heard_at > *known {
                *known = heard_at;
                self.swarm.handle_heard(*peer, heard_at);
            }
        }
        self.swarm.handle_timeout(now);
    }
}

/// Waits for the end of laying out; for ever if none is under way.
async fn finished(finishing: &mut Option<BoxFuture<'static, Result<Finished, StoreError>>>) -> Result<Finished, StoreError> {
    let result = match finishing {
        Some(work) => work.await,
        None => std::future::pending().await,
    };
    *finishing = None;
    result
}

/// What somebody has to send of what is missing.
fn to_fetch(swarm: &Swarm) -> protocol::Bytes {
    let chunks = (0u32..).zip(&swarm.manifest().chunks);
    let missing = chunks.filter(|(chunk, _)| !swarm.needs_no_sending().contains(*chunk));
    protocol::Bytes(missing.map(|(_, entry)| u64::from(entry.length)).sum())
}

pub(super) fn planned_peers(plan: &SwarmPlan) -> Vec<PlannedPeer> {
    plan.peers().map(|peer| PlannedPeer { terminal_id: peer.terminal_id, public_key: peer.public_key }).collect()
}
