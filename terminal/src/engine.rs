//! The engine: takes part in every swarm that the server plans for this terminal, until it is told to stop.
//!
//! ```text
//!             plans, grants, signals                     frames                    chunks
//!  socket ─────────► coordinator ─────────► swarm task ◄────────── links      swarm task ◄──────► store
//!     ▲                    │ one per swarm      │  ▲                 ▲            │   ▲
//!     └── outbox ◄─────────┴────────────────────┘  └── origin (api)  └────────────┘   └ rate limits
//! ```
//!
//! Every swarm task owns its machine (the crate `swarm`) and does, in order, what the machine asks. It reads frames only as long as less than 8 MiB wait
//! to be written, so that a slow disk slows the senders and fills no memory. Chunk frames go out one at a time, each paid to the uplink's limit.

mod coordinator;
mod event;
mod holdings;
mod keeping;
mod opening;
mod origin;
mod rates;
mod releases;
mod running;
mod sending;
mod shelf;
mod task;
#[cfg(test)]
mod tests;
mod unsealing;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::audit::AuditQuestion;
use protocol::ws::Capabilities;
use protocol::{BitsPerSecond, Blake3, Bytes, ReleaseId, TerminalId, TerminalKey};
use tokio::sync::watch;

use crate::api::{Api, ApiError};
use crate::link::{Line, LinkConfig, LinkError, Warnings};
use crate::links::{Links, LinksConfig, LinksTiming};
use crate::rate::RateLimiter;
use crate::socket::{Outbox, ServerClock, Socket, SocketConfig, SocketError, SocketTiming};
use crate::store::{Store, StoreError};
use coordinator::Coordinator;
use keeping::Keeping;
use shelf::Shelf;

pub use event::{EngineEvent, Summary, SwarmSummary};
pub use keeping::Protected;

/// A stop is over within this time: farewells, receipts, and the last sync.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Until the server says how often it wants to hear of the progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What a terminal is and may use.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// With the tokens of the terminal's owner.
    pub api: Api,
    pub terminal_id: TerminalId,
    pub key: TerminalKey,
    /// Where contents go; see [`crate::store`].
    pub dir: PathBuf,
    /// Other folders that contents were received into: what lies there is not fetched again.
    pub other_dirs: Vec<PathBuf>,
    /// The most that editions may take up in `dir`: a new one has older ones removed. Nothing is ever removed without.
    pub quota: Option<Bytes>,
    /// Limit of what is sent, and the uplink that the server plans with; 0 if it is not known, which limits nothing.
    pub up: BitsPerSecond,
    /// Limit of what is received; 0 if it is not known, which limits nothing.
    pub down: BitsPerSecond,
    /// Takes part in these releases alone; in all if there is none.
    pub only_releases: Vec<ReleaseId>,
    /// Serves the complete editions that lie in `dir` to terminals that ask for them on demand.
    pub serve: bool,
    /// Ends when the last swarm is over, and every one of `only_releases`, instead of waiting for more.
    pub exit_when_done: bool,
    pub link: LinkConfig,
    pub links: LinksTiming,
    pub socket: SocketTiming,
}

impl EngineConfig {
    /// With ordinary patience, no limits, for every release.
    #[must_use]
    pub fn new(api: Api, terminal_id: TerminalId, key: TerminalKey, dir: PathBuf) -> Self {
        Self {
            api,
            terminal_id,
            key,
            dir,
            other_dirs: Vec::new(),
            quota: None,
            up: BitsPerSecond(0),
            down: BitsPerSecond(0),
            only_releases: Vec::new(),
            serve: false,
            exit_when_done: false,
            link: LinkConfig::default(),
            links: LinksTiming::default(),
            socket: SocketTiming::default(),
        }
    }
}

