//! What came sealed: kept as it came, opened in place, and passed on as it came.

use protocol::SwarmId;
use protocol::sealing::Sealing;
use protocol::sealing::manifest::SealedChunk;

use super::*;

/// An edition and what travels of it.
struct Sealed {
    plain: Arc<Manifest>,
    bytes: Vec<u8>,
    sealed: Arc<SealedManifest>,
    chunks: Vec<Bytes>,
    key: ContentKey,
}

fn seal((plain, bytes): (Arc<Manifest>, Vec<u8>)) -> Sealed {
    let (release_id, swarm_id, key) = (ReleaseId::from_bytes([1; 16]), SwarmId::from_bytes([2; 16]), ContentKey::from_bytes([7; 32]));
    let sealing = Sealing::new(&key, release_id, plain.edition_id());
    let (mut entries, mut chunks) = (Vec::new(), Vec::new());
    for (index, chunk) in (0..).zip(bytes.chunks(CHUNK)) {
        let mut chunk = chunk.to_vec();
        let tag = sealing.seal(index, &mut chunk).unwrap();
        entries.push(SealedChunk { length: u32::try_from(chunk.len()).unwrap(), hash: Blake3::of(&chunk), tag });
        chunks.push(Bytes::from(chunk));
    }
    let sealed = SealedManifest::new((release_id, swarm_id), &plain, &sealing, entries).unwrap();
    Sealed { plain, bytes, sealed: Arc::new(sealed), chunks, key }
}

impl Sealed {
    fn config(&self, dir: &Path) -> StoreConfig {
        StoreConfig { sealed: Some(Arc::clone(&self.sealed)), ..config(dir, &Arc::new(self.sealed.travelling())) }
    }

    fn state(&self, dir: &Path) -> PathBuf {
        state(dir, &self.plain)
    }

    /// Everything has arrived.
    async fn received(&self, dir: &Path) -> Store {
        let store = Store::open(self.config(dir)).await.unwrap().store;
        for (index, chunk) in (0..).zip(&self.chunks) {
            store.put(index, source(1), chunk.clone()).await.unwrap();
        }
        store
    }

    async fn is_passed_on(&self, store: &Store) {
        for (index, chunk) in (0..).zip(&self.chunks) {
            assert_eq!(store.read(index).await.unwrap(), *chunk, "chunk {index}");
        }
    }

    async fn reopened(&self, dir: &Path, store: Store) -> Opened {
        drop(store);
        open_again(self.config(dir)).await
    }
}

/// The last store's thread lets go of its lock in its own time.
async fn open_again(config: StoreConfig) -> Opened {
    loop {
        match Store::open(config.clone()).await {
            Err(StoreError::InUse(_)) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test]
async fn x02_a_sealed_delivery_is_opened_in_place_laid_out_and_still_passed_on_sealed() {
    let (dir, sealed) = (tempfile::tempdir().unwrap(), seal(tree()));
    let store = sealed.received(dir.path()).await;
    assert!(store.wants_key() && store.content_hash().is_none());
    let part = std::fs::read(sealed.state(dir.path()).join("content.part")).unwrap();
    assert_eq!(part, sealed.chunks.concat());
    assert!(matches!(store.finish().await, Err(StoreError::WholeHash)), "what is sealed is never laid out");
    store.unseal(Some(sealed.key.clone())).await.unwrap();
    assert!(!store.wants_key());
    assert_eq!(store.content_hash(), Some(sealed.plain.blake3));
    sealed.is_passed_on(&store).await;
    store.finish().await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("bin/run")).unwrap(), sealed.bytes[..1500]);
    assert_eq!(std::fs::read(dir.path().join("data/a/b.txt")).unwrap(), sealed.bytes[1500..2700]);
    sealed.is_passed_on(&store).await;
    let mode = std::fs::metadata(sealed.state(dir.path()).join("key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A later run finds the whole of it, and passes it on as well.
    let opened = sealed.reopened(dir.path(), store).await;
    assert!(opened.finished.is_some() && !opened.store.wants_key());
    assert_eq!((opened.held.len(), opened.lost.len()), (3, 0));
    sealed.is_passed_on(&opened.store).await;
    assert_eq!(Store::unopened(dir.path().to_owned()).await, []);
    // And it is an edition like any other: an update takes what it has from it, and who asks on demand is served from it.
    let (plain, _) =
        Store::open_complete(dir.path().to_owned(), ReleaseId::from_bytes([1; 16]), sealed.plain.edition_id()).await.unwrap().unwrap();
    assert_eq!(plain.read(1).await.unwrap(), sealed.bytes[CHUNK..2 * CHUNK]);
    let update =
        Store::open(StoreConfig { release_id: ReleaseId::from_bytes([9; 16]), ..config(dir.path(), &sealed.plain) }).await.unwrap();
    assert_eq!(update.held.len(), 3);
}

#[tokio::test]
async fn x02_a_wrong_key_changes_nothing() {
    let (dir, sealed) = (tempfile::tempdir().unwrap(), seal(single()));
    let store = sealed.received(dir.path()).await;
    let refused = store.unseal(Some(ContentKey::from_bytes([8; 32]))).await;
    assert!(matches!(refused, Err(StoreError::WrongKey)), "{refused:?}");
    assert!(matches!(store.unseal(None).await, Err(StoreError::WrongKey)), "without any key");
    assert!(store.wants_key() && !sealed.state(dir.path()).join("key").exists());
    store.unseal(Some(sealed.key.clone())).await.unwrap();
    store.finish().await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("film.bin")).unwrap(), sealed.bytes);
}

