//! Which files a delivery has put in their places, and how it left them: nothing else is ever removed again.
//!
//! ```text
//! <folder, or -> <file of the manifest> <inode> <seconds> <nanoseconds>     a line per file, appended just before the file gets its name
//! ```
//!
//! A file belongs to the person as soon as it is not as it was left: it has another length, another time of change, another inode (it was replaced, or
//! copied back), or a second name. It is not counted then and not removed. A line that was cut off by a crash says nothing.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

use protocol::manifest::STATE_FOLDER;

use super::StoreError;
use super::error::Doing;
use super::folder::{Folder, Open};

pub(super) const LAID: &str = "laid";
/// Beside the releases' folders.
const GUARD: &str = "layout.lock";
/// In place of the folder's name for the user's folder itself.
const ROOT: &str = "-";
/// A line of fifty bytes for each file of the largest manifest.
const LAID_BYTES_MAX: u64 = 1 << 28;

/// How a file was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    inode: u64,
    modified: (i64, i64),
}

impl Mark {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { inode: metadata.ino(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }

    /// The file, if it is as it was left, with its metadata.
    pub(super) fn find(&self, root: &Folder, path: &str, length: u64) -> Option<Metadata> {
        let (folder, name) = root.descend(path, false).ok()?;
        let metadata = folder.open(name, Open::Read).ok()?.metadata().ok()?;
        (Self::of(&metadata) == *self && metadata.len() == length && metadata.nlink() == 1).then_some(metadata)
    }
}

/// What a delivery has laid out: by the folder that its names begin in (empty for the user's own), and by the file of its manifest.
pub(super) type Laid = BTreeMap<(String, usize), Mark>;

/// Writes the list.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
}

impl Log {
    pub(super) fn open(state: &Folder) -> io::Result<Self> {
        let mut file = state.open(LAID, Open::Write)?;
        let end = file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if end > 0 {
            file.seek(SeekFrom::Start(end - 1))?;
            file.read_exact(&mut last)?;
        }
        let mut log = Self { file };
        if last != *b"\n" {
            // The rest of a line that a crash has cut off.
            log.file.write_all(b"\n")?;
        }
        Ok(log)
    }

    /// Notes how a file is left.
    pub(super) fn note(&mut self, root: &str, index: usize, mark: Mark) -> io::Result<()> {
        let Mark { inode, modified: (seconds, nanoseconds) } = mark;
        let root = if root.is_empty() { ROOT } else { root };
        self.file.write_all(format!("{root} {index} {inode} {seconds} {nanoseconds}\n").as_bytes())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// What the list says; of a file that was noted twice the later line. Nothing if there is no list.
///
/// # Errors
/// It cannot be read: what was laid out is not known.
pub(super) fn read(state: &Folder) -> Result<Laid, StoreError> {
    let mut text = Vec::new();
    match state.open(LAID, Open::Read).and_then(|file| file.take(LAID_BYTES_MAX).read_to_end(&mut text)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).doing("read", &state.path_of(LAID)),
        Ok(_) | Err(_) => Ok(text.split_inclusive(|byte| *byte == b'\n').filter_map(parse).collect()),
    }
}

fn parse(line: &[u8]) -> Option<((String, usize), Mark)> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let mut fields = line.split(' ');
    let root = fields.next()?;
    let is_name = root == ROOT || (!root.is_empty() && root.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let index = fields.next()?.parse().ok()?;
    let inode = fields.next()?.parse().ok()?;
    let modified = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let root = if root == ROOT { String::new() } else { root.to_owned() };
    (is_name && fields.next().is_none()).then_some(((root, index), Mark { inode, modified }))
}

/// Held by all who look at files and lay some out, and by one alone who removes some: so that nobody counts on a file that is about to go. It ends with
/// the process.
pub(super) fn guard(root: &Folder, alone: bool) -> Result<File, StoreError> {
    let states = root.child(STATE_FOLDER, true).doing("open", &root.path_of(STATE_FOLDER))?;
    let path = states.path_of(GUARD);
    let guard = states.open(GUARD, Open::Write).doing("open", &path)?;
    let locked = if alone { guard.lock() } else { guard.lock_shared() };
    locked.doing("lock", &path)?;
    Ok(guard)
}

/// A path below the user's folder.
pub(super) fn path_of(root: &str, path: &str) -> String {
    if root.is_empty() { path.to_owned() } else { format!("{root}/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(folder: &Folder) -> Vec<(String, usize)> {
        read(folder).unwrap().into_keys().collect()
    }

    #[test]
    fn a_list_that_was_cut_off_anywhere_keeps_its_whole_lines_and_is_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::existing(dir.path()).unwrap();
        assert!(noted(&folder).is_empty());
        let mark = Mark::of(&folder.open("file", Open::Fresh).unwrap().metadata().unwrap());
        let mut log = Log::open(&folder).unwrap();
        log.note("", 0, mark).unwrap();
        log.note("0123abcd", 7, mark).unwrap();
        log.sync().unwrap();
        assert_eq!(noted(&folder), [(String::new(), 0), ("0123abcd".to_owned(), 7)]);
        let full = std::fs::read(dir.path().join(LAID)).unwrap();
        let first = full.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in 0..full.len() {
            std::fs::write(dir.path().join(LAID), &full[..cut]).unwrap();
            assert_eq!(noted(&folder).len(), usize::from(cut >= first), "cut at {cut}");
            Log::open(&folder).unwrap().note("", 9, mark).unwrap();
            assert!(noted(&folder).contains(&(String::new(), 9)), "cut at {cut}");
        }
    }

    #[test]
    fn lines_that_nobody_wrote_say_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::existing(dir.path()).unwrap();
        for bad in ["", "- 0 1 2", "- 0 1 2 3 4", "../x 0 1 2 3", "a/b 0 1 2 3", " 0 1 2 3", "- x 1 2 3", "- 0 1 2 3\r"] {
            std::fs::write(dir.path().join(LAID), format!("{bad}\n")).unwrap();
            assert!(noted(&folder).is_empty(), "{bad:?}");
        }
        std::fs::write(dir.path().join(LAID), [&b"\xff 0 1 2 3\n"[..], b"- 4 1 2 3\n"].concat()).unwrap();
        assert_eq!(noted(&folder), [(String::new(), 4)]);
        std::fs::remove_file(dir.path().join(LAID)).unwrap();
        std::fs::create_dir(dir.path().join(LAID)).unwrap();
        let refused = read(&folder).unwrap_err();
        assert!(refused.to_string().contains(LAID), "a list that cannot be read is no empty one: {refused}");
    }
}
