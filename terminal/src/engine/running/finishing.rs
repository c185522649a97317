//! How far a swarm is, and its end: progress reports, the check of the whole, and the files in their places.

use std::sync::Arc;
use std::time::Duration;

use protocol::Bytes as ByteCount;
use swarm::Now;
use tokio::time::Instant;

use super::{LOOK_FOR_ROOM_EVERY, Running};
use crate::engine::{EngineEvent, unsealing};
use crate::store::{Finished, StoreError};

impl Running<'_> {
    pub(super) fn report(&mut self, now: Now) {
        self.report_at = Instant::now() + *self.context.report_interval.borrow();
        let mut progress = self.swarm.progress();
        progress.up = self.up.measure(now, self.sending.bytes);
        progress.down = self.down.measure(now, progress.verified.0);
        self.summary.progress = progress;
        if progress.relayed > self.reported.map_or(ByteCount(0), |before| before.relayed) {
            self.store.passed_on();
        }
        if self.reported != Some(progress) {
            self.reported = Some(progress);
            let (swarm_id, total) = (self.summary.swarm_id, self.total());
            self.context.outbox.progress(swarm_id, progress);
            if !self.summary.serving {
                self.context.tell(EngineEvent::Progress { swarm_id, progress, total });
            }
        }
    }

    fn total(&self) -> ByteCount {
        self.swarm.manifest().length
    }

    /// Every chunk is stored: the whole is checked and gets its name, while chunks are still served.
    pub(super) fn completed(&mut self) {
        if self.summary.path.is_some() {
            return;
        }
        let now = self.context.now();
        let opens_at = self.swarm.plan().opens_at;
        self.completed_after =
            (*self.context.clock.borrow()).map(|clock| Duration::from_millis(clock.at(now).0.saturating_sub(opens_at.0)));
        self.report(now);
        if self.store.wants_key() {
            let (swarm_id, release_id) = (self.summary.swarm_id, self.summary.release_id);
            let key_at = self.swarm.plan().sealed.map(|sealed| sealed.key_at);
            self.context.tell(EngineEvent::Sealed { swarm_id, release_id, key_at });
        }
        self.finishing = Some(Box::pin(self.finish()));
    }

    fn finish(&self) -> impl Future<Output = Result<Finished, StoreError>> + Send + 'static {
        unsealing::finish(Arc::clone(&self.context), self.summary.swarm_id, self.store.clone())
    }

    pub(super) async fn finished(&mut self, result: Result<Finished, StoreError>) {
        match result {
            Ok(finished) => {
                self.there_is_room();
                self.tell_completed(finished);
            }
            Err(error) if error.is_full_for_now() && self.leaving.is_none() => {
                self.tell_full(&error).await;
                let finish = self.finish();
                self.finishing = Some(Box::pin(async move {
                    tokio::time::sleep(LOOK_FOR_ROOM_EVERY).await;
                    finish.await
                }));
            }
            Err(error) => {
                // All chunks are safe and are served on; the next run tries again.
                self.context.warn(format!("the complete content cannot be put in its place: {}", chain(&error)));
                self.finish_error = Some(error);
            }
        }
    }

    pub(super) fn tell_completed(&mut self, finished: Finished) {
        self.context.keeping.received((self.summary.release_id, self.summary.edition_id));
        let (blake3, length) = (self.store.content_hash().unwrap_or(self.swarm.manifest().blake3), self.total());
        (self.summary.path, self.summary.blake3) = (Some(finished.path.clone()), Some(blake3));
        if self.context.shelf.add(self.summary.edition_id, self.summary.release_id) {
            self.context.tell_holdings();
        }
        self.context.tell(EngineEvent::Completed {
            swarm_id: self.summary.swarm_id,
            release_id: self.summary.release_id,
            path: finished.path,
            blake3,
            length,
            elapsed: self.completed_after,
        });
    }

    /// Makes what was stored survive a power cut, as far as there is time.
    pub(in crate::engine) async fn sync(&mut self, within: Duration) {
        if let Ok(Err(error)) = tokio::time::timeout(within, self.store.sync()).await {
            self.context.warn(format!("the last chunks could not be synced: {}", chain(&error)));
        }
    }
}

/// An error with its causes, for people.
pub(in crate::engine) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
