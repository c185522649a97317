//! The read-only area: what a kit runs from, and how a change of it is found.
//!
//! ```text
//! spillway         the program
//! kit.json         which kit this is, of which service
//! files.json       every other file: path, length, BLAKE3
//! signature.json   the service's signature over the hash of files.json
//! ```
//!
//! The key that the signature is checked with lies behind the passphrase too: whoever writes another list and signs it with a key of his own is found out.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use protocol::rest::{Kit as Registered, files_bytes};
use protocol::{Blake3, Bytes, KitId, PublicKey, Signature, TerminalId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome, while_doing};
use crate::folder::KitState;

const PROGRAM: &str = "spillway";
const IDENTITY: &str = "kit.json";
const FILES: &str = "files.json";
const SIGNATURE: &str = "signature.json";
/// Far deeper than anything that is put here.
const DEPTH_MAX: usize = 16;
/// A list is read whole; one of this length names tens of thousands of files.
const LIST_BYTES_MAX: u64 = 8 << 20;

/// Which kit this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub kit_id: KitId,
    pub terminal_id: TerminalId,
    pub server: String,
    /// The program's version.
    pub version: String,
}

/// One file as it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Listed {
    path: String,
    length: Bytes,
    blake3: Blake3,
}

#[derive(Debug, Serialize, Deserialize)]
struct Signed {
    public_key: PublicKey,
    signature: Signature,
}

/// Puts the program and the identity into the directory. Answers what is to be signed.
pub(super) fn make(dir: &Path, identity: &Identity, program: &Path) -> Outcome<Blake3> {
    let cannot = |name: &str| while_doing(format!("cannot write {}", dir.join(name).display()));
    let mut source = File::open(program).map_err(while_doing(format_args!("cannot read {}", program.display())))?;
    put(&dir.join(PROGRAM), 0o755, |file| io::copy(&mut source, file).map(drop)).map_err(cannot(PROGRAM))?;
    put(&dir.join(IDENTITY), 0o644, |file| file.write_all(&json(identity)?)).map_err(cannot(IDENTITY))?;
    let list = json(&listed(dir)?).map_err(cannot(FILES))?;
    put(&dir.join(FILES), 0o644, |file| file.write_all(&list)).map_err(cannot(FILES))?;
    Ok(Blake3::of(&list))
}

/// Adds the signature: the area is whole.
pub(super) fn sign(dir: &Path, kit: &Registered) -> Outcome<()> {
    let signed = Signed { public_key: kit.public_key, signature: kit.files_signature };
    let path = dir.join(SIGNATURE);
    put(&path, 0o644, |file| file.write_all(&json(&signed)?)).map_err(while_doing(format_args!("cannot write {}", path.display())))
}

/// The identity, if the area has exactly the files that were signed for this kit.
pub(super) fn checked(dir: &Path, state: &KitState) -> Outcome<Identity> {
    let changed = |what: &str| {
        Failure::Failed(format!(
            "{} was changed ({what}): it is not used; make a new kit with `spillway kit create`, with a program that you trust",
            dir.display()
        ))
    };
    let list = read(&dir.join(FILES)).ok_or_else(|| changed("it has no list of its files"))?;
    let signed: Signed = parsed(&dir.join(SIGNATURE)).ok_or_else(|| changed("it has no signature"))?;
    let is_signed = signed.public_key == state.public_key
        && state.public_key.verifies(&files_bytes(state.kit_id, &Blake3::of(&list)), &signed.signature);
    if !is_signed {
        return Err(changed("the list of its files is not signed by the service"));
    }
    let expected: Vec<Listed> = serde_json::from_slice(&list).map_err(|_| changed("the list of its files is damaged"))?;
    let found = listed(dir)?;
    if let Some(other) = expected.iter().find(|file| !found.contains(file)) {
        return Err(changed(&format!("{} is not as it was", other.path)));
    }
    if let Some(other) = found.iter().find(|file| !expected.contains(file)) {
        return Err(changed(&format!("{} was added", other.path)));
    }
    let identity: Identity = parsed(&dir.join(IDENTITY)).ok_or_else(|| changed("it does not say which kit it is"))?;
    if identity.kit_id != state.kit_id || identity.terminal_id != state.terminal_id {
        return Err(changed("it is another kit's"));
    }
    Ok(identity)
}

/// Every file below but the list and its signature, sorted. What is neither file nor directory counts as a file that is not as it was.
fn listed(dir: &Path) -> Outcome<Vec<Listed>> {
    let mut files = Vec::new();
    walk(dir, "", 0, &mut files).map_err(while_doing(format_args!("cannot read {}", dir.display())))?;
    files.retain(|file| file.path != FILES && file.path != SIGNATURE);
    files.sort();
    Ok(files)
}

fn walk(dir: &Path, prefix: &str, depth: usize, files: &mut Vec<Listed>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let found = entry.metadata()?;
        if found.is_dir() && depth < DEPTH_MAX {
            walk(&entry.path(), &format!("{path}/"), depth + 1, files)?;
        } else if found.is_file() {
            let mut hasher = blake3::Hasher::new();
            io::copy(&mut File::open(entry.path())?, &mut hasher)?;
            files.push(Listed { path, length: Bytes(found.len()), blake3: Blake3(hasher.finalize().into()) });
        } else {
            files.push(Listed { path, length: Bytes(0), blake3: Blake3([0; 32]) });
        }
    }
    Ok(())
}

fn parsed<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read(path)?).ok()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path).ok()?, LIST_BYTES_MAX), &mut bytes).ok()?;
    Some(bytes)
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(io::Error::other)
}

/// A new file, on the disk when this returns. Its mode is given as it is made: a stick's file system may not let it be changed.
fn put(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = File::options().create_new(true).write(true).mode(mode).open(path)?;
    write(&mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
