//! The store quota (x09): what was useful least recently gives way, what is owed does not, and what cannot fit is refused before it costs anything.

use std::path::PathBuf;
use std::time::Duration;

use protocol::EditionId;
use protocol::rest::{Download, Edition, LedgerTotals, Release, ReleaseState};
use serde_json::json;
use tests::person::money;
use tests::program::Cli;
use tests::{Person, Plan, Published, Running, Stack, eventually, payload};

const LENGTH: usize = 4 << 20;
/// Two editions with their state, and not three.
const FOR_TWO: &str = "10MiB";

/// A publisher with contents on demand, which the origin sends if nobody else does, and a terminal that receives them.
struct Library {
    stack: Stack,
    operator: Person,
    publisher: Person,
    contents: Vec<(Published, Vec<u8>)>,
    terminal: Cli,
}

impl Library {
    async fn open(contents: usize) -> Self {
        let stack = Stack::start().await;
        let operator = stack.operator().await;
        let publisher = stack.publisher(&operator).await;
        let mut library = Vec::new();
        for index in 0..contents {
            let bytes = payload(&format!("volume {index}"), LENGTH);
            let published = publisher.publish(&format!("volume-{index}.bin"), bytes.clone()).await;
            let terms = json!({ "price": money(10), "relay_share": 5000, "fee": 200, "origin_budget": 8 * LENGTH, "limit_s": 600 });
            publisher.put(&format!("/v1/contents/{}/on-demand", published.content.id), &terms).await.expect_ok();
            library.push((published, bytes));
        }
        let terminal = stack.cli(&operator, "reader", 10_000).await;
        Self { stack, operator, publisher, contents: library, terminal }
    }

    fn edition(&self, index: usize) -> &Edition {
        &self.contents[index].0.edition
    }

    fn file(&self, index: usize) -> PathBuf {
        self.terminal.received().join(format!("volume-{index}.bin"))
    }

    /// Whether the volume lies where the terminal receives: whole, or not at all.
    fn has(&self, index: usize) -> bool {
        match std::fs::read(self.file(index)) {
            Ok(bytes) => {
                assert!(bytes == self.contents[index].1, "volume {index} is not what was published");
                true
            }
            Err(_) => false,
        }
    }

    /// Downloads a volume and waits for its end.
    async fn get(&self, who: &Cli, index: usize, arguments: &[&str]) -> (Running, Download) {
        let mut getting = who.get(self.contents[index].0.content.id, arguments);
        assert_eq!(getting.completed().await, self.edition(index).blake3.to_string());
        getting.done().await;
        let id = getting.last("download").expect("a download")["download"]["id"].as_str().expect("an id").to_owned();
        let download = eventually("the download is settled", Duration::from_secs(60), || async {
            let now: Download = who.person.get(&format!("/v1/downloads/{id}")).await.expect();
            now.completed_at.is_some().then_some(now)
        });
        (getting, download.await)
    }

    /// The terminal has won a place in a release of this volume.
    async fn release(&self, index: usize, plan: &Plan) -> Release {
        let release = self.publisher.schedule(&[&self.contents[index].0], plan).await;
        self.terminal.person.applied(&release, self.terminal.terminal_id, 1, 2_000).await;
        release
    }

    /// What the terminal says of a volume that was removed.
    async fn evicted(&self, running: &Running, index: usize) -> serde_json::Value {
        let event = running.event("evicted").await;
        assert_eq!(PathBuf::from(event["path"].as_str().expect("a path")), self.file(index), "{event}");
        assert_eq!(event["edition_id"].as_str().unwrap().parse::<EditionId>().unwrap(), self.edition(index).id);
        assert!(event["bytes"].as_u64().unwrap() >= LENGTH as u64, "{event}");
        event
    }

