//! What a swarm needs before its machine can start: the manifest, the server's clock, and the verified chunks of earlier runs.

use std::sync::Arc;
use std::time::Duration;

use protocol::manifest::Manifest;
use protocol::sealing::manifest::SealedManifest;
use protocol::ws::{LeaveReason, SealedPlan, SwarmPlan};
use protocol::{Bytes, EditionId, ReleaseId, SwarmId};

use super::running::{Ending, LOOK_FOR_ROOM_EVERY};
use super::{Context, EngineError, EngineEvent, keeping};
use crate::api::ApiError;
use crate::backoff::Backoff;
use crate::socket::ServerClock;
use crate::store::{Opened, Store, StoreConfig, StoreError};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_CAP: Duration = Duration::from_secs(10);
/// How long a store that was just closed by this process may take to let go of its files.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Ready {
    pub(super) manifest: Arc<Manifest>,
    pub(super) clock: ServerClock,
    pub(super) opened: Opened,
}

/// Waits for everything. Dropping the future stops the verification.
pub(super) async fn ready(context: &Context, plan: &SwarmPlan) -> Result<Ready, EngineError> {
    let (release, edition) = (plan.release_id, plan.edition_id);
    let sealed = match plan.sealed {
        Some(wanted) => Some(Arc::new(sealed_manifest(context, plan, wanted).await?)),
        None => None,
    };
    let manifest = Arc::new(match &sealed {
        Some(sealed) => sealed.travelling(),
        None => manifest(context, release, edition).await?,
    });
    let clock = clock(context).await?;
    let config = StoreConfig {
        dir: context.dir.clone(),
        release_id: release,
        manifest: Arc::clone(&manifest),
        sealed,
        me: context.me,
        others: context.other_dirs.clone(),
    };
    let own = (release, edition);
    let sources = keeping::make_room(context, plan.swarm_id, own, &manifest).await?;
    let opened = open(context, plan.swarm_id, config).await.map_err(EngineError::Store)?;
    keeping::settle(context, plan.swarm_id, own, &manifest, sources).await?;
    Ok(Ready { manifest, clock, opened })
}

/// Opens what lies here to serve it to somebody else.
pub(super) async fn ready_to_serve(context: &Context, edition: EditionId) -> Result<Ready, Ending> {
    let opened = context.shelf.open(edition).await.map_err(|error| Ending::Failed(EngineError::Store(error)))?;
    let Some((store, manifest)) = opened else {
        // The server chose this terminal by an older list.
        context.shelf.remove(edition);
        context.tell_holdings();
        return Err(Ending::Left(LeaveReason::Removed));
    };
    // It was asked for.
    store.passed_on();
    let clock = clock(context).await.map_err(Ending::Failed)?;
    Ok(Ready { manifest, clock, opened: Opened { store, held: Vec::new(), lost: Vec::new(), finished: None } })
}

async fn manifest(context: &Context, release: ReleaseId, edition: EditionId) -> Result<Manifest, EngineError> {
    if let Some(manifest) = Store::stored_manifest(context.dir.clone(), release, edition).await {
        return Ok(manifest);
    }
    until_had(context, || context.api.manifest(edition)).await
}

async fn sealed_manifest(context: &Context, plan: &SwarmPlan, wanted: SealedPlan) -> Result<SealedManifest, EngineError> {
    let stored = Store::stored_sealed(context.dir.clone(), plan.release_id, plan.edition_id).await;
    if let Some(stored) = stored.filter(|stored| stored.id() == wanted.manifest) {
        return Ok(stored);
    }
    let sealed = until_had(context, || context.api.sealed_manifest(plan.swarm_id, wanted.manifest)).await?;
    if (sealed.release_id, sealed.swarm_id, sealed.edition_id) != (plan.release_id, plan.swarm_id, plan.edition_id) {
        return Err(EngineError::Manifest(ApiError::WrongBytes));
    }
    Ok(sealed)
}

/// Asks until there is an answer that is no passing failure.
async fn until_had<T, F: Future<Output = Result<T, ApiError>>>(context: &Context, ask: impl Fn() -> F) -> Result<T, EngineError> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_CAP);
    loop {
        match ask().await {
            Ok(manifest) => return Ok(manifest),
            Err(error) if error.is_retryable() => {
                context.warn(format!("the manifest cannot be had yet: {error}"));
                tokio::time::sleep(backoff.wait()).await;
            }
            Err(error) => return Err(EngineError::Manifest(error)),
        }
    }
}

async fn clock(context: &Context) -> Result<ServerClock, EngineError> {
    let mut clock = context.clock.clone();
    let known = clock.wait_for(Option::is_some).await.map_err(|_| EngineError::Broken)?;
    known.ok_or(EngineError::Broken)
}

/// Opens the store; waits for room if the disk is full.
async fn open(context: &Context, swarm_id: SwarmId, config: StoreConfig) -> Result<Opened, StoreError> {
    let deadline = tokio::time::Instant::now() + RELEASE_WITHIN;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    let mut is_full = false;
    loop {
        match Store::open(config.clone()).await {
            Err(StoreError::InUse(_)) if tokio::time::Instant::now() < deadline => tokio::time::sleep(backoff.wait()).await,
            Err(error) if error.is_full_for_now() => {
                if !std::mem::replace(&mut is_full, true) {
                    let (mut needed, mut free) = (config.manifest.length, Bytes(0));
                    if let StoreError::NoRoom { needed: missing, available, .. } = error {
                        (needed, free) = (missing, available);
                    }
                    context.tell(EngineEvent::DiskFull { swarm_id, dir: context.dir.clone(), needed, free });
                }
                tokio::time::sleep(LOOK_FOR_ROOM_EVERY).await;
            }
            other => {
                if is_full && other.is_ok() {
                    context.tell(EngineEvent::DiskRoom { swarm_id });
                }
                return other;
            }
        }
    }
}
