//! Asks the server over HTTPS what has become of a release, where a push about it may have been missed: after a connection that could not be resumed,
//! after the deadline, and when nothing is planned that the engine could wait for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::ReleaseId;
use protocol::rest::ReleaseState;
use protocol::ws::LeaveReason;

use super::Context;

/// How often, while there is a reason to ask.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(30);
/// After a connection that could not be resumed the plans come first.
pub(super) const ASK_AFTER_CONNECT: Duration = Duration::from_secs(10);

/// Several ends come one after the other.
pub(super) const ASK_AFTER_LEAVE: Duration = Duration::from_millis(500);

/// Why a release is over, if it is.
pub(super) fn over(state: ReleaseState) -> Option<LeaveReason> {
    match state {
        ReleaseState::Draft | ReleaseState::Open | ReleaseState::Closed | ReleaseState::Live => None,
        ReleaseState::Settled => Some(LeaveReason::Settled),
        ReleaseState::Cancelled => Some(LeaveReason::Cancelled),
        ReleaseState::Aborted => Some(LeaveReason::Aborted),
    }
}

/// Those of `releases` that are over. One that cannot be asked about is taken to go on.
pub(super) async fn ask(context: Arc<Context>, releases: BTreeSet<ReleaseId>) -> Vec<(ReleaseId, LeaveReason)> {
    let mut ended = Vec::new();
    for release in releases {
        match context.api.release(release).await {
            Ok(answer) => ended.extend(over(answer.state).map(|reason| (release, reason))),
            Err(error) => tracing::debug!(%release, %error, "the state of a release is not known"),
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_release_that_has_ended_is_left() {
        assert_eq!(over(ReleaseState::Live), None);
        assert_eq!(over(ReleaseState::Draft), None);
        assert_eq!(over(ReleaseState::Settled), Some(LeaveReason::Settled));
        assert_eq!(over(ReleaseState::Cancelled), Some(LeaveReason::Cancelled));
    }
}
