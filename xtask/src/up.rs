//! `cargo xtask up`: the local stack until Ctrl-C. Its data is kept, so that the next `up` continues where this one stopped.

mod migrations;

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::cargo;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;
use crate::server::{self, Server, Settings};
use crate::services::{Contention, Data, Purpose, Services, secret};

/// Where the stack is found unless something else listens there.
const USUAL_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The operator of a private stack. RFC 2606 keeps the domain from ever belonging to somebody.
const OPERATOR: &str = "operator@example.org";

/// How often the server is looked at.
const WATCH: Duration = Duration::from_millis(250);

const PURPOSE: Purpose = Purpose { name: "up", data: Data::Kept, contention: Contention::Wait, turn: false };

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the server listens [default: 127.0.0.1:8080, or a free port if that is taken]
    #[arg(long, env = "SPILLWAY_LISTEN")]
    listen: Option<SocketAddr>,
}

/// Builds, starts and shows the stack; returns after Ctrl-C, when everything has stopped.
pub(crate) fn run(project: &Project, options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    cargo::build_programs(project, interrupt)?;
    let services = Services::start(project, &PURPOSE, interrupt)?;
    let database_url = services.database("spillway", interrupt)?;
    let data = services.folder().join("server");
    fs::create_dir_all(&data).map_err(|error| Failure::file("create", &data, &error))?;
    let mut settings = Settings::new("server", &database_url, services.redis_url(), &data, services.logs());
    settings.listen = options.listen.unwrap_or_else(free_address);
    let started = Server::start(project, settings, interrupt);
    let mut server =
        started.map_err(|failure| migrations::explained(failure, services.private_database_id().is_some(), &services.kept_in()))?;
    let cluster = services.private_database_id();
    let login = cluster.map(|cluster| operator(project, &services, &cluster, &database_url, interrupt)).transpose()?;
    let greeting = greeting(server.address(), login.as_deref(), &services, project);
    io::stdout().write_all(greeting.as_bytes()).map_err(|error| Failure::told(format!("cannot print the address: {error}")))?;
    loop {
        server.check()?;
        if interrupt.pause(WATCH).is_err() {
            eprintln!("xtask: stopping");
            return Ok(());
        }
    }
}

fn free_address() -> SocketAddr {
    match TcpListener::bind(USUAL_ADDRESS) {
        Ok(_) => USUAL_ADDRESS,
        Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    }
}

/// The operator's password: generated and registered by the first run, remembered by the next ones.
///
/// The password is written down before the operator is created and marked as registered afterwards, so that an interruption in between
/// leaves a password that the next run tries again, and never an operator whose password nobody knows.
fn operator(project: &Project, services: &Services, cluster: &str, database_url: &str, interrupt: &Interrupt) -> Result<String, Failure> {
    let note = services.folder().join("operator");
    let (password, state) = match fs::read_to_string(&note).ok().as_deref().and_then(|text| remembered(text, cluster)) {
        Some((password, Registration::Done)) => return Ok(password),
        Some((password, Registration::Unknown)) => (password, Registration::Unknown),
        None => (secret::generate()?, Registration::Done),
    };
    secret::write(&note, &format!("{cluster} {password}\n"))?;
    match (server::create_operator(project, database_url, services.logs(), OPERATOR, &password, interrupt), state) {
        // An earlier run created it, and was interrupted before it could say so.
        (Err(Failure::Told(message)), Registration::Unknown) => eprintln!("xtask: the operator was not created again: {message}"),
        (outcome, _) => outcome?,
    }
    secret::write(&note, &format!("{cluster} {password} registered\n"))?;
    Ok(password)
}

/// What is known about the operator of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registration {
    Done,
    Unknown,
}

/// The password in the note, if it is about this cluster: a cluster that was remade has no operator yet.
fn remembered(note: &str, cluster: &str) -> Option<(String, Registration)> {
    let mut words = note.split_whitespace();
    words.next().filter(|noted| *noted == cluster)?;
    let password = words.next()?.to_owned();
    let registration = if words.next() == Some("registered") { Registration::Done } else { Registration::Unknown };
    Some((password, registration))
}

fn greeting(address: &str, password: Option<&str>, services: &Services, project: &Project) -> String {
    let (client, server) = (shown(&project.client_program(), project), shown(&project.server_program(), project));
    let kept: Vec<String> = services.kept_in().into_iter().map(|folder| shown(folder, project)).collect();
    let (who, how) = login(address, password, &client, &server);
    format!(
        "\nSpillway is up until Ctrl-C.\n\n  address   {address}\n  API       {address}/docs/\n  log in    {who}\n  logs      {logs}\n  \
         data      {data}\n\nTo log in, in another window:\n\n{how}\n",
        logs = shown(services.logs(), project),
        data = kept.join("\n            "),
    )
}

/// As whom to log in, and the commands for it, in lines of at most 80 columns.
fn login(address: &str, password: Option<&str>, client: &str, server: &str) -> (String, String) {
    let (who, mut how, email) = match password {
        Some(password) => (format!("{OPERATOR}, password {password}"), format!("  echo {password} \\\n    | "), OPERATOR),
        None => {
            let create = format!("  {server} admin create-operator \\\n      --email YOU --password-stdin\n  ");
            ("with an account of your database, or a new operator".to_owned(), create, "YOU")
        }
    };
    let stdin = if password.is_some() { " --password-stdin" } else { "" };
    how.push_str(&format!("{client} login --server {address} \\\n      --email {email}{stdin}\n"));
    (who, how)
}

/// Paths inside the project are shown from its root, where people work.
fn shown(path: &Path, project: &Project) -> String {
    path.strip_prefix(&project.root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_remembered_for_its_own_cluster_only() {
        assert_eq!(remembered("c1 secret registered\n", "c1"), Some(("secret".to_owned(), Registration::Done)));
        assert_eq!(remembered("c1 secret registered\n", "c2"), None);
        assert_eq!(remembered("", "c1"), None);
    }

    #[test]
    fn the_greeting_can_be_copied_from_a_window_of_eighty_columns() {
        let password = "b2100402ebc861fdcb1876864d631a25";
        for given in [Some(password), None] {
            let (who, how) = login("http://127.0.0.1:8080", given, "target/debug/spillway", "target/debug/spillway-server");
            assert!(how.lines().chain([who.as_str()]).all(|line| line.len() <= 80), "{who}\n{how}");
            assert!(how.contains("login --server http://127.0.0.1:8080 \\\n") && how.matches("password-stdin").count() == 1, "{how}");
        }
        assert!(login("a", Some(password), "c", "s").1.starts_with(&format!("  echo {password} \\\n    | c login")));
    }

    #[test]
    fn an_interrupted_registration_keeps_its_password_for_the_next_attempt() {
        assert_eq!(remembered("c1 secret\n", "c1"), Some(("secret".to_owned(), Registration::Unknown)));
    }
}
