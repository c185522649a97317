//! Deliveries on a real disk: restarts, damage, and where the files go.

mod evicting;
mod holding;
mod kept;
mod sealed;

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use bytes::Bytes;
use protocol::manifest::{ChunkEntry, FileEntry, STATE_FOLDER};
use protocol::{Blake3, Bytes as ByteCount};

use super::*;

const CHUNK: usize = 1000;

/// Bytes that differ from chunk to chunk.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from((index * 7 + index / CHUNK * 13) % 251).unwrap()).collect()
}

fn manifest(files: &[(&str, usize, bool)], directory: bool) -> (Arc<Manifest>, Vec<u8>) {
    let content = content(files.iter().map(|(_, length, _)| length).sum());
    let file = |(path, length, executable): &(&str, usize, bool)| FileEntry {
        path: (*path).to_owned(),
        length: ByteCount(*length as u64),
        executable: *executable,
    };
    let chunk = |bytes: &[u8]| ChunkEntry { length: u32::try_from(bytes.len()).unwrap(), hash: Blake3::of(bytes) };
    let manifest = Manifest {
        directory,
        length: ByteCount(content.len() as u64),
        blake3: Blake3::of(&content),
        files: files.iter().map(file).collect(),
        chunks: content.chunks(CHUNK).map(chunk).collect(),
    };
    (Arc::new(manifest), content)
}

fn single() -> (Arc<Manifest>, Vec<u8>) {
    manifest(&[("film.bin", 4500, false)], false)
}

fn tree() -> (Arc<Manifest>, Vec<u8>) {
    manifest(&[("bin/run", 1500, true), ("bin/empty", 0, false), ("data/a/b.txt", 1200, false), ("top.txt", 300, false)], true)
}

fn config(dir: &Path, manifest: &Arc<Manifest>) -> StoreConfig {
    let release_id = ReleaseId::from_bytes([1; 16]);
    StoreConfig { dir: dir.to_owned(), release_id, manifest: Arc::clone(manifest), sealed: None, me: source(200), others: Vec::new() }
}

fn state(dir: &Path, manifest: &Manifest) -> PathBuf {
    dir.join(STATE_FOLDER).join(ReleaseId::from_bytes([1; 16]).to_string()).join(manifest.edition_id().to_string())
}

/// The file that chunks are received into, for writing.
fn part_file(dir: &Path, manifest: &Manifest) -> std::fs::File {
    std::fs::OpenOptions::new().write(true).open(state(dir, manifest).join("content.part")).unwrap()
}

fn source(byte: u8) -> TerminalId {
    TerminalId::from_bytes([byte; 16])
}

async fn put_all(store: &Store, content: &[u8]) {
    for (index, bytes) in content.chunks(CHUNK).enumerate() {
        let chunk = u32::try_from(index).unwrap();
        store.put(chunk, source(5), Bytes::copy_from_slice(bytes)).await.unwrap();
    }
}

/// Receives everything in one run.
async fn receive(dir: &Path, manifest: &Arc<Manifest>, content: &[u8]) -> (Store, Finished) {
    let opened = Store::open(config(dir, manifest)).await.unwrap();
    put_all(&opened.store, content).await;
    let finished = opened.store.finish().await.unwrap();
    (opened.store, finished)
}

/// The folder's lock and files are free again once the thread of a dropped store has ended.
async fn reopen(dir: &Path, manifest: &Arc<Manifest>) -> Opened {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        match Store::open(config(dir, manifest)).await {
            Err(StoreError::InUse(_)) if tokio::time::Instant::now() < deadline => tokio::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
}

async fn reads_back(store: &Store, content: &[u8]) {
    for (index, bytes) in content.chunks(CHUNK).enumerate() {
        assert_eq!(&store.read(u32::try_from(index).unwrap()).await.unwrap()[..], bytes, "chunk {index}");
    }
}

#[tokio::test]
async fn a_restart_finds_the_chunks_and_their_sources() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    assert!(opened.held.is_empty() && opened.finished.is_none());
    opened.store.put(3, source(7), Bytes::copy_from_slice(&content[3000..4000])).await.unwrap();
    opened.store.put(1, TerminalId::ORIGIN, Bytes::copy_from_slice(&content[1000..2000])).await.unwrap();
    drop(opened);
    let opened = reopen(dir.path(), &manifest).await;
    assert_eq!(opened.held, [Held { chunk: 1, source: TerminalId::ORIGIN }, Held { chunk: 3, source: source(7) }]);
    assert_eq!(&opened.store.read(3).await.unwrap()[..], &content[3000..4000]);
    let stored = Store::stored_manifest(dir.path().to_owned(), ReleaseId::from_bytes([1; 16]), manifest.edition_id()).await;
    assert_eq!(stored.as_ref(), Some(&*manifest));
}

