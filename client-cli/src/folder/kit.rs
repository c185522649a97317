//! What a kit's folder, its rewritable area, has beside an ordinary one's files.
//!
//! ```text
//! vault.json       the vault's key, locked by the passphrase
//! state.locked     how far the kit is in its chain of balance statements, and whom it believes
//! statement.json   the last statement, as the service signed it
//! history.json     what was received and relayed
//! sync.lock        held while the next statement is being asked for
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::rest::{Password, SignedStatement};
use protocol::{Amount, AttemptId, Blake3, Bytes, EditionId, KitId, PublicKey, ReleaseId, SwarmId, TerminalId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::file::{self, Guard};
use super::vault::LockedVault;
use super::{Folder, FolderLock, Vault};
use crate::failure::{Failure, Outcome};

const VAULT_FILE: &str = "vault.json";
const STATE_FILE: &str = "state.json";
const STATEMENT_FILE: &str = "statement.json";
const HISTORY_FILE: &str = "history.json";
const SYNC_FILE: &str = "sync.lock";
const REMEDY: &str = "make a new kit with `spillway kit create`; the credit is the account's, and none is lost";

/// Years of releases; the oldest lines give way.
const HISTORY_MAX: usize = 1000;

/// What the kit knows for sure, because nobody without the passphrase could write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KitState {
    pub kit_id: KitId,
    pub terminal_id: TerminalId,
    /// The service's, for everything that is signed for kits.
    pub public_key: PublicKey,
    /// Of the last statement.
    pub sequence: u64,
    pub hash: Blake3,
    /// Of a request for the next one whose answer has not come.
    pub attempt: Option<AttemptId>,
    /// The service has refused it for good.
    pub forked: bool,
}

/// What came and went in one swarm. It is the kit's own note; what it cost is what the service said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    pub swarm_id: SwarmId,
    pub release_id: ReleaseId,
    pub edition_id: EditionId,
    /// The content's title and the edition's label.
    pub name: Option<String>,
    pub received: Bytes,
    pub relayed: Bytes,
    /// In the smallest unit of the service's currency; absent until it is settled.
    pub charged: Option<Amount>,
    pub earned: Amount,
    /// Of the last change.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// Newest first.
#[derive(Debug, Default, Serialize, Deserialize)]
struct History {
    moved: Vec<Moved>,
}

/// The right to ask for the next statement, until it is dropped. Not the folder's lock, which a renewal of the login takes in between.
#[derive(Debug)]
pub(crate) struct SyncLock {
    _lock: FolderLock,
}

impl Folder {
    /// A new rewritable area in a directory that is there, locked by a passphrase.
    pub(crate) fn new_kit(path: PathBuf, passphrase: &Password) -> Outcome<Self> {
        let vault = Vault::new()?;
        file::write(&path.join(VAULT_FILE), &vault.locked(passphrase)?, Guard::Open)?;
        Ok(Self { path, vault: Some(Arc::new(vault)) })
    }

    /// The rewritable area of a kit, opened by its passphrase.
    pub(crate) fn open_kit(path: PathBuf, passphrase: &Password) -> Outcome<Self> {
        let vault = locked_vault(&path)?.open(passphrase)?;
        Ok(Self { path, vault: Some(Arc::new(vault)) })
    }

    /// Another passphrase from now on.
    pub(crate) fn lock_with(&self, passphrase: &Password, _lock: &FolderLock) -> Outcome<()> {
        let vault = self.vault.as_deref().ok_or_else(|| Failure::Usage("only a kit has a passphrase: give it with --kit DIR".into()))?;
        file::write(&self.path.join(VAULT_FILE), &vault.locked(passphrase)?, Guard::Open)
    }

    pub(crate) async fn lock_sync(&self) -> Outcome<SyncLock> {
        Ok(SyncLock { _lock: self.lock_file(SYNC_FILE).await? })
    }

    pub(crate) fn kit_state(&self) -> Outcome<KitState> {
        let path = self.file(STATE_FILE);
        file::read(&path, self.guard(), REMEDY)?.ok_or_else(|| missing(&path))
    }

    pub(crate) fn write_kit_state(&self, state: &KitState, _lock: &SyncLock) -> Outcome<()> {
        file::write(&self.file(STATE_FILE), state, self.guard())
    }

    /// Whatever lies there: it is no secret, and anybody could have written it. A file that cannot be read as a statement is none.
    pub(crate) fn statement(&self) -> Option<SignedStatement> {
        file::read(&self.path.join(STATEMENT_FILE), Guard::Open, REMEDY).ok().flatten()
    }

    pub(crate) fn write_statement(&self, statement: &SignedStatement, _lock: &SyncLock) -> Outcome<()> {
        file::write(&self.path.join(STATEMENT_FILE), statement, Guard::Open)
    }

