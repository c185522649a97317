//! Contents, the announcement of an upload, and the way from its bytes to an edition.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use protocol::manifest::{CHUNKS_MAX, FILES_MAX, FileEntry, Manifest, ManifestError, check_layout};
use protocol::rest::{Content, Edition, NewUpload, Upload, UploadFile};
use protocol::units::JSON_INTEGER_MAX;
use protocol::{ContentId, ErrorCode, UploadId, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::app::checks::Checks;
use crate::error::ApiError;
use crate::origin::cutter::FIXED;
use crate::origin::upload::{Ingest, IngestError, Ingested};
use crate::state::AppState;
use crate::store::contents::AnnouncedUpload;

/// The longest edition: what fits the most chunks of fixed length.
pub const EDITION_MAX: u64 = CHUNKS_MAX as u64 * FIXED as u64;
/// How long an upload may send nothing before it is given up.
const IDLE_MAX: Duration = Duration::from_secs(60);

pub async fn create(state: &AppState, publisher: UserId, title: String, now: OffsetDateTime) -> Result<Content, ApiError> {
    let content = Content { id: ContentId(Uuid::now_v7()), publisher_id: publisher, title, editions: Vec::new(), created_at: now };
    state.store.create_content(&content).await?;
    Ok(content)
}

/// Notes what will be uploaded.
pub async fn announce(
    state: &AppState,
    publisher: UserId,
    content_id: ContentId,
    new: NewUpload,
    now: OffsetDateTime,
) -> Result<Upload, ApiError> {
    let length = checked_length(&new)?;
    let upload = AnnouncedUpload {
        id: UploadId(Uuid::now_v7()),
        content_id,
        label: new.label,
        directory: new.directory,
        chunking: new.chunking,
        files: new.files,
        length: protocol::Bytes(length),
        created_at: now,
    };
    let answer = Upload { id: upload.id, content_id, label: upload.label.clone(), length: upload.length };
    let store = state.store.clone();
    state.to_the_end(async move { store.create_upload(publisher, &upload).await }).await?;
    Ok(answer)
}

/// Checks an announcement; returns the sum of its files.
fn checked_length(new: &NewUpload) -> Result<u64, ApiError> {
    let mut checks = Checks::default();
    checks.text("/label", &new.label, 1..=64);
    checks.count("/files", new.files.len() as u64, 1..=FILES_MAX as u64);
    checks.ensure(new.directory || new.files.len() <= 1, "/files", "an edition that is not a directory has exactly one file");
    checks.done()?;
    check_layout(&layout(&new.files)).map_err(|error| layout_fault(&new.files, &error))?;
    let length = new.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.length.0)).unwrap_or(JSON_INTEGER_MAX);
    if length == 0 {
        return Err(ApiError::new(ErrorCode::EmptyEdition).at("/files", "the files add up to 0 bytes"));
    }
    if length > EDITION_MAX {
        return Err(ApiError::invalid("/files", format!("the files add up to more than {EDITION_MAX} bytes")));
    }
    Ok(length)
}

fn layout(files: &[UploadFile]) -> Vec<FileEntry> {
    files.iter().map(|file| FileEntry { path: file.path.clone(), length: file.length, executable: file.executable }).collect()
}

/// Points at the file whose path is at fault: of two that are equal, at the second.
fn layout_fault(files: &[UploadFile], error: &ManifestError) -> ApiError {
    let index = match error {
        ManifestError::Path(path) => files.iter().position(|file| file.path == *path),
        ManifestError::DuplicatePath(path) => files.iter().rposition(|file| file.path == *path),
        ManifestError::Decode(_)
        | ManifestError::Empty
        | ManifestError::Length { .. }
        | ManifestError::ChunkLength(_)
        | ManifestError::TooMany(_) => None,
    };
    let pointer = index.map_or_else(|| "/files".to_owned(), |index| format!("/files/{index}/path"));
    ApiError::invalid(pointer, error.to_string())
}

/// The publisher's announced upload.
pub async fn find_upload(state: &AppState, publisher: UserId, id: UploadId) -> Result<AnnouncedUpload, ApiError> {
    state.store.upload(publisher, id).await?.ok_or_else(|| ApiError::not_found().detail("There is no such upload, or it is finished."))
}

