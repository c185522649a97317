//! Full disks: a file system of a few MiB is mounted where a terminal receives. That takes root; who runs these tests otherwise is told so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::{Plan, eventually};

use crate::scene::Scene;

const LENGTH: usize = 6 << 20;

/// A small file system in memory, for as long as this lives.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None` where nothing may be mounted.
    fn mount(path: &Path, bytes: usize) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(path).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self { path: path.to_owned() });
        }
        eprintln!("SKIPPED: a file system cannot be mounted here (it takes root), so that full disks are not tested");
        None
    }

    fn resize(&self, bytes: usize) {
        let status = Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(&self.path).status();
        assert!(status.unwrap().success(), "the file system cannot be resized");
    }

    /// Leaves no room.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.path.join("ballast");
        let mut ballast = std::fs::File::create(&path).unwrap();
        let mut bytes = 1 << 20;
        while bytes > 0 {
            // What fails has written nothing more, or not all of it.
            if ballast.write_all(&vec![1; bytes]).is_err() {
                bytes /= 2;
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached, because a terminal that was killed may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

async fn told(scene: &Scene, terminal: usize, event: &str) -> serde_json::Value {
    let what = format!("terminal {terminal} says {event}");
    eventually(&what, Duration::from_secs(60), || async { scene.running[terminal].last(event) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_too_small_is_told_before_anything_is_fetched_and_a_larger_one_is_used_at_once() {
    let mut scene = Scene::start(0, LENGTH, &Plan::default()).await;
    scene.add_terminals(2).await;
    let Some(disk) = SmallDisk::mount(&scene.terminals[0].received(), LENGTH / 2) else { return };
    scene.run_all();
    let full = told(&scene, 0, "disk_full").await;
    let (needed, free) = (full["needed"].as_u64().unwrap(), full["free"].as_u64().unwrap());
    assert!(needed == LENGTH as u64 && free <= LENGTH as u64 / 2, "{full}");
    assert_eq!(full["dir"].as_str().unwrap(), scene.terminals[0].received().to_str().unwrap());
    scene.all_complete(&[1]).await;
    assert_eq!(scene.running[0].verified(), 0);
    disk.resize(4 * LENGTH);
    told(&scene, 0, "disk_room").await;
    scene.all_complete(&[0]).await;
    scene.settled(Duration::from_secs(60)).await;
    scene.books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_full_loses_no_chunk_and_the_transfer_goes_on_when_there_is_room() {
    let mut scene = Scene::start(0, LENGTH, &Plan::default()).await;
    scene.add_terminals(3).await;
    let Some(disk) = SmallDisk::mount(&scene.terminals[0].received(), 3 * LENGTH) else { return };
    scene.run_all();
    scene.running[0].verified_at_least(LENGTH as u64 / 4).await;
    let ballast = disk.fill();
    let full = told(&scene, 0, "disk_full").await;
    assert!(full["needed"].as_u64().unwrap() > 0 && full["free"].as_u64().unwrap() < 1 << 20, "{full}");
    let kept = scene.running[0].verified();
    scene.all_complete(&[1, 2]).await;
    assert!(scene.running[0].last("completed").is_none() && scene.running[0].last("failed").is_none());
    std::fs::remove_file(ballast).unwrap();
    told(&scene, 0, "disk_room").await;
    scene.all_complete(&[0]).await;
    assert!(kept < LENGTH as u64);
    let release = scene.settled(Duration::from_secs(60)).await;
    assert!(release.origin.sent <= release.origin.budget, "{:?}", release.origin);
    let of_full = scene.publisher.deliveries(release.id).await;
    assert!(of_full.iter().all(|delivery| delivery.charged == delivery.price), "{of_full:?}");
    scene.books_balance().await;
}
