//! What was received sealed: kept as it came until the key is here, decrypted in place then, and encrypted again for whoever still asks for it.
//!
//! ```text
//! sealed      the sealed manifest, in place of `manifest` until the content is open
//! key         the key, once it was given
//! unsealing   the one chunk that is being decrypted, as it was before
//! ```
//!
//! Each chunk is either as it travelled or open, and which of the two is seen from its bytes alone. So decrypting can be ended at any moment and be gone on
//! with by whoever has the key; the chunk that was half written then is restored from `unsealing`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use protocol::manifest::{Manifest, STATE_FOLDER};
use protocol::sealing::manifest::{SEALED_MANIFEST_MAX, SealedManifest};
use protocol::sealing::{ContentKey, Sealing};
use protocol::{Blake3, EditionId, ReleaseId};

use super::StoreError;
use super::error::Doing;
use super::folder::{Folder, Open};
use super::layout::Layout;
use super::opening::{COMPLETE, Home, MANIFEST, PART, go_on, read_manifest, replace};
use super::sparse;

pub(super) const SEALED: &str = "sealed";
const KEY: &str = "key";
const UNSEALING: &str = "unsealing";

/// A delivery that came sealed.
pub(super) struct Seal {
    pub(super) manifest: Arc<SealedManifest>,
    key: OnceLock<(ContentKey, Arc<Sealing>)>,
    /// Where the opened content's files lie in its byte stream.
    plain: OnceLock<Layout>,
    /// Held while a chunk is written over: it is neither of its two forms in between.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal")
            .field("edition", &self.manifest.edition_id)
            .field("is_open", &self.plain.get().is_some())
            .finish_non_exhaustive()
    }
}

impl Seal {
    /// What is known of a sealed delivery from its folder. Without the key it may be asked for once more; without the manifest it is decrypted once more.
    pub(super) fn found(manifest: Arc<SealedManifest>, state: &Folder) -> Self {
        let seal = Self { manifest, key: OnceLock::new(), plain: OnceLock::new(), turn: Mutex::default() };
        if let Some(key) = read_key(state) {
            seal.take_key(key);
        }
        if let Some(plain) = read_manifest(state).filter(|plain| seal.key.get().is_some() && plain.edition_id() == seal.manifest.edition_id)
        {
            let _ = seal.plain.set(Layout::new(Arc::new(plain)));
        }
        seal
    }

    /// Keeps a key if it is the right one.
    fn take_key(&self, key: ContentKey) -> bool {
        let sealing = Sealing::new(&key, self.manifest.release_id, self.manifest.edition_id);
        let is_right = self.manifest.check_key(&sealing).is_ok();
        if is_right {
            let _ = self.key.set((key, Arc::new(sealing)));
        }
        is_right
    }

    pub(super) fn has_key(&self) -> bool {
        self.key.get().is_some()
    }

    pub(super) fn sealing(&self) -> Option<&Sealing> {
        self.key.get().map(|(_, sealing)| &**sealing)
    }

    pub(super) fn plain(&self) -> Option<&Layout> {
        self.plain.get()
    }

    /// No chunk is half written while this is held.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_key(state: &Folder) -> Option<ContentKey> {
    let text = state.open(KEY, Open::Read).and_then(io::read_to_string).ok()?;
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).ok()?;
    Some(ContentKey::from_bytes(key))
}

/// The sealed manifest in a delivery's folder, if there is one that can be used.
pub(super) fn read_sealed(state: &Folder) -> Option<SealedManifest> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let most = u64::try_from(SEALED_MANIFEST_MAX).unwrap_or(u64::MAX);
    state.open(SEALED, Open::Read).ok()?.take(most).read_to_end(&mut bytes).ok()?;
    SealedManifest::decode(&bytes).ok()
}

/// The sealed manifest that an earlier run has stored.
pub(super) fn stored(dir: &Path, release_id: ReleaseId, edition_id: EditionId) -> Option<SealedManifest> {
    let state = dir.join(STATE_FOLDER).join(release_id.to_string()).join(edition_id.to_string());
    read_sealed(&Folder::existing(&state).ok()?)
}

/// Deliveries below a folder that came sealed and are not open yet.
pub(super) fn unopened(dir: &Path) -> Vec<SealedManifest> {
    let names = |path: &Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let states = names(&dir.join(STATE_FOLDER)).into_iter().flat_map(|release| names(&release));
    let unopened = states.filter(|state| state.join(SEALED).is_file() && state.join(PART).is_file() && !state.join(COMPLETE).exists());
    unopened.filter_map(|state| read_sealed(&Folder::existing(&state).ok()?)).collect()
}

