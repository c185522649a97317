//! `cargo xtask bench`: measurements of one part each, with every optimisation and next to a yardstick on the same machine, so that the figure means
//! something elsewhere too. What is measured is a program of the part's own crate; the runner builds and starts it.

mod planner;

use clap::Subcommand;

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Plan one wave of many terminals, beside one sort of them
    Planner(planner::Options),
}

pub(crate) fn run(project: &Project, part: &Part, interrupt: &Interrupt) -> Result<(), Failure> {
    match part {
        Part::Planner(options) => planner::run(project, options, interrupt),
    }
}
