//! Takes a delivery out of a folder: its state, and those of its files that are as they were laid out.
//!
//! ```text
//! <dir>/.spillway/<release>/<edition>/                 one rename, after which nothing here says that it holds a chunk
//!   → <dir>/.spillway/evicted/<release>.<edition>/     its files are removed, then the list of them, then the rest
//! ```
//!
//! A process may die anywhere in this. Before the rename nothing has happened; after it what is left is removed at the next start ([`sweep`]), from the
//! same list. The lock is held throughout, so that a delivery that somebody has open is not taken out, and whoever opens it again begins anew.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use protocol::manifest::STATE_FOLDER;

use super::StoreError;
use super::claims::{States, claims, intact};
use super::error::Doing;
use super::folder::Folder;
use super::kept::Place;
use super::laid::{self, LAID};
use super::opening::{LOCK, MANIFEST, lock, lock_at, read_manifest};

/// No release is called so.
pub(super) const EVICTED: &str = "evicted";

/// Asked before each step; an error stops the work there, as the end of the process would.
pub(super) type Step<'a> = &'a mut dyn FnMut() -> Result<(), StoreError>;

/// Takes a delivery out. That it is not there is no error.
///
/// # Errors
/// [`StoreError::InUse`] if somebody has it open; nothing has happened then. After any other error the rest goes at the next [`sweep`].
pub(super) fn evict(dir: &Path, (release_id, edition_id): Place, step: Step<'_>) -> Result<(), StoreError> {
    let root = Folder::existing(dir).doing("open", dir)?;
    let states = root.child(STATE_FOLDER, false).doing("open", &root.path_of(STATE_FOLDER))?;
    let (release_name, edition_name) = (release_id.to_string(), edition_id.to_string());
    let found = states.child(&release_name, false).and_then(|release| Ok((release.child(&edition_name, false)?, release)));
    let (state, release) = match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.doing("open", &states.path_of(&release_name))?,
    };
    let lock = lock_at(&release, &edition_name, &state)?;
    let evicted = states.child(EVICTED, true).doing("open", &states.path_of(EVICTED))?;
    let name = format!("{release_name}.{edition_name}");
    clear(&root, &evicted, &name, step)?;
    step()?;
    release.move_new(&edition_name, &evicted, &name).doing("rename", state.path())?;
    evicted.sync().doing("sync", evicted.path())?;
    step()?;
    // Other editions of the release may be there.
    let _ = states.remove_folder(&release_name);
    remove(&root, &evicted, &name, step)?;
    drop(lock);
    let _ = states.remove_folder(EVICTED);
    Ok(())
}

/// Removes what earlier processes have taken out and not removed.
pub(super) fn sweep(dir: &Path, step: Step<'_>) -> Result<(), StoreError> {
    let Ok(root) = Folder::existing(dir) else { return Ok(()) };
    let Ok(states) = root.child(STATE_FOLDER, false) else { return Ok(()) };
    let Ok(evicted) = states.child(EVICTED, false) else { return Ok(()) };
    for name in evicted.names().doing("list", evicted.path())? {
        clear(&root, &evicted, &name, step)?;
    }
    let _ = states.remove_folder(EVICTED);
    for name in states.names().doing("list", states.path())? {
        // A crash between the rename and this leaves it empty.
        let _ = name.parse::<protocol::ReleaseId>().is_ok() && states.remove_folder(&name).unwrap_or(false);
    }
    Ok(())
}

/// Removes what is left under a name, unless another process is about it.
fn clear(root: &Folder, evicted: &Folder, name: &str, step: Step<'_>) -> Result<(), StoreError> {
    let Ok(state) = evicted.child(name, false) else { return Ok(()) };
    match lock(&state) {
        Ok(_lock) => remove(root, evicted, name, step),
        Err(StoreError::InUse(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the files of a delivery that was taken out, the list of them, and its state. The lock goes last.
fn remove(root: &Folder, evicted: &Folder, name: &str, step: Step<'_>) -> Result<(), StoreError> {
    let state = evicted.child(name, false).doing("open", &evicted.path_of(name))?;
    remove_laid_out(root, &state, step)?;
    let names = state.names().doing("list", state.path())?;
    let first = [LAID, MANIFEST].into_iter().filter(|first| names.iter().any(|name| name == first));
    for file in first.chain(names.iter().map(String::as_str).filter(|name| ![LAID, MANIFEST, LOCK].contains(name))).chain([LOCK]) {
        step()?;
        state.remove(file).doing("remove", &state.path_of(file))?;
    }
    step()?;
    evicted.remove_folder(name).doing("remove", state.path())?;
    Ok(())
}

/// Removes the files that are as they were laid out, and the folders that are empty without them. What another delivery has laid out as well stays.
fn remove_laid_out(root: &Folder, state: &Folder, step: Step<'_>) -> Result<(), StoreError> {
    let laid = laid::read(state)?;
    let Some(manifest) = read_manifest(state).filter(|_| !laid.is_empty()) else { return Ok(()) };
    let _guard = laid::guard(root, true)?;
    let others = claims(root, &States::of(root)?)?;
    let mut folders = BTreeSet::new();
    for (path, _) in intact(root, &manifest, &laid).filter(|(path, _)| !others.contains_key(path)) {
        step()?;
        let (folder, name) = root.descend(&path, false).doing("open", &root.path_of(&path))?;
        match folder.remove(name) {
            // The person has taken away the right to do so: it is the person's.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(%error, path, "a file cannot be removed and is left");
            }
            other => other.doing("remove", &root.path_of(&path))?,
        }
    }
    for (below, index) in laid.keys() {
        let Some(entry) = manifest.files.get(*index) else { continue };
        let path = laid::path_of(below, &entry.path);
        folders.extend(path.match_indices('/').map(|(at, _)| path[..at].to_owned()));
    }
    // The deepest ones first: a name sorts before those that lie below it.
    for folder in folders.iter().rev() {
        if let Ok((parent, name)) = root.descend(folder, false) {
            let _ = parent.remove_folder(name);
        }
    }
    root.sync().doing("sync", root.path())
}