/// Takes the bytes in and makes the edition. If the client leaves or says something else than it announced, there is no edition, and the upload
/// may be tried again.
pub async fn receive<E: Display>(
    state: &AppState,
    upload: AnnouncedUpload,
    bytes: impl Stream<Item = Result<Bytes, E>>,
    now: OffsetDateTime,
) -> Result<Edition, ApiError> {
    let mut ingest = Ingest::new(state.chunks.clone(), upload.chunking, upload.length.0);
    let mut bytes = std::pin::pin!(bytes);
    while let Some(piece) = tokio::time::timeout(IDLE_MAX, bytes.next()).await.map_err(|_| interrupted("nothing came for a minute"))? {
        let piece = piece.map_err(|error| interrupted(&error.to_string()))?;
        ingest.push(&piece).await.map_err(refusal)?;
    }
    let ingested = ingest.finish().await.map_err(refusal)?;
    let own = state.clone();
    state.to_the_end(async move { publish(&own, upload, ingested, now).await }).await
}

/// The manifest first: an edition that the database knows must be there to be read.
async fn publish(state: &AppState, upload: AnnouncedUpload, ingested: Ingested, now: OffsetDateTime) -> Result<Edition, ApiError> {
    let manifest = Manifest {
        directory: upload.directory,
        length: upload.length,
        blake3: ingested.blake3,
        files: layout(&upload.files),
        chunks: ingested.chunks,
    };
    let id = state.chunks.put_manifest(&manifest).await?;
    let edition = Edition {
        id,
        label: upload.label,
        directory: upload.directory,
        length: upload.length,
        chunks: manifest.chunk_count(),
        blake3: ingested.blake3,
        created_at: now,
    };
    state.store.finish_upload(upload.id, &edition).await?;
    Ok(edition)
}

fn interrupted(why: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest).detail(format!("The upload was interrupted: {why}. It can be tried again."))
}

fn refusal(error: IngestError) -> ApiError {
    match error {
        IngestError::TooLong { .. } | IngestError::TooShort { .. } | IngestError::TooManyChunks => {
            ApiError::new(ErrorCode::InvalidRequest).detail(format!("{error}; no edition was made"))
        }
        IngestError::Store(error) => error.into(),
        IngestError::Writer(error) => ApiError::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths and lengths.
    type Files = &'static [(&'static str, u64)];

    fn upload(directory: bool, files: Files) -> NewUpload {
        let files = files
            .iter()
            .map(|(path, length)| UploadFile { path: (*path).to_owned(), length: protocol::Bytes(*length), executable: false })
            .collect();
        NewUpload { label: "en".to_owned(), directory, chunking: Default::default(), files }
    }

    #[test]
    fn the_length_is_the_sum_of_the_files() {
        assert_eq!(checked_length(&upload(true, &[("a", 1), ("b/c", 2), ("b/d", 0)])).unwrap(), 3);
    }

    #[test]
    fn each_bad_layout_is_refused_with_its_pointer() {
        let cases: [(bool, Files, &str); 8] = [
            (true, &[], "/files"),
            (false, &[("a", 1), ("b", 1)], "/files"),
            (true, &[("a", 1), ("../b", 1)], "/files/1/path"),
            (true, &[("/a", 1)], "/files/0/path"),
            (true, &[("a", 1), ("b", 1), ("a", 1)], "/files/2/path"),
            (true, &[("a", 1), ("a/b", 1)], "/files/0/path"),
            (true, &[("a", JSON_INTEGER_MAX), ("b", JSON_INTEGER_MAX)], "/files"),
            (false, &[("a", EDITION_MAX + 1)], "/files"),
        ];
        for (directory, files, pointer) in cases {
            let error = checked_length(&upload(directory, files)).unwrap_err();
            assert_eq!((error.code, error.errors[0].pointer.as_str()), (ErrorCode::InvalidRequest, pointer), "{files:?}");
        }
    }

    #[test]
    fn an_edition_without_a_byte_is_refused() {
        let error = checked_length(&upload(true, &[("a", 0), ("b", 0)])).unwrap_err();
        assert_eq!(error.code, ErrorCode::EmptyEdition);
    }
}
