//! Contents that came sealed: their keys are asked for, and what is complete is opened and laid out when its key comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::sealing::ContentKey;
use protocol::sealing::envelope::open_key;
use protocol::sealing::manifest::SealedManifest;
use protocol::{ErrorCode, SwarmId};
use tokio::sync::oneshot;

use super::{Context, EngineEvent};
use crate::socket::Outbox;
use crate::store::{Finished, Store, StoreConfig, StoreError};

type Answer = oneshot::Sender<Result<ContentKey, ErrorCode>>;

/// The keys that are waited for.
#[derive(Default)]
pub(super) struct Keys {
    waiting: Mutex<BTreeMap<SwarmId, Answer>>,
}

impl Keys {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<SwarmId, Answer>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a key and waits for it, which may take until its second.
    async fn get(&self, outbox: &Outbox, swarm_id: SwarmId) -> Result<ContentKey, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.waiting().insert(swarm_id, answer);
        outbox.want_key(swarm_id);
        match answered.await {
            Ok(Ok(key)) => Ok(key),
            Ok(Err(code)) => Err(StoreError::NoKey(code)),
            Err(_) => Err(StoreError::Stopped),
        }
    }

    /// The server forgets with the connection what was asked on it.
    pub(super) fn ask_again(&self, outbox: &Outbox) {
        let mut waiting = self.waiting();
        waiting.retain(|_, answer| !answer.is_closed());
        waiting.keys().for_each(|swarm_id| outbox.want_key(*swarm_id));
    }

    /// The server has given a key.
    pub(super) fn given(&self, context: &Context, swarm_id: SwarmId, envelope: &[u8]) {
        match open_key(envelope, &context.key, swarm_id) {
            Ok(key) => self.answer(swarm_id, Ok(key)),
            Err(error) => context.warn(format!("a key came that cannot be used: {error}")),
        }
    }

    pub(super) fn refused(&self, swarm_id: SwarmId, code: ErrorCode) {
        self.answer(swarm_id, Err(code));
    }

    fn answer(&self, swarm_id: SwarmId, answer: Result<ContentKey, ErrorCode>) {
        if let Some(waiting) = self.waiting().remove(&swarm_id) {
            // An error means that nobody waits any more.
            let _ = waiting.send(answer);
        }
    }
}

/// Lays a complete content out; what came sealed is opened before, when its key has come.
pub(super) async fn finish(context: Arc<Context>, swarm_id: SwarmId, store: Store) -> Result<Finished, StoreError> {
    if store.wants_key() {
        let key = context.keys.get(&context.outbox, swarm_id).await?;
        context.tell(EngineEvent::KeyCame { swarm_id });
        store.unseal(Some(key)).await?;
    } else {
        store.unseal(None).await?;
    }
    store.finish().await
}

/// Opens what an earlier run has received sealed and whose release goes on without this terminal. `None` if it is not complete: nobody sends the rest.
pub(super) async fn open_late(context: Arc<Context>, sealed: SealedManifest) -> Result<Option<Finished>, StoreError> {
    let (swarm_id, release_id, chunks) = (sealed.swarm_id, sealed.release_id, sealed.chunks.len());
    let config = StoreConfig {
        dir: context.dir.clone(),
        release_id,
        manifest: Arc::new(sealed.travelling()),
        sealed: Some(Arc::new(sealed)),
        me: context.me,
        others: Vec::new(),
    };
    let opened = Store::open(config).await?;
    if opened.held.len() < chunks {
        return Ok(None);
    }
    let finished = match opened.finished {
        Some(finished) => finished,
        None => {
            if opened.store.wants_key() {
                context.tell(EngineEvent::Sealed { swarm_id, release_id, key_at: None });
            }
            finish(Arc::clone(&context), swarm_id, opened.store.clone()).await?
        }
    };
    if let Some(blake3) = opened.store.content_hash() {
        let length = opened.store.length();
        context.tell(EngineEvent::Completed { swarm_id, release_id, path: finished.path.clone(), blake3, length, elapsed: None });
    }
    context.find_holdings().await;
    Ok(Some(finished))
}
