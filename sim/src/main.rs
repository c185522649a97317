//! The simulator's command line: `cargo xtask sim` builds and runs it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use protocol::BitsPerSecond;
use sim::lab::{Lab, LabBudget};
use sim::{FaultKind, Outcome, Scenario, Wish, World};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", about = "Run releases under virtual time with seeded faults")]
struct Arguments {
    /// How many terminals take part; without it the seed decides on a small run
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    terminals: Option<u32>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds in a row
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Chunks of the edition
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    chunks: Option<u32>,
    /// Waves, at a bound's distance or more
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16))]
    waves: Option<u32>,
    /// What goes wrong: names with commas between them, `none`, or `all` for the usual mix
    #[arg(long)]
    faults: Option<String>,
    /// A first copy of what a live member has signed for is a broken promise too
    #[arg(long)]
    strict: bool,
    /// The lab's release: so many terminals (16 by default) on its lines, without trouble, measured against T*
    #[arg(long, conflicts_with_all = ["waves", "faults", "chunks"])]
    lab: bool,
    /// With --lab: MiB of the payload
    #[arg(long, default_value_t = 32, requires = "lab", value_parser = clap::value_parser!(u64).range(1..=1024))]
    mib: u64,
    /// With --lab: the terminals' uplinks in turn, in Mbit/s
    #[arg(long, value_delimiter = ',', default_value = "10", requires = "lab", value_parser = clap::value_parser!(u64).range(1..))]
    uplinks: Vec<u64>,
    /// With --lab: the origin's uplink and the terminals' downlinks, in Mbit/s
    #[arg(long, default_value_t = 20, requires = "lab", value_parser = clap::value_parser!(u64).range(1..))]
    origin_up: u64,
    #[arg(long, default_value_t = 50, requires = "lab", value_parser = clap::value_parser!(u64).range(1..))]
    peer_down: u64,
    /// With --lab: what the origin may send, "open" or a multiple of the payload
    #[arg(long, default_value = "1.05", requires = "lab")]
    budget: LabBudget,
    /// With --lab: a line for every terminal
    #[arg(long, requires = "lab")]
    each: bool,
    /// Write the outcomes to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// With `--terminals`: one wave of so many, and this many chunks.
const CHUNKS: u32 = 64;

fn parse_faults(text: &str) -> Result<BTreeSet<FaultKind>, String> {
    match text {
        "none" => Ok(BTreeSet::new()),
        "all" => Ok(FaultKind::MIX.into_iter().collect()),
        names => names.split(',').map(|name| name.trim().parse()).collect(),
    }
}

impl Arguments {
    fn wish(&self, seed: u64) -> Result<Wish, String> {
        let mut wish = Wish::small(seed);
        if let Some(terminals) = self.terminals {
            let all = FaultKind::MIX.into_iter().collect();
            wish = Wish {
                seed,
                terminals: usize::try_from(terminals).unwrap_or(usize::MAX),
                chunks: CHUNKS,
                waves: 1,
                faults: all,
                strict: false,
            };
        }
        wish.strict = self.strict;
        wish.chunks = self.chunks.unwrap_or(wish.chunks);
        wish.waves = self.waves.unwrap_or(wish.waves);
        if let Some(faults) = &self.faults {
            wish.faults = parse_faults(faults)?;
        }
        Ok(wish)
    }

    fn scenario(&self, seed: u64) -> Result<(Scenario, BTreeSet<FaultKind>), String> {
        if !self.lab {
            let wish = self.wish(seed)?;
            return Ok((Scenario::new(&wish), wish.faults));
        }
        let lab = Lab {
            seed,
            terminals: self.terminals.map_or(16, |terminals| usize::try_from(terminals).unwrap_or(usize::MAX)),
            mib: self.mib,
            origin_up: BitsPerSecond::from_mbit(self.origin_up),
            uplinks: self.uplinks.iter().copied().map(BitsPerSecond::from_mbit).collect(),
            peer_down: BitsPerSecond::from_mbit(self.peer_down),
            budget: self.budget,
        };
        Ok((lab.scenario(), BTreeSet::new()))
    }

