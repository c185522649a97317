//! The programs that the lab needs besides its own; the missing ones are installed where the runner may.

use std::env;
use std::process::{Command, Stdio};

use super::plan::System;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;
use crate::services::programs::{Package, install, is_program};

/// The system's own: another Python in `PATH` does not see the packages of the distribution.
pub(super) const PYTHON: &str = "/usr/bin/python3";

/// What is needed, and how it is known to be there.
struct Tool {
    package: Package,
    probe: Probe,
}

enum Probe {
    InPath(&'static str),
    /// A command that succeeds.
    Succeeds(&'static str, &'static [&'static str]),
}

const fn program(name: &'static str, package: &'static str) -> Tool {
    Tool { package: Package { name: package, program: name }, probe: Probe::InPath(name) }
}

const LINKS: [Tool; 3] = [program("ip", "iproute2"), program("tc", "iproute2"), program("ethtool", "ethtool")];
const NGINX: Tool = program("nginx", "nginx");
const PYTHON_ITSELF: Tool =
    Tool { package: Package { name: "python3", program: "python3" }, probe: Probe::Succeeds(PYTHON, &["-c", "import http.client"]) };
const LIBTORRENT: Tool = Tool {
    package: Package { name: "python3-libtorrent", program: "libtorrent for Python" },
    probe: Probe::Succeeds(PYTHON, &["-c", "import libtorrent"]),
};

fn needed(systems: &[System]) -> Vec<Tool> {
    let of = |system: &System| match system {
        System::Spillway => vec![],
        System::Libtorrent => vec![LIBTORRENT],
        System::Http => vec![NGINX, PYTHON_ITSELF],
    };
    LINKS.into_iter().chain(systems.iter().flat_map(of)).collect()
}

/// Fails unless everything is there, or could be installed.
pub(super) fn require(systems: &[System], project: &Project, interrupt: &Interrupt) -> Result<(), Failure> {
    let missing = missing(&needed(systems), is_there);
    if missing.is_empty() {
        return Ok(());
    }
    install::packages(&missing, project, interrupt)?;
    let still: Vec<&str> = self::missing(&needed(systems), is_there).iter().map(|package| package.program).collect();
    if still.is_empty() {
        Ok(())
    } else {
        Err(Failure::told(format!("{} cannot be found even though its package was installed", still.join(" and "))))
    }
}

/// Each missing package once.
fn missing(tools: &[Tool], is_there: impl Fn(&Probe) -> bool) -> Vec<Package> {
    let mut packages: Vec<Package> = Vec::new();
    for tool in tools.iter().filter(|tool| !is_there(&tool.probe)) {
        if !packages.iter().any(|package| package.name == tool.package.name) {
            packages.push(tool.package);
        }
    }
    packages
}

fn is_there(probe: &Probe) -> bool {
    match probe {
        Probe::InPath(name) => {
            let path = env::var_os("PATH").unwrap_or_default();
            env::split_paths(&path).any(|folder| is_program(&folder.join(name)))
        }
        Probe::Succeeds(program, arguments) => {
            let mut probe = Command::new(program);
            probe.args(*arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            probe.status().is_ok_and(|status| status.success())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_of_two_missing_programs_is_installed_once() {
        let names: Vec<&str> = missing(&needed(&System::ALL), |_| false).iter().map(|package| package.name).collect();
        assert_eq!(names, ["iproute2", "ethtool", "python3-libtorrent", "nginx", "python3"]);
    }

    #[test]
    fn what_no_chosen_system_needs_is_not_asked_for() {
        let names: Vec<&str> = missing(&needed(&[System::Spillway]), |_| false).iter().map(|package| package.name).collect();
        assert_eq!(names, ["iproute2", "ethtool"]);
        assert!(missing(&needed(&System::ALL), |_| true).is_empty());
    }

    #[test]
    fn a_program_is_looked_for_in_path_and_a_module_by_asking() {
        assert!(is_there(&Probe::InPath("sh")) && !is_there(&Probe::InPath("no-such-program-of-the-lab")));
        assert!(is_there(&Probe::Succeeds("sh", &["-c", "exit 0"])) && !is_there(&Probe::Succeeds("sh", &["-c", "exit 1"])));
    }
}
