//! Installs Debian packages, or says which line does.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::children::{Ending, Launch, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;
use crate::services::programs::{POSTGRES, Package, REDIS};

/// Installs the packages with apt-get if the runner is root on a Debian system; otherwise fails with the line to run.
pub(crate) fn packages(missing: &[Package], project: &Project, interrupt: &Interrupt) -> Result<(), Failure> {
    let is_debian = Path::new("/etc/debian_version").exists();
    let is_root = rustix::process::geteuid().is_root();
    if !(is_debian && is_root) {
        return Err(Failure::told(advice(missing, is_debian)));
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    eprintln!("xtask: installing {} with apt-get", names.join(" and "));
    let _quiet = NoDaemons::from_packages()?;
    apt_get(&["update"], &[], project, interrupt)?;
    apt_get(&["install", "--yes", "--no-install-recommends"], &names, project, interrupt)
}

fn apt_get(action: &[&str], names: &[&str], project: &Project, interrupt: &Interrupt) -> Result<(), Failure> {
    fs::create_dir_all(&project.state).map_err(|error| Failure::file("create", &project.state, &error))?;
    let log = project.state.join(format!("apt-get-{}.log", action.first().unwrap_or(&"")));
    // Cutting dpkg in the middle leaves a system that must be repaired by hand: it is neither killed with the runner nor at the first
    // Ctrl-C.
    let ending = Ending { orphaned: None, ..Ending::terminate(Duration::from_secs(30)) };
    let mut launch = Launch::new("apt-get", "apt-get", None, ending, Output::Log(log));
    launch.command.args(["--quiet", "--option", "DPkg::Lock::Timeout=300"]).args(action).args(names);
    launch.command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    let mut child = launch.start(interrupt)?;
    let status = child.wait_through_signals()?;
    if status.success() { Ok(()) } else { Err(child.blame(&format!("{} failed ({status})", action.join(" ")))) }
}

/// What may run elsewhere instead.
const SERVICES: [Package; 2] = [POSTGRES, REDIS];

fn advice(missing: &[Package], is_debian: bool) -> String {
    let programs: Vec<&str> = missing.iter().map(|package| package.program).collect();
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let programs = programs.join(" and ");
    if is_debian {
        format!("{programs} not found, and only root can install packages. Run:\n\n    sudo apt-get install --yes {}\n", names.join(" "))
    } else {
        let or_else = if missing.iter().all(|package| SERVICES.contains(package)) {
            ", or set DATABASE_URL and REDIS_URL to running ones"
        } else {
            ""
        };
        format!("{programs} not found. Install it with your system's packages{or_else}")
    }
}

/// Keeps freshly installed packages from starting their system-wide services, which nobody asked for: Debian asks `policy-rc.d` first.
struct NoDaemons {
    is_ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoDaemons {
    fn from_packages() -> Result<Self, Failure> {
        let path = Path::new(POLICY);
        // A policy that is there already is the administrator's own.
        let Ok(mut file) = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path) else {
            return Ok(Self { is_ours: false });
        };
        let policy = Self { is_ours: true };
        file.write_all(b"#!/bin/sh\n# Present while Spillway's task runner installs packages.\nexit 101\n")
            .map_err(|error| Failure::file("write", path, &error))?;
        Ok(policy)
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_on_debian_is_one_line_with_exactly_what_is_missing() {
        assert!(advice(&[REDIS], true).contains("\n    sudo apt-get install --yes redis-server\n"));
        assert!(advice(&[POSTGRES, REDIS], true).contains("\n    sudo apt-get install --yes postgresql redis-server\n"));
    }

    #[test]
    fn the_advice_elsewhere_names_the_variables_instead_of_a_package_tool() {
        let advice = advice(&[POSTGRES], false);
        assert!(advice.contains("DATABASE_URL") && !advice.contains("apt-get"), "{advice}");
    }
    #[test]
    fn a_program_that_is_no_service_cannot_be_replaced_by_a_variable() {
        let advice = advice(&[Package { name: "ethtool", program: "ethtool" }], false);
        assert!(advice.contains("ethtool not found") && !advice.contains("DATABASE_URL"), "{advice}");
    }
}
