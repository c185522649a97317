//! One run, from inside of the origin's network namespace: sets the system up, waits for t0, follows the terminals, measures, and reads what
//! each of them received.
//!
//! The calls that set things up come from here, so they cross no shaped link; the terminals are started in their namespaces from here.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::faults::strike::{Strike, Struck};
use super::nodes::{self, Completed, Node};
use super::plan::{Plan, System};
use super::{counters, http, libtorrent, spillway};
use crate::demo::contents;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

/// For every terminal to connect to every other one over the slowest link that the lab takes.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(180);

/// What may have left the origin before t0: requests' answers, manifests (36 bytes per chunk of 64 KiB) and handshakes. More than this is payload.
const BEFORE_T0_PER_TERMINAL: u64 = 128 << 10;
const BEFORE_T0_SHARE: u64 = 100;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The run, as the outer process wrote it
    #[arg(long)]
    plan: PathBuf,
    /// Where the measurement goes
    #[arg(long)]
    outcome: PathBuf,
}

/// Where and what one run is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) project: &'a Project,
    pub(super) plan: &'a Plan,
    pub(super) interrupt: &'a Interrupt,
}

/// The origin of a system, while it runs.
pub(super) trait Origin {
    /// Fails when it has ended by itself.
    fn check(&mut self) -> Result<(), Failure>;
    /// How many bytes of payload it sent, asked after the terminals have stopped. `received` is what lies on their disks.
    fn payload_sent(&mut self, received: u64) -> Result<u64, Failure>;
}

/// A system whose connections are made.
pub(super) struct Ready<'a> {
    pub(super) origin: Box<dyn Origin + 'a>,
    pub(super) nodes: Vec<Node>,
    /// When the first byte of payload may leave.
    pub(super) t0: SystemTime,
}

/// What came out of one run, before it is compared with anything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    /// From the start of the origin's programs until t0.
    pub(super) setup_s: f64,
    /// When each terminal that is left, and whose file is right, was complete, from t0.
    pub(super) completed_s: Vec<f64>,
    /// What was off about the others, as sentences.
    pub(super) wrong: Vec<String>,
    /// Link bytes, headers included, from t0 until the last terminal was complete.
    pub(super) origin_link_bytes: u64,
    pub(super) terminals_link_bytes: u64,
    pub(super) origin_payload_bytes: u64,
    /// User and system time of every terminal and of everything at the origin, in the same time.
    pub(super) cpu_s: f64,
    /// Absent where nothing strikes in the middle of the run.
    pub(super) struck: Option<Struck>,
}

/// Runs the plan and writes down what was measured.
pub(crate) fn run(project: &Project, options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    let text = fs::read_to_string(&options.plan).map_err(|error| Failure::file("read", &options.plan, &error))?;
    let plan: Plan = serde_json::from_str(&text).map_err(|error| Failure::told(format!("cannot read the lab's plan: {error}")))?;
    let project = if plan.release { project.released() } else { project.clone() };
    let site = Site { project: &project, plan: &plan, interrupt };
    let measured = measure(&site)?;
    let json = format!("{:#}\n", serde_json::json!(measured));
    fs::write(&options.outcome, json).map_err(|error| Failure::file("write", &options.outcome, &error))
}

