//! Reading and replacing one small secret file.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Failure, Outcome, while_doing};

/// The file's value; `None` if there is no such file. `remedy` says what to do with a damaged one.
pub(super) fn read<T: DeserializeOwned>(path: &Path, remedy: &str) -> Outcome<Option<T>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::Failed(format!("cannot read {}: {error}", path.display()))),
    };
    let describe = || format!("cannot read {}", path.display());
    if file.metadata().map_err(while_doing(describe()))?.mode() & 0o077 != 0 {
        return Err(Failure::Failed(format!("others may read {0}, which holds a secret: run `chmod 600 {0}`", path.display())));
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut file, &mut text).map_err(while_doing(describe()))?;
    serde_json::from_str(&text).map(Some).map_err(|error| Failure::Failed(format!("{} is damaged ({error}): {remedy}", path.display())))
}

/// Replaces the file: after a crash it is the old one or the new one, never a part.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Outcome<()> {
    let describe = || format!("cannot write {}", path.display());
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(format!("{}: {error}", describe())))?;
    // The folder's lock is held, so the name is this process's own; one left by a crash is overwritten.
    let temporary = path.with_extension("new");
    let replaced = replace(path, &temporary, text.as_bytes());
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

fn replace(path: &Path, temporary: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(temporary)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
