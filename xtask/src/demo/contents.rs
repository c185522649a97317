//! Files and directories as they are published and received: their length, and whether two of them are the same.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use protocol::manifest::STATE_FOLDER;
use protocol::{Blake3, Bytes};

use crate::failure::Failure;

/// One file of a tree: path below the root (empty for a single file), length, hash, executable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileFact {
    pub(super) path: String,
    pub(super) length: u64,
    pub(super) blake3: Blake3,
    pub(super) executable: bool,
}

/// The bytes of a file, or of all files below a directory.
pub(super) fn length(path: &Path) -> Result<Bytes, Failure> {
    let mut total = 0;
    for (file, _) in files(path)? {
        total += fs::metadata(&file).map_err(|error| Failure::file("read", &file, &error))?.len();
    }
    Ok(Bytes(total))
}

/// Every file below `path` with its hash, sorted by path.
pub(super) fn facts(path: &Path) -> Result<Vec<FileFact>, Failure> {
    let single = path.is_file();
    let facts = files(path)?.into_iter().map(|(file, name)| {
        let metadata = fs::metadata(&file).map_err(|error| Failure::file("read", &file, &error))?;
        let executable = !single && metadata.permissions().mode() & 0o111 != 0;
        let name = if single { String::new() } else { name };
        Ok(FileFact { path: name, length: metadata.len(), blake3: hash(&file)?, executable })
    });
    facts.collect()
}

/// The hash of one file as it lies on the disk.
pub(crate) fn hash(file: &Path) -> Result<Blake3, Failure> {
    let mut source = fs::File::open(file).map_err(|error| Failure::file("open", file, &error))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match source.read(&mut buffer).map_err(|error| Failure::file("read", file, &error))? {
            0 => return Ok(Blake3(*hasher.finalize().as_bytes())),
            count => hasher.update(&buffer[..count]),
        };
    }
}

fn files(root: &Path) -> Result<Vec<(PathBuf, String)>, Failure> {
    if root.is_file() {
        return Ok(vec![(root.to_owned(), String::new())]);
    }
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| Failure::file("read", &folder, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| Failure::file("read", &folder, &error))?.path();
            if path == root.join(STATE_FOLDER) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                found.push((path, name));
            }
        }
    }
    found.sort_by(|left, right| left.1.cmp(&right.1));
    Ok(found)
}
