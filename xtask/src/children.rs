//! Child processes that cannot outlive the runner.
//!
//! Five things end children, so that no way of leaving forgets one:
//! 1. [`Child::stop`], and `Drop` on every return, error and panic: the child's stop signal to its process group, then, after its
//!    grace or at the second Ctrl-C, SIGKILL;
//! 2. signals, because every wait here goes through [`Interrupt::pause`] and unwinds to the guards;
//! 3. the death of the runner itself, SIGKILL included: `setpriv --pdeathsig` asks the kernel to send the child a signal then;
//! 4. when a child ends by itself, what is left of its process group is killed with it;
//! 5. what left its group is adopted by the runner, and killed at the very end ([`orphans`]).
//!
//! Each child leads a process group of its own: a Ctrl-C in the terminal reaches the runner only, which stops things in its order.
//! Spawn from a thread that lives as long as the child: the kernel takes the end of the *spawning thread* for the parent's death.

pub(crate) mod events;
pub(crate) mod orphans;
mod tail;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::services::account::Account;

/// How often a child's state is looked at: far below what a person notices, and cheap.
const POLL: Duration = Duration::from_millis(20);

/// The signals that end children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndSignal {
    Interrupt,
    Terminate,
    Kill,
}

impl EndSignal {
    fn signal(self) -> Signal {
        match self {
            Self::Interrupt => Signal::INT,
            Self::Terminate => Signal::TERM,
            Self::Kill => Signal::KILL,
        }
    }

    /// As `setpriv` wants it: it takes names only.
    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
            Self::Kill => "KILL",
        }
    }
}

/// How a child is ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// The signal that asks it to stop.
    pub(crate) stop: EndSignal,
    /// The signal that the kernel sends it when the runner is gone; `None` leaves it to finish alone.
    pub(crate) orphaned: Option<EndSignal>,
    /// How long it may take to stop before SIGKILL.
    pub(crate) grace: Duration,
}

impl Ending {
    /// SIGTERM, SIGKILL after `grace`, and SIGKILL when the runner dies: for programs with nothing to save.
    pub(crate) const fn terminate(grace: Duration) -> Self {
        Self { stop: EndSignal::Terminate, orphaned: Some(EndSignal::Kill), grace }
    }
}

/// Where a child's output goes.
#[derive(Debug, Clone)]
pub(crate) enum Output {
    /// To the runner's own terminal.
    Terminal,
    /// Both streams to one file, begun anew.
    Log(PathBuf),
    /// Standard output and standard error to a file each, begun anew.
    Split {
        /// The file of standard output, for programs that announce something there.
        announcements: PathBuf,
        /// The file of standard error.
        log: PathBuf,
    },
}

impl Output {
    fn log_file(&self) -> Option<&Path> {
        match self {
            Self::Terminal => None,
            Self::Log(log) | Self::Split { log, .. } => Some(log),
        }
    }

    fn attach(&self, command: &mut Command) -> Result<(), Failure> {
        let create = |path: &Path| File::create(path).map_err(|error| Failure::file("write", path, &error));
        match self {
            Self::Terminal => {}
            Self::Log(log) => {
                let file = create(log)?;
                command.stderr(file.try_clone().map_err(|error| Failure::file("write", log, &error))?);
                command.stdout(file);
            }
            Self::Split { announcements, log } => {
                command.stdout(create(announcements)?);
                command.stderr(create(log)?);
            }
        }
        Ok(())
    }
}

/// A child that is about to be started. Arguments, environment and folder are set on `command`.
#[derive(Debug)]
pub(crate) struct Launch {
    /// The command, already wrapped so that it runs as the account and dies with the runner.
    pub(crate) command: Command,
    name: String,
    ending: Ending,
    output: Output,
    input: String,
}

impl Launch {
    /// Prepares `program`, to be run as `account` where one is given (which needs root).
    pub(crate) fn new(
        name: impl Into<String>,
        program: impl AsRef<OsStr>,
        account: Option<&Account>,
        ending: Ending,
        output: Output,
    ) -> Self {
        let mut wrapper: Vec<String> = Vec::new();
        if let Some(account) = account {
            wrapper.extend([format!("--reuid={}", account.uid), format!("--regid={}", account.gid), "--clear-groups".to_owned()]);
        }
        if let Some(signal) = ending.orphaned.filter(|_| *SETPRIV_KNOWS_PDEATHSIG) {
            wrapper.push(format!("--pdeathsig={}", signal.name()));
        }
        let command = if wrapper.is_empty() {
            Command::new(program)
        } else {
            let mut command = Command::new("setpriv");
            command.args(wrapper).arg("--").arg(program);
            command
        };
        Self { command, name: name.into(), ending, output, input: String::new() }
    }

    /// What the child reads from standard input; nothing by default. Must fit a pipe (64 KiB), as it is written before anything is read.
    pub(crate) fn input(mut self, text: impl Into<String>) -> Self {
        self.input = text.into();
        self
    }

