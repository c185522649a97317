//! The life of one connection of the library: what it tells us, and the one place where it is closed.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};
use webrtc::data_channel::DataChannel;
use webrtc::peer_connection::{PeerConnection, PeerConnectionEventHandler, RTCIceGatheringState, RTCPeerConnectionState};

use super::error::CloseReason;

/// How far a connection is on its way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    /// The reason is known; the library is still taking the connection down.
    Ending(CloseReason),
    /// Sockets and tasks are gone.
    Ended(CloseReason),
}

impl Life {
    fn reason(self) -> Option<CloseReason> {
        match self {
            Self::Running => None,
            Self::Ending(reason) | Self::Ended(reason) => Some(reason),
        }
    }
}

/// The life of one connection, seen from everywhere. The first reason for the end counts, from the moment it is given.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    life: watch::Sender<Life>,
}

impl Fate {
    pub(super) fn new() -> Self {
        Self { life: watch::Sender::new(Life::Running) }
    }

    fn end(&self, reason: CloseReason) -> CloseReason {
        self.life.send_if_modified(|life| {
            let first = life.reason().is_none();
            if first {
                *life = Life::Ending(reason);
            }
            first
        });
        self.reason().unwrap_or(reason)
    }

    fn reason(&self) -> Option<CloseReason> {
        self.life.borrow().reason()
    }

    async fn reaches(&self, reached: impl Fn(Life) -> Option<CloseReason>) -> CloseReason {
        let mut life = self.life.subscribe();
        match life.wait_for(|life| reached(*life).is_some()).await.as_deref() {
            Ok(life) => reached(*life).unwrap_or(CloseReason::Lost),
            // Does not happen while `self` holds the sending side.
            Err(_) => CloseReason::Lost,
        }
    }

    async fn ending(&self) -> CloseReason {
        self.reaches(Life::reason).await
    }
}

/// A share in a connection. When the last one is dropped the connection is closed.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    fate: Fate,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.fate.end(CloseReason::Local);
    }
}

impl Handle {
    /// Starts the task that waits for the end of `connection` and closes it.
    pub(super) fn supervise(connection: Arc<dyn PeerConnection>, fate: Fate) -> Self {
        tokio::spawn(close_at_the_end(connection, fate.clone()));
        Self { owner: Arc::new(Owner { fate }) }
    }

    /// Ends the connection, for `reason` unless it had one already. Returns the one that counts.
    pub(super) fn end(&self, reason: CloseReason) -> CloseReason {
        self.owner.fate.end(reason)
    }

    pub(super) fn reason(&self) -> Option<CloseReason> {
        self.owner.fate.reason()
    }

    /// Waits until the connection is on its way down, whoever ended it.
    pub(super) async fn ending(&self) -> CloseReason {
        self.owner.fate.ending().await
    }

    /// Waits until sockets and tasks of the connection are gone.
    pub(super) async fn ended(&self) -> CloseReason {
        let ended = |life| match life {
            Life::Ended(reason) => Some(reason),
            Life::Running | Life::Ending(_) => None,
        };
        self.owner.fate.reaches(ended).await
    }
}

/// Says that the connection is gone, also when the supervisor is dropped with its runtime: the library takes down what is dropped.
struct Gone(Fate);

impl Drop for Gone {
    fn drop(&mut self) {
        let reason = self.0.end(CloseReason::Lost);
        self.0.life.send_replace(Life::Ended(reason));
    }
}

async fn close_at_the_end(connection: Arc<dyn PeerConnection>, fate: Fate) {
    let gone = Gone(fate);
    let reason = gone.0.ending().await;
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, %reason, "closing a link");
    }
    drop(connection);
}

/// What the library reports of a connection. Its calls run on the reactor thread, so nothing here waits.
pub(super) struct Events {
    gathered: watch::Sender<bool>,
    fate: Fate,
    /// Where the channel that the other end opens goes. `None` at the offering end, which opens it itself, and after the first one.
    accepted: Mutex<Option<oneshot::Sender<Arc<dyn DataChannel>>>>,
}

impl Events {
    pub(super) fn new(gathered: watch::Sender<bool>, fate: Fate, accepted: Option<oneshot::Sender<Arc<dyn DataChannel>>>) -> Self {
        Self { gathered, fate, accepted: Mutex::new(accepted) }
    }
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Events {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.gathered.send_replace(true);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        tracing::trace!(%state, "link");
        if state == RTCPeerConnectionState::Failed {
            self.fate.end(CloseReason::Lost);
        }
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let waiting = self.accepted.lock().unwrap_or_else(PoisonError::into_inner).take();
        match waiting {
            // Nobody waits any more: the pending link was dropped, and its end is under way.
            Some(waiting) => drop(waiting.send(channel)),
            None => {
                self.fate.end(CloseReason::Violation);
            }
        }
    }
}
