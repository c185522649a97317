//! What the engine tells its owner.

use std::path::PathBuf;
use std::time::Duration;

use protocol::ws::{LeaveReason, Progress};
use protocol::{Amount, Blake3, Bytes, DeliveryId, EditionId, ReleaseId, SwarmId, TerminalId, TimestampMs};

use super::keeping::Protected;

/// Something that a person may want to see.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    Connected {
        /// Nothing was missed while the connection was away.
        resumed: bool,
    },
    /// The connection to the server is gone; it is being made again. Transfers between terminals go on.
    Disconnected { reason: String },
    /// A new or changed plan.
    Plan {
        swarm_id: SwarmId,
        release_id: ReleaseId,
        edition_id: EditionId,
        epoch: u64,
        rank: u32,
        /// Fed by the origin.
        root: bool,
        /// Planned links.
        peers: usize,
        opens_at: TimestampMs,
    },
    /// Somebody who asked for an edition that is here is served from it.
    Serving { swarm_id: SwarmId, release_id: ReleaseId, edition_id: EditionId },
    /// What is on disk from earlier runs and other editions was verified: `verified` of `total` is there. What repeats a chunk of the same edition need
    /// not be sent either, so that `to_fetch` may be less than the difference.
    Opened { swarm_id: SwarmId, verified: Bytes, to_fetch: Bytes, total: Bytes },
    /// The disk that `dir` is on is full. The swarm waits, keeps what it has, and goes on by itself when there is room.
    DiskFull { swarm_id: SwarmId, dir: PathBuf, needed: Bytes, free: Bytes },
    /// There is room again.
    DiskRoom { swarm_id: SwarmId },
    /// An edition that lay here was removed to make room for the swarm's, because the folder has a quota.
    Evicted { swarm_id: SwarmId, release_id: ReleaseId, edition_id: EditionId, path: PathBuf, bytes: Bytes },
    /// The folder's quota leaves no room for the swarm's edition, because too much has to stay. Nothing was fetched or removed for it; it begins by itself
    /// when there is room.
    QuotaFull {
        swarm_id: SwarmId,
        dir: PathBuf,
        quota: Bytes,
        /// The most that the edition takes up.
        needed: Bytes,
        /// What lies in the folder.
        kept: Bytes,
        /// Beyond the quota when everything has gone that may.
        missing: Bytes,
        protected: Vec<Protected>,
    },
    /// The quota leaves room now.
    QuotaRoom { swarm_id: SwarmId },
    /// When the first chunk is stored, about once a second while something moves, and when the last one is stored.
    Progress { swarm_id: SwarmId, progress: Progress, total: Bytes },
    /// A relay is gone that owed chunks, and now the first of them begins to come from another source.
    Replaced {
        swarm_id: SwarmId,
        relay: TerminalId,
        /// [`TerminalId::ORIGIN`] for the origin.
        source: TerminalId,
        chunk: u32,
        /// Since the relay was last heard.
        silent_for: Duration,
    },
    /// The content is complete, checked as a whole, and lies at `path`.
    Completed {
        swarm_id: SwarmId,
        release_id: ReleaseId,
        path: PathBuf,
        blake3: Blake3,
        length: Bytes,
        /// From the wave's opening to the last chunk, by the server's clock. Absent if an earlier run completed it.
        elapsed: Option<Duration>,
    },
    /// Every chunk is here and cannot be read yet: the content is opened when its key comes, at `key_at` if that is known.
    Sealed { swarm_id: SwarmId, release_id: ReleaseId, key_at: Option<TimestampMs> },
    /// The key of what came sealed is here: it is being decrypted.
    KeyCame { swarm_id: SwarmId },
    /// The delivery is paid for.
    Settled { swarm_id: SwarmId, delivery_id: DeliveryId, charged: Amount, earned: Amount },
    /// What this terminal was paid as a relay has grown.
    Earned { swarm_id: SwarmId, earned: Amount },
    /// A swarm cannot be taken part in; the engine goes on with the others. What ends the engine as a whole is its error instead.
    Failed { swarm_id: SwarmId, release_id: ReleaseId, error: String },
    /// The swarm is over for this terminal.
    Left { swarm_id: SwarmId, reason: LeaveReason },
    /// Something went wrong that the engine deals with by itself.
    Warning { text: String },
}

/// How one swarm went.
#[derive(Debug, Clone, PartialEq)]
pub struct SwarmSummary {
    pub swarm_id: SwarmId,
    pub release_id: ReleaseId,
    pub edition_id: EditionId,
    pub delivery_id: DeliveryId,
    pub rank: u32,
    /// Whether the edition was here already, and was only served to somebody else.
    pub serving: bool,
    /// Known once the manifest is.
    pub total: Option<Bytes>,
    pub progress: Progress,
    /// Where the complete content lies.
    pub path: Option<PathBuf>,
    pub blake3: Option<Blake3>,
    pub charged: Option<Amount>,
    pub earned: Amount,
    /// Absent if the engine was stopped before the swarm was over.
    pub left: Option<LeaveReason>,
}

impl SwarmSummary {
    /// Notes what a delivery cost. The server says it again after each new connection, which is no news.
    pub(super) fn settled(&mut self, delivery_id: DeliveryId, charged: Amount, earned: Amount) -> Option<EngineEvent> {
        if (self.charged, self.earned) == (Some(charged), earned) {
            return None;
        }
        (self.charged, self.earned) = (Some(charged), earned);
        Some(EngineEvent::Settled { swarm_id: self.swarm_id, delivery_id, charged, earned })
    }

    /// Notes what was earned, if it is news.
    pub(super) fn earned(&mut self, earned: Amount) -> Option<EngineEvent> {
        (std::mem::replace(&mut self.earned, earned) != earned).then_some(EngineEvent::Earned { swarm_id: self.swarm_id, earned })
    }
}

/// What an engine did in its time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    pub swarms: Vec<SwarmSummary>,
    /// Contents that earlier runs received sealed, and that were opened now.
    pub opened: usize,
}

impl Summary {
    /// What was to be received.
    pub fn received(&self) -> impl Iterator<Item = &SwarmSummary> {
        self.swarms.iter().filter(|swarm| !swarm.serving)
    }

    /// Whether every swarm was received completely; `false` if there was none, and nothing was opened.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        (self.opened > 0 || self.received().next().is_some()) && self.received().all(|swarm| swarm.path.is_some())
    }
}
