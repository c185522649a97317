//! Time and memory of the relay planner for one large wave, beside one sort of the same terminals. `cargo xtask bench planner` builds and runs it.
//!
//! Planning is what the server does at a wave's opening short of storing it: choose the shape, cut and deal the groups, build the tree that plans are
//! told from. The yardstick is one `sort_unstable_by_key` of the candidates by (region, round trip), in the same process; a sort of bare (region, round
//! trip) pairs, which are a tenth as long, is shown beside it. Memory is the most that was allocated at any moment from the beginning of planning until
//! the tree stands, the tree included, the candidates themselves not.

#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use protocol::ws::Peer;
use protocol::{BitsPerSecond, DeliveryId, GroupId, PublicKey, TerminalId};
use rules::relay_plan::{Candidate, CommunicationState, NatKind, Region, Shape, SwarmTree, choose_shape, plan_wave};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Of a 32 MiB edition with chunks of 64 KiB.
const CHUNKS: u32 = 512;
const REGIONS: u64 = 200;
const UPLINKS_MBIT: [u64; 6] = [2, 5, 10, 23, 50, 100];
/// What planning may take, in times of the yardstick and in bytes per terminal.
const RATIO_MAX: f64 = 20.0;
const BYTES_MAX: f64 = 500.0;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("bench_planner: {message}");
            return ExitCode::from(2);
        }
    };
    let measured = [Knowledge::Everything, Knowledge::Nothing].map(|knowledge| measure(&options, knowledge));
    print(&options, &measured);
    if let Some(path) = &options.json {
        let all: Vec<_> = measured.iter().map(Figures::json).collect();
        let json = serde_json::json!({ "terminals": options.terminals, "runs": options.runs, "measured": all });
        if let Err(error) = std::fs::write(path, format!("{json:#}\n")) {
            eprintln!("bench_planner: cannot write {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    if measured.iter().any(|figures| figures.ratio() > RATIO_MAX || figures.bytes_per_terminal > BYTES_MAX) {
        eprintln!("bench_planner: above the limit of {RATIO_MAX} sorts or {BYTES_MAX} bytes per terminal");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn print(options: &Options, measured: &[Figures]) {
    println!("{} terminals, median of {} runs; a view is what one terminal is told", options.terminals, options.runs);
    println!("known       sort ms  pairs ms   plan ms    ratio  B/terminal  view us    groups    m  k");
    for figures in measured {
        println!(
            "{:<10} {:>8.1} {:>9.1} {:>9.1} {:>8.2} {:>11.1} {:>8.2} {:>9} {:>4} {:>2}",
            figures.knowledge.name(),
            milliseconds(figures.sort),
            milliseconds(figures.sort_pairs),
            milliseconds(figures.plan),
            figures.ratio(),
            figures.bytes_per_terminal,
            figures.view.as_secs_f64() * 1e6,
            figures.groups,
            figures.shape.m,
            figures.shape.k
        );
    }
}

struct Options {
    terminals: u32,
    runs: usize,
    json: Option<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { terminals: 1_000_000, runs: 5, json: None };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number =
                || value.parse::<u32>().ok().filter(|&number| number > 0).ok_or_else(|| format!("{name} {value} is no number from 1 on"));
            match name.as_str() {
                "--terminals" => options.terminals = number()?,
                "--runs" => options.runs = number()? as usize,
                "--json" => options.json = Some(value),
                _ => return Err(format!("{name} is no option: --terminals N, --runs N, --json FILE")),
            }
        }
        Ok(options)
    }
}

/// What is known of the terminals besides their uplinks.
#[derive(Debug, Clone, Copy)]
enum Knowledge {
    Everything,
    Nothing,
}

impl Knowledge {
    fn name(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Nothing => "uplinks",
        }
    }
}

struct Figures {
    knowledge: Knowledge,
    sort: Duration,
    /// Of bare pairs.
    sort_pairs: Duration,
    plan: Duration,
    bytes_per_terminal: f64,
    /// To derive what one terminal is told.
    view: Duration,
    groups: usize,
    shape: Shape,
}

