//! Editions that are mostly holes: they go through publishing, a release and the check of the whole in bounded memory, and stay holes.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::rest::{Content, Edition, Release, ReleaseState};
use serde_json::{Value, json};
use tests::program::{Cli, spillway, spillway_within};
use tests::stack::PASSWORD;
use tests::{Person, Plan, Published, Stack, eventually, payload};

/// The most that a process was resident so far.
fn peak_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// A file of this length with some data at its beginning, in its middle and at its end.
fn sparse_file(path: &Path, length: u64, data: usize) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(length).unwrap();
    let data = payload("sparse", data / 3);
    for offset in [0, length / 2 - 12_345, length - data.len() as u64] {
        file.write_all_at(&data, offset).unwrap();
    }
}

fn same(a: &Path, b: &Path) -> bool {
    std::process::Command::new("cmp").arg("-s").arg(a).arg(b).status().unwrap().success()
}

struct Figures {
    length: u64,
    /// Bytes that each terminal had sent to it.
    moved: Vec<u64>,
    published_s: f64,
    delivered_s: f64,
    server_peak: u64,
    publisher_peak: u64,
    terminal_peak: u64,
    on_disk: u64,
}

/// Publishes such a file with the program and releases it to two terminals.
async fn release_of(length: u64, data: usize) -> Figures {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let publisher = stack.cli(&operator, "publisher", 0).await;
    let role = json!({ "role": "publisher" });
    operator.put(&format!("/v1/users/{}/role", publisher.person.user_id), &role).await.expect_ok();
    // A token names the role of its time.
    let login = ["login", "--email", &publisher.person.email, "--password-stdin"];
    let login = spillway(&publisher.config, &login, &format!("{PASSWORD}\n")).await;
    assert!(login.status.success(), "{}", String::from_utf8_lossy(&login.stderr));
    let source = stack.folder.path().join("disk.img");
    sparse_file(&source, length, data);

    let begun = Instant::now();
    let publisher_peak = Arc::new(AtomicU64::new(0));
    let content = publish(&stack, &publisher, &source, &publisher_peak).await;
    let published_s = begun.elapsed().as_secs_f64();
    let person = Person::login(&stack.url, &publisher.person.email).await;
    let content: Content = person.get(&format!("/v1/contents/{}", content["id"].as_str().unwrap())).await.expect();
    let edition: Edition = content.editions[0].clone();
    assert_eq!(edition.length.0, length);
    let published = Published { content, edition };

    let mut terminals = Vec::new();
    for index in 0..2 {
        terminals.push(stack.cli(&operator, &format!("terminal-{index}"), 10_000).await);
    }
    let release: Release = person.schedule(&[&published], &Plan::default()).await;
    for terminal in &terminals {
        terminal.person.applied(&release, terminal.terminal_id, 1, 2_000).await;
    }
    let id = release.id.to_string();
    let begun = Instant::now();
    let running: Vec<_> = terminals.iter().map(|terminal| terminal.run(&["--release", &id])).collect();
    let (mut moved, mut terminal_peak, mut on_disk) = (Vec::new(), 0, 0);
    for running in &running {
        let what = format!("{} completes", running.name);
        let completed = eventually(&what, Duration::from_secs(900), || {
            terminal_peak = terminal_peak.max(running.child.id().and_then(peak_of).unwrap_or(0));
            let completed = running.last("completed");
            async move { completed }
        });
        let completed = completed.await;
        assert_eq!(completed["blake3"].as_str().unwrap(), published.edition.blake3.to_string());
        let path = Path::new(completed["path"].as_str().unwrap());
        on_disk = on_disk.max(std::fs::metadata(path).unwrap().blocks() * 512);
        assert!(same(path, &source), "{} holds other bytes than were published", running.name);
        let progress = running.last("progress").expect("progress");
        moved.push(progress["from_origin"].as_u64().unwrap() + progress["from_peers"].as_u64().unwrap());
    }
    let delivered_s = begun.elapsed().as_secs_f64();
    let settled = eventually("the release is settled", Duration::from_secs(60), || async {
        let release = person.release(release.id).await;
        (release.state == ReleaseState::Settled).then_some(release)
    });
    let release = settled.await;
    assert!(release.origin.sent.0 <= data as u64 + (4 << 20), "the origin sent {}", release.origin.sent.0);
    for delivery in person.deliveries(release.id).await {
        assert_eq!((delivery.charged, delivery.verified.0), (delivery.price, length));
    }
    let server_peak = stack.server_id().and_then(peak_of).expect("the server's memory");
    let publisher_peak = publisher_peak.load(Ordering::Relaxed);
    Figures { length, moved, published_s, delivered_s, server_peak, publisher_peak, terminal_peak, on_disk }
}

async fn publish(stack: &Stack, publisher: &Cli, source: &Path, peak: &Arc<AtomicU64>) -> Value {
    let arguments = ["publish", "--json", "--title", "Disk", source.to_str().unwrap()];
    let peak = Arc::clone(peak);
    let watch = move |process: u32| {
        peak.fetch_max(peak_of(process).unwrap_or(0), Ordering::Relaxed);
    };
    let output = spillway_within(&publisher.config, &arguments, "", Duration::from_secs(1800), watch).await;
    assert!(output.status.success(), "{} {}", String::from_utf8_lossy(&output.stderr), stack.log());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn check(figures: &Figures, data: u64) {
    let Figures { length, moved, published_s, delivered_s, server_peak, publisher_peak, terminal_peak, on_disk } = figures;
    eprintln!(
        "{} MiB with {} MiB of data: published in {published_s:.1} s, delivered and checked in {delivered_s:.1} s; moved {moved:?} bytes; \
         resident at most: server {} MiB, publish {} MiB, run {} MiB; {} MiB on disk",
        length >> 20,
        data >> 20,
        server_peak >> 20,
        publisher_peak >> 20,
        terminal_peak >> 20,
        on_disk >> 20
    );
    // Around each run of data some zeros fall into its chunks; of all others one travels.
    assert!(moved.iter().all(|moved| *moved <= data + (2 << 20)), "{moved:?}");
    assert!(*on_disk <= 2 * data + (4 << 20), "{on_disk} bytes on the disk");
    assert!(*terminal_peak < 100 << 20, "a terminal had {terminal_peak} bytes resident");
    assert!(*publisher_peak < 100 << 20, "publishing had {publisher_peak} bytes resident");
    assert!(*server_peak < 300 << 20, "the server had {server_peak} bytes resident");
}

#[tokio::test(flavor = "multi_thread")]
async fn x09_a_sparse_edition_moves_its_data_and_stays_sparse() {
    let data = 3 << 20;
    check(&release_of(1 << 30, data).await, data as u64);
}

/// `cargo xtask test --only e2e -- --run-ignored only --no-capture -E 'test(x09_measured_sparse)'`; `SPILLWAY_SPARSE_GIB` and `SPILLWAY_DATA_MIB`
/// make another file of it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: the same with 16 GiB"]
async fn x09_measured_sparse_edition_of_16_gib() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (gib, mib) = (number("SPILLWAY_SPARSE_GIB", 16), number("SPILLWAY_DATA_MIB", 48));
    check(&release_of(gib << 30, usize::try_from(mib << 20).unwrap()).await, mib << 20);
}
