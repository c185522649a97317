//! `cargo xtask bench planner`: time and memory of the relay planner.

use std::path::PathBuf;

use clap::Args;

use super::program::Program;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many terminals the wave has
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    terminals: u32,
    /// How often each time is taken; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Write the figures to this file, too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Fails if the planner is above its limits.
pub(super) fn run(project: &Project, options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    let counted = [("--terminals", options.terminals.to_string())];
    let program = Program {
        package: "rules",
        example: "bench_planner",
        options: &counted,
        runs: options.runs,
        features: None,
        json: options.json.as_deref(),
    };
    program.run(project, &[], interrupt)
}
