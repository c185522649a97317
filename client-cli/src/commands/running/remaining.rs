//! Whether anything is left to wait for: a swarm that is running, or an application that may still become one.
//!
//! The engine cannot know the second: a terminal that has lost is told nothing, and one that has applied to a later release has no swarm yet.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::rest::{Application, ApplicationState};
use protocol::{ReleaseId, SwarmId, TerminalId};
use terminal::api::Api;
use terminal::engine::EngineEvent;
use tokio::sync::watch;

use super::standing::own_applications;
use crate::failure::Outcome;

/// Often enough that nobody waits long for the end, seldom enough to cost the server nothing.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// The swarms that the engine takes part in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Swarms {
    active: BTreeSet<SwarmId>,
    /// Releases that this run cannot receive: nothing more is expected of them.
    failed: BTreeSet<ReleaseId>,
}

/// Notes what an event says of them. Called by the engine itself, so that no event is missed.
pub(super) fn note(swarms: &watch::Sender<Swarms>, event: &EngineEvent) {
    match event {
        // What was received before and is opened now has no plan.
        EngineEvent::Plan { swarm_id, .. } | EngineEvent::Sealed { swarm_id, .. } => {
            swarms.send_if_modified(|swarms| swarms.active.insert(*swarm_id));
        }
        EngineEvent::Left { swarm_id, .. } => {
            swarms.send_if_modified(|swarms| swarms.active.remove(swarm_id));
        }
        EngineEvent::Failed { swarm_id, release_id, .. } => {
            swarms.send_if_modified(|swarms| swarms.failed.insert(*release_id) | swarms.active.remove(swarm_id));
        }
        // Whom this terminal serves does not keep it.
        EngineEvent::Serving { .. }
        | EngineEvent::Connected { .. }
        | EngineEvent::Disconnected { .. }
        | EngineEvent::Opened { .. }
        | EngineEvent::DiskFull { .. }
        | EngineEvent::DiskRoom { .. }
        | EngineEvent::Evicted { .. }
        | EngineEvent::QuotaFull { .. }
        | EngineEvent::QuotaRoom { .. }
        | EngineEvent::Progress { .. }
        | EngineEvent::Replaced { .. }
        | EngineEvent::KeyCame { .. }
        | EngineEvent::Completed { .. }
        | EngineEvent::Settled { .. }
        | EngineEvent::Earned { .. }
        | EngineEvent::Warning { .. } => {}
    }
}

/// Completes when this terminal takes part in no swarm and has no application left that may still bring one. Asks the server whenever a swarm has
/// ended, and now and then.
pub(super) async fn nothing_left(api: &Api, terminal: TerminalId, named: &[ReleaseId], mut swarms: watch::Receiver<Swarms>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            changed = swarms.changed() => if changed.is_err() {
                // The engine is over; its end is noticed elsewhere.
                return std::future::pending().await;
            }
        }
        let failed = {
            let swarms = swarms.borrow_and_update();
            if !swarms.active.is_empty() {
                continue;
            }
            swarms.failed.clone()
        };
        // A server that cannot be asked has not said that nothing is left; and a plan may have come while it was asked.
        if matches!(is_something_left(api, terminal, named, &failed).await, Ok(false)) && swarms.borrow().active.is_empty() {
            return;
        }
    }
}

async fn is_something_left(api: &Api, terminal: TerminalId, named: &[ReleaseId], failed: &BTreeSet<ReleaseId>) -> Outcome<bool> {
    let own = own_applications(api, terminal, named).await?;
    Ok(own.iter().any(|(release, application)| !failed.contains(&release.id) && may_bring_something(application)))
}

fn may_bring_something(application: &Application) -> bool {
    match application.state {
        ApplicationState::Active | ApplicationState::Won => true,
        ApplicationState::Withdrawn | ApplicationState::Lost | ApplicationState::Cancelled => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ws::LeaveReason;
    use protocol::{EditionId, TimestampMs};

    #[test]
    fn a_swarm_counts_from_its_first_plan_until_it_is_left() {
        let (sender, receiver) = watch::channel(Swarms::default());
        let swarm_id = SwarmId::from_bytes([1; 16]);
        let plan = EngineEvent::Plan {
            swarm_id,
            release_id: ReleaseId::from_bytes([2; 16]),
            edition_id: EditionId([3; 32]),
            epoch: 1,
            rank: 1,
            root: true,
            peers: 0,
            opens_at: TimestampMs(0),
        };
        note(&sender, &plan);
        note(&sender, &plan);
        note(&sender, &EngineEvent::Warning { text: "x".into() });
        assert_eq!(receiver.borrow().active, BTreeSet::from([swarm_id]));
        note(&sender, &EngineEvent::Left { swarm_id, reason: LeaveReason::Settled });
        assert_eq!(*receiver.borrow(), Swarms::default());
    }

    #[test]
    fn nothing_is_expected_of_a_release_whose_swarm_failed() {
        let (sender, receiver) = watch::channel(Swarms::default());
        let (swarm_id, release_id) = (SwarmId::from_bytes([1; 16]), ReleaseId::from_bytes([2; 16]));
        sender.send_modify(|swarms| _ = swarms.active.insert(swarm_id));
        note(&sender, &EngineEvent::Failed { swarm_id, release_id, error: "why".into() });
        assert_eq!(*receiver.borrow(), Swarms { active: BTreeSet::new(), failed: BTreeSet::from([release_id]) });
    }
}
