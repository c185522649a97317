//! The terminals while they run: one process each in a namespace of its own, whose events are read from its output as they come.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::counters;
use super::network::terminal_namespace;
use super::plan::terminal_name;
use crate::children::events::Events;
use crate::children::{Child, Ending, Launch, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// How often the terminals are looked at: the error of a time, and a hundredth of the shortest run's length.
const LOOK: Duration = Duration::from_millis(20);

/// How often somebody who waits reads that something happens.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// One terminal's process.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    process: Child,
    events: Events,
    is_ready: bool,
    completed: Option<Completed>,
    /// What it receives comes to below this folder.
    received: PathBuf,
    /// As others call it in their events.
    id: Option<String>,
    replaced: Vec<Replaced>,
    struck: Option<Struck>,
}

/// A relay was gone, and the first of what it owed this terminal came from somebody else.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Replaced {
    /// When the lab saw it, from t0.
    pub(super) after: Duration,
    /// The id of the relay that is gone.
    pub(super) relay: String,
}

/// A terminal that is not left to itself any more.
#[derive(Debug, Clone, Copy)]
enum Struck {
    /// What its interface had sent by then: with the process, the way to its counters is gone.
    Killed {
        sent: u64,
    },
    Stopped,
}

/// What a terminal said when it had everything.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Completed {
    /// When the lab saw it, from t0.
    pub(super) after: Duration,
    pub(super) path: PathBuf,
}

impl Node {
    /// Starts `program` as terminal `index` (from 0), with its output in `folder`.
    pub(super) fn start(
        index: usize,
        folder: &Path,
        program: &Path,
        arguments: &[String],
        ending: Ending,
        interrupt: &Interrupt,
    ) -> Result<Self, Failure> {
        let name = terminal_name(index);
        let events = folder.join("events.jsonl");
        let output = Output::Split { announcements: events.clone(), log: folder.join("run.log") };
        let mut launch = Launch::new(&name, "ip", None, ending, output);
        launch.command.args(["netns", "exec", &terminal_namespace(index)]).arg(program).args(arguments);
        Ok(Self {
            name,
            process: launch.start(interrupt)?,
            events: Events::of(events),
            is_ready: false,
            completed: None,
            received: folder.join("received"),
            id: None,
            replaced: Vec::new(),
            struck: None,
        })
    }

    /// Others call it by this id in their events.
    pub(super) fn known_as(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// The process id.
    pub(super) fn process_id(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(super) fn replaced(&self) -> &[Replaced] {
        &self.replaced
    }

    /// Link bytes that it has sent.
    pub(super) fn sent(&self) -> Result<u64, Failure> {
        match self.struck {
            Some(Struck::Killed { sent }) => Ok(sent),
            Some(Struck::Stopped) | None => counters::sent_by(self.process_id()),
        }
    }

    /// What lies on its disk of what it is to receive.
    pub(super) fn on_disk(&self) -> u64 {
        counters::allocated(&self.received)
    }

    /// Ends it as a power cut would. It is not waited for any more.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        let sent = self.sent()?;
        self.process.kill();
        self.struck = Some(Struck::Killed { sent });
        Ok(())
    }

    /// Has it do nothing until the end of the run. It is not waited for any more.
    pub(super) fn suspend(&mut self) {
        self.process.suspend();
        self.struck = Some(Struck::Stopped);
    }

    /// Whether it was killed or stopped: nothing is expected of it.
    pub(super) fn is_struck(&self) -> bool {
        self.struck.is_some()
    }

    /// Stops it and says what it had received.
    pub(super) fn finish(mut self) -> (String, Option<Completed>) {
        self.process.stop();
        (self.name, self.completed)
    }

    fn look(&mut self, elapsed: Duration) -> Result<(), Failure> {
        if self.is_struck() {
            return Ok(());
        }
        for event in self.events.read() {
            self.take(&event, elapsed);
        }
        if self.process.has_ended() {
            return Err(self.process.blame("ended before the run was over"));
        }
        Ok(())
    }

    fn take(&mut self, event: &Value, elapsed: Duration) {
        match event.pointer("/event").and_then(Value::as_str) {
            // A terminal of Spillway has a plan when it knows whom to link with; the others say when their connections are made.
            Some("plan" | "ready") => self.is_ready = true,
            Some("completed") if self.completed.is_none() => {
                let path = event.pointer("/path").and_then(Value::as_str).map(PathBuf::from).unwrap_or_default();
                self.completed = Some(Completed { after: elapsed, path });
            }
            Some("replaced") => {
                if let Some(relay) = event.pointer("/relay").and_then(Value::as_str) {
                    self.replaced.push(Replaced { after: elapsed, relay: relay.to_owned() });
                }
            }
            _ => {}
        }
    }
}

/// Waits until every terminal is ready, at most for `within`.
pub(super) fn all_ready(nodes: &mut [Node], within: Duration, interrupt: &Interrupt) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        for node in nodes.iter_mut() {
            node.look(Duration::ZERO)?;
        }
        let Some(late) = nodes.iter().find(|node| !node.is_ready) else { return Ok(()) };
        if begun.elapsed() > within {
            return Err(late.process.blame(&format!("was not ready within {} s", within.as_secs())));
        }
        interrupt.pause(LOOK)?;
    }
}

/// Waits for t0. A terminal that has everything by then was not measured, which is a failure.
pub(super) fn until(t0: SystemTime, nodes: &mut [Node], interrupt: &Interrupt) -> Result<(), Failure> {
    while let Ok(left) = t0.duration_since(SystemTime::now()) {
        for node in nodes.iter_mut() {
            node.look(Duration::ZERO)?;
            if node.completed.is_some() {
                return Err(node.process.blame("was complete before t0"));
            }
        }
        interrupt.pause(left.min(LOOK))?;
    }
    Ok(())
}

/// Follows the terminals from t0 until all that are left are complete or `patience` has passed. `each_look` is called after every look at them.
pub(super) fn follow(
    nodes: &mut [Node],
    t0: SystemTime,
    patience: Duration,
    interrupt: &Interrupt,
    mut each_look: impl FnMut(&mut [Node]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut told = Instant::now();
    loop {
        let elapsed = SystemTime::now().duration_since(t0).unwrap_or_default();
        for node in nodes.iter_mut() {
            node.look(elapsed)?;
        }
        each_look(nodes)?;
        let left = nodes.iter().filter(|node| !node.is_struck());
        let (complete, awaited) = (left.clone().filter(|node| node.completed.is_some()).count(), left.count());
        if complete == awaited || elapsed > patience {
            return Ok(());
        }
        if told.elapsed() > TELL_EVERY {
            eprintln!("xtask: {complete} of {awaited} complete after {:.0} s", elapsed.as_secs_f64());
            told = Instant::now();
        }
        interrupt.pause(LOOK)?;
    }
}
