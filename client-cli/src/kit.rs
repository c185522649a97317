//! The kit: a terminal that is carried on a stick. A directory with two areas:
//!
//! ```text
//! DIR/read-only/     the program, the service's identity and key, the signed list of these files ([`area`]); never written again
//! DIR/rewritable/    settings and keys behind a passphrase, the signed balance, the history ([`crate::folder::Folder`] with a vault)
//! ```
//!
//! The money itself lies at the service. What the kit carries of it is a chain of statements, each signed and naming the one before ([`balance`]): an edited one
//! is not genuine, one that was put back is behind what the locked state remembers, and of two copies of a kit the second one to ask for its next statement is
//! found out by the service, which refuses both from then on.

mod area;
mod balance;
mod creation;
mod following;
mod history;

use std::path::{Path, PathBuf};

use protocol::rest::Password;

use crate::failure::{Failure, Outcome};
use crate::folder::Folder;

pub(crate) use area::Identity;
pub(crate) use creation::Draft;
pub(crate) use following::Follower;
pub(crate) use history::Diary;

const READ_ONLY: &str = "read-only";
const REWRITABLE: &str = "rewritable";

/// A kit whose read-only area is as it was made, opened by its passphrase. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Kit {
    dir: PathBuf,
    pub folder: Folder,
    pub identity: Identity,
}

impl Kit {
    /// Opens the kit in a directory.
    ///
    /// # Errors
    /// There is none, the passphrase is another one, or a file of the read-only area is not what was signed.
    pub(crate) fn open(dir: &Path, passphrase: &Password) -> Outcome<Self> {
        let folder = Folder::open_kit(dir.join(REWRITABLE), passphrase)?;
        let state = folder.kit_state()?;
        let identity = area::checked(&dir.join(READ_ONLY), &state)?;
        Ok(Self { dir: dir.to_owned(), folder, identity })
    }

    /// Refused before the passphrase is asked for.
    pub(crate) fn expect(dir: &Path) -> Outcome<()> {
        if dir.join(READ_ONLY).is_dir() && dir.join(REWRITABLE).is_dir() {
            return Ok(());
        }
        Err(Failure::Usage(format!("there is no kit in {}: make one with `spillway kit create`", dir.display())))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}
