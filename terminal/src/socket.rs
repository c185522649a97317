//! The terminal's WebSocket to the server: kept open, resumed after a break, and the only way in which the server and the terminal tell each other
//! anything about a running swarm.
//!
//! ```text
//! connect (bearer token) ─► Challenge ─► Hello (signed, resume position) ─► Welcome ─► Push… Clock… ⇄ what the outbox holds
//!        ▲                                                                                │
//!        └──────────────── wait, twice as long each time, with a random part ◄────────────┘  closed, silent, refused
//! ```
//!
//! What is sent waits in an [`Outbox`], which says for each kind of message what happens when it waits for long. What arrives is given out as
//! [`SocketEvent`]s, in order; a reader that does not keep up holds back the connection itself.

mod clock;
mod connection;
mod outbox;
mod position;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::audit::AuditQuestion;
use protocol::ws::{Capabilities, IceServer, PushMessage};
use protocol::{ErrorCode, SwarmId, TerminalId, TerminalKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::api::{TokenError, TokenProvider};
use crate::backoff::Backoff;
use crate::link::Line;
use connection::{Ending, Memory};

pub use clock::ServerClock;
pub use outbox::Outbox;

/// Events that wait for a reader. One turn of the reader takes microseconds; above this the connection is simply not read from.
const EVENTS: usize = 256;
const RECONNECT_FIRST: Duration = Duration::from_millis(250);
const RECONNECT_CAP: Duration = Duration::from_secs(15);

/// Where to connect, and as whom.
#[derive(Debug, Clone)]
pub struct SocketConfig {
    /// See [`crate::api::Api::websocket_address`].
    pub address: String,
    pub tokens: Arc<dyn TokenProvider>,
    pub terminal_id: TerminalId,
    pub key: TerminalKey,
    pub capabilities: Capabilities,
    /// The moment that the clock's zero stands for; the swarm's `Now` counts from it.
    pub start: Instant,
    pub timing: SocketTiming,
    /// What this connection takes of the uplink is told here.
    pub line: Line,
}

/// How patient the socket is.
#[derive(Debug, Clone)]
pub struct SocketTiming {
    /// For the connection, and for each step until the welcome.
    pub handshake: Duration,
    /// A connection on which nothing was sent for this long is pinged; the server pings as well.
    pub heartbeat: Duration,
    /// A server that was not heard for this long is dead.
    pub silence: Duration,
    /// How often the clock is compared.
    pub clock_every: Duration,
    /// Between the comparisons at the start.
    pub clock_burst_every: Duration,
}

impl Default for SocketTiming {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            heartbeat: Duration::from_secs(5),
            silence: Duration::from_secs(15),
            clock_every: Duration::from_secs(30),
            clock_burst_every: Duration::from_millis(100),
        }
    }
}

/// What the socket tells its reader, in order.
#[derive(Debug)]
pub enum SocketEvent {
    /// Welcomed. `resumed`: what was pushed meanwhile follows; else the plans that concern this terminal do.
    Connected {
        resumed: bool,
        ice_servers: Vec<IceServer>,
        report_interval: Duration,
    },
    Push(PushMessage),
    /// The key of a sealed swarm, in its envelope.
    Key {
        swarm_id: SwarmId,
        envelope: Vec<u8>,
    },
    /// The key of a swarm is not given.
    NoKey {
        swarm_id: SwarmId,
        code: ErrorCode,
    },
    /// The server asks whether a chunk is here.
    Audit(AuditQuestion),
    /// A better estimate of the server's clock.
    Clock(ServerClock),
    /// The server refused a message; nothing was changed by it.
    Refused {
        code: ErrorCode,
        detail: String,
        pointer: String,
    },
    /// The connection is gone and will be made again.
    Disconnected {
        reason: String,
    },
    /// The server will not have this terminal, now or later. The last event.
    Rejected(SocketError),
}

/// Why connecting was given up.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("there is no valid login")]
    Token(#[source] TokenError),
    #[error("the server refuses this terminal: {code}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Refused { code: ErrorCode, detail: String },
    /// Two processes that share one terminal would otherwise cut each other off for ever.
    #[error("another process has connected as this terminal")]
    Replaced,
    #[error("the server's address is not usable: {0}")]
    Address(String),
}

/// The running socket. Dropping it cuts the connection.
#[derive(Debug)]
pub struct Socket {
    outbox: Outbox,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Socket {
    /// Starts connecting.
    #[must_use]
    pub fn start(config: SocketConfig) -> (Self, mpsc::Receiver<SocketEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (closing, closed) = watch::channel(false);
        let outbox = Outbox::default();
        let task = tokio::spawn(keep_connected(config, outbox.clone(), events, closed));
        (Self { outbox, closing, task }, receiver)
    }

    /// What is to be sent goes here.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Sends what must not be lost and closes in good order, or gives up at the deadline. Returns whether the server has got everything.
    pub async fn close(mut self, deadline: tokio::time::Instant) -> bool {
        self.closing.send_replace(true);
        let _ = tokio::time::timeout_at(deadline, &mut self.task).await;
        !self.outbox.holds_what_must_arrive()
    }
}

async fn keep_connected(config: SocketConfig, outbox: Outbox, events: mpsc::Sender<SocketEvent>, closing: watch::Receiver<bool>) {
    let mut memory = Memory::default();
    let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_CAP);
    loop {
        let ending = connection::run(&config, &mut memory, &outbox, &events, closing.clone()).await;
        outbox.connection_lost();
        if std::mem::take(&mut memory.welcomed) {
            backoff.reset();
        }
        match ending {
            Ending::Closed | Ending::Unheard => return,
            Ending::Rejected(error) => {
                let _ = events.send(SocketEvent::Rejected(error)).await;
                return;
            }
            Ending::Lost(reason) => {
                tracing::debug!(reason, "the connection to the server ended");
                if events.send(SocketEvent::Disconnected { reason }).await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.wait()) => {}
            () = asked_to_close(closing.clone()) => {
                if !outbox.holds_what_must_arrive() {
                    return;
                }
                // What must arrive is worth another attempt soon; the closer has a deadline.
                tokio::time::sleep(RECONNECT_FIRST).await;
            }
        }
    }
}

async fn asked_to_close(mut closing: watch::Receiver<bool>) {
    // An error means that the socket was dropped, which ends this task as well.
    let _ = closing.wait_for(|closing| *closing).await;
}
