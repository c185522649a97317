//! The keys of sealed swarms that a terminal has asked for: each goes out at its second, by this connection alone. Nothing of it is stored on its way, so
//! that there is nothing to replay; whoever was away asks again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ws::ServerMessage;
use protocol::{ErrorCode, SwarmId, TerminalId};
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::outbox::Outbox;
use crate::app::sealing;
use crate::clock;
use crate::error::ApiError;
use crate::state::AppState;

/// Keys that one terminal may wait for at a time: far more swarms than it can take part in.
const WANTED_MAX: usize = 256;
/// The pause before a store that was away is asked again.
const AGAIN: time::Duration = time::Duration::milliseconds(250);

/// What a session waits for. Shared by its parts, on one thread.
#[derive(Debug, Default)]
pub(super) struct Keys {
    wanted: RefCell<BTreeMap<SwarmId, OffsetDateTime>>,
    changed: Notify,
}

impl Keys {
    /// Notes that the terminal wants a key, or says that it never will get it.
    ///
    /// # Errors
    /// `too_many_requests`, or a store fails.
    pub(super) async fn want(&self, state: &AppState, outbox: &Outbox, swarm_id: SwarmId, terminal: TerminalId) -> Result<(), ApiError> {
        if self.wanted.borrow().len() >= WANTED_MAX {
            return Err(ApiError::new(ErrorCode::TooManyRequests).detail(format!("At most {WANTED_MAX} keys are waited for.")));
        }
        match sealing::key_at(state, swarm_id, terminal).await {
            Ok(Some(at)) => {
                self.wanted.borrow_mut().insert(swarm_id, at);
                self.changed.notify_one();
            }
            Ok(None) => outbox.send(&ServerMessage::NoKey { swarm_id, code: ErrorCode::ReleaseClosed }),
            Err(error) if error.code.is_retryable() => return Err(error),
            Err(error) => outbox.send(&ServerMessage::NoKey { swarm_id, code: error.code }),
        }
        Ok(())
    }

    fn next(&self) -> Option<(SwarmId, OffsetDateTime)> {
        self.wanted.borrow().iter().min_by_key(|(_, at)| **at).map(|(swarm_id, at)| (*swarm_id, *at))
    }

    /// Sends what falls due, until the session ends.
    pub(super) async fn send_when_due(&self, state: &AppState, outbox: &Outbox, terminal: TerminalId) {
        loop {
            let Some((swarm_id, at)) = self.next() else {
                self.changed.notified().await;
                continue;
            };
            let left = at - clock::now();
            if left.is_positive() {
                tokio::select! {
                    () = tokio::time::sleep(Duration::try_from(left).unwrap_or(Duration::ZERO)) => {}
                    () = self.changed.notified() => {}
                }
                continue;
            }
            let envelope = match sealing::envelope(state, swarm_id, terminal, clock::now()).await {
                Ok(envelope) => envelope,
                Err(error) if error.code.is_retryable() => {
                    tracing::warn!(error = &error as &dyn std::error::Error, %swarm_id, %terminal, "a key could not be handed out; it is tried again");
                    self.wanted.borrow_mut().insert(swarm_id, clock::now() + AGAIN);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, %swarm_id, %terminal, "a key could not be handed out");
                    None
                }
            };
            self.wanted.borrow_mut().remove(&swarm_id);
            outbox.send(&match envelope {
                Some(envelope) => {
                    tracing::info!(%swarm_id, %terminal, "handed out the key");
                    ServerMessage::Key { swarm_id, envelope }
                }
                // The release was ended meanwhile.
                None => ServerMessage::NoKey { swarm_id, code: ErrorCode::ReleaseClosed },
            });
        }
    }
}
