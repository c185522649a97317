//! Updates on a real disk.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use protocol::manifest::FileEntry;
use protocol::{Blake3, Bytes, ReleaseId};

use super::super::{Opened, Store, StoreConfig};
use super::*;

const CHUNK: usize = 70_000;
const ME: TerminalId = TerminalId::from_bytes([200; 16]);
const OTHER: TerminalId = TerminalId::from_bytes([5; 16]);

/// The chunk of a kind; kind 0 are zeros.
fn chunk(kind: u8) -> Vec<u8> {
    (0..CHUNK).map(|at| if kind == 0 { 0 } else { u8::try_from(at % 241).unwrap() ^ kind }).collect()
}

/// An edition of chunks of these kinds, as a file or as a directory of two files that divide a chunk between them.
fn edition(kinds: &[u8], directory: bool) -> (Arc<Manifest>, Vec<u8>) {
    let chunks: Vec<Vec<u8>> = kinds.iter().map(|kind| chunk(*kind)).collect();
    let content = chunks.concat();
    let file = |path: &str, length: usize| FileEntry { path: path.to_owned(), length: Bytes(length as u64), executable: false };
    let files = if directory { vec![file("a", 100), file("b/c", content.len() - 100)] } else { vec![file("film.bin", content.len())] };
    let entry = |bytes: &Vec<u8>| ChunkEntry { length: u32::try_from(bytes.len()).unwrap(), hash: Blake3::of(bytes) };
    let chunks = chunks.iter().map(entry).collect();
    let manifest = Manifest { directory, length: Bytes(content.len() as u64), blake3: Blake3::of(&content), files, chunks };
    (Arc::new(manifest), content)
}

fn config(dir: &Path, release: u8, manifest: &Arc<Manifest>) -> StoreConfig {
    let release_id = ReleaseId::from_bytes([release; 16]);
    StoreConfig { dir: dir.to_owned(), release_id, manifest: Arc::clone(manifest), sealed: None, me: ME, others: Vec::new() }
}

async fn open(config: StoreConfig) -> Opened {
    Store::open(config).await.unwrap()
}

/// Receives these chunks of an edition, and lays it out if they are all.
async fn receive(dir: &Path, release: u8, kinds: &[u8], directory: bool, which: impl Fn(usize) -> bool) {
    let (manifest, _) = edition(kinds, directory);
    let opened = open(config(dir, release, &manifest)).await;
    for (index, kind) in kinds.iter().enumerate().filter(|(index, _)| which(*index)) {
        opened.store.put(u32::try_from(index).unwrap(), OTHER, chunk(*kind).into()).await.unwrap();
    }
    if (0..kinds.len()).all(which) {
        opened.store.finish().await.unwrap();
    }
}

fn held_by_me(opened: &Opened) -> BTreeSet<u32> {
    opened.held.iter().filter(|held| held.source == ME).map(|held| held.chunk).collect()
}

#[tokio::test]
async fn x09_an_update_takes_every_chunk_that_the_edition_before_has_wherever_it_lies() {
    for directory in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        receive(dir.path(), 1, &[1, 2, 3, 4, 5], directory, |_| true).await;
        let (manifest, content) = edition(&[9, 5, 1, 2, 4, 8], directory);
        let opened = open(config(dir.path(), 2, &manifest)).await;
        assert_eq!(held_by_me(&opened), BTreeSet::from([1, 2, 3, 4]));
        assert_eq!(&opened.store.read(3).await.unwrap()[..], chunk(2));
        for missing in [0, 5] {
            let bytes = chunk([9, 8][usize::from(missing == 5)]);
            opened.store.put(missing, OTHER, bytes.into()).await.unwrap();
        }
        let finished = opened.store.finish().await.unwrap();
        let path = if directory { finished.path.join("b/c") } else { finished.path };
        assert!(std::fs::read(path).unwrap().ends_with(&content[100..]), "another content");
    }
}

#[tokio::test]
async fn x09_what_was_taken_over_is_remembered_by_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    receive(dir.path(), 1, &[1, 2, 3], false, |_| true).await;
    let (manifest, _) = edition(&[2, 7, 3], false);
    drop(open(config(dir.path(), 2, &manifest)).await);
    // Even if the older edition is gone by then.
    std::fs::remove_file(dir.path().join("film.bin")).unwrap();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    let opened = loop {
        match Store::open(config(dir.path(), 2, &manifest)).await {
            Err(StoreError::InUse(_)) if tokio::time::Instant::now() < deadline => tokio::task::yield_now().await,
            other => break other.unwrap(),
        }
    };
    assert_eq!(held_by_me(&opened), BTreeSet::from([0, 2]));
}

#[tokio::test]
async fn x09_a_file_that_was_changed_or_is_gone_gives_nothing_that_is_not_right() {
    let dir = tempfile::tempdir().unwrap();
    receive(dir.path(), 1, &[1, 2, 3, 4], false, |_| true).await;
    let file = File::options().write(true).open(dir.path().join("film.bin")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", (CHUNK + 10) as u64).unwrap();
    file.set_len((3 * CHUNK + 10) as u64).unwrap();
    let (manifest, _) = edition(&[4, 3, 2, 1], false);
    let opened = open(config(dir.path(), 2, &manifest)).await;
    assert_eq!(held_by_me(&opened), BTreeSet::from([1, 3]), "the second chunk was changed, the fourth cut off");
    drop(opened);
    std::fs::remove_file(dir.path().join("film.bin")).unwrap();
    let (manifest, _) = edition(&[1, 2, 9], false);
    // What the edition in between took over is still there.
    assert_eq!(held_by_me(&open(config(dir.path(), 3, &manifest)).await), BTreeSet::from([0]));
}

#[tokio::test]
async fn x09_other_folders_and_unfinished_deliveries_are_looked_at_too() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    receive(elsewhere.path(), 1, &[1, 2], false, |_| true).await;
    receive(dir.path(), 2, &[3, 4, 5], false, |index| index != 1).await;
    let (manifest, _) = edition(&[1, 2, 3, 4, 5], false);
    let nowhere = dir.path().join("not/there");
    let opened = open(StoreConfig { others: vec![nowhere, elsewhere.path().to_owned()], ..config(dir.path(), 3, &manifest) }).await;
    assert_eq!(held_by_me(&opened), BTreeSet::from([0, 1, 2, 4]));
}

#[tokio::test]
async fn x09_repeats_are_written_from_the_first_and_zeros_take_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [vec![6, 0], vec![0; 60], vec![6, 0, 6]].concat();
    let (manifest, content) = edition(&kinds, false);
    let opened = open(config(dir.path(), 1, &manifest)).await;
    opened.store.put(0, OTHER, chunk(6).into()).await.unwrap();
    opened.store.put(1, OTHER, chunk(0).into()).await.unwrap();
    opened.store.repeat(1, (2..62).chain([63]).collect(), ME).await.unwrap();
    opened.store.repeat(0, vec![62, 64], ME).await.unwrap();
    assert!(matches!(opened.store.repeat(0, vec![65], ME).await, Err(StoreError::NoSuchChunk(65))));
    let finished = opened.store.finish().await.unwrap();
    let metadata = std::fs::metadata(&finished.path).unwrap();
    assert!(metadata.blocks() * 512 < content.len() as u64 / 8, "{} blocks", metadata.blocks());
    assert!(std::fs::read(&finished.path).unwrap() == content);
    drop(opened);
    let (update, _) = edition(&[0, 7, 0], false);
    let opened = open(config(dir.path(), 2, &update)).await;
    assert_eq!(held_by_me(&opened), BTreeSet::from([0]), "the second zeros repeat the first");
}
