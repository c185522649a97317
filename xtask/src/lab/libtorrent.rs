//! The rival that shares: a libtorrent seed at the origin, and a libtorrent peer on every terminal. `libtorrent.py` is the program of all of them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::inside::{self, Origin, READY_WITHIN, Ready, Site};
use super::nodes::{self, Node};
use super::plan::{ORIGIN_ADDRESS, Plan, terminal_address, terminal_name};
use super::tools::PYTHON;
use crate::children::events::Events;
use crate::children::{Child, Ending, Launch, Output};
use crate::failure::Failure;

const SCRIPT: &str = include_str!("libtorrent.py");
const PORT: u16 = 6881;
/// Hashing the payload once, on a busy machine.
const MAKING_DEADLINE: Duration = Duration::from_secs(120);
/// Includes what a peer takes to bring its last pieces to the file.
const ENDING: Ending = Ending::terminate(Duration::from_secs(10));

struct Seed {
    process: Child,
    events: Events,
}

impl Origin for Seed {
    fn check(&mut self) -> Result<(), Failure> {
        if self.process.has_ended() { Err(self.process.blame("ended by itself")) } else { Ok(()) }
    }

    /// By the seed's own account, which it gives when it is stopped.
    fn payload_sent(&mut self, _received: u64) -> Result<u64, Failure> {
        self.process.stop();
        let stopped = self.events.read().into_iter().find_map(|event| event.pointer("/payload_bytes").and_then(Value::as_u64));
        stopped.ok_or_else(|| self.process.blame("did not say how much it had sent"))
    }
}

/// Makes the torrent, starts all ends, and waits until all of them are connected.
pub(super) fn set_up<'a>(site: &Site<'a>) -> Result<Ready<'a>, Failure> {
    let (plan, interrupt) = (site.plan, site.interrupt);
    let files = Files::of(plan);
    fs::write(&files.script, SCRIPT).map_err(|error| Failure::file("write", &files.script, &error))?;
    make_torrent(site, &files)?;
    let seed = start_seed(site, &files)?;
    let mut nodes = Vec::new();
    for index in 0..plan.terminals() {
        let folder = plan.folder.join(terminal_name(index));
        let received = folder.join("received");
        fs::create_dir_all(&received).map_err(|error| Failure::file("create", &received, &error))?;
        let arguments = files.arguments(plan, terminal_address(index), &received);
        nodes.push(Node::start(index, &folder, Path::new(PYTHON), &arguments, ENDING, interrupt)?);
    }
    nodes::all_ready(&mut nodes, READY_WITHIN, interrupt)?;
    Ok(Ready { origin: Box::new(seed), nodes, t0: inside::announce_t0(&files.t0)? })
}

struct Files {
    script: PathBuf,
    torrent: PathBuf,
    t0: PathBuf,
}

impl Files {
    fn of(plan: &Plan) -> Self {
        let file = |name: &str| plan.folder.join(name);
        Self {
            // Not by the name of the module that it imports.
            script: file("peer.py"),
            torrent: file("lab.torrent"),
            t0: file("t0"),
        }
    }

    /// For the end at `own`, which keeps the payload in `folder`.
    fn arguments(&self, plan: &Plan, own: Ipv4Addr, folder: &Path) -> Vec<String> {
        let everybody = std::iter::once(ORIGIN_ADDRESS).chain((0..plan.terminals()).map(terminal_address));
        let others: Vec<String> = everybody.filter(|address| *address != own).map(|address| format!("{address}:{PORT}")).collect();
        vec![
            self.script.display().to_string(),
            format!("--torrent={}", self.torrent.display()),
            format!("--save={}", folder.display()),
            format!("--listen={own}:{PORT}"),
            format!("--peers={}", others.join(",")),
            format!("--t0={}", self.t0.display()),
        ]
    }
}

fn make_torrent(site: &Site<'_>, files: &Files) -> Result<(), Failure> {
    let log = Output::Log(site.plan.folder.join("make-torrent.log"));
    let mut launch = Launch::new("making the torrent", PYTHON, None, ENDING, log);
    launch.command.arg(&files.script).arg("--make").arg(&site.plan.payload).arg("--torrent").arg(&files.torrent);
    launch.command.arg(format!("--piece-kib={}", piece_kib(site.plan.mib)));
    launch.start(site.interrupt)?.succeed_within(MAKING_DEADLINE)
}

/// Small pieces are passed on earlier, and make more messages: from some five hundred to two thousand pieces, as torrents usually have, and never less
/// than the four blocks of 16 KiB that Spillway's chunks have on average.
fn piece_kib(mib: u64) -> u64 {
    mib.next_power_of_two().clamp(64, 4096)
}

fn start_seed(site: &Site<'_>, files: &Files) -> Result<Seed, Failure> {
    let plan = site.plan;
    let folder = plan.folder.join("seed");
    fs::create_dir_all(&folder).map_err(|error| Failure::file("create", &folder, &error))?;
    let events = folder.join("events.jsonl");
    let output = Output::Split { announcements: events.clone(), log: folder.join("run.log") };
    let mut launch = Launch::new("the seed", PYTHON, None, ENDING, output);
    let payloads = plan.payload.parent().unwrap_or(Path::new("/"));
    launch.command.args(files.arguments(plan, ORIGIN_ADDRESS, payloads)).arg("--seed");
    if plan.super_seeding {
        launch.command.arg("--super-seeding");
    }
    Ok(Seed { process: launch.start(site.interrupt)?, events: Events::of(events) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::System;
    use crate::lab::plan::tests::plan;

    #[test]
    fn every_end_is_told_of_every_other_one_and_not_of_itself() {
        let plan = plan(System::Libtorrent, vec![10; 3]);
        let peers = |own: Ipv4Addr| {
            let arguments = Files::of(&plan).arguments(&plan, own, Path::new("/x"));
            arguments.iter().find_map(|argument| argument.strip_prefix("--peers=").map(str::to_owned)).unwrap()
        };
        assert_eq!(peers(terminal_address(1)), "10.77.0.1:6881,10.77.0.2:6881,10.77.0.4:6881");
        assert_eq!(peers(ORIGIN_ADDRESS), "10.77.0.2:6881,10.77.0.3:6881,10.77.0.4:6881");
    }

    #[test]
    fn a_torrent_has_a_usual_number_of_pieces() {
        assert_eq!([1, 32, 64, 100, 1024].map(piece_kib), [64, 64, 64, 128, 1024]);
    }
}
