//! `cargo xtask lab`: Spillway, libtorrent and plain HTTP send the same payload over the same shaped links, and each is compared with the bound
//! that no schedule can beat.
//!
//! ```text
//! lab ── makes the namespaces (network) ── runs itself in the origin's: lab-inside
//!                                              ├─ origin: server and services, seed, or nginx
//!                                              └─ one process per terminal, in the terminal's namespace (nodes)
//! ```
//!
//! The inner process sets up, measures and checks; the outer one owns the namespaces, and prints.

pub(crate) mod counters;
mod faults;
mod http;
pub(crate) mod inside;
mod libtorrent;
mod network;
mod nodes;
mod plan;
mod report;
mod spillway;
mod tools;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cargo;
use crate::children::{EndSignal, Ending, Launch, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;
use faults::{Fault, FaultOptions};
use inside::{Measured, READY_WITHIN};
use network::{Claim, Network};
use plan::{Budget, Plan, System};
use report::Run;

/// The inner process stops up to 64 terminals, one after the other, and the services.
const ENDING: Ending = Ending { stop: EndSignal::Terminate, orphaned: Some(EndSignal::Kill), grace: Duration::from_secs(60) };

/// Beyond set-up and patience: starting services and accounts, stopping, reading what was received.
const AROUND: Duration = Duration::from_secs(600);

/// 10 Gbit/s: more than a shaped link of this machine carries.
const MBIT: std::ops::RangeInclusive<u64> = 1..=10_000;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many terminals take part
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=64))]
    n: u32,
    /// Length of the payload, in MiB
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1024))]
    mib: u64,
    /// The origin's uplink, in Mbit/s
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(MBIT))]
    origin_up: u64,
    /// Every terminal's uplink, in Mbit/s
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(MBIT))]
    peer_up: u64,
    /// Every terminal's downlink, in Mbit/s
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(MBIT))]
    peer_down: u64,
    /// The terminals' uplinks in turn, in Mbit/s, such as 2,5,10,23
    #[arg(long, value_delimiter = ',', conflicts_with = "peer_up", value_parser = clap::value_parser!(u64).range(MBIT))]
    uplinks: Vec<u64>,
    /// What is measured; may be given several times
    #[arg(long = "system", default_value = "all")]
    systems: Vec<Choice>,
    /// What the origin of a Spillway release may send: `open`, or a multiple of the payload
    #[arg(long, default_value = "1.05")]
    budget: Budget,
    /// What Spillway's own limits leave of each line for what they do not count, in percent
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=90))]
    headroom: u64,
    /// How often each system runs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Measure optimised programs (`cargo build --release`) instead of the development build
    #[arg(long)]
    release: bool,
    /// The libtorrent seed hides what it has and gives each piece to one peer first
    #[arg(long)]
    super_seeding: bool,
    #[command(flatten)]
    faults: FaultOptions,
    /// Write the runs to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// This project
    Spillway,
    /// A libtorrent seed and peers
    Libtorrent,
    /// nginx and N downloads
    Http,
    /// All three
    All,
}

impl Choice {
    fn systems(self) -> Vec<System> {
        match self {
            Self::Spillway => vec![System::Spillway],
            Self::Libtorrent => vec![System::Libtorrent],
            Self::Http => vec![System::Http],
            Self::All => System::ALL.into(),
        }
    }
}

/// Runs every system as often as asked for; a terminal without the payload is a failure.
pub(crate) fn run(project: &Project, options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::told("the lab makes network namespaces, which only root may do: run it as root"));
    }
    let systems = chosen(&options.systems);
    let fault = options.faults.fault(&systems, &options.all_uplinks())?;
    tools::require(&systems, project, interrupt)?;
    let _claim = Claim::take()?;
    if systems.contains(&System::Spillway) {
        if options.release {
            cargo::build_released_programs(project, interrupt)?;
        } else {
            cargo::build_programs(project, interrupt)?;
        }
    }
    let folder = project.state.join("lab-runs");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| Failure::file("create", &folder, &error))?;
    let payload = folder.join("payload.bin");
    write_payload(&payload, options.mib)?;
    let mut runs = Vec::new();
    // In turn, so that what else the machine does in between meets all of them.
    for run in 1..=options.runs {
        for system in &systems {
            let plan = options.plan(*system, run, fault.as_ref(), &payload, &folder);
            runs.push(once(&plan, interrupt)?);
            if let Some(path) = &options.json {
                fs::write(path, report::json(&runs)).map_err(|error| Failure::file("write", path, &error))?;
            }
        }
    }
    print!("{}", report::table(&runs));
    let verdict = report::verdict(&runs);
    match &verdict {
        Ok(()) => drop(fs::remove_dir_all(&folder)),
        Err(_) => eprintln!("xtask: what the runs wrote is kept in {}", folder.display()),
    }
    verdict
}

