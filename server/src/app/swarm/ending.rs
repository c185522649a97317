//! The end of a release: everything that is still owed is settled, everybody is told, and Redis forgets the groups.

use protocol::rest::ReleaseState;
use protocol::ws::{LeaveReason, PushMessage};
use protocol::{ReleaseId, TerminalId};

use super::{push_all, settling};
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

/// The deadline is over, or the release was aborted: what has arrived is paid for, what has not is released.
///
/// # Errors
/// A store fails, or a delivery could not be settled; it is to be called again. One delivery that cannot be settled does not keep the others from it.
pub async fn on_deadline(state: &AppState, release_id: ReleaseId) -> Result<(), ApiError> {
    // An aborted release is stopped first: what is sent after its delivery was settled is paid by nobody. And whoever finished a release may have died
    // before it told everybody.
    after_the_end(state, release_id).await?;
    settling::settle_all(state, release_id).await?;
    state.budgets.write_budget(state.store.budget_of(release_id).await?).await?;
    settling::finish(state, release_id).await
}

/// The release was cancelled: links that were opened early are closed.
///
/// # Errors
/// A store fails.
pub async fn on_cancelled(state: &AppState, release_id: ReleaseId) -> Result<(), ApiError> {
    after_the_end(state, release_id).await
}

/// Tells every planned member to leave, and forgets the groups. Does nothing while the release goes on.
pub(super) async fn after_the_end(state: &AppState, release_id: ReleaseId) -> Result<(), ApiError> {
    state.budgets.write_budget(state.store.budget_of(release_id).await?).await?;
    for swarm_id in state.store.swarms_of(release_id).await? {
        let swarm = state.swarms.reload(swarm_id).await?;
        let reason = match swarm.facts.state {
            ReleaseState::Settled => LeaveReason::Settled,
            ReleaseState::Cancelled => LeaveReason::Cancelled,
            ReleaseState::Aborted => LeaveReason::Aborted,
            ReleaseState::Draft | ReleaseState::Open | ReleaseState::Closed | ReleaseState::Live => continue,
        };
        for group in swarm.tree.groups() {
            let members: Vec<TerminalId> = group.members.iter().map(|member| member.terminal_id).collect();
            state.live.drop_group(group.id, &members, clock::now()).await?;
        }
        let leave = swarm.terminals().map(|terminal| (terminal, PushMessage::Leave { swarm_id, reason }));
        push_all(state, leave.collect()).await?;
        state.swarms.forget(swarm_id);
    }
    Ok(())
}
