//! A swarm as this instance knows it: its plan up to some wave, and the manifest.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use protocol::manifest::Manifest;
use protocol::sealing::Sealing;
use protocol::ws::{SealedPlan, SwarmPlan};
use protocol::{DeliveryId, GroupId, SwarmId, TerminalId, UserId};
use rules::relay_plan::{PlannedGroup, SwarmTree, TerminalView};
use rules::scale::UNKNOWN_UPLINK;
use time::OffsetDateTime;

use crate::app::sealing::sealing_of;
use crate::clock::to_timestamp_ms;
use crate::error::ApiError;
use crate::live::GroupSpec;
use crate::origin::{ChunkStore, memory_of};
use crate::secrets::SecretsKey;
use crate::store::Store;
use crate::store::holders::StoredSource;
use crate::store::plan::SwarmFacts;
use crate::store::sealing::Unsealed;

/// How long a group's table is kept in Redis beyond the deadline, should nobody remove it.
const KEEP_BEYOND: Duration = Duration::from_secs(3600);
/// What a member takes in memory, in the tree and among the places, about.
const MEMBER_BYTES: usize = 512;

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub owner: UserId,
    pub delivery_id: DeliveryId,
    pub group_id: GroupId,
    /// Whether the origin feeds its group.
    pub root: bool,
    pub wave: u32,
    /// The one that its place was awarded for; another one only in a sealed release.
    pub awarded: u32,
    pub opens_at: OffsetDateTime,
    /// It holds the edition already and is here to serve it: it is owed nothing.
    pub serves_only: bool,
}

/// A swarm as it was planned up to some wave.
#[derive(Debug)]
pub struct KnownSwarm {
    pub facts: SwarmFacts,
    pub tree: SwarmTree,
    /// Rises with each wave, and with each choice of a download's sources; plans carry it.
    pub epoch: u64,
    pub manifest: Arc<Manifest>,
    pub chunk_lengths: Vec<u32>,
    /// What the origin's chunks are encrypted with; none if they are sent as they are.
    pub sealing: Option<Arc<Sealing>>,
    /// Of a download all that it ever had.
    sources: Vec<StoredSource>,
    places: HashMap<TerminalId, Place>,
}

/// Groups are only ever added, so their number rises with each wave.
fn epoch_of(tree: &SwarmTree) -> u64 {
    u64::try_from(tree.groups().len()).unwrap_or(u64::MAX)
}

impl KnownSwarm {
    pub(super) async fn load(store: &Store, chunks: &ChunkStore, secrets: &SecretsKey, swarm_id: SwarmId) -> Result<Self, ApiError> {
        let facts = store.swarm_facts(swarm_id).await?;
        let plan = store.stored_plan(swarm_id).await?;
        let manifest = chunks.manifest(facts.edition_id).await?;
        let sealing = match facts.sealed {
            Some(_) => {
                sealing_of(store, secrets, &Unsealed { release_id: facts.release_id, swarm_id, edition_id: facts.edition_id }).await?
            }
            None => None,
        };
        let mut places = HashMap::with_capacity(plan.owners.len());
        for group in &plan.groups {
            let wave = usize::try_from(group.wave).unwrap_or(usize::MAX);
            let opens_at =
                facts.waves.get(wave).ok_or_else(|| ApiError::internal(format!("swarm {swarm_id} has no wave {wave}")))?.opens_at;
            for member in &group.members {
                let owner = plan.owners.get(&member.terminal_id).copied();
                let owner = owner.ok_or_else(|| ApiError::internal(format!("terminal {} has no owner", member.terminal_id)))?;
                let (delivery_id, group_id, root, wave) = (member.delivery_id, group.id, group.root, group.wave);
                let awarded = plan.awarded.get(&member.terminal_id).copied().unwrap_or(wave);
                places
                    .insert(member.terminal_id, Place { owner, delivery_id, group_id, root, wave, awarded, opens_at, serves_only: false });
            }
        }
        let tree = SwarmTree::new(plan.groups).map_err(ApiError::internal)?;
        let mut epoch = epoch_of(&tree);
        let mut sources = Vec::new();
        if facts.on_demand {
            (epoch, sources) = store.stored_sources(swarm_id).await?;
            add_places(&mut places, tree.groups(), &sources, facts.begins_at);
        }
        Ok(Self {
            epoch,
            sources,
            tree,
            chunk_lengths: manifest.chunks.iter().map(|chunk| chunk.length).collect(),
            facts,
            manifest,
            sealing: sealing.map(Arc::new),
            places,
        })
    }

    /// What it takes in memory, about. The manifest may be in others' hands as well, and counts nevertheless.
    pub(super) fn memory(&self) -> usize {
        memory_of(&self.manifest) + self.chunk_lengths.len() * size_of::<u32>() + self.places.len() * MEMBER_BYTES
    }

    pub fn place(&self, terminal: TerminalId) -> Option<Place> {
        self.places.get(&terminal).copied()
    }

