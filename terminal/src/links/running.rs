//! A link that is up: one task reads, one writes.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::frame::Frame;
use protocol::{SwarmId, TerminalId};
use tokio::sync::{mpsc, watch};

use super::CHUNKS_QUEUED;
use super::control::ControlQueue;
use super::routes::{Inbound, Routes, swarm_of};
use crate::link::{CloseReason, LastHeard, LinkError, LinkReceiver, LinkSender};
use crate::rate::RateLimiter;

/// Unknown swarms that are remembered per link: a terminal takes part in a few at a time.
const UNKNOWN_SWARMS_MAX: usize = 16;
/// A reader that waits for this terminal's own limits says so this often: slow is not dead.
const SIGN_OF_LIFE: Duration = Duration::from_millis(200);
/// How long the farewell may take to be acknowledged.
const FAREWELL: Duration = Duration::from_millis(500);

/// Makes the message of a chunk frame when it is its turn. `None` if the chunk cannot be had: the link is closed then, because the peer would take the
/// frames that follow for a violation.
pub type ChunkJob = Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>;

/// A place in a link's queue. Dropped unused it is free again.
#[derive(Debug)]
pub struct ChunkSlot(mpsc::OwnedPermit<ChunkJob>);

impl ChunkSlot {
    pub fn send(self, job: ChunkJob) {
        self.0.send(job);
    }
}

/// Why a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Closed here.
    Local,
    /// The peer left in good order.
    Farewell,
    /// The peer closed, or was not heard any more.
    Lost,
    /// The peer sent what may not be sent.
    Malformed,
    /// The peer does not read.
    Stuck,
    /// The link's task panicked: a fault in the program or in the library.
    Panicked,
}

/// The sending side of a link, as swarms see it. Clones are the same link.
#[derive(Debug, Clone)]
pub struct LinkHandle {
    peer: TerminalId,
    generation: u64,
    chunks: mpsc::Sender<ChunkJob>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    control: ControlQueue,
    /// The start of the links.
    start: Instant,
    heard: LastHeard,
    /// The reader waits for this terminal's own limits: that nothing is heard says nothing about the peer.
    not_listening: AtomicBool,
    /// Told to end by this side, and how.
    closing: watch::Sender<Option<End>>,
    /// Swarms that the peer spoke of and that are not planned here.
    unknown: Mutex<BTreeSet<SwarmId>>,
}

impl LinkHandle {
    #[must_use]
    pub fn peer(&self) -> TerminalId {
        self.peer
    }

    /// Tells this link from earlier and later ones to the same peer.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Queues a control frame, ahead of all chunk frames. A peer for whom too many wait loses the link.
    pub fn control(&self, frame: Frame) {
        if self.shared.control.push(frame).is_err() {
            self.end(End::Stuck);
        }
    }

    /// Takes a place in the queue for one chunk frame, if there is one.
    #[must_use]
    pub fn reserve(&self) -> Option<ChunkSlot> {
        self.chunks.clone().try_reserve_owned().ok().map(ChunkSlot)
    }

    /// Ends the link in good order; it is opened again while a plan wants it.
    pub fn close(&self) {
        self.end(End::Local);
    }

    /// When anything was last heard, since the start of the links. While this terminal does not listen it is `now`.
    #[must_use]
    pub fn heard_at(&self, now: Duration) -> Duration {
        if self.shared.not_listening.load(Ordering::Relaxed) {
            now
        } else {
            self.shared.heard.at().saturating_duration_since(self.shared.start)
        }
    }

    /// Waits for something of this terminal's own before it reads on, and lets the peer know that it is alive.
    async fn wait_for<T>(&self, own: impl Future<Output = T>) -> T {
        let mut own = std::pin::pin!(own);
        // Mostly there is nothing to wait for.
        if let Some(outcome) = futures_util::FutureExt::now_or_never(own.as_mut()) {
            return outcome;
        }
        self.shared.not_listening.store(true, Ordering::Relaxed);
        let outcome = loop {
            match tokio::time::timeout(SIGN_OF_LIFE, own.as_mut()).await {
                Ok(outcome) => break outcome,
                Err(_) => self.control(Frame::Pong { nonce: 0 }),
            }
        };
        self.shared.not_listening.store(false, Ordering::Relaxed);
        outcome
    }

    pub(super) fn end(&self, end: End) {
        self.shared.closing.send_if_modified(|closing| {
            let first = closing.is_none();
            if first {
                *closing = Some(end);
            }
            first
        });
    }

    /// Whether the peer has spoken of this swarm before it was planned here.
    pub(super) fn missed(&self, swarm: SwarmId) -> bool {
        self.shared.unknown.lock().unwrap_or_else(PoisonError::into_inner).contains(&swarm)
    }
}

