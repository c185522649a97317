//! Which swarm a frame goes to, and which links a swarm has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::frame::Frame;
use protocol::{SwarmId, TerminalId};
use tokio::sync::{mpsc, watch};

use super::running::LinkHandle;

/// Frames that wait for a swarm: at 64 KiB each 2 MiB. When they are not taken the links are not read, and the senders wait.
const FRAMES: usize = 32;

/// A frame with the link that it came by.
#[derive(Debug)]
pub struct Inbound {
    pub peer: TerminalId,
    pub generation: u64,
    pub frame: Frame,
}

/// The links of a swarm that are up.
pub type LinkMap = Arc<BTreeMap<TerminalId, LinkHandle>>;

/// What a swarm sees of its links.
#[derive(Debug)]
pub struct SwarmLinks {
    /// Changes are seen here before the first frame of a new link comes.
    pub up: watch::Receiver<LinkMap>,
    pub frames: mpsc::Receiver<Inbound>,
    /// Rises whenever any link has taken a chunk frame: one that had no room may have some now.
    pub room: watch::Receiver<u64>,
}

/// What the links know of a swarm.
#[derive(Debug, Clone)]
pub struct SwarmEnd {
    pub(super) swarm: SwarmId,
    pub(super) up: Arc<watch::Sender<LinkMap>>,
    pub(super) frames: mpsc::Sender<Inbound>,
}

pub(super) fn pair(swarm: SwarmId, room: watch::Receiver<u64>) -> (SwarmEnd, SwarmLinks) {
    let (up_sender, up) = watch::channel(LinkMap::default());
    let (frames_sender, frames) = mpsc::channel(FRAMES);
    (SwarmEnd { swarm, up: Arc::new(up_sender), frames: frames_sender }, SwarmLinks { up, frames, room })
}

/// Where readers send what they read. A frame is passed on only if the swarm's plan names the peer.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub(super) swarms: BTreeMap<SwarmId, Route>,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) frames: mpsc::Sender<Inbound>,
    pub(super) peers: BTreeSet<TerminalId>,
}

impl Routes {
    pub(super) fn find(&self, swarm: SwarmId, peer: TerminalId) -> Option<&mpsc::Sender<Inbound>> {
        self.swarms.get(&swarm).filter(|route| route.peers.contains(&peer)).map(|route| &route.frames)
    }
}

/// The swarm that a frame is about, if it is about one.
pub(super) fn swarm_of(frame: &Frame) -> Option<SwarmId> {
    match frame {
        Frame::Have { swarm_id, .. }
        | Frame::HaveEnd { swarm_id }
        | Frame::HaveDelta { swarm_id, .. }
        | Frame::Request { swarm_id, .. }
        | Frame::Reach { swarm_id, .. }
        | Frame::Receipt { swarm_id, .. } => Some(*swarm_id),
        Frame::Chunk(frame) => Some(frame.swarm_id),
        Frame::Duplicate(duplicate) => Some(duplicate.swarm_id),
        Frame::Hello(_) | Frame::Ping { .. } | Frame::Pong { .. } | Frame::Bye => None,
    }
}
