//! Bytes in bulk: uploads, manifests, and the origin's chunks.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::manifest::{CHUNKS_MAX, FILES_MAX, Manifest, PATH_MAX};
use protocol::rest::{Edition, Upload};
use protocol::sealing::manifest::{SEALED_MANIFEST_MAX, SealedManifest};
use protocol::{Blake3, Bytes as ByteCount, EditionId, SwarmId, TerminalId};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method, Response};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::request::{Call, accepted, read_bounded};
use super::{Api, ApiError};

/// The longest manifest: as many files and chunks as an edition may have.
pub const MANIFEST_BYTES_MAX: u64 = 128 + (FILES_MAX * (2 + PATH_MAX + 9) + CHUNKS_MAX * 36) as u64;
/// The answer to an upload is one edition.
const EDITION_BYTES_MAX: u64 = 64 << 10;
/// An answer that has begun goes on within this time.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Read from the source at a time.
const UPLOAD_PIECE: usize = 64 << 10;
/// An upload that moves nothing for this long has ended. Behind the last byte the server still commits, so this is longer than a download's.
const UPLOAD_IDLE_MAX: Duration = Duration::from_secs(120);

impl Api {
    /// The manifest of an edition, checked against the edition's id.
    pub async fn manifest(&self, id: EditionId) -> Result<Manifest, ApiError> {
        let bytes = self.fetch(Call::get(format!("v1/editions/{id}/manifest")), MANIFEST_BYTES_MAX).await?;
        if Blake3::of(&bytes).0 != id.0 {
            return Err(ApiError::WrongBytes);
        }
        let manifest = Manifest::decode(&bytes).map_err(|error| ApiError::Answer(error.to_string()))?;
        drop(bytes);
        // What is read must also be what would be written: the id is later computed from the manifest and not from these bytes.
        if manifest.edition_id() == id { Ok(manifest) } else { Err(ApiError::WrongBytes) }
    }

    /// The sealed manifest of a swarm, checked against the hash that its plan names.
    pub async fn sealed_manifest(&self, swarm: SwarmId, wanted: Blake3) -> Result<SealedManifest, ApiError> {
        let most = u64::try_from(SEALED_MANIFEST_MAX).unwrap_or(u64::MAX);
        let bytes = self.fetch(Call::get(format!("v1/swarms/{swarm}/sealed-manifest")), most).await?;
        if Blake3::of(&bytes) != wanted {
            return Err(ApiError::WrongBytes);
        }
        SealedManifest::decode(&bytes).map_err(|error| ApiError::Answer(error.to_string()))
    }

    /// One chunk from the origin, for which `terminal` holds a lease. The bytes are of the right length; their hash is the caller's to check.
    ///
    /// # Errors
    /// A failure is not tried again here: leases, budgets and waits are the swarm's affair.
    pub async fn origin_chunk(&self, swarm: SwarmId, index: u32, terminal: TerminalId, length: u32) -> Result<Bytes, ApiError> {
        let call = Call::get(format!("v1/swarms/{swarm}/chunks/{index}")).header("Spillway-Terminal", terminal.to_string());
        let bytes = match self.fetch(call.once(), u64::from(length)).await {
            Err(ApiError::TooLong { .. }) => return Err(ApiError::WrongBytes),
            other => other?,
        };
        if bytes.len() as u64 == u64::from(length) { Ok(bytes.into()) } else { Err(ApiError::WrongBytes) }
    }

    /// Sends the bytes of an announced edition. `progress` is told how many have been handed to the connection.
    ///
    /// # Errors
    /// [`ApiError::Source`] if `source` fails or has not exactly the announced length. An upload is not repeated: the source is read only once.
    pub async fn upload_bytes<R>(
        &self,
        upload: &Upload,
        source: R,
        progress: impl Fn(ByteCount) + Send + Sync + 'static,
    ) -> Result<Edition, ApiError>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let state = Arc::new(UploadState::default());
        let pieces = Pieces { source, length: upload.length.0, sent: 0, state: Arc::clone(&state), progress: Box::new(progress) };
        let stream = futures_util::stream::try_unfold(pieces, Pieces::next);
        let mut request = self
            .request(Method::PUT, &format!("v1/uploads/{}", upload.id), &[])?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, upload.length.0);
        if let Some(token) = self.access_token().await? {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let answered = tokio::select! {
            answered = request.body(Body::wrap_stream(stream)).send() => answered.map_err(ApiError::network),
            () = state.stalled() => Err(ApiError::Timeout),
        };
        let answered = match answered {
            Ok(response) => accepted(response).await,
            Err(error) => Err(error),
        };
        match (state.take_failure(), answered) {
            (Some(failure), Err(_)) => Err(ApiError::Source(failure)),
            (_, answered) => edition(answered?).await,
        }
    }
}

async fn edition(response: Response) -> Result<Edition, ApiError> {
    let bytes = read_bounded(response, EDITION_BYTES_MAX, IDLE_MAX).await?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::Answer(error.to_string()))
}

/// What the body of an upload tells the call that sends it.
#[derive(Debug, Default)]
struct UploadState {
    sent: AtomicU64,
    failure: Mutex<Option<io::Error>>,
}

impl UploadState {
    /// Returns when nothing has moved for [`UPLOAD_IDLE_MAX`].
    async fn stalled(&self) {
        let mut seen = self.sent.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(UPLOAD_IDLE_MAX).await;
            let now = self.sent.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    }

    fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The body of an upload: exactly `length` bytes of the source.
struct Pieces<R> {
    source: R,
    length: u64,
    sent: u64,
    state: Arc<UploadState>,
    progress: Box<dyn Fn(ByteCount) + Send + Sync>,
}

impl<R: AsyncRead + Send + Unpin> Pieces<R> {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        match self.read().await {
            Ok(None) => Ok(None),
            Ok(Some(piece)) => {
                self.sent += piece.len() as u64;
                self.state.sent.store(self.sent, Ordering::Relaxed);
                (self.progress)(ByteCount(self.sent));
                Ok(Some((piece, self)))
            }
            Err(error) => {
                // The connection only needs to break; the reason goes to the caller.
                let kind = error.kind();
                *self.state.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(kind.into())
            }
        }
    }

    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        let left = self.length - self.sent;
        if left == 0 {
            return Ok(None);
        }
        let mut piece = BytesMut::with_capacity(UPLOAD_PIECE);
        let read = (&mut self.source).take(left.min(UPLOAD_PIECE as u64)).read_buf(&mut piece).await?;
        if read == 0 {
            let message = format!("the source ends after {} of {} bytes", self.sent, self.length);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        // Looked at before the last piece is sent, so that an upload of a file that has grown is never complete.
        if read as u64 == left && self.source.read(&mut [0]).await? > 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the source goes on after the announced {} bytes", self.length),
            ));
        }
        Ok(Some(piece.freeze()))
    }
}