impl Options {
    /// One per terminal, the absent ones included.
    fn all_uplinks(&self) -> Vec<u64> {
        let uplinks = if self.uplinks.is_empty() { &[self.peer_up][..] } else { &self.uplinks };
        plan::cycle(uplinks, usize::try_from(self.n).unwrap_or(usize::MAX))
    }

    fn plan(&self, system: System, run: u32, fault: Option<&Fault>, payload: &Path, folder: &Path) -> Plan {
        let uplinks = self.all_uplinks();
        Plan {
            system,
            run,
            mib: self.mib,
            origin_up_mbit: self.origin_up,
            uplinks_mbit: fault.map_or_else(|| uplinks.clone(), |fault| fault.present(&uplinks)),
            peer_down_mbit: self.peer_down,
            fault: fault.cloned(),
            budget: self.budget.clone(),
            headroom: self.headroom,
            release: self.release,
            super_seeding: self.super_seeding,
            payload: payload.to_owned(),
            folder: folder.join(format!("{}-{run}", system.name())),
        }
    }
}

/// Each system once, in the order in which they always run.
fn chosen(choices: &[Choice]) -> Vec<System> {
    let chosen: Vec<System> = choices.iter().flat_map(|choice| choice.systems()).collect();
    System::ALL.into_iter().filter(|system| chosen.contains(system)).collect()
}

/// One run in namespaces of its own, from nothing.
fn once(plan: &Plan, interrupt: &Interrupt) -> Result<Run, Failure> {
    fs::create_dir_all(&plan.folder).map_err(|error| Failure::file("create", &plan.folder, &error))?;
    let (note, outcome) = (plan.folder.join("plan.json"), plan.folder.join("outcome.json"));
    fs::write(&note, format!("{:#}\n", serde_json::json!(plan))).map_err(|error| Failure::file("write", &note, &error))?;
    eprintln!("xtask: {}, run {}: {} terminals", plan.system.name(), plan.run, plan.terminals());
    // Dropped after the inner process: the order of the two matters.
    let _network = Network::create(plan, interrupt)?;
    // Not by its path: a build in the meantime puts another program there.
    let own = format!("/proc/{}/exe", std::process::id());
    let mut launch = Launch::new(format!("the run of {}", plan.system.name()), "ip", None, ENDING, Output::Terminal);
    launch.command.args(["netns", "exec", network::ORIGIN]).arg(own).arg("lab-inside");
    launch.command.arg("--plan").arg(&note).arg("--outcome").arg(&outcome);
    // Databases that the environment names cannot be reached from inside.
    launch.command.env_remove("DATABASE_URL").env_remove("REDIS_URL");
    launch.start(interrupt)?.succeed_within(READY_WITHIN + plan.patience() + AROUND)?;
    let text = fs::read_to_string(&outcome).map_err(|error| Failure::file("read", &outcome, &error))?;
    let measured: Measured =
        serde_json::from_str(&text).map_err(|error| Failure::told(format!("cannot read what the run measured: {error}")))?;
    discard_received(&plan.folder);
    Ok(Run::of(plan, &measured))
}

/// Logs stay until the next lab; N copies of the payload per run would fill the disk.
fn discard_received(folder: &Path) {
    for terminal in fs::read_dir(folder).into_iter().flatten().flatten() {
        let received = terminal.path().join("received");
        let _ = fs::remove_dir_all(&received).or_else(|_| fs::remove_file(&received));
    }
}

