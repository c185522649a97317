//! The manifest of an edition: how its bytes are cut into chunks and laid out as files. Its BLAKE3 hash is the edition's id.
//!
//! An edition's byte stream is its files one after the other in the manifest's order. Layout, little-endian:
//!
//! ```text
//! "SPILLWAY-MANIFEST-1\n" | directory u8 | length u64 | blake3(32) | files u32 | { path_len u16 | path | length u64 | executable u8 }… | chunks u32 | { length u32 | blake3(32) }…
//! ```

use crate::frame::CHUNK_MAX;
use crate::ids::{Blake3, EditionId};
use crate::units::Bytes;
use crate::wire::{DecodeError, Reader, Writer};

const MAGIC: &[u8; 20] = b"SPILLWAY-MANIFEST-1\n";
/// Longest path of a file within an edition, in bytes: what common file systems take.
pub const PATH_MAX: usize = 1024;
/// Most files in an edition, so that a manifest stays small enough to be read whole.
pub const FILES_MAX: usize = 100_000;
/// Most chunks in an edition: 64 GiB at 64 KiB a chunk, a manifest of 36 MiB.
pub const CHUNKS_MAX: usize = 1 << 20;
/// An encoded chunk: its length and its hash.
const CHUNK_ENTRY_LEN: usize = 4 + 32;
/// Chunks in a piece of the encoding: 36 KiB.
const PIECE_CHUNKS: usize = 1024;
/// Files in a piece of the encoding: at most 65 KiB.
const PIECE_FILES: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative, with `/` between components, without `.` and `..`.
    pub path: String,
    pub length: Bytes,
    pub executable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// 1 to [`CHUNK_MAX`] bytes.
    pub length: u32,
    pub hash: Blake3,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Whether the edition is a directory; else it is exactly one file.
    pub directory: bool,
    pub length: Bytes,
    /// Of the whole byte stream; for a single file the file's own hash.
    pub blake3: Blake3,
    pub files: Vec<FileEntry>,
    pub chunks: Vec<ChunkEntry>,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest cannot be read")]
    Decode(#[from] DecodeError),
    #[error("an edition must have at least one byte")]
    Empty,
    #[error("the path {0:?} is not allowed; use a relative path of plain names joined by '/'")]
    Path(String),
    #[error("the path {0:?} stands twice, or is a file and a folder at once")]
    DuplicatePath(String),
    #[error("the files add up to {files} bytes and the chunks to {chunks}, not to the stated {stated}")]
    Length { files: u64, chunks: u64, stated: u64 },
    #[error("chunk {0} has a length outside 1..={CHUNK_MAX}")]
    ChunkLength(usize),
    #[error("{0} are too many for one edition")]
    TooMany(&'static str),
}

/// Where terminals keep their own files beside what they receive; no file of an edition may lie in it.
pub const STATE_FOLDER: &str = ".spillway";

/// Whether `path` may be written below a folder of the receiver's choosing: it can never leave that folder.
pub fn is_safe_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= PATH_MAX
        && !path.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case(STATE_FOLDER))
        && !path.chars().any(|character| character.is_control() || character == '\\')
        && path.split('/').all(|name| !name.is_empty() && name != "." && name != ".." && name.len() <= 255 && !name.contains(':'))
}

/// Checks a file layout: safe, distinct paths, none of which is also a folder of another.
pub fn check_layout(files: &[FileEntry]) -> Result<(), ManifestError> {
    if files.len() > FILES_MAX {
        return Err(ManifestError::TooMany("files"));
    }
    if let Some(file) = files.iter().find(|file| !is_safe_path(&file.path)) {
        return Err(ManifestError::Path(file.path.clone()));
    }
    let mut paths: std::collections::BTreeSet<&str> = std::collections::BTreeSet::new();
    for file in files {
        if !paths.insert(&file.path) {
            return Err(ManifestError::DuplicatePath(file.path.clone()));
        }
    }
    for file in files {
        let mut folder = file.path.as_str();
        while let Some((parent, _)) = folder.rsplit_once('/') {
            if paths.contains(parent) {
                return Err(ManifestError::DuplicatePath(parent.to_owned()));
            }
            folder = parent;
        }
    }
    Ok(())
}

