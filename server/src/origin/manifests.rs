//! Manifests kept in memory, because every chunk request needs one and a large one takes 36 MiB to read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::EditionId;
use protocol::manifest::Manifest;

/// Memory for manifests: three of the largest, thousands of common ones.
const CACHE_BYTES_MAX: usize = 128 << 20;

/// The manifests used last. When a new one does not fit, those that were unused for longest go.
#[derive(Debug, Default)]
pub(super) struct ManifestCache {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_id: HashMap<EditionId, Entry>,
    bytes: usize,
    /// Counts uses; the entry with the smallest number was unused for longest.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    manifest: Arc<Manifest>,
    bytes: usize,
    used: u64,
}

impl ManifestCache {
    pub(super) fn get(&self, id: EditionId) -> Option<Arc<Manifest>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.uses += 1;
        let used = entries.uses;
        let entry = entries.by_id.get_mut(&id)?;
        entry.used = used;
        Some(entry.manifest.clone())
    }

    pub(super) fn insert(&self, id: EditionId, manifest: Arc<Manifest>) {
        let bytes = memory_of(&manifest);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.make_room(bytes);
        entries.uses += 1;
        let used = entries.uses;
        if let Some(replaced) = entries.by_id.insert(id, Entry { manifest, bytes, used }) {
            entries.bytes -= replaced.bytes;
        }
        entries.bytes += bytes;
    }
}

impl Entries {
    fn make_room(&mut self, bytes: usize) {
        while self.bytes + bytes > CACHE_BYTES_MAX {
            let Some(oldest) = self.by_id.iter().min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id) else { return };
            if let Some(entry) = self.by_id.remove(&oldest) {
                self.bytes -= entry.bytes;
            }
        }
    }
}

pub(crate) fn memory_of(manifest: &Manifest) -> usize {
    let files: usize = manifest.files.iter().map(|file| file.path.len() + size_of_val(file)).sum();
    files + size_of_val(&*manifest.chunks)
}

#[cfg(test)]
mod tests {
    use protocol::Blake3;
    use protocol::manifest::ChunkEntry;
    use protocol::units::Bytes;

    use super::*;

    fn manifest(chunks: usize) -> Arc<Manifest> {
        let chunk = ChunkEntry { length: 1, hash: Blake3([0; 32]) };
        Arc::new(Manifest { directory: true, length: Bytes(1), blake3: Blake3([0; 32]), files: vec![], chunks: vec![chunk; chunks] })
    }

    #[test]
    fn the_manifest_unused_for_longest_makes_room() {
        let cache = ManifestCache::default();
        let ids = [1, 2, 3, 4].map(|byte| EditionId([byte; 32]));
        for id in &ids[..3] {
            cache.insert(*id, manifest(1 << 20));
        }
        assert!(cache.get(ids[0]).is_some());
        cache.insert(ids[3], manifest(1 << 20));
        let kept: Vec<_> = ids.iter().filter(|id| cache.get(**id).is_some()).collect();
        assert_eq!(kept, [&ids[0], &ids[2], &ids[3]]);
        assert!(cache.entries.lock().unwrap().bytes <= CACHE_BYTES_MAX);
    }

    #[test]
    fn storing_the_same_manifest_again_counts_once() {
        let cache = ManifestCache::default();
        for _ in 0..100 {
            cache.insert(EditionId([1; 32]), manifest(1 << 20));
        }
        assert_eq!(cache.entries.lock().unwrap().bytes, memory_of(&manifest(1 << 20)));
    }
}
