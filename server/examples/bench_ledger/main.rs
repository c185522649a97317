//! Postings to the ledger per second, beside `pgbench` on the same Postgres. `cargo xtask bench ledger` builds it, starts a Postgres that flushes every commit,
//! and runs it.
//!
//! One posting is what settling a delivery posts: a hold is resolved, a wallet pays, another one, a publisher and the platform are paid, in one transaction.
//! pgbench writes the same rows into tables with the same columns, indexes and checks, one transaction per posting, with as many clients; but its tables have no
//! triggers, and it reads nothing and checks nothing. The two run by turns, so that what else the machine does meets both.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use protocol::rest::TransferKind;
use protocol::{Amount, UserId};
use rules::ledger::{AccountRef, Transfer};
use server::store::Store;
use server::store::testing::TestDatabase;
use server::store::testing::crowd::Crowd;
use time::OffsetDateTime;

/// The least that the ledger must reach of what pgbench does, with payments to many publishers and to one.
const RATIO_MIN: f64 = 0.5;
const HOT_RATIO_MIN: f64 = 0.4;
const WALLETS: u32 = 1_000;
const PRICE: i64 = 1_000;
const EARNED: i64 = 490;
const FEE: i64 = 20;

const PLAIN_TABLES: &str = include_str!("plain.sql");
const POSTING: &str = include_str!("posting.pgbench");

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("bench_ledger: {message}");
            return ExitCode::from(2);
        }
    };
    // One thread for all clients, as pgbench has it, and as each worker of the service has its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let measured = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(measure(&options)));
    match measured.and_then(|figures| figures.tell(&options).map(|()| figures)) {
        Ok(figures) if figures.ratio() >= RATIO_MIN && figures.hot_ratio() >= HOT_RATIO_MIN => ExitCode::SUCCESS,
        Ok(_) => {
            eprintln!("bench_ledger: below the limits of {RATIO_MIN} and, with one publisher, {HOT_RATIO_MIN}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench_ledger: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug)]
struct Options {
    pgbench: String,
    /// Of each measurement; a multiple of `clients`.
    postings: u32,
    clients: u32,
    runs: u32,
    json: Option<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { pgbench: "pgbench".to_owned(), postings: 20_000, clients: 8, runs: 3, json: None };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number =
                || value.parse::<u32>().ok().filter(|&number| number > 0).ok_or_else(|| format!("{name} {value} is no number from 1 on"));
            match name.as_str() {
                "--pgbench" => options.pgbench = value,
                "--postings" => options.postings = number()?,
                "--clients" => options.clients = number()?,
                "--runs" => options.runs = number()?,
                "--json" => options.json = Some(value),
                _ => return Err(format!("{name} is no option: --pgbench PROGRAM, --postings N, --clients N, --runs N, --json FILE")),
            }
        }
        options.postings = options.postings.div_ceil(options.clients) * options.clients;
        Ok(options)
    }
}

/// Whom the postings pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Publishers {
    Many,
    One,
}

impl Publishers {
    fn count(self) -> u32 {
        match self {
            Self::Many => 1_000,
            Self::One => 1,
        }
    }
}

/// Postings per second.
#[derive(Debug, Clone, Copy)]
struct Run {
    publishers: Publishers,
    ledger: f64,
    pgbench: f64,
}

#[derive(Debug)]
struct Figures {
    runs: Vec<Run>,
}

impl Figures {
    fn ratio(&self) -> f64 {
        self.median(Publishers::Many)
    }

    fn hot_ratio(&self) -> f64 {
        self.median(Publishers::One)
    }

    fn median(&self, publishers: Publishers) -> f64 {
        let mut ratios: Vec<f64> =
            self.runs.iter().filter(|run| run.publishers == publishers).map(|run| run.ledger / run.pgbench).collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied().unwrap_or(0.0)
    }

    fn tell(&self, options: &Options) -> Result<(), Failure> {
        println!("{} postings a measurement, {} clients, {WALLETS} wallets, every commit flushed", options.postings, options.clients);
        println!("publishers   ledger/s  pgbench/s   ratio");
        for run in &self.runs {
            println!("{:>10} {:>10.0} {:>10.0} {:>7.2}", run.publishers.count(), run.ledger, run.pgbench, run.ledger / run.pgbench);
        }
        println!("medians: {:.2} with many publishers, {:.2} with one", self.ratio(), self.hot_ratio());
        let Some(path) = &options.json else { return Ok(()) };
        let runs: Vec<_> = self
            .runs
            .iter()
            .map(
                |run| serde_json::json!({ "publishers": run.publishers.count(), "ledger_per_s": run.ledger, "pgbench_per_s": run.pgbench }),
            )
            .collect();
        let json = serde_json::json!({
            "ratio": self.ratio(), "hot_ratio": self.hot_ratio(), "clients": options.clients, "postings": options.postings, "runs": runs,
        });
        std::fs::write(path, format!("{json:#}\n")).map_err(|error| format!("cannot write {path}: {error}").into())
    }
}