/// Puts back the chunk that a process was writing over when it ended.
pub(super) fn restore(home: &Home, part: &File) -> Result<(), StoreError> {
    let path = home.state.path_of(UNSEALING);
    let Ok(file) = home.state.open(UNSEALING, Open::Read) else { return Ok(()) };
    let mut number = [0; 4];
    if file.read_exact_at(&mut number, 0).is_ok()
        && let Some((offset, entry)) = home.layout.chunk(u32::from_le_bytes(number))
    {
        let mut bytes = vec![0; entry.length as usize];
        // One that is not whole was never written over.
        if file.read_exact_at(&mut bytes, 4).is_ok() && Blake3::of(&bytes) == entry.hash {
            part.write_all_at(&bytes, offset).doing("write", &home.state.path_of(PART))?;
        }
    }
    home.state.remove(UNSEALING).doing("remove", &path)
}

/// Decrypts a delivery in place; every chunk must be there. Chunks can be read meanwhile. Can be repeated after an error, and after a crash at any point.
///
/// # Errors
/// [`StoreError::WrongKey`]; nothing has changed then. [`StoreError::Corrupt`] for a chunk that is neither of its forms.
pub(super) fn open(home: &Home, key: Option<&ContentKey>, cancelled: &AtomicBool) -> Result<(), StoreError> {
    let Some(seal) = &home.seal else { return Ok(()) };
    if let (None, Some(key)) = (seal.sealing(), key) {
        if !seal.take_key(key.clone()) {
            return Err(StoreError::WrongKey);
        }
        write_key(&home.state, key)?;
    }
    let sealing = seal.sealing().ok_or(StoreError::WrongKey)?;
    let part_path = home.state.path_of(PART);
    let part = home.state.open(PART, Open::Write).doing("open", &part_path)?;
    let undo_path = home.state.path_of(UNSEALING);
    let undo = home.state.open(UNSEALING, Open::Fresh).doing("open", &undo_path)?;
    let mut hashes = Vec::with_capacity(seal.manifest.chunks.len());
    let (mut bytes, mut before) = (Vec::new(), Vec::new());
    for (index, chunk) in (0u32..).zip(&seal.manifest.chunks) {
        go_on(cancelled)?;
        let Some((offset, _)) = home.layout.chunk(index) else { return Err(StoreError::NoSuchChunk(index)) };
        bytes.resize(chunk.length as usize, 0);
        part.read_exact_at(&mut bytes, offset).doing("read", &part_path)?;
        before.clear();
        before.extend_from_slice(&index.to_le_bytes());
        before.extend_from_slice(&bytes);
        if sealing.open(index, &mut bytes, &chunk.tag).is_ok() {
            let _turn = seal.turn();
            undo.write_all_at(&before, 0).doing("write", &undo_path)?;
            sparse::write(&part, offset, &bytes).doing("write", &part_path)?;
        } else if !is_open(sealing, index, &mut before[4..], chunk.hash) {
            return Err(StoreError::Corrupt(index));
        }
        hashes.push(Blake3::of(&bytes));
    }
    let plain = seal.manifest.opened(sealing, hashes)?;
    write_plain(home, seal, plain)?;
    home.state.remove(UNSEALING).doing("remove", &undo_path)
}

/// Whether these are a chunk's own bytes; they are encrypted on the way.
fn is_open(sealing: &Sealing, index: u32, bytes: &mut [u8], hash: Blake3) -> bool {
    sealing.seal(index, bytes).is_ok() && Blake3::of(bytes) == hash
}

fn write_plain(home: &Home, seal: &Seal, plain: Manifest) -> Result<(), StoreError> {
    replace(&home.state, MANIFEST, plain.pieces())?;
    let _ = seal.plain.set(Layout::new(Arc::new(plain)));
    Ok(())
}

/// Kept, because chunks are passed on sealed for as long as the release goes on.
fn write_key(state: &Folder, key: &ContentKey) -> Result<(), StoreError> {
    let path = state.path_of(KEY);
    let file = state.open(KEY, Open::Fresh).doing("open", &path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).doing("protect", &path)?;
    file.write_all_at(hex::encode(key.secret()).as_bytes(), 0).doing("write", &path)?;
    file.sync_all().doing("sync", &path)?;
    state.sync().doing("sync", state.path())
}
