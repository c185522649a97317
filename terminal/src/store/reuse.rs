//! Chunks that another edition on this machine has already: an update fetches what has changed, and nothing else.
//!
//! No copy of anything is kept for this. What earlier deliveries left in their state folders says how their editions are cut and where their files went;
//! a chunk of the new edition that stands in one of those manifests is read from the file it lies in, verified, and written into the new one. A file
//! that was changed, moved or deleted since does no harm: its chunks are not what they were, so they are fetched.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use protocol::TerminalId;
use protocol::bitmap::ChunkSet;
use protocol::manifest::{ChunkEntry, Manifest, STATE_FOLDER};
use swarm::Held;

use super::StoreError;
use super::error::Doing;
use super::evict::EVICTED;
use super::folder::{Folder, Open};
use super::journal::Journal;
use super::layout::Layout;
use super::opening::{Home, JOURNAL, MANIFEST, PART, go_on, read_complete, read_manifest};
use super::source::{LaidOut, Source};
use super::{kept, sparse};

/// Editions that are looked at, the newest first: years of updates, and a bound on how many manifests are read.
const EDITIONS_MAX: usize = 256;

/// Chunks that are not here, by their hashes; each hash once.
struct Wanted<'a> {
    chunks: &'a [ChunkEntry],
    /// Chunk numbers, ascending by hash.
    by_hash: Vec<u32>,
    found: ChunkSet,
}

impl<'a> Wanted<'a> {
    fn new(manifest: &'a Manifest, held: &[Held]) -> Self {
        let chunks = &manifest.chunks[..];
        let hash = |chunk: u32| chunks[chunk as usize].hash.0;
        let have: ChunkSet = held.iter().map(|held| held.chunk).collect();
        let mut by_hash: Vec<u32> = (0..manifest.chunk_count()).collect();
        by_hash.sort_unstable_by_key(|&chunk| (hash(chunk), chunk));
        // Repeats are written from the first, once that is here.
        by_hash.dedup_by_key(|chunk| hash(*chunk));
        by_hash.retain(|chunk| !have.contains(*chunk));
        Self { chunks, by_hash, found: ChunkSet::default() }
    }

    fn is_satisfied(&self) -> bool {
        self.found.len() as usize == self.by_hash.len()
    }

    /// The chunk of this hash and length that is still missing.
    fn find(&self, entry: &ChunkEntry) -> Option<u32> {
        let index = self.by_hash.binary_search_by_key(&entry.hash.0, |&chunk| self.chunks[chunk as usize].hash.0).ok()?;
        let chunk = self.by_hash[index];
        (self.chunks[chunk as usize].length == entry.length && !self.found.contains(chunk)).then_some(chunk)
    }
}

/// Writes every missing chunk that another edition has into `part`, and notes it with `me` as its source (or with whom it was signed for already,
/// if it was here once). Answers them, ascending.
///
/// # Errors
/// The new edition cannot be written. That another one cannot be read is no error.
pub(super) fn take_over(
    home: &Home,
    (part, journal): (&File, &mut Journal),
    (held, lost): (&[Held], &[Held]),
    (me, others): (TerminalId, &[PathBuf]),
    cancelled: &AtomicBool,
) -> Result<Vec<Held>, StoreError> {
    let mut wanted = Wanted::new(home.layout.manifest(), held);
    let mut taken = Vec::new();
    if wanted.is_satisfied() {
        return Ok(taken);
    }
    let path = home.state.path_of(PART);
    for state in states(home, others) {
        let Some(mut edition) = Edition::open(&state) else { continue };
        let before = taken.len();
        for old in 0..edition.layout.manifest().chunk_count() {
            let Some(chunk) = edition.has(old).and_then(|entry| wanted.find(&entry)) else { continue };
            go_on(cancelled)?;
            let Some((offset, bytes)) = home.layout.chunk(chunk).map(|(offset, _)| offset).zip(edition.read(old)) else { continue };
            sparse::write(part, offset, &bytes).doing("write", &path)?;
            let signed_for = lost.binary_search_by_key(&chunk, |lost| lost.chunk).ok().map(|index| lost[index].source);
            let held = Held { chunk, source: signed_for.unwrap_or(me) };
            if signed_for.is_none() {
                journal.append(&[held]).doing("write the journal of", home.state.path())?;
            }
            wanted.found.insert(chunk);
            taken.push(held);
        }
        if taken.len() > before {
            kept::touch(&edition.state);
        }
        if wanted.is_satisfied() {
            break;
        }
    }
    taken.sort_unstable_by_key(|held| held.chunk);
    Ok(taken)
}

/// The state folders of other deliveries, the newest first.
fn states(home: &Home, others: &[PathBuf]) -> Vec<PathBuf> {
    let own = home.state.path();
    let roots = std::iter::once(home.root.path()).chain(others.iter().map(PathBuf::as_path));
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    let releases = roots.flat_map(|root| folders_in(&root.join(STATE_FOLDER))).filter(|release| !release.ends_with(EVICTED));
    for release in releases {
        for state in folders_in(&release).into_iter().filter(|state| state != own) {
            let written = std::fs::symlink_metadata(state.join(MANIFEST)).and_then(|metadata| metadata.modified());
            found.extend(written.ok().map(|at| (at, state)));
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.dedup_by(|a, b| a.1 == b.1);
    found.truncate(EDITIONS_MAX);
    found.into_iter().map(|(_, state)| state).collect()
}

/// The folders in a folder; none if it cannot be read.
fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Another delivery's chunks, as far as they can be read.
struct Edition {
    state: Folder,
    layout: Layout,
    source: Source,
    /// The chunks that an unfinished delivery has; a finished one has all.
    have: Option<ChunkSet>,
}

impl Edition {
    fn open(state: &Path) -> Option<Self> {
        let root = Folder::existing(state.ancestors().nth(3)?).ok()?;
        let state = Folder::existing(state).ok()?;
        let manifest = Arc::new(read_manifest(&state)?);
        let edition = manifest.edition_id();
        let chunks = manifest.chunk_count();
        let layout = Layout::new(manifest);
        if let Ok(part) = state.open(PART, Open::Read) {
            let journal = state.open(JOURNAL, Open::Read).ok()?;
            let replay = Journal::replay(&journal, edition, chunks).ok()?;
            let have = replay.held.into_iter().map(|held| held.chunk).collect();
            return Some(Self { state, layout, source: Source::Part(part), have: Some(have) });
        }
        let complete = read_complete(&state)?;
        let files = if complete.root.is_empty() { root } else { root.child(&complete.root, false).ok()? };
        Some(Self { state, layout, source: Source::LaidOut(LaidOut::new(files)), have: None })
    }

    /// A chunk that should be here.
    fn has(&self, chunk: u32) -> Option<ChunkEntry> {
        let promised = self.have.as_ref().is_none_or(|have| have.contains(chunk));
        self.layout.chunk(chunk).filter(|_| promised).map(|(_, entry)| entry)
    }

    /// A chunk, if it is as it was.
    fn read(&mut self, chunk: u32) -> Option<Vec<u8>> {
        match self.source.chunk((&self.layout).into(), chunk) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(%error, chunk, "a chunk of another edition cannot be read");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
