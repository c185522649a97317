//! Opening a delivery: the lock, the journal, and the verification of everything that it promises.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::bitmap::ChunkSet;
use protocol::manifest::{Manifest, STATE_FOLDER, is_safe_path};
use protocol::{Bytes, EditionId, ReleaseId};
use serde::{Deserialize, Serialize};
use swarm::Held;

use super::error::Doing;
use super::folder::{Folder, Open};
use super::journal::{Journal, Replay};
use super::layout::{Layout, data_bytes};
use super::seal::{self, SEALED, Seal};
use super::source::{LaidOut, Source};
use super::sparse::{self, ZeroHashes};
use super::{Finished, Opened, Room, Store, StoreConfig, StoreError, actor, reuse};
use crate::api::MANIFEST_BYTES_MAX;

pub(super) const PART: &str = "content.part";
const SALVAGE: &str = "content.salvage";
pub(super) const JOURNAL: &str = "journal";
pub(super) const MANIFEST: &str = "manifest";
pub(super) const COMPLETE: &str = "complete";
pub(super) const LOCK: &str = "lock";
/// How often the folder of a delivery is made when it vanishes meanwhile.
const MAKE_TRIES: u32 = 3;
/// For a file that replaces another one in one step.
const NEW_SUFFIX: &str = ".new";

/// The places of one delivery. While it lives the delivery is locked, unless it is only read from.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) root: Folder,
    pub(super) state: Folder,
    /// What travels.
    pub(super) layout: Layout,
    pub(super) seal: Option<Seal>,
    pub(super) edition: EditionId,
    pub(super) _lock: Option<File>,
}

/// Where the files of a finished delivery went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Complete {
    /// A folder below the user's folder; empty for the user's folder itself.
    pub(super) root: String,
}

/// What opening hands to the thread that owns the files from then on.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) home: Arc<Home>,
    pub(super) source: Source,
    /// None for one that is only read from.
    pub(super) journal: Option<Journal>,
    pub(super) held: Vec<Held>,
    pub(super) lost: Vec<Held>,
    pub(super) finished: Option<Finished>,
}

/// Tells blocking work to stop when nobody waits for it any more.
#[derive(Debug, Default)]
pub(super) struct CancelOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) fn go_on(cancelled: &AtomicBool) -> Result<(), StoreError> {
    if cancelled.load(Ordering::Relaxed) { Err(StoreError::Stopped) } else { Ok(()) }
}

pub(super) async fn open(config: StoreConfig) -> Result<Opened, StoreError> {
    let cancel = CancelOnDrop::default();
    let cancelled = Arc::clone(&cancel.0);
    let parts = tokio::task::spawn_blocking(move || open_blocking(&config, &cancelled)).await.map_err(|_| StoreError::Stopped)??;
    let (held, lost, finished) = (parts.held.clone(), parts.lost.clone(), parts.finished.clone());
    Ok(Opened { store: Store { actor: actor::start(parts)? }, held, lost, finished })
}

pub(super) fn stored_manifest(dir: &Path, release_id: ReleaseId, edition_id: EditionId) -> Option<Manifest> {
    let state = dir.join(STATE_FOLDER).join(release_id.to_string()).join(edition_id.to_string());
    let manifest = read_manifest(&Folder::existing(&state).ok()?)?;
    (manifest.edition_id() == edition_id).then_some(manifest)
}

/// The manifest in a delivery's folder, if there is one that can be used.
pub(super) fn read_manifest(state: &Folder) -> Option<Manifest> {
    let mut bytes = Vec::new();
    state.open(MANIFEST, Open::Read).ok()?.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Manifest::decode(&bytes).ok().filter(|manifest| manifest.check().is_ok())
}

fn open_blocking(config: &StoreConfig, cancelled: &AtomicBool) -> Result<Parts, StoreError> {
    config.manifest.check()?;
    let home = Arc::new(home(config)?);
    match &config.sealed {
        Some(sealed) => replace(&home.state, SEALED, [sealed.encode()])?,
        None => replace(&home.state, MANIFEST, config.manifest.pieces())?,
    }
    let journal_path = home.state.path_of(JOURNAL);
    let journal_file = home.state.open(JOURNAL, Open::Write).doing("open", &journal_path)?;
    let replay = Journal::replay(&journal_file, home.edition, config.manifest.chunk_count()).doing("read", &journal_path)?;
    let (source, mut held, finished) = find_content(&home, &replay, cancelled)?;
    // What was lost stays in the journal: whose copies they were must be known for as long as the delivery is.
    let mut journal = if replay.damaged {
        rewrite_journal(&home, &replay.held)?
    } else {
        Journal::resume(journal_file, home.edition).doing("open", &journal_path)?
    };
    let on_disk: ChunkSet = held.iter().map(|held| held.chunk).collect();
    let mut lost: Vec<Held> = replay.held.into_iter().filter(|promise| !on_disk.contains(promise.chunk)).collect();
    // No other edition has a chunk that was encrypted for this release.
    if let (Source::Part(part), None) = (&source, &home.seal) {
        let taken = reuse::take_over(&home, (part, &mut journal), (&held, &lost), (config.me, &config.others), cancelled)?;
        let found: ChunkSet = taken.iter().map(|held| held.chunk).collect();
        lost.retain(|lost| !found.contains(lost.chunk));
        held.extend(taken);
        held.sort_unstable_by_key(|held| held.chunk);
    }
    Ok(Parts { home, source, journal: Some(journal), held, lost, finished })
}

