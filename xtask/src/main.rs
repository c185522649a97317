//! The task runner. `cargo xtask up` runs the local stack, `cargo xtask test` every check and test; both work on a bare Debian machine
//! with Rust, because the Postgres and the Redis they need are found or installed and run as private instances under `target/`.
//!
//! It stays light to compile (no async runtime, no HTTP client): it is the first thing that a newcomer waits for.

mod bench;
mod borders;
mod cargo;
mod children;
mod demo;
mod failure;
mod interrupt;
mod lab;
mod project;
mod server;
mod services;
mod sim;
mod suite;
mod up;

use std::panic;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::children::orphans;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Spillway's task runner", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure one part by itself, optimised
    #[command(subcommand)]
    Bench(bench::Part),
    /// Send a release out, once, for real, and check everything about it
    Demo(demo::Options),
    /// Measure one release over shaped links against libtorrent and plain HTTP (needs root)
    Lab(lab::Options),
    /// One run of the lab, inside of the origin's network namespace
    #[command(hide = true)]
    LabInside(lab::inside::Options),
    /// Run releases under virtual time with seeded faults, and check what must always hold
    Sim(sim::Options),
    /// Run every check and every test against a private Postgres and Redis
    Test(suite::Options),
    /// Run the local stack until Ctrl-C
    Up(up::Options),
}

fn main() -> ExitCode {
    let task = Arguments::parse().task;
    orphans::adopt();
    // A panic has stopped what was started on its way up; what that left behind must not survive it either.
    let outcome = panic::catch_unwind(|| run(task));
    orphans::end();
    match outcome.unwrap_or_else(|panic| panic::resume_unwind(panic)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            failure.exit_code()
        }
    }
}

/// Everything that was started is owned by values inside this call, so that it is stopped before the exit code is decided.
fn run(task: Task) -> Result<(), Failure> {
    let interrupt = Interrupt::install()?;
    let project = Project::locate()?;
    match task {
        Task::Bench(part) => bench::run(&project, &part, &interrupt),
        Task::Demo(options) => demo::run(&project, &options, &interrupt),
        Task::Lab(options) => lab::run(&project, &options, &interrupt),
        Task::LabInside(options) => lab::inside::run(&project, &options, &interrupt),
        Task::Sim(options) => sim::run(&project, &options, &interrupt),
        Task::Test(options) => suite::run(&project, &options, &interrupt),
        Task::Up(options) => up::run(&project, &options, &interrupt),
    }
}
