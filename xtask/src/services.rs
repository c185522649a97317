//! A private Postgres and a private Redis, or the ones that the environment names.
//!
//! `DATABASE_URL` and `REDIS_URL` win: what they name is used as it is and nothing is started in its place. Otherwise the programs are
//! found or installed ([`programs`]), an instance of its own is claimed under `target/spillway/` ([`instance`]), and both services run
//! in it on free loopback ports with generated passwords, as an unprivileged account when the runner is root ([`account`]).
//! Dropping [`Services`] stops what it started.

pub(crate) mod account;
mod instance;
mod ports;
mod postgres;
pub(crate) mod programs;
mod redis;
pub(crate) mod secret;

use std::env;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;
use crate::services::account::Account;
use crate::services::instance::Instance;
use crate::services::postgres::Postgres;
use crate::services::programs::{Needs, Programs};
use crate::services::redis::Redis;

/// What happens to the data of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// It survives the run and a power cut: somebody works with it.
    Kept,
    /// It only has to live as long as the run: nothing is flushed to the disk, and the databases that an earlier run left are dropped.
    Scratch,
    /// It only has to live as long as the run, and every commit is flushed to the disk as in service: for measurements.
    Flushed,
}

/// What a second run does while a first one uses the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contention {
    /// Takes an instance of its own (`test-2`, `test-3`, …).
    OwnInstance,
    /// Waits, since the data is what it wants.
    Wait,
}

/// Which instance a task needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purpose {
    /// The instance's name and folder.
    pub(crate) name: &'static str,
    /// Whether its data matters after the run.
    pub(crate) data: Data,
    /// What to do when it is in use.
    pub(crate) contention: Contention,
    /// Whether a TURN server has to be installed; starting it is the affair of whoever needs it.
    pub(crate) turn: bool,
}

/// Running services; they stop when this is dropped.
#[derive(Debug)]
pub(crate) struct Services {
    database_url: String,
    redis_url: String,
    // The order matters: fields are dropped from top to bottom, and the claim must end after the services did.
    postgres: Option<Postgres>,
    _redis: Option<Redis>,
    instance: Instance,
}

impl Services {
    /// Starts what the environment does not name, and waits until it answers.
    pub(crate) fn start(project: &Project, purpose: &Purpose, interrupt: &Interrupt) -> Result<Self, Failure> {
        let begun = Instant::now();
        let (given_database, given_redis) = (given("DATABASE_URL")?, given("REDIS_URL")?);
        let needs = Needs { postgres: given_database.is_none(), redis: given_redis.is_none(), turn: purpose.turn };
        let programs = programs::find_or_install(needs, project, interrupt)?;
        let account = if needs.services() { Account::for_services()? } else { None };
        let instance = Instance::claim(project, purpose, account, interrupt)?;

        let Programs { postgres, redis, turn: _ } = programs;
        let postgres = postgres.map(|found| Postgres::start(found, &instance, purpose.data, interrupt)).transpose()?;
        let redis = redis.map(|found| Redis::start(&found, &instance, interrupt)).transpose()?;
        let database_url = postgres.as_ref().map(Postgres::url).or(given_database).unwrap_or_default();
        let redis_url = redis.as_ref().map(Redis::url).or(given_redis).unwrap_or_default();
        describe(needs, &instance, begun);
        Ok(Self { database_url, redis_url, postgres, _redis: redis, instance })
    }

    /// The Redis.
    pub(crate) fn redis_url(&self) -> &str {
        &self.redis_url
    }

    /// The variables that children need. The database is one with administrator's rights on its server: tests create theirs from it.
    pub(crate) fn environment(&self) -> [(&'static str, &str); 2] {
        [("DATABASE_URL", &self.database_url), ("REDIS_URL", &self.redis_url)]
    }

    /// Where this run's logs, generated passwords and server data belong; claimed for as long as the services run.
    pub(crate) fn folder(&self) -> &Path {
        self.instance.folder()
    }

    /// Where all that the run keeps is: [`Self::folder`], and the services' own folder where their account cannot use one in there.
    pub(crate) fn kept_in(&self) -> Vec<&Path> {
        let (folder, data) = (self.instance.folder(), self.instance.data());
        if data.starts_with(folder) { vec![folder] } else { vec![folder, data] }
    }

    /// Where this run's logs are.
    pub(crate) fn logs(&self) -> &Path {
        self.instance.logs()
    }

    /// A program of the private Postgres's installation; by its name alone if the environment named the Postgres.
    pub(crate) fn postgres_program(&self, name: &str) -> PathBuf {
        self.postgres.as_ref().map_or_else(|| PathBuf::from(name), |postgres| postgres.program(name))
    }

    /// What tells the private Postgres's cluster from any other one; nothing if the environment named the Postgres.
    pub(crate) fn private_database_id(&self) -> Option<String> {
        self.postgres.as_ref().map(Postgres::cluster_id)
    }

    /// The address of the database `name`, which is created in the private Postgres if it is missing; the environment's database as it
    /// is when there is no private one.
    pub(crate) fn database(&self, name: &str, interrupt: &Interrupt) -> Result<String, Failure> {
        match &self.postgres {
            Some(postgres) => postgres.database(name, interrupt),
            None => Ok(self.database_url.clone()),
        }
    }
}

/// A variable of the environment; an empty one counts as absent, as people unset them that way.
fn given(variable: &str) -> Result<Option<String>, Failure> {
    match env::var(variable) {
        Ok(value) if value.trim().is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::told(format!("{variable} is not valid text"))),
    }
}

fn describe(needs: Needs, instance: &Instance, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let started = match (needs.postgres, needs.redis) {
        (true, true) => "private Postgres and Redis",
        (true, false) => "private Postgres, and the Redis of REDIS_URL",
        (false, true) => "private Redis, and the Postgres of DATABASE_URL",
        (false, false) => "the Postgres of DATABASE_URL and the Redis of REDIS_URL",
    };
    eprintln!("xtask: {started}: ready after {seconds:.1} s (data and logs in {})", instance.folder().display());
}
