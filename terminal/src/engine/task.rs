//! The life of one swarm on this terminal: opened, run, perhaps started over, and left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use protocol::Amount;
use protocol::ws::{Progress, SwarmPlan};
use tokio::sync::mpsc;

use super::keeping::InUse;
use super::opening::{self, Ready};
use super::running::{Ending, Input, Running, planned_peers};
use super::{Context, EngineError, EngineEvent, SwarmSummary};
use crate::links::{SwarmEnd, SwarmLinks};

/// Inputs that wait until the swarm is open. What gives way is a grant, whose lease then expires; plans are kept apart.
const EARLY_MAX: usize = 1024;
/// The last sync may take this much of the time that a stop may take.
const SYNC_WITHIN: Duration = Duration::from_millis(1500);

/// How a swarm ended, for the coordinator.
pub(super) struct Outcome {
    pub(super) summary: SwarmSummary,
    pub(super) error: Option<EngineError>,
}

struct Task {
    context: Arc<Context>,
    /// The newest known.
    plan: SwarmPlan,
    end: SwarmEnd,
    links: SwarmLinks,
    early: VecDeque<Input>,
    summary: SwarmSummary,
    /// What it needs is not evicted meanwhile.
    _in_use: InUse,
}

/// Takes part in a swarm until it is over or the task is told to stop.
pub(super) async fn run(context: Arc<Context>, plan: SwarmPlan, mut mailbox: mpsc::Receiver<Input>) -> Outcome {
    let in_use = if plan.serves_only() {
        context.keeping.serving(plan.edition_id)
    } else {
        context.keeping.receiving((plan.release_id, plan.edition_id))
    };
    let (end, links) = context.links.swarm(plan.swarm_id);
    let summary = SwarmSummary {
        swarm_id: plan.swarm_id,
        release_id: plan.release_id,
        edition_id: plan.edition_id,
        delivery_id: plan.delivery_id,
        rank: plan.rank,
        serving: plan.serves_only(),
        total: None,
        progress: Progress::default(),
        path: None,
        blake3: None,
        charged: None,
        earned: Amount(0),
        left: None,
    };
    let mut task = Task { context, plan, end, links, early: VecDeque::new(), summary, _in_use: in_use };
    // Links take half a second to open: they are opened while the chunks on disk are verified.
    task.context.links.plan(&task.end, task.plan.epoch, planned_peers(&task.plan)).await;
    let ending = loop {
        let ending = task.turn(&mut mailbox).await;
        if matches!(ending, Ending::Restart) {
            task.context.links.restart(task.plan.swarm_id).await;
            continue;
        }
        break ending;
    };
    task.over(ending).await
}

impl Task {
    /// Opens the swarm and runs it until something ends it.
    async fn turn(&mut self, mailbox: &mut mpsc::Receiver<Input>) -> Ending {
        let ready = match self.open(mailbox).await {
            Ok(ready) => ready,
            Err(ending) => return ending,
        };
        let context = Arc::clone(&self.context);
        let mut running = match Running::new(&context, ready, self.plan.clone(), &self.end, &mut self.links, &mut self.summary) {
            Ok(running) => running,
            Err(error) => return Ending::Failed(error),
        };
        let mut ending = None;
        for input in std::mem::take(&mut self.early) {
            if let Err(early) = running.take_input(input).await {
                ending = Some(early);
            }
        }
        let ending = match ending {
            Some(ending) => ending,
            None => running.run(mailbox).await,
        };
        running.sync(SYNC_WITHIN).await;
        self.plan = running.swarm.plan().clone();
        ending
    }

    /// Waits until the swarm can start. What the server says meanwhile is kept.
    async fn open(&mut self, mailbox: &mut mpsc::Receiver<Input>) -> Result<Ready, Ending> {
        let context = Arc::clone(&self.context);
        let plan = self.plan.clone();
        let ready = async {
            if plan.serves_only() {
                return opening::ready_to_serve(&context, plan.edition_id).await;
            }
            opening::ready(&context, &plan).await.map_err(Ending::Failed)
        };
        let mut ready = std::pin::pin!(ready);
        loop {
            tokio::select! {
                ready = &mut ready => return ready,
                input = mailbox.recv() => match input {
                    Some(Input::Plan(plan)) => {
                        if plan.epoch > self.plan.epoch {
                            self.plan = *plan;
                            self.context.links.plan(&self.end, self.plan.epoch, planned_peers(&self.plan)).await;
                        }
                    }
                    Some(Input::Leave(reason)) => return Err(Ending::Left(reason)),
                    Some(Input::Stop) | None => return Err(Ending::Stopped),
                    Some(
                        input @ (Input::Grant { .. }
                        | Input::RepairRefused { .. }
                        | Input::PeerGone(_)
                        | Input::ReportHoldings
                        | Input::Audit(_)
                        | Input::Connected
                        | Input::Settled { .. }
                        | Input::Earned { .. }),
                    ) => {
                        if self.early.len() >= EARLY_MAX {
                            self.early.pop_front();
                        }
                        self.early.push_back(input);
                    }
                },
            }
        }
    }

    async fn over(self, ending: Ending) -> Outcome {
        let Self { context, plan, mut summary, .. } = self;
        context.links.leave(plan.swarm_id).await;
        context.outbox.forget(plan.swarm_id);
        let error = match ending {
            Ending::Left(reason) => {
                summary.left = Some(reason);
                context.tell(EngineEvent::Left { swarm_id: plan.swarm_id, reason });
                None
            }
            Ending::Stopped | Ending::Restart => None,
            Ending::Failed(error) => Some(error),
        };
        Outcome { summary, error }
    }
}
