//! What lies in a folder: every delivery that was begun there, how much room it takes up, and when it was last useful.
//!
//! Counted is what this program has written: the state of a delivery, and the files that it has laid out and that are still as it left them, in blocks
//! that are allocated, so that holes count nothing. What the person has put there, changed or given a second name is the person's and not counted.
//!
//! Useful is a delivery when it is begun or asked for (its manifest is written), receives (its journal), is complete, is passed on, or gives chunks to
//! another one: the latest time of change of those files and of `used`, which has no content.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use protocol::manifest::{Manifest, STATE_FOLDER};
use protocol::{Bytes, EditionId, ReleaseId};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::StoreError;
use super::claims::{States, claims};
use super::error::Doing;
use super::folder::{Folder, Open};
use super::journal::RECORD_LEN;
use super::laid;
use super::layout::data_bytes;
use super::opening::{COMPLETE, JOURNAL, MANIFEST, PART, read_complete, read_manifest};
use super::sparse::ZeroHashes;

/// Its time of change is when the delivery was last passed on, taken chunks from, or asked for.
const USED: &str = "used";
/// As file systems count blocks.
const BLOCK: u64 = 512;
/// The small files of a delivery, rounded up to pages, and the folder itself.
const SMALL_FILES: u64 = 32 << 10;
/// The last page of a file that is laid out, which is full for none, and its line in the list.
const EACH_FILE: u64 = (4 << 10) + 128;

/// A delivery by what its folder is called.
pub type Place = (ReleaseId, EditionId);

/// One delivery, or several that have files in common: these go together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub deliveries: Vec<Delivery>,
    /// Where the content lies or will lie, for people.
    pub path: PathBuf,
    pub useful_at: SystemTime,
    /// Whether it has chunks of the edition that was asked about.
    pub is_source: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    pub place: Place,
    /// Allocated on the disk. A file in common is the first one's.
    pub bytes: Bytes,
    /// Nothing more is to be written for it.
    pub is_whole: bool,
}

impl Kept {
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes(self.deliveries.iter().map(|delivery| delivery.bytes.0).sum())
    }
}

/// The most room that an edition takes up at once: its bytes, twice for a directory, whose files are copied out of what was received; and its state.
#[must_use]
pub fn most_room(manifest: &Manifest) -> Bytes {
    let times = if manifest.directory { 2 } else { 1 };
    let state =
        manifest.encoded_len() as u64 + u64::from(manifest.chunk_count()) * RECORD_LEN as u64 + manifest.files.len() as u64 * EACH_FILE;
    Bytes(data_bytes(manifest).saturating_mul(times).saturating_add(state).saturating_add(SMALL_FILES))
}

/// Notes that a delivery is of use now. That it cannot be noted makes it go earlier than it might, and no more.
pub(super) fn touch(state: &Folder) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: now };
    let noted = state.open(USED, Open::Write).and_then(|file| Ok(rustix::fs::futimens(&file, &times)?));
    if let Err(error) = noted {
        tracing::debug!(%error, folder = %state.path().display(), "that a delivery was of use cannot be noted");
    }
}

/// The same for a delivery in `dir`.
pub(super) fn touch_at(dir: &Path, (release, edition): Place) {
    let path = dir.join(STATE_FOLDER).join(release.to_string()).join(edition.to_string());
    if let Ok(state) = Folder::existing(&path) {
        touch(&state);
    }
}

