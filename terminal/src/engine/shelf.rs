//! What this terminal holds completely and serves: found on disk at the start, and grown with what is received. The server is told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::manifest::Manifest;
use protocol::ws::{ClientMessage, LIST_MAX};
use protocol::{EditionId, ReleaseId};

use crate::store::{Place, Store, StoreError};

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

    /// Forgets an edition that is about to be evicted, if it would be served from there.
    pub(super) fn forget(&self, (release, edition): Place) {
        if let Some(mut held) = self.held()
            && held.get(&edition) == Some(&release)
        {
            held.remove(&edition);
        }
    }

    /// Looks again at what lies in the folder, and adds what is not known; says whether the server is to be told.
    pub(super) async fn look_again(&self) -> bool {
        if self.held.is_none() {
            return false;
        }
        let found = Store::complete_editions(self.dir.clone()).await;
        let Some(mut held) = self.held() else { return false };
        let before = held.len();
        for (release, edition) in found {
            held.entry(edition).or_insert(release);
        }
        held.len() > before
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
    async fn x09_what_is_evicted_is_off_the_shelf_and_the_same_edition_by_another_release_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let release = |number: u8| ReleaseId::from_bytes([number; 16]);
        let complete = |number: u8, of: u16| {
            let state =
                folder.path().join(protocol::manifest::STATE_FOLDER).join(release(number).to_string()).join(edition(of).to_string());
            std::fs::create_dir_all(&state).unwrap();
            std::fs::write(state.join("complete"), "{}").unwrap();
            state
        };
        let (first, _, _) = (complete(1, 7), complete(2, 7), complete(1, 8));
        let shelf = Shelf::find(folder.path().to_owned(), true).await;
        shelf.forget((release(2), edition(7)));
        shelf.forget((release(1), edition(8)));
        assert_eq!(
            shelf.messages(),
            [ClientMessage::Holds { editions: vec![edition(7)], whole: true }],
            "the other one was not served from"
        );
        shelf.forget((release(1), edition(7)));
        assert!(shelf.open(edition(7)).await.unwrap().is_none());
        std::fs::remove_dir_all(first).unwrap();
        assert!(shelf.look_again().await && !shelf.look_again().await);
        assert_eq!(shelf.messages(), [ClientMessage::Holds { editions: vec![edition(7), edition(8)], whole: true }]);
    }

    #[tokio::test]
    async fn who_serves_nothing_says_so_whatever_it_receives() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::find(folder.path().to_owned(), false).await;
        assert!(!shelf.add(edition(1), ReleaseId::from_bytes([1; 16])));
        assert_eq!(shelf.messages(), [ClientMessage::Holds { editions: vec![], whole: true }]);
        assert!(shelf.open(edition(1)).await.unwrap().is_none());
        assert!(!shelf.look_again().await);
    }
}
