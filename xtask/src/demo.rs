//! `cargo xtask demo`: the main job, once, for real. A server, a publisher and N terminals, each a process of its own; files are published, applied for,
//! bid for and prepaid; the book closes, the release starts on time, the chunks travel over data channels, the deliveries settle. Then everything is
//! checked against what was meant to happen, with prices recomputed by an independent oracle.

mod checks;
pub(crate) mod client;
pub(crate) mod contents;
mod outcome;
mod scenario;
mod watch;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use crate::cargo;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;
use crate::server::{self, Server, Settings};
use crate::services::{Contention, Data, Purpose, Services};
use client::{Client, Deployment};
use outcome::Outcome;
use scenario::Scenario;

const PURPOSE: Purpose = Purpose { name: "demo", data: Data::Scratch, contention: Contention::OwnInstance, turn: false };

/// RFC 2606 keeps the domain from ever belonging to somebody.
pub(crate) const OPERATOR: &str = "operator@example.org";
pub(crate) const PUBLISHER: &str = "publisher@example.org";
pub(crate) const PASSWORD: &str = "correct horse battery staple";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A file or directory to publish as an edition; twice for two editions [default: the two built programs]
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// How many terminals take part
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    terminals: u32,
    /// Write the outcome to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep what the terminals received
    #[arg(long)]
    keep: bool,
}

/// Runs the demo; anything that is off is a failure that names it.
pub(crate) fn run(project: &Project, options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    let begun = Instant::now();
    cargo::build_programs(project, interrupt)?;
    Scenario::plan(&options.files, options.terminals)?;
    let services = Services::start(project, &PURPOSE, interrupt)?;
    let folder = services.folder().join("demo");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| Failure::file("create", &folder, &error))?;
    let files = if options.files.is_empty() { built_programs(project, &folder)? } else { options.files.clone() };
    let scenario = Scenario::plan(&files, options.terminals)?;
    let outcome = play(project, &scenario, &services, &folder, interrupt);
    if options.keep {
        println!("what was received is kept in {}", folder.display());
    } else {
        let _ = fs::remove_dir_all(&folder);
    }
    let mut outcome = outcome?;
    outcome.wall = begun.elapsed();
    print!("{}", outcome.table());
    if let Some(path) = &options.json {
        let json = format!("{:#}\n", outcome.json());
        fs::write(path, json).map_err(|error| Failure::file("write", path, &error))?;
    }
    outcome.verdict()
}

/// The two built programs as contents: copies, so that a build beside the demo does not change what was published.
fn built_programs(project: &Project, folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let contents = folder.join("contents");
    fs::create_dir_all(&contents).map_err(|error| Failure::file("create", &contents, &error))?;
    let copy = |program: PathBuf| {
        let copy = contents.join(program.file_name().unwrap_or_default());
        fs::copy(&program, &copy).map_err(|error| Failure::file("copy", &program, &error))?;
        Ok(copy)
    };
    [project.client_program(), project.server_program()].into_iter().map(copy).collect()
}

/// Everything between the first registration and the last settlement.
fn play(project: &Project, scenario: &Scenario, services: &Services, folder: &Path, interrupt: &Interrupt) -> Result<Outcome, Failure> {
    let database_url = services.database("spillway_demo", interrupt)?;
    let data = folder.join("server");
    fs::create_dir_all(&data).map_err(|error| Failure::file("create", &data, &error))?;
    let origin_up_mbit = scenario.rates.origin_up_mbit.to_string();
    let settings = Settings {
        name: "server",
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        database_url: &database_url,
        redis_url: services.redis_url(),
        data: &data,
        logs: services.logs(),
        origin_up_mbit: &origin_up_mbit,
    };
    let mut server = Server::start(project, settings, interrupt)?;
    server::create_operator(project, &database_url, services.logs(), OPERATOR, PASSWORD, interrupt)?;
    let deployment = Deployment { project, server: server.address().to_owned(), folder: folder.to_owned(), interrupt: interrupt.clone() };

    println!("publishing {}\nregistering {} terminals", scenario.summary(), scenario.terminals.len());
    let operator = Client::login(&deployment, "operator", OPERATOR)?;
    let publisher = Client::register(&deployment, "publisher", PUBLISHER)?;
    operator.call(&["role", PUBLISHER, "publisher"])?;
    let content = publish(&publisher, scenario)?;
    let terminals = register_terminals(&deployment, &operator, scenario)?;
    // The server counts from a moment later: nothing starts before this.
    let starts_at = Instant::now() + Duration::from_secs(scenario.times().starts_s.into());
    let release = create_release(&publisher, scenario, &content)?;
    let release_id = client::text(&release, "/id")?;
    let applications = apply(&terminals, scenario, &release_id)?;
    println!("release {release_id}: the book closes, then it starts");

    let mut running = watch::Terminals::start(&terminals, scenario, &release_id, starts_at)?;
    running.follow(scenario.deadline(), || server.check())?;
    let deliveries = publisher.call(&["status", &release_id])?;
    let release = publisher.call(&["list", &release_id])?;
    let ledger = operator.call(&["status"])?;
    let received = running.finish(scenario)?;
    checks::gather(scenario, &content, &applications, &deliveries, &release, &ledger, &received)
}

