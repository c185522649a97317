//! The real `spillway` program, run by a test.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::{ContentId, TerminalId};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::eventually;
use crate::person::Person;
use crate::stack::{PASSWORD, Stack, built};

/// How often a process is looked at that is watched.
const WATCHED_EVERY: Duration = Duration::from_millis(100);

/// One person's `spillway` with its configuration folder.
#[derive(Debug)]
pub struct Cli {
    pub config: PathBuf,
    pub terminal_id: TerminalId,
    pub person: Person,
}

/// A `spillway run` or `spillway get` process and the events that it has printed.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
    pub name: String,
    events: Arc<Mutex<Vec<Value>>>,
    log: PathBuf,
}

impl Stack {
    /// A new user, registered by the program itself, with `amount` in the wallet.
    pub async fn cli(&self, operator: &Person, name: &str, amount: u64) -> Cli {
        let config = self.folder.path().join(name);
        std::fs::create_dir_all(&config).expect("a folder");
        let email = format!("{name}-{}@example.org", uuid::Uuid::now_v7().simple());
        let arguments = ["register", "--server", &self.url, "--email", &email, "--name", name, "--password-stdin", "--json"];
        let output = spillway(&config, &arguments, &format!("{PASSWORD}\n")).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let terminal_id = answer["terminal"]["id"].as_str().expect("a terminal").parse().expect("an id");
        let person = Person::login(&self.url, &email).await;
        if amount > 0 {
            person.redeem(&operator.vouchers(1, amount).await[0]).await.expect_ok();
        }
        Cli { config, terminal_id, person }
    }
}

/// Runs the program to its end.
pub async fn spillway(config: &Path, arguments: &[&str], input: &str) -> Output {
    spillway_within(config, arguments, input, Duration::from_secs(60), |_| {}).await
}

/// The same, with more time; `watch` is called with the process id now and then.
pub async fn spillway_within(config: &Path, arguments: &[&str], input: &str, within: Duration, watch: impl Fn(u32)) -> Output {
    let mut command = Command::new(built("SPILLWAY_BIN", "spillway"));
    command.args(arguments).arg("--config").arg(config).kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("its input");
    // A command that reads nothing may have ended by now.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let process = child.id().unwrap_or_default();
    let output = tokio::time::timeout(within, child.wait_with_output());
    tokio::pin!(output);
    loop {
        tokio::select! {
            output = &mut output => return output.expect("the program ends in time").expect("its output"),
            () = tokio::time::sleep(WATCHED_EVERY) => watch(process),
        }
    }
}

impl Cli {
    pub async fn call(&self, arguments: &[&str]) -> Output {
        spillway(&self.config, arguments, "").await
    }

    /// Where `run` puts what it receives.
    pub fn received(&self) -> PathBuf {
        self.config.join("received")
    }

    /// Starts `spillway run` for what was applied for; `arguments` are added.
    pub fn run(&self, arguments: &[&str]) -> Running {
        self.start(&[&["run", "--exit-when-done"], arguments].concat())
    }

    /// Starts `spillway run` without an end: it serves what was received.
    pub fn serve(&self, arguments: &[&str]) -> Running {
        self.start(&[&["run"], arguments].concat())
    }

    /// Starts `spillway get` for a content.
    pub fn get(&self, content: ContentId, arguments: &[&str]) -> Running {
        self.start(&[&["get", &content.to_string()], arguments].concat())
    }

    /// Starts a command that runs for a while and prints events.
    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new(built("SPILLWAY_BIN", "spillway"));
        command.args(arguments).args(["--json", "--dir"]).arg(self.received()).arg("--config").arg(&self.config);
        Running::start(command, &self.config)
    }

    /// Makes a kit of this person's account in a folder beside the configuration.
    pub async fn kit(&self, passphrase: &str) -> Kit {
        let dir = self.config.join("stick");
        let arguments = ["kit", "create", dir.to_str().expect("a path"), "--password-stdin", "--json"];
        let output = spillway(&self.config, &arguments, &format!("{PASSWORD}\n{passphrase}\n")).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let terminal_id = made["terminal_id"].as_str().expect("a terminal").parse().expect("an id");
        Kit { dir, passphrase: passphrase.to_owned(), terminal_id }
    }
}

