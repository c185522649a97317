//! A kit that is being made: beside its place until it is whole, and gone if it never is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use protocol::rest::{Kit as Registered, NewKit, Password};
use terminal::api::Api;

use super::area::{self, Identity};
use super::{READ_ONLY, REWRITABLE};
use crate::failure::{Failure, Outcome, while_doing};
use crate::folder::{Folder, KitState};

const DRAFT: &str = ".kit.new";

#[derive(Debug)]
pub(crate) struct Draft {
    dir: PathBuf,
}

impl Draft {
    /// Begins in a directory, which is made if it is not there. What an interrupted attempt has left is removed.
    pub(crate) fn begin(dir: &Path) -> Outcome<Self> {
        for area in [READ_ONLY, REWRITABLE] {
            let taken = dir.join(area);
            if taken.symlink_metadata().is_ok() {
                return Err(Failure::Usage(format!("{} is there already: give another directory, or remove it", taken.display())));
            }
        }
        let draft = dir.join(DRAFT);
        let made = || -> io::Result<()> {
            if draft.symlink_metadata().is_ok() {
                fs::remove_dir_all(&draft)?;
            }
            fs::create_dir_all(draft.join(READ_ONLY))?;
            fs::create_dir_all(draft.join(REWRITABLE))
        };
        made().map_err(while_doing(format_args!("cannot make a kit in {}", dir.display())))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The rewritable area, locked by the passphrase.
    pub(crate) fn folder(&self, passphrase: &Password) -> Outcome<Folder> {
        Folder::new_kit(self.area(REWRITABLE), passphrase)
    }

    /// Fills both areas, has the service sign them, and puts them into their place.
    pub(crate) async fn finish(self, api: &Api, identity: &Identity, program: &Path, folder: &Folder) -> Outcome<Registered> {
        let read_only = self.area(READ_ONLY);
        let files = area::make(&read_only, identity, program)?;
        let kit = api.create_kit(identity.terminal_id, &NewKit { id: identity.kit_id, files }).await?;
        area::sign(&read_only, &kit)?;
        let statement = &kit.statement;
        let state = KitState {
            kit_id: kit.id,
            terminal_id: kit.terminal_id,
            public_key: kit.public_key,
            sequence: statement.statement.sequence,
            hash: statement.statement.hash(),
            attempt: None,
            forked: false,
        };
        if !statement.is_genuine(&kit.public_key) {
            return Err(Failure::Unavailable("the server's balance statement is not signed with the key that it gave".into()));
        }
        // As every later command will.
        area::checked(&read_only, &state)?;
        let lock = folder.lock_sync().await?;
        folder.write_statement(statement, &lock)?;
        folder.write_kit_state(&state, &lock)?;
        let placed = || -> io::Result<()> {
            File::open(&read_only)?.sync_all()?;
            // A kit without a read-only area is none, so that this order leaves no half of one.
            for area in [REWRITABLE, READ_ONLY] {
                fs::rename(self.area(area), self.dir.join(area))?;
            }
            File::open(&self.dir)?.sync_all()
        };
        placed().map_err(while_doing(format_args!("cannot put the kit into {}", self.dir.display())))?;
        Ok(kit)
    }

    fn area(&self, name: &str) -> PathBuf {
        self.dir.join(DRAFT).join(name)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Empty if the kit was finished. What cannot be removed now is removed by the next attempt.
        let _ = fs::remove_dir_all(self.dir.join(DRAFT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a05_an_attempt_that_is_given_up_leaves_nothing_and_one_that_was_cut_off_is_in_nobodys_way() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("stick");
        let draft = Draft::begin(&dir).unwrap();
        draft.folder(&Password("open sesame".into())).unwrap();
        assert!(dir.join(DRAFT).join(REWRITABLE).join("vault.json").is_file());
        std::mem::forget(draft);
        drop(Draft::begin(&dir).unwrap());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn a05_a_directory_that_has_a_kit_is_left_alone() {
        for area in [READ_ONLY, REWRITABLE] {
            let parent = tempfile::tempdir().unwrap();
            fs::create_dir(parent.path().join(area)).unwrap();
            let failure = Draft::begin(parent.path()).unwrap_err();
            assert_eq!(failure.exit_code(), 2);
            assert!(failure.to_string().contains(area), "{failure}");
            assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        }
    }
}
