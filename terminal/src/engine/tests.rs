//! Whole transfers: several engines in one process, real links, real disks, and a server that plays one release.

use std::path::Path;
use std::sync::Mutex;

use protocol::ws::LeaveReason;
use protocol::{Blake3, TerminalId};
use tokio::sync::oneshot;

use super::*;
use crate::api::FixedToken;
use crate::link::BindPolicy;
use crate::testing::release::{CHUNK, RELEASE, Release, content, id, key, now};

const PATIENCE: Duration = Duration::from_secs(60);

/// An engine in a task of its own.
struct Running {
    events: Arc<Mutex<Vec<EngineEvent>>>,
    shutdown: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<Result<Summary, EngineError>>,
}

fn config(release: &Release, number: u8, dir: &Path) -> EngineConfig {
    let api = Api::new(&release.address).unwrap().with_tokens(Arc::new(FixedToken("token".into())));
    let mut config = EngineConfig::new(api, id(number), key(number), dir.to_owned());
    config.link.bind = BindPolicy::Only(vec!["127.0.0.1".parse().unwrap()]);
    config.link.include_loopback = true;
    config.links.retry_first = Duration::from_millis(100);
    config.only_releases = vec![RELEASE];
    config.exit_when_done = true;
    config
}

fn run(config: EngineConfig) -> Running {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let engine = Engine::new(config, move |event| log.lock().unwrap().push(event));
    let (shutdown, stop) = oneshot::channel::<()>();
    let task = tokio::spawn(engine.run(async move {
        let _ = stop.await;
    }));
    Running { events, shutdown: Some(shutdown), task }
}

impl Running {
    async fn done(mut self) -> Summary {
        let ended = tokio::time::timeout(PATIENCE, &mut self.task).await;
        ended.unwrap_or_else(|_| panic!("the engine did not end: {:?}", self.story())).unwrap().unwrap()
    }

    async fn stop(mut self) -> Result<Summary, EngineError> {
        drop(self.shutdown.take());
        tokio::time::timeout(PATIENCE, self.task).await.expect("the engine did not stop").unwrap()
    }

