//! One server on a database and a Redis namespace of its own. It can be killed and started again at the same address.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::database::Database;
use crate::person::Person;
use crate::redis;

pub const PASSWORD: &str = "correct horse battery staple";
const READY_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Stack {
    pub url: String,
    pub folder: tempfile::TempDir,
    database: Database,
    namespace: String,
    redis_url: String,
    arguments: Vec<String>,
    server: Option<Child>,
}

/// One of the two programs, as the task runner built it.
pub fn built(variable: &str, name: &str) -> PathBuf {
    let beside = || std::env::current_exe().ok()?.parent()?.parent().map(|folder| folder.join(name)).filter(|path| path.exists());
    let path = std::env::var_os(variable).map(PathBuf::from).or_else(beside);
    path.unwrap_or_else(|| panic!("{variable} is not set: run the tests by `cargo xtask test`"))
}

impl Stack {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// `arguments` are added to `spillway-server serve`.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let mut stack = Self {
            url: String::new(),
            folder: tempfile::tempdir().expect("a folder"),
            database: Database::create(),
            namespace: format!("e2e-{}", uuid::Uuid::now_v7().simple()),
            redis_url: std::env::var("REDIS_URL").expect("REDIS_URL is not set: run the tests by `cargo xtask test`"),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            server: None,
        };
        stack.start_server().await;
        stack
    }

    fn program(&self) -> Command {
        let mut command = Command::new(built("SPILLWAY_SERVER_BIN", "spillway-server"));
        command.env("DATABASE_URL", self.database.url()).env("REDIS_URL", &self.redis_url).kill_on_drop(true);
        command
    }

    /// Starts the server, again at the address that it had before.
    pub async fn start_server(&mut self) {
        let listen = self.url.strip_prefix("http://").and_then(|address| address.parse::<SocketAddr>().ok());
        let listen = listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("server.log")).expect("a log");
        let mut command = self.program();
        command.arg("serve").arg("--listen").arg(listen.to_string()).arg("--data-dir").arg(self.folder.path().join("data"));
        command.args(["--redis-namespace", &self.namespace, "--workers", "2", "--sync-chunks", "false"]).args(&self.arguments);
        let mut server = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the server starts");
        let mut lines = BufReader::new(server.stdout.take().expect("its output")).lines();
        let ready = tokio::time::timeout(READY_WITHIN, lines.next_line()).await.expect("the server is ready in time").expect("a line");
        let line = ready.unwrap_or_else(|| panic!("the server ended: {}", self.log()));
        let ready: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        self.url = ready["listening"].as_str().expect("an address").to_owned();
        // Keeps reading, so that the server never blocks on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.server = Some(server);
    }

    /// SIGKILL: the server has no chance to put anything in order.
    pub async fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().await.expect("the server dies");
        }
    }

    /// Where the server keeps what must last; what it has while none runs is what the next one finds.
    pub fn database(&mut self) -> &mut Database {
        &mut self.database
    }

    /// Empties this service's part of Redis; says how many keys there were.
    pub fn lose_redis(&self) -> u64 {
        redis::lose(&self.redis_url, &self.namespace)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    /// Resident memory of the server in bytes, at its highest.
    pub fn server_id(&self) -> Option<u32> {
        self.server.as_ref().and_then(Child::id)
    }

    /// Makes an operator and logs in.
    pub async fn operator(&self) -> Person {
        let email = format!("operator-{}@example.org", uuid::Uuid::now_v7().simple());
        let mut command = self.program();
        command.args(["admin", "create-operator", "--email", &email, "--password-stdin"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the program starts");
        let mut input = child.stdin.take().expect("its input");
        input.write_all(format!("{PASSWORD}\n").as_bytes()).await.expect("it reads");
        drop(input);
        assert!(child.wait().await.expect("it ends").success(), "an operator is created");
        Person::login(&self.url, &email).await
    }

    /// A new user.
    pub async fn user(&self) -> Person {
        let email = format!("user-{}@example.org", uuid::Uuid::now_v7().simple());
        Person::register(&self.url, &email).await
    }

    /// A new user whom the operator makes a publisher.
    pub async fn publisher(&self, operator: &Person) -> Person {
        let user = self.user().await;
        let role = serde_json::json!({ "role": "publisher" });
        operator.put(&format!("/v1/users/{}/role", user.user_id), &role).await.expect_ok();
        Person::login(&self.url, &user.email).await
    }

    /// A new user with `amount` in the wallet.
    pub async fn rich_user(&self, operator: &Person, amount: u64) -> Person {
        let user = self.user().await;
        user.redeem(&operator.vouchers(1, amount).await[0]).await.expect_ok();
        user
    }
}