fn measure(site: &Site<'_>) -> Result<Measured, Failure> {
    let (plan, interrupt) = (site.plan, site.interrupt);
    let begun = SystemTime::now();
    let Ready { mut origin, mut nodes, t0 } = match plan.system {
        System::Spillway => spillway::set_up(site)?,
        System::Libtorrent => libtorrent::set_up(site)?,
        System::Http => http::set_up(site)?,
    };
    let setup_s = t0.duration_since(begun).unwrap_or_default().as_secs_f64();
    eprintln!("xtask: {}: set up, t0 is {setup_s:.1} s after the beginning", plan.system.name());
    if t0 <= SystemTime::now() {
        return Err(Failure::told(format!("setting up {} took longer than until t0: the machine is too busy", plan.system.name())));
    }
    nodes::until(t0, &mut nodes, interrupt)?;
    let before = Sample::take(&nodes)?;
    allow_no_payload_before_t0(plan, before.origin_bytes)?;
    let mut strike = Strike::of(plan, t0);
    nodes::follow(&mut nodes, t0, plan.patience(), interrupt, |nodes| {
        origin.check()?;
        strike.look(nodes)
    })?;
    let after = Sample::take(&nodes)?;
    let struck = strike.outcome(&nodes);

    let (lost, left): (Vec<Node>, Vec<Node>) = nodes.into_iter().partition(Node::is_struck);
    let finished: Vec<(String, Option<Completed>)> = left.into_iter().map(Node::finish).collect();
    lost.into_iter().for_each(|node| drop(node.finish()));
    let expected = contents::hash(&plan.payload)?;
    let mut measured = Measured {
        setup_s,
        completed_s: Vec::new(),
        wrong: Vec::new(),
        origin_link_bytes: after.origin_bytes - before.origin_bytes,
        terminals_link_bytes: after.terminals_bytes - before.terminals_bytes,
        origin_payload_bytes: 0,
        cpu_s: after.cpu_s - before.cpu_s,
        struck,
    };
    if !plan.lost().is_empty() && measured.struck.is_none() {
        measured.wrong.push("the fault never struck: not so much was seen to arrive before the run was over".to_owned());
    }
    let mut received = 0;
    for (name, completed) in finished {
        match completed {
            None => measured.wrong.push(format!("{name} was not complete after {:.0} s", plan.patience().as_secs_f64())),
            // The lab reads the file itself: no terminal is believed.
            Some(completed) if contents::hash(&completed.path).ok() == Some(expected) => {
                received += plan.size().0;
                measured.completed_s.push(completed.after.as_secs_f64());
            }
            Some(completed) => measured.wrong.push(format!("{name}'s {} is not the payload", completed.path.display())),
        }
    }
    measured.origin_payload_bytes = origin.payload_sent(received)?;
    Ok(measured)
}

/// A system that sends before the start would win without being faster.
fn allow_no_payload_before_t0(plan: &Plan, sent: u64) -> Result<(), Failure> {
    let allowed = plan.size().0 / BEFORE_T0_SHARE + BEFORE_T0_PER_TERMINAL * plan.terminals() as u64;
    if sent <= allowed {
        return Ok(());
    }
    Err(Failure::told(format!(
        "the origin of {} sent {sent} bytes before t0; connections alone need {allowed} at most",
        plan.system.name()
    )))
}

/// The kernel's counters at one moment.
#[derive(Debug)]
struct Sample {
    origin_bytes: u64,
    terminals_bytes: u64,
    cpu_s: f64,
}

impl Sample {
    fn take(nodes: &[Node]) -> Result<Self, Failure> {
        let mut ids = counters::neighbours();
        ids.extend(nodes.iter().map(Node::process_id));
        Ok(Self {
            origin_bytes: counters::sent_by(std::process::id())?,
            terminals_bytes: nodes.iter().map(Node::sent).sum::<Result<_, _>>()?,
            cpu_s: counters::cpu_seconds(&ids),
        })
    }
}

/// Tells processes that wait for the file `path` when t0 is: seconds since the Unix epoch, far enough ahead for all of them to read it.
pub(super) fn announce_t0(path: &Path) -> Result<SystemTime, Failure> {
    const AHEAD: Duration = Duration::from_secs(2);
    let t0 = SystemTime::now() + AHEAD;
    let since = t0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Renamed into place, so that nobody reads half of it.
    let draft = path.with_extension("draft");
    fs::write(&draft, format!("{:.6}\n", since.as_secs_f64())).map_err(|error| Failure::file("write", &draft, &error))?;
    fs::rename(&draft, path).map_err(|error| Failure::file("write", path, &error))?;
    Ok(t0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::tests::plan;

    #[test]
    fn an_origin_that_sent_payload_before_t0_is_caught() {
        let plan = plan(System::Libtorrent, vec![10; 16]);
        // Sixteen manifests, handshakes and have-lists; then a tenth of the payload.
        assert!(allow_no_payload_before_t0(&plan, 600_000).is_ok());
        let failure = allow_no_payload_before_t0(&plan, 3_400_000).unwrap_err().to_string();
        assert!(failure.contains("libtorrent") && failure.contains("before t0"), "{failure}");
    }

    #[test]
    fn t0_is_written_whole_and_lies_ahead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t0");
        let t0 = announce_t0(&path).unwrap();
        assert!(t0 > SystemTime::now());
        let told: f64 = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        let meant = t0.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((told - meant).abs() < 0.001);
    }
}
