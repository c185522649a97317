//! Taking a delivery out of a folder.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::store::evict;

pub(super) fn place(manifest: &Manifest) -> Place {
    (ReleaseId::from_bytes([1; 16]), manifest.edition_id())
}

/// Everything below a folder but its state: path and content.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != STATE_FOLDER) {
            let below = entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if entry.file_type().unwrap().is_dir() {
                found.insert(format!("{below}/"), Vec::new());
                folders.push(entry.path());
            } else {
                found.insert(below, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

fn paths(dir: &Path) -> Vec<String> {
    files(dir).into_keys().collect()
}

/// What is left of the state of everything, lock files included.
fn states(dir: &Path) -> Vec<String> {
    let states = dir.join(STATE_FOLDER);
    let entries = std::fs::read_dir(&states).into_iter().flatten().map(Result::unwrap);
    entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name != "layout.lock").collect()
}

/// Waits until the thread of a dropped store has let go of its files.
pub(super) async fn evicted(dir: &Path, place: Place) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        match Store::evict(dir.to_owned(), place).await {
            Err(StoreError::InUse(_)) if tokio::time::Instant::now() < deadline => tokio::task::yield_now().await,
            other => return other.unwrap(),
        }
    }
}

pub(super) async fn received(dir: &Path, release: u8, manifest: &Arc<Manifest>, content: &[u8]) -> Finished {
    let config = StoreConfig { release_id: ReleaseId::from_bytes([release; 16]), ..config(dir, manifest) };
    let opened = Store::open(config).await.unwrap();
    put_all(&opened.store, content).await;
    opened.store.finish().await.unwrap()
}

pub(super) async fn kept_in(dir: &Path) -> Vec<Kept> {
    Store::kept(dir.to_owned(), single().0).await.unwrap()
}

#[tokio::test]
async fn x09_everything_that_was_laid_out_goes_with_its_state_and_nothing_else_does() {
    for (manifest, content) in [single(), tree()] {
        let dir = tempfile::tempdir().unwrap();
        // The person's own, among what will be laid out.
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/own.txt"), b"mine").unwrap();
        let before = files(dir.path());
        received(dir.path(), 1, &manifest, &content).await;
        assert!(files(dir.path()).len() > before.len());
        evicted(dir.path(), place(&manifest)).await;
        assert_eq!(files(dir.path()), before);
        assert_eq!(states(dir.path()), Vec::<String>::new());
        assert!(Store::complete_editions(dir.path().to_owned()).await.is_empty() && kept_in(dir.path()).await.is_empty());
        Store::evict(dir.path().to_owned(), place(&manifest)).await.unwrap();
        // It can be received again.
        received(dir.path(), 1, &manifest, &content).await;
        assert_eq!(Store::complete_editions(dir.path().to_owned()).await, [place(&manifest)]);
    }
}

#[tokio::test]
async fn x09_what_a_person_has_changed_replaced_or_linked_stays_and_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = tree();
    received(dir.path(), 1, &manifest, &content).await;
    let counted = kept_in(dir.path()).await[0].bytes();
    // Written to; the same bytes as another file; a second name elsewhere.
    let changed = std::fs::File::options().write(true).open(dir.path().join("bin/run")).unwrap();
    changed.write_all_at(b"changed", 0).unwrap();
    let copy = std::fs::read(dir.path().join("data/a/b.txt")).unwrap();
    std::fs::rename(dir.path().join("data/a/b.txt"), dir.path().join("moved.txt")).unwrap();
    std::fs::write(dir.path().join("data/a/b.txt"), &copy).unwrap();
    std::fs::hard_link(dir.path().join("top.txt"), dir.path().join("again.txt")).unwrap();
    let now = kept_in(dir.path()).await[0].bytes();
    assert!(now.0 + 3 * 512 <= counted.0, "{now} of {counted}");
    let before = files(dir.path());
    evicted(dir.path(), place(&manifest)).await;
    let mut expected = before;
    expected.remove("bin/empty").expect("nobody has touched it");
    assert_eq!(files(dir.path()), expected);
}

