//! Sealed pre-delivery: everything is there before the start, and nobody can read it before the second of its rank.

use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::manifest::STATE_FOLDER;
use protocol::rest::{Delivery, ReleaseState};
use serde_json::Value;
use tests::{Plan, Running, eventually};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::scene::Scene;

const SEALED_WITHIN: Duration = Duration::from_secs(60);
/// From the second until the content is open and laid out; a machine that is busy with other tests takes some of it.
const OPEN_WITHIN: time::Duration = time::Duration::seconds(20);

fn at(event: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(event["at"].as_str().expect("a time"), &Rfc3339).expect("a time")
}

async fn sealed(running: &Running) -> Value {
    eventually(&format!("{} has everything, sealed", running.name), SEALED_WITHIN, || async { running.last("sealed") }).await
}

async fn until(moment: OffsetDateTime) {
    tokio::time::sleep(Duration::try_from(moment - OffsetDateTime::now_utc()).unwrap_or_default()).await;
}

impl Scene {
    fn state(&self, terminal: usize) -> PathBuf {
        let release = self.terminals[terminal].received().join(STATE_FOLDER).join(self.release.id.to_string());
        release.join(self.published.edition.id.to_string())
    }

    fn part(&self, terminal: usize) -> Vec<u8> {
        std::fs::read(self.state(terminal).join("content.part")).expect("what has arrived")
    }

    fn second_of(&self, rank: u32) -> OffsetDateTime {
        self.release.waves.iter().find(|wave| wave.rank == rank).expect("the rank has a second").opens_at
    }
}

/// Files anywhere below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { vec![entry.path()] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_sixteen_terminals_have_everything_before_the_start_and_each_rank_opens_it_at_its_second() {
    let ranks = vec![(100, 0, 6), (60, 3, 6), (40, 6, 6)];
    let plan = Plan { ranks, sealed: true, closes_in_ms: 12_000, starts_in_ms: 40_000, ..Plan::default() };
    let mut scene = Scene::set_on(&[], 16, 4 << 20, &plan).await;
    scene.run_all_with(&["--up-mbit", "40", "--down-mbit", "200"]);
    let starts_at = scene.release.starts_at;
    for running in &scene.running {
        let event = sealed(running).await;
        assert!(at(&event) < starts_at, "{} had everything only at {}", running.name, at(&event));
    }
    assert_eq!(scene.publisher.release(scene.release.id).await.state, ReleaseState::Live);
    until(starts_at - time::Duration::seconds(1)).await;
    let parts: Vec<Vec<u8>> = (0..16).map(|terminal| scene.part(terminal)).collect();
    let names: Vec<PathBuf> = scene.terminals.iter().flat_map(|terminal| files(&terminal.received())).collect();
    assert!(OffsetDateTime::now_utc() < starts_at, "the look was early enough");
    assert!(!names.iter().any(|path| path.ends_with("key") || path.ends_with("edition.bin")), "{names:?}");
    for (terminal, part) in parts.iter().enumerate() {
        assert_eq!(part.len(), scene.bytes.len());
        let alike = part.iter().zip(&scene.bytes).filter(|(sealed, plain)| sealed == plain).count();
        assert!(alike < part.len() / 100, "terminal {terminal}: {alike} of {} bytes are the content's own", part.len());
    }
    scene.all_complete(&(0..16).collect::<Vec<_>>()).await;
    let deliveries: Vec<Delivery> = scene.publisher.deliveries(scene.release.id).await;
    let (mut key_late, mut open_late) = (time::Duration::ZERO, time::Duration::ZERO);
    for (terminal, running) in scene.terminals.iter().zip(&scene.running) {
        let rank = deliveries.iter().find(|delivery| delivery.terminal_id == terminal.terminal_id).expect("it won").rank;
        let [key, open] = ["key_came", "completed"].map(|event| at(&running.last(event).unwrap()) - scene.second_of(rank));
        assert!(key >= time::Duration::ZERO, "{} of rank {rank} had its key {key} early", running.name);
        assert!(open < OPEN_WITHIN, "{} of rank {rank} opened it {open} late", running.name);
        (key_late, open_late) = (key_late.max(key), open_late.max(open));
    }
    println!(
        "of 16 terminals the last had its key {key_late} after its rank's second, and had opened and laid out {} bytes after {open_late}",
        scene.bytes.len()
    );
    let key = std::fs::read_to_string(scene.state(0).join("key")).unwrap();
    assert_eq!(key.len(), 64);
    assert!(!scene.stack.log().contains(&key), "a key is in the log");
    assert!(scene.running.iter().all(|running| !running.log().contains(&key)));
    for running in &mut scene.running {
        running.done().await;
    }
    scene.settled(Duration::from_secs(60)).await;
    scene.books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_a_terminal_that_was_away_at_its_second_gets_its_key_on_return() {
    let plan = Plan { ranks: vec![(100, 0, 3)], sealed: true, closes_in_ms: 5_000, starts_in_ms: 20_000, ..Plan::default() };
    let mut scene = Scene::start(2, 1 << 20, &plan).await;
    for running in &scene.running {
        sealed(running).await;
    }
    scene.running[1].kill().await;
    scene.all_complete(&[0]).await;
    scene.running[0].done().await;
    // What had arrived is paid for: it was there, and the key could be had.
    scene.settled(Duration::from_secs(60)).await;
    assert!(!scene.state(1).join("key").exists());
    scene.running[1] = scene.run(1);
    scene.all_complete(&[1]).await;
    scene.running[1].done().await;
    scene.books_balance().await;
    // Nothing is left to open.
    let mut again = scene.run(1);
    let status = again.child.wait().await.unwrap();
    assert_ne!(status.code(), Some(101), "{}", again.log());
    assert!(again.last("sealed").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_keys_are_given_although_the_server_dies_and_redis_loses_everything_at_the_second() {
    let plan = Plan { ranks: vec![(100, 0, 3)], sealed: true, closes_in_ms: 5_000, starts_in_ms: 20_000, ..Plan::default() };
    let mut scene = Scene::start(3, 1 << 20, &plan).await;
    for running in &scene.running {
        sealed(running).await;
    }
    until(scene.release.starts_at - time::Duration::milliseconds(500)).await;
    scene.stack.kill_server().await;
    scene.stack.lose_redis();
    until(scene.release.starts_at + time::Duration::seconds(1)).await;
    assert!(scene.running.iter().all(|running| running.last("completed").is_none()), "nobody had the key beforehand");
    scene.stack.start_server().await;
    scene.all_complete(&[0, 1, 2]).await;
    for running in &mut scene.running {
        running.done().await;
    }
    scene.settled(Duration::from_secs(60)).await;
    scene.books_balance().await;
}
