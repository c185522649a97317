//! Pushes on their way from the terminal's stream in Redis to its WebSocket, and the presence that goes with them.
//!
//! A Redis that is away, or has lost everything, ends no session: reading is tried again, and a stream that begins anew is announced by
//! [`PushMessage::Reload`], after which the terminal asks for its plans.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::plan_change::PlanChange;
use protocol::ws::{PushMessage, PushPosition, ServerMessage, SwarmPlan};
use protocol::{ErrorCode, SwarmId, TerminalId};

use super::outbox::{Closing, Outbox};
use crate::app::swarm::{self, Member, allocation, planning};
use crate::clock;
use crate::error::ApiError;
use crate::live::{Listener, LiveError, Pushes, REFRESH_EVERY, Refreshed};
use crate::state::AppState;

/// The pause before Redis is tried again; every try waits a few seconds itself.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// The swarms of a terminal and whom it is linked to in each: what its plans say. Shared by the parts of one session, on one thread.
#[derive(Debug, Default)]
pub(super) struct Links {
    swarms: RefCell<BTreeMap<SwarmId, (u64, BTreeSet<TerminalId>)>>,
}

impl Links {
    fn follow(&self, message: &PushMessage) {
        match message {
            PushMessage::Plan(plan) => self.add(plan),
            PushMessage::PlanChange(change) => self.widen(change),
            PushMessage::Leave { swarm_id, reason: _ } => _ = self.swarms.borrow_mut().remove(swarm_id),
            PushMessage::Grant { .. }
            | PushMessage::RepairRefused { .. }
            | PushMessage::PeerGone { .. }
            | PushMessage::ReportHoldings { .. }
            | PushMessage::Signal { .. }
            | PushMessage::Settled { .. }
            | PushMessage::Earned { .. }
            | PushMessage::Reload => {}
        }
    }

    fn add(&self, plan: &SwarmPlan) {
        let mut swarms = self.swarms.borrow_mut();
        if swarms.get(&plan.swarm_id).is_none_or(|(epoch, _)| *epoch <= plan.epoch) {
            swarms.insert(plan.swarm_id, (plan.epoch, plan.peers().map(|peer| peer.terminal_id).collect()));
        }
    }

    /// Whoever joins is linked at once; who has left is found by [`Forwarder::catch_up`], which has the whole plan.
    fn widen(&self, change: &PlanChange) {
        let peers = [&change.members, &change.parents, &change.serves].into_iter().flat_map(|list| &list.joined);
        let contacts = change.children.joined.iter().flat_map(|(_, child)| &child.contacts);
        if let Some((_, known)) = self.swarms.borrow_mut().get_mut(&change.swarm_id) {
            known.extend(peers.map(|(_, peer)| peer).chain(contacts).map(|peer| peer.terminal_id));
        }
    }

    /// The epoch of the plan that was told last.
    fn epoch(&self, swarm_id: SwarmId) -> Option<u64> {
        self.swarms.borrow().get(&swarm_id).map(|(epoch, _)| *epoch)
    }

    /// Whether this plan names the same peers as what was told.
    fn names(&self, plan: &SwarmPlan) -> bool {
        let peers: BTreeSet<TerminalId> = plan.peers().map(|peer| peer.terminal_id).collect();
        self.swarms.borrow().get(&plan.swarm_id).is_some_and(|(_, known)| *known == peers)
    }

    pub(super) fn has(&self, terminal: TerminalId) -> bool {
        self.swarms.borrow().values().any(|(_, peers)| peers.contains(&terminal))
    }

    pub(super) fn swarms(&self) -> Vec<SwarmId> {
        self.swarms.borrow().keys().copied().collect()
    }

    /// What the stored plans say, for a terminal that resumed and is not told them again.
    pub(super) async fn load(&self, state: &AppState, terminal: TerminalId) -> Result<(), ApiError> {
        for swarm in planning::memberships(state, terminal).await? {
            if let Some(plan) = swarm.plan(terminal) {
                self.add(&plan);
            }
        }
        Ok(())
    }
}

/// Forwards the pushes of one terminal until its session ends.
#[derive(Debug)]
pub(super) struct Forwarder<'session> {
    pub(super) state: &'session AppState,
    pub(super) outbox: &'session Outbox,
    pub(super) links: &'session Links,
    pub(super) terminal: TerminalId,
    pub(super) token: &'session str,
    pub(super) listener: Listener,
    pub(super) position: PushPosition,
    /// Plans that the terminal had not been told when it was looked at last: the telling may be on its way.
    pub(super) untold: BTreeMap<SwarmId, u64>,
}

