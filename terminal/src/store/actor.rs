//! The thread that owns a delivery's files. Everything that blocks goes through its queue, one request after the other.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::sealing::ContentKey;
use protocol::{Blake3, TerminalId};
use swarm::Held;
use tokio::sync::{mpsc, oneshot};

use super::cache::SharedCache;
use super::error::Doing;
use super::journal::Journal;
use super::opening::{CancelOnDrop, Home, PART, Parts};
use super::seal::{self, Seal};
use super::source::{LaidOut, Source};
use super::{Finished, Room, StoreError, finish, kept, sparse};

/// Requests that may wait. Each caller waits for its answer, and the engine bounds the bytes that are waiting to be written (8 MiB); when the queue is
/// full, callers wait before they ask.
const QUEUE: usize = 64;
/// How much may be lost to a power cut.
const SYNC_EVERY: Duration = Duration::from_secs(2);
/// What is passed on for hours is noted now and then: which of two editions was useful later is a matter of days.
const NOTE_EVERY: Duration = Duration::from_secs(10);

enum Request {
    Put {
        chunk: u32,
        source: TerminalId,
        bytes: Bytes,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    Repeat {
        chunk: u32,
        into: Vec<u32>,
        source: TerminalId,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    Read {
        chunk: u32,
        done: oneshot::Sender<Result<Bytes, StoreError>>,
    },
    /// A chunk will be read soon.
    Warm {
        chunk: u32,
    },
    /// From now on chunks are read from the files laid out.
    Finished {
        files: LaidOut,
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    Sync {
        done: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Chunks were passed on.
    PassedOn,
}

#[derive(Debug, Clone)]
pub(super) struct Handle {
    requests: mpsc::Sender<Request>,
    home: Arc<Home>,
    cache: SharedCache,
    /// Locked while the files are laid out, so that it happens once.
    finished: Arc<tokio::sync::Mutex<Option<Finished>>>,
}

struct Actor {
    home: Arc<Home>,
    source: Source,
    journal: Option<Journal>,
    cache: SharedCache,
    synced_at: Instant,
    /// When it was last noted that chunks are passed on.
    noted_at: Option<Instant>,
    syncing: Option<std::thread::JoinHandle<()>>,
}

/// Starts the thread. It ends when the last handle is gone.
pub(super) fn start(parts: Parts) -> Result<Handle, StoreError> {
    let (requests, queue) = mpsc::channel(QUEUE);
    let Parts { home, source, journal, held: _, lost: _, finished } = parts;
    let cache = SharedCache::default();
    let actor =
        Actor { home: Arc::clone(&home), source, journal, cache: cache.clone(), synced_at: Instant::now(), noted_at: None, syncing: None };
    let state = home.state.path().to_owned();
    std::thread::Builder::new().name("spillway-store".into()).spawn(move || actor.run(queue)).doing("start a thread for", &state)?;
    Ok(Handle { requests, home, cache, finished: Arc::new(tokio::sync::Mutex::new(finished)) })
}

impl Handle {
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    pub(super) async fn put(&self, chunk: u32, source: TerminalId, bytes: Bytes) -> Result<(), StoreError> {
        self.ask(|done| Request::Put { chunk, source, bytes, done }).await
    }

    pub(super) async fn repeat(&self, chunk: u32, into: Vec<u32>, source: TerminalId) -> Result<(), StoreError> {
        self.ask(|done| Request::Repeat { chunk, into, source, done }).await
    }

    pub(super) async fn room(&self) -> Result<Room, StoreError> {
        let home = Arc::clone(&self.home);
        tokio::task::spawn_blocking(move || home.room()).await.map_err(|_| StoreError::Stopped)
    }

    pub(super) async fn read(&self, chunk: u32) -> Result<Bytes, StoreError> {
        match self.cache.get(chunk) {
            Some(bytes) => Ok(bytes),
            None => self.ask(|done| Request::Read { chunk, done }).await,
        }
    }

    pub(super) fn warm(&self, chunk: u32) {
        if self.cache.get(chunk).is_none() {
            // If the queue is full, it is read when it is asked for.
            let _ = self.requests.try_send(Request::Warm { chunk });
        }
    }

    pub(super) async fn finish(&self) -> Result<Finished, StoreError> {
        let mut finished = self.finished.lock().await;
        if let Some(finished) = &*finished {
            return Ok(finished.clone());
        }
        let cancel = CancelOnDrop::default();
        let (home, cancelled) = (Arc::clone(&self.home), Arc::clone(&cancel.0));
        let (place, files) =
            tokio::task::spawn_blocking(move || finish::run(&home, &cancelled)).await.map_err(|_| StoreError::Stopped)??;
        *finished = Some(place.clone());
        self.ask(|done| Request::Finished { files, done }).await?;
        Ok(place)
    }

    /// Whether it came sealed and the key is not here.
    pub(super) fn wants_key(&self) -> bool {
        self.home.seal.as_ref().is_some_and(|seal| !seal.has_key())
    }

    pub(super) fn content_hash(&self) -> Option<Blake3> {
        let is_open = self.home.seal.as_ref().is_none_or(|seal| seal.plain().is_some());
        is_open.then(|| self.home.files().manifest().blake3)
    }

    pub(super) fn length(&self) -> protocol::Bytes {
        self.home.layout.manifest().length
    }

    /// Decrypts what came sealed, if there is anything to decrypt. Without a key the one that is here already is used.
    pub(super) async fn unseal(&self, key: Option<ContentKey>) -> Result<(), StoreError> {
        // One at a time, and neither while the files are laid out nor after.
        let finished = self.finished.lock().await;
        if finished.is_some() {
            return Ok(());
        }
        let cancel = CancelOnDrop::default();
        let (home, cancelled) = (Arc::clone(&self.home), Arc::clone(&cancel.0));
        tokio::task::spawn_blocking(move || seal::open(&home, key.as_ref(), &cancelled)).await.map_err(|_| StoreError::Stopped)?
    }

    pub(super) fn passed_on(&self) {
        // If the queue is full, the next one comes in a second.
        let _ = self.requests.try_send(Request::PassedOn);
    }

    pub(super) async fn sync(&self) -> Result<(), StoreError> {
        self.ask(|done| Request::Sync { done }).await
    }
}

impl Actor {
    fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        // An answer that nobody waits for any more is dropped: whoever asked has given up.
        while let Some(request) = queue.blocking_recv() {
            match request {
                Request::Put { chunk, source, bytes, done } => drop(done.send(self.put(Held { chunk, source }, bytes))),
                Request::Repeat { chunk, into, source, done } => drop(done.send(self.repeat(chunk, &into, source))),
                Request::Read { chunk, done } => drop(done.send(self.read(chunk))),
                // What is wrong with it is said when it is asked for.
                Request::Warm { chunk } => drop(self.read(chunk)),
                Request::Finished { files, done } => {
                    self.source = Source::LaidOut(files);
                    drop(done.send(Ok(())));
                }
                Request::Sync { done } => drop(done.send(self.sync())),
                Request::PassedOn => self.passed_on(),
            }
        }
        if let Some(syncing) = self.syncing.take() {
            let _ = syncing.join();
        }
    }

    fn passed_on(&mut self) {
        if self.noted_at.is_none_or(|at| at.elapsed() >= NOTE_EVERY) {
            self.noted_at = Some(Instant::now());
            kept::touch(&self.home.state);
        }
    }

    fn put(&mut self, held: Held, bytes: Bytes) -> Result<(), StoreError> {
        let Some((offset, _)) = self.home.layout.chunk(held.chunk).filter(|(_, entry)| entry.length as usize == bytes.len()) else {
            return Err(StoreError::NoSuchChunk(held.chunk));
        };
        // A finished delivery has every chunk.
        let (Source::Part(part), Some(journal)) = (&self.source, &mut self.journal) else { return Ok(()) };
        sparse::write(part, offset, &bytes).doing("write", &self.home.state.path_of(PART))?;
        journal.append(&[held]).doing("write the journal of", self.home.state.path())?;
        self.cache.insert(held.chunk, bytes);
        self.sync_now_and_then();
        Ok(())
    }

    /// Writes a chunk at the places of its repeats. Neighbouring holes are made at once.
    fn repeat(&mut self, chunk: u32, into: &[u32], source: TerminalId) -> Result<(), StoreError> {
        let bytes = self.read(chunk)?;
        let part_path = self.part_path();
        let (Source::Part(part), Some(journal)) = (&self.source, &mut self.journal) else { return Ok(()) };
        let mut places = Vec::with_capacity(into.len());
        for &repeat in into {
            let place = self.home.layout.chunk(repeat).filter(|(_, entry)| entry.length as usize == bytes.len());
            places.push(place.ok_or(StoreError::NoSuchChunk(repeat))?.0);
        }
        let (length, is_zero) = (bytes.len() as u64, sparse::is_zero(&bytes));
        for run in places.chunk_by(|before, after| before + length == *after) {
            let (Some(&first), len) = (run.first(), length * run.len() as u64) else { continue };
            if is_zero && sparse::make_hole(part, first, len) {
                continue;
            }
            for &offset in run {
                part.write_all_at(&bytes, offset).doing("write", &part_path)?;
            }
        }
        let held: Vec<Held> = into.iter().map(|&chunk| Held { chunk, source }).collect();
        journal.append(&held).doing("write the journal of", self.home.state.path())?;
        self.sync_now_and_then();
        Ok(())
    }

    fn read(&mut self, chunk: u32) -> Result<Bytes, StoreError> {
        if let Some(bytes) = self.cache.get(chunk) {
            return Ok(bytes);
        }
        if self.home.layout.chunk(chunk).is_none() {
            return Err(StoreError::NoSuchChunk(chunk));
        }
        // A chunk that is being decrypted is half of each.
        let _turn = self.home.seal.as_ref().map(Seal::turn);
        let bytes = self.source.chunk((&*self.home).into(), chunk).doing("read", &self.part_path())?;
        let bytes = bytes.map(Bytes::from).ok_or(StoreError::Corrupt(chunk))?;
        self.cache.insert(chunk, bytes.clone());
        Ok(bytes)
    }

    fn part_path(&self) -> PathBuf {
        self.home.state.path_of(PART)
    }

    fn files_to_sync(&self) -> std::io::Result<Vec<File>> {
        let mut files = Vec::new();
        if let Source::Part(part) = &self.source {
            files.push(part.try_clone()?);
        }
        if let Some(journal) = &self.journal {
            files.push(journal.file().try_clone()?);
        }
        Ok(files)
    }

    /// Syncs beside the queue, because a disk may take a second for it.
    fn sync_now_and_then(&mut self) {
        let idle = self.syncing.as_ref().is_none_or(std::thread::JoinHandle::is_finished);
        if !idle || self.synced_at.elapsed() < SYNC_EVERY {
            return;
        }
        self.synced_at = Instant::now();
        let Ok(files) = self.files_to_sync() else { return };
        let sync = move || {
            for file in files {
                if let Err(error) = file.sync_data() {
                    tracing::warn!(%error, "chunks could not be synced to the disk");
                }
            }
        };
        self.syncing = std::thread::Builder::new().name("spillway-sync".into()).spawn(sync).ok();
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        let path = self.home.state.path().to_owned();
        for file in self.files_to_sync().doing("sync", &path)? {
            file.sync_data().doing("sync", &path)?;
        }
        Ok(())
    }
}