impl Figures {
    fn ratio(&self) -> f64 {
        self.plan.as_secs_f64() / self.sort.as_secs_f64()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "known": self.knowledge.name(),
            "sort_ms": milliseconds(self.sort),
            "sort_pairs_ms": milliseconds(self.sort_pairs),
            "plan_ms": milliseconds(self.plan),
            "ratio": self.ratio(),
            "bytes_per_terminal": self.bytes_per_terminal,
            "view_us": self.view.as_secs_f64() * 1e6,
            "groups": self.groups,
            "m": self.shape.m,
            "k": self.shape.k,
        })
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The sort is measured with what is known: nothing to sort by would make it nearly free. So both kinds of waves are compared with the same sort.
fn measure(options: &Options, knowledge: Knowledge) -> Figures {
    let known = candidates(options.terminals);
    let planned: Vec<Candidate> = match knowledge {
        Knowledge::Everything => known.clone(),
        Knowledge::Nothing => known.iter().map(|candidate| candidate.peer.clone().into()).collect(),
    };
    let (mut sorts, mut pair_sorts, mut plans) = (Vec::new(), Vec::new(), Vec::new());
    let (mut bytes, mut view) = (0, Duration::ZERO);
    let shape = choose_shape(planned.len(), CHUNKS, 1);
    let ids: Vec<GroupId> = (0..shape.groups(planned.len())).map(|index| GroupId::from_bytes((index as u128 + 1).to_be_bytes())).collect();
    for _ in 0..options.runs {
        let mut sorted = known.clone();
        let begin = Instant::now();
        sorted.sort_unstable_by_key(|candidate| (candidate.state.region, candidate.state.round_trip_ms));
        sorts.push(begin.elapsed());
        drop(sorted);

        let mut pairs: Vec<_> = known.iter().map(|candidate| (candidate.state.region, candidate.state.round_trip_ms)).collect();
        let begin = Instant::now();
        pairs.sort_unstable();
        pair_sorts.push(begin.elapsed());
        drop(pairs);

        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let begin = Instant::now();
        let tree = plan(&planned, &ids);
        plans.push(begin.elapsed());
        bytes = bytes.max(MEMORY.peak_usage() - before);

        let begin = Instant::now();
        let asked =
            planned.iter().step_by(planned.len().div_ceil(10_000)).filter_map(|candidate| tree.view(candidate.peer.terminal_id)).count();
        view = begin.elapsed() / u32::try_from(asked.max(1)).unwrap_or(u32::MAX);
    }
    Figures {
        knowledge,
        sort: median(sorts),
        sort_pairs: median(pair_sorts),
        plan: median(plans),
        bytes_per_terminal: bytes as f64 / planned.len() as f64,
        view,
        groups: ids.len(),
        shape,
    }
}

fn plan(candidates: &[Candidate], ids: &[GroupId]) -> SwarmTree {
    let shape = choose_shape(candidates.len(), CHUNKS, 1);
    let groups = plan_wave(&SwarmTree::default(), 0, candidates, shape, false, ids).expect("terminals of a bench stand once each");
    SwarmTree::new(groups).expect("what was planned is a plan")
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Terminals with random ids, in no order.
fn candidates(count: u32) -> Vec<Candidate> {
    let mut random = SplitMix(7);
    (0..count)
        .map(|_| {
            let id = (u128::from(random.next()) << 64 | u128::from(random.next())).to_be_bytes();
            let up = UPLINKS_MBIT[random.below(UPLINKS_MBIT.len() as u64)];
            Candidate {
                peer: Peer {
                    terminal_id: TerminalId::from_bytes(id),
                    public_key: PublicKey([0xAB; 32]),
                    delivery_id: DeliveryId::from_bytes(id),
                    up: BitsPerSecond::from_mbit(up),
                },
                state: CommunicationState {
                    region: u16::try_from(random.below(REGIONS)).ok().map(Region),
                    round_trip_ms: u16::try_from(5 + random.below(250)).ok(),
                    loss_ppm: u32::try_from(random.below(20_000)).ok(),
                    nat: [NatKind::Open, NatKind::EndpointIndependent, NatKind::EndpointDependent, NatKind::Unknown][random.below(4)],
                },
                primary: None,
            }
        })
        .collect()
}

/// A generator that needs no crate (Steele, Lea and Flood 2014); what it is for is only that nothing is in order.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> usize {
        usize::try_from(self.next() % limit).unwrap_or_default()
    }
}
