//! Contents, uploads and editions.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::ids::*;
use crate::units::Bytes;

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewContent {
    #[schema(min_length = 1, max_length = 200, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub title: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Content {
    pub id: ContentId,
    pub publisher_id: UserId,
    pub title: String,
    pub editions: Vec<Edition>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// How an edition's bytes are cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Chunking {
    /// FastCDC with 16/64/128 KiB minimum/average/maximum: a new version shares chunks with the old one.
    #[default]
    ContentDefined,
    /// 64 KiB each.
    Fixed,
}

/// One file of an edition, in the order of the byte stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadFile {
    /// Relative, `/` between names.
    #[schema(min_length = 1, max_length = 1024)]
    pub path: String,
    pub length: Bytes,
    #[serde(default)]
    pub executable: bool,
}

/// Announces an edition. The bytes follow with `PUT /v1/uploads/{id}`: all files one after the other, in this order.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUpload {
    /// The edition's name within its content, such as a language.
    #[schema(min_length = 1, max_length = 64, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    pub label: String,
    /// Whether the edition is a directory; else `files` has exactly one entry.
    #[serde(default)]
    pub directory: bool,
    #[serde(default)]
    pub chunking: Chunking,
    #[schema(min_items = 1, max_items = 100_000)]
    pub files: Vec<UploadFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Upload {
    pub id: UploadId,
    pub content_id: ContentId,
    pub label: String,
    /// The number of bytes that must follow.
    pub length: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Edition {
    /// The BLAKE3 hash of the manifest.
    pub id: EditionId,
    pub label: String,
    pub directory: bool,
    pub length: Bytes,
    pub chunks: u32,
    /// Of the whole byte stream; for a single file the file's own hash.
    pub blake3: Blake3,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}