#[tokio::test]
async fn x09_a_file_that_lay_there_before_is_the_persons_even_if_it_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = tree();
    std::fs::write(dir.path().join("top.txt"), &content[2700..]).unwrap();
    received(dir.path(), 1, &manifest, &content).await;
    evicted(dir.path(), place(&manifest)).await;
    assert_eq!(paths(dir.path()), ["top.txt"]);
    let (manifest, content) = single();
    std::fs::write(dir.path().join("film.bin"), &content).unwrap();
    received(dir.path(), 1, &manifest, &content).await;
    assert!(kept_in(dir.path()).await[0].deliveries[0].is_whole);
    evicted(dir.path(), place(&manifest)).await;
    assert_eq!(paths(dir.path()), ["film.bin", "top.txt"]);
}

#[tokio::test]
async fn x09_files_that_two_deliveries_need_stay_until_the_last_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (small, content_of_small) = manifest(&[("one", 1500, false), ("two", 1200, false)], true);
    let (large, content_of_large) = manifest(&[("one", 1500, false), ("two", 1200, false), ("three", 900, false)], true);
    received(dir.path(), 1, &small, &content_of_small).await;
    received(dir.path(), 1, &large, &content_of_large).await;
    received(dir.path(), 2, &small, &content_of_small).await;
    let all = kept_in(dir.path()).await;
    assert_eq!((all.len(), all[0].deliveries.len()), (1, 3), "they go together or not at all: {all:?}");
    let on_disk: u64 = ["one", "two", "three"].iter().map(|name| dir.path().join(name).metadata().unwrap().blocks() * 512).sum();
    assert!(all[0].bytes().0 >= on_disk && all[0].bytes().0 < 2 * on_disk + (64 << 10), "{all:?}");
    // As after a crash in the middle of them.
    evicted(dir.path(), place(&small)).await;
    assert_eq!(paths(dir.path()), ["one", "three", "two"]);
    let (held, _) = Store::open_complete(dir.path().to_owned(), ReleaseId::from_bytes([2; 16]), small.edition_id()).await.unwrap().unwrap();
    reads_back(&held, &content_of_small).await;
    drop(held);
    evicted(dir.path(), place(&large)).await;
    assert_eq!(paths(dir.path()), ["one", "two"]);
    evicted(dir.path(), (ReleaseId::from_bytes([2; 16]), small.edition_id())).await;
    assert!(paths(dir.path()).is_empty() && states(dir.path()).is_empty());
}

#[tokio::test]
async fn x09_nothing_is_removed_while_files_are_looked_at_and_laid_out() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    received(dir.path(), 1, &manifest, &content).await;
    evictable(dir.path(), &manifest).await;
    let laying_out = crate::store::laid::guard(&crate::store::folder::Folder::existing(dir.path()).unwrap(), false).unwrap();
    let (begun, is_begun) = std::sync::mpsc::channel();
    let (root, place) = (dir.path().to_owned(), place(&manifest));
    let evicting = std::thread::spawn(move || {
        evict::evict(&root, place, &mut || {
            let _ = begun.send(());
            Ok(())
        })
    });
    // The second step is behind the rename; the next one would remove the file.
    (0..2).for_each(|_| is_begun.recv_timeout(std::time::Duration::from_secs(10)).unwrap());
    assert!(is_begun.recv_timeout(std::time::Duration::from_millis(200)).is_err() && dir.path().join("film.bin").exists());
    drop(laying_out);
    evicting.join().unwrap().unwrap();
    assert!(paths(dir.path()).is_empty() && states(dir.path()).is_empty());
}

