//! The life of one connection of the library: what it tells us, and the one place where it is closed.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use webrtc::data_channel::DataChannel;
use webrtc::peer_connection::{PeerConnection, PeerConnectionEventHandler, RTCIceGatheringState, RTCPeerConnectionState};

use super::error::CloseReason;

/// How far a connection is on its way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    /// The reason is known; the library is still taking the connection down.
    Ending(CloseReason),
    /// Sockets and tasks are gone.
    Ended(CloseReason),
}

/// A share in a connection. When the last one is dropped the connection is closed.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    stop: mpsc::Sender<CloseReason>,
    life: watch::Receiver<Life>,
}

/// One reason is enough; a second one that finds the queue full comes too late anyway.
const REASONS_QUEUED: usize = 1;

impl Handle {
    /// Starts the task that waits for the end of `connection` and closes it.
    pub(super) fn supervise(
        connection: Arc<dyn PeerConnection>,
        stop: mpsc::Sender<CloseReason>,
        reasons: mpsc::Receiver<CloseReason>,
    ) -> Self {
        let (life_sender, life) = watch::channel(Life::Running);
        tokio::spawn(close_at_the_end(connection, reasons, life_sender));
        Self { stop, life }
    }

    pub(super) fn stop_channel() -> (mpsc::Sender<CloseReason>, mpsc::Receiver<CloseReason>) {
        mpsc::channel(REASONS_QUEUED)
    }

    /// Ends the connection, for `reason` unless it had one already. Returns the one that counts.
    pub(super) fn end(&self, reason: CloseReason) -> CloseReason {
        if let Some(earlier) = self.reason() {
            return earlier;
        }
        // Full: another reason is about to be taken. Closed: the connection has ended. In both cases this one changes nothing.
        let _ = self.stop.try_send(reason);
        reason
    }

    pub(super) fn reason(&self) -> Option<CloseReason> {
        match *self.life.borrow() {
            Life::Running => None,
            Life::Ending(reason) | Life::Ended(reason) => Some(reason),
        }
    }

    /// Waits until the connection is on its way down, whoever ended it.
    pub(super) async fn ending(&self) -> CloseReason {
        self.wait(|life| !matches!(life, Life::Running)).await
    }

    /// Waits until sockets and tasks of the connection are gone.
    pub(super) async fn ended(&self) -> CloseReason {
        self.wait(|life| matches!(life, Life::Ended(_))).await
    }

    async fn wait(&self, reached: impl Fn(&Life) -> bool) -> CloseReason {
        let mut life = self.life.clone();
        match life.wait_for(reached).await.as_deref() {
            Ok(Life::Ending(reason) | Life::Ended(reason)) => *reason,
            // The supervisor was dropped with its runtime; the library closes what is dropped.
            Ok(Life::Running) | Err(_) => CloseReason::Lost,
        }
    }
}

async fn close_at_the_end(connection: Arc<dyn PeerConnection>, mut reasons: mpsc::Receiver<CloseReason>, life: watch::Sender<Life>) {
    // No sender left means that every handle was dropped.
    let reason = reasons.recv().await.unwrap_or(CloseReason::Local);
    life.send_replace(Life::Ending(reason));
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, %reason, "closing a link");
    }
    drop(connection);
    life.send_replace(Life::Ended(reason));
}

/// What the library reports of a connection. Its calls run on the reactor thread, so nothing here waits.
pub(super) struct Events {
    gathered: watch::Sender<bool>,
    /// Weak: the connection holds these events, and must not keep itself alive.
    stop: mpsc::WeakSender<CloseReason>,
    /// Where the channel that the other end opens goes. `None` at the offering end, which opens it itself, and after the first one.
    accepted: Mutex<Option<oneshot::Sender<Arc<dyn DataChannel>>>>,
}

impl Events {
    pub(super) fn new(
        gathered: watch::Sender<bool>,
        stop: &mpsc::Sender<CloseReason>,
        accepted: Option<oneshot::Sender<Arc<dyn DataChannel>>>,
    ) -> Self {
        Self { gathered, stop: stop.downgrade(), accepted: Mutex::new(accepted) }
    }

    fn end(&self, reason: CloseReason) {
        if let Some(stop) = self.stop.upgrade() {
            let _ = stop.try_send(reason);
        }
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
            self.end(CloseReason::Lost);
        }
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let waiting = self.accepted.lock().unwrap_or_else(PoisonError::into_inner).take();
        match waiting {
            // Nobody waits any more: the pending link was dropped, and its end is under way.
            Some(waiting) => drop(waiting.send(channel)),
            None => self.end(CloseReason::Violation),
        }
    }
}
