//! A bench that is a program of the part's own crate: an example, built with every optimisation.

use std::path::{self, Path};

use crate::cargo;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

/// What such a program is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program<'a> {
    pub(super) package: &'a str,
    pub(super) example: &'a str,
    /// How many of what, such as `--terminals`, or another of its options.
    pub(super) options: &'a [(&'a str, String)],
    pub(super) runs: u32,
    /// Features of the package that the program needs.
    pub(super) features: Option<&'a str>,
    pub(super) json: Option<&'a Path>,
}

impl Program<'_> {
    /// Fails if the program does, which it does above its limits.
    pub(super) fn run(self, project: &Project, environment: &[(&str, &str)], interrupt: &Interrupt) -> Result<(), Failure> {
        let mut launch = cargo::launch(project, self.example, &self.arguments()?);
        launch.command.envs(environment.iter().copied());
        cargo::succeed(launch, interrupt)
    }

    /// The program runs in the workspace's root: a relative path is made absolute before.
    fn arguments(self) -> Result<Vec<String>, Failure> {
        let mut arguments: Vec<String> =
            ["run", "--quiet", "--release", "--package", self.package, "--example", self.example].map(str::to_owned).to_vec();
        if let Some(features) = self.features {
            arguments.extend(["--features", features].map(str::to_owned));
        }
        arguments.push("--".to_owned());
        arguments.extend(self.options.iter().flat_map(|(name, value)| [(*name).to_owned(), value.clone()]));
        arguments.extend(["--runs".to_owned(), self.runs.to_string()]);
        if let Some(json) = self.json {
            let absolute = path::absolute(json).map_err(|error| Failure::file("find", json, &error))?;
            let absolute = absolute.into_os_string().into_string();
            let text = absolute.map_err(|_| Failure::told(format!("{} is not valid Unicode", json.display())))?;
            arguments.extend(["--json".to_owned(), text]);
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_file_is_the_callers_and_not_the_workspaces() {
        let options = [("--terminals", "2000".to_owned())];
        let json = Some(Path::new("figures.json"));
        let program = Program { package: "rules", example: "bench_planner", options: &options, features: None, runs: 3, json };
        let arguments = program.arguments().unwrap();
        let own = arguments.iter().position(|argument| argument == "--").unwrap() + 1;
        let file = std::env::current_dir().unwrap().join("figures.json");
        assert_eq!(arguments[own..], ["--terminals", "2000", "--runs", "3", "--json", file.to_str().unwrap()]);
    }
}