    pub fn terminals(&self) -> impl Iterator<Item = TerminalId> + '_ {
        self.places.keys().copied()
    }

    pub fn chunk_count(&self) -> u32 {
        self.manifest.chunk_count()
    }

    /// Who is to serve a download now; nobody in a release.
    pub fn sources(&self) -> impl Iterator<Item = TerminalId> + '_ {
        self.sources.iter().filter(|source| source.serving).map(|source| source.peer.terminal_id)
    }

    fn group(&self, group: GroupId) -> Option<&PlannedGroup> {
        self.tree.groups().iter().find(|planned| planned.id == group)
    }

    /// What a member is told; `None` for who is no member.
    pub fn plan(&self, terminal: TerminalId) -> Option<SwarmPlan> {
        if self.facts.on_demand {
            let place = self.place(terminal)?;
            return Some(self.assembled(self.download_view(terminal, place)?, place, self.epoch));
        }
        self.plan_in(&self.tree, terminal)
    }

    /// What a member was told while the swarm had no groups but those of `tree`.
    pub fn plan_in(&self, tree: &SwarmTree, terminal: TerminalId) -> Option<SwarmPlan> {
        Some(self.assembled(tree.view(terminal)?, self.place(terminal)?, epoch_of(tree)))
    }

    fn assembled(&self, view: TerminalView, place: Place, epoch: u64) -> SwarmPlan {
        SwarmPlan {
            release_id: self.facts.release_id,
            swarm_id: self.facts.swarm_id,
            edition_id: self.facts.edition_id,
            delivery_id: place.delivery_id,
            epoch,
            rank: self.facts.rank_of(place.awarded),
            opens_at: to_timestamp_ms(place.opens_at),
            deadline_at: to_timestamp_ms(self.facts.deadline_at),
            group_id: view.group_id,
            root: view.root,
            members: view.members,
            parents: view.parents,
            children: view.children,
            serves: view.serves,
            sealed: self.sealed_plan(place),
        }
    }

    /// None if nothing is sealed, or not yet: no plan is told before it is.
    fn sealed_plan(&self, place: Place) -> Option<SealedPlan> {
        Some(SealedPlan { manifest: self.facts.sealed.as_ref()?.manifest?, key_at: to_timestamp_ms(self.key_at(place)?) })
    }

    /// When a member is given the key of a sealed release.
    pub fn key_at(&self, place: Place) -> Option<OffsetDateTime> {
        let wave = usize::try_from(place.awarded).ok()?;
        self.facts.sealed.as_ref()?.keys.get(wave).map(|wave| wave.opens_at)
    }

    /// The receiver may pull from every source, and each source serves the receiver alone; who is no source any more has no plan.
    fn download_view(&self, terminal: TerminalId, place: Place) -> Option<TerminalView> {
        let mut view = TerminalView {
            group_id: place.group_id,
            root: place.root,
            members: Vec::new(),
            parents: Vec::new(),
            children: Vec::new(),
            serves: Vec::new(),
        };
        if !place.serves_only {
            view.parents = self.sources.iter().filter(|source| source.serving).map(|source| source.peer.clone()).collect();
            return Some(view);
        }
        self.sources().find(|source| *source == terminal)?;
        view.serves = self.tree.groups().iter().flat_map(|group| group.members.iter().cloned()).collect();
        Some(view)
    }

    /// Whose copies a member may sign for: whom it is linked to, and of a download whoever served it before. What was delivered is paid.
    pub fn paired(&self, terminal: TerminalId) -> BTreeSet<TerminalId> {
        let mut paired = self.peers(terminal);
        paired.extend(self.sources.iter().map(|source| source.peer.terminal_id).filter(|source| *source != terminal));
        paired
    }

    /// Whom a member is linked to.
    pub fn peers(&self, terminal: TerminalId) -> BTreeSet<TerminalId> {
        let plan = self.plan(terminal);
        plan.iter().flat_map(SwarmPlan::peers).map(|peer| peer.terminal_id).collect()
    }

    /// What the table of a group is made from.
    pub fn group_spec(&self, group_id: GroupId) -> Option<GroupSpec> {
        let group = self.group(group_id)?;
        let copies_below = self.tree.groups().iter().filter(|below| below.parent == Some(group_id)).count();
        let copies = u64::try_from(group.members.len().saturating_sub(1) + copies_below).unwrap_or(u64::MAX).max(1);
        let opens_at = self.facts.waves.get(usize::try_from(group.wave).ok()?)?.opens_at;
        let members = group.members.iter().map(|member| {
            let up = if member.up.0 == 0 { UNKNOWN_UPLINK.0 } else { member.up.0 };
            (member.terminal_id, 8_000_000_000 * copies / up)
        });
        Some(GroupSpec {
            group: group_id,
            swarm: self.facts.swarm_id,
            root: group.root,
            opens_at,
            keep_until: self.facts.deadline_at + KEEP_BEYOND,
            chunk_lengths: self.chunk_lengths.clone(),
            members: members.collect(),
        })
    }
}

/// Gives the sources of a download their places, beside the one of its receiver.
fn add_places(places: &mut HashMap<TerminalId, Place>, groups: &[PlannedGroup], sources: &[StoredSource], opens_at: OffsetDateTime) {
    let Some(group) = groups.first() else { return };
    for StoredSource { peer, owner, serving: _ } in sources {
        let place = Place {
            owner: *owner,
            delivery_id: peer.delivery_id,
            group_id: group.id,
            root: false,
            wave: group.wave,
            awarded: group.wave,
            opens_at,
            serves_only: true,
        };
        places.entry(peer.terminal_id).or_insert(place);
    }
}
