//! Complete editions that are served to others.

use super::*;

async fn open(dir: &Path, manifest: &Manifest) -> Option<(Store, Arc<Manifest>)> {
    Store::open_complete(dir.to_owned(), ReleaseId::from_bytes([1; 16]), manifest.edition_id()).await.unwrap()
}

#[tokio::test]
async fn a_complete_edition_is_found_and_read_while_it_is_still_open_for_its_own_release() {
    for (manifest, content) in [single(), tree()] {
        let dir = tempfile::tempdir().unwrap();
        let (receiving, finished) = receive(dir.path(), &manifest, &content).await;
        let found = Store::complete_editions(dir.path().to_owned()).await;
        assert_eq!(found, [(ReleaseId::from_bytes([1; 16]), manifest.edition_id())]);
        let (held, known) = open(dir.path(), &manifest).await.expect("it is complete");
        assert_eq!(known, manifest);
        reads_back(&held, &content).await;
        assert_eq!(held.finish().await.unwrap(), finished, "it lies where it was put");
        held.put(0, source(9), Bytes::from_static(b"x")).await.unwrap_err();
        drop(receiving);
    }
}

#[tokio::test]
async fn what_is_not_complete_or_was_moved_is_not_held_and_what_was_changed_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    opened.store.put(0, source(5), Bytes::copy_from_slice(&content[..CHUNK])).await.unwrap();
    assert!(Store::complete_editions(dir.path().to_owned()).await.is_empty());
    assert!(open(dir.path(), &manifest).await.is_none());
    assert!(Store::complete_editions(dir.path().join("nowhere")).await.is_empty());
    put_all(&opened.store, &content).await;
    let finished = opened.store.finish().await.unwrap();
    let (held, _) = open(dir.path(), &manifest).await.unwrap();
    let file = std::fs::File::options().write(true).open(&finished.path).unwrap();
    file.write_all_at(b"changed", 2100).unwrap();
    assert!(matches!(held.read(2).await, Err(StoreError::Corrupt(2))));
    assert_eq!(&held.read(1).await.unwrap()[..], &content[CHUNK..2 * CHUNK], "the rest is as it was");
    std::fs::remove_file(&finished.path).unwrap();
    let (gone, _) = open(dir.path(), &manifest).await.unwrap();
    assert!(matches!(gone.read(0).await, Err(StoreError::Corrupt(0))));
}
