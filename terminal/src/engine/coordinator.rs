//! Hands what the server says to the swarm it is about, starts swarms and notes their ends.

mod stopping;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use protocol::plan_change::PlanChange;
use protocol::sealing::manifest::SealedManifest;
use protocol::ws::{LeaveReason, PushMessage, SwarmPlan};
use protocol::{ErrorCode, ReleaseId, SwarmId, TimestampMs};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::releases::{self, ASK_AFTER_CONNECT, ASK_AFTER_LEAVE, ASK_EVERY};
use super::running::{Input, chain, planned_peers};
use super::task::{self, Outcome};
use super::{Context, EngineError, EngineEvent, SwarmSummary, unsealing};
use crate::socket::{ServerClock, SocketEvent};
use crate::store::{Finished, Store, StoreError};

/// Inputs that wait for a swarm's task, which takes them between two frames. When it is full the socket is not read.
const MAILBOX: usize = 256;
/// Plans come first: what they are about is opened by its swarm.
const OPEN_AFTER_CONNECT: Duration = Duration::from_secs(3);
/// What comes after the deadline may take this long to be pushed.
const AFTER_DEADLINE_MS: u64 = 30_000;

struct Active {
    release: ReleaseId,
    deadline_at: TimestampMs,
    /// The latest one, which differences are of.
    plan: Box<SwarmPlan>,
    mailbox: mpsc::Sender<Input>,
    /// It was told to leave; its task is about to end.
    left: bool,
    /// A plan that came after that: it begins anew.
    again: Option<Box<SwarmPlan>>,
}

type Ended = Vec<(ReleaseId, LeaveReason)>;

pub(super) struct Coordinator {
    context: Arc<Context>,
    only_releases: BTreeSet<ReleaseId>,
    exit_when_done: bool,
    clock: watch::Sender<Option<ServerClock>>,
    report_interval: watch::Sender<Duration>,
    active: BTreeMap<SwarmId, Active>,
    tasks: JoinSet<(SwarmId, Outcome)>,
    done: Vec<SwarmSummary>,
    /// Of `only_releases` those that nothing more is expected of.
    over: BTreeSet<ReleaseId>,
    error: Option<EngineError>,
    asking: JoinSet<Ended>,
    ask_at: Instant,
    ask_about_all: bool,
    /// What earlier runs received sealed, unless its swarm goes on.
    unopened: BTreeMap<SwarmId, Unopened>,
    open_at: Option<Instant>,
    opening: JoinSet<(SwarmId, Result<Option<Finished>, StoreError>)>,
    pub(super) opened: usize,
}

/// A content that is complete and sealed.
enum Unopened {
    Known(Box<SealedManifest>),
    Opening(AbortHandle),
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Whether the engine goes on.
enum Step {
    GoOn,
    Done,
}

impl Coordinator {
    pub(super) fn new(
        context: Arc<Context>,
        only_releases: BTreeSet<ReleaseId>,
        exit_when_done: bool,
        clock: watch::Sender<Option<ServerClock>>,
        report_interval: watch::Sender<Duration>,
    ) -> Self {
        Self {
            context,
            only_releases,
            exit_when_done,
            clock,
            report_interval,
            active: BTreeMap::new(),
            tasks: JoinSet::new(),
            done: Vec::new(),
            over: BTreeSet::new(),
            error: None,
            asking: JoinSet::new(),
            ask_at: Instant::now() + ASK_AFTER_CONNECT,
            ask_about_all: false,
            unopened: BTreeMap::new(),
            open_at: None,
            opening: JoinSet::new(),
            opened: 0,
        }
    }