/// A kit, as it is used on any machine: by its directory and its passphrase.
#[derive(Debug, Clone)]
pub struct Kit {
    pub dir: PathBuf,
    pub passphrase: String,
    pub terminal_id: TerminalId,
}

impl Kit {
    /// Runs the program that the kit carries.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.dir.join("read-only/spillway"));
        command.arg("--kit").arg(&self.dir).args(arguments);
        command.env("SPILLWAY_KIT_PASSPHRASE", &self.passphrase).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub async fn call(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        tokio::time::timeout(Duration::from_secs(60), output).await.expect("the program ends in time").expect("it starts")
    }

    /// The JSON that a command prints, which must succeed.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.call(&[arguments, &["--json"]].concat()).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Starts `spillway run` from it.
    pub fn run(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(&[&["run", "--exit-when-done", "--json"], arguments].concat());
        command.arg("--dir").arg(self.dir.join("received"));
        Running::start(command, &self.dir)
    }
}

impl Running {
    /// Starts a program that prints events; what it complains of goes to a log in the folder.
    fn start(mut command: Command, folder: &Path) -> Self {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let log = folder.join("run.log");
        let errors = std::fs::File::options().create(true).append(true).open(&log).expect("a log");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
        let mut child = command.spawn().expect("the program starts");
        let events = Arc::new(Mutex::new(Vec::new()));
        let (sink, mut lines) = (events.clone(), BufReader::new(child.stdout.take().expect("its output")).lines());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sink.lock().expect("no reader panics").push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        Self { child, name, events, log }
    }

    pub fn events(&self) -> Vec<Value> {
        self.events.lock().expect("no reader panics").clone()
    }

    /// The latest event of a kind.
    pub fn last(&self, kind: &str) -> Option<Value> {
        self.events().into_iter().rev().find(|event| event["event"] == kind)
    }

    /// Verified bytes as last reported.
    pub fn verified(&self) -> u64 {
        self.last("progress").and_then(|event| event["verified"].as_u64()).unwrap_or(0)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until this many bytes are verified.
    pub async fn verified_at_least(&self, bytes: u64) {
        let what = format!("{} verifies {bytes} bytes", self.name);
        eventually(&what, Duration::from_secs(90), || async { (self.verified() >= bytes).then_some(()) }).await;
    }

    /// Waits for the edition to be complete; gives the hash of the stored file.
    pub async fn completed(&self) -> String {
        let what = format!("{} completes; events {:?}", self.name, self.events().last());
        let event = eventually(&what, Duration::from_secs(120), || async { self.last("completed") }).await;
        event["blake3"].as_str().expect("a hash").to_owned()
    }

    /// Waits for the program to end by itself, with success.
    pub async fn done(&mut self) {
        let status = tokio::time::timeout(Duration::from_secs(180), self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("{} does not end; {:?}", self.name, self.events().last())).expect("a status");
        assert!(status.success(), "{} ended with {status}: {}", self.name, self.log());
    }

    /// Waits for the first event of a kind.
    pub async fn event(&self, kind: &str) -> Value {
        eventually(&format!("{} tells {kind}", self.name), Duration::from_secs(60), || async { self.last(kind) }).await
    }

    /// SIGINT, as by Ctrl-C; waits for the end in good order.
    pub async fn interrupt(&mut self) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().await.expect("kill starts");
        assert!(sent.success());
        let status = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await.expect("it ends in time").expect("a status");
        assert_eq!(status.code(), Some(130), "{}", self.log());
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it dies");
    }
}
