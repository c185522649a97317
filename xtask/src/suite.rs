//! `cargo xtask test`: every check and every test, with a summary that says what failed and what took how long.

mod plan;
mod summary;

use std::env;
use std::time::{Duration, Instant};

use clap::Args;

use crate::borders;
use crate::cargo;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;
use crate::services::{Contention, Data, Purpose, Services};
use crate::suite::plan::{Check, Runner, Step, Tests};
use crate::suite::summary::{Outcome, Summary};

fn purpose(tests: Tests) -> Purpose {
    Purpose { name: "test", data: Data::Scratch, contention: Contention::OwnInstance, turn: tests.need_turn() }
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these steps (may be repeated or separated by commas)
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Check>,
    /// Arguments for the test runner, such as a test's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the steps; a failing one does not keep the later ones from running, unless they need it.
pub(crate) fn run(project: &Project, options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    let runner = if cargo::has_nextest() { Runner::Nextest } else { Runner::CargoTest };
    let mut summary = Summary::default();
    for step in plan::steps(&options.only) {
        if step.needs_programs() && summary.has_failed(Step::Build) {
            summary.add(step, Outcome::Skipped, Duration::ZERO);
            continue;
        }
        eprintln!("\nxtask: {}", step.title());
        let begun = Instant::now();
        let outcome = match perform(project, step, runner, &options.arguments, interrupt) {
            Ok(()) => Outcome::Passed,
            Err(Failure::Told(message)) => {
                eprintln!("xtask: {message}");
                Outcome::Failed
            }
            Err(interruption @ Failure::Interrupted(_)) => {
                summary.add(step, Outcome::Interrupted, begun.elapsed());
                eprintln!("\n{summary}");
                return Err(interruption);
            }
        };
        summary.add(step, outcome, begun.elapsed());
    }
    eprintln!("\n{summary}");
    summary.verdict()
}

fn perform(project: &Project, step: Step, runner: Runner, arguments: &[String], interrupt: &Interrupt) -> Result<(), Failure> {
    match step {
        Step::Fmt => cargo::succeed(cargo::launch(project, "cargo fmt", &["fmt", "--all", "--check"]), interrupt),
        Step::Borders => borders::check(project, &cargo::metadata(project, interrupt)?),
        Step::Clippy => {
            let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
            cargo::succeed(cargo::launch(project, "cargo clippy", &arguments), interrupt)
        }
        Step::Doc => {
            let mut launch = cargo::launch(project, "cargo doc", &["doc", "--workspace", "--no-deps", "--document-private-items"]);
            launch.command.env("RUSTDOCFLAGS", "-D warnings");
            cargo::succeed(launch, interrupt)
        }
        Step::Build => cargo::build_programs(project, interrupt),
        Step::Tests(tests) => run_tests(project, tests, runner, arguments, interrupt),
    }
}

fn run_tests(project: &Project, tests: Tests, runner: Runner, arguments: &[String], interrupt: &Interrupt) -> Result<(), Failure> {
    let services = Services::start(project, &purpose(tests), interrupt)?;
    let mut launch = cargo::launch(project, "the tests", &runner.arguments(tests, env::var_os("CI").is_some(), arguments));
    launch.command.envs(services.environment());
    launch.command.env("SPILLWAY_BIN", project.client_program()).env("SPILLWAY_SERVER_BIN", project.server_program());
    cargo::succeed(launch, interrupt)
}
