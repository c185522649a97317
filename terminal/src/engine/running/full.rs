//! A full disk: what could not be written waits in memory, nothing more is asked for, and everything goes on when there is room. What is on disk is
//! passed on meanwhile.
//!
//! Senders are not told: each stops by itself when its window of 256 KiB is full, because what is not written is not acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use protocol::{Bytes as ByteCount, TerminalId};
use swarm::Now;
use tokio::time::Instant;

use super::{Ending, Running};
use crate::engine::{EngineError, EngineEvent};
use crate::store::{Room, StoreError};

/// How often it is tried to write again.
pub(in crate::engine) const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(2);

/// Something that is being written, kept until it is.
#[derive(Debug)]
pub(super) enum Writing {
    Chunk {
        chunk: u32,
        source: TerminalId,
        bytes: Bytes,
    },
    /// A chunk that is on disk, at the places of its repeats.
    Repeats {
        chunk: u32,
        into: Vec<u32>,
    },
}

/// What waits for room.
#[derive(Debug, Default)]
pub(super) struct Full {
    /// The person was told, and not yet that it is over.
    told: bool,
    waiting: VecDeque<Writing>,
    /// When one of them is tried again; nothing is being tried if unset.
    try_at: Option<Instant>,
}

impl Full {
    pub(super) fn is_full(&self) -> bool {
        !self.waiting.is_empty() || self.try_at.is_some()
    }

    /// Waits until it is time to try again; for ever if nothing waits.
    pub(super) async fn wait(&self) {
        match self.try_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

impl Running<'_> {
    /// Begins to write something.
    pub(super) fn write(&mut self, writing: Writing) {
        let (store, me) = (self.store.clone(), self.context.me);
        self.storing.push(Box::pin(async move {
            let result = match &writing {
                Writing::Chunk { chunk, source, bytes } => store.put(*chunk, *source, bytes.clone()).await,
                Writing::Repeats { chunk, into } => store.repeat(*chunk, into.clone(), me).await,
            };
            (writing, result)
        }));
    }

    /// Something was written, or could not be.
    pub(super) async fn stored(&mut self, writing: Writing, result: Result<(), StoreError>, now: Now) -> Result<(), Ending> {
        match result {
            Ok(()) => {
                match writing {
                    Writing::Chunk { chunk, bytes, .. } => {
                        self.storing_bytes -= bytes.len();
                        self.swarm.handle_stored(chunk, now);
                        // That it begins is told at once: what comes before was spent waiting for the server and for links, what comes after on the way.
                        if self.summary.progress.verified.0 == 0 {
                            self.report(now);
                        }
                    }
                    Writing::Repeats { into, .. } => self.swarm.handle_repeated(&into, now),
                }
                self.write_what_waits(now);
            }
            Err(error) if error.is_full_for_now() => {
                self.full.waiting.push_back(writing);
                self.full.try_at.get_or_insert(Instant::now() + LOOK_FOR_ROOM_EVERY);
                self.swarm.handle_paused(true, now);
                self.tell_full(&error).await;
            }
            Err(StoreError::Corrupt(chunk)) => {
                self.context.warn(format!("{}; it is fetched again", StoreError::Corrupt(chunk)));
                return Err(Ending::Restart);
            }
            Err(error) => return Err(Ending::Failed(EngineError::Store(error))),
        }
        Ok(())
    }

    /// Tries one of those that wait: if it can be written, the others follow.
    pub(super) fn try_again(&mut self) {
        self.full.try_at = None;
        if let Some(writing) = self.full.waiting.pop_front() {
            self.write(writing);
        }
    }

    /// Something could be written: so can what waits, perhaps.
    fn write_what_waits(&mut self, now: Now) {
        // While a try is due, what was under way when the disk became full says nothing.
        if self.full.try_at.is_some() {
            return;
        }
        for writing in std::mem::take(&mut self.full.waiting) {
            self.write(writing);
        }
        if self.swarm.is_paused() {
            self.swarm.handle_paused(false, now);
        }
        self.there_is_room();
    }

    pub(super) fn there_is_room(&mut self) {
        if std::mem::take(&mut self.full.told) {
            self.context.tell(EngineEvent::DiskRoom { swarm_id: self.summary.swarm_id });
        }
    }

    /// Says once that the disk is full, and how much is missing.
    pub(super) async fn tell_full(&mut self, error: &StoreError) {
        if std::mem::replace(&mut self.full.told, true) {
            return;
        }
        let room = if let StoreError::NoRoom { needed, available, .. } = error {
            Room { needed: *needed, free: *available }
        } else {
            self.store.room().await.unwrap_or(Room { needed: self.swarm.manifest().length, free: ByteCount(0) })
        };
        let (swarm_id, dir) = (self.summary.swarm_id, self.context.dir.clone());
        self.context.tell(EngineEvent::DiskFull { swarm_id, dir, needed: room.needed, free: room.free });
    }
}
