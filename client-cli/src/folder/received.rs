//! The folders that contents were received into: what lies there is not fetched again for another edition.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Folder, FolderLock, RECEIVED_FILE, file};
use crate::failure::Outcome;

/// Far more folders than anybody receives into; the oldest ones give way.
const FOLDERS_MAX: usize = 64;

/// Newest first.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Received {
    folders: Vec<PathBuf>,
}

impl Folder {
    /// Notes that contents go into `dir`. Answers the other folders that were noted before.
    pub(crate) fn note_received(&self, dir: &Path, _lock: &FolderLock) -> Outcome<Vec<PathBuf>> {
        let path = self.file(RECEIVED_FILE);
        let mut received: Received = file::read(&path, self.guard(), "remove it")?.unwrap_or_default();
        received.folders.retain(|folder| folder != dir);
        let others = received.folders.clone();
        received.folders.insert(0, dir.to_owned());
        received.folders.truncate(FOLDERS_MAX);
        file::write(&path, &received, self.guard())?;
        Ok(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn folders_are_remembered_once_each_and_the_oldest_gives_way() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::locate(Some(parent.path().to_owned())).unwrap();
        let lock = folder.lock().await.unwrap();
        let note = |dir: &str| folder.note_received(Path::new(dir), &lock).unwrap();
        assert!(note("/a").is_empty());
        assert_eq!(note("/b"), [Path::new("/a")]);
        assert_eq!(note("/a"), [Path::new("/b")]);
        assert_eq!(note("/c"), [Path::new("/a"), Path::new("/b")]);
        for index in 0..100 {
            note(&format!("/{index}"));
        }
        assert_eq!(note("/last").len(), FOLDERS_MAX);
    }
}
