//! The simulator's command line: `cargo xtask sim` builds and runs it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use sim::{FaultKind, Outcome, Wish};

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
        command
    }
}

#[allow(clippy::disallowed_methods, reason = "only what a run took on the real clock; nothing inside of it sees this")]
fn timed(wish: &Wish) -> (Outcome, Duration) {
    let began = Instant::now();
    let outcome = sim::run(wish);
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
        let wish = arguments.wish(seed)?;
        let (outcome, took) = timed(&wish);
        let faults: Vec<&str> = wish.faults.iter().map(|kind| kind.name()).collect();
        if arguments.seeds == 1 || outcome.violation.is_some() {
            print!("{}", outcome.summary());
            println!("  faults       {}", if faults.is_empty() { "none".to_owned() } else { faults.join(" ") });
            println!("  real time    {:.1} s", took.as_secs_f64());
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
