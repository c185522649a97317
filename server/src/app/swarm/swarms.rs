//! The swarms that this instance has at hand, so that a message or a chunk request needs no database.
//!
//! What is kept of a swarm never becomes wrong, only incomplete: a later wave adds groups. Whoever needs a newer plan asks for at least so many groups, or
//! for a member that is not known yet. A swarm is loaded once however many ask for it at a time, and never for somebody who is no member of it: its
//! manifest may take 36 MiB.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::{SwarmId, TerminalId};
use tokio::time::Instant;

use super::known::KnownSwarm;
use super::shelf::{Found, Shelf};
use crate::error::ApiError;
use crate::origin::ChunkStore;
use crate::secrets::SecretsKey;
use crate::store::Store;

/// Memory for swarms: some of the largest, hundreds of common ones.
const MEMORY_MAX: usize = 256 << 20;
/// The least time between two looks into the database for a terminal that is no member: keeps strangers from causing work.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The swarms at hand. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Swarms {
    store: Store,
    chunks: ChunkStore,
    secrets: SecretsKey,
    shelf: Arc<Mutex<Shelf<SwarmId, KnownSwarm>>>,
    /// One per swarm that is being loaded: the others wait for it.
    turns: Arc<Mutex<HashMap<SwarmId, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Swarms {
    pub fn new(store: Store, chunks: ChunkStore, secrets: SecretsKey) -> Self {
        Self { store, chunks, secrets, shelf: Arc::new(Mutex::new(Shelf::new(MEMORY_MAX))), turns: Arc::default() }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<SwarmId, KnownSwarm>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<SwarmId, Arc<tokio::sync::Mutex<()>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The swarm as it is now, whatever is at hand.
    ///
    /// # Errors
    /// `not_found`, or a store fails.
    pub async fn reload(&self, swarm_id: SwarmId) -> Result<Arc<KnownSwarm>, ApiError> {
        let asked_at = Instant::now();
        // What somebody else has begun to read after this was asked for is as good.
        self.load_unless(swarm_id, |found| found.loaded_at >= asked_at).await
    }

    /// Loads the swarm when it is this caller's turn, unless what the one before has loaded is good enough.
    async fn load_unless(&self, swarm_id: SwarmId, is_good: impl Fn(&Found<KnownSwarm>) -> bool) -> Result<Arc<KnownSwarm>, ApiError> {
        let turn = Arc::clone(self.turns().entry(swarm_id).or_default());
        let loaded = {
            let _held = turn.lock().await;
            let found = self.shelf().get(swarm_id).filter(is_good);
            match found {
                Some(found) => Ok(found.value),
                None => self.load(swarm_id).await,
            }
        };
        // In the table and in this hand: nobody else waits. One that was dropped while it waited leaves an empty lock behind, which the next one removes.
        let mut turns = self.turns();
        if Arc::strong_count(&turn) <= 2 {
            turns.remove(&swarm_id);
        }
        loaded
    }

    async fn load(&self, swarm_id: SwarmId) -> Result<Arc<KnownSwarm>, ApiError> {
        // Taken before the read: what is added to the plan meanwhile may be missing from it.
        let loaded_at = Instant::now();
        let swarm = Arc::new(KnownSwarm::load(&self.store, &self.chunks, &self.secrets, swarm_id).await?);
        self.shelf().put(swarm_id, Arc::clone(&swarm), swarm.memory(), loaded_at);
        Ok(swarm)
    }

    /// The swarm with at least so many groups.
    ///
    /// # Errors
    /// `not_found`, or a store fails.
    pub async fn with_groups(&self, swarm_id: SwarmId, groups: u64) -> Result<Arc<KnownSwarm>, ApiError> {
        let found = self.shelf().get(swarm_id);
        match found {
            Some(Found { value, .. }) if value.epoch >= groups => Ok(value),
            Some(_) | None => self.load_unless(swarm_id, |found| found.value.epoch >= groups).await,
        }
    }

    /// The swarm if `terminal` is a member of it.
    ///
    /// # Errors
    /// A store fails.
    pub async fn with_member(&self, swarm_id: SwarmId, terminal: TerminalId) -> Result<Option<Arc<KnownSwarm>>, ApiError> {
        let found = self.shelf().get(swarm_id);
        if let Some(Found { value, looked_at, .. }) = found {
            if value.place(terminal).is_some() {
                return Ok(Some(value));
            }
            if looked_at.elapsed() < LOOK_AGAIN {
                return Ok(None);
            }
        }
        let looked_at = Instant::now();
        if !self.store.is_planned(swarm_id, terminal).await? {
            self.shelf().looked(swarm_id, looked_at);
            return Ok(None);
        }
        let swarm = self.load_unless(swarm_id, |found| found.value.place(terminal).is_some()).await?;
        Ok(swarm.place(terminal).is_some().then_some(swarm))
    }

    /// Forgets a swarm that is over.
    pub fn forget(&self, swarm_id: SwarmId) {
        self.shelf().forget(swarm_id);
    }

    #[cfg(test)]
    pub(crate) fn has_at_hand(&self, swarm_id: SwarmId) -> bool {
        self.shelf().get(swarm_id).is_some()
    }
}
