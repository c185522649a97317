//! Chunks and manifests in an object store, each under its own hash: `chunks/ab/cdef…`, `manifests/ab/cdef…`, `sealed/ab/cdef…`.
//!
//! A name says what the bytes must be, so that writing twice is harmless, two editions share their equal chunks, and what was damaged is noticed.

use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use protocol::manifest::{Manifest, ManifestError};
use protocol::sealing::manifest::SealedManifest;
use protocol::{Blake3, EditionId};

use super::manifests::ManifestCache;

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ChunkStoreError {
    #[error("the object store failed")]
    Store(#[from] object_store::Error),
    #[error("the folder for chunks cannot be made")]
    Folder(#[source] std::io::Error),
    #[error("the object {0} is damaged: its bytes do not have the hash that it is named by")]
    Damaged(Blake3),
    #[error("a stored manifest cannot be read")]
    Manifest(#[from] ManifestError),
}

impl ChunkStoreError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(object_store::Error::NotFound { .. }))
    }
}

/// All chunks and manifests of the service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChunkStore {
    objects: Arc<dyn ObjectStore>,
    manifests: Arc<ManifestCache>,
}

impl ChunkStore {
    /// A store in a local folder, which is made if it is missing. With `sync` a write returns when it is on the disk.
    pub fn local(folder: &FilePath, sync: bool) -> Result<Self, ChunkStoreError> {
        std::fs::create_dir_all(folder).map_err(ChunkStoreError::Folder)?;
        Ok(Self::new(Arc::new(LocalFileSystem::new_with_prefix(folder)?.with_fsync(sync))))
    }

    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, manifests: Arc::default() }
    }

    /// The bytes of a chunk, checked against its hash.
    pub async fn chunk(&self, hash: Blake3) -> Result<Bytes, ChunkStoreError> {
        let bytes = self.objects.get(&object_path("chunks", hash)).await?.bytes().await?;
        if Blake3::of(&bytes) != hash {
            return Err(ChunkStoreError::Damaged(hash));
        }
        Ok(bytes)
    }

    /// Writes a chunk unless it is there. Returns whether it was new. `hash` must be the chunk's own.
    pub async fn put_chunk(&self, hash: Blake3, bytes: Bytes) -> Result<bool, ChunkStoreError> {
        let path = object_path("chunks", hash);
        match self.objects.head(&path).await {
            Ok(found) if usize::try_from(found.size).is_ok_and(|size| size == bytes.len()) => return Ok(false),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.objects.put(&path, PutPayload::from_bytes(bytes)).await?;
        Ok(true)
    }

    /// The manifest of an edition, read and checked; from memory if it was used lately.
    pub async fn manifest(&self, id: EditionId) -> Result<Arc<Manifest>, ChunkStoreError> {
        if let Some(manifest) = self.manifests.get(id) {
            return Ok(manifest);
        }
        let bytes = self.manifest_bytes(id).await?;
        let manifest = Arc::new(Manifest::decode(&bytes)?);
        self.manifests.insert(id, manifest.clone());
        Ok(manifest)
    }

    /// The manifest as it travels.
    pub async fn manifest_bytes(&self, id: EditionId) -> Result<Bytes, ChunkStoreError> {
        let hash = Blake3(id.0);
        let bytes = self.objects.get(&object_path("manifests", hash)).await?.bytes().await?;
        if Blake3::of(&bytes) != hash {
            return Err(ChunkStoreError::Damaged(hash));
        }
        Ok(bytes)
    }

    /// Writes a sealed manifest under its hash, which is returned.
    pub async fn put_sealed_manifest(&self, manifest: &SealedManifest) -> Result<Blake3, ChunkStoreError> {
        let bytes = Bytes::from(manifest.encode());
        let hash = Blake3::of(&bytes);
        self.objects.put(&object_path("sealed", hash), PutPayload::from_bytes(bytes)).await?;
        Ok(hash)
    }

    /// A sealed manifest as it travels.
    pub async fn sealed_manifest_bytes(&self, hash: Blake3) -> Result<Bytes, ChunkStoreError> {
        let bytes = self.objects.get(&object_path("sealed", hash)).await?.bytes().await?;
        if Blake3::of(&bytes) != hash {
            return Err(ChunkStoreError::Damaged(hash));
        }
        Ok(bytes)
    }

    /// Writes a manifest under the id of its edition, which is returned.
    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<EditionId, ChunkStoreError> {
        manifest.check()?;
        let bytes = Bytes::from(manifest.encode());
        let hash = Blake3::of(&bytes);
        self.objects.put(&object_path("manifests", hash), PutPayload::from_bytes(bytes)).await?;
        Ok(EditionId(hash.0))
    }
}

fn object_path(kind: &'static str, hash: Blake3) -> Path {
    let name = hash.to_string();
    let (folder, rest) = name.split_at(2);
    Path::from_iter([kind, folder, rest])
}

#[cfg(test)]
mod tests {
    use protocol::manifest::{ChunkEntry, FileEntry};
    use protocol::units::Bytes as ByteCount;

    use super::*;

    fn store() -> (tempfile::TempDir, ChunkStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = ChunkStore::local(&folder.path().join("objects"), false).unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn a_chunk_is_written_once_and_read_back() {
        let (_folder, store) = store();
        let bytes = Bytes::from_static(b"some bytes");
        let hash = Blake3::of(&bytes);
        assert!(store.chunk(hash).await.unwrap_err().is_not_found());
        assert!(store.put_chunk(hash, bytes.clone()).await.unwrap());
        assert!(!store.put_chunk(hash, bytes.clone()).await.unwrap(), "the second time it was there");
        assert_eq!(store.chunk(hash).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn a_damaged_chunk_is_noticed_and_a_cut_one_is_written_again() {
        let (folder, store) = store();
        let bytes = Bytes::from_static(b"some bytes");
        let hash = Blake3::of(&bytes);
        store.put_chunk(hash, bytes.clone()).await.unwrap();
        let file = folder.path().join("objects").join(object_path("chunks", hash).as_ref());
        std::fs::write(&file, b"some bytfs").unwrap();
        assert!(matches!(store.chunk(hash).await, Err(ChunkStoreError::Damaged(_))));
        std::fs::write(&file, b"some").unwrap();
        assert!(store.put_chunk(hash, bytes.clone()).await.unwrap());
        assert_eq!(store.chunk(hash).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn a_manifest_is_stored_under_its_editions_id() {
        let (_folder, store) = store();
        let manifest = Manifest {
            directory: false,
            length: ByteCount(4),
            blake3: Blake3::of(b"abcd"),
            files: vec![FileEntry { path: "a".into(), length: ByteCount(4), executable: false }],
            chunks: vec![ChunkEntry { length: 4, hash: Blake3::of(b"abcd") }],
        };
        let id = store.put_manifest(&manifest).await.unwrap();
        assert_eq!(id, manifest.edition_id());
        assert_eq!(*store.manifest(id).await.unwrap(), manifest);
        assert!(Arc::ptr_eq(&store.manifest(id).await.unwrap(), &store.manifest(id).await.unwrap()), "the second read is from memory");
        assert!(store.manifest(EditionId([0; 32])).await.unwrap_err().is_not_found());
    }
}
