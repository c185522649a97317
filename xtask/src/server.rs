//! A `spillway-server` process of the local stack.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::children::{Child, EndSignal, Ending, Launch, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;

/// Includes the migration of a database that holds data.
const READY_DEADLINE: Duration = Duration::from_secs(60);
const ADMIN_DEADLINE: Duration = Duration::from_secs(60);

/// The server promises to stop within 10 s of SIGTERM; it gets a little more on a busy machine.
const ENDING: Ending = Ending { stop: EndSignal::Terminate, orphaned: Some(EndSignal::Kill), grace: Duration::from_secs(12) };

/// What a server is started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings<'a> {
    /// Names the process in messages and its log files.
    pub(crate) name: &'a str,
    /// Port 0 lets the system choose.
    pub(crate) listen: SocketAddr,
    /// Its database, which it migrates.
    pub(crate) database_url: &'a str,
    /// Its Redis.
    pub(crate) redis_url: &'a str,
    /// Its folder: chunks and keys.
    pub(crate) data: &'a Path,
    /// Where its log goes.
    pub(crate) logs: &'a Path,
    /// The origin's uplink for chunks in Mbit/s, a decimal number; 0 is unlimited.
    pub(crate) origin_up_mbit: &'a str,
}

impl<'a> Settings<'a> {
    /// A server on a free loopback port, with an unlimited uplink.
    pub(crate) fn new(name: &'a str, database_url: &'a str, redis_url: &'a str, data: &'a Path, logs: &'a Path) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { name, listen, database_url, redis_url, data, logs, origin_up_mbit: "0" }
    }
}

/// A running server; it is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    address: String,
    process: Child,
}

impl Server {
    /// Starts the built program and waits until it says where it listens.
    pub(crate) fn start(project: &Project, settings: Settings<'_>, interrupt: &Interrupt) -> Result<Self, Failure> {
        let announcements = settings.logs.join(format!("{}.stdout", settings.name));
        let log = settings.logs.join(format!("{}.log", settings.name));
        let output = Output::Split { announcements: announcements.clone(), log };
        let mut launch = Launch::new(settings.name, project.server_program(), None, ENDING, output);
        launch.command.arg("serve").arg("--listen").arg(settings.listen.to_string()).arg("--data-dir").arg(settings.data);
        launch.command.arg("--origin-up-mbit").arg(settings.origin_up_mbit);
        // Addresses with passwords go through the environment, which other users cannot read.
        launch.command.env("DATABASE_URL", settings.database_url).env("REDIS_URL", settings.redis_url).current_dir(&project.root);
        let mut process = launch.start(interrupt)?;
        let address = process.ready_within(READY_DEADLINE, || announced(&fs::read_to_string(&announcements).ok()?))?;
        Ok(Self { address, process })
    }

    /// Where it listens, as `http://HOST:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Fails when the server has ended, which it never does by itself.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        if self.process.has_ended() {
            let status = self.process.wait()?;
            return Err(self.process.blame(&format!("ended by itself ({status})")));
        }
        Ok(())
    }
}

/// The address in the line that the server prints once it takes requests; nothing while that line is missing or half-written.
fn announced(output: &str) -> Option<String> {
    let complete = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    complete
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|line| Some(line.get("listening")?.as_str()?.to_owned()))
}

/// Creates an operator, who may do everything. The password goes through standard input.
pub(crate) fn create_operator(
    project: &Project,
    database_url: &str,
    logs: &Path,
    email: &str,
    password: &str,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let output = Output::Log(logs.join("create-operator.log"));
    let launch = Launch::new("create-operator", project.server_program(), None, Ending::terminate(Duration::from_secs(2)), output);
    let mut launch = launch.input(format!("{password}\n"));
    launch.command.args(["admin", "create-operator", "--email", email, "--password-stdin"]).env("DATABASE_URL", database_url);
    launch.command.current_dir(&project.root);
    launch.start(interrupt)?.succeed_within(ADMIN_DEADLINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_taken_from_the_first_complete_line_that_announces_it() {
        let log = "starting\n{\"level\":\"info\"}\n{\"listening\":\"http://127.0.0.1:4001\"}\n{\"listening\":\"http://127.0.0.1:1\"}\n";
        assert_eq!(announced(log).as_deref(), Some("http://127.0.0.1:4001"));
    }

    #[test]
    fn a_half_written_announcement_is_not_taken() {
        assert_eq!(announced("{\"listening\":\"http://127.0.0.1:40"), None);
        assert_eq!(announced("{\"listening\":\"http://127.0.0.1:4001\"}"), None, "its line is not finished");
        assert_eq!(announced("{\"listening\":4001}\n"), None);
    }
}
