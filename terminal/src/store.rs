//! Chunks on disk. One delivery has one folder of state and ends as files that a person uses.
//!
//! ```text
//! <dir>/.spillway/<release>/<edition>/manifest       how the edition is cut and laid out
//!                                     content.part   the edition's byte stream, each chunk written at its final place (a sparse file)
//!                                     journal        which chunks are there, and whose copies they are
//!                                     complete       after the end: where the files went
//!                                     laid           which files this delivery has put there, and how it left them
//!                                     sealed, key    of what came sealed: see [`seal`]
//!                                     used           its time of change: when it was last of use to somebody
//! <dir>/<name>                                       the content itself: a file is `content.part` renamed, a directory is copied out of it
//! ```
//!
//! Flow: [`Store::open`] reads the journal, verifies every chunk that it names and takes over what other editions have → [`Store::put`] writes a chunk, then its journal record →
//! [`Store::read`] gives a chunk that was verified in this process → [`Store::finish`] checks the whole content and lays the files out, after which
//! chunks are served from there.
//!
//! A process that dies loses nothing that was put: file and journal are the operating system's by then. A machine that dies loses the last seconds
//! at most: both are synced every two seconds, and whatever the journal promises too much is found when it is opened again.
//!
//! What lies in a folder is listed by [`Store::kept`]; [`quota`] decides what gives way, and [`Store::evict`] takes it out.
//!
//! All blocking work is done by one thread per delivery, and by one more while it is opened or finished.

mod actor;
mod cache;
mod claims;
mod error;
mod evict;
mod finish;
mod folder;
mod holding;
mod journal;
mod kept;
mod laid;
mod layout;
mod opening;
pub mod quota;
mod reuse;
mod seal;
mod source;
mod sparse;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use protocol::manifest::Manifest;
use protocol::sealing::ContentKey;
use protocol::sealing::manifest::SealedManifest;
use protocol::{Blake3, Bytes, EditionId, ReleaseId, TerminalId};
use swarm::Held;

pub use error::StoreError;
pub use kept::{Delivery, Kept, Place, most_room};

/// Which delivery, and where it goes.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The folder of the user's choice. It may be a link; nothing below it is followed through one.
    pub dir: PathBuf,
    pub release_id: ReleaseId,
    /// What travels.
    pub manifest: Arc<Manifest>,
    /// Set if that is sealed: `manifest` is [`SealedManifest::travelling`] then.
    pub sealed: Option<Arc<SealedManifest>>,
    /// This terminal: the source of what nobody had to send.
    pub me: TerminalId,
    /// Other folders that contents were received into: what they hold is not fetched again.
    pub others: Vec<PathBuf>,
}

/// Bytes on the disk that a delivery goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// That the delivery still needs.
    pub needed: Bytes,
    pub free: Bytes,
}

/// A delivery's chunks. Cheap to clone; the files are closed when the last clone is gone.
#[derive(Debug, Clone)]
pub struct Store {
    actor: actor::Handle,
}

/// What was found on disk.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    /// Verified chunks of earlier runs and of other editions, ascending.
    pub held: Vec<Held>,
    /// Chunks that earlier runs had and that are not right on disk any more, ascending. Their sources delivered them nevertheless.
    pub lost: Vec<Held>,
    /// Set if an earlier run has finished the delivery and its files are as it left them.
    pub finished: Option<Finished>,
}

/// Where a complete content lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The file, or the folder that the directory's files lie in.
    pub path: PathBuf,
}

impl Store {
    /// Opens or begins a delivery. Dropping the future stops the verification.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it open, [`StoreError::NoRoom`] if the disk cannot take what is missing.
    pub async fn open(config: StoreConfig) -> Result<Opened, StoreError> {
        opening::open(config).await
    }

    /// The manifest that an earlier run has stored, so that a restart needs no download.
    pub async fn stored_manifest(dir: PathBuf, release_id: ReleaseId, edition_id: EditionId) -> Option<Manifest> {
        tokio::task::spawn_blocking(move || opening::stored_manifest(&dir, release_id, edition_id)).await.ok().flatten()
    }

    /// The complete editions below a folder, with the release that each came by.
    pub async fn complete_editions(dir: PathBuf) -> Vec<(ReleaseId, EditionId)> {
        tokio::task::spawn_blocking(move || holding::complete_editions(&dir)).await.unwrap_or_default()
    }

