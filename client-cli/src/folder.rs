//! The configuration folder: who is logged in where, and this terminal's key.
//!
//! ```text
//! account.json    server, user, tokens         mode 0600, replaced as a whole
//! terminal.json   terminal id, name, secret    mode 0600, written before the key is registered
//! received.json   folders that contents went into
//! lock            held while one of them is being changed
//! run.lock        held by `run`, with its process id
//! ```
//!
//! A kit's folder has a [`Vault`]: the three files are locked by it there and end in `.locked`, and beside them lie those of [`kit`].
//!
//! Several processes may share a folder (a `run` and a `wallet` beside it): they read without the lock, and take it around every change, because a
//! refresh token is good for one use only.

mod claim;
mod file;
mod kit;
mod received;
mod vault;

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::ws::Capabilities;
use protocol::{Bytes, TerminalId, TerminalKey, UserId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::failure::{Failure, Outcome, while_doing};
use file::Guard;

pub(crate) use claim::RunClaim;
pub(crate) use kit::{KitState, Moved, SyncLock};
pub(crate) use vault::Vault;

const ACCOUNT_FILE: &str = "account.json";
const TERMINAL_FILE: &str = "terminal.json";
const RECEIVED_FILE: &str = "received.json";
const LOCK_FILE: &str = "lock";
const RUN_FILE: &str = "run.lock";

/// Who is logged in, and with which tokens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub server: String,
    pub email: String,
    pub user_id: UserId,
    pub access_token: String,
    /// By this machine's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub access_expires_at: OffsetDateTime,
    pub refresh_token: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("server", &self.server).field("email", &self.email).finish_non_exhaustive()
    }
}

/// This terminal. It belongs to one user of one server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TerminalFile {
    pub server: String,
    pub user_id: UserId,
    pub name: String,
    /// None until the server has answered: the key is kept first, so that no registered key is ever lost.
    pub id: Option<TerminalId>,
    /// The rates that were stated for this machine, which `run` goes by unless told otherwise; 0 is not known. The server's figures are those of the
    /// last run. Absent in files of earlier versions.
    #[serde(default)]
    pub capabilities: Option<Capabilities>,
    /// The most that received editions may take up in the folder that they go to; 0 and nothing are no quota.
    #[serde(default)]
    pub store_quota: Option<Bytes>,
    #[serde(with = "hex::serde")]
    secret: [u8; 32],
}

impl std::fmt::Debug for TerminalFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TerminalFile").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl TerminalFile {
    pub(crate) fn new(server: String, user_id: UserId, name: String, key: &TerminalKey) -> Self {
        Self { server, user_id, name, id: None, capabilities: None, store_quota: None, secret: key.secret() }
    }

    pub(crate) fn key(&self) -> TerminalKey {
        TerminalKey::from_secret(&self.secret)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    vault: Option<Arc<Vault>>,
}