    /// Runs until the shutdown, the end of all there is to do, or an error.
    pub(super) async fn run(
        &mut self,
        events: &mut mpsc::Receiver<SocketEvent>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), EngineError> {
        let mut shutdown = std::pin::pin!(shutdown);
        for sealed in Store::unopened(self.context.dir.clone()).await {
            if self.only_releases.is_empty() || self.only_releases.contains(&sealed.release_id) {
                self.unopened.insert(sealed.swarm_id, Unopened::Known(Box::new(sealed)));
            }
        }
        loop {
            let step = tokio::select! {
                () = &mut shutdown => return Ok(()),
                event = events.recv() => match event {
                    Some(event) => self.take(event).await?,
                    None => return Err(EngineError::Broken),
                },
                Some(ended) = self.tasks.join_next() => self.swarm_ended(ended)?,
                Some(ended) = self.asking.join_next() => self.releases_ended(ended.unwrap_or_default()).await,
                Some(opened) = self.opening.join_next() => self.content_opened(opened),
                () = sleep_until(self.open_at) => {
                    self.open_at = None;
                    self.open_late();
                    Step::GoOn
                }
                () = tokio::time::sleep_until(self.ask_at) => {
                    self.ask();
                    Step::GoOn
                }
            };
            if let Step::Done = step {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, event: SocketEvent) -> Result<Step, EngineError> {
        match event {
            SocketEvent::Connected { resumed, ice_servers, report_interval } => {
                self.report_interval.send_replace(report_interval.max(Duration::from_millis(100)));
                let is_turn = |url: &String| url.starts_with("turn:");
                if self.context.turn_only && !ice_servers.iter().flat_map(|server| &server.urls).any(is_turn) {
                    return Err(EngineError::NoTurn);
                }
                self.context.links.ice_servers(ice_servers).await;
                if !resumed {
                    self.ask_about_all = true;
                    self.ask_at = Instant::now() + ASK_AFTER_CONNECT;
                }
                self.context.keys.ask_again(&self.context.outbox);
                self.open_at = (!self.unopened.is_empty()).then(|| Instant::now() + OPEN_AFTER_CONNECT);
                self.context.tell(EngineEvent::Connected { resumed });
                self.context.tell_holdings();
                for active in self.active.values() {
                    let _ = active.mailbox.send(Input::Connected).await;
                }
            }
            SocketEvent::Push(message) => self.push(message).await,
            SocketEvent::Key { swarm_id, envelope } => self.context.keys.given(&self.context, swarm_id, &envelope),
            SocketEvent::NoKey { swarm_id, code } => self.context.keys.refused(swarm_id, code),
            SocketEvent::Audit(question) => match self.active.get(&question.swarm_id) {
                // An error means that the task is ending: a question without an answer is no false one.
                Some(active) => drop(active.mailbox.try_send(Input::Audit(question))),
                None => self.context.audited(question, None),
            },
            SocketEvent::Clock(clock) => drop(self.clock.send_replace(Some(clock))),
            SocketEvent::Refused { code, detail, pointer } => self.refused(code, &detail, &pointer),
            SocketEvent::Disconnected { reason } => self.context.tell(EngineEvent::Disconnected { reason }),
            SocketEvent::Rejected(error) => return Err(EngineError::Rejected(error)),
        }
        Ok(Step::GoOn)
    }

    fn refused(&self, code: ErrorCode, detail: &str, pointer: &str) {
        tracing::debug!(%code, detail, pointer, "the server refused a message");
        // What is asked again and again is refused now and then; a receipt is not, and it is worth money.
        if code == ErrorCode::InvalidReceipt {
            self.context.warn(format!("the server refused a receipt: {detail}"));
        }
    }

    async fn push(&mut self, message: PushMessage) {
        match message {
            PushMessage::Plan(plan) => self.plan(plan).await,
            PushMessage::PlanChange(change) => self.plan_change(&change).await,
            PushMessage::Leave { swarm_id, reason } => {
                match self.active.get_mut(&swarm_id) {
                    Some(active) => active.left = true,
                    // The end of what was never begun here: perhaps of the one release that is waited for.
                    None => self.ask_at = self.ask_at.min(Instant::now() + ASK_AFTER_LEAVE),
                }
                self.input(swarm_id, Input::Leave(reason)).await;
            }
            PushMessage::Grant { swarm_id, kind, chunks, expires_at: _ } => self.input(swarm_id, Input::Grant { kind, chunks }).await,
            PushMessage::RepairRefused { swarm_id, chunks, code } => self.input(swarm_id, Input::RepairRefused { chunks, code }).await,
            PushMessage::PeerGone { swarm_id, terminal_id } => self.input(swarm_id, Input::PeerGone(terminal_id)).await,
            PushMessage::ReportHoldings { swarm_id } => self.input(swarm_id, Input::ReportHoldings).await,
            PushMessage::Signal { from, signal } => self.context.links.signal(from, signal).await,
            PushMessage::Settled { swarm_id, delivery_id, charged, earned } => {
                self.settled(swarm_id, Input::Settled { delivery_id, charged, earned }).await;
            }
            PushMessage::Earned { swarm_id, earned } => self.settled(swarm_id, Input::Earned { earned }).await,
            // The socket has asked for the plans already.
            PushMessage::Reload => {}
        }
    }

    async fn input(&self, swarm: SwarmId, input: Input) {
        if let Some(active) = self.active.get(&swarm) {
            // An error means that the task is ending, and is about to be noted.
            let _ = active.mailbox.send(input).await;
        }
    }

    /// Money may be told of after the swarm is over.
    async fn settled(&mut self, swarm: SwarmId, input: Input) {
        if self.active.contains_key(&swarm) {
            return self.input(swarm, input).await;
        }
        let Some(summary) = self.done.iter_mut().rev().find(|summary| summary.swarm_id == swarm) else { return };
        let news = match input {
            Input::Settled { delivery_id, charged, earned } => summary.settled(delivery_id, charged, earned),
            Input::Earned { earned } => summary.earned(earned),
            Input::Plan(_)
            | Input::Grant { .. }
            | Input::RepairRefused { .. }
            | Input::PeerGone(_)
            | Input::ReportHoldings
            | Input::Audit(_)
            | Input::Connected
            | Input::Leave(_)
            | Input::Stop => None,
        };
        self.context.tell_all(news);
    }

    async fn plan(&mut self, plan: Box<SwarmPlan>) {
        if !self.only_releases.is_empty() && !self.only_releases.contains(&plan.release_id) {
            return;
        }
        if plan.serves_only() {
            let (swarm_id, release_id, edition_id) = (plan.swarm_id, plan.release_id, plan.edition_id);
            self.context.tell(EngineEvent::Serving { swarm_id, release_id, edition_id });
            return self.take_plan(plan).await;
        }
        self.context.tell(EngineEvent::Plan {
            swarm_id: plan.swarm_id,
            release_id: plan.release_id,
            edition_id: plan.edition_id,
            epoch: plan.epoch,
            rank: plan.rank,
            root: plan.root,
            peers: planned_peers(&plan).len(),
            opens_at: plan.opens_at,
        });
        self.take_plan(plan).await;
    }

    async fn take_plan(&mut self, plan: Box<SwarmPlan>) {
        match self.active.get_mut(&plan.swarm_id) {
            Some(active) if active.left => active.again = Some(plan),
            Some(active) => {
                active.deadline_at = plan.deadline_at;
                active.plan.clone_from(&plan);
                let _ = active.mailbox.send(Input::Plan(plan)).await;
            }
            None => self.begin(plan),
        }
    }

    /// A difference to the plan that is known here; to any other one it says nothing, and the whole plan is asked for.
    async fn plan_change(&mut self, change: &PlanChange) {
        if !self.only_releases.is_empty() && !self.only_releases.contains(&change.release_id) {
            return;
        }
        let known = self.active.get(&change.swarm_id).map(|active| active.again.as_ref().unwrap_or(&active.plan));
        if known.is_some_and(|plan| plan.epoch >= change.to) {
            return;
        }
        match known.and_then(|plan| change.apply(plan)) {
            Some(plan) => self.plan(Box::new(plan)).await,
            None => self.context.outbox.sync(),
        }
    }

    fn begin(&mut self, plan: Box<SwarmPlan>) {
        let (mailbox, inputs) = mpsc::channel(MAILBOX);
        let swarm = plan.swarm_id;
        if let Some(Unopened::Opening(task)) = self.unopened.remove(&swarm) {
            // Its swarm goes on, and opens it itself. Opening waits until the files are free.
            task.abort();
        }
        let active =
            Active { release: plan.release_id, deadline_at: plan.deadline_at, plan: plan.clone(), mailbox, left: false, again: None };
        self.active.insert(swarm, active);
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move { (swarm, task::run(context, *plan, inputs).await) });
    }

    fn swarm_ended(&mut self, ended: Result<(SwarmId, Outcome), tokio::task::JoinError>) -> Result<Step, EngineError> {
        let Ok((swarm, Outcome { summary, error })) = ended else { return Err(EngineError::Broken) };
        let again = self.active.remove(&swarm).and_then(|active| active.again);
        let (release_id, removed) = (summary.release_id, summary.left == Some(LeaveReason::Removed));
        // A swarm that failed and was begun again counts once: as what it came to.
        self.done.retain(|earlier| earlier.swarm_id != swarm || earlier.path.is_some() || earlier.left.is_some());
        self.done.push(summary);
        if let Some(error) = error {
            if self.ends_with(&error) {
                return Err(error);
            }
            self.context.tell(EngineEvent::Failed { swarm_id: swarm, release_id, error: chain(&error) });
        }
        if let Some(plan) = again {
            self.begin(plan);
        }
        if removed {
            // It may be planned again; whether its release is over the server knows.
            self.ask_at = self.ask_at.min(Instant::now() + ASK_AFTER_LEAVE);
        } else if !self.active.values().any(|active| active.release == release_id) {
            self.over.insert(release_id);
        }
        Ok(self.next_step())
    }

    /// Whether an error of one swarm ends the engine: if nothing else is wanted, and if the disk is the reason, which all swarms share.
    fn ends_with(&self, error: &EngineError) -> bool {
        self.only_releases.len() == 1 || matches!(error, EngineError::Store(StoreError::Io { .. }) | EngineError::Broken)
    }

    /// Whether there is something left to do, once a swarm or a release is over.
    fn next_step(&self) -> Step {
        let is_idle = self.active.is_empty() && self.unopened.is_empty();
        if self.exit_when_done && is_idle && self.only_releases.is_subset(&self.over) { Step::Done } else { Step::GoOn }
    }

    /// Opens what no swarm has come for: its release is over, or goes on without this terminal.
    fn open_late(&mut self) {
        for (swarm_id, unopened) in &mut self.unopened {
            if let Unopened::Known(sealed) = unopened {
                let (swarm_id, opening) = (*swarm_id, unsealing::open_late(Arc::clone(&self.context), (**sealed).clone()));
                *unopened = Unopened::Opening(self.opening.spawn(async move { (swarm_id, opening.await) }));
            }
        }
    }

    fn content_opened(&mut self, opened: Result<(SwarmId, Result<Option<Finished>, StoreError>), tokio::task::JoinError>) -> Step {
        // One that was ended to make place for its swarm.
        let Ok((swarm_id, outcome)) = opened else { return Step::GoOn };
        if self.unopened.remove(&swarm_id).is_none() {
            return Step::GoOn;
        }
        match outcome {
            Ok(finished) => self.opened += usize::from(finished.is_some()),
            Err(error) => self.context.warn(format!("a sealed content cannot be opened: {}", chain(&error))),
        }
        self.context.tell(EngineEvent::Left { swarm_id, reason: LeaveReason::Settled });
        self.next_step()
    }

    /// Asks about the releases whose end may have been missed.
    fn ask(&mut self) {
        self.ask_at = Instant::now() + ASK_EVERY;
        let all = std::mem::take(&mut self.ask_about_all);
        let server_time = (*self.context.clock.borrow()).map(|clock| clock.at(self.context.now()));
        let overdue =
            |active: &&Active| all || server_time.is_some_and(|now| now.0 > active.deadline_at.0.saturating_add(AFTER_DEADLINE_MS));
        let mut releases: BTreeSet<ReleaseId> = self.active.values().filter(overdue).map(|active| active.release).collect();
        if self.exit_when_done && self.active.is_empty() {
            releases.extend(self.only_releases.difference(&self.over));
        }
        if !releases.is_empty() && self.asking.is_empty() {
            self.asking.spawn(releases::ask(Arc::clone(&self.context), releases));
        }
    }

    async fn releases_ended(&mut self, ended: Ended) -> Step {
        for (release, reason) in &ended {
            for active in self.active.values_mut().filter(|active| active.release == *release) {
                active.left = true;
                let _ = active.mailbox.send(Input::Leave(*reason)).await;
            }
        }
        let wanted = ended.iter().map(|(release, _)| *release).filter(|release| self.only_releases.contains(release));
        let before = self.over.len();
        self.over.extend(wanted);
        if self.over.len() > before { self.next_step() } else { Step::GoOn }
    }
}