    /// Opens a complete edition to read from it, also while another process or swarm has it open; `None` if it is not complete. Nothing is verified before
    /// it is read: a chunk that has changed is [`StoreError::Corrupt`] then.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn open_complete(
        dir: PathBuf,
        release_id: ReleaseId,
        edition_id: EditionId,
    ) -> Result<Option<(Self, Arc<Manifest>)>, StoreError> {
        let opening = tokio::task::spawn_blocking(move || holding::open_complete(&dir, release_id, edition_id));
        opening.await.map_err(|_| StoreError::Stopped)?
    }

    /// Everything that lies in a folder, with the room it takes up. What has chunks of `wanted` is marked as its source.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn kept(dir: PathBuf, wanted: Arc<Manifest>) -> Result<Vec<Kept>, StoreError> {
        let listing = tokio::task::spawn_blocking(move || kept::kept(&dir, Some(&wanted)));
        listing.await.map_err(|_| StoreError::Stopped)?
    }

    /// Takes a delivery out of a folder, with those of its files that are as it laid them out. What a person has changed stays.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if somebody has it open; nothing has happened then. After any other error it is out, and what is left of it goes by [`Self::sweep`].
    pub async fn evict(dir: PathBuf, place: Place) -> Result<(), StoreError> {
        let evicting = tokio::task::spawn_blocking(move || evict::evict(&dir, place, &mut || Ok(())));
        evicting.await.map_err(|_| StoreError::Stopped)?
    }

    /// Removes what earlier processes have taken out and were ended before they had removed it.
    ///
    /// # Errors
    /// Something cannot be removed; it is tried again the next time.
    pub async fn sweep(dir: PathBuf) -> Result<(), StoreError> {
        let sweeping = tokio::task::spawn_blocking(move || evict::sweep(&dir, &mut || Ok(())));
        sweeping.await.map_err(|_| StoreError::Stopped)?
    }

    /// Notes that a delivery in a folder was asked for.
    pub async fn asked_for(dir: PathBuf, place: Place) {
        // A note that is lost makes it go earlier than it might.
        let _ = tokio::task::spawn_blocking(move || kept::touch_at(&dir, place)).await;
    }

    /// Notes that chunks were passed on. Costs nothing if it was noted a moment ago.
    pub fn passed_on(&self) {
        self.actor.passed_on();
    }

    /// Writes a verified chunk and notes its source. On return both outlive the process.
    pub async fn put(&self, chunk: u32, source: TerminalId, bytes: bytes::Bytes) -> Result<(), StoreError> {
        self.actor.put(chunk, source, bytes).await
    }

    /// Writes a held chunk at the places of its repeats too and notes `source` for those. On return they outlive the process.
    ///
    /// # Errors
    /// As for reading and writing; nothing is noted then, and it can be tried again.
    pub async fn repeat(&self, chunk: u32, into: Vec<u32>, source: TerminalId) -> Result<(), StoreError> {
        self.actor.repeat(chunk, into, source).await
    }

    /// How much room there is, and how much is needed.
    pub async fn room(&self) -> Result<Room, StoreError> {
        self.actor.room().await
    }

    /// A held chunk, as it was verified.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the file has been changed underneath; the bytes are never given out then.
    pub async fn read(&self, chunk: u32) -> Result<bytes::Bytes, StoreError> {
        self.actor.read(chunk).await
    }

    /// Has a held chunk read that will be asked for soon: whoever waits for its first bytes does not wait for the disk then.
    pub fn warm(&self, chunk: u32) {
        self.actor.warm(chunk);
    }

    /// Checks the whole content against its hash and lays the files out. All chunks must have been put. Reads go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if the names are taken by something else, in the folder and in the one that is named after the edition.
    /// Nothing is lost by an error: the chunks stay where they are, and finishing can be tried again.
    pub async fn finish(&self) -> Result<Finished, StoreError> {
        self.actor.finish().await
    }

    /// Whether the content came sealed and its key is not here yet.
    #[must_use]
    pub fn wants_key(&self) -> bool {
        self.actor.wants_key()
    }

    /// The hash of the whole content; none while it is sealed.
    #[must_use]
    pub fn content_hash(&self) -> Option<Blake3> {
        self.actor.content_hash()
    }

    /// The bytes of the whole content.
    #[must_use]
    pub fn length(&self) -> Bytes {
        self.actor.length()
    }

    /// Decrypts what came sealed in place. All chunks must have been put. Chunks are read as they travelled, before, meanwhile and afterwards. Without a
    /// `key` the one is used that an earlier run was given.
    ///
    /// # Errors
    /// [`StoreError::WrongKey`]; [`StoreError::Corrupt`] for a chunk that was changed. Nothing is lost, and it can be tried again.
    pub async fn unseal(&self, key: Option<ContentKey>) -> Result<(), StoreError> {
        self.actor.unseal(key).await
    }

    /// The sealed manifest that an earlier run has stored.
    pub async fn stored_sealed(dir: PathBuf, release_id: ReleaseId, edition_id: EditionId) -> Option<SealedManifest> {
        tokio::task::spawn_blocking(move || seal::stored(&dir, release_id, edition_id)).await.ok().flatten()
    }

    /// What lies in a folder sealed and was not opened yet.
    pub async fn unopened(dir: PathBuf) -> Vec<SealedManifest> {
        tokio::task::spawn_blocking(move || seal::unopened(&dir)).await.unwrap_or_default()
    }

    /// Waits until everything that was put survives a power cut.
    pub async fn sync(&self) -> Result<(), StoreError> {
        self.actor.sync().await
    }
}