async fn measure(options: &Options) -> Result<Figures, Failure> {
    let (database, store) = TestDatabase::migrated().await;
    let measurements = options.runs * 2;
    let deliveries =
        options.postings.checked_mul(measurements + 1).filter(|&count| count < 10_000_000).ok_or("fewer postings or runs, please")?;
    let price = Amount(PRICE.unsigned_abs());
    let crowd = Crowd { deliveries, wallets: WALLETS, price, edition_chunks: 8, chunk_bytes: 65_536 };
    store.make_crowd(&crowd).await?;
    store.tamper(PLAIN_TABLES).await;
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), POSTING)?;
    // Both once before: what is planned while the tables are empty is planned for empty tables.
    let warming_up = measurements * options.postings;
    post(&store, &crowd, options, warming_up, Publishers::Many).await?;
    run_pgbench(database.url(), script.path(), options, warming_up, Publishers::Many)?;
    store.tamper("VACUUM ANALYZE").await;
    let mut runs = Vec::new();
    for measurement in 0..measurements {
        let publishers = if measurement % 2 == 0 { Publishers::Many } else { Publishers::One };
        let first = measurement * options.postings;
        store.tamper("CHECKPOINT").await;
        let ledger = post(&store, &crowd, options, first, publishers).await?;
        store.tamper("CHECKPOINT").await;
        let pgbench = run_pgbench(database.url(), script.path(), options, first, publishers)?;
        eprintln!("bench_ledger: {} of {measurements}: {ledger:.0} postings a second, pgbench {pgbench:.0}", measurement + 1);
        runs.push(Run { publishers, ledger, pgbench });
    }
    store.assert_books_balance().await;
    store.close().await;
    Ok(Figures { runs })
}

/// Posts `options.postings` transfers from the delivery `first` on; answers how many a second.
async fn post(store: &Store, crowd: &Crowd, options: &Options, first: u32, publishers: Publishers) -> Result<f64, Failure> {
    let (each, crowd) = (options.postings / options.clients, Arc::new(*crowd));
    let begin = Instant::now();
    let clients = (0..options.clients).map(|client| {
        let (store, crowd) = (store.clone(), Arc::clone(&crowd));
        tokio::spawn(async move {
            for number in (first + client * each..).take(usize::try_from(each).unwrap_or(0)) {
                let transfer = transfer(&crowd, number, publishers)?;
                store.post_of_crowd(&crowd, number, &transfer, OffsetDateTime::now_utc()).await?;
            }
            Ok::<(), Failure>(())
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await??;
    }
    Ok(f64::from(options.postings) / begin.elapsed().as_secs_f64())
}

fn transfer(crowd: &Crowd, number: u32, publishers: Publishers) -> Result<Transfer, Failure> {
    let publisher = UserId(server::store::testing::crowd::numbered(10, number % publishers.count()));
    let entries = [
        (AccountRef::Wallet(crowd.payer(number)), -PRICE),
        (AccountRef::Wallet(crowd.payer(number + 1)), EARNED),
        (AccountRef::Publisher(publisher), PRICE - EARNED - FEE),
        (AccountRef::Platform, FEE),
    ];
    Ok(Transfer::new(TransferKind::Delivery, entries)?)
}

fn run_pgbench(url: &str, script: &Path, options: &Options, first: u32, publishers: Publishers) -> Result<f64, Failure> {
    let each = options.postings / options.clients;
    let mut pgbench = Command::new(&options.pgbench);
    pgbench.args(["--no-vacuum", "--protocol=prepared", "--client", &options.clients.to_string(), "--transactions", &each.to_string()]);
    let variables: [(&str, i64); 8] = [
        ("first", first.into()),
        ("each", each.into()),
        ("done", 0),
        ("wallets", WALLETS.into()),
        ("publishers", publishers.count().into()),
        ("price", PRICE),
        ("earned", EARNED),
        ("fee", FEE),
    ];
    for (name, value) in variables {
        pgbench.arg(format!("--define={name}={value}"));
    }
    // What follows the question mark is for sqlx, and libpq knows none of it.
    let address = url.split_once('?').map_or(url, |(address, _)| address);
    let output =
        pgbench.arg("--file").arg(script).arg(address).output().map_err(|error| format!("cannot start {}: {error}", options.pgbench))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    let done = text.contains(&format!("transactions actually processed: {0}/{0}", options.postings));
    match rate {
        Some(rate) if output.status.success() && done => Ok(rate),
        _ => Err(format!("pgbench failed: {text}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}