impl Forwarder<'_> {
    pub(super) async fn run(mut self) {
        let mut refresh = tokio::time::interval(REFRESH_EVERY);
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Err(error) = self.forward().await {
                tracing::debug!(error = &error as &dyn std::error::Error, "pushes cannot be read; it is tried again");
                tokio::time::sleep(TRY_AGAIN).await;
                continue;
            }
            tokio::select! {
                () = self.listener.woken() => {}
                _ = refresh.tick() => self.refresh().await,
            }
        }
    }

    /// Sends everything that the stream holds after the position.
    async fn forward(&mut self) -> Result<(), LiveError> {
        loop {
            match self.state.live.pushes(self.terminal, self.token, self.position, clock::now()).await? {
                Pushes::Next(pushes) if pushes.is_empty() => return Ok(()),
                Pushes::Next(pushes) => {
                    for (position, message) in pushes {
                        self.links.follow(&message);
                        self.catch_up(&message).await;
                        self.outbox.send_in_turn(&ServerMessage::Push { position, message }).await;
                        self.position = position;
                    }
                }
                Pushes::Gap(end) if end.epoch == self.position.epoch => self.reload_at(end),
                Pushes::Gap(end) => {
                    // Redis was lost. What was pushed since is at the beginning of the new stream.
                    self.reload_at(PushPosition { epoch: end.epoch, offset: 0 });
                    self.refresh().await;
                }
                Pushes::Replaced => self.replaced().await,
            }
            // After a replacement the session ends at the next point of waiting; it must not spin until then.
            tokio::task::yield_now().await;
        }
    }

    /// A plan that another instance has made must be at hand here before the terminal acts on it.
    async fn catch_up(&self, message: &PushMessage) {
        let (swarm_id, epoch) = match message {
            PushMessage::Plan(plan) => (plan.swarm_id, plan.epoch),
            PushMessage::PlanChange(change) => (change.swarm_id, change.to),
            PushMessage::Leave { .. }
            | PushMessage::Grant { .. }
            | PushMessage::RepairRefused { .. }
            | PushMessage::PeerGone { .. }
            | PushMessage::ReportHoldings { .. }
            | PushMessage::Signal { .. }
            | PushMessage::Settled { .. }
            | PushMessage::Earned { .. }
            | PushMessage::Reload => return,
        };
        match self.state.swarms.with_groups(swarm_id, epoch).await {
            Ok(swarm) => swarm.plan(self.terminal).iter().for_each(|plan| self.links.add(plan)),
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "the plan is read when it is needed"),
        }
    }

    fn reload_at(&mut self, position: PushPosition) {
        self.position = position;
        self.outbox.send(&ServerMessage::Push { position, message: PushMessage::Reload });
    }

    /// Says that the terminal is there, to whoever asks Redis and to its groups, and tells it what it should have been told of its plans (b13).
    async fn refresh(&mut self) {
        match self.state.live.refresh(self.terminal, self.token, clock::now()).await {
            Ok(Refreshed::Owner(_)) => {}
            Ok(Refreshed::Replaced) => return self.replaced().await,
            Err(error) => return tracing::debug!(error = &error as &dyn std::error::Error, "the presence could not be refreshed"),
        }
        for swarm_id in self.links.swarms() {
            let joined = match swarm::member(self.state, swarm_id, self.terminal).await {
                Ok(member) => {
                    self.tell_what_was_missed(&member).await;
                    allocation::join(self.state, &member).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = joined {
                tracing::debug!(error = &error as &dyn std::error::Error, %swarm_id, "the group could not be told that the terminal is there");
            }
        }
    }

    /// Something else stands for the terminal: a newer WebSocket, or a quarantine.
    async fn replaced(&self) {
        match self.state.store.check_quarantine(self.terminal, clock::now()).await.map_err(ApiError::from) {
            Ok(()) => self.outbox.close(Closing::Replaced),
            Err(error) if error.code == ErrorCode::TerminalQuarantined => {
                self.outbox.refuse(&error);
                self.outbox.close(Closing::ShutOut);
            }
            Err(_) => self.outbox.close(Closing::Unavailable),
        }
    }

    /// A wave is told by whoever planned it, who may have died before. What is still not told at the second look is told here.
    async fn tell_what_was_missed(&mut self, member: &Member) {
        let (swarm_id, epoch) = (member.swarm.facts.swarm_id, member.swarm.epoch);
        if self.links.epoch(swarm_id).is_none_or(|told| told >= epoch) {
            self.untold.remove(&swarm_id);
            return;
        }
        if self.untold.insert(swarm_id, epoch) != Some(epoch) {
            return;
        }
        let Some(plan) = member.swarm.plan(self.terminal) else { return };
        if self.links.names(&plan) {
            // The waves since did not concern it.
            return self.links.add(&plan);
        }
        let message = PushMessage::Plan(Box::new(plan));
        if let Err(error) = self.state.live.push(self.terminal, &message, clock::now()).await {
            tracing::debug!(error = &error as &dyn std::error::Error, %swarm_id, "a plan could not be told; it is tried again");
        }
    }
}