    async fn books_balance(&self) {
        let totals: LedgerTotals = self.operator.get("/v1/ledger/totals").await.expect();
        assert_eq!((totals.sum.amount, totals.held.amount), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x09_the_quota_evicts_what_was_useful_least_recently_and_nobody_is_sent_here_for_it_any_more() {
    let library = Library::open(3).await;
    library.get(&library.terminal, 0, &[]).await;
    library.get(&library.terminal, 1, &[]).await;
    let quota = ["--store-quota", FOR_TWO];
    // The older one is of use to somebody: now the other one is the one that nobody has asked for longest.
    let serving = library.terminal.serve(&quota);
    serving.event("connected").await;
    let reader = library.terminal.terminal_id;
    let customer = library.stack.cli(&library.operator, "first", 1_000).await;
    let (_, served) = library.get(&customer, 0, &[]).await;
    assert!(served.sources.iter().any(|source| source.terminal_id == reader && source.bytes.0 > 0), "{:?}", served.sources);
    assert!(serving.last("evicted").is_none() && library.has(0) && library.has(1), "nothing goes before the room is needed");

    library.release(2, &Plan::default()).await;
    library.evicted(&serving, 1).await;
    assert_eq!(serving.completed().await, library.edition(2).blake3.to_string());
    assert!(library.has(0) && !library.has(1) && library.has(2));
    assert_eq!(serving.events().iter().filter(|event| event["event"] == "evicted").count(), 1);
    let state = library.terminal.received().join(".spillway");
    let names = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name());
    let states: Vec<_> = names.filter(|name| name != "layout.lock").collect();
    assert_eq!(states.len(), 2, "{states:?}");

    // The server knows: who asks for it is sent elsewhere, and who asks for the others comes here.
    let second = library.stack.cli(&library.operator, "second", 1_000).await;
    let (_, elsewhere) = library.get(&second, 1, &[]).await;
    assert!(elsewhere.sources.iter().all(|source| source.terminal_id != reader), "{:?}", elsewhere.sources);
    let (_, here) = library.get(&second, 0, &[]).await;
    assert!(here.sources.iter().any(|source| source.terminal_id == reader && source.bytes.0 > 0), "{:?}", here.sources);
}

#[tokio::test(flavor = "multi_thread")]
async fn x09_an_edition_that_is_owed_is_not_evicted_and_the_new_one_begins_when_it_is_owed_no_more() {
    let library = Library::open(2).await;
    // Somebody else has applied and does not come: the release goes on, and this terminal is its relay.
    let absent = library.stack.cli(&library.operator, "absent", 10_000).await;
    let first = library.release(0, &Plan { limit_s: 600, ..Plan::default() }).await;
    absent.person.applied(&first, absent.terminal_id, 1, 2_000).await;
    let mut running = library.terminal.serve(&[]);
    assert_eq!(running.completed().await, library.edition(0).blake3.to_string());
    running.interrupt().await;

    // Begun again, the terminal hears of both releases at once.
    let second = library.release(1, &Plan { limit_s: 600, ..Plan::default() }).await;
    eventually("the second release has begun", Duration::from_secs(60), || async {
        (library.publisher.release(second.id).await.state == ReleaseState::Live).then_some(())
    })
    .await;
    let running = library.terminal.serve(&["--store-quota", "6MiB"]);
    let full = running.event("quota_full").await;
    assert_eq!((full["quota"].as_u64(), full["protected"].as_array().map(Vec::len)), (Some(6 << 20), Some(1)), "{full}");
    assert!(["owed", "in_use"].contains(&full["protected"][0]["why"].as_str().unwrap()), "{full}");
    assert_eq!(full["protected"][0]["edition_id"].as_str().unwrap(), library.edition(0).id.to_string());
    assert!(full["needed"].as_u64().unwrap() >= LENGTH as u64 && full["missing"].as_u64().unwrap() > 0, "{full}");
    assert_eq!(library.publisher.release(first.id).await.state, ReleaseState::Live);
    assert!(running.last("evicted").is_none() && library.has(0));
    let of_second = library.terminal.received().join(".spillway").join(second.id.to_string()).join(library.edition(1).id.to_string());
    assert!(!of_second.exists(), "nothing was begun");
    assert_eq!(library.publisher.release(second.id).await.origin.sent.0, 0, "nothing was fetched");

    library.publisher.post(&format!("/v1/releases/{}/abort", first.id), &json!({})).await.expect_ok();
    running.event("quota_room").await;
    library.evicted(&running, 0).await;
    // That the first one lies here whole was told at the start.
    let second_hash = library.edition(1).blake3.to_string();
    eventually("the second edition is complete", Duration::from_secs(120), || async {
        running.events().iter().any(|event| event["event"] == "completed" && event["blake3"] == second_hash.as_str()).then_some(())
    })
    .await;
    assert!(!library.has(0) && library.has(1));
    eventually("the second release is settled", Duration::from_secs(60), || async {
        (library.publisher.release(second.id).await.state == ReleaseState::Settled).then_some(())
    })
    .await;
    library.books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x09_a_quota_that_is_too_small_is_refused_before_anything_is_held_fetched_or_removed() {
    let library = Library::open(2).await;
    library.get(&library.terminal, 0, &[]).await;
    let wallet = library.terminal.person.wallet().await;
    let content = library.contents[1].0.content.id.to_string();
    let dir = library.terminal.received();
    let refused = library.terminal.call(&["get", &content, "--dir", dir.to_str().unwrap(), "--store-quota", "1MiB"]).await;
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("the store quota is 1.0 MiB") && told.contains("--store-quota of at least 5MiB"), "{told}");
    assert_eq!(library.terminal.person.wallet().await, wallet, "nothing is held");

    // The same for what was won; other releases are not concerned.
    let release = library.release(1, &Plan::default()).await;
    let id = release.id.to_string();
    let mut running = library.terminal.run(&["--release", &id, "--store-quota", "1MiB"]);
    let status = tokio::time::timeout(Duration::from_secs(60), running.child.wait()).await.expect("it ends").unwrap();
    let log = running.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("--store-quota of at least 5MiB"), "{log}");
    assert!(running.last("evicted").is_none() && library.has(0) && !library.has(1));
    assert_eq!(library.publisher.release(release.id).await.origin.sent.0, 0, "nothing was fetched");

    // With one that is large enough it comes, and takes the place of the other.
    let mut running = library.terminal.run(&["--release", &id, "--store-quota", "6MiB"]);
    library.evicted(&running, 0).await;
    assert_eq!(running.completed().await, library.edition(1).blake3.to_string());
    running.done().await;
    assert!(!library.has(0) && library.has(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn x09_a_registered_quota_counts_for_get_and_an_update_takes_the_chunks_before_the_older_edition_goes() {
    let library = Library::open(1).await;
    let email = library.terminal.person.email.clone();
    let login = ["login", "--server", &library.stack.url, "--email", &email, "--password-stdin", "--store-quota", "6MiB"];
    let output = tests::program::spillway(&library.terminal.config, &login, &format!("{}\n", tests::stack::PASSWORD)).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library.get(&library.terminal, 0, &[]).await;
    // The next edition begins with something new; the rest is the older one.
    let (first, old) = &library.contents[0];
    let new = [&payload("preface", 100_000)[..], old].concat();
    let second = library.publisher.publish_into(&first.content, "volume-0b.bin", new.clone()).await;
    let mut getting = library.terminal.get(first.content.id, &["--edition", "volume-0b.bin"]);
    assert_eq!(getting.completed().await, second.edition.blake3.to_string());
    getting.done().await;
    library.evicted(&getting, 0).await;
    let opened = getting.last("opened").expect("what there is to fetch");
    assert!(opened["to_fetch"].as_u64().unwrap() < LENGTH as u64 / 2, "the older edition's chunks were used: {opened}");
    assert!(!library.file(0).exists());
    assert!(std::fs::read(library.terminal.received().join("volume-0b.bin")).unwrap() == new);
    library.books_balance().await;
}
