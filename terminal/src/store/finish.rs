//! The end of a delivery: the whole content is hashed, and its files get their names.
//!
//! Names are only ever taken when they are free. Where one is taken by something else, everything goes into a folder named after the edition instead;
//! a file that holds exactly what it should (from an earlier run or another release) is left as it is. What is put in place is noted in a list ([`laid`]),
//! just before it gets its name.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::atomic::AtomicBool;

use protocol::manifest::FileEntry;
use protocol::{Blake3, Bytes};

use super::claims::adopt;
use super::error::Doing;
use super::folder::{Folder, Open};
use super::opening::{Home, PART, go_on};
use super::source::LaidOut;
use super::{Finished, StoreError, laid, sparse};

/// Read and written at a time.
const BUFFER: usize = 1 << 20;
/// A file on its way from the part file to its place.
const FILE: &str = "file.part";
/// A directory of up to this many files is synced file by file; for more, one sync of the whole file system is faster.
const SYNC_EACH_MAX: usize = 256;
/// Hexadecimal digits of the edition's id that name the folder for a content whose own names are taken.
const FALLBACK_DIGITS: usize = 8;

/// Checks the content and lays it out. Can be repeated after an error, and after a crash at any point.
pub(super) fn run(home: &Home, cancelled: &AtomicBool) -> Result<(Finished, LaidOut), StoreError> {
    let part_path = home.state.path_of(PART);
    let part = home.state.open(PART, Open::Read).doing("open", &part_path)?;
    part.sync_all().doing("sync", &part_path)?;
    let manifest = home.files().manifest();
    if hash(&part, manifest.length.0, cancelled).map_err(|error| error.doing(home))? != manifest.blake3 {
        return Err(StoreError::WholeHash);
    }
    let _guard = laid::guard(&home.root, false)?;
    let fallback: String = home.edition.to_string().chars().take(FALLBACK_DIGITS).collect();
    for root in ["", fallback.as_str()] {
        let folder = match open_root(home, root) {
            Ok(folder) => folder,
            Err(error) if is_obstacle(&error) => continue,
            Err(error) => return Err(error).doing("open", &home.root.path_of(root)),
        };
        let placed = if manifest.directory {
            place_directory(home, &folder, root, &part, cancelled)
        } else {
            place_file(home, &folder, root, &part, cancelled)
        };
        if placed? {
            home.state.remove(PART).doing("remove", &part_path)?;
            return Ok((home.finished(root), LaidOut::new(folder)));
        }
    }
    Err(StoreError::Taken(home.finished(&fallback).path))
}

fn open_root(home: &Home, root: &str) -> io::Result<Folder> {
    if root.is_empty() { home.root.descend("x", false).map(|(folder, _)| folder) } else { home.root.child(root, true) }
}

/// A failed step of reading or copying, before it is known which path to name.
enum Interrupted {
    Io(io::Error),
    Store(StoreError),
}

impl Interrupted {
    fn doing(self, home: &Home) -> StoreError {
        match self {
            Self::Io(source) => StoreError::Io { action: "read", path: home.state.path_of(PART), source },
            Self::Store(error) => error,
        }
    }
}