/// Why the engine ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("nobody is logged in")]
    NotLoggedIn,
    #[error("the connection to the server was refused")]
    Rejected(#[source] SocketError),
    #[error("no links to other terminals can be made")]
    Links(#[source] LinkError),
    #[error("the content cannot be stored")]
    Store(#[source] StoreError),
    #[error("the manifest of the edition cannot be had")]
    Manifest(#[source] ApiError),
    /// The server's plan contradicts the manifest that it names.
    #[error("the plan cannot be carried out")]
    Plan(#[source] swarm::PlanError),
    /// See [`LinkConfig::turn_only`].
    #[error("links are to go through TURN only, and the server names no TURN server")]
    NoTurn,
    #[error("the edition takes up {needed}, and the store quota is {quota}: give a --store-quota of at least {}, or 0 for none", at_least(*needed))]
    Quota { needed: Bytes, quota: Bytes },
    /// A task of the engine died: a fault in the program.
    #[error("a part of the engine has failed")]
    Broken,
}

/// A quota that is enough, as it can be typed.
fn at_least(needed: Bytes) -> String {
    format!("{}MiB", needed.0.div_ceil(1 << 20))
}

/// Called with everything that a person may want to see. It must not wait.
pub type Listener = Arc<dyn Fn(EngineEvent) + Send + Sync>;

/// What all tasks of an engine share.
pub(crate) struct Context {
    api: Api,
    me: TerminalId,
    key: TerminalKey,
    dir: PathBuf,
    other_dirs: Vec<PathBuf>,
    up_rate: BitsPerSecond,
    up: RateLimiter,
    down: RateLimiter,
    line: Line,
    outbox: Outbox,
    links: Links,
    turn_only: bool,
    start: Instant,
    clock: watch::Receiver<Option<ServerClock>>,
    report_interval: watch::Receiver<Duration>,
    shelf: Shelf,
    keeping: Keeping,
    keys: unsealing::Keys,
    listener: Listener,
}

impl Context {
    /// The machine's clock.
    fn now(&self) -> swarm::Now {
        self.start.elapsed()
    }

    fn tell(&self, event: EngineEvent) {
        (self.listener)(event);
    }

    fn tell_all(&self, events: impl IntoIterator<Item = EngineEvent>) {
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// Answers an audit; without a digest the chunk is not here any more.
    fn audited(&self, question: AuditQuestion, digest: Option<Blake3>) {
        self.outbox.audited(question, question.answered(self.me, &self.key, digest));
    }

    /// The server is told everything that is held and served.
    fn tell_holdings(&self) {
        self.outbox.holds(self.shelf.messages());
    }

    /// Adds what lies in the folder and is not known yet; the server is told.
    async fn find_holdings(&self) {
        if self.shelf.look_again().await {
            self.tell_holdings();
        }
    }

    fn warn(&self, text: impl Into<String>) {
        self.tell(EngineEvent::Warning { text: text.into() });
    }
}

/// A terminal that is ready to run.
pub struct Engine {
    config: EngineConfig,
    listener: Listener,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Engine {
    pub fn new(config: EngineConfig, listener: impl Fn(EngineEvent) + Send + Sync + 'static) -> Self {
        Self { config, listener: Arc::new(listener) }
    }

    /// Runs until `shutdown` completes, or until all is done if the configuration says so. A stop takes three seconds at most and loses nothing.
    ///
    /// # Errors
    /// What ends the engine by itself. Chunks that were stored stay, and the next run goes on from them.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Summary, EngineError> {
        let Self { config, listener } = self;
        let start = Instant::now();
        if let Err(error) = Store::sweep(config.dir.clone()).await {
            listener(EngineEvent::Warning { text: format!("what an earlier run has removed is not gone yet: {}", running::chain(&error)) });
        }
        let shelf = Shelf::find(config.dir.clone(), config.serve).await;
        let tokens = Arc::clone(config.api.tokens().ok_or(EngineError::NotLoggedIn)?);
        let line = Line::new(config.up);
        let (socket, mut events) = Socket::start(SocketConfig {
            address: config.api.websocket_address(),
            tokens,
            terminal_id: config.terminal_id,
            key: config.key.clone(),
            capabilities: Capabilities { up: config.up, down: config.down },
            start,
            timing: config.socket.clone(),
            line: line.clone(),
        });
        let up = RateLimiter::of_a_line(line.clone());
        let down = RateLimiter::new(config.down);
        let warn = Arc::clone(&listener);
        let warnings = Warnings::new(move |text| warn(EngineEvent::Warning { text }));
        let links = LinksConfig {
            me: config.terminal_id,
            key: config.key.clone(),
            link: LinkConfig { line: line.clone(), warnings, ..config.link.clone() },
            down: down.clone(),
            start,
            timing: config.links.clone(),
        };
        let links = Links::start(links, socket.outbox().clone()).map_err(EngineError::Links)?;
        let (clock_sender, clock) = watch::channel(None);
        let (interval_sender, report_interval) = watch::channel(REPORT_INTERVAL);
        let context = Arc::new(Context {
            api: config.api.clone(),
            me: config.terminal_id,
            key: config.key.clone(),
            dir: config.dir.clone(),
            other_dirs: config.other_dirs.clone(),
            up_rate: config.up,
            up,
            down,
            line,
            outbox: socket.outbox().clone(),
            links,
            turn_only: config.link.turn_only,
            start,
            clock,
            report_interval,
            shelf,
            keeping: Keeping::new(config.quota),
            keys: unsealing::Keys::default(),
            listener,
        });
        let only_releases = config.only_releases.into_iter().collect();
        let mut coordinator = Coordinator::new(Arc::clone(&context), only_releases, config.exit_when_done, clock_sender, interval_sender);
        let outcome = coordinator.run(&mut events, shutdown).await;
        let summary = coordinator.stop(events, socket, tokio::time::Instant::now() + STOP_WITHIN).await;
        outcome?;
        summary
    }
}