#[tokio::test]
async fn x09_what_is_open_is_not_taken_out_and_what_was_begun_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = single();
    let opened = Store::open(config(dir.path(), &manifest)).await.unwrap();
    opened.store.put(0, source(5), Bytes::copy_from_slice(&content[..CHUNK])).await.unwrap();
    let refused = Store::evict(dir.path().to_owned(), place(&manifest)).await;
    assert!(matches!(refused, Err(StoreError::InUse(_))), "{refused:?}");
    assert_eq!(&opened.store.read(0).await.unwrap()[..], &content[..CHUNK]);
    let all = kept_in(dir.path()).await;
    assert!(all.len() == 1 && !all[0].deliveries[0].is_whole && all[0].bytes().0 >= 4096, "{all:?}");
    assert_eq!(all[0].path, dir.path().join("film.bin"));
    drop(opened);
    evicted(dir.path(), place(&manifest)).await;
    assert!(states(dir.path()).is_empty());
    assert!(reopen(dir.path(), &manifest).await.held.is_empty(), "it begins anew");
}

/// Ends the eviction before its step `at`, as a killed process would.
fn evict_until(dir: &Path, place: Place, at: usize) -> bool {
    let mut steps = 0;
    let result = evict::evict(dir, place, &mut || {
        steps += 1;
        if steps > at { Err(StoreError::Stopped) } else { Ok(()) }
    });
    match result {
        Ok(()) => true,
        Err(StoreError::Stopped) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn x09_an_eviction_that_is_killed_at_any_point_has_not_happened_or_is_finished_by_the_next_start() {
    let (manifest, content) = tree();
    let (other, of_other) = self::manifest(&[("bin/run", 1500, true), ("other.txt", 800, false)], true);
    for at in 0.. {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("own.txt"), b"mine").unwrap();
        received(dir.path(), 1, &manifest, &content).await;
        received(dir.path(), 3, &other, &of_other).await;
        let all = files(dir.path());
        // Its threads may still be ending.
        evictable(dir.path(), &manifest).await;
        let is_done = evict_until(dir.path(), place(&manifest), at);
        let held = Store::open_complete(dir.path().to_owned(), place(&manifest).0, place(&manifest).1).await.ok().flatten();
        let listed = Store::complete_editions(dir.path().to_owned()).await;
        match held {
            // Nothing has happened: every chunk that it claims is there.
            Some((held, _)) => {
                assert!(listed.contains(&place(&manifest)) && !is_done, "step {at}");
                reads_back(&held, &content).await;
                assert_eq!(files(dir.path()), all, "step {at}");
            }
            None => {
                assert!(!listed.contains(&place(&manifest)), "step {at}");
                // A person's file in a place that has just become free is not mistaken for the one that lay there.
                std::fs::create_dir_all(dir.path().join("data/a")).unwrap();
                if !dir.path().join("data/a/b.txt").exists() {
                    std::fs::write(dir.path().join("data/a/b.txt"), b"new").unwrap();
                }
                Store::sweep(dir.path().to_owned()).await.unwrap();
                let left = files(dir.path());
                let mut expected = vec!["bin/", "bin/run"];
                if let Some(new) = left.get("data/a/b.txt") {
                    assert_eq!(new, b"new", "step {at}");
                    expected.extend(["data/", "data/a/", "data/a/b.txt"]);
                }
                expected.extend(["other.txt", "own.txt"]);
                assert_eq!(left.keys().collect::<Vec<_>>(), expected, "step {at}");
                assert_eq!(states(dir.path()), [ReleaseId::from_bytes([3; 16]).to_string()], "step {at}");
                let (other_store, _) = Store::open_complete(dir.path().to_owned(), ReleaseId::from_bytes([3; 16]), other.edition_id())
                    .await
                    .unwrap()
                    .expect("the other one is as it was");
                reads_back(&other_store, &of_other).await;
            }
        }
        if is_done {
            assert!(at > 10, "it has more steps than {at}");
            return;
        }
    }
}

/// Waits until nobody has a delivery open.
async fn evictable(dir: &Path, manifest: &Manifest) {
    let folder = crate::store::folder::Folder::existing(&state(dir, manifest)).unwrap();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    while crate::store::opening::lock(&folder).is_err() {
        assert!(tokio::time::Instant::now() < deadline, "somebody has it open");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn x09_a_store_that_lays_out_again_after_a_crash_still_knows_its_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, content) = tree();
    received(dir.path(), 1, &manifest, &content).await;
    // As if it had died before it noted the end: the files are there, and the part file is.
    std::fs::remove_file(state(dir.path(), &manifest).join("complete")).unwrap();
    evictable(dir.path(), &manifest).await;
    let opened = reopen(dir.path(), &manifest).await;
    put_all(&opened.store, &content).await;
    opened.store.finish().await.unwrap();
    drop(opened);
    evicted(dir.path(), place(&manifest)).await;
    assert!(paths(dir.path()).is_empty(), "{:?}", paths(dir.path()));
}

#[tokio::test]
async fn x09_nothing_is_removed_while_it_is_not_known_what_others_need() {
    let dir = tempfile::tempdir().unwrap();
    let (small, content_of_small) = manifest(&[("one", 1500, false)], true);
    let (large, content_of_large) = manifest(&[("one", 1500, false), ("two", 1200, false)], true);
    received(dir.path(), 1, &large, &content_of_large).await;
    received(dir.path(), 2, &small, &content_of_small).await;
    let of_small = dir.path().join(STATE_FOLDER).join(ReleaseId::from_bytes([2; 16]).to_string()).join(small.edition_id().to_string());
    std::fs::rename(of_small.join("laid"), dir.path().join("list")).unwrap();
    std::fs::create_dir(of_small.join("laid")).unwrap();
    evictable(dir.path(), &large).await;
    let refused = Store::evict(dir.path().to_owned(), place(&large)).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Io { path, .. } if path.ends_with("laid")), "{refused:?}");
    let refused = Store::kept(dir.path().to_owned(), Arc::clone(&small)).await.unwrap_err();
    assert!(refused.to_string().contains("laid"), "{refused}");
    assert_eq!(paths(dir.path()), ["list", "one", "two"]);
    // When it is known again, the rest goes.
    std::fs::remove_dir(of_small.join("laid")).unwrap();
    std::fs::rename(dir.path().join("list"), of_small.join("laid")).unwrap();
    Store::sweep(dir.path().to_owned()).await.unwrap();
    assert_eq!(paths(dir.path()), ["one"]);
}

