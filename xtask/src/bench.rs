//! `cargo xtask bench`: measurements of one part each, with every optimisation and next to a yardstick on the same machine, so that the figure means
//! something elsewhere too. What is measured are the built programs, or a program of the part's own crate; the runner builds and starts them.

mod auction;
mod goodput;
mod ledger;
mod planner;
mod program;
mod seal;

use clap::Subcommand;

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Clear one book of many bids, beside one sort of as many numbers
    Auction(auction::Options),
    /// Hand one terminal's content to another over loopback, beside what the bare data-channel library moves
    Goodput(goodput::Options),
    /// Post transfers to the ledger, beside pgbench writing the same rows on the same Postgres
    Ledger(ledger::Options),
    /// Plan one wave of many terminals, beside one sort of them
    Planner(planner::Options),
    /// Open a content that came sealed, beside decrypting and writing as many bytes
    Seal(seal::Options),
}

pub(crate) fn run(project: &Project, part: &Part, interrupt: &Interrupt) -> Result<(), Failure> {
    match part {
        Part::Auction(options) => auction::run(project, options, interrupt),
        Part::Goodput(options) => goodput::run(project, options, interrupt),
        Part::Ledger(options) => ledger::run(project, options, interrupt),
        Part::Planner(options) => planner::run(project, options, interrupt),
        Part::Seal(options) => seal::run(project, options, interrupt),
    }
}
