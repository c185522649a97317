//! The quota of the folder that contents go to: what gives way to a new edition, and what the server is told of that.
//!
//! ```text
//!  plan ──► make_room ──► Store::open ──► make_room again, if the update's sources were to go ──► the swarm starts
//!            │  kept (disk) + in use (swarms) + releases that have ended (server) → quota::decide
//!            └─ evicted: off the shelf, the server is told, then the disk is freed; blocked: told once, tried again every five seconds
//! ```
//!
//! One decision is made at a time. Room is reserved for what is being received, up to the most that it will take, so that two editions that come at the
//! same time do not count on the same bytes. Nothing is ever evicted without a new edition that needs the room.

mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::manifest::Manifest;
use protocol::{Bytes, EditionId, ReleaseId, SwarmId};

use super::{Context, EngineError, EngineEvent, releases};
use crate::store::quota::{Candidate, Standing, Stays, Verdict, Wish, decide};
use crate::store::{Kept, Place, Store, StoreError, most_room};
use uses::Use;
pub(super) use uses::{InUse, Keeping};

/// How often it is looked again, while too much has to stay: it takes a look at every delivery, and a question to the server for each that may be owed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Something that stays, and why; for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protected {
    pub release_id: ReleaseId,
    pub edition_id: EditionId,
    pub path: PathBuf,
    pub bytes: Bytes,
    pub why: Stays,
}

/// What came of an attempt.
enum Attempt {
    /// There is room; `later` says that the sources of the update go when it has taken over their chunks.
    Room {
        later: Vec<Place>,
    },
    Blocked {
        needed: Bytes,
        kept: Bytes,
        missing: Bytes,
        protected: Vec<Protected>,
    },
}

/// Makes room for an edition before it is opened; waits if that cannot be for now. Answers what is to go when its chunks are taken over: [`settle`] does that.
///
/// # Errors
/// [`EngineError::Quota`] if the edition is larger than the quota. Nothing has gone then.
pub(super) async fn make_room(
    context: &Context,
    swarm_id: SwarmId,
    own: Place,
    manifest: &Arc<Manifest>,
) -> Result<Vec<InUse>, EngineError> {
    let later = wait_for_room(context, swarm_id, own, (manifest, true)).await?;
    Ok(later.into_iter().map(|place| context.keeping.hold(Use::Source(place))).collect())
}

/// Evicts what the edition took chunks from, if that has to go, before anything is fetched.
pub(super) async fn settle(
    context: &Context,
    swarm_id: SwarmId,
    own: Place,
    manifest: &Arc<Manifest>,
    sources: Vec<InUse>,
) -> Result<(), EngineError> {
    if sources.is_empty() {
        return Ok(());
    }
    drop(sources);
    wait_for_room(context, swarm_id, own, (manifest, false)).await.map(drop)
}