#[tokio::test]
async fn x09_who_comes_while_a_delivery_is_being_removed_does_not_begin_in_what_is_about_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let (manifest, _) = single();
    drop(reopen(dir.path(), &manifest).await);
    evictable(dir.path(), &manifest).await;
    let path = state(dir.path(), &manifest);
    let folder = |path: &Path| crate::store::folder::Folder::existing(path).unwrap();
    let (release, opened, edition) = (folder(path.parent().unwrap()), folder(&path), manifest.edition_id().to_string());
    let lock = || crate::store::opening::lock_at(&release, &edition, &opened);
    assert!(lock().is_ok());
    // Somebody else takes it out, and has removed the lock already.
    let evicted = dir.path().join(STATE_FOLDER).join("evicted");
    std::fs::create_dir(&evicted).unwrap();
    std::fs::rename(&path, evicted.join("gone")).unwrap();
    std::fs::remove_file(evicted.join("gone/lock")).unwrap();
    assert!(matches!(lock(), Err(StoreError::InUse(_))), "moved");
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(lock(), Err(StoreError::InUse(_))), "another one is in its place");
    std::fs::remove_dir_all(&evicted).unwrap();
    assert!(matches!(lock(), Err(StoreError::InUse(_))), "removed");
    assert!(reopen(dir.path(), &manifest).await.held.is_empty(), "it begins anew");
}
