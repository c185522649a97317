//! What a run needs: a server, a content that is offered on demand with an origin that may send nothing, and a terminal that holds it and serves.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use protocol::{Blake3, Bytes};
use serde_json::Value;

use super::Options;
use crate::children::events::Events;
use crate::children::{Child, Output};
use crate::demo::client::{Client, Deployment, text};
use crate::demo::{OPERATOR, PUBLISHER, contents};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::lab;
use crate::lab::counters;
use crate::project::Project;
use crate::server::{self, Server, Settings};
use crate::services::Services;

/// What is large: the origin's chunks, the publisher's file, and what a terminal receives, below its own folder.
pub(super) const STORE: &str = "server";
pub(super) const PAYLOAD: &str = "payload.bin";
pub(super) const RECEIVED: &str = "received";
/// The price of the content, which every receiver prepays.
const PRICE: &str = "1.00";
/// Seconds from the creation of the release: one terminal applies and connects in a second or two.
const CLOSES: &str = "+6s";
const STARTS: &str = "+10s";
/// What the origin may send to the holder, in contents: on a busy machine what was leased runs out and is sent again.
const HOLDERS_BUDGET: &str = "3x";
/// For the origin to send the content to the holder, at a rate that no disk is below, and for the release to be settled.
const HOLDS_WITHIN: Duration = Duration::from_secs(120);
const MIB_PER_SECOND_MIN: u64 = 4;

/// Fields are dropped from top to bottom: the holder ends before its server.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) holder: Child,
    _server: Server,
    pub(super) deployment: Deployment<'a>,
    pub(super) content_id: String,
    /// One for each receiver.
    pub(super) vouchers: Vec<String>,
    pub(super) length: Bytes,
    pub(super) blake3: Blake3,
    /// A rate of a few MiB a second, whatever else the machine does.
    pub(super) patience: Duration,
}

impl<'a> Stage<'a> {
    /// Everything until the holder serves.
    pub(super) fn set(
        project: &'a Project,
        services: &Services,
        folder: &Path,
        options: &Options,
        interrupt: &Interrupt,
    ) -> Result<Self, Failure> {
        let database_url = services.database("spillway_bench", interrupt)?;
        let data = folder.join(STORE);
        fs::create_dir_all(&data).map_err(|error| Failure::file("create", &data, &error))?;
        let settings = Settings::new("server", &database_url, services.redis_url(), &data, services.logs());
        let server = Server::start(project, settings, interrupt)?;
        server::create_operator(project, &database_url, services.logs(), OPERATOR, crate::demo::PASSWORD, interrupt)?;
        let address = server.address().to_owned();
        let deployment = Deployment { project, server: address, folder: folder.to_owned(), interrupt: interrupt.clone() };
        let operator = Client::login(&deployment, "operator", OPERATOR)?;
        let publisher = Client::register(&deployment, "publisher", PUBLISHER)?;
        operator.call(&["role", PUBLISHER, "publisher"])?;
        let (content_id, blake3) = publish(&publisher, folder, options.mib)?;
        let patience = HOLDS_WITHIN + Duration::from_secs(options.mib / MIB_PER_SECOND_MIN);
        let holder = hold(&deployment, &publisher, &content_id, patience)?;
        publisher.call(&["offer", &content_id, "--price", PRICE, "--origin-budget", "0"])?;
        let vouchers = vouchers(&operator, options.runs)?;
        let length = Bytes(options.mib << 20);
        Ok(Self { holder, _server: server, deployment, content_id, vouchers, length, blake3, patience })
    }

    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.deployment.interrupt
    }

    /// Every process but the holder, asked while no receiver runs: the server, Postgres and Redis, as far as they were started for this.
    pub(super) fn origin(&self) -> BTreeSet<u32> {
        let mut ids = counters::descendants(std::process::id());
        ids.remove(&self.holder.id());
        ids
    }
}

/// Publishes random bytes, and keeps no file of them.
fn publish(publisher: &Client<'_>, folder: &Path, mib: u64) -> Result<(String, Blake3), Failure> {
    let path = folder.join(PAYLOAD);
    lab::write_payload(&path, mib)?;
    let blake3 = contents::hash(&path)?;
    let content = publisher.call(&["publish", "--title", "Goodput", "--label", "whole", &path.display().to_string()])?;
    fs::remove_file(&path).map_err(|error| Failure::file("remove", &path, &error))?;
    Ok((text(&content, "/id")?, blake3))
}

/// Releases the content to one terminal, and leaves it running when it has everything and the release is settled.
fn hold(deployment: &Deployment<'_>, publisher: &Client<'_>, content_id: &str, patience: Duration) -> Result<Child, Failure> {
    let holder = Client::register(deployment, "holder", "holder@example.org")?;
    let arguments = ["release", "create", "--content", content_id, "--title", "Goodput", "--rank", "100:0s:1", "--selection", "first-come"];
    let times =
        ["--reserve", "0", "--opens", "+0s", "--closes", CLOSES, "--starts", STARTS, "--limit", "1h", "--origin-budget", HOLDERS_BUDGET];
    let release = publisher.call(&[&arguments[..], &times[..]].concat())?;
    holder.call(&["apply", &text(&release, "/id")?, "--maximum", "0"])?;
    let (log, received) = (holder.folder().join("events.jsonl"), holder.folder().join(RECEIVED).display().to_string());
    let output = Output::Split { announcements: log.clone(), log: holder.folder().join("run.log") };
    let mut process = holder.launch("holder", &["run", "--dir", &received], output).start(&deployment.interrupt)?;
    let (mut events, mut has) = (Events::of(log), BTreeSet::new());
    process.ready_within(patience, || {
        has.extend(events.read().iter().filter_map(|event| Some(event.pointer("/event")?.as_str()?.to_owned())));
        (has.contains("completed") && has.contains("settled")).then_some(())
    })?;
    Ok(process)
}

fn vouchers(operator: &Client<'_>, count: u32) -> Result<Vec<String>, Failure> {
    let made = operator.call(&["voucher", "create", "--count", &count.to_string(), "--value", PRICE])?;
    let codes = made.pointer("/codes").and_then(Value::as_array).into_iter().flatten();
    Ok(codes.filter_map(|code| code.as_str().map(str::to_owned)).collect())
}
