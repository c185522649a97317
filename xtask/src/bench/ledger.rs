//! `cargo xtask bench ledger`: postings to the ledger, beside pgbench on the same Postgres.

use std::path::PathBuf;

use clap::Args;

use super::program::Program;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;
use crate::services::{Contention, Data, Purpose, Services};

const PURPOSE: Purpose = Purpose { name: "bench-ledger", data: Data::Flushed, contention: Contention::OwnInstance, turn: false };

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Postings of each measurement
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    postings: u32,
    /// Clients that post at the same time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=20))]
    clients: u32,
    /// How often each is measured, with many publishers and with one; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    runs: u32,
    /// Write the figures to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Fails if the ledger is below its limits.
pub(super) fn run(project: &Project, options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    let services = Services::start(project, &PURPOSE, interrupt)?;
    let own = [
        ("--postings", options.postings.to_string()),
        ("--clients", options.clients.to_string()),
        ("--pgbench", services.postgres_program("pgbench").display().to_string()),
    ];
    let program = Program {
        package: "server",
        example: "bench_ledger",
        options: &own,
        runs: options.runs,
        features: Some("testing"),
        json: options.json.as_deref(),
    };
    program.run(project, &services.environment(), interrupt)
}
