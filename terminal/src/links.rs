//! Links to all planned peers: opened, checked, kept, shared by all swarms of this terminal.
//!
//! ```text
//!  plan names a pair ─► the smaller id offers (≤ 8 at once) ─► answer ─► both say Hello and check the other's ─► up
//!         ▲                                                                                                     │
//!         └── wait (grows), while a plan still names the pair ◄── closed, lost, Bye ◄── reader and writer ◄─────┘
//! ```
//!
//! Each swarm registers with [`Links::plan`] and gets a [`SwarmLinks`]: the frames of its peers in order, and which links are up as a *state* that is
//! compared instead of a queue of events. Every link has a generation, so that a frame of a link that has gone is never taken for one of its
//! successor.
//!
//! Pings are answered by the reader. Control frames overtake chunk frames; of the latter at most [`CHUNKS_QUEUED`] wait per link, so that a swarm
//! decides late which chunk goes next. A peer that sends what cannot be read loses its link, and the server is told.

mod control;
mod early;
mod manager;
mod opening;
mod routes;
mod running;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::ws::{IceServer, Signal};
use protocol::{PublicKey, SwarmId, TerminalId, TerminalKey};
use tokio::sync::{mpsc, watch};

use crate::link::{Endpoint, LinkConfig, LinkError};
use crate::rate::RateLimiter;
use crate::socket::Outbox;
use manager::{Command, Manager};

pub use routes::{Inbound, LinkMap, SwarmEnd, SwarmLinks};
pub use running::{ChunkJob, ChunkSlot, LinkHandle};

/// Chunk frames that wait per link: one is being sent, the next one is ready.
pub const CHUNKS_QUEUED: usize = 2;
/// Plans, signals and blocks that wait for the manager, which never waits for anything itself; callers wait when it is full.
const COMMANDS: usize = 256;

#[derive(Debug, Clone)]
pub struct LinksConfig {
    pub me: TerminalId,
    pub key: TerminalKey,
    pub link: LinkConfig,
    /// Every link waits here after each message before it reads the next.
    pub down: RateLimiter,
    /// The zero of the times that are told.
    pub start: Instant,
    pub timing: LinksTiming,
}

/// How patient the links are.
#[derive(Debug, Clone)]
pub struct LinksTiming {
    /// From the offer to the answer.
    pub answer: Duration,
    /// From the answer to the open channel.
    pub open: Duration,
    /// From the open channel to the other end's hello.
    pub hello: Duration,
    pub retry_first: Duration,
    pub retry_cap: Duration,
}

impl Default for LinksTiming {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            open: Duration::from_secs(15),
            hello: Duration::from_secs(5),
            retry_first: Duration::from_millis(500),
            retry_cap: Duration::from_secs(15),
        }
    }
}

/// Who a planned peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedPeer {
    pub terminal_id: TerminalId,
    pub public_key: PublicKey,
}

/// The links of this process. Cheap to clone; they end when the last clone is gone.
#[derive(Debug, Clone)]
pub struct Links {
    commands: mpsc::Sender<Command>,
    /// Rises whenever a link has taken a chunk frame.
    room: watch::Receiver<u64>,
}

impl Links {
    /// Starts without any peers. Signals and suspicions go out through `outbox`.
    ///
    /// # Errors
    /// If the endpoint cannot be made, for instance because no socket can be bound.
    pub fn start(config: LinksConfig, outbox: Outbox) -> Result<Self, LinkError> {
        let endpoint = Endpoint::new(config.link.clone())?;
        let (commands, queue) = mpsc::channel(COMMANDS);
        let (room_sender, room) = watch::channel(0);
        let manager = Manager::new(config, endpoint, outbox, Arc::new(room_sender));
        tokio::spawn(manager.run(queue));
        Ok(Self { commands, room })
    }

    /// Registers a swarm; its peers come with the first plan.
    #[must_use]
    pub fn swarm(&self, swarm: SwarmId) -> (SwarmEnd, SwarmLinks) {
        routes::pair(swarm, self.room.clone())
    }

    /// Links to exactly these peers are wanted for the swarm of `end`. A higher epoch lifts all blocks of the swarm.
    pub async fn plan(&self, end: &SwarmEnd, epoch: u64, peers: Vec<PlannedPeer>) {
        self.tell(Command::Plan { end: end.clone(), epoch, peers }).await;
    }

    /// The swarm is over. Links that no other swarm needs are closed with a farewell.
    pub async fn leave(&self, swarm: SwarmId) {
        self.tell(Command::Leave { swarm }).await;
    }

    /// A peer broke the rules: its link is closed and not opened for this swarm before the plan's next epoch.
    pub async fn block(&self, swarm: SwarmId, peer: TerminalId) {
        self.tell(Command::Block { swarm, peer }).await;
    }

    /// Closes the links of a swarm; they are opened again.
    pub async fn restart(&self, swarm: SwarmId) {
        self.tell(Command::Restart { swarm }).await;
    }

    /// What another terminal says through the server.
    pub async fn signal(&self, from: TerminalId, signal: Signal) {
        self.tell(Command::Signal { from, signal }).await;
    }

    /// The server's STUN and TURN servers, for links that are opened from now on.
    pub async fn ice_servers(&self, servers: Vec<IceServer>) {
        self.tell(Command::IceServers(servers)).await;
    }

    /// Says farewell on every link and closes them, by the deadline.
    pub async fn shut_down(&self, deadline: tokio::time::Instant) {
        let (done, finished) = tokio::sync::oneshot::channel();
        self.tell(Command::ShutDown { deadline, done }).await;
        let _ = tokio::time::timeout_at(deadline, finished).await;
    }

    async fn tell(&self, command: Command) {
        // An error means that the manager has been shut down; nothing is to be done for links any more.
        let _ = self.commands.send(command).await;
    }
}