    /// Newest first.
    pub(crate) fn history(&self) -> Outcome<Vec<Moved>> {
        let history: History = file::read(&self.path.join(HISTORY_FILE), Guard::Open, "remove it")?.unwrap_or_default();
        Ok(history.moved)
    }

    /// Puts these lines into the history, in place of those of the same swarms.
    pub(crate) fn note_moved(&self, news: &[Moved], _lock: &FolderLock) -> Outcome<()> {
        let mut moved = self.history()?;
        moved.retain(|line| news.iter().all(|new| new.swarm_id != line.swarm_id));
        moved.extend(news.iter().cloned());
        moved.sort_by_key(|line| std::cmp::Reverse(line.at));
        moved.truncate(HISTORY_MAX);
        file::write(&self.path.join(HISTORY_FILE), &History { moved }, Guard::Open)
    }
}

fn locked_vault(path: &Path) -> Outcome<LockedVault> {
    let path = path.join(VAULT_FILE);
    file::read(&path, Guard::Open, REMEDY)?.ok_or_else(|| missing(&path))
}

fn missing(path: &Path) -> Failure {
    Failure::Failed(format!("there is no {}: is this the folder of a kit? If it was one, {REMEDY}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::{Account, TerminalFile};
    use protocol::{TerminalKey, UserId};
    use time::macros::datetime;

    fn passphrase() -> Password {
        Password("open sesame".into())
    }

    #[tokio::test]
    async fn a05_nothing_that_is_secret_lies_open_in_a_kit_and_it_is_there_again_behind_the_passphrase() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new_kit(parent.path().to_owned(), &passphrase()).unwrap();
        let account = Account {
            server: "https://s.example".into(),
            email: "a@b.example".into(),
            user_id: UserId::from_bytes([1; 16]),
            access_token: "access-secret".into(),
            access_expires_at: datetime!(2026-11-21 12:00 UTC),
            refresh_token: "refresh-secret".into(),
        };
        let terminal = TerminalFile::new("s".into(), account.user_id, "kit".into(), &TerminalKey::from_secret(&[9; 32]));
        let lock = folder.lock().await.unwrap();
        folder.write_account(&account, &lock).unwrap();
        folder.write_terminal(&terminal, &lock).unwrap();
        folder.note_received(Path::new("/secret/place"), &lock).unwrap();
        for entry in std::fs::read_dir(parent.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("secret") && !text.contains("0909") && !text.contains("a@b"), "{text}");
        }
        let again = Folder::open_kit(parent.path().to_owned(), &passphrase()).unwrap();
        assert_eq!((again.account().unwrap(), again.terminal().unwrap()), (Some(account), Some(terminal)));
        assert_eq!(again.note_received(Path::new("/other"), &lock).unwrap(), [Path::new("/secret/place")]);
        assert!(Folder::open_kit(parent.path().to_owned(), &Password("guess".into())).is_err());
        assert!(Folder::open_kit(parent.path().join("nowhere"), &passphrase()).unwrap_err().to_string().contains("vault.json"));
    }

    #[tokio::test]
    async fn a05_another_passphrase_opens_the_same_kit_from_then_on() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new_kit(parent.path().to_owned(), &passphrase()).unwrap();
        let lock = folder.lock().await.unwrap();
        folder.note_received(Path::new("/place"), &lock).unwrap();
        folder.lock_with(&Password("another one".into()), &lock).unwrap();
        assert!(Folder::open_kit(parent.path().to_owned(), &passphrase()).is_err());
        let again = Folder::open_kit(parent.path().to_owned(), &Password("another one".into())).unwrap();
        assert_eq!(again.note_received(Path::new("/other"), &lock).unwrap(), [Path::new("/place")]);
    }

    #[tokio::test]
    async fn a20_the_history_has_one_line_for_a_swarm_and_the_newest_first() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new_kit(parent.path().to_owned(), &passphrase()).unwrap();
        let lock = folder.lock().await.unwrap();
        let moved = |swarm: u8, earned: u64, second: i64| Moved {
            swarm_id: SwarmId::from_bytes([swarm; 16]),
            release_id: ReleaseId::from_bytes([1; 16]),
            edition_id: EditionId([2; 32]),
            name: None,
            received: Bytes(5),
            relayed: Bytes(7),
            charged: Some(Amount(3)),
            earned: Amount(earned),
            at: datetime!(2026-11-24 12:00 UTC) + time::Duration::seconds(second),
        };
        folder.note_moved(&[moved(1, 0, 1), moved(2, 0, 2)], &lock).unwrap();
        folder.note_moved(&[moved(1, 9, 3)], &lock).unwrap();
        assert_eq!(folder.history().unwrap(), [moved(1, 9, 3), moved(2, 0, 2)]);
    }
}