/// The right to change the folder's files, until it is dropped.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl Folder {
    /// The folder that was asked for, or the platform's: `~/.config/spillway` on Linux. It is created when something is written.
    pub(crate) fn locate(asked: Option<PathBuf>) -> Outcome<Self> {
        let path = match asked {
            Some(path) => path,
            None => directories::ProjectDirs::from("", "", "spillway")
                .map(|dirs| dirs.config_dir().to_owned())
                .ok_or_else(|| Failure::Failed("there is no home directory for the configuration: give --config DIR".into()))?,
        };
        Ok(Self { path, vault: None })
    }

    /// Where a file lies.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        if self.vault.is_some() { path.with_extension("locked") } else { path }
    }

    fn guard(&self) -> Guard<'_> {
        self.vault.as_deref().map_or(Guard::Mode, Guard::Locked)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn account(&self) -> Outcome<Option<Account>> {
        file::read(&self.file(ACCOUNT_FILE), self.guard(), "log in again with `spillway login`")
    }

    pub(crate) fn terminal(&self) -> Outcome<Option<TerminalFile>> {
        let remedy = match self.vault {
            None => "restore it from a copy, or remove it to register this machine as a new terminal",
            Some(_) => "make a new kit with `spillway kit create`",
        };
        file::read(&self.file(TERMINAL_FILE), self.guard(), remedy)
    }

    pub(crate) fn write_account(&self, account: &Account, _lock: &FolderLock) -> Outcome<()> {
        file::write(&self.file(ACCOUNT_FILE), account, self.guard())
    }

    /// Forgets the login; the terminal's key stays.
    pub(crate) fn remove_account(&self, _lock: &FolderLock) -> Outcome<()> {
        file::remove(&self.file(ACCOUNT_FILE))
    }

    /// The right to run this folder's terminal; refused while another process has it. The folder must exist.
    pub(crate) fn claim_run(&self) -> Outcome<RunClaim> {
        RunClaim::take(&self.path.join(RUN_FILE))
    }

    pub(crate) fn write_terminal(&self, terminal: &TerminalFile, _lock: &FolderLock) -> Outcome<()> {
        file::write(&self.file(TERMINAL_FILE), terminal, self.guard())
    }

    /// Waits until no other process is changing the folder. Creates the folder.
    pub(crate) async fn lock(&self) -> Outcome<FolderLock> {
        self.lock_file(LOCK_FILE).await
    }

    async fn lock_file(&self, name: &str) -> Outcome<FolderLock> {
        let (path, lock) = (self.path.clone(), self.path.join(name));
        let locking = tokio::task::spawn_blocking(move || {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(while_doing(format_args!("cannot create the configuration folder {}", path.display())))?;
            let describe = |lock: &Path| format!("cannot lock {}", lock.display());
            let file =
                File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock).map_err(while_doing(describe(&lock)))?;
            file.lock().map_err(while_doing(describe(&lock)))?;
            Ok(FolderLock { _file: file })
        });
        locking.await.map_err(|error| Failure::Failed(format!("cannot lock the configuration folder: {error}")))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;
    use time::macros::datetime;

    fn account(access_token: &str) -> Account {
        Account {
            server: "https://s.example".into(),
            email: "a@b.example".into(),
            user_id: UserId::from_bytes([1; 16]),
            access_token: access_token.into(),
            access_expires_at: datetime!(2026-11-21 12:00 UTC),
            refresh_token: "refresh-secret".into(),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn what_is_written_is_read_back_and_nobody_else_may_read_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::locate(Some(parent.path().join("new/folder"))).unwrap();
        assert_eq!(folder.account().unwrap(), None);
        assert_eq!(folder.terminal().unwrap(), None);
        let lock = folder.lock().await.unwrap();
        let key = TerminalKey::from_secret(&[9; 32]);
        let terminal = TerminalFile::new("https://s.example".into(), UserId::from_bytes([1; 16]), "tv".into(), &key);
        folder.write_account(&account("one"), &lock).unwrap();
        folder.write_account(&account("two"), &lock).unwrap();
        folder.write_terminal(&terminal, &lock).unwrap();
        assert_eq!(folder.account().unwrap(), Some(account("two")));
        let read = folder.terminal().unwrap().unwrap();
        assert_eq!(read, terminal);
        assert_eq!(read.key().public(), key.public());
        assert_eq!(mode(folder.path()), 0o700);
        let names: Vec<String> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(names.len(), 3, "no temporary file is left: {names:?}");
        for name in names {
            assert_eq!(mode(&folder.path().join(&name)), 0o600, "{name}");
        }
    }

    #[tokio::test]
    async fn a_key_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::locate(Some(parent.path().to_owned())).unwrap();
        let lock = folder.lock().await.unwrap();
        folder.write_account(&account("one"), &lock).unwrap();
        let path = folder.path().join(ACCOUNT_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = folder.account().unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("chmod 600"), "{error}");
        folder.write_account(&account("two"), &lock).unwrap();
        assert_eq!(mode(&path), 0o600, "writing mends it as well");
    }

    #[tokio::test]
    async fn a_damaged_file_is_named_and_never_taken_for_a_missing_one() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::locate(Some(parent.path().to_owned())).unwrap();
        let path = folder.path().join(TERMINAL_FILE);
        for bad in ["", "{", "[]", r#"{"server":"x"}"#] {
            fs::write(&path, bad).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = folder.terminal().unwrap_err().to_string();
            assert!(error.contains("terminal.json") && error.contains("restore it"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_login_that_is_forgotten_leaves_the_terminal() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::locate(Some(parent.path().to_owned())).unwrap();
        let lock = folder.lock().await.unwrap();
        let terminal = TerminalFile::new("s".into(), UserId::from_bytes([1; 16]), "tv".into(), &TerminalKey::from_secret(&[9; 32]));
        folder.write_account(&account("one"), &lock).unwrap();
        folder.write_terminal(&terminal, &lock).unwrap();
        folder.remove_account(&lock).unwrap();
        assert_eq!((folder.account().unwrap(), folder.terminal().unwrap()), (None, Some(terminal)));
        folder.remove_account(&lock).unwrap();
    }

    #[test]
    fn a_terminal_of_an_earlier_version_has_no_rates_and_no_quota_of_its_own() {
        let text =
            format!(r#"{{"server":"s","user_id":"{}","name":"tv","id":null,"secret":"{}"}}"#, UserId::from_bytes([1; 16]), "09".repeat(32));
        let file = serde_json::from_str::<TerminalFile>(&text).unwrap();
        assert_eq!((file.capabilities, file.store_quota), (None, None));
    }

    #[tokio::test]
    async fn a_second_holder_of_the_lock_waits_for_the_first() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::locate(Some(parent.path().to_owned())).unwrap();
        let first = folder.lock().await.unwrap();
        let second = folder.lock();
        tokio::pin!(second);
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut second).await.is_err(), "both hold the lock");
        drop(first);
        tokio::time::timeout(Duration::from_secs(5), second).await.unwrap().unwrap();
    }

    #[test]
    fn secrets_do_not_appear_in_debug_output() {
        let terminal = TerminalFile::new("s".into(), UserId::from_bytes([1; 16]), "tv".into(), &TerminalKey::from_secret(&[9; 32]));
        let shown = format!("{:?} {terminal:?}", account("access-secret"));
        assert!(!shown.contains("secret") && !shown.contains("0909"), "{shown}");
    }
}
