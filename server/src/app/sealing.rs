//! Sealed pre-delivery (x02): a release's chunks are encrypted once to know their hashes, again whenever the origin sends one, and the key goes to each
//! terminal at its rank's second, sealed to its own key. No second copy of a content is stored, and a key leaves this module sealed alone.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use protocol::manifest::ChunkEntry;
use protocol::sealing::envelope::seal_key;
use protocol::sealing::manifest::{SealedChunk, SealedManifest};
use protocol::sealing::{ContentKey, Sealing};
use protocol::{Blake3, EditionId, ErrorCode, ReleaseId, SwarmId, TerminalId};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::error::ApiError;
use crate::origin::ChunkStore;
use crate::secrets::SecretsKey;
use crate::state::AppState;
use crate::store::Store;
use crate::store::contents::Viewer;
use crate::store::sealing::{KeyDue, Unsealed};

/// Chunks that are read, sealed and hashed at once.
const AT_ONCE: usize = 4;

/// Seals everything of a release that is not sealed yet. Can be repeated: the key is drawn once, and the rest follows from it.
///
/// # Errors
/// A store fails; it is to be called again.
pub async fn seal(state: &AppState, release_id: ReleaseId) -> Result<(), ApiError> {
    for unsealed in state.store.unsealed_swarms(release_id).await? {
        let Unsealed { swarm_id, edition_id, .. } = unsealed;
        let sealing = Arc::new(Sealing::new(&key_of(state, swarm_id).await?, release_id, edition_id));
        let manifest = state.chunks.manifest(edition_id).await?;
        let numbered = (0u32..).zip(manifest.chunks.clone());
        let chunks = futures_util::stream::iter(numbered)
            .map(|(index, entry)| seal_chunk(state.chunks.clone(), Arc::clone(&sealing), index, entry))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let sealed = SealedManifest::new((release_id, swarm_id), &manifest, &sealing, chunks).map_err(ApiError::internal)?;
        let id = state.chunks.put_sealed_manifest(&sealed).await?;
        state.store.set_sealed_manifest(swarm_id, id).await?;
        state.swarms.forget(swarm_id);
        tracing::info!(%release_id, %swarm_id, chunks = sealed.chunks.len(), "sealed");
    }
    Ok(())
}

async fn seal_chunk(chunks: ChunkStore, sealing: Arc<Sealing>, index: u32, entry: ChunkEntry) -> Result<SealedChunk, ApiError> {
    let mut bytes = Vec::from(chunks.chunk(entry.hash).await?);
    let sealed = tokio::task::spawn_blocking(move || {
        let tag = sealing.seal(index, &mut bytes)?;
        Ok::<_, protocol::sealing::NotSealed>(SealedChunk { length: entry.length, hash: Blake3::of(&bytes), tag })
    });
    sealed.await.map_err(ApiError::internal)?.map_err(ApiError::internal)
}

/// A chunk as it travels: the ciphertext if the swarm is sealed.
///
/// # Errors
/// The chunk is not to be had.
pub async fn as_it_travels(chunks: &ChunkStore, entry: ChunkEntry, sealing: Option<Arc<Sealing>>, index: u32) -> Result<Bytes, ApiError> {
    let bytes = chunks.chunk(entry.hash).await?;
    let Some(sealing) = sealing else { return Ok(bytes) };
    let sealed = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::from(bytes);
        sealing.seal(index, &mut bytes).map(|_| Bytes::from(bytes))
    });
    sealed.await.map_err(ApiError::internal)?.map_err(ApiError::internal)
}

/// A swarm's key, drawn now if it has none.
async fn key_of(state: &AppState, swarm_id: SwarmId) -> Result<ContentKey, ApiError> {
    let mut fresh = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *fresh).map_err(ApiError::internal)?;
    let wrapped = state.secrets.wrap(&context(swarm_id), &*fresh).map_err(ApiError::internal)?;
    let kept = state.store.keep_sealed_key(swarm_id, &wrapped).await?;
    unwrapped(&state.secrets, swarm_id, &kept)
}

fn context(swarm_id: SwarmId) -> Vec<u8> {
    [b"content key ".as_slice(), &swarm_id.to_bytes()].concat()
}

fn unwrapped(secrets: &SecretsKey, swarm_id: SwarmId, wrapped: &[u8]) -> Result<ContentKey, ApiError> {
    let lost = || ApiError::internal(format!("the key of swarm {swarm_id} was wrapped by another secrets key than this instance's"));
    let key = Zeroizing::new(secrets.unwrap(&context(swarm_id), wrapped).ok_or_else(lost)?);
    Ok(ContentKey::from_bytes(key.as_slice().try_into().map_err(|_| lost())?))
}

/// What the origin encrypts a swarm's chunks with; `None` if it sends them as they are.
///
/// # Errors
/// A store fails, or the key was wrapped by another secrets key.
pub async fn sealing_of(store: &Store, secrets: &SecretsKey, unsealed: &Unsealed) -> Result<Option<Sealing>, ApiError> {
    let Some(wrapped) = store.sealed_key(unsealed.swarm_id).await? else { return Ok(None) };
    let key = unwrapped(secrets, unsealed.swarm_id, &wrapped)?;
    Ok(Some(Sealing::new(&key, unsealed.release_id, unsealed.edition_id)))
}

/// Whether a viewer may learn how an edition is laid out and what its chunks are.
///
/// # Errors
/// `edition_sealed` until the last rank of its sealed release has come, or a store fails.
pub async fn check_released(state: &AppState, edition: EditionId, viewer: Viewer, now: OffsetDateTime) -> Result<(), ApiError> {
    let Some(until) = state.store.secret_until(edition, viewer, now).await? else { return Ok(()) };
    let until = until.format(&Rfc3339).map_err(ApiError::internal)?;
    Err(ApiError::new(ErrorCode::EditionSealed).detail(format!("Its release ends the secret at {until}.")))
}

/// When a terminal is due the key of a swarm; `None` if it never will be.
///
/// # Errors
/// `not_in_swarm`, or a store fails.
pub async fn key_at(state: &AppState, swarm_id: SwarmId, terminal: TerminalId) -> Result<Option<OffsetDateTime>, ApiError> {
    Ok(state.store.key_due(swarm_id, terminal).await?.map(|due| due.at))
}

/// The key of a swarm for one terminal, sealed to it and in base64. `None` before its second by this instance's clock, and if it is not due at all.
///
/// # Errors
/// `not_in_swarm`, or a store fails.
pub async fn envelope(state: &AppState, swarm_id: SwarmId, terminal: TerminalId, now: OffsetDateTime) -> Result<Option<String>, ApiError> {
    let Some(KeyDue { public_key, wrapped, .. }) = state.store.key_due(swarm_id, terminal).await?.filter(|due| due.at <= now) else {
        return Ok(None);
    };
    let key = unwrapped(&state.secrets, swarm_id, &wrapped)?;
    let envelope = seal_key(&key, &public_key, swarm_id, &mut UnwrapErr(SysRng)).map_err(ApiError::internal)?;
    Ok(Some(STANDARD.encode(envelope)))
}
