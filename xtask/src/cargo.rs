//! Cargo commands of the workspace.

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::children::{EndSignal, Ending, Launch, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

/// Cargo and nextest end their children on SIGTERM; nextest gives tests 10 s for that.
const ENDING: Ending = Ending { stop: EndSignal::Terminate, orphaned: Some(EndSignal::Terminate), grace: Duration::from_secs(15) };
const METADATA_DEADLINE: Duration = Duration::from_secs(300);

/// A cargo command in the workspace's root, with its output on the terminal.
pub(crate) fn launch<A: AsRef<str>>(project: &Project, name: &str, arguments: &[A]) -> Launch {
    prepare(project, name, arguments, Output::Terminal)
}

/// Runs a cargo command to its end.
pub(crate) fn succeed(launch: Launch, interrupt: &Interrupt) -> Result<(), Failure> {
    let mut child = launch.start(interrupt)?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(child.blame(&format!("failed ({status})"))) }
}

/// Builds `spillway` and `spillway-server`.
pub(crate) fn build_programs(project: &Project, interrupt: &Interrupt) -> Result<(), Failure> {
    succeed(launch(project, "cargo build", &["build", "--package", "client-cli", "--package", "server"]), interrupt)
}

/// Builds the same programs with every optimisation, for measurements: see [`Project::released`].
pub(crate) fn build_released_programs(project: &Project, interrupt: &Interrupt) -> Result<(), Failure> {
    succeed(launch(project, "cargo build", &["build", "--release", "--package", "client-cli", "--package", "server"]), interrupt)
}

/// What `cargo metadata` says about the workspace and everything it depends on.
pub(crate) fn metadata(project: &Project, interrupt: &Interrupt) -> Result<serde_json::Value, Failure> {
    fs::create_dir_all(&project.state).map_err(|error| Failure::file("create", &project.state, &error))?;
    let (text, log) = (project.state.join("metadata.json"), project.state.join("metadata.log"));
    let output = Output::Split { announcements: text.clone(), log };
    let launch = prepare(project, "cargo metadata", &["metadata", "--format-version", "1"], output);
    launch.start(interrupt)?.succeed_within(METADATA_DEADLINE)?;
    let text = fs::read_to_string(&text).map_err(|error| Failure::file("read", &text, &error))?;
    serde_json::from_str(&text).map_err(|error| Failure::told(format!("cannot read what cargo metadata prints: {error}")))
}

/// Whether cargo-nextest is installed.
pub(crate) fn has_nextest() -> bool {
    let mut probe = Command::new(program());
    probe.args(["nextest", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

fn program() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn prepare<A: AsRef<str>>(project: &Project, name: &str, arguments: &[A], output: Output) -> Launch {
    let mut launch = Launch::new(name, program(), None, ENDING, output);
    launch.command.args(arguments.iter().map(AsRef::as_ref)).current_dir(&project.root);
    // `cargo run` told the runner about its own package. Build scripts that look at those variables would run again at every change
    // between a cargo that the runner starts and one that a person starts.
    for (name, _) in env::vars_os() {
        if is_about_one_package(&name.to_string_lossy()) {
            launch.command.env_remove(name);
        }
    }
    // Queries are checked against the committed descriptions, never against whatever database is at hand while compiling.
    launch.command.env("SQLX_OFFLINE", "true");
    launch
}

fn is_about_one_package(variable: &str) -> bool {
    let exact = ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];
    variable.starts_with("CARGO_PKG_") || exact.contains(&variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_run_says_about_the_runner_is_forgotten_and_what_people_configure_is_kept() {
        assert!(is_about_one_package("CARGO_PKG_VERSION") && is_about_one_package("CARGO_MANIFEST_DIR"));
        assert!(
            !is_about_one_package("CARGO_TARGET_DIR") && !is_about_one_package("CARGO_HOME") && !is_about_one_package("CARGO_BUILD_JOBS")
        );
    }
}