    async fn sees(&self, wanted: impl Fn(&EngineEvent) -> bool) {
        let seen = async {
            while !self.events.lock().unwrap().iter().any(&wanted) {
                assert!(!self.task.is_finished(), "the engine ended: {:?}", self.story());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("not seen in {:?}", self.story()));
    }

    /// What happened, without the progress but for its end.
    fn story(&self) -> Vec<EngineEvent> {
        let events = self.events.lock().unwrap();
        let (progress, others): (Vec<_>, Vec<_>) = events.iter().cloned().partition(|event| matches!(event, EngineEvent::Progress { .. }));
        others.into_iter().chain(progress.into_iter().last()).collect()
    }

    fn verified(&self) -> u64 {
        let events = self.events.lock().unwrap();
        let progress = events
            .iter()
            .filter_map(|event| if let EngineEvent::Progress { progress, .. } = event { Some(progress.verified.0) } else { None });
        progress.max().unwrap_or(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_completes_an_edition_of_which_the_origin_sent_every_chunk_once() {
    let bytes = content(8 * CHUNK * 16 + 100, 1);
    let numbers = [1, 2, 3, 4];
    let release = Release::start(bytes.clone(), &numbers, Duration::from_millis(1500)).await;
    let dirs: Vec<_> = numbers.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    let engines: Vec<Running> = numbers.iter().zip(&dirs).map(|(number, dir)| run(config(&release, *number, dir.path()))).collect();
    for (engine, dir) in engines.into_iter().zip(&dirs) {
        let events = Arc::clone(&engine.events);
        let summary = engine.done().await;
        assert!(summary.is_complete(), "{summary:?}");
        assert_eq!(summary.swarms[0].blake3, Some(Blake3::of(&bytes)));
        assert_eq!(summary.swarms[0].charged, Some(protocol::Amount(100)));
        assert!(std::fs::read(dir.path().join("film.bin")).unwrap() == bytes);
        let events = events.lock().unwrap();
        assert!(events.iter().any(|event| matches!(event, EngineEvent::Completed { elapsed: Some(_), .. })));
        assert!(!events.iter().any(|event| matches!(event, EngineEvent::Warning { .. })), "{events:?}");
    }
    assert_eq!(release.problems(), Vec::<String>::new());
    assert_eq!(release.origin_sent(), (release.manifest.chunk_count(), 1));
    let mut from_origin = 0;
    for number in numbers {
        let sources = release.sources(number);
        assert!(sources.len() > 1, "{sources:?}");
        from_origin += sources.get(&TerminalId::ORIGIN).copied().unwrap_or(0);
    }
    assert_eq!(from_origin, release.manifest.chunk_count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_terminal_alone_gets_everything_from_the_origin() {
    let bytes = content(CHUNK * 5, 2);
    let release = Release::start(bytes.clone(), &[1], Duration::ZERO).await;
    let dir = tempfile::tempdir().unwrap();
    let summary = run(config(&release, 1, dir.path())).done().await;
    assert_eq!(summary.swarms[0].progress.from_origin.0, bytes.len() as u64);
    assert_eq!(release.origin_sent(), (5, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_the_origin_spoilt_is_fetched_again_and_never_stored() {
    let bytes = content(CHUNK * 8, 3);
    let release = Release::start(bytes.clone(), &[1, 2], Duration::from_millis(500)).await;
    release.corrupt_once(3);
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let engines: Vec<Running> = [1, 2].iter().zip(&dirs).map(|(number, dir)| run(config(&release, *number, dir.path()))).collect();
    for engine in engines {
        assert!(engine.done().await.is_complete());
    }
    assert!(std::fs::read(dirs[1].path().join("film.bin")).unwrap() == bytes);
    assert_eq!(release.origin_sent(), (9, 2), "the spoilt chunk twice, the others once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b13_a_difference_is_applied_to_the_plan_that_it_is_of_and_any_other_is_asked_for_whole() {
    let release = Release::start(content(CHUNK * 4, 5), &[1, 2], Duration::from_secs(600)).await;
    let dir = tempfile::tempdir().unwrap();
    let engine = run(config(&release, 1, dir.path()));
    let epoch_of = |event: &EngineEvent| if let EngineEvent::Plan { epoch, .. } = event { Some(*epoch) } else { None };
    engine.sees(|event| epoch_of(event).is_some()).await;
    let first = engine.events.lock().unwrap().iter().find_map(epoch_of).unwrap();
    release.change_plan(1, first, first + 3);
    engine.sees(|event| epoch_of(event) == Some(first + 3)).await;
    // Said again, it says nothing; said of another plan, the whole one is asked for and told.
    release.change_plan(1, first, first + 3);
    release.change_plan(1, first + 7, first + 9);
    let told_again = async {
        while engine.events.lock().unwrap().iter().filter_map(epoch_of).filter(|epoch| *epoch == first).count() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told_again).await.expect("the whole plan was not asked for");
    let epochs: Vec<u64> = engine.events.lock().unwrap().iter().filter_map(epoch_of).collect();
    assert_eq!(epochs, [first, first + 3, first]);
    engine.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_moves_before_the_opening() {
    let bytes = content(CHUNK * 4, 4);
    let release = Release::start(bytes, &[1, 2], Duration::from_secs(2)).await;
    let opens_at = now().0 + 1_900;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let engines: Vec<Running> = [1, 2].iter().zip(&dirs).map(|(number, dir)| run(config(&release, *number, dir.path()))).collect();
    engines[0].sees(|event| matches!(event, EngineEvent::Opened { .. })).await;
    while now().0 < opens_at {
        assert_eq!(release.origin_sent().0, 0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for engine in engines {
        assert!(engine.done().await.is_complete());
    }
    assert_eq!(release.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_is_stopped_goes_on_where_it_was() {
    let bytes = content(CHUNK * 160, 5);
    let release = Release::start(bytes.clone(), &[1, 2], Duration::from_millis(300)).await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let slow = |number: u8, dir: &Path| {
        let mut config = config(&release, number, dir);
        config.up = BitsPerSecond::from_mbit(30);
        run(config)
    };
    let (first, second) = (slow(1, dirs[0].path()), slow(2, dirs[1].path()));
    let some = |engine: &Running| engine.verified() > (bytes.len() / 4) as u64;
    let reached = async {
        while !some(&first) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap();
    let began = Instant::now();
    let stopped = first.stop().await.unwrap();
    assert!(began.elapsed() < STOP_WITHIN + Duration::from_millis(500));
    assert!(!stopped.is_complete());
    let kept = stopped.swarms[0].progress.verified;
    let again = slow(1, dirs[0].path());
    again.sees(|event| matches!(event, EngineEvent::Opened { verified, .. } if *verified >= kept)).await;
    assert!(again.done().await.is_complete());
    assert!(second.done().await.is_complete());
    assert!(std::fs::read(dirs[0].path().join("film.bin")).unwrap() == bytes);
    assert_eq!(release.problems(), Vec::<String>::new(), "nothing was signed twice");
    let (sent, _) = release.origin_sent();
    assert!(sent <= release.manifest.chunk_count() + 40, "{sent} chunks were sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completed_delivery_is_recognised_by_the_next_run() {
    let bytes = content(CHUNK * 4, 6);
    let dir = tempfile::tempdir().unwrap();
    let release = Release::start(bytes.clone(), &[1], Duration::ZERO).await;
    run(config(&release, 1, dir.path())).done().await;
    let again = run(config(&release, 1, dir.path()));
    again.sees(|event| matches!(event, EngineEvent::Completed { elapsed: None, .. })).await;
    release.leave(LeaveReason::Settled);
    assert!(again.done().await.is_complete());
    assert_eq!(release.origin_sent(), (4, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_dies_is_done_without() {
    let bytes = content(CHUNK * 96, 7);
    let release = Release::start(bytes.clone(), &[1, 2, 3], Duration::from_millis(800)).await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let slow = |number: u8, dir: &Path| {
        let mut config = config(&release, number, dir);
        config.up = BitsPerSecond::from_mbit(40);
        run(config)
    };
    let engines: Vec<Running> = [1, 2, 3].iter().zip(&dirs).map(|(number, dir)| slow(*number, dir.path())).collect();
    let reached = async {
        while engines[2].verified() < (bytes.len() / 5) as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap();
    // Without a word: the task and everything that it holds is gone.
    engines[2].task.abort();
    for engine in &engines[..2] {
        engine.sees(|event| matches!(event, EngineEvent::Completed { .. })).await;
    }
    release.leave(LeaveReason::Settled);
    for (engine, dir) in engines.into_iter().take(2).zip(&dirs) {
        assert!(engine.done().await.is_complete());
        assert!(std::fs::read(dir.path().join("film.bin")).unwrap() == bytes);
    }
    assert_eq!(release.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_uplink_limit_holds_over_all_links() {
    let bytes = content(CHUNK * 48, 8);
    let release = Release::start(bytes.clone(), &[1, 2, 3], Duration::from_millis(800)).await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let engines: Vec<Running> = [1, 2, 3]
        .iter()
        .zip(&dirs)
        .map(|(number, dir)| {
            let mut config = config(&release, *number, dir.path());
            config.up = BitsPerSecond::from_mbit(16);
            run(config)
        })
        .collect();
    let mut elapsed = Duration::ZERO;
    for engine in engines {
        let events = Arc::clone(&engine.events);
        engine.done().await;
        for event in events.lock().unwrap().iter() {
            if let EngineEvent::Completed { elapsed: Some(took), .. } = event {
                elapsed = elapsed.max(*took);
            }
        }
    }
    // 3 MiB to each of two others over three uplinks of 2 MB/s, less what the buckets held at the start.
    let bound = Duration::from_secs_f64((bytes.len() * 2) as f64 / 6e6);
    assert!(elapsed > bound.mul_f64(0.7), "{elapsed:?} is faster than three uplinks allow ({bound:?})");
    // How long it takes beyond that depends on the machine: it is measured, not tested.
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_written_ends_the_engine_with_the_path() {
    let release = Release::start(content(CHUNK, 9), &[1], Duration::ZERO).await;
    let dir = tempfile::tempdir().unwrap();
    let obstacle = dir.path().join(".spillway").join(RELEASE.to_string());
    std::fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
    std::fs::write(&obstacle, b"a file where a folder should be").unwrap();
    let running = run(config(&release, 1, dir.path()));
    let error = tokio::time::timeout(PATIENCE, running.task).await.unwrap().unwrap().unwrap_err();
    let EngineError::Store(StoreError::Io { path, .. }) = &error else { panic!("{error:?}") };
    assert!(path.ends_with(RELEASE.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_to_the_server_costs_no_chunk_and_no_receipt() {
    let bytes = content(CHUNK * 96, 10);
    let release = Release::start(bytes.clone(), &[1, 2], Duration::from_millis(300)).await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let engines: Vec<Running> = [1, 2]
        .iter()
        .zip(&dirs)
        .map(|(number, dir)| {
            let mut config = config(&release, *number, dir.path());
            config.up = BitsPerSecond::from_mbit(20);
            run(config)
        })
        .collect();
    let reached = async {
        while engines[0].verified() < (bytes.len() / 5) as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap();
    release.cut(1);
    engines[0].sees(|event| matches!(event, EngineEvent::Disconnected { .. })).await;
    for (engine, dir) in engines.into_iter().zip(&dirs) {
        let summary = engine.done().await;
        assert!(summary.is_complete());
        assert!(summary.swarms[0].charged.is_some(), "settled, so every receipt has arrived");
        assert!(std::fs::read(dir.path().join("film.bin")).unwrap() == bytes);
    }
    assert_eq!(release.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_changed_on_disk_is_fetched_anew_instead_of_passed_on() {
    // More than the cache holds, so that the first chunks are read from the disk.
    let bytes = content(CHUNK * 200, 11);
    let release = Release::start(bytes.clone(), &[1, 2], Duration::ZERO).await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = run(config(&release, 1, dirs[0].path()));
    first.sees(|event| matches!(event, EngineEvent::Completed { .. })).await;
    let file = std::fs::OpenOptions::new().write(true).open(dirs[0].path().join("film.bin")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[bytes[100] ^ 1], 100).unwrap();
    let second = run(config(&release, 2, dirs[1].path()));
    first.sees(|event| matches!(event, EngineEvent::Warning { text } if text.contains("chunk 0"))).await;
    assert!(second.done().await.is_complete());
    assert!(first.done().await.is_complete());
    assert!(std::fs::read(dirs[1].path().join("film.bin")).unwrap() == bytes);
    assert_eq!(release.origin_sent(), (201, 2));
    assert_eq!(release.problems(), Vec::<String>::new());
    assert!(!release.suspects().iter().any(|(_, _, reason)| *reason == protocol::ws::SuspectReason::Corrupt));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_release_than_the_one_wanted_is_left_alone() {
    let release = Release::start(content(CHUNK, 12), &[1], Duration::ZERO).await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&release, 1, dir.path());
    config.only_releases = vec![ReleaseId::from_bytes([99; 16])];
    let running = run(config);
    running.sees(|event| matches!(event, EngineEvent::Connected { .. })).await;
    let summary = running.stop().await.unwrap();
    assert!(summary.swarms.is_empty() && !summary.is_complete());
    assert_eq!(release.origin_sent(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_is_removed_and_planned_again_at_once_takes_part_again() {
    let bytes = content(CHUNK * 8, 13);
    let release = Release::start(bytes.clone(), &[1], Duration::from_millis(700)).await;
    let dir = tempfile::tempdir().unwrap();
    let running = run(config(&release, 1, dir.path()));
    running.sees(|event| matches!(event, EngineEvent::Opened { .. })).await;
    release.leave(LeaveReason::Removed);
    release.plan_again(1);
    running.sees(|event| matches!(event, EngineEvent::Left { reason: LeaveReason::Removed, .. })).await;
    let summary = running.done().await;
    assert_eq!(summary.swarms.iter().map(|swarm| swarm.left).collect::<Vec<_>>(), [Some(LeaveReason::Removed), Some(LeaveReason::Settled)]);
    assert!(std::fs::read(dir.path().join("film.bin")).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_cannot_be_received_is_told_and_leaves_the_others_alone() {
    let bytes = content(CHUNK * 8, 14);
    let release = Release::start(bytes.clone(), &[1], Duration::from_millis(700)).await;
    let (dir, other) = (tempfile::tempdir().unwrap(), ReleaseId::from_bytes([99; 16]));
    let mut config = config(&release, 1, dir.path());
    config.only_releases = vec![RELEASE, other];
    let running = run(config);
    running.sees(|event| matches!(event, EngineEvent::Opened { .. })).await;
    release.plan_without_edition(1, other);
    running.sees(|event| matches!(event, EngineEvent::Failed { release_id, .. } if *release_id == other)).await;
    // It ends by itself when the second release is received too, and says that not all came.
    let summary = running.done().await;
    assert!(!summary.is_complete());
    let received: Vec<(ReleaseId, bool)> = summary.swarms.iter().map(|swarm| (swarm.release_id, swarm.path.is_some())).collect();
    assert_eq!(received, [(other, false), (RELEASE, true)]);
    assert!(std::fs::read(dir.path().join("film.bin")).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_wanted_release_that_cannot_be_received_ends_the_engine_with_the_reason() {
    let release = Release::start(content(CHUNK, 15), &[1], Duration::from_secs(60)).await;
    let (dir, other) = (tempfile::tempdir().unwrap(), ReleaseId::from_bytes([99; 16]));
    let mut config = config(&release, 1, dir.path());
    config.only_releases = vec![other];
    let running = run(config);
    running.sees(|event| matches!(event, EngineEvent::Connected { .. })).await;
    release.plan_without_edition(1, other);
    let outcome = tokio::time::timeout(PATIENCE, running.task).await.expect("the engine went on").unwrap();
    assert!(matches!(outcome, Err(EngineError::Manifest(_))), "{outcome:?}");
}