impl From<io::Error> for Interrupted {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<StoreError> for Interrupted {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Calls `take` with the `length` bytes of `file` from `start` on, a buffer at a time, until it says `false`.
fn each_buffer(
    file: &File,
    start: u64,
    length: u64,
    cancelled: &AtomicBool,
    mut take: impl FnMut(u64, &[u8]) -> io::Result<bool>,
) -> Result<bool, Interrupted> {
    let (mut buffer, zeros) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut done = 0;
    while done < length {
        go_on(cancelled)?;
        let len = usize::try_from(length - done).unwrap_or(usize::MAX).min(BUFFER);
        let bytes = if sparse::is_hole(file, start + done, len as u64) {
            &zeros[..len]
        } else {
            file.read_exact_at(&mut buffer[..len], start + done)?;
            &buffer[..len]
        };
        if !take(done, bytes)? {
            return Ok(false);
        }
        done += len as u64;
    }
    Ok(true)
}

fn hash(file: &File, length: u64, cancelled: &AtomicBool) -> Result<Blake3, Interrupted> {
    let mut hasher = blake3::Hasher::new();
    each_buffer(file, 0, length, cancelled, |_, bytes| {
        hasher.update(bytes);
        Ok(true)
    })?;
    Ok(Blake3(*hasher.finalize().as_bytes()))
}

/// Whether `folder` has `entry`'s name with exactly the bytes of the part file from `start` on. `None` if the name is free.
fn compare(
    part: &File,
    start: u64,
    folder: &Folder,
    name: &str,
    entry: &FileEntry,
    cancelled: &AtomicBool,
) -> Result<Option<bool>, Interrupted> {
    let file = match folder.open(name, Open::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if is_obstacle(&error) || error.kind() == io::ErrorKind::PermissionDenied => return Ok(Some(false)),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.len() != entry.length.0 {
        return Ok(Some(false));
    }
    let mut other = vec![0; BUFFER];
    let same = each_buffer(part, start, entry.length.0, cancelled, |done, bytes| {
        let other = &mut other[..bytes.len()];
        match file.read_exact_at(other, done) {
            Ok(()) => Ok(other == bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    })?;
    Ok(Some(same))
}

/// A name on the way is a link, a file, a folder or a pipe where it should not be: the place is taken.
pub(super) fn is_obstacle(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), AlreadyExists | NotADirectory | IsADirectory | InvalidInput)
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// Gives the part file its name. `false` if it is taken.
fn place_file(home: &Home, root: &Folder, root_name: &str, part: &File, cancelled: &AtomicBool) -> Result<bool, StoreError> {
    let Some(entry) = home.files().manifest().files.first() else { return Ok(false) };
    let path = root.path_of(&entry.path);
    let (folder, name) = match root.descend(&entry.path, true) {
        Ok(found) => found,
        Err(error) if is_obstacle(&error) => return Ok(false),
        Err(error) => return Err(error).doing("make the folders of", &path),
    };
    if entry.executable {
        make_executable(part).doing("make executable", &path)?;
    }
    match compare(part, 0, &folder, name, entry, cancelled).map_err(|error| error.doing(home))? {
        Some(false) => return Ok(false),
        Some(true) => {
            adopt(home, root_name, &[0])?;
            home.write_complete(root_name)?;
        }
        None => {
            let note = |mut log: laid::Log| {
                log.note(root_name, 0, laid::Mark::of(&part.metadata()?))?;
                log.sync()
            };
            laid::Log::open(&home.state).and_then(note).doing("write", &home.state.path_of(laid::LAID))?;
            // Written first: a crash between the two leaves the part file, which then counts.
            home.write_complete(root_name)?;
            match home.state.move_new(PART, &folder, name) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                Err(error) => return Err(error).doing("rename the content to", &path),
            }
        }
    }
    folder.sync().doing("sync", &path)?;
    Ok(true)
}

/// Copies the files of a directory out of the part file. `false` if a name is taken.
fn place_directory(home: &Home, root: &Folder, root_name: &str, part: &File, cancelled: &AtomicBool) -> Result<bool, StoreError> {
    let Some(missing) = missing_files(home, root, part, cancelled)? else { return Ok(false) };
    let manifest = home.files().manifest();
    let length: u64 = missing.iter().map(|&index| manifest.files[index].length.0).sum();
    // What is a hole here stays one.
    let allocated = part.metadata().doing("measure", root.path())?.blocks().saturating_mul(512);
    let needed = length.min(allocated);
    let available = root.room().doing("measure", root.path())?;
    if needed > available.0 {
        return Err(StoreError::NoRoom { path: root.path().to_owned(), needed: Bytes(needed), available });
    }
    let present: Vec<usize> = (0..manifest.files.len()).filter(|index| missing.binary_search(index).is_err()).collect();
    adopt(home, root_name, &present)?;
    let sync_each = missing.len() <= SYNC_EACH_MAX;
    let mut log = laid::Log::open(&home.state).doing("write", &home.state.path_of(laid::LAID))?;
    for &index in &missing {
        go_on(cancelled)?;
        let note = |file: &File| log.note(root_name, index, laid::Mark::of(&file.metadata()?));
        copy_out(home, root, part, (index, note), sync_each, cancelled)?;
    }
    log.sync().doing("sync", &home.state.path_of(laid::LAID))?;
    if !sync_each {
        root.sync_all().doing("sync", root.path())?;
    }
    home.write_complete(root_name)?;
    Ok(true)
}

/// The files that are not in their places yet; `None` if a name is taken by something else.
fn missing_files(home: &Home, root: &Folder, part: &File, cancelled: &AtomicBool) -> Result<Option<Vec<usize>>, StoreError> {
    let mut missing = Vec::new();
    for (index, entry) in home.files().manifest().files.iter().enumerate() {
        let found = match root.descend(&entry.path, false) {
            Ok((folder, name)) => {
                compare(part, home.files().file_start(index), &folder, name, entry, cancelled).map_err(|error| error.doing(home))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if is_obstacle(&error) => Some(false),
            Err(error) => return Err(error).doing("look for", &root.path_of(&entry.path)),
        };
        match found {
            Some(true) => {}
            Some(false) => return Ok(None),
            None => missing.push(index),
        }
    }
    Ok(Some(missing))
}

/// Copies one file out of the part file, and has it noted before it gets its name.
fn copy_out(
    home: &Home,
    root: &Folder,
    part: &File,
    (index, note): (usize, impl FnOnce(&File) -> io::Result<()>),
    sync: bool,
    cancelled: &AtomicBool,
) -> Result<(), StoreError> {
    let entry = &home.files().manifest().files[index];
    let (path, temporary) = (root.path_of(&entry.path), home.state.path_of(FILE));
    let file = home.state.open(FILE, Open::Fresh).doing("open", &temporary)?;
    file.set_len(entry.length.0).doing("make", &temporary)?;
    let copied = each_buffer(part, home.files().file_start(index), entry.length.0, cancelled, |done, bytes| {
        sparse::write(&file, done, bytes)?;
        Ok(true)
    });
    match copied {
        Ok(_) => {}
        Err(Interrupted::Io(error)) => {
            // The room that the half of a file takes up is needed elsewhere, above all when the disk is full.
            let _ = home.state.remove(FILE);
            return Err(error).doing("write", &path);
        }
        Err(Interrupted::Store(error)) => return Err(error),
    }
    if entry.executable {
        make_executable(&file).doing("make executable", &path)?;
    }
    if sync {
        file.sync_data().doing("sync", &path)?;
    }
    let (folder, name) = root.descend(&entry.path, true).doing("make the folders of", &path)?;
    note(&file).doing("write", &home.state.path_of(laid::LAID))?;
    match home.state.move_new(FILE, &folder, name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(StoreError::Taken(path)),
        other => other.doing("rename a file to", &path),
    }
}

/// Whoever may read the file may run it.
fn make_executable(file: &File) -> io::Result<()> {
    let mut permissions = file.metadata()?.permissions();
    let mode = permissions.mode();
    permissions.set_mode(mode | (mode & 0o444) >> 2);
    file.set_permissions(permissions)
}
