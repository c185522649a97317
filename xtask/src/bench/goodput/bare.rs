//! The yardstick: `terminal/examples/bare_channel.rs`, the library that links are made of, driven by a loop of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::figures::{Measured, per_gib};
use crate::cargo;
use crate::children::{Ending, Launch, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

const EXAMPLE: &str = "bare_channel";
/// Some time to connect, and a rate that no machine is below.
const CONNECTS_WITHIN: Duration = Duration::from_secs(60);
const MIB_PER_SECOND_MIN: u64 = 1;

/// The built program.
#[derive(Debug)]
pub(super) struct Library {
    program: PathBuf,
    folder: PathBuf,
}

/// What it prints.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(super) struct Bare {
    /// Behind the first message.
    bytes: u64,
    /// From the first message to the last one, at the receiving end.
    seconds: f64,
    sender_cpu_s: f64,
    receiver_cpu_s: f64,
}

/// Builds it in a target directory of its own: an example has its package's development dependencies, whose features would change, and build anew, what
/// the programs are made of.
pub(super) fn build(project: &Project, interrupt: &Interrupt) -> Result<Library, Failure> {
    let target = project.state.with_file_name("bench");
    let path = target.display().to_string();
    let arguments = ["build", "--release", "--package", "terminal", "--example", EXAMPLE, "--target-dir", &path];
    cargo::succeed(cargo::launch(project, "cargo build", &arguments), interrupt)?;
    Ok(Library { program: target.join("release/examples").join(EXAMPLE), folder: target })
}

impl Library {
    /// Moves so many MiB.
    pub(super) fn run(&self, mib: u64, interrupt: &Interrupt) -> Result<Bare, Failure> {
        let (figures, log) = (self.folder.join("bare.json"), self.folder.join("bare.log"));
        let output = Output::Split { announcements: figures.clone(), log };
        let mut launch = Launch::new("the bare library", &self.program, None, Ending::terminate(Duration::from_secs(2)), output);
        launch.command.arg(mib.to_string());
        launch.start(interrupt)?.succeed_within(CONNECTS_WITHIN + Duration::from_secs(mib / MIB_PER_SECOND_MIN))?;
        let text = fs::read_to_string(&figures).map_err(|error| Failure::file("read", &figures, &error))?;
        serde_json::from_str(&text).map_err(|error| Failure::told(format!("the bare library's figures cannot be read ({error}): {text}")))
    }
}

impl Bare {
    pub(super) fn mb_s(&self) -> f64 {
        Measured { bytes: self.bytes, seconds: self.seconds }.mb_s()
    }

    /// Of both ends.
    pub(super) fn cpu_s_per_gib(&self) -> f64 {
        per_gib(self.sender_cpu_s + self.receiver_cpu_s, self.bytes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn bare(bytes: u64, seconds: f64) -> Bare {
        Bare { bytes, seconds, sender_cpu_s: 1.5, receiver_cpu_s: 0.5 }
    }

    #[test]
    fn what_the_program_prints_is_understood() {
        let line = r#"{"bytes":1073741824,"seconds":4.0,"receiver_cpu_s":0.5,"sender_cpu_s":1.5,"window_bytes":1048576}"#;
        let read: Bare = serde_json::from_str(line).unwrap();
        assert_eq!(read, bare(1 << 30, 4.0));
        assert!((read.mb_s() - 268.435_456).abs() < 1e-9 && (read.cpu_s_per_gib() - 2.0).abs() < 1e-9);
    }
}
