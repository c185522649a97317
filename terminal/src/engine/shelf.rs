//! What this terminal holds completely and serves: found on disk at the start, and grown with what is received. The server is told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::manifest::Manifest;
use protocol::ws::{ClientMessage, LIST_MAX};
use protocol::{EditionId, ReleaseId};

use crate::store::{Store, StoreError};

/// Complete editions by the release that each came by.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    dir: PathBuf,
    /// None while nothing is to be served.
    held: Option<Mutex<BTreeMap<EditionId, ReleaseId>>>,
}

impl Shelf {
    /// What lies in `dir`, if any of it is to be served.
    pub(super) async fn find(dir: PathBuf, serve: bool) -> Self {
        if !serve {
            return Self { dir, held: None };
        }
        let found = Store::complete_editions(dir.clone()).await;
        let held = found.into_iter().map(|(release, edition)| (edition, release)).collect();
        Self { dir, held: Some(Mutex::new(held)) }
    }

    fn held(&self) -> Option<MutexGuard<'_, BTreeMap<EditionId, ReleaseId>>> {
        self.held.as_ref().map(|held| held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes an edition that is complete now; says whether that is news to the server.
    pub(super) fn add(&self, edition: EditionId, release: ReleaseId) -> bool {
        self.held().is_some_and(|mut held| held.insert(edition, release).is_none())
    }

    /// Forgets an edition whose files have changed; says whether the server is to be told.
    pub(super) fn remove(&self, edition: EditionId) -> bool {
        self.held().is_some_and(|mut held| held.remove(&edition).is_some())
    }

    /// What the server is told: everything, in as many messages as it takes. One that says that there is nothing, too: it may know of an earlier run's.
    pub(super) fn messages(&self) -> Vec<ClientMessage> {
        let editions: Vec<EditionId> = self.held().map(|held| held.keys().copied().collect()).unwrap_or_default();
        if editions.is_empty() {
            return vec![ClientMessage::Holds { editions, whole: true }];
        }
        let parts = editions.chunks(LIST_MAX).enumerate();
        parts.map(|(index, part)| ClientMessage::Holds { editions: part.to_vec(), whole: index == 0 }).collect()
    }

    /// Opens an edition to serve it; `None` if it is not here any more.
    pub(super) async fn open(&self, edition: EditionId) -> Result<Option<(Store, Arc<Manifest>)>, StoreError> {
        let release = self.held().and_then(|held| held.get(&edition).copied());
        match release {
            Some(release) => Store::open_complete(self.dir.clone(), release, edition).await,
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edition(number: u16) -> EditionId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        EditionId(id)
    }

    #[tokio::test]
    async fn a22_everything_that_is_held_is_told_in_messages_that_the_server_takes() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::find(folder.path().to_owned(), true).await;
        let release = ReleaseId::from_bytes([1; 16]);
        assert_eq!(shelf.messages(), [ClientMessage::Holds { editions: vec![], whole: true }], "that there is nothing is said as well");
        for number in 0..1_000 {
            assert!(shelf.add(edition(number), release));
        }
        assert!(!shelf.add(edition(0), release), "no news");
        let told: Vec<(usize, bool)> = shelf
            .messages()
            .iter()
            .map(|message| {
                let ClientMessage::Holds { editions, whole } = message else { panic!("{message:?}") };
                (editions.len(), *whole)
            })
            .collect();
        assert_eq!(told, [(LIST_MAX, true), (1_000 - LIST_MAX, false)]);
        assert!(shelf.remove(edition(7)) && !shelf.remove(edition(7)));
    }

    #[tokio::test]
    async fn who_serves_nothing_says_so_whatever_it_receives() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::find(folder.path().to_owned(), false).await;
        assert!(!shelf.add(edition(1), ReleaseId::from_bytes([1; 16])));
        assert_eq!(shelf.messages(), [ClientMessage::Holds { editions: vec![], whole: true }]);
        assert!(shelf.open(edition(1)).await.unwrap().is_none());
    }
}
