//! A private Postgres: one cluster per instance, made once and kept.
//!
//! ```text
//! data/postgres/           the cluster
//! data/postgres.password   its administrator's password
//! data/postgres.made       written last; names the layout and the major version. Without it the cluster is half-made and is remade
//! ```
//!
//! The server listens on a loopback port only and has no Unix socket: nothing is left outside `data`, and no path is too long for one.

mod orphan;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::children::{Child, EndSignal, Ending, Launch, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::services::instance::Instance;
use crate::services::programs::PostgresPrograms;
use crate::services::{Data, ports, secret};

/// Raised when clusters of an earlier runner no longer fit.
const LAYOUT: u32 = 1;
/// The cluster's administrator.
const USER: &str = "spillway";
/// A new cluster takes two seconds on an idle machine; this is for a busy one with a slow disk.
const CREATE_DEADLINE: Duration = Duration::from_secs(180);
/// Includes the recovery after a crash.
const READY_DEADLINE: Duration = Duration::from_secs(90);
const QUERY_DEADLINE: Duration = Duration::from_secs(60);

/// SIGINT is Postgres's *fast* shutdown: it ends the sessions, writes a checkpoint and leaves a clean cluster. The same when the runner
/// is gone: SIGKILL would leave shared memory behind and cost a recovery.
const ENDING: Ending = Ending { stop: EndSignal::Interrupt, orphaned: Some(EndSignal::Interrupt), grace: Duration::from_secs(15) };

/// The files of one cluster.
#[derive(Debug)]
struct Cluster {
    folder: PathBuf,
    password: PathBuf,
    made: PathBuf,
}

impl Cluster {
    fn of(instance: &Instance) -> Self {
        let data = instance.data();
        Self { folder: data.join("postgres"), password: data.join("postgres.password"), made: data.join("postgres.made") }
    }

    /// What the marker of a finished cluster says.
    fn mark(programs: &PostgresPrograms) -> String {
        format!("layout {LAYOUT}, Postgres {}\n", programs.major)
    }
}

/// A running private Postgres.
#[derive(Debug)]
pub(crate) struct Postgres {
    port: u16,
    password: String,
    psql: PathBuf,
    logs: PathBuf,
    _server: Child,
}

impl Postgres {
    /// Makes the cluster if there is none, starts it and waits until it takes connections.
    pub(crate) fn start(programs: PostgresPrograms, instance: &Instance, data: Data, interrupt: &Interrupt) -> Result<Self, Failure> {
        let cluster = Cluster::of(instance);
        orphan::stop(&cluster.folder)?;
        if fs::read_to_string(&cluster.made).ok().as_deref() != Some(&*Cluster::mark(&programs)) {
            set_aside(&cluster, data)?;
            create(&programs, &cluster, instance, data, interrupt)?;
        }
        let password = fs::read_to_string(&cluster.password).map_err(|error| Failure::file("read", &cluster.password, &error))?;
        let (port, server) = ports::with_free(|port| Ok((port, serve(&programs, &cluster, instance, data, port, interrupt)?)))?;
        let postgres = Self { port, password, psql: programs.psql, logs: instance.logs().to_path_buf(), _server: server };
        match data {
            Data::Kept => {}
            Data::Scratch | Data::Flushed => postgres.drop_leftovers(interrupt)?,
        }
        Ok(postgres)
    }

    /// A program of the installation that the server is from.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.psql.with_file_name(name)
    }

    /// The administrator's database.
    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// What tells this cluster from any other one: derived from its password, which is drawn once per cluster.
    pub(crate) fn cluster_id(&self) -> String {
        blake3::hash(self.password.as_bytes()).to_hex()[..16].to_owned()
    }

    /// The address of the database `name`, created if it is missing.
    pub(crate) fn database(&self, name: &str, interrupt: &Interrupt) -> Result<String, Failure> {
        let script =
            format!("SELECT 'CREATE DATABASE {name}' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{name}') \\gexec\n");
        self.query(&script, interrupt)?;
        Ok(self.url_of(name))
    }

    /// A killed test cannot drop its database; without this a kept scratch cluster would only grow.
    fn drop_leftovers(&self, interrupt: &Interrupt) -> Result<(), Failure> {
        let script = "SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' \\gexec\n";
        self.query(script, interrupt)
    }

    fn query(&self, script: &str, interrupt: &Interrupt) -> Result<(), Failure> {
        let log = self.logs.join("psql.log");
        let mut launch = Launch::new("psql", &self.psql, None, Ending::terminate(Duration::from_secs(2)), Output::Log(log)).input(script);
        without_postgres_variables(&mut launch);
        launch.command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--host=127.0.0.1", "--dbname=postgres"]);
        launch.command.arg(format!("--port={}", self.port)).arg(format!("--username={USER}")).env("PGPASSWORD", &self.password);
        launch.start(interrupt)?.succeed_within(QUERY_DEADLINE)
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }
}

