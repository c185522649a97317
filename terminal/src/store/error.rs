//! What can go wrong on disk, in words that say what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use protocol::manifest::ManifestError;
use protocol::sealing::manifest::OpenError;
use protocol::{Bytes, ErrorCode};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is not enough room for {path}: {needed} more are needed, {available} are free")]
    NoRoom { path: PathBuf, needed: Bytes, available: Bytes },
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another process is receiving into {0}")]
    InUse(PathBuf),
    #[error("the manifest cannot be used")]
    Manifest(#[from] ManifestError),
    /// A chunk on disk is not what was stored: the file was changed, or the disk is failing.
    #[error("chunk {0} on disk is not what was stored")]
    Corrupt(u32),
    #[error("there is no chunk {0} in this edition, or not of that length")]
    NoSuchChunk(u32),
    /// Every chunk is as the manifest says, the whole is not: the manifest contradicts itself.
    #[error("the content does not have the hash that its manifest states")]
    WholeHash,
    #[error("the key that was given does not open the content")]
    WrongKey,
    /// Every chunk opens, and what they make up is not the edition that the release names.
    #[error("what the key opens is not what was released")]
    Unsealed(#[from] OpenError),
    /// The release was cancelled or aborted before its second, or nothing of it was for this terminal.
    #[error("the content stays sealed: the service gives no key for it ({0})")]
    NoKey(ErrorCode),
    #[error("{0} exists and holds something else")]
    Taken(PathBuf),
    #[error("the work on the files was stopped")]
    Stopped,
}

impl StoreError {
    /// Whether it may go away by itself: the disk is full, or somebody's quota on it is used up.
    #[must_use]
    pub fn is_full_for_now(&self) -> bool {
        let too_long = matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::FileTooLarge);
        self.is_full() && !too_long
    }

    /// Whether the disk is full (or a quota is used up, or the file system takes no file of this length).
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
            }
            Self::InUse(_)
            | Self::Manifest(_)
            | Self::Corrupt(_)
            | Self::NoSuchChunk(_)
            | Self::WholeHash
            | Self::WrongKey
            | Self::Unsealed(_)
            | Self::NoKey(_)
            | Self::Taken(_)
            | Self::Stopped => false,
        }
    }
}

/// Adds what was being done, and to what, to an error of the operating system.
pub(super) trait Doing<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|error| StoreError::Io { action, path: path.to_owned(), source: error.into() })
    }
}