/// Everything that lies in `dir`; `wanted` is the edition whose sources are marked.
pub(super) fn kept(dir: &Path, wanted: Option<&Manifest>) -> Result<Vec<Kept>, StoreError> {
    let root = match Folder::existing(dir) {
        Ok(root) => root,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing("open", dir),
    };
    let states = States::of(&root)?;
    let claims = claims(&root, &states)?;
    let mut files = vec![0; states.places.len()];
    let mut groups = Groups::new(states.places.len());
    for (metadata, by) in claims.values() {
        let Some(&first) = by.first() else { continue };
        files[first] += metadata.blocks() * BLOCK;
        by.iter().for_each(|&other| groups.join(first, other));
    }
    let wanted = wanted.map(hashes);
    let mut kept: BTreeMap<usize, Kept> = BTreeMap::new();
    for state in states.each() {
        let (index, state) = state?;
        let manifest = read_manifest(&state);
        let is_source = matches!((&wanted, &manifest), (Some(wanted), Some(manifest)) if !hashes(manifest).is_disjoint(wanted));
        let (own, useful_at) = measure(&state)?;
        let delivery = Delivery {
            place: states.places[index],
            bytes: Bytes(own + files[index]),
            is_whole: manifest.as_ref().is_some_and(|manifest| is_whole(&root, &state, manifest)),
        };
        let path = manifest.map_or_else(|| state.path().to_owned(), |manifest| place_of(&root, &state, &manifest));
        let group = kept.entry(groups.first(index)).or_insert(Kept { deliveries: Vec::new(), path, useful_at, is_source: false });
        group.deliveries.push(delivery);
        group.useful_at = group.useful_at.max(useful_at);
        group.is_source |= is_source;
    }
    Ok(kept.into_values().collect())
}

/// The hashes of an edition's chunks, but for zeros, which nobody takes from anywhere.
fn hashes(manifest: &Manifest) -> BTreeSet<[u8; 32]> {
    let mut zeros = ZeroHashes::default();
    let data = manifest.chunks.iter().filter(|entry| entry.hash != zeros.of(entry.length));
    data.map(|entry| entry.hash.0).collect()
}

/// What the files of a delivery's own folder take up, and when it was last useful.
fn measure(state: &Folder) -> Result<(u64, SystemTime), StoreError> {
    let (mut bytes, mut useful_at) = (0, SystemTime::UNIX_EPOCH);
    for name in state.names().doing("list", state.path())? {
        let Ok(metadata) = state.open(&name, Open::Read).and_then(|file| file.metadata()) else { continue };
        bytes += metadata.blocks() * BLOCK;
        if [MANIFEST, JOURNAL, COMPLETE, USED].contains(&name.as_str())
            && let Ok(at) = metadata.modified()
        {
            useful_at = useful_at.max(at);
        }
    }
    Ok((bytes, useful_at))
}

/// Whether a delivery is complete and its files have their lengths, so that opening it again takes no room.
fn is_whole(root: &Folder, state: &Folder, manifest: &Manifest) -> bool {
    let Some(complete) = read_complete(state).filter(|_| matches!(state.has(PART), Ok(false))) else { return false };
    let Ok(laid) = laid::read(state) else { return false };
    manifest.files.iter().enumerate().all(|(index, entry)| {
        let path = laid::path_of(&complete.root, &entry.path);
        match laid.get(&(complete.root.clone(), index)) {
            Some(mark) => mark.find(root, &path, entry.length.0).is_some(),
            None => root
                .descend(&path, false)
                .and_then(|(folder, name)| folder.open(name, Open::Read)?.metadata())
                .is_ok_and(|metadata| metadata.len() == entry.length.0),
        }
    })
}

/// Where a person looks for it: the file, the folder of a directory that had to give way, or the first of a directory's names.
fn place_of(root: &Folder, state: &Folder, manifest: &Manifest) -> PathBuf {
    let below = read_complete(state).map(|complete| complete.root).unwrap_or_default();
    let first = manifest.files.first().map_or("", |file| file.path.as_str());
    if !manifest.directory {
        return root.path_of(&laid::path_of(&below, first));
    }
    root.path_of(if below.is_empty() { first.split('/').next().unwrap_or(first) } else { &below })
}

/// Which of so many belong together.
struct Groups(Vec<usize>);

impl Groups {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    /// The first of those that `index` belongs to.
    fn first(&self, mut index: usize) -> usize {
        while self.0[index] != index {
            index = self.0[index];
        }
        index
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.first(one), self.first(other));
        self.0[one.max(other)] = one.min(other);
    }
}