async fn wait_for_room(
    context: &Context,
    swarm_id: SwarmId,
    own: Place,
    (manifest, sources_stay): (&Arc<Manifest>, bool),
) -> Result<Vec<Place>, EngineError> {
    let Some(quota) = context.keeping.quota else { return Ok(Vec::new()) };
    let mut is_told = false;
    loop {
        let attempt = Round { context, swarm_id, own, quota, manifest, sources_stay }.attempt().await?;
        match attempt {
            Attempt::Room { later } => {
                if is_told {
                    context.tell(EngineEvent::QuotaRoom { swarm_id });
                }
                return Ok(later);
            }
            Attempt::Blocked { needed, kept, missing, protected } => {
                if !std::mem::replace(&mut is_told, true) {
                    let dir = context.dir.clone();
                    context.tell(EngineEvent::QuotaFull { swarm_id, dir, quota, needed, kept, missing, protected });
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// Making room for one edition.
struct Round<'a> {
    context: &'a Context,
    swarm_id: SwarmId,
    own: Place,
    quota: Bytes,
    manifest: &'a Arc<Manifest>,
    /// Whether what the edition takes chunks from has to stay until they are taken over.
    sources_stay: bool,
}

impl Round<'_> {
    async fn attempt(&self) -> Result<Attempt, EngineError> {
        let mut ended = self.context.keeping.ended.lock().await;
        let most = most_room(self.manifest);
        // What could not be evicted or asked about in this round.
        let mut stays: BTreeMap<Place, Stays> = BTreeMap::new();
        loop {
            let kept = Store::kept(self.context.dir.clone(), Arc::clone(self.manifest)).await.map_err(EngineError::Store)?;
            if self.needs_nothing(&kept) {
                return Ok(Attempt::Room { later: Vec::new() });
            }
            let candidates: Vec<Candidate> = kept.iter().map(|kept| self.candidate(kept, &stays)).collect();
            let wish = Wish { quota: self.quota, most, to_come: self.to_come(&kept, most) };
            let (now, later) = match decide(wish, &candidates) {
                Verdict::Fits { now, later } => (now, later),
                Verdict::TooLarge => return Err(EngineError::Quota { needed: most, quota: self.quota }),
                Verdict::Blocked { missing } => return Ok(self.blocked(most, missing, &kept, &candidates)),
            };
            let chosen = now.iter().chain(&later).flat_map(|&index| kept[index].deliveries.iter().map(|delivery| delivery.place));
            let chosen: Vec<Place> = chosen.collect();
            if self.ask(&chosen, &mut ended, &mut stays).await {
                continue;
            }
            let mut is_as_decided = true;
            for &index in &now {
                is_as_decided &= self.evict(&kept[index], &mut stays).await?;
            }
            if is_as_decided {
                self.reserve(most);
                let later = later.into_iter().flat_map(|index| kept[index].deliveries.iter().map(|delivery| delivery.place));
                return Ok(Attempt::Room { later: later.collect() });
            }
        }
    }

    fn is_own(&self, kept: &Kept) -> bool {
        kept.deliveries.iter().any(|delivery| delivery.place == self.own)
    }

    /// Whether the edition lies here already and is only opened again.
    fn needs_nothing(&self, kept: &[Kept]) -> bool {
        kept.iter().flat_map(|kept| &kept.deliveries).any(|delivery| delivery.place == self.own && delivery.is_whole)
    }

    fn candidate(&self, kept: &Kept, stays: &BTreeMap<Place, Stays>) -> Candidate {
        let uses = self.context.keeping.uses();
        let is_in_use = self.is_own(kept) || kept.deliveries.iter().any(|delivery| uses.has(delivery.place));
        let other = kept.deliveries.iter().find_map(|delivery| stays.get(&delivery.place));
        let standing = match other {
            _ if is_in_use => Standing::Stays(Stays::InUse),
            Some(&why) => Standing::Stays(why),
            None if kept.is_source && self.sources_stay => Standing::Source,
            None => Standing::Free,
        };
        Candidate { bytes: kept.bytes(), useful_at: kept.useful_at, standing }
    }

    /// What this edition and the others that are being received will take up beyond what they do.
    fn to_come(&self, kept: &[Kept], most: Bytes) -> Bytes {
        let mut reserved = self.context.keeping.uses().reserved.clone();
        reserved.insert(self.own, most);
        let deliveries = || kept.iter().flat_map(|kept| &kept.deliveries);
        let has = |place: Place| deliveries().find(|delivery| delivery.place == place).map_or(0, |delivery| delivery.bytes.0);
        Bytes(reserved.into_iter().map(|(place, most)| most.0.saturating_sub(has(place))).fold(0, u64::saturating_add))
    }

    fn reserve(&self, most: Bytes) {
        self.context.keeping.uses().reserved.insert(self.own, most);
    }

    /// Asks the server which of the releases have ended, where that is not known. Answers whether one of them stays.
    async fn ask(&self, places: &[Place], ended: &mut BTreeSet<ReleaseId>, stays: &mut BTreeMap<Place, Stays>) -> bool {
        let before = stays.len();
        let releases: BTreeSet<ReleaseId> = places.iter().map(|place| place.0).filter(|release| !ended.contains(release)).collect();
        for release in releases {
            let why = match self.context.api.release(release).await {
                Ok(answer) if releases::over(answer.state).is_none() => Some(Stays::Owed),
                Ok(_) => None,
                // Nor is it over because this server does not know it: the folder may hold what another server's releases brought.
                Err(error) => {
                    tracing::debug!(%release, %error, "whether a release has ended is not known");
                    Some(Stays::Unknown)
                }
            };
            match why {
                Some(why) => stays.extend(places.iter().filter(|place| place.0 == release).map(|place| (*place, why))),
                None => _ = ended.insert(release),
            }
        }
        stays.len() > before
    }

    /// Takes out what was chosen. `false` if something of it stays after all.
    async fn evict(&self, kept: &Kept, stays: &mut BTreeMap<Place, Stays>) -> Result<bool, EngineError> {
        {
            // Whoever begins to serve it says so first and opens it then: it is seen here, or finds the shelf without it.
            let uses = self.context.keeping.uses();
            if kept.deliveries.iter().any(|delivery| uses.has(delivery.place)) {
                return Ok(false);
            }
            kept.deliveries.iter().for_each(|delivery| self.context.shelf.forget(delivery.place));
        }
        self.context.tell_holdings();
        for delivery in &kept.deliveries {
            match Store::evict(self.context.dir.clone(), delivery.place).await {
                Ok(()) => {}
                Err(StoreError::InUse(_)) => {
                    stays.insert(delivery.place, Stays::InUse);
                    self.context.find_holdings().await;
                    return Ok(false);
                }
                Err(error) => return Err(EngineError::Store(error)),
            }
            let (release_id, edition_id) = delivery.place;
            self.context.tell(EngineEvent::Evicted {
                swarm_id: self.swarm_id,
                release_id,
                edition_id,
                path: kept.path.clone(),
                bytes: delivery.bytes,
            });
        }
        // The same edition may lie here a second time.
        self.context.find_holdings().await;
        Ok(true)
    }

    fn blocked(&self, needed: Bytes, missing: Bytes, kept: &[Kept], candidates: &[Candidate]) -> Attempt {
        let protected = kept.iter().zip(candidates).filter(|(kept, candidate)| !self.is_own(kept) && candidate.bytes.0 > 0);
        let protected = protected.filter_map(|(kept, candidate)| {
            let Standing::Stays(why) = candidate.standing else { return None };
            let (release_id, edition_id) = kept.deliveries.first()?.place;
            Some(Protected { release_id, edition_id, path: kept.path.clone(), bytes: candidate.bytes, why })
        });
        let sum = kept.iter().map(|kept| kept.bytes().0).sum();
        Attempt::Blocked { needed, kept: Bytes(sum), missing, protected: protected.collect() }
    }
}
