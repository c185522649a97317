//! Offers and answers between planned pairs: the server passes them on, to nobody else.

use std::time::Duration;

use protocol::ws::{PushMessage, Signal};
use protocol::{ErrorCode, TerminalId};

use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

/// The longest session description that is passed on. One with all candidates of a machine with many addresses has some 4 KiB.
const SDP_MAX: usize = 16 << 10;
/// Signals that one terminal may send another, and the window they are counted in. An attempt to connect takes two of each side, and is made again every
/// few seconds.
const SIGNALS_MAX: u64 = 60;
const SIGNALS_WINDOW: Duration = Duration::from_secs(10);

/// Passes a signal on. An offer to a terminal that is not connected is declined in its name, so that the offerer need not wait for its timeout.
///
/// # Errors
/// `payload_too_large`, `too_many_requests`, or a store fails. The caller has checked that the two are a planned pair.
pub async fn signal(state: &AppState, from: TerminalId, to: TerminalId, signal: Signal) -> Result<(), ApiError> {
    let (sdp, session) = match &signal {
        Signal::Offer { session, sdp } => (sdp.len(), Some(*session)),
        Signal::Answer { session: _, sdp } => (sdp.len(), None),
        Signal::Decline { session: _ } => (0, None),
    };
    if sdp > SDP_MAX {
        return Err(ApiError::new(ErrorCode::PayloadTooLarge).at("/signal/sdp", format!("at most {SDP_MAX} bytes")));
    }
    let usage = state.live.count_use("signal", &format!("{from} {to}"), SIGNALS_WINDOW).await?;
    if usage.count > SIGNALS_MAX {
        return Err(ApiError::new(ErrorCode::TooManyRequests).at("/to", format!("at most {SIGNALS_MAX} signals in ten seconds")));
    }
    let reached = state.live.push_to_connected(to, &PushMessage::Signal { from, signal }, clock::now()).await?;
    if let Some(session) = session.filter(|_| !reached) {
        let declined = PushMessage::Signal { from: to, signal: Signal::Decline { session } };
        state.live.push(from, &declined, clock::now()).await?;
    }
    Ok(())
}