    /// Starts the child.
    pub(crate) fn start(mut self, interrupt: &Interrupt) -> Result<Child, Failure> {
        interrupt.check()?;
        self.output.attach(&mut self.command)?;
        self.command.stdin(if self.input.is_empty() { Stdio::null() } else { Stdio::piped() }).process_group(0);
        let process = self.command.spawn().map_err(|error| {
            let program = self.command.get_program().display();
            Failure::told(format!("cannot start {} ({program}): {error}", self.name))
        })?;
        let pid = Pid::from_child(&process);
        let log = self.output.log_file().map(Path::to_path_buf);
        let mut child = Child { process, pid, name: self.name, ending: self.ending, log, interrupt: interrupt.clone(), status: None };
        if let Some(mut pipe) = child.process.stdin.take() {
            match pipe.write_all(self.input.as_bytes()) {
                Ok(()) => {}
                // It ended without reading: its exit status tells more than the broken pipe.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(Failure::told(format!("cannot write to {}: {error}", child.name))),
            }
        }
        Ok(child)
    }
}

/// Whether `setpriv` exists and can set the parent's death signal (util-linux 2.33 and later). Without it everything works but
/// ending children after the runner itself got SIGKILL.
static SETPRIV_KNOWS_PDEATHSIG: LazyLock<bool> = LazyLock::new(|| {
    let mut probe = Command::new("setpriv");
    probe.args(["--pdeathsig=KILL", "--", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
});

/// A running child; it is stopped when this value is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    process: process::Child,
    pid: Pid,
    name: String,
    ending: Ending,
    log: Option<PathBuf>,
    interrupt: Interrupt,
    /// Set once the child was reaped; from then on its process id may belong to somebody else.
    status: Option<ExitStatus>,
}

impl Child {
    /// The process id; the wrapper replaces itself, so it is the program's own.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether the child has ended by itself or was stopped.
    pub(crate) fn has_ended(&self) -> bool {
        // NOWAIT leaves the child unreaped: its process id, and with it the group's, stays ours until `finish`.
        self.status.is_some()
            || !matches!(waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG), Ok(None))
    }

    /// Waits for the end, however long it takes.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus, Failure> {
        while !self.has_ended() {
            self.interrupt.pause(POLL)?;
        }
        self.finish()
    }

    /// Waits for the end even if a signal comes: for what must not be cut in the middle. A second signal does.
    pub(crate) fn wait_through_signals(&mut self) -> Result<ExitStatus, Failure> {
        let mut told = false;
        while !self.has_ended() && !self.interrupt.is_impatient() {
            if !told && self.interrupt.check().is_err() {
                eprintln!("xtask: letting {} finish first (Ctrl-C again to cut it)", self.name);
                told = true;
            }
            thread::sleep(POLL);
        }
        self.interrupt.check().inspect_err(|_| self.stop())?;
        self.finish()
    }

    /// Waits for success until `deadline`; anything else is a failure that quotes the log's end.
    pub(crate) fn succeed_within(&mut self, deadline: Duration) -> Result<(), Failure> {
        let end = Instant::now() + deadline;
        while !self.has_ended() {
            if Instant::now() >= end {
                return Err(self.blame(&format!("did not finish within {} s", deadline.as_secs())));
            }
            self.interrupt.pause(POLL)?;
        }
        let status = self.finish()?;
        if status.success() { Ok(()) } else { Err(self.blame(&format!("failed ({status})"))) }
    }

    /// Asks `probe` until it returns a value; fails when the child ends before, or at the deadline.
    pub(crate) fn ready_within<T>(&mut self, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T, Failure> {
        let end = Instant::now() + deadline;
        loop {
            if self.has_ended() {
                let status = self.finish()?;
                return Err(self.blame(&format!("ended before it was ready ({status})")));
            }
            if let Some(ready) = probe() {
                return Ok(ready);
            }
            if Instant::now() >= end {
                return Err(self.blame(&format!("was not ready within {} s", deadline.as_secs())));
            }
            self.interrupt.pause(POLL)?;
        }
    }

    /// SIGKILL for the child and its process group, as a power cut would end it. It stays to be stopped: until then the kernel knows what it used.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// SIGSTOP for the child and its process group: they do nothing from now on, and are not gone. As they would not hear a polite signal either, they
    /// are killed in the end.
    pub(crate) fn suspend(&mut self) {
        self.signal(Signal::STOP);
        self.ending.stop = EndSignal::Kill;
    }

    fn signal(&self, signal: Signal) {
        if !self.has_ended() {
            // An error means that the group is gone.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// A failure about this child, with the last lines of its log.
    pub(crate) fn blame(&self, what: &str) -> Failure {
        let quote = self.log.as_deref().map(tail::quote).unwrap_or_default();
        Failure::told(format!("{} {what}{quote}", self.name))
    }

    /// Stops the child and whatever else is in its process group. Does nothing the second time.
    pub(crate) fn stop(&mut self) {
        if self.status.is_some() {
            return;
        }
        self.signal(self.ending.stop.signal());
        let end = Instant::now() + self.ending.grace;
        while !self.has_ended() && Instant::now() < end && !self.interrupt.is_impatient() {
            thread::sleep(POLL);
        }
        let _ = self.finish();
    }

    /// Kills what is left of the group, then reaps the child.
    fn finish(&mut self) -> Result<ExitStatus, Failure> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
        let status = self.process.wait().map_err(|error| Failure::told(format!("cannot wait for {}: {error}", self.name)))?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
