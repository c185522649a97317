//! Where things are: chunks in the edition's byte stream, and the byte stream in the files.

use std::sync::Arc;

use protocol::frame::CHUNK_MAX;
use protocol::manifest::{ChunkEntry, Manifest};

use super::sparse::ZeroHashes;

/// How long the chunks of a long run of zeros are: the longest by content, or those of fixed length.
const ZERO_LENGTHS: [u32; 2] = [CHUNK_MAX, 64 << 10];

/// Offsets of an edition, computed once: 8 bytes per chunk and per file.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    manifest: Arc<Manifest>,
    /// Where each chunk starts.
    chunks: Arc<[u64]>,
    /// Where each file starts.
    files: Arc<[u64]>,
}

/// A run of bytes within one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) len: usize,
}

fn starts(lengths: impl Iterator<Item = u64>) -> Arc<[u64]> {
    lengths
        .scan(0, |sum, length| {
            let start = *sum;
            *sum += length;
            Some(start)
        })
        .collect()
}

/// Bytes that take room on a disk: all but long runs of zeros.
pub(super) fn data_bytes(manifest: &Manifest) -> u64 {
    let mut zeros = ZeroHashes::default();
    let is_data = |entry: &&ChunkEntry| !ZERO_LENGTHS.contains(&entry.length) || entry.hash != zeros.of(entry.length);
    manifest.chunks.iter().filter(is_data).map(|entry| u64::from(entry.length)).sum()
}

impl Layout {
    pub(super) fn new(manifest: Arc<Manifest>) -> Self {
        let chunks = starts(manifest.chunks.iter().map(|chunk| u64::from(chunk.length)));
        let files = starts(manifest.files.iter().map(|file| file.length.0));
        Self { manifest, chunks, files }
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A chunk's place in the byte stream.
    pub(super) fn chunk(&self, chunk: u32) -> Option<(u64, ChunkEntry)> {
        let index = chunk as usize;
        Some((*self.chunks.get(index)?, *self.manifest.chunks.get(index)?))
    }

    /// Where a file starts in the byte stream.
    pub(super) fn file_start(&self, file: usize) -> u64 {
        self.files.get(file).copied().unwrap_or(self.manifest.length.0)
    }

    /// The runs of files that make up `len` bytes of the stream from `offset` on.
    pub(super) fn pieces(&self, offset: u64, len: usize) -> Vec<Piece> {
        let mut file = self.files.partition_point(|start| *start <= offset).saturating_sub(1);
        let (mut at, mut left) = (offset, len);
        let mut pieces = Vec::new();
        while left > 0 && file < self.files.len() {
            let inside = at - self.files[file];
            let available = self.manifest.files[file].length.0.saturating_sub(inside);
            let take = usize::try_from(available).unwrap_or(usize::MAX).min(left);
            if take > 0 {
                pieces.push(Piece { file, offset: inside, len: take });
            }
            (at, left, file) = (at + take as u64, left - take, file + 1);
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::manifest::FileEntry;
    use protocol::{Blake3, Bytes};

    fn layout(lengths: &[u64]) -> Layout {
        let file = |(index, length): (usize, &u64)| FileEntry { path: index.to_string(), length: Bytes(*length), executable: false };
        let length = lengths.iter().sum();
        let chunk = |length| ChunkEntry { length, hash: Blake3([0; 32]) };
        Layout::new(Arc::new(Manifest {
            directory: true,
            length: Bytes(length),
            blake3: Blake3([0; 32]),
            files: lengths.iter().enumerate().map(file).collect(),
            chunks: vec![chunk(4), chunk(u32::try_from(length).unwrap() - 4)],
        }))
    }

    #[test]
    fn a_run_of_the_stream_is_cut_at_the_files_borders() {
        let layout = layout(&[3, 0, 2, 5]);
        assert_eq!(
            layout.pieces(1, 6),
            [Piece { file: 0, offset: 1, len: 2 }, Piece { file: 2, offset: 0, len: 2 }, Piece { file: 3, offset: 0, len: 2 }]
        );
        assert_eq!(layout.pieces(3, 1), [Piece { file: 2, offset: 0, len: 1 }], "an empty file holds nothing");
        assert_eq!(layout.pieces(9, 1), [Piece { file: 3, offset: 4, len: 1 }]);
        assert_eq!(layout.pieces(9, 5).iter().map(|piece| piece.len).sum::<usize>(), 1, "nothing lies behind the end");
    }

    #[test]
    fn chunks_lie_one_behind_the_other() {
        let layout = layout(&[3, 0, 2, 5]);
        assert_eq!(layout.chunk(0).unwrap().0, 0);
        assert_eq!(layout.chunk(1).unwrap().0, 4);
        assert!(layout.chunk(2).is_none());
        assert_eq!((layout.file_start(1), layout.file_start(2), layout.file_start(3)), (3, 3, 5));
    }
}