/// As a process leaves it that is killed after `open` chunks, in the middle of writing the next one.
async fn killed_while_opening(sealed: &Sealed, dir: &Path, open: usize) {
    drop(sealed.received(dir).await);
    let home = open_again(sealed.config(dir)).await;
    home.store.unseal(Some(sealed.key.clone())).await.unwrap();
    drop(home);
    let state = sealed.state(dir);
    std::fs::remove_file(state.join("manifest")).unwrap();
    let mut part = sealed.bytes[..open * CHUNK].to_vec();
    let next = &sealed.chunks[open];
    part.extend_from_slice(&sealed.bytes[open * CHUNK..open * CHUNK + 100]);
    part.extend_from_slice(&next[100..]);
    part.extend(sealed.chunks[open + 1..].concat());
    std::fs::write(state.join("content.part"), part).unwrap();
    let undo = [&u32::try_from(open).unwrap().to_le_bytes()[..], next].concat();
    std::fs::write(state.join("unsealing"), undo).unwrap();
}

#[tokio::test]
async fn x02_opening_goes_on_wherever_it_was_ended() {
    let sealed = seal(single());
    for open in 0..sealed.chunks.len() {
        let dir = tempfile::tempdir().unwrap();
        killed_while_opening(&sealed, dir.path(), open).await;
        let waiting = Store::unopened(dir.path().to_owned()).await;
        assert_eq!(waiting, [(*sealed.sealed).clone()], "it is known to be unfinished");
        let opened = open_again(sealed.config(dir.path())).await;
        assert_eq!((opened.held.len(), opened.lost.len()), (5, 0), "ended at chunk {open}: nothing is lost");
        assert!(!opened.store.wants_key(), "the key was kept");
        sealed.is_passed_on(&opened.store).await;
        opened.store.unseal(None).await.unwrap();
        opened.store.finish().await.unwrap();
        assert_eq!(std::fs::read(dir.path().join("film.bin")).unwrap(), sealed.bytes);
    }
}

#[tokio::test]
async fn x02_a_chunk_that_was_changed_underneath_is_noticed_before_anything_is_laid_out() {
    let (dir, sealed) = (tempfile::tempdir().unwrap(), seal(single()));
    let store = sealed.received(dir.path()).await;
    part_file(dir.path(), &sealed.plain).write_all_at(b"changed", 2 * CHUNK as u64).unwrap();
    assert!(matches!(store.unseal(Some(sealed.key.clone())).await, Err(StoreError::Corrupt(2))));
    assert!(!dir.path().join("film.bin").exists());
    // It is fetched again, and comes sealed.
    let opened = sealed.reopened(dir.path(), store).await;
    assert_eq!(opened.lost.iter().map(|lost| lost.chunk).collect::<Vec<_>>(), [2]);
    opened.store.put(2, source(1), sealed.chunks[2].clone()).await.unwrap();
    opened.store.unseal(None).await.unwrap();
    opened.store.finish().await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("film.bin")).unwrap(), sealed.bytes);
}

#[tokio::test]
async fn x02_a_file_that_was_changed_after_it_was_opened_is_completed_again_from_sealed_chunks() {
    let (dir, sealed) = (tempfile::tempdir().unwrap(), seal(single()));
    let store = sealed.received(dir.path()).await;
    store.unseal(Some(sealed.key.clone())).await.unwrap();
    store.finish().await.unwrap();
    std::fs::OpenOptions::new().write(true).open(dir.path().join("film.bin")).unwrap().write_all_at(b"mine", 10).unwrap();
    let opened = sealed.reopened(dir.path(), store).await;
    assert_eq!((opened.held.len(), opened.lost.len(), opened.finished), (4, 1, None));
    opened.store.put(0, source(1), sealed.chunks[0].clone()).await.unwrap();
    opened.store.unseal(None).await.unwrap();
    let place = opened.store.finish().await.unwrap();
    assert_eq!(std::fs::read(place.path).unwrap(), sealed.bytes);
    assert_eq!(&std::fs::read(dir.path().join("film.bin")).unwrap()[10..14], b"mine", "what a person changed stays");
}
