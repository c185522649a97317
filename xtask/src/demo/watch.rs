//! The terminals while they run: one process each, whose events are read from its output as they come.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use protocol::Bytes;
use serde_json::Value;

use super::client::Client;
use super::contents::{self, FileFact};
use super::scenario::Scenario;
use crate::children::events::Events;
use crate::children::{Child, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::lab::counters::peak_resident;

const LOOK: Duration = Duration::from_millis(200);
/// A line that cannot be redrawn is printed this often.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Terminal {
    name: String,
    process: Child,
    events: Events,
    received_in: PathBuf,
    verified: u64,
    peak_resident: Bytes,
    completed: Option<Value>,
}

/// What one terminal ended up with.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) completed_ms: u64,
    /// As the terminal itself computed it.
    pub(super) blake3: String,
    /// As found on its disk by the demo.
    pub(super) files: Vec<FileFact>,
    /// The most memory that the process had resident, as last seen while it ran.
    pub(super) peak_resident: Bytes,
}

#[derive(Debug)]
pub(super) struct Terminals {
    terminals: Vec<Terminal>,
    total: u64,
    starts_at: Instant,
    interrupt: Interrupt,
}

impl Terminals {
    /// `starts_at`: when rank 1 of the release does.
    pub(super) fn start(clients: &[Client<'_>], scenario: &Scenario, release_id: &str, starts_at: Instant) -> Result<Self, Failure> {
        let mut terminals = Vec::new();
        let (up, down) = (scenario.rates.up_mbit.to_string(), scenario.rates.down_mbit.to_string());
        for client in clients {
            let (events, received_in) = (client.folder().join("events.jsonl"), client.folder().join("received"));
            let folder = received_in.display().to_string();
            let arguments = ["run", "--release", release_id, "--dir", &folder, "--up-mbit", &up, "--down-mbit", &down, "--exit-when-done"];
            let output = Output::Split { announcements: events.clone(), log: client.folder().join("run.log") };
            let process = client.launch(&client.name, &arguments, output).start(&client.deployment.interrupt)?;
            terminals.push(Terminal {
                name: client.name.clone(),
                process,
                events: Events::of(events),
                received_in,
                verified: 0,
                peak_resident: Bytes(0),
                completed: None,
            });
        }
        let total = scenario.terminals.iter().map(|terminal| scenario.editions[terminal.edition].length.0).sum();
        let interrupt = clients.first().map(|client| client.deployment.interrupt.clone()).unwrap_or_default();
        Ok(Self { terminals, total, starts_at, interrupt })
    }

    /// Shows the progress until every terminal has ended by itself, each with success.
    pub(super) fn follow(&mut self, within: Duration, check: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
        let redraw = std::io::stdout().is_terminal();
        let outcome = self.follow_to_the_end(within, redraw, check);
        if redraw {
            // What is said next, a failure too, does not belong behind the progress.
            println!();
        }
        outcome
    }

    fn follow_to_the_end(&mut self, within: Duration, redraw: bool, mut check: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut shown_at = begun;
        loop {
            for terminal in &mut self.terminals {
                terminal.read_events();
                terminal.peak_resident = terminal.peak_resident.max(peak_resident(terminal.process.id()));
            }
            let ended = self.terminals.iter().filter(|terminal| terminal.process.has_ended()).count();
            if redraw {
                print!("\r{}", self.line(begun.elapsed()));
                let _ = std::io::stdout().flush();
            } else if shown_at.elapsed() >= PLAIN_EVERY || ended == self.terminals.len() {
                println!("{}", self.line(begun.elapsed()).trim_end());
                shown_at = Instant::now();
            }
            self.check_ends()?;
            check()?;
            if ended == self.terminals.len() {
                return Ok(());
            }
            if begun.elapsed() > within {
                let late = self.terminals.iter().find(|terminal| !terminal.process.has_ended());
                let blame = |late: &Terminal| late.process.blame(&format!("did not end within {} s", within.as_secs()));
                return Err(late.map_or_else(|| Failure::told("the release did not end in time"), blame));
            }
            self.interrupt.pause(LOOK)?;
        }
    }

    fn check_ends(&mut self) -> Result<(), Failure> {
        for terminal in self.terminals.iter_mut().filter(|terminal| terminal.process.has_ended()) {
            let status = terminal.process.wait()?;
            if !status.success() {
                return Err(terminal.process.blame(&format!("ended with {status}")));
            }
        }
        Ok(())
    }

    fn line(&self, elapsed: Duration) -> String {
        let verified: u64 = self.terminals.iter().map(|terminal| terminal.verified).sum();
        let complete = self.terminals.iter().filter(|terminal| terminal.completed.is_some()).count();
        let to_start = self.starts_at.saturating_duration_since(Instant::now());
        line(elapsed, to_start, (complete, self.terminals.len()), (verified, self.total))
    }

    /// Reads what every terminal has on its disk, in the scenario's order.
    pub(super) fn finish(self, scenario: &Scenario) -> Result<Vec<Received>, Failure> {
        let read = self.terminals.into_iter().zip(&scenario.terminals).map(|(terminal, wanted)| {
            let completed = terminal.completed.ok_or_else(|| Failure::told(format!("{} ended without completing", terminal.name)))?;
            let path = completed.pointer("/path").and_then(Value::as_str).map(PathBuf::from);
            let path = path.unwrap_or_else(|| terminal.received_in.join(&scenario.editions[wanted.edition].label));
            Ok(Received {
                completed_ms: super::client::number(&completed, "/elapsed_ms")?,
                blake3: super::client::text(&completed, "/blake3")?,
                files: contents::facts(&path)?,
                peak_resident: terminal.peak_resident,
            })
        });
        read.collect()
    }
}

/// How far the release is, always of the same width, so that a line covers the one that it is drawn over. Both pairs are a part and its whole.
fn line(elapsed: Duration, to_start: Duration, terminals: (usize, usize), bytes: (u64, u64)) -> String {
    let (complete, count) = terminals;
    let (verified, total) = bytes;
    let progress = match to_start.as_millis() {
        0 => format!("{:3} % of {}", verified * 100 / total.max(1), Bytes(total)),
        left => format!("starts in {} s", left.div_ceil(1000)),
    };
    format!("{:5.1} s  {complete}/{count} complete  {progress:<32}", elapsed.as_secs_f64())
}

impl Terminal {
    /// Takes the whole lines that were added since the last look.
    fn read_events(&mut self) {
        for event in self.events.read() {
            match event.pointer("/event").and_then(Value::as_str) {
                Some("progress") => self.verified = event.pointer("/verified").and_then(Value::as_u64).unwrap_or(self.verified),
                Some("completed") => {
                    self.verified = event.pointer("/length").and_then(Value::as_u64).unwrap_or(self.verified);
                    self.completed = Some(event);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_start_the_line_counts_down_and_then_it_shows_the_progress() {
        let at = |to_start_ms, bytes| line(Duration::from_millis(3_210), Duration::from_millis(to_start_ms), (0, 8), bytes);
        assert_eq!(at(11_001, (0, 100)).trim_end(), "  3.2 s  0/8 complete  starts in 12 s");
        assert_eq!(at(1, (0, 100)).trim_end(), "  3.2 s  0/8 complete  starts in 1 s");
        assert_eq!(at(0, (50, 100)).trim_end(), "  3.2 s  0/8 complete   50 % of 100 B");
        assert_eq!(at(0, (0, 0)).trim_end(), "  3.2 s  0/8 complete    0 % of 0 B");
        assert_eq!(at(11_001, (0, 100)).len(), at(0, (50, 1 << 40)).len(), "a shorter line must cover a longer one");
        assert!(at(0, (0, u64::MAX)).len() < 80);
    }
}