fn home(config: &StoreConfig) -> Result<Home, StoreError> {
    let edition = config.sealed.as_ref().map_or_else(|| config.manifest.edition_id(), |sealed| sealed.edition_id);
    let root = Folder::root(&config.dir).doing("open", &config.dir)?;
    let states = root.child(STATE_FOLDER, true).doing("open", &root.path_of(STATE_FOLDER))?;
    let (release, state) = state_folder(&states, config.release_id, edition)?;
    let lock = lock_at(&release, &edition.to_string(), &state)?;
    let seal = config.sealed.as_ref().map(|sealed| Seal::found(Arc::clone(sealed), &state));
    Ok(Home { root, state, layout: Layout::new(Arc::clone(&config.manifest)), seal, edition, _lock: Some(lock) })
}

/// The folders of a release and of a delivery, made if they are not there. The first may be removed in the same moment, with another edition of it.
fn state_folder(states: &Folder, release: ReleaseId, edition: EditionId) -> Result<(Folder, Folder), StoreError> {
    let (release, edition) = (release.to_string(), edition.to_string());
    let mut tries = 0..MAKE_TRIES;
    loop {
        let made = states.child(&release, true).doing("open", &states.path_of(&release))?;
        match made.child(&edition, true) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && tries.next().is_some() => {}
            Err(error) => return Err(error).doing("open", &made.path_of(&edition)),
            Ok(state) => return Ok((made, state)),
        }
    }
}

/// Locks a delivery against other processes and against its eviction. What was evicted since its folder was opened is not locked: whatever is begun there
/// would go with the rest.
///
/// # Errors
/// [`StoreError::InUse`] if somebody has it, or has just removed it: it can be tried again then.
pub(super) fn lock_at(release: &Folder, edition: &str, state: &Folder) -> Result<File, StoreError> {
    let lock = lock(state)?;
    if state.is_at(release, edition).doing("lock", state.path())? { Ok(lock) } else { Err(StoreError::InUse(state.path().to_owned())) }
}

/// The lock alone, wherever the folder is by now.
pub(super) fn lock(state: &Folder) -> Result<File, StoreError> {
    let in_use = || StoreError::InUse(state.path().to_owned());
    let lock = match state.open(LOCK, Open::Write) {
        // No file can be made in a folder that was removed.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(in_use()),
        other => other.doing("open", &state.path_of(LOCK))?,
    };
    match lock.try_lock() {
        Ok(()) if lock.metadata().doing("lock", state.path())?.nlink() > 0 => Ok(lock),
        Ok(()) | Err(std::fs::TryLockError::WouldBlock) => Err(in_use()),
        Err(std::fs::TryLockError::Error(error)) => Err(error).doing("lock", state.path()),
    }
}

type Found = (Source, Vec<Held>, Option<Finished>);

/// The part file is the truth as long as it exists; a `complete` beside it was written just before a crash.
fn find_content(home: &Home, replay: &Replay, cancelled: &AtomicBool) -> Result<Found, StoreError> {
    let has_part = home.state.has(PART).doing("look for", &home.state.path_of(PART))?;
    if !has_part && let Some(complete) = read_complete(&home.state) {
        return find_laid_out(home, &complete, replay, cancelled);
    }
    home.state.remove(COMPLETE).doing("remove", &home.state.path_of(COMPLETE))?;
    let part = make_part(home, PART, Open::Write)?;
    seal::restore(home, &part)?;
    let mut source = Source::Part(part);
    let held = verify(home, &mut source, &replay.held, cancelled)?;
    Ok((source, held, None))
}

fn find_laid_out(home: &Home, complete: &Complete, replay: &Replay, cancelled: &AtomicBool) -> Result<Found, StoreError> {
    let root =
        if complete.root.is_empty() { home.root.descend("x", false).map(|(root, _)| root) } else { home.root.child(&complete.root, false) };
    let Ok(root) = root else {
        return Ok((Source::Part(make_part(home, PART, Open::Fresh)?), Vec::new(), None));
    };
    let mut source = Source::LaidOut(LaidOut::new(root));
    let held = verify(home, &mut source, &replay.held, cancelled)?;
    if held.len() == home.layout.manifest().chunks.len() {
        return Ok((source, held, Some(home.finished(&complete.root))));
    }
    // Somebody changed the files. They are theirs to keep; what still is as it came goes into a new part file, and the rest is fetched again.
    let part = make_part(home, SALVAGE, Open::Fresh)?;
    for held in &held {
        go_on(cancelled)?;
        let Some((offset, _)) = home.layout.chunk(held.chunk) else { continue };
        if let Some(bytes) = source.chunk(home.into(), held.chunk).doing("read", home.root.path())? {
            sparse::write(&part, offset, &bytes).doing("write", &home.state.path_of(SALVAGE))?;
        }
    }
    home.state.move_over(SALVAGE, PART).doing("rename", &home.state.path_of(SALVAGE))?;
    home.state.remove(COMPLETE).doing("remove", &home.state.path_of(COMPLETE))?;
    Ok((Source::Part(part), held, None))
}