impl Manifest {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        self.pieces().for_each(|piece| bytes.extend(piece));
        bytes
    }

    /// What [`Self::encode`] gives, some tens of KiB at a time: an edition of a million chunks has 36 MB of it.
    pub fn pieces(&self) -> impl Iterator<Item = Vec<u8>> {
        let count = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
        let head = Writer::with_capacity(64).raw(MAGIC).u8(u8::from(self.directory)).u64(self.length.0).raw(&self.blake3.0);
        let files = self.files.chunks(PIECE_FILES).map(|files| {
            let file = |piece: Writer, file: &FileEntry| {
                let path_len = u16::try_from(file.path.len()).unwrap_or(u16::MAX);
                piece.u16(path_len).raw(file.path.as_bytes()).u64(file.length.0).u8(u8::from(file.executable))
            };
            files.iter().fold(Writer::with_capacity(files.len() * 64), file).finish()
        });
        let chunks = self.chunks.chunks(PIECE_CHUNKS).map(|chunks| {
            let chunk = |piece: Writer, chunk: &ChunkEntry| piece.u32(chunk.length).raw(&chunk.hash.0);
            chunks.iter().fold(Writer::with_capacity(chunks.len() * CHUNK_ENTRY_LEN), chunk).finish()
        });
        let head = std::iter::once(head.u32(count(self.files.len())).finish());
        let chunk_count = std::iter::once(Writer::with_capacity(4).u32(count(self.chunks.len())).finish());
        head.chain(files).chain(chunk_count).chain(chunks)
    }

    /// How many bytes [`Self::encode`] gives.
    pub fn encoded_len(&self) -> usize {
        let files: usize = self.files.iter().map(|file| 2 + file.path.len() + 9).sum();
        MAGIC.len() + 1 + 8 + 32 + 4 + files + 4 + self.chunks.len() * CHUNK_ENTRY_LEN
    }

    /// Reads and checks a manifest: whatever it says, the receiver can act on it safely.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest = Self::read(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads a manifest whose parts need not agree with each other yet.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut reader = Reader::new(bytes);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(DecodeError::OutOfRange("magic").into());
        }
        let directory = reader.u8()? == 1;
        let (length, blake3) = (Bytes(reader.u64()?), Blake3(reader.array()?));
        let file_count = reader.u32()? as usize;
        if file_count > FILES_MAX {
            return Err(ManifestError::TooMany("files"));
        }
        let mut files = Vec::with_capacity(file_count.min(1024));
        for _ in 0..file_count {
            let path_len = usize::from(reader.u16()?);
            let path = std::str::from_utf8(reader.take(path_len)?).map_err(|_| DecodeError::OutOfRange("path"))?.to_owned();
            files.push(FileEntry { path, length: Bytes(reader.u64()?), executable: reader.u8()? == 1 });
        }
        let chunk_count = reader.u32()? as usize;
        if chunk_count > CHUNKS_MAX {
            return Err(ManifestError::TooMany("chunks"));
        }
        let mut chunks = Vec::with_capacity(chunk_count.min(reader.remaining() / CHUNK_ENTRY_LEN));
        for _ in 0..chunk_count {
            chunks.push(ChunkEntry { length: reader.u32()?, hash: Blake3(reader.array()?) });
        }
        reader.end()?;
        Ok(Self { directory, length, blake3, files, chunks })
    }

    /// Whether the parts agree with each other.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.length.0 == 0 || self.chunks.is_empty() {
            return Err(ManifestError::Empty);
        }
        check_layout(&self.files)?;
        if !self.directory && self.files.len() != 1 {
            return Err(ManifestError::TooMany("files"));
        }
        if self.chunks.len() > CHUNKS_MAX {
            return Err(ManifestError::TooMany("chunks"));
        }
        if let Some(index) = self.chunks.iter().position(|chunk| chunk.length == 0 || chunk.length > CHUNK_MAX) {
            return Err(ManifestError::ChunkLength(index));
        }
        let files = self.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.length.0)).unwrap_or(u64::MAX);
        let chunks = self.chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        if files != self.length.0 || chunks != self.length.0 {
            return Err(ManifestError::Length { files, chunks, stated: self.length.0 });
        }
        Ok(())
    }

    pub fn edition_id(&self) -> EditionId {
        let mut hasher = blake3::Hasher::new();
        self.pieces().for_each(|piece| _ = hasher.update(&piece));
        EditionId(*hasher.finalize().as_bytes())
    }

    /// The number of chunks. Never more than [`CHUNKS_MAX`] in a checked manifest.
    pub fn chunk_count(&self) -> u32 {
        u32::try_from(self.chunks.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, length: u64) -> FileEntry {
        FileEntry { path: path.into(), length: Bytes(length), executable: false }
    }

    fn manifest() -> Manifest {
        Manifest {
            directory: true,
            length: Bytes(70_000),
            blake3: Blake3([1; 32]),
            files: vec![file("a/b", 69_999), file("a/empty", 0), file("c", 1)],
            chunks: vec![ChunkEntry { length: 65_536, hash: Blake3([2; 32]) }, ChunkEntry { length: 4_464, hash: Blake3([3; 32]) }],
        }
    }

    #[test]
    fn a_manifest_of_many_pieces_is_the_same_in_one() {
        let files: Vec<_> = (0..2 * PIECE_FILES as u64 + 1).map(|number| file(&format!("{number}"), 1 + number)).collect();
        let length = files.iter().map(|file| file.length.0).sum();
        let mut chunks = vec![ChunkEntry { length: 1, hash: Blake3([7; 32]) }; 2 * PIECE_CHUNKS + 5];
        chunks[3] = ChunkEntry { length: u32::try_from(length - (chunks.len() as u64 - 1)).unwrap(), hash: Blake3([8; 32]) };
        let manifest = Manifest { length: Bytes(length), files, chunks, ..manifest() };
        let bytes = manifest.encode();
        assert_eq!((manifest.pieces().count(), bytes.len()), (1 + 3 + 1 + 3, manifest.encoded_len()));
        assert!(manifest.pieces().all(|piece| piece.len() <= 64 << 10));
        assert_eq!(manifest.edition_id(), EditionId(*blake3::hash(&bytes).as_bytes()));
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    }

    #[test]
    fn a_manifest_survives_the_wire_and_names_its_edition() {
        let manifest = manifest();
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        assert_eq!(manifest.edition_id(), EditionId(*blake3::hash(&bytes).as_bytes()));
    }

    #[test]
    fn a_path_that_could_leave_its_folder_is_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\\b", "C:/x", "a\0b", "a\nb", ".spillway/x", ".Spillway"] {
            assert!(!is_safe_path(bad), "{bad:?} was accepted");
        }
        for good in ["a", "a/b.txt", "données/été.bin", "..a/b..", "...x"] {
            assert!(is_safe_path(good), "{good:?} was refused");
        }
    }

    #[test]
    fn a_file_that_is_also_a_folder_is_refused() {
        assert_eq!(check_layout(&[file("a", 1), file("a/b", 1)]), Err(ManifestError::DuplicatePath("a".into())));
        assert_eq!(check_layout(&[file("a", 1), file("a.b", 1), file("a/b", 1)]), Err(ManifestError::DuplicatePath("a".into())));
        assert_eq!(check_layout(&[file("a", 1), file("a", 1)]), Err(ManifestError::DuplicatePath("a".into())));
    }

    #[test]
    fn sums_that_disagree_and_cut_texts_are_refused() {
        let mut wrong = manifest();
        wrong.length = Bytes(70_001);
        assert!(matches!(Manifest::decode(&wrong.encode()), Err(ManifestError::Length { .. })));
        let mut long = manifest();
        long.chunks[0].length = CHUNK_MAX + 1;
        assert_eq!(Manifest::decode(&long.encode()), Err(ManifestError::ChunkLength(0)));
        let bytes = manifest().encode();
        for cut in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..cut]).is_err());
        }
    }
}
