//! Whom the server chose instead of whom, noted where it happens and written down every second: the report of a release tells of it. Nothing is decided
//! on what is kept here, so an instance that is killed may lose its last second of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::TerminalId;
use protocol::rest::ReselectionReason;
use protocol::ws::SuspectReason;
use time::OffsetDateTime;

use crate::live::{Live, WhyReturned};
use crate::store::reselections::NewReselection;
use crate::store::{Store, StoreError};

/// How often what was noted is written.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Most notes that wait while the database is away; the oldest make room.
const WAITING_MAX: usize = 8_192;
/// How often it is noted of a terminal that the budget has nothing for it: it asks every other second.
const SHORT_EVERY: time::Duration = time::Duration::MINUTE;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reselections {
    store: Store,
    live: Live,
    waiting: Arc<Mutex<VecDeque<NewReselection>>>,
    /// When it was last noted of a terminal that the budget had nothing for it.
    short: Arc<Mutex<BTreeMap<TerminalId, OffsetDateTime>>>,
    /// One writer at a time, so that whoever reads after [`Reselections::write`] finds everything that was noted before.
    writing: Arc<tokio::sync::Mutex<()>>,
}

/// Why a terminal that its neighbours reported was removed.
pub(super) fn reason_of(suspicion: SuspectReason) -> ReselectionReason {
    match suspicion {
        SuspectReason::Silent => ReselectionReason::Silent,
        SuspectReason::Closed => ReselectionReason::Closed,
        SuspectReason::Corrupt => ReselectionReason::Corrupt,
        SuspectReason::Malformed => ReselectionReason::Malformed,
        SuspectReason::Unacknowledged => ReselectionReason::Unacknowledged,
    }
}

impl Reselections {
    pub fn new(store: Store, live: Live) -> Self {
        Self { store, live, waiting: Arc::default(), short: Arc::default(), writing: Arc::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<NewReselection>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, events: impl IntoIterator<Item = NewReselection>) {
        let mut waiting = self.waiting();
        waiting.extend(events);
        let excess = waiting.len().saturating_sub(WAITING_MAX);
        if excess > 0 {
            waiting.drain(..excess);
            metrics::counter!("spillway_reselections_dropped_total").increment(excess as u64);
        }
    }

    /// Notes that the origin's budget has nothing for what a terminal misses, unless that was noted a moment ago.
    pub(super) fn note_short(&self, event: NewReselection) {
        let is_new = {
            let mut short = self.short.lock().unwrap_or_else(PoisonError::into_inner);
            let is_recent = |noted: &OffsetDateTime| event.at - *noted < SHORT_EVERY;
            if short.len() >= WAITING_MAX {
                short.retain(|_, noted| is_recent(noted));
            }
            let is_new = !short.get(&event.terminal_id).is_some_and(is_recent);
            if is_new {
                short.insert(event.terminal_id, event.at);
            }
            is_new
        };
        self.note(is_new.then_some(event));
    }

    /// Writes down what was noted.
    ///
    /// # Errors
    /// The database fails; the notes wait for the next try.
    pub async fn write(&self) -> Result<(), StoreError> {
        let _turn = self.writing.lock().await;
        self.note(self.live.passed_leases().into_iter().map(|passed| NewReselection {
            group_id: passed.group,
            at: passed.at,
            reason: match passed.why {
                WhyReturned::Expired => ReselectionReason::LeaseExpired,
                WhyReturned::Gone => ReselectionReason::Disconnected,
            },
            terminal_id: passed.from,
            replacement: passed.to,
            chunks: passed.chunks,
        }));
        let noted: Vec<NewReselection> = std::mem::take(&mut *self.waiting()).into();
        if noted.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.store.write_reselections(&noted).await {
            let later = std::mem::take(&mut *self.waiting());
            self.note(noted.into_iter().chain(later));
            return Err(error);
        }
        Ok(())
    }

    /// Writes until the instance stops, and once more then.
    pub async fn keep_written(self, mut stopping: tokio::sync::watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(WRITE_EVERY);
        loop {
            let stop = tokio::select! {
                _ = ticks.tick() => false,
                _ = stopping.wait_for(|stop| *stop) => true,
            };
            if let Err(error) = self.write().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "what was chosen again could not be written; it is tried again");
            }
            if stop {
                return;
            }
        }
    }
}