/// Publishes every edition of the one content.
fn publish(publisher: &Client<'_>, scenario: &Scenario) -> Result<Published, Failure> {
    let mut arguments = vec!["publish".to_owned(), "--title".to_owned(), "Demo".to_owned()];
    for edition in &scenario.editions {
        arguments.extend(["--label".to_owned(), edition.label.clone(), edition.path.display().to_string()]);
    }
    let content = publisher.call(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    let uploaded = content.pointer("/editions").and_then(Value::as_array).cloned().unwrap_or_default();
    let of = |label: &str| {
        let found = uploaded.iter().find(|edition| edition.pointer("/label").and_then(Value::as_str) == Some(label));
        found.cloned().ok_or_else(|| Failure::told(format!("the published content has no edition {label}: {content}")))
    };
    let editions = scenario.editions.iter().map(|edition| of(&edition.label)).collect::<Result<_, _>>()?;
    Ok(Published { content_id: client::text(&content, "/id")?, editions })
}

/// What the publisher's uploads became.
#[derive(Debug)]
struct Published {
    content_id: String,
    /// One `Edition` each, in the scenario's order.
    editions: Vec<Value>,
}

fn register_terminals<'a>(deployment: &'a Deployment<'a>, operator: &Client<'_>, scenario: &Scenario) -> Result<Vec<Client<'a>>, Failure> {
    let count = scenario.terminals.len().to_string();
    let vouchers = operator.call(&["voucher", "create", "--count", &count, "--value", scenario::VOUCHER])?;
    let codes = vouchers.pointer("/codes").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut terminals = Vec::new();
    for (terminal, code) in scenario.terminals.iter().zip(&codes) {
        let client = Client::register(deployment, &terminal.name, &format!("{}@example.org", terminal.name))?;
        client.call(&["redeem", code.as_str().unwrap_or_default()])?;
        terminals.push(client);
    }
    if terminals.len() != scenario.terminals.len() {
        return Err(Failure::told(format!("{count} vouchers were asked for, {} were made", codes.len())));
    }
    Ok(terminals)
}

fn create_release(publisher: &Client<'_>, scenario: &Scenario, content: &Published) -> Result<Value, Failure> {
    let times = scenario.times();
    let mut arguments: Vec<String> = ["release", "create", "--content", &content.content_id, "--title", "Demo"].map(str::to_owned).into();
    for edition in &scenario.editions {
        arguments.extend(["--edition".to_owned(), edition.label.clone()]);
    }
    for rank in &scenario.ranks {
        arguments.extend(["--rank".to_owned(), format!("{}:{}:{}", rank.weight, rank.delay_s, rank.capacity)]);
    }
    let rest = [
        ("--reserve", scenario::RESERVE.to_owned()),
        ("--opens", "+0s".to_owned()),
        ("--closes", format!("+{}s", times.closes_s)),
        ("--starts", format!("+{}s", times.starts_s)),
        ("--origin-budget", "1.1x".to_owned()),
        ("--relay-share", "50%".to_owned()),
        ("--fee", "2%".to_owned()),
        ("--limit", format!("{}s", times.limit_s)),
    ];
    arguments.extend(rest.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    publisher.call(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Every terminal applies; the answers are in the scenario's order.
fn apply(terminals: &[Client<'_>], scenario: &Scenario, release_id: &str) -> Result<Vec<Value>, Failure> {
    let applied = terminals.iter().zip(&scenario.terminals).map(|(client, terminal)| {
        let (rank, maximum) = (terminal.rank.to_string(), scenario::decimal(terminal.maximum));
        let label = &scenario.editions[terminal.edition].label;
        client.call(&["apply", release_id, "--edition", label, "--rank", &rank, "--maximum", &maximum])
    });
    applied.collect()
}

/// After the deadline of the release everything must have ended within this.
const SETTLING: Duration = Duration::from_secs(30);
