//! Time to clear one large book, beside one sort of as many numbers. `cargo xtask bench auction` builds and runs it.
//!
//! Clearing is what the server does at a release's closing short of reading and storing: check and order the book, give the ranks, set the prices. The yardstick is one
//! `sort_unstable` of as many random (u128, u64, u64), in the same process on the same thread.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use protocol::{Amount, BidId, BitsPerSecond, TimestampMs};
use rules::auction::{Bid, Book, RankTerms, Selection, clear};

/// What clearing may take, in times of the yardstick.
const RATIO_MAX: f64 = 6.0;
const WEIGHTS: [u32; 5] = [100, 60, 25, 10, 4];
const RESERVE: Amount = Amount(50);

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("bench_auction: {message}");
            return ExitCode::from(2);
        }
    };
    let measured = [Selection::Auction, Selection::MeasuredQuality].map(|selection| measure(&options, selection));
    println!("{} bids for {} ranks, median of {} runs, one thread", options.bids, WEIGHTS.len(), options.runs);
    println!("selection          sort ms  clear ms   ratio   winners");
    for figures in &measured {
        println!(
            "{:<16} {:>9.1} {:>9.1} {:>7.2} {:>9}",
            figures.name(),
            milliseconds(figures.sort),
            milliseconds(figures.clear),
            figures.ratio(),
            figures.winners
        );
    }
    let worst = measured.iter().map(Figures::ratio).fold(0.0, f64::max);
    if let Some(path) = &options.json {
        let all: Vec<_> = measured.iter().map(Figures::json).collect();
        let json = serde_json::json!({ "bids": options.bids, "runs": options.runs, "ratio_to_sort": worst, "measured": all });
        if let Err(error) = std::fs::write(path, format!("{json:#}\n")) {
            eprintln!("bench_auction: cannot write {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    if worst > RATIO_MAX {
        eprintln!("bench_auction: above the limit of {RATIO_MAX} sorts");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

struct Options {
    bids: u32,
    runs: usize,
    json: Option<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { bids: 1_000_000, runs: 5, json: None };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number =
                || value.parse::<u32>().ok().filter(|&number| number > 0).ok_or_else(|| format!("{name} {value} is no number from 1 on"));
            match name.as_str() {
                "--bids" => options.bids = number()?,
                "--runs" => options.runs = number()? as usize,
                "--json" => options.json = Some(value),
                _ => return Err(format!("{name} is no option: --bids N, --runs N, --json FILE")),
            }
        }
        Ok(options)
    }
}

struct Figures {
    selection: Selection,
    sort: Duration,
    clear: Duration,
    winners: usize,
}

impl Figures {
    fn name(&self) -> &'static str {
        match self.selection {
            Selection::Auction => "auction",
            Selection::FirstCome => "first_come",
            Selection::MeasuredQuality => "measured_quality",
        }
    }

    fn ratio(&self) -> f64 {
        self.clear.as_secs_f64() / self.sort.as_secs_f64()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "selection": self.name(),
            "sort_ms": milliseconds(self.sort),
            "clear_ms": milliseconds(self.clear),
            "ratio_to_sort": self.ratio(),
            "winners": self.winners,
        })
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn measure(options: &Options, selection: Selection) -> Figures {
    let bids = bids(options.bids);
    let mut random = SplitMix(11);
    let numbers: Vec<(u128, u64, u64)> =
        bids.iter().map(|_| (u128::from(random.next()) << 64 | u128::from(random.next()), random.next(), random.next())).collect();
    let (mut sorts, mut clears, mut winners) = (Vec::new(), Vec::new(), 0);
    for _ in 0..options.runs {
        let mut sorted = numbers.clone();
        let begin = Instant::now();
        sorted.sort_unstable();
        sorts.push(begin.elapsed());
        drop(sorted);

        let (ranks, own) = (ranks(options.bids), bids.clone());
        let begin = Instant::now();
        let book = Book::new(ranks, RESERVE, own).expect("a bench's book is one");
        let outcome = clear(&book, selection).expect("a book clears");
        clears.push(begin.elapsed());
        winners = outcome.awards.len();
    }
    Figures { selection, sort: median(sorts), clear: median(clears), winners }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Each rank takes four times as many as the one before, and the last one half of those that are left.
fn ranks(bids: u32) -> Vec<RankTerms> {
    WEIGHTS.iter().zip([1_000, 250, 60, 16, 2]).map(|(&weight, part)| RankTerms { weight, capacity: (bids / part).max(1) }).collect()
}

/// Bids with random ids, in no order, for all ranks; some are below the reserve.
fn bids(count: u32) -> Vec<Bid> {
    let mut random = SplitMix(7);
    let mut below = |bound: u64| random.next() % bound;
    (0..count)
        .map(|_| Bid {
            bid_id: BidId::from_bytes((u128::from(below(u64::MAX)) << 64 | u128::from(below(u64::MAX))).to_be_bytes()),
            rank: u32::try_from(1 + below(WEIGHTS.len() as u64)).unwrap_or(1),
            maximum: Amount(below(10_000)),
            applied_at: TimestampMs(1_700_000_000_000 + below(1_000_000_000)),
            up_seen: BitsPerSecond::from_mbit(below(1_000)),
        })
        .collect()
}

/// Steele, Lea and Flood, *Fast splittable pseudorandom number generators* (2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