/// Random bytes: no system can make them smaller, and no two chunks are the same.
pub(crate) fn write_payload(path: &Path, mib: u64) -> Result<(), Failure> {
    let source = Path::new("/dev/urandom");
    let random = File::open(source).map_err(|error| Failure::file("open", source, &error))?;
    let mut file = File::create(path).map_err(|error| Failure::file("write", path, &error))?;
    io::copy(&mut random.take(mib << 20), &mut file).map_err(|error| Failure::file("write", path, &error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &str) -> Result<Options, clap::Error> {
        Line::try_parse_from(std::iter::once("lab").chain(arguments.split_whitespace())).map(|line| line.options)
    }

    #[test]
    fn a_whole_command_line_becomes_a_plan() {
        let line = "--n 6 --mib 8 --origin-up 30 --uplinks 2,5,10,23 --peer-down 40 --system libtorrent --budget open --headroom 20 --release --runs 3 --super-seeding";
        let plan = parse(line).unwrap().plan(System::Libtorrent, 2, None, Path::new("/p"), Path::new("/f"));
        let expected = Plan {
            system: System::Libtorrent,
            run: 2,
            mib: 8,
            origin_up_mbit: 30,
            uplinks_mbit: vec![2, 5, 10, 23, 2, 5],
            peer_down_mbit: 40,
            fault: None,
            budget: Budget::Open,
            headroom: 20,
            release: true,
            super_seeding: true,
            payload: "/p".into(),
            folder: "/f/libtorrent-2".into(),
        };
        assert_eq!(plan, expected);
    }

    #[test]
    fn without_options_sixteen_terminals_of_ten_megabit_get_32_mib_from_all_systems() {
        let options = parse("").unwrap();
        assert_eq!(chosen(&options.systems), System::ALL);
        let plan = options.plan(System::Http, 1, None, Path::new("/p"), Path::new("/f"));
        assert_eq!((plan.mib, plan.origin_up_mbit, plan.peer_down_mbit), (32, 20, 50));
        assert_eq!((plan.uplinks_mbit, plan.budget), (vec![10; 16], Budget::Times("1.05".into())));
    }

    #[test]
    fn who_is_absent_has_no_line_and_who_is_killed_has_one() {
        let plan = |line: &str| {
            let options = parse(line).unwrap();
            let fault = options.faults.fault(&chosen(&options.systems), &options.all_uplinks()).unwrap();
            options.plan(System::Spillway, 1, fault.as_ref(), Path::new("/p"), Path::new("/f"))
        };
        let absent = plan("--system spillway --n 4 --uplinks 2,5,10,23 --absent 1");
        assert_eq!((absent.uplinks_mbit.clone(), absent.expected()), (vec![2, 5, 23], 3));
        let stopped = plan("--system spillway --n 4 --uplinks 2,5,10,23 --stop 1 --at 20");
        assert_eq!((stopped.uplinks_mbit.clone(), stopped.expected(), stopped.lost()), (vec![2, 5, 10, 23], 3, &[2][..]));
        assert_eq!(absent.bound(), stopped.bound(), "the same terminal, so that the two can be compared");
    }

    #[test]
    fn systems_run_once_each_in_one_order() {
        assert_eq!(chosen(&parse("--system http --system spillway --system http").unwrap().systems), [System::Spillway, System::Http]);
        assert_eq!(chosen(&parse("--system http --system all").unwrap().systems), System::ALL);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_option() {
        let bad = [
            ("--n 1", "--n"),
            ("--n 65", "--n"),
            ("--mib 0", "--mib"),
            ("--mib 1025", "--mib"),
            ("--origin-up 0", "--origin-up"),
            ("--peer-up ten", "--peer-up"),
            ("--peer-down 10001", "--peer-down"),
            ("--uplinks 2,,5", "--uplinks"),
            ("--uplinks 2,0", "--uplinks"),
            ("--uplinks 2 --peer-up 5", "--peer-up"),
            ("--system carrier-pigeon", "--system"),
            ("--budget 0.5", "--budget"),
            ("--headroom 91", "--headroom"),
            ("--runs 0", "--runs"),
        ];
        for (line, option) in bad {
            let message = parse(line).expect_err(line).to_string();
            assert!(message.contains(option), "{line}: {message}");
        }
    }

    #[test]
    fn a_payload_has_its_length_and_differs_from_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        write_payload(&one, 1).unwrap();
        write_payload(&other, 1).unwrap();
        let (one, other) = (fs::read(one).unwrap(), fs::read(other).unwrap());
        assert_eq!((one.len(), other.len()), (1 << 20, 1 << 20));
        assert_ne!(one, other);
        assert!(write_payload(Path::new("/no/such/folder/payload"), 1).is_err());
    }
}