#[tokio::test]
async fn a_torn_journal_costs_its_last_chunk_only() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    put_all(&opened.store, &content).await;
    drop(opened);
    let journal = state(dir.path(), &manifest).join("journal");
    let file = std::fs::OpenOptions::new().write(true).open(&journal).unwrap();
    file.set_len(file.metadata().unwrap().len() - 5).unwrap();
    let opened = reopen(dir.path(), &manifest).await;
    assert_eq!(opened.held.iter().map(|held| held.chunk).collect::<Vec<_>>(), [0, 1, 2, 3]);
    // What is put now stands behind whole records again.
    opened.store.put(4, source(5), Bytes::copy_from_slice(&content[4000..])).await.unwrap();
    drop(opened);
    assert_eq!(reopen(dir.path(), &manifest).await.held.len(), 5);
}

#[tokio::test]
async fn a_chunk_that_rotted_on_disk_is_dropped_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    put_all(&opened.store, &content).await;
    drop(opened);
    let part = part_file(dir.path(), &manifest);
    part.write_all_at(&[255], 2500).unwrap();
    let opened = reopen(dir.path(), &manifest).await;
    assert_eq!(opened.held.iter().map(|held| held.chunk).collect::<Vec<_>>(), [0, 1, 3, 4]);
    assert_eq!(opened.lost.iter().map(|lost| lost.chunk).collect::<Vec<_>>(), [2]);
    drop(opened);
    part.set_len(1000).unwrap();
    let opened = reopen(dir.path(), &manifest).await;
    assert_eq!(opened.held.len(), 1, "a file that was cut short holds what is left of it");
    assert_eq!(opened.lost.len(), 4);
}

#[tokio::test]
async fn whose_copy_a_lost_chunk_was_is_known_over_restarts_and_when_it_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    put_all(&opened.store, &content).await;
    let promised = reopened_promises(dir.path(), &manifest, opened).await;
    let part = part_file(dir.path(), &manifest);
    part.write_all_at(&[255], 2500).unwrap();
    for _ in 0..2 {
        let opened = reopen(dir.path(), &manifest).await;
        assert_eq!(opened.lost, [promised[2]]);
        drop(opened);
    }
    let opened = reopen(dir.path(), &manifest).await;
    opened.store.put(2, promised[2].source, Bytes::copy_from_slice(&content[2 * CHUNK..3 * CHUNK])).await.unwrap();
    drop(opened);
    let opened = reopen(dir.path(), &manifest).await;
    assert_eq!((opened.held, opened.lost), (promised, vec![]));
}

async fn reopened_promises(dir: &Path, manifest: &Arc<Manifest>, opened: Opened) -> Vec<Held> {
    drop(opened);
    reopen(dir, manifest).await.held
}

#[tokio::test]
async fn a_chunk_that_was_changed_under_a_running_terminal_is_not_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    put_all(&opened.store, &content).await;
    drop(opened);
    let opened = reopen(dir.path(), &manifest).await;
    let part = part_file(dir.path(), &manifest);
    part.write_all_at(&[255], 2500).unwrap();
    assert!(matches!(opened.store.read(2).await, Err(StoreError::Corrupt(2))));
    assert!(opened.store.read(3).await.is_ok());
}

#[tokio::test]
async fn a_chunk_that_will_be_asked_for_soon_is_in_memory_by_then() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    put_all(&opened.store, &content).await;
    drop(opened);
    let store = reopen(dir.path(), &manifest).await.store;
    let part = part_file(dir.path(), &manifest);
    part.write_all_at(&[255], 3500).unwrap();
    for chunk in [2, 3, 99] {
        store.warm(chunk);
    }
    // It waits its turn, and with it what was asked for before.
    store.sync().await.unwrap();
    part.write_all_at(&[255], 2500).unwrap();
    assert_eq!(store.read(2).await.unwrap(), content[2 * CHUNK..3 * CHUNK], "as it was verified");
    assert!(matches!(store.read(3).await, Err(StoreError::Corrupt(3))), "what was wrong is not in memory");
}

#[tokio::test]
async fn a_chunk_of_the_wrong_length_or_number_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, _) = single();
    let store = Store::open(config(dir.path(), &manifest)).await.unwrap().store;
    assert!(matches!(store.put(0, source(1), Bytes::from_static(b"short")).await, Err(StoreError::NoSuchChunk(0))));
    assert!(matches!(store.put(99, source(1), Bytes::from_static(b"short")).await, Err(StoreError::NoSuchChunk(99))));
    assert!(matches!(store.read(99).await, Err(StoreError::NoSuchChunk(99))));
}

