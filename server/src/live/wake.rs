//! One subscription per instance: wakes the session of a terminal when something was pushed to it, by whichever instance.
//!
//! A wake-up is a hint, never the news itself: the session reads the stream from where it stands. Therefore a lost subscription loses nothing. When it is
//! back, every session is woken once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use protocol::TerminalId;
use tokio::sync::Notify;

/// How often the subscription is tried for an answer: a connection that died without a word is noticed within this time and [`ANSWER_WITHIN`].
const PING_EVERY: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The pause after a failed connection attempt.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct WakeHub {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    prefix: String,
    state: Mutex<State>,
    changed: Notify,
}

/// Both collections are bounded by the sessions of this instance: each listens once, and changes are taken out as soon as Redis answers.
#[derive(Default)]
struct State {
    listeners: HashMap<TerminalId, Vec<Arc<Notify>>>,
    /// Terminals whose first listener came or last listener went since the task last looked.
    changes: Vec<TerminalId>,
}

impl Shared {
    /// A panic while the lock is held leaves nothing half-done here, so a poisoned lock is as good as a sound one.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self, terminal: TerminalId) -> String {
        format!("{}{terminal}", self.prefix)
    }

    fn wake(&self, terminal: TerminalId) {
        for listener in self.state().listeners.get(&terminal).into_iter().flatten() {
            listener.notify_one();
        }
    }
}

/// Is woken when something was pushed to its terminal. Ends with the value.
pub struct Listener {
    shared: Arc<Shared>,
    terminal: TerminalId,
    notify: Arc<Notify>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({})", self.terminal)
    }
}

impl Listener {
    /// Waits for the next wake-up; several that came meanwhile are one.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(listeners) = state.listeners.get_mut(&self.terminal) {
            listeners.retain(|listener| !Arc::ptr_eq(listener, &self.notify));
            if listeners.is_empty() {
                state.listeners.remove(&self.terminal);
                state.changes.push(self.terminal);
            }
        }
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl WakeHub {
    pub(super) fn start(client: redis::Client, namespace: &str) -> Self {
        let shared = Arc::new(Shared { prefix: format!("{namespace}:wake:"), state: Mutex::default(), changed: Notify::new() });
        let task = tokio::spawn(run(client, Arc::clone(&shared)));
        Self { shared, task }
    }

    pub(super) fn listen(&self, terminal: TerminalId) -> Listener {
        let notify = Arc::new(Notify::new());
        let mut state = self.shared.state();
        let listeners = state.listeners.entry(terminal).or_default();
        listeners.push(Arc::clone(&notify));
        if listeners.len() == 1 {
            state.changes.push(terminal);
        }
        drop(state);
        self.shared.changed.notify_one();
        Listener { shared: Arc::clone(&self.shared), terminal, notify }
    }
}

impl Drop for WakeHub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(client: redis::Client, shared: Arc<Shared>) {
    let mut was_lost = false;
    loop {
        match subscribe_until_lost(&client, &shared, was_lost).await {
            Ok(()) => {}
            Err(error) if was_lost => tracing::debug!(%error, "the Redis subscription is still lost"),
            Err(error) => tracing::warn!(%error, "the Redis subscription was lost; it is tried again"),
        }
        was_lost = true;
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// One life of the subscription. Returns an error, or nothing when the connection ended.
async fn subscribe_until_lost(client: &redis::Client, shared: &Shared, was_lost: bool) -> redis::RedisResult<()> {
    let connection = tokio::time::timeout(ANSWER_WITHIN, client.get_async_pubsub()).await.map_err(timed_out)??;
    let (mut sink, mut messages) = connection.split();
    let all: Vec<TerminalId> = {
        let mut state = shared.state();
        state.changes.clear();
        state.listeners.keys().copied().collect()
    };
    if !all.is_empty() {
        let channels: Vec<String> = all.iter().map(|&terminal| shared.channel(terminal)).collect();
        within(sink.subscribe(channels)).await?;
        all.into_iter().for_each(|terminal| shared.wake(terminal));
    }
    if was_lost {
        tracing::info!("the Redis subscription is back");
    }
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                if let Some(terminal) = message.get_channel_name().strip_prefix(&shared.prefix).and_then(|text| text.parse().ok()) {
                    shared.wake(terminal);
                }
            }
            () = shared.changed.notified() => follow_changes(&mut sink, shared).await?,
            _ = ping.tick() => within(sink.ping::<redis::Value>()).await.map(|_| ())?,
        }
    }
}

/// Subscribes for listeners that came and unsubscribes for those that went. A new one is woken: something may have been pushed before this.
async fn follow_changes(sink: &mut redis::aio::PubSubSink, shared: &Shared) -> redis::RedisResult<()> {
    let (come, gone): (Vec<TerminalId>, Vec<TerminalId>) = {
        let mut state = shared.state();
        let changes = std::mem::take(&mut state.changes);
        changes.into_iter().partition(|terminal| state.listeners.contains_key(terminal))
    };
    if !come.is_empty() {
        within(sink.subscribe(come.iter().map(|&terminal| shared.channel(terminal)).collect::<Vec<_>>())).await?;
        come.into_iter().for_each(|terminal| shared.wake(terminal));
    }
    if !gone.is_empty() {
        within(sink.unsubscribe(gone.iter().map(|&terminal| shared.channel(terminal)).collect::<Vec<_>>())).await?;
    }
    Ok(())
}

async fn within<T>(answer: impl Future<Output = redis::RedisResult<T>>) -> redis::RedisResult<T> {
    tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(timed_out)?
}

fn timed_out(_: tokio::time::error::Elapsed) -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}
