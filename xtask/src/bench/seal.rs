//! `cargo xtask bench seal`: time to open a content that came sealed.

use std::path::PathBuf;

use clap::Args;

use super::program::Program;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How large the content is; it is held in memory three times, and lies in `target` twice
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4096))]
    mib: u32,
    /// How often each time is taken; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Write the figures to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Fails if opening is above its limit.
pub(super) fn run(project: &Project, options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    let counted = [("--mib", options.mib.to_string())];
    let program = Program {
        package: "terminal",
        example: "bench_seal",
        options: &counted,
        runs: options.runs,
        features: None,
        json: options.json.as_deref(),
    };
    program.run(project, &[], interrupt)
}