#[tokio::test]
async fn a_file_ends_under_its_own_name_without_a_second_copy_and_is_still_served() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let (store, finished) = receive(dir.path(), &manifest, &content).await;
    assert_eq!(finished.path, dir.path().join("film.bin"));
    assert!(std::fs::read(&finished.path).unwrap() == content);
    assert!(!state(dir.path(), &manifest).join("content.part").exists());
    reads_back(&store, &content).await;
    assert_eq!(store.finish().await.unwrap(), finished, "finishing twice is finishing once");
}

#[tokio::test]
async fn a_second_run_recognises_what_is_complete_and_serves_it() {
    for (manifest, content) in [single(), tree()] {
        let dir = tempfile::tempdir().unwrap();
        let (store, finished) = receive(dir.path(), &manifest, &content).await;
        drop(store);
        let opened = reopen(dir.path(), &manifest).await;
        assert_eq!(opened.finished, Some(finished));
        assert_eq!(opened.held.len(), manifest.chunks.len());
        reads_back(&opened.store, &content).await;
    }
}

#[tokio::test]
async fn a_directory_is_laid_out_with_its_folders_its_empty_files_and_its_executable_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = tree();
    let (store, finished) = receive(dir.path(), &manifest, &content).await;
    assert_eq!(finished.path, dir.path());
    let at = |path: &str| dir.path().join(path);
    assert!(std::fs::read(at("bin/run")).unwrap() == content[..1500]);
    assert!(std::fs::read(at("bin/empty")).unwrap().is_empty());
    assert!(std::fs::read(at("data/a/b.txt")).unwrap() == content[1500..2700]);
    assert!(std::fs::read(at("top.txt")).unwrap() == content[2700..]);
    let mode = |path: &str| std::fs::metadata(at(path)).unwrap().permissions().mode();
    assert_eq!(mode("bin/run") & 0o100, 0o100);
    assert_eq!(mode("top.txt") & 0o111, 0);
    reads_back(&store, &content).await;
    assert!(!state(dir.path(), &manifest).join("content.part").exists(), "the stream is not kept beside the files");
}

#[tokio::test]
async fn a_file_of_the_user_is_never_replaced() {
    for (manifest, content) in [single(), tree()] {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join(manifest.files.last().unwrap().path.clone());
        std::fs::write(&taken, b"the user's own").unwrap();
        let (store, finished) = receive(dir.path(), &manifest, &content).await;
        assert_eq!(std::fs::read(&taken).unwrap(), b"the user's own");
        let fallback = dir.path().join(&manifest.edition_id().to_string()[..8]);
        assert!(finished.path.starts_with(&fallback), "{finished:?}");
        assert!(fallback.join(&manifest.files.last().unwrap().path).exists());
        drop(store);
        assert_eq!(reopen(dir.path(), &manifest).await.finished, Some(finished));
    }
}

#[tokio::test]
async fn a_content_that_lies_there_already_is_taken_as_it_is() {
    for (manifest, content) in [single(), tree()] {
        let dir = tempfile::tempdir().unwrap();
        drop(receive(dir.path(), &manifest, &content).await);
        let other = StoreConfig { release_id: ReleaseId::from_bytes([2; 16]), ..config(dir.path(), &manifest) };
        let again = Store::open(other).await.unwrap();
        put_all(&again.store, &content).await;
        let finished = again.store.finish().await.unwrap();
        assert!(!finished.path.to_string_lossy().contains(&manifest.edition_id().to_string()[..8]), "{finished:?}");
        reads_back(&again.store, &content).await;
    }
}

#[tokio::test]
async fn nothing_is_written_through_a_link_that_lies_in_the_way() {
    let (outside, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (manifest, content) = tree();
    symlink(outside.path(), dir.path().join("data")).unwrap();
    let (_store, finished) = receive(dir.path(), &manifest, &content).await;
    assert!(finished.path.ends_with(&manifest.edition_id().to_string()[..8]));
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);

    let dir = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    symlink(&target, dir.path().join("film.bin")).unwrap();
    let (manifest, content) = single();
    receive(dir.path(), &manifest, &content).await;
    assert!(!target.exists());
}