/// Makes room for a new cluster. A finished one whose data somebody wants is of another Postgres version: it is moved, never deleted.
fn set_aside(cluster: &Cluster, data: Data) -> Result<(), Failure> {
    let finished = fs::read_to_string(&cluster.made).ok();
    remove(&cluster.made)?;
    match (data, finished) {
        (Data::Kept, Some(mark)) => {
            let name: String = mark.chars().filter(char::is_ascii_alphanumeric).collect();
            let kept = cluster.folder.with_extension(name);
            fs::rename(&cluster.folder, &kept).map_err(|error| Failure::file("move", &cluster.folder, &error))?;
            eprintln!("xtask: the data of another Postgres version was moved to {}", kept.display());
        }
        (Data::Kept, None) | (Data::Scratch | Data::Flushed, _) => remove(&cluster.folder)?,
    }
    remove(&cluster.password)
}

fn remove(path: &Path) -> Result<(), Failure> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::file("remove", path, &error)),
        Err(_) | Ok(()) => Ok(()),
    }
}

fn create(programs: &PostgresPrograms, cluster: &Cluster, instance: &Instance, data: Data, interrupt: &Interrupt) -> Result<(), Failure> {
    eprintln!("xtask: making a Postgres {} cluster in {}", programs.major, cluster.folder.display());
    secret::write(&cluster.password, &secret::generate()?)?;
    instance.give(&cluster.password)?;
    let ending = Ending::terminate(Duration::from_secs(10));
    let log = Output::Log(instance.logs().join("initdb.log"));
    let mut launch = Launch::new("initdb", &programs.initdb, instance.account(), ending, log);
    prepare(&mut launch, instance);
    launch.command.arg("--pgdata").arg(&cluster.folder).arg("--pwfile").arg(&cluster.password).arg("--username").arg(USER);
    // The password goes over loopback only, and in clear: a hashing handshake would cost milliseconds for each of the thousands of
    // connections that the tests open.
    launch.command.args(["--auth-host=password", "--auth-local=reject", "--encoding=UTF8", "--locale=C"]);
    match data {
        Data::Kept => {}
        Data::Scratch | Data::Flushed => _ = launch.command.arg("--no-sync"),
    }
    launch.start(interrupt)?.succeed_within(CREATE_DEADLINE)?;
    secret::write(&cluster.made, &Cluster::mark(programs))
}

fn serve(
    programs: &PostgresPrograms,
    cluster: &Cluster,
    instance: &Instance,
    data: Data,
    port: u16,
    interrupt: &Interrupt,
) -> Result<Child, Failure> {
    let log = Output::Log(instance.logs().join("postgres.log"));
    let mut launch = Launch::new("Postgres", &programs.postgres, instance.account(), ENDING, log);
    prepare(&mut launch, instance);
    launch.command.arg("-D").arg(&cluster.folder).arg("-p").arg(port.to_string());
    for setting in settings(data) {
        launch.command.args(["-c", setting]);
    }
    let mut server = launch.start(interrupt)?;
    let own_id = server.id();
    let status = cluster.folder.join("postmaster.pid");
    server.ready_within(READY_DEADLINE, || fs::read_to_string(&status).ok().filter(|text| is_ready(text, own_id)))?;
    Ok(server)
}

/// Whether `postmaster.pid` says that the server with this process id takes connections; what `pg_ctl` reads too.
fn is_ready(status: &str, own_id: u32) -> bool {
    let mut lines = status.lines();
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(own_id) && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

fn settings(data: Data) -> Vec<&'static str> {
    // 400 connections: an end-to-end test runs several servers with a pool each, and several tests run at a time.
    let mut settings =
        vec!["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=400", "shared_buffers=128MB", "jit=off"];
    match data {
        Data::Kept | Data::Flushed => {}
        // After a crash of the machine a scratch cluster is worth nothing, so nothing waits for the disk.
        Data::Scratch => settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_wal_size=2GB"]),
    }
    settings
}

/// The account may not be able to read the runner's folder or home, and the runner's Postgres variables are about another server.
fn prepare(launch: &mut Launch, instance: &Instance) {
    without_postgres_variables(launch);
    launch.command.current_dir(instance.data()).env("HOME", instance.data()).env("LC_ALL", "C");
}

fn without_postgres_variables(launch: &mut Launch) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            launch.command.env_remove(name);
        }
    }
}

#[cfg(test)]
mod tests;
