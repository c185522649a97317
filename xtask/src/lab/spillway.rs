//! Spillway itself: its server at the origin, one release with one edition and one rank, and `spillway run` on every terminal.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use protocol::rest::Release;
use serde::Deserialize;
use serde_json::Value;

use super::inside::{Origin, READY_WITHIN, Ready, Site};
use super::nodes::{self, Node};
use super::plan::{ORIGIN_ADDRESS, Plan, terminal_name};
use crate::children::{EndSignal, Ending};
use crate::demo::client::{Client, Deployment, text};
use crate::demo::{OPERATOR, PASSWORD, PUBLISHER};
use crate::failure::Failure;
use crate::server::{self, Server, Settings};
use crate::services::{Contention, Data, Purpose, Services};

const PURPOSE: Purpose = Purpose { name: "lab", data: Data::Scratch, contention: Contention::OwnInstance, turn: false };

/// What a terminal has received lies in its file: nothing is lost by a kill, and sixteen polite ends take a while.
const ENDING: Ending = Ending { stop: EndSignal::Kill, orphaned: Some(EndSignal::Kill), grace: Duration::from_secs(5) };

/// The server, and what is needed to ask it. Fields are dropped from top to bottom: the services go last.
struct Spillway<'a> {
    server: Server,
    deployment: Deployment<'a>,
    release_id: String,
    _services: Services,
}

impl Origin for Spillway<'_> {
    fn check(&mut self) -> Result<(), Failure> {
        self.server.check()
    }

    /// As the server counted it against the budget: bodies of chunks, and nothing else.
    fn payload_sent(&mut self, _received: u64) -> Result<u64, Failure> {
        let publisher = Client { deployment: &self.deployment, name: "publisher".to_owned() };
        Ok(release(&publisher.call(&["list", &self.release_id])?)?.origin.sent.0)
    }
}

/// Everything until the links are open: accounts, publication, release, applications, closing, plan.
pub(super) fn set_up<'a>(site: &Site<'a>) -> Result<Ready<'a>, Failure> {
    let (project, plan, interrupt) = (site.project, site.plan, site.interrupt);
    let services = Services::start(project, &PURPOSE, interrupt)?;
    let database_url = services.database("spillway_lab", interrupt)?;
    let data = plan.folder.join("server");
    fs::create_dir_all(&data).map_err(|error| Failure::file("create", &data, &error))?;
    let origin_up_mbit = plan.limit_mbit(plan.origin_line());
    let settings = Settings {
        listen: SocketAddr::from((ORIGIN_ADDRESS, 0)),
        origin_up_mbit: &origin_up_mbit,
        ..Settings::new("server", &database_url, services.redis_url(), &data, services.logs())
    };
    let server = Server::start(project, settings, interrupt)?;
    server::create_operator(project, &database_url, services.logs(), OPERATOR, PASSWORD, interrupt)?;
    let deployment = Deployment { project, server: server.address().to_owned(), folder: plan.folder.clone(), interrupt: interrupt.clone() };
    let operator = Client::login(&deployment, "operator", OPERATOR)?;
    let publisher = Client::register(&deployment, "publisher", PUBLISHER)?;
    operator.call(&["role", PUBLISHER, "publisher"])?;
    let content = publisher.call(&["publish", "--title", "Lab", "--label", "lab", &plan.payload.display().to_string()])?;
    let terminals = register(&deployment, plan)?;
    let answer = create_release(&publisher, plan, &text(&content, "/id")?)?;
    let (release_id, starts_at) = (text(&answer, "/id")?, release(&answer)?.starts_at);
    for (terminal, _) in &terminals {
        terminal.call(&["apply", &release_id, "--maximum", "0"])?;
    }
    let mut nodes = Vec::new();
    for (index, (terminal, id)) in terminals.iter().enumerate() {
        nodes.push(start(site, index, terminal, &release_id)?.known_as(id));
    }
    nodes::all_ready(&mut nodes, READY_WITHIN, interrupt)?;
    let milliseconds = u64::try_from(starts_at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let t0 = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
    Ok(Ready { origin: Box::new(Spillway { server, deployment, release_id, _services: services }), nodes, t0 })
}

/// Every terminal says what it takes its line for: the plan is made from that. With their ids.
fn register<'a>(deployment: &'a Deployment<'a>, plan: &Plan) -> Result<Vec<(Client<'a>, String)>, Failure> {
    let register = |index: usize| {
        let name = terminal_name(index);
        let (up, down) = (plan.limit_mbit(plan.stated(index)), plan.peer_down_mbit.to_string());
        let email = format!("{name}@example.org");
        let arguments = ["register", "--email", &email, "--name", &name, "--up-mbit", &up, "--down-mbit", &down];
        let (client, answer) = Client::enter(deployment, &name, &arguments)?;
        Ok((client, text(&answer, "/terminal/id")?))
    };
    (0..plan.terminals()).map(register).collect()
}

fn create_release(publisher: &Client<'_>, plan: &Plan, content_id: &str) -> Result<Value, Failure> {
    let times = Times::of(plan);
    let (closes, starts, limit) = (format!("+{}s", times.closes_s), format!("+{}s", times.starts_s), format!("{}s", times.limit_s));
    let rank = format!("100:0s:{}", plan.terminals());
    let budget = plan.budget.argument(plan.terminals());
    publisher.call(&[
        "release",
        "create",
        "--content",
        content_id,
        "--title",
        "Lab",
        "--rank",
        &rank,
        "--selection",
        "first-come",
        "--reserve",
        "0",
        "--opens",
        "+0s",
        "--closes",
        &closes,
        "--starts",
        &starts,
        "--limit",
        &limit,
        "--origin-budget",
        &budget,
    ])
}

fn start(site: &Site<'_>, index: usize, client: &Client<'_>, release_id: &str) -> Result<Node, Failure> {
    let plan = site.plan;
    let up = plan.limit_mbit(plan.stated(index));
    let folder = client.folder();
    let arguments = [
        "run".to_owned(),
        "--json".to_owned(),
        format!("--config={}", folder.display()),
        format!("--release={release_id}"),
        format!("--dir={}", folder.join("received").display()),
        format!("--up-mbit={up}"),
        format!("--down-mbit={}", plan.peer_down_mbit),
    ];
    Node::start(index, &folder, &site.project.client_program(), &arguments, ENDING, site.interrupt)
}

fn release(answer: &Value) -> Result<Release, Failure> {
    Release::deserialize(answer).map_err(|error| Failure::told(format!("a release is not what was expected ({error}): {answer}")))
}

/// Seconds from the creation of the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    closes_s: u64,
    starts_s: u64,
    limit_s: u64,
}

impl Times {
    /// A terminal applies in well under a second, and its channels open in about half a second, several at once: twice that, as the lab also
    /// runs on busy machines.
    fn of(plan: &Plan) -> Self {
        let terminals = plan.terminals() as u64;
        let closes_s = 10 + terminals;
        Self { closes_s, starts_s: closes_s + 10 + terminals / 2, limit_s: plan.patience().as_secs() + 60 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::System;
    use crate::lab::plan::tests::plan;

    #[test]
    fn the_release_outlasts_the_labs_patience_and_leaves_time_to_connect() {
        let plan = plan(System::Spillway, vec![10; 64]);
        let times = Times::of(&plan);
        assert!(times.limit_s > plan.patience().as_secs());
        assert_eq!((times.closes_s, times.starts_s), (74, 116));
    }
}