#[tokio::test]
async fn a_link_in_place_of_the_state_is_refused() {
    let (outside, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (manifest, _) = single();
    symlink(outside.path(), dir.path().join(STATE_FOLDER)).unwrap();
    assert!(matches!(Store::open(config(dir.path(), &manifest)).await, Err(StoreError::Io { .. })));
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_unsafe_path_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["../film.bin", "/film.bin", "a/../../film.bin"] {
        let (manifest, _) = manifest(&[(path, 4500, false)], false);
        assert!(matches!(Store::open(config(dir.path(), &manifest)).await, Err(StoreError::Manifest(_))), "{path}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn both_names_taken_is_an_error_that_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let fallback = dir.path().join(&manifest.edition_id().to_string()[..8]);
    std::fs::create_dir(&fallback).unwrap();
    for taken in [dir.path().join("film.bin"), fallback.join("film.bin")] {
        std::fs::write(taken, b"mine").unwrap();
    }
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    put_all(&opened.store, &content).await;
    assert!(matches!(opened.store.finish().await, Err(StoreError::Taken(_))));
    reads_back(&opened.store, &content).await;
    std::fs::remove_file(dir.path().join("film.bin")).unwrap();
    assert_eq!(opened.store.finish().await.unwrap().path, dir.path().join("film.bin"));
}

#[tokio::test]
async fn a_whole_that_is_not_what_the_manifest_says_gets_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let manifest = Arc::new(Manifest { blake3: Blake3([0; 32]), ..(*manifest).clone() });
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    put_all(&opened.store, &content).await;
    assert!(matches!(opened.store.finish().await, Err(StoreError::WholeHash)));
    assert!(!dir.path().join("film.bin").exists());
}

#[tokio::test]
async fn a_delivery_is_open_in_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, _) = single();
    let first = Store::open(config(dir.path(), &manifest)).await.unwrap();
    assert!(matches!(Store::open(config(dir.path(), &manifest)).await, Err(StoreError::InUse(_))));
    drop(first);
    reopen(dir.path(), &manifest).await;
}

#[tokio::test]
async fn a_finished_file_that_the_user_changed_stays_theirs_and_the_rest_is_kept() {
    for (manifest, content) in [single(), tree()] {
        let dir = tempfile::tempdir().unwrap();
        drop(receive(dir.path(), &manifest, &content).await);
        let changed = dir.path().join(&manifest.files[0].path);
        let file = std::fs::OpenOptions::new().write(true).open(&changed).unwrap();
        file.write_all_at(&[255], 500).unwrap();
        let opened = reopen(dir.path(), &manifest).await;
        assert!(opened.finished.is_none());
        assert_eq!(opened.held.len(), manifest.chunks.len() - 1, "only the changed chunk is lost");
        opened.store.put(0, source(5), Bytes::copy_from_slice(&content[..CHUNK])).await.unwrap();
        let finished = opened.store.finish().await.unwrap();
        assert!(finished.path.starts_with(dir.path().join(&manifest.edition_id().to_string()[..8])));
        let mut theirs = [0];
        file_byte(&changed, &mut theirs);
        assert_eq!(theirs, [255]);
    }
}

fn file_byte(path: &Path, byte: &mut [u8; 1]) {
    std::fs::File::open(path).unwrap().read_exact_at(byte, 500).unwrap();
}

#[tokio::test]
async fn a_crash_between_the_note_of_the_end_and_the_end_loses_nothing() {
    for (manifest, content) in [single(), tree()] {
        let dir = tempfile::tempdir().unwrap();
        let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
        put_all(&opened.store, &content).await;
        drop(opened);
        std::fs::write(state(dir.path(), &manifest).join("complete"), br#"{"root":""}"#).unwrap();
        let opened = reopen(dir.path(), &manifest).await;
        assert!(opened.finished.is_none());
        assert_eq!(opened.held.len(), manifest.chunks.len());
        opened.store.finish().await.unwrap();
        reads_back(&opened.store, &content).await;
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_of_laying_out_is_made_good_by_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = tree();
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    put_all(&opened.store, &content).await;
    drop(opened);
    // The first file in place, the second half written in the state folder.
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::fs::write(dir.path().join("bin/run"), &content[..1500]).unwrap();
    std::fs::write(state(dir.path(), &manifest).join("file.part"), b"half").unwrap();
    let opened = reopen(dir.path(), &manifest).await;
    assert_eq!(opened.store.finish().await.unwrap().path, dir.path());
    reads_back(&opened.store, &content).await;
}

#[tokio::test]
async fn an_obstacle_in_the_state_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, _) = single();
    std::fs::create_dir_all(state(dir.path(), &manifest).join("content.part")).unwrap();
    let Err(StoreError::Io { path, .. }) = Store::open(config(dir.path(), &manifest)).await else { panic!("opened") };
    assert!(path.ends_with("content.part"));
}