    /// The command that runs one seed of these again.
    fn replay(&self, seed: u64) -> String {
        let mut command = format!("cargo xtask sim --seed {seed}");
        let numbers = [("terminals", self.terminals), ("chunks", self.chunks), ("waves", self.waves)];
        for (name, value) in numbers.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            command.push_str(&format!(" --{name} {value}"));
        }
        if let Some(faults) = &self.faults {
            command.push_str(&format!(" --faults {faults}"));
        }
        if self.strict {
            command.push_str(" --strict");
        }
        if self.lab {
            let uplinks: Vec<String> = self.uplinks.iter().map(u64::to_string).collect();
            let (mib, origin_up, peer_down) = (self.mib, self.origin_up, self.peer_down);
            command.push_str(&format!(
                " --lab --mib {mib} --origin-up {origin_up} --peer-down {peer_down} --uplinks {} --budget {}",
                uplinks.join(","),
                self.budget
            ));
        }
        command
    }
}

#[allow(clippy::disallowed_methods, reason = "only what a run took on the real clock; nothing inside of it sees this")]
fn timed(scenario: Scenario) -> (Outcome, Duration) {
    let began = Instant::now();
    let outcome = World::new(scenario).run();
    (outcome, began.elapsed())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether every run kept every promise.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let (mut outcomes, mut failed, mut worst) = (Vec::new(), Vec::new(), 0);
    for seed in (0..arguments.seeds).map(|offset| arguments.seed.wrapping_add(offset)) {
        let (scenario, faults) = arguments.scenario(seed)?;
        let (outcome, took) = timed(scenario);
        let faults: Vec<&str> = faults.iter().map(|kind| kind.name()).collect();
        if arguments.seeds == 1 || outcome.violation.is_some() {
            print!("{}", outcome.summary());
            println!("  faults       {}", if faults.is_empty() { "none".to_owned() } else { faults.join(" ") });
            println!("  real time    {:.1} s", took.as_secs_f64());
        }
        if arguments.lab {
            print!("{}", outcome.against_fluid(arguments.each));
        }
        if let Some(violation) = &outcome.violation {
            println!("  BROKEN at step {} after {:.3} s\n  {violation}", outcome.steps, outcome.elapsed.as_secs_f64());
            println!("  again with: {}", arguments.replay(seed));
            failed.push(seed);
        }
        worst = worst.max(outcome.ratio_percent());
        if arguments.json.is_some() {
            outcomes.push(outcome.json());
        }
    }
    if arguments.seeds > 1 {
        println!("{} seeds, {} broken {failed:?}; worst ratio {}.{:02}", arguments.seeds, failed.len(), worst / 100, worst % 100);
    }
    if let Some(path) = &arguments.json {
        fs::write(path, format!("{:#}\n", serde_json::json!({ "runs": outcomes })))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(failed.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_and_an_unknown_one_is_refused() {
        assert_eq!(parse_faults("kill, stall"), Ok(BTreeSet::from([FaultKind::Kill, FaultKind::Stall])));
        assert_eq!((parse_faults("none").unwrap().len(), parse_faults("all").unwrap().len()), (0, 14));
        assert!(parse_faults("kill,flood").unwrap_err().contains("\"flood\" is no fault"));
    }

    #[test]
    fn the_replay_command_names_everything_that_was_asked_for_and_one_seed() {
        let parsed = |text: &str| Arguments::try_parse_from(text.split(' ')).unwrap();
        let arguments = parsed("sim --seeds 100 --terminals 30 --faults kill --strict --json x");
        assert_eq!(arguments.replay(7), "cargo xtask sim --seed 7 --terminals 30 --faults kill --strict");
        assert_eq!(arguments.wish(7), parsed("sim --seed 7 --terminals 30 --faults kill --strict").wish(7));
        assert!(Arguments::try_parse_from(["sim", "--terminals", "0"]).is_err());
    }
}