/// What the tasks of a link need.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    pub(super) routes: watch::Receiver<Arc<Routes>>,
    pub(super) down: RateLimiter,
    /// Rises when a chunk frame was taken.
    pub(super) room: Arc<watch::Sender<u64>>,
}

/// A link whose hellos were checked, with its tasks not started yet.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) handle: LinkHandle,
    sender: LinkSender,
    receiver: LinkReceiver,
    jobs: mpsc::Receiver<ChunkJob>,
}

impl Prepared {
    pub(super) fn new(peer: TerminalId, generation: u64, sender: LinkSender, receiver: LinkReceiver, start: Instant) -> Self {
        let (chunks, jobs) = mpsc::channel(CHUNKS_QUEUED);
        let shared = Arc::new(Shared {
            control: ControlQueue::default(),
            start,
            heard: receiver.last_heard(),
            not_listening: AtomicBool::new(false),
            closing: watch::channel(None).0,
            unknown: Mutex::default(),
        });
        Self { handle: LinkHandle { peer, generation, chunks, shared }, sender, receiver, jobs }
    }

    /// Runs the link to its end.
    pub(super) async fn run(self, around: Surroundings) -> End {
        let Self { handle, sender, receiver, jobs } = self;
        let mut closing = handle.shared.closing.subscribe();
        let end = tokio::select! {
            end = read(&handle, receiver, &around) => end,
            end = write(&handle, &sender, jobs, &around) => end,
            end = closing.wait_for(Option::is_some) => end.ok().and_then(|end| *end).unwrap_or(End::Local),
        };
        if end == End::Local {
            // The last words, and what was queued before them, as far as the peer takes them in time.
            let last_words = async {
                while let Some(frame) = handle.shared.control.pop() {
                    sender.send(Bytes::from(frame.encode())).await?;
                }
                sender.send(Bytes::from(Frame::Bye.encode())).await?;
                sender.flush(tokio::time::Instant::now() + FAREWELL).await
            };
            let _ = tokio::time::timeout(FAREWELL, last_words).await;
        }
        sender.close().await;
        end
    }
}

fn ended(error: &LinkError) -> End {
    match error {
        LinkError::Closed(CloseReason::Oversize { .. } | CloseReason::Violation) => End::Malformed,
        LinkError::Closed(CloseReason::Local | CloseReason::Remote | CloseReason::Lost)
        | LinkError::Description(_)
        | LinkError::NoLocalAddress
        | LinkError::NoTurnAddress
        | LinkError::Deadline
        | LinkError::TooLarge { .. }
        | LinkError::Transport(_) => End::Lost,
    }
}

async fn read(handle: &LinkHandle, mut receiver: LinkReceiver, around: &Surroundings) -> End {
    loop {
        let message = match receiver.recv().await {
            Ok(message) => message,
            Err(error) => return ended(&error),
        };
        let bytes = message.len();
        match Frame::decode(message) {
            Ok(Frame::Ping { nonce }) => handle.control(Frame::Pong { nonce }),
            Ok(Frame::Pong { .. }) => {}
            Ok(Frame::Bye) => return End::Farewell,
            // Said once, before the link was up.
            Ok(Frame::Hello(_)) | Err(_) => return End::Malformed,
            Ok(frame) => handle.wait_for(pass_on(handle, frame, around)).await,
        }
        handle.wait_for(around.down.acquire(bytes)).await;
    }
}

async fn pass_on(handle: &LinkHandle, frame: Frame, around: &Surroundings) {
    let Some(swarm) = swarm_of(&frame) else { return };
    let route = around.routes.borrow().find(swarm, handle.peer).cloned();
    match route {
        // A swarm that has just ended takes no more.
        Some(frames) => drop(frames.send(Inbound { peer: handle.peer, generation: handle.generation, frame }).await),
        None => {
            let mut unknown = handle.shared.unknown.lock().unwrap_or_else(PoisonError::into_inner);
            if unknown.len() < UNKNOWN_SWARMS_MAX {
                unknown.insert(swarm);
            }
        }
    }
}

async fn write(handle: &LinkHandle, sender: &LinkSender, mut jobs: mpsc::Receiver<ChunkJob>, around: &Surroundings) -> End {
    loop {
        let (message, control) = tokio::select! {
            biased;
            frame = handle.shared.control.next() => (frame.encode(), true),
            job = jobs.recv() => match job {
                Some(job) => match job.await {
                    Some(message) => (message, false),
                    None => return End::Local,
                },
                None => return End::Local,
            },
        };
        if let Err(error) = sender.send(Bytes::from(message)).await {
            return ended(&error);
        }
        if !control {
            around.room.send_modify(|taken| *taken = taken.wrapping_add(1));
        }
    }
}
