//! `cargo xtask bench planner`: time and memory of the relay planner.

use std::path::{self, PathBuf};

use clap::Args;

use crate::cargo;
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
    cargo::succeed(cargo::launch(project, "the planner's bench", &arguments(options)?), interrupt)
}

/// The program runs in the workspace's root: a relative path is made absolute before.
fn arguments(options: &Options) -> Result<Vec<String>, Failure> {
    let mut arguments: Vec<String> =
        ["run", "--quiet", "--release", "--package", "rules", "--example", "bench_planner", "--"].map(str::to_owned).to_vec();
    arguments.extend(["--terminals".to_owned(), options.terminals.to_string(), "--runs".to_owned(), options.runs.to_string()]);
    if let Some(json) = &options.json {
        let absolute = path::absolute(json).map_err(|error| Failure::file("find", json, &error))?;
        let absolute = absolute.into_os_string().into_string();
        let text = absolute.map_err(|_| Failure::told(format!("{} is not valid Unicode", json.display())))?;
        arguments.extend(["--json".to_owned(), text]);
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_file_is_the_callers_and_not_the_workspaces() {
        let options = Options { terminals: 2_000, runs: 3, json: Some("figures.json".into()) };
        let arguments = arguments(&options).unwrap();
        let own = arguments.iter().position(|argument| argument == "--").unwrap() + 1;
        let file = std::env::current_dir().unwrap().join("figures.json");
        assert_eq!(arguments[own..], ["--terminals", "2000", "--runs", "3", "--json", file.to_str().unwrap()]);
    }
}
