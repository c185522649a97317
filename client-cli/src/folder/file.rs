//! Reading and replacing one small file. A secret one is kept from others by its mode, or locked by a [`Vault`]: a stick's file system may have no modes.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::vault::{NotSealed, Vault};
use crate::failure::{Failure, Outcome, while_doing};

/// What keeps a file from others.
#[derive(Debug, Clone, Copy)]
pub(super) enum Guard<'a> {
    /// Only its owner may read it.
    Mode,
    Locked(&'a Vault),
    /// It holds no secret.
    Open,
}

/// The file's value; `None` if there is no such file. `remedy` says what to do with a damaged one.
pub(super) fn read<T: DeserializeOwned>(path: &Path, guard: Guard<'_>, remedy: &str) -> Outcome<Option<T>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::Failed(format!("cannot read {}: {error}", path.display()))),
    };
    let describe = || format!("cannot read {}", path.display());
    if matches!(guard, Guard::Mode) && file.metadata().map_err(while_doing(describe()))?.mode() & 0o077 != 0 {
        return Err(Failure::Failed(format!("others may read {0}, which holds a secret: run `chmod 600 {0}`", path.display())));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    std::io::Read::read_to_end(&mut file, &mut bytes).map_err(while_doing(describe()))?;
    let damaged = |why: &dyn std::fmt::Display| Failure::Failed(format!("{} is damaged ({why}): {remedy}", path.display()));
    if let Guard::Locked(vault) = guard {
        bytes = vault.open(&name(path), &bytes).map_err(|NotSealed| damaged(&"it is not what was locked here"))?;
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(&error))
}

/// Replaces the file: after a crash it is the old one or the new one, never a part.
pub(super) fn write<T: Serialize>(path: &Path, value: &T, guard: Guard<'_>) -> Outcome<()> {
    let describe = || format!("cannot write {}", path.display());
    let text = serde_json::to_vec_pretty(value).map_err(|error| Failure::Failed(format!("{}: {error}", describe())))?;
    let mut bytes = Zeroizing::new(text);
    if let Guard::Locked(vault) = guard {
        bytes = Zeroizing::new(vault.seal(&name(path), &bytes)?);
    }
    // The folder's lock is held, so the name is this process's own; one left by a crash is overwritten.
    let temporary = path.with_extension("new");
    let replaced = replace(path, &temporary, &bytes, matches!(guard, Guard::Mode));
    if replaced.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    replaced.map_err(while_doing(describe()))
}

/// Removes the file for good; that there is none is as good.
pub(super) fn remove(path: &Path) -> Outcome<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(while_doing(format_args!("cannot remove {}", path.display()))(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn replace(path: &Path, temporary: &Path, bytes: &[u8], by_mode: bool) -> std::io::Result<()> {
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(temporary)?;
    if by_mode {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
