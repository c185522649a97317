//! `cargo xtask sim`: releases under virtual time with seeded faults, run by the crate `sim`, which is built only for this.

use clap::Args;

use crate::cargo;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Options of the simulator, such as --terminals 1000 --seed 1; --help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the simulator to its end; a broken promise is a failure.
pub(crate) fn run(project: &Project, options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    cargo::succeed(cargo::launch(project, "the simulator", &options.command()), interrupt)
}

impl Options {
    fn command(&self) -> Vec<String> {
        ["run", "--quiet", "--package", "sim", "--"].into_iter().map(str::to_owned).chain(self.arguments.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn what_is_asked_of_the_simulator_reaches_it_as_it_is() {
        let line = Line::try_parse_from(["sim", "--terminals", "1000", "--seed", "1"]).unwrap();
        assert_eq!(line.options.command(), ["run", "--quiet", "--package", "sim", "--", "--terminals", "1000", "--seed", "1"]);
    }
}
