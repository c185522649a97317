//! Finds the programs of the services, and installs them where the runner may.

pub(crate) mod install;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

/// Which services have to be started, and what else has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) postgres: bool,
    pub(crate) redis: bool,
    /// A TURN server, which the tests that need one start themselves.
    pub(crate) turn: bool,
}

impl Needs {
    /// Whether any service has to be started.
    pub(crate) fn services(self) -> bool {
        self.postgres || self.redis
    }
}

/// The programs of a Postgres server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PostgresPrograms {
    pub(crate) initdb: PathBuf,
    pub(crate) postgres: PathBuf,
    pub(crate) psql: PathBuf,
    /// A cluster can only be used by the major version that made it.
    pub(crate) major: u32,
}

/// What was needed and is there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Programs {
    pub(crate) postgres: Option<PostgresPrograms>,
    pub(crate) redis: Option<PathBuf>,
    pub(crate) turn: Option<PathBuf>,
}

/// Where to look.
#[derive(Debug)]
struct Places {
    /// The folders of `PATH`.
    path: Vec<PathBuf>,
    /// The parents of `VERSION/bin`: Debian keeps servers there, out of `PATH`.
    versioned: Vec<PathBuf>,
}

impl Places {
    fn of_this_machine() -> Self {
        let path = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
        Self { path, versioned: vec![PathBuf::from("/usr/lib/postgresql")] }
    }

    fn in_path(&self, name: &str) -> Option<PathBuf> {
        self.path.iter().map(|folder| folder.join(name)).find(|file| is_program(file))
    }

    /// The newest complete installation that is versioned, else the one in `PATH`.
    fn postgres(&self, version: impl Fn(&Path) -> Option<u32>) -> Option<PostgresPrograms> {
        let versioned = self.versioned.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten();
        let newest = versioned.filter_map(|entry| self.postgres_in(&entry.path().join("bin"), &version)).max_by_key(|found| found.major);
        // A link in PATH leads to the folder that has the rest.
        newest.or_else(|| {
            let servers = self.path.iter().map(|folder| folder.join("postgres")).filter(|file| is_program(file));
            servers.filter_map(|file| file.canonicalize().ok()).find_map(|file| self.postgres_in(file.parent()?, &version))
        })
    }

    fn postgres_in(&self, folder: &Path, version: impl Fn(&Path) -> Option<u32>) -> Option<PostgresPrograms> {
        let program = |name: &str| Some(folder.join(name)).filter(|file| is_program(file));
        let (initdb, postgres) = (program("initdb")?, program("postgres")?);
        let psql = program("psql").or_else(|| self.in_path("psql"))?;
        Some(PostgresPrograms { major: version(&postgres)?, initdb, postgres, psql })
    }
}

/// Finds what is needed; installs what is missing where the runner is root on Debian; otherwise says what to do.
pub(crate) fn find_or_install(needs: Needs, project: &Project, interrupt: &Interrupt) -> Result<Programs, Failure> {
    let places = Places::of_this_machine();
    let found = find(needs, &places);
    let missing = missing(needs, &found);
    if missing.is_empty() {
        return Ok(found);
    }
    install::packages(&missing, project, interrupt)?;
    let found = find(needs, &places);
    let still: Vec<&str> = self::missing(needs, &found).iter().map(|package| package.program).collect();
    if still.is_empty() {
        Ok(found)
    } else {
        Err(Failure::told(format!("{} cannot be found even though its package was installed", still.join(" and "))))
    }
}

fn find(needs: Needs, places: &Places) -> Programs {
    Programs {
        postgres: needs.postgres.then(|| places.postgres(postgres_major)).flatten(),
        redis: needs.redis.then(|| places.in_path(REDIS.program)).flatten(),
        turn: needs.turn.then(|| places.in_path(TURN.program)).flatten(),
    }
}

/// A Debian package and the program that it is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
}

const POSTGRES: Package = Package { name: "postgresql", program: "the Postgres server" };
const REDIS: Package = Package { name: "redis-server", program: "redis-server" };
const TURN: Package = Package { name: "coturn", program: "turnserver" };

fn missing(needs: Needs, found: &Programs) -> Vec<Package> {
    let wanted = [
        (POSTGRES, needs.postgres && found.postgres.is_none()),
        (REDIS, needs.redis && found.redis.is_none()),
        (TURN, needs.turn && found.turn.is_none()),
    ];
    wanted.into_iter().filter_map(|(package, is_missing)| is_missing.then_some(package)).collect()
}

/// Whether this is a file that may be run.
pub(crate) fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The major version that the server states about itself.
fn postgres_major(server: &Path) -> Option<u32> {
    let output = std::process::Command::new(server).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// From `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`, or `… 18beta2`.
fn parse_version(text: &str) -> Option<u32> {
    let version = text.split_whitespace().nth(2)?;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests;
