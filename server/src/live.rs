//! Who is live now, in Redis: presence, pushes to terminals, the lease tables of groups, progress. This folder is the only place that knows redis.
//!
//! Nothing here is the only copy of anything: a Redis that lost everything is told again by the terminals (presence and credits within seconds, have-lists
//! on request) and by Postgres (plans, receipts, the budget). A command that meets a lost connection is tried again for [`RETRY_FOR`]; every script may
//! therefore run twice, and running twice never costs more than a repeated push or a chunk granted earlier than needed.
//!
//! One Redis serves all instances (not a cluster: the scripts touch keys of several terminals at once). It must not evict keys.

mod group;
mod passing;
mod presence;
mod progress;
mod push;
mod scripts;
mod usage;
mod wake;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use time::OffsetDateTime;
use uuid::Uuid;

pub use group::{
    Affordable, Budget, FetchRight, Grant, GroupAnswer, GroupSpec, Holdings, Limits, Missing, Returned, Sender, Table, Wanted, WhyReturned,
};
pub use passing::{LeasesPassed, passed};
pub use presence::{Attachment, PRESENCE_FOR, REFRESH_EVERY, Refreshed};
pub use push::Pushes;
pub use usage::Usage;
pub use wake::Listener;

use passing::PassedLeases;
use scripts::Scripts;
use wake::WakeHub;

/// How long a command is tried again after its connection was lost, before the caller is told that Redis is away: the length of a restart.
const RETRY_FOR: Duration = Duration::from_secs(3);
/// How long one try waits for Redis. Every script is done within a few milliseconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1_000);
/// The pause before the second try; it doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(320);

/// Why Redis did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// Redis is away, or refuses to work; it may be back in a moment.
    #[error("Redis does not answer")]
    Unavailable(#[source] redis::RedisError),
    /// Redis answered something that no script of this version says.
    #[error("Redis gave an answer that cannot be read: {0}")]
    Reply(String),
    /// A push that cannot be written as JSON.
    #[error("a push cannot be written")]
    Encode(#[from] serde_json::Error),
    /// The system gave no random bytes.
    #[error("no random bytes are to be had")]
    Random,
}

/// The handle to everything live. Cheap to clone: all clones share one connection and one subscription.
#[derive(Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

struct Inner {
    namespace: String,
    connection: ConnectionManager,
    scripts: Scripts,
    wake: WakeHub,
    passed: PassedLeases,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("namespace", &self.inner.namespace).finish_non_exhaustive()
    }
}

impl Live {
    /// Opens the command connection and starts the subscription. `namespace` stands before every key, so that services and tests can share a Redis.
    ///
    /// # Errors
    /// The address cannot be read or Redis not be reached.
    pub async fn connect(url: &str, namespace: &str) -> Result<Self, LiveError> {
        let client = redis::Client::open(url).map_err(LiveError::Unavailable)?;
        // The manager's own retries are kept short: the caller's loop decides how long it is worth waiting.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(RESPONSE_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_number_of_retries(1)
            .set_min_delay(RETRY_PAUSE)
            .set_max_delay(RETRY_PAUSE_MAX);
        let connection = ConnectionManager::new_with_config(client.clone(), config).await.map_err(LiveError::Unavailable)?;
        let wake = WakeHub::start(client, namespace);
        Ok(Self {
            inner: Arc::new(Inner {
                namespace: namespace.to_owned(),
                connection,
                scripts: Scripts::new(),
                wake,
                passed: PassedLeases::default(),
            }),
        })
    }

    /// Whether Redis answers now.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), LiveError> {
        // Once: whoever asks wants to know, not to wait.
        redis::cmd("PING").query_async(&mut self.inner.connection.clone()).await.map_err(LiveError::Unavailable)
    }

    fn key(&self, kind: &str, id: impl std::fmt::Display) -> String {
        format!("{}:{kind}:{id}", self.inner.namespace)
    }

    /// Runs one command, again while its connection is lost.
    async fn command<T: redis::FromRedisValue>(&self, command: redis::Cmd) -> Result<T, LiveError> {
        retried(|| {
            let (mut connection, command) = (self.inner.connection.clone(), command.clone());
            async move { command.query_async(&mut connection).await }
        })
        .await
    }

    /// Runs a script with the arguments that all scripts begin with, again while its connection is lost.
    async fn run<T: redis::FromRedisValue>(
        &self,
        script: &redis::Script,
        now: OffsetDateTime,
        arguments: &Arguments,
    ) -> Result<T, LiveError> {
        let seed = fresh_epoch()?;
        retried(|| {
            let mut connection = self.inner.connection.clone();
            async move {
                let mut call = script.prepare_invoke();
                call.arg(&self.inner.namespace).arg(seed).arg(crate::clock::to_timestamp_ms(now).0);
                for argument in &arguments.0 {
                    call.arg(argument.as_slice());
                }
                call.invoke_async(&mut connection).await
            }
        })
        .await
    }
}

/// What a script is given besides the namespace, the epoch and the time.
#[derive(Debug, Default)]
struct Arguments(Vec<Vec<u8>>);

impl Arguments {
    fn add(mut self, argument: impl ToString) -> Self {
        self.0.push(argument.to_string().into_bytes());
        self
    }

    fn bytes(mut self, argument: &[u8]) -> Self {
        self.0.push(argument.to_vec());
        self
    }
}

/// The epoch of push streams that begin now: random, so that no two lives of a stream share one, and small enough for JSON.
fn fresh_epoch() -> Result<u64, LiveError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|_| LiveError::Random)?;
    Ok((u64::from_le_bytes(bytes) >> 12).max(1))
}

/// Names one WebSocket among all that a terminal ever had.
pub fn fresh_token() -> String {
    Uuid::new_v4().to_string()
}

async fn retried<T, F, Fut>(attempt: F) -> Result<T, LiveError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = redis::RedisResult<T>>,
{
    let give_up_at = tokio::time::Instant::now() + RETRY_FOR;
    let mut pause = RETRY_PAUSE;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if !is_passing(&error) => {
                return Err(if error.kind() == redis::ErrorKind::UnexpectedReturnType {
                    LiveError::Reply(error.to_string())
                } else {
                    LiveError::Unavailable(error)
                });
            }
            Err(error) if tokio::time::Instant::now() + pause > give_up_at => return Err(LiveError::Unavailable(error)),
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

/// Whether the same command can succeed a moment later: the connection was lost, or Redis is loading, failing over or busy.
fn is_passing(error: &redis::RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_connection_refusal()
        || matches!(error.code(), Some("LOADING" | "BUSY" | "READONLY" | "MASTERDOWN" | "TRYAGAIN"))
}