/// Opens the part file with the length of the whole edition; the disk must have room for what is not allocated yet.
fn make_part(home: &Home, name: &str, how: Open) -> Result<File, StoreError> {
    let path = home.state.path_of(name);
    let part = home.state.open(name, how).doing("open", &path)?;
    let metadata = part.metadata().doing("open", &path)?;
    let length = home.layout.manifest().length.0;
    let needed = data_bytes(home.layout.manifest()).saturating_sub(metadata.blocks().saturating_mul(512));
    let available = home.state.room().doing("measure", &path)?;
    if needed > available.0 {
        return Err(StoreError::NoRoom { path, needed: Bytes(needed), available });
    }
    if metadata.len() != length {
        part.set_len(length).doing("make", &path)?;
    }
    Ok(part)
}

/// Those of the journal's chunks that are on disk as they should be. One chunk in memory at a time.
fn verify(home: &Home, source: &mut Source, promised: &[Held], cancelled: &AtomicBool) -> Result<Vec<Held>, StoreError> {
    let (mut held, mut zeros) = (Vec::with_capacity(promised.len()), ZeroHashes::default());
    for promise in promised {
        go_on(cancelled)?;
        if source.has(home.into(), promise.chunk, &mut zeros).doing("read", home.state.path())? {
            held.push(*promise);
        }
    }
    if held.len() < promised.len() {
        tracing::warn!(lost = promised.len() - held.len(), folder = %home.state.path().display(), "chunks on disk are not as the journal says");
    }
    Ok(held)
}

fn rewrite_journal(home: &Home, held: &[Held]) -> Result<Journal, StoreError> {
    let new = format!("{JOURNAL}{NEW_SUFFIX}");
    let path = home.state.path_of(&new);
    let file = home.state.open(&new, Open::Fresh).doing("open", &path)?;
    let journal = Journal::begin(file, home.edition, held).doing("write", &path)?;
    journal.file().sync_all().doing("sync", &path)?;
    home.state.move_over(&new, JOURNAL).doing("rename", &path)?;
    Ok(journal)
}

/// Writes a small file so that it is either the old or the new one, whenever the machine stops.
pub(super) fn replace(folder: &Folder, name: &str, content: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<(), StoreError> {
    let new = format!("{name}{NEW_SUFFIX}");
    let path = folder.path_of(&new);
    let mut file = folder.open(&new, Open::Fresh).doing("open", &path)?;
    for piece in content {
        file.write_all(piece.as_ref()).doing("write", &path)?;
    }
    file.sync_all().doing("sync", &path)?;
    folder.move_over(&new, name).doing("rename", &path)?;
    folder.sync().doing("sync", folder.path())
}

pub(super) fn read_complete(state: &Folder) -> Option<Complete> {
    let mut text = String::new();
    state.open(COMPLETE, Open::Read).ok()?.take(4096).read_to_string(&mut text).ok()?;
    let complete: Complete = serde_json::from_str(&text).ok()?;
    (complete.root.is_empty() || (is_safe_path(&complete.root) && !complete.root.contains('/'))).then_some(complete)
}

impl Home {
    /// How the content is laid out as files; of what is sealed still, as the one file that travels.
    pub(super) fn files(&self) -> &Layout {
        self.seal.as_ref().and_then(Seal::plain).unwrap_or(&self.layout)
    }

    /// The room that this delivery still needs, and what there is: both at most what the file system says at the moment.
    pub(super) fn room(&self) -> Room {
        let allocated = self.state.open(PART, Open::Read).and_then(|part| part.metadata()).map_or(0, |metadata| metadata.blocks() * 512);
        let needed = Bytes(data_bytes(self.layout.manifest()).saturating_sub(allocated));
        Room { needed, free: self.state.room().unwrap_or(Bytes(0)) }
    }

    /// Notes that the files are, or are about to be, below `root`.
    pub(super) fn write_complete(&self, root: &str) -> Result<(), StoreError> {
        let text = serde_json::to_vec(&Complete { root: root.to_owned() }).unwrap_or_default();
        replace(&self.state, COMPLETE, [&text])
    }

    /// Where the content lies when its files are below `root`.
    pub(super) fn finished(&self, root: &str) -> Finished {
        let manifest = self.files().manifest();
        let mut path: PathBuf = self.root.path().to_owned();
        if !root.is_empty() {
            path.push(root);
        }
        if !manifest.directory
            && let Some(file) = manifest.files.first()
        {
            path.push(&file.path);
        }
        Finished { path }
    }
}
