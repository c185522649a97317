//! Verified chunks in memory: a relay sends each chunk to a dozen others within a second, and reads it from here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Half a second of relaying at 100 Mbit/s with room to spare. What is evicted costs one read from the system's own cache and one hash.
const BYTES_MAX: usize = 8 << 20;

/// Clones are the same cache.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedCache(Arc<Mutex<Cache>>);

impl SharedCache {
    pub(super) fn get(&self, chunk: u32) -> Option<Bytes> {
        self.lock().get(chunk)
    }

    pub(super) fn insert(&self, chunk: u32, bytes: Bytes) {
        self.lock().insert(chunk, bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Cache {
    chunks: HashMap<u32, (Bytes, u64)>,
    bytes: usize,
    clock: u64,
}

impl Cache {
    fn get(&mut self, chunk: u32) -> Option<Bytes> {
        self.clock += 1;
        let (bytes, used_at) = self.chunks.get_mut(&chunk)?;
        *used_at = self.clock;
        Some(bytes.clone())
    }

    /// Adds a chunk; those that were not used for longest make room.
    fn insert(&mut self, chunk: u32, bytes: Bytes) {
        self.clock += 1;
        self.bytes += bytes.len();
        if let Some((old, _)) = self.chunks.insert(chunk, (bytes, self.clock)) {
            self.bytes -= old.len();
        }
        while self.bytes > BYTES_MAX {
            // A few hundred entries at most: looking at all of them costs less than keeping them in order.
            let Some(oldest) = self.chunks.iter().min_by_key(|(_, (_, used_at))| *used_at).map(|(chunk, _)| *chunk) else { return };
            if let Some((bytes, _)) = self.chunks.remove(&oldest) {
                self.bytes -= bytes.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_stays_within_its_bytes_and_keeps_what_is_used() {
        let mut cache = Cache::default();
        let chunk = Bytes::from(vec![0; 128 << 10]);
        for index in 0..200 {
            cache.insert(index, chunk.clone());
            assert!(cache.get(0).is_some(), "the chunk in use was evicted");
            assert!(cache.bytes <= BYTES_MAX);
        }
        assert!(cache.get(1).is_none());
        assert_eq!(cache.chunks.len(), BYTES_MAX / chunk.len());
        cache.insert(0, chunk.slice(..10));
        assert_eq!(cache.bytes, cache.chunks.values().map(|(bytes, _)| bytes.len()).sum::<usize>());
    }
}
