//! One terminal: the real machine with what its engine keeps around it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use protocol::bitmap::ChunkSet;
use protocol::manifest::Manifest;
use protocol::ws::SwarmPlan;
use protocol::{BitsPerSecond, TerminalId, TimestampMs};
use swarm::{Config, Held, Now, Swarm};

use crate::plan::Identity;
use crate::server::Says;

/// Fetches from the origin at a time, as the engine has them.
pub(crate) const PARALLEL_FETCHES: usize = 4;

/// How far a terminal keeps to the protocol.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Character {
    /// Says that it has everything.
    pub(crate) lies: bool,
    /// Of a thousand chunk frames, how many it sends with a wrong byte.
    pub(crate) corrupts: u64,
    /// Of a thousand messages, how many it sends twice, and how many too late.
    pub(crate) mixes_up: u64,
}

#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) identity: Identity,
    up: BitsPerSecond,
    pub(crate) character: Character,
    /// Rises when it dies: what was on its way to the one before concerns nobody.
    pub(crate) life: u64,
    pub(crate) running: bool,
    pub(crate) machine: Option<Swarm>,
    /// What the machine had written, and whom it is signed for.
    pub(crate) disk: BTreeMap<u32, TerminalId>,
    /// Was on the disk once.
    pub(crate) lost: BTreeMap<u32, TerminalId>,
    pub(crate) waiting: VecDeque<u32>,
    pub(crate) fetching: usize,
    /// The number of its connection to the server.
    pub(crate) session: Option<u64>,
    /// Attempts to connect that failed in a row.
    pub(crate) attempts: u32,
    /// The last push that it has taken.
    pub(crate) position: u64,
    pub(crate) unsent: Vec<Says>,
    pub(crate) blocked: BTreeSet<usize>,
    pub(crate) frozen_until: Now,
    pub(crate) woken_for: Now,
    pub(crate) completed_at: Option<Now>,
    /// Bytes of chunks that it has sent to others.
    pub(crate) copied: u64,
    /// When it last did.
    pub(crate) copied_until: Now,
}

/// The most messages that wait for a connection: beyond that the oldest notices give way.
const UNSENT_MAX: usize = 16_384;

impl Terminal {
    pub(crate) fn new(identity: Identity, up: BitsPerSecond) -> Self {
        Self {
            identity,
            up,
            character: Character::default(),
            life: 0,
            running: false,
            machine: None,
            disk: BTreeMap::new(),
            lost: BTreeMap::new(),
            waiting: VecDeque::new(),
            fetching: 0,
            session: None,
            attempts: 0,
            position: 0,
            unsent: Vec::new(),
            blocked: BTreeSet::new(),
            frozen_until: Now::ZERO,
            woken_for: Now::MAX,
            completed_at: None,
            copied: 0,
            copied_until: Now::ZERO,
        }
    }

    /// Begins with what is on the disk. `false` if the machine does not take the plan.
    pub(crate) fn begin(&mut self, plan: SwarmPlan, manifest: &Arc<Manifest>, clock_at_zero: TimestampMs, now: Now) -> bool {
        let listed =
            |chunks: &BTreeMap<u32, TerminalId>| chunks.iter().map(|(&chunk, &source)| Held { chunk, source }).collect::<Vec<Held>>();
        let config = Config { me: self.identity.id, key: self.identity.key.clone(), up: self.up };
        let lost = std::mem::take(&mut self.lost);
        let machine = Swarm::new(config, plan, Arc::clone(manifest), &listed(&self.disk), &listed(&lost), clock_at_zero, now);
        self.machine = machine.ok();
        self.machine.is_some()
    }

    /// The process ends. What it had not written is gone.
    pub(crate) fn die(&mut self) {
        self.life += 1;
        if let Some(machine) = self.machine.take() {
            // A write that was not confirmed may be there or not; here it is not.
            self.disk.retain(|chunk, _| machine.have().contains(*chunk));
        }
        self.running = false;
        self.session = None;
        self.waiting.clear();
        self.fetching = 0;
        self.unsent.clear();
        self.blocked.clear();
        self.frozen_until = Now::ZERO;
        self.woken_for = Now::MAX;
        self.completed_at = None;
    }

    /// Chunks are gone from the disk.
    pub(crate) fn forget(&mut self, chunks: &[u32]) {
        for chunk in chunks {
            if let Some(source) = self.disk.remove(chunk) {
                self.lost.insert(*chunk, source);
            }
        }
    }

    pub(crate) fn plans(&self, peer: TerminalId) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.plan().peers().any(|planned| planned.terminal_id == peer))
    }

    pub(crate) fn has(&self, chunk: u32) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.have().contains(chunk))
    }

    pub(crate) fn have(&self) -> Option<&ChunkSet> {
        self.machine.as_ref().map(Swarm::have)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.machine.as_ref().is_some_and(Swarm::is_complete)
    }

    /// Keeps a message until there is a connection, as the engine's outbox does: the latest of what only its latest counts, all of the rest.
    pub(crate) fn keep(&mut self, says: Says) {
        match &says {
            Says::Suspect(_) | Says::Sync => return,
            Says::Credits(_) | Says::Missing(_) | Says::Holdings { .. } => {
                self.unsent.retain(|kept| std::mem::discriminant(kept) != std::mem::discriminant(&says));
            }
            Says::Notices(_) | Says::Receipts(_) => {}
        }
        if self.unsent.len() < UNSENT_MAX {
            self.unsent.push(says);
        }
    }
}
