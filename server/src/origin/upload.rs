//! Takes an edition's bytes in as they arrive: cut, hash, store. Memory stays bounded however long the edition is.

use bytes::Bytes;
use protocol::Blake3;
use protocol::manifest::{CHUNKS_MAX, ChunkEntry};
use protocol::rest::Chunking;
use tokio::task::JoinSet;

use super::chunks::{ChunkStore, ChunkStoreError};
use super::cutter::Cutter;
use crate::metrics::{UPLOADED_BYTES, UPLOADED_CHUNKS};

/// Chunks being written at a time, at most 128 KiB each: enough to hide a disk's latency. The upload waits when all are taken.
const WRITES_MAX: usize = 8;

/// Why an upload did not become an edition.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("more bytes came than the {announced} announced")]
    TooLong { announced: u64 },
    #[error("{received} bytes came of the {announced} announced")]
    TooShort { announced: u64, received: u64 },
    #[error("the edition has more than {CHUNKS_MAX} chunks; use chunks of fixed length")]
    TooManyChunks,
    #[error(transparent)]
    Store(#[from] ChunkStoreError),
    #[error("a chunk's writer failed")]
    Writer(#[from] tokio::task::JoinError),
}

/// What was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingested {
    pub chunks: Vec<ChunkEntry>,
    /// Of the whole byte stream.
    pub blake3: Blake3,
}

/// One upload under way. Dropping it leaves chunks that no edition names: the next try finds them there.
#[derive(Debug)]
pub struct Ingest {
    store: ChunkStore,
    cutter: Cutter,
    whole: blake3::Hasher,
    announced: u64,
    received: u64,
    chunks: Vec<ChunkEntry>,
    writing: JoinSet<Result<bool, ChunkStoreError>>,
}

impl Ingest {
    /// Starts an upload of exactly `announced` bytes.
    pub fn new(store: ChunkStore, chunking: Chunking, announced: u64) -> Self {
        Self {
            store,
            cutter: Cutter::new(chunking),
            whole: blake3::Hasher::new(),
            announced,
            received: 0,
            chunks: Vec::new(),
            writing: JoinSet::new(),
        }
    }

    /// Takes the next bytes; returns when there is room for more.
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), IngestError> {
        self.received += piece.len() as u64;
        if self.received > self.announced {
            return Err(IngestError::TooLong { announced: self.announced });
        }
        metrics::counter!(UPLOADED_BYTES).increment(piece.len() as u64);
        self.whole.update(piece);
        self.cutter.push(piece);
        while let Some(chunk) = self.cutter.next_chunk() {
            self.store_chunk(chunk).await?;
        }
        Ok(())
    }

    /// The stream has ended: stores the rest and waits for every write.
    pub async fn finish(mut self) -> Result<Ingested, IngestError> {
        if self.received != self.announced {
            return Err(IngestError::TooShort { announced: self.announced, received: self.received });
        }
        while let Some(chunk) = self.cutter.last_chunk() {
            self.store_chunk(chunk).await?;
        }
        while let Some(written) = self.writing.join_next().await {
            count(written??);
        }
        Ok(Ingested { chunks: self.chunks, blake3: Blake3(*self.whole.finalize().as_bytes()) })
    }

    async fn store_chunk(&mut self, chunk: Bytes) -> Result<(), IngestError> {
        if self.chunks.len() == CHUNKS_MAX {
            return Err(IngestError::TooManyChunks);
        }
        let length = u32::try_from(chunk.len()).map_err(|_| IngestError::TooManyChunks)?;
        let hash = Blake3::of(&chunk);
        let repeats = self.chunks.last().is_some_and(|last| last.hash == hash);
        self.chunks.push(ChunkEntry { length, hash });
        // Of a run of zeros the store is asked once.
        if repeats {
            count(false);
            return Ok(());
        }
        if self.writing.len() >= WRITES_MAX
            && let Some(written) = self.writing.join_next().await
        {
            count(written??);
        }
        let store = self.store.clone();
        self.writing.spawn(async move { store.put_chunk(hash, chunk).await });
        Ok(())
    }
}

fn count(new: bool) {
    metrics::counter!(UPLOADED_CHUNKS, "stored" => if new { "new" } else { "shared" }).increment(1);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    fn store() -> ChunkStore {
        ChunkStore::new(Arc::new(InMemory::new()))
    }

    #[tokio::test]
    async fn the_chunks_of_an_upload_can_be_read_back_in_order() {
        let store = store();
        let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut ingest = Ingest::new(store.clone(), Chunking::ContentDefined, bytes.len() as u64);
        for piece in bytes.chunks(50_000) {
            ingest.push(piece).await.unwrap();
        }
        let ingested = ingest.finish().await.unwrap();
        assert_eq!(ingested.blake3, Blake3::of(&bytes));
        let mut back = Vec::new();
        for entry in &ingested.chunks {
            let chunk = store.chunk(entry.hash).await.unwrap();
            assert_eq!(chunk.len(), entry.length as usize);
            back.extend_from_slice(&chunk);
        }
        assert!(back == bytes, "the chunks are not the upload");
    }

    #[tokio::test]
    async fn a_length_that_is_not_the_announced_one_is_refused() {
        let mut long = Ingest::new(store(), Chunking::Fixed, 10);
        long.push(&[0; 10]).await.unwrap();
        assert!(matches!(long.push(&[0]).await, Err(IngestError::TooLong { announced: 10 })));
        let mut short = Ingest::new(store(), Chunking::Fixed, 10);
        short.push(&[0; 9]).await.unwrap();
        assert!(matches!(short.finish().await, Err(IngestError::TooShort { announced: 10, received: 9 })));
    }

    #[tokio::test]
    async fn no_more_than_a_few_chunks_wait_to_be_written() {
        let mut ingest = Ingest::new(store(), Chunking::Fixed, u64::MAX);
        for _ in 0..10 {
            ingest.push(&[0; 300_000]).await.unwrap();
            assert!(ingest.writing.len() <= WRITES_MAX);
        }
    }
}
