//! The edition that is released: random chunks, and their manifest.

use std::sync::Arc;

use bytes::Bytes;
use protocol::Blake3;
use protocol::manifest::{ChunkEntry, FileEntry, Manifest};

use crate::rng::{Purpose, Rng};

#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) chunks: Vec<Bytes>,
    pub(crate) manifest: Arc<Manifest>,
}

impl Content {
    /// Chunks of these lengths in bytes, with bytes from the seed.
    pub(crate) fn new(seed: u64, lengths: &[u32]) -> Self {
        let mut rng = Rng::new(seed, Purpose::Content);
        let mut fill = |length: u32| {
            let mut bytes = Vec::with_capacity(length as usize + 8);
            while bytes.len() < length as usize {
                bytes.extend_from_slice(&rng.draw().to_le_bytes());
            }
            bytes.truncate(length as usize);
            Bytes::from(bytes)
        };
        let chunks: Vec<Bytes> = lengths.iter().map(|&length| fill(length)).collect();
        let entries = chunks.iter().zip(lengths).map(|(bytes, &length)| ChunkEntry { length, hash: Blake3::of(bytes) }).collect();
        let length = protocol::Bytes(lengths.iter().map(|&length| u64::from(length)).sum());
        let files = vec![FileEntry { path: "edition".to_owned(), length, executable: false }];
        let manifest = Manifest { directory: false, length, blake3: Blake3::of(&chunks.concat()), files, chunks: entries };
        Self { chunks, manifest: Arc::new(manifest) }
    }

    pub(crate) fn count(&self) -> u32 {
        self.manifest.chunk_count()
    }

    pub(crate) fn length(&self, chunk: u32) -> u64 {
        self.manifest.chunks.get(chunk as usize).map_or(0, |entry| u64::from(entry.length))
    }

    /// The bytes of a part of a chunk; shared, not copied.
    pub(crate) fn part(&self, chunk: u32, offset: u32, len: u32) -> Bytes {
        let (from, to) = (offset as usize, offset as usize + len as usize);
        self.chunks.get(chunk as usize).filter(|bytes| to <= bytes.len()).map(|bytes| bytes.slice(from..to)).unwrap_or_default()
    }
}
