//! A TURN server (coturn) of its own for a test, on loopback.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::eventually;

const USER: &str = "terminals";
const PASSWORD: &str = "from the service's configuration";
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Free ports are looked for first, and somebody else may take one before coturn does.
const ATTEMPTS: u32 = 5;

#[derive(Debug)]
pub struct TurnServer {
    port: u16,
    folder: tempfile::TempDir,
    /// Added to what every one is started with.
    arguments: Vec<String>,
    child: Child,
}

/// What a session has carried, as coturn counts it at the session's end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    pub sessions: u64,
    /// Received from other ends at relayed addresses.
    pub from_peers: u64,
    /// Sent from relayed addresses to other ends.
    pub to_peers: u64,
}

/// Finds coturn's program; `cargo xtask test` installs it where it may.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("turnserver")).find(|file| file.is_file());
    found.expect("turnserver not found: this test needs coturn. On Debian: sudo apt-get install --yes coturn")
}

impl TurnServer {
    /// Runs until this is dropped. `arguments` are added to coturn's.
    pub async fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        for attempt in 1..=ATTEMPTS {
            let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let mut child = launch(port, &folder, &arguments);
            if is_ready(port, &mut child).await {
                return Self { port, folder, arguments, child };
            }
            eprintln!("attempt {attempt} at starting coturn: {}", log(&folder));
        }
        panic!("coturn does not start: {}", log(&folder));
    }

    /// What `spillway-server` is given to tell terminals of this server.
    pub fn ice_servers(&self) -> String {
        self.ice_servers_with(USER, PASSWORD)
    }

    pub fn ice_servers_with(&self, user: &str, password: &str) -> String {
        let urls = [format!("turn:127.0.0.1:{}?transport=udp", self.port)];
        serde_json::json!([{ "urls": urls, "username": user, "credential": password }]).to_string()
    }

    /// SIGKILL: what it knew of addresses and channels is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it dies");
    }

    /// Starts it again at the same port.
    pub async fn start_again(&mut self) {
        self.child = launch(self.port, &self.folder, &self.arguments);
        assert!(is_ready(self.port, &mut self.child).await, "coturn does not start again: {}", self.log());
    }

    pub fn log(&self) -> String {
        log(&self.folder)
    }

    /// What sessions that have ended have carried.
    pub fn carried(&self) -> Carried {
        let log = self.log();
        let mut carried = Carried::default();
        for line in log.lines() {
            let Some((_, counts)) = line.split_once(": peer usage: ") else { continue };
            let count = |name: &str| {
                let of = |part: &str| part.trim().strip_prefix(name)?.parse::<u64>().ok();
                counts.split(',').find_map(of).unwrap_or_else(|| panic!("no {name} in {line}"))
            };
            carried.from_peers += count("rb=");
            carried.to_peers += count("sb=");
        }
        carried.sessions = log.lines().filter(|line| line.contains(": closed (")).map(|_| 1).sum();
        carried
    }
}

fn log(folder: &tempfile::TempDir) -> String {
    std::fs::read_to_string(folder.path().join("turn.log")).unwrap_or_default()
}

fn launch(port: u16, folder: &tempfile::TempDir, arguments: &[String]) -> Child {
    let file = |name: &str| folder.path().join(name).display().to_string();
    let mut command = Command::new(program());
    // No configuration of this machine's own; only UDP; other ends are on this machine too.
    command.args(["-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--no-tcp", "--no-tls", "--no-dtls", "--no-cli"]);
    command.args(["--lt-cred-mech", "--realm=spillway", "--allow-loopback-peers", "--fingerprint", "--verbose", "--simple-log"]);
    command.arg(format!("--listening-port={port}")).arg(format!("--user={USER}:{PASSWORD}"));
    command.arg(format!("--log-file={}", file("turn.log"))).arg(format!("--pidfile={}", file("pid")));
    command.arg(format!("--userdb={}", file("users"))).args(arguments);
    let output = std::fs::File::options().create(true).append(true).open(file("output.log")).expect("a log");
    let errors = output.try_clone().expect("a second handle");
    command.stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
    command.spawn().expect("coturn starts")
}

/// Whether it answers; not if it has ended.
async fn is_ready(port: u16, child: &mut Child) -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.connect((Ipv4Addr::LOCALHOST, port)).expect("loopback is there");
    socket.set_nonblocking(true).expect("it can be");
    let mut answer = [0; 512];
    eventually("coturn answers", READY_WITHIN, || {
        let has_ended = child.try_wait().expect("its state").is_some();
        // A binding request (RFC 8489) without attributes.
        let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
        let _ = socket.send(&request);
        let answered = socket.recv(&mut answer).is_ok();
        async move { if answered { Some(true) } else { has_ended.then_some(false) } }
    })
    .await
}
