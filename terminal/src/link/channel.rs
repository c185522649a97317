//! What the ends of a link and the hub share: the messages on their way out, how the link is, and the call that wakes the hub.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::{Notify, watch};

use super::error::CloseReason;

/// Tells the links of a hub apart. Never used again within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LinkId(pub(super) u64);

/// Wakes the hub and names the links that need it. Each is named once until the hub has taken the names, so that a burst of messages is one wake-up.
#[derive(Debug, Default)]
pub(super) struct Calls {
    named: Mutex<Vec<LinkId>>,
    notify: Notify,
}

impl Calls {
    fn name(&self, id: LinkId) {
        locked(&self.named).push(id);
        self.notify.notify_one();
    }

    pub(super) async fn called(&self) {
        self.notify.notified().await;
    }

    pub(super) fn take(&self) -> Vec<LinkId> {
        std::mem::take(&mut *locked(&self.named))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A link on which something waits is heard more often than this.
const SILENT_AFTER: Duration = Duration::from_millis(600);
/// On the slowest of lines, a round of frames to fifteen others takes less.
const STUCK_AFTER: Duration = Duration::from_secs(3);

/// How far a link is on its way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    /// The reason is known; the hub is still taking the connection down.
    Ending(CloseReason),
    /// The hub knows it no more.
    Ended(CloseReason),
}

impl Life {
    fn reason(self) -> Option<CloseReason> {
        match self {
            Self::Running => None,
            Self::Ending(reason) | Self::Ended(reason) => Some(reason),
        }
    }
}

/// When any packet last came from the other end of a link: a part of a message or an acknowledgement counts as much as a whole message, which may wait
/// for a lost packet. Does not keep the link open.
#[derive(Debug, Clone)]
pub struct LastHeard {
    since: Instant,
    millis: Arc<AtomicU64>,
}

impl LastHeard {
    fn new() -> Self {
        Self { since: Instant::now(), millis: Arc::default() }
    }

    fn note(&self, now: Instant) {
        let millis = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// To a millisecond; when the link was begun if nothing has come yet.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.since + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

/// How a link gets rid of what is sent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carries {
    /// Bytes acknowledged since the last look.
    pub(super) acknowledged: usize,
    /// Bytes that are not; 0 if the other end is not heard: what waits there does not wait for the line.
    pub(super) unacknowledged: usize,
    /// None of them was acknowledged for long: the other end does not take them.
    pub(super) stuck: bool,
}

#[derive(Debug, Default)]
struct Outgoing {
    messages: VecDeque<BytesMut>,
    queued_bytes: usize,
    /// What the library holds that the other end has not acknowledged.
    in_library_bytes: usize,
    /// What the other end has acknowledged and the hub has not counted yet.
    acknowledged_bytes: usize,
    /// When anything was acknowledged last, or nothing waited to be.
    moved_at: Option<Instant>,
    /// A sender waits until less than this is unacknowledged.
    wanted_below: Option<usize>,
}

/// One link, as its ends and the hub see it.
#[derive(Debug)]
pub(super) struct Channel {
    id: LinkId,
    life: watch::Sender<Life>,
    heard: LastHeard,
    outgoing: Mutex<Outgoing>,
    room: Notify,
    calls: Arc<Calls>,
    /// Whether the hub was called for this link and has not come yet.
    called: AtomicBool,
    /// Whether the hub holds messages back because the receiver does not take them.
    held_back: AtomicBool,
}

impl Channel {
    pub(super) fn new(id: LinkId, calls: Arc<Calls>) -> Self {
        Self {
            id,
            life: watch::Sender::new(Life::Running),
            heard: LastHeard::new(),
            outgoing: Mutex::default(),
            room: Notify::new(),
            calls,
            called: AtomicBool::new(false),
            held_back: AtomicBool::new(false),
        }
    }

    pub(super) fn call(&self) {
        if !self.called.swap(true, Ordering::AcqRel) {
            self.calls.name(self.id);
        }
    }

    /// Queues a message for the hub.
    pub(super) fn push(&self, message: BytesMut) {
        {
            let mut outgoing = locked(&self.outgoing);
            outgoing.queued_bytes += message.len();
            outgoing.messages.push_back(message);
        }
        self.call();
    }

    /// How many bytes the other end has not acknowledged, queued ones included.
    pub(super) fn unacknowledged(&self) -> usize {
        let outgoing = locked(&self.outgoing);
        outgoing.queued_bytes + outgoing.in_library_bytes
    }

    /// Waits until less than `bytes` are unacknowledged, or the link ends. One sender at a time; a second one waits as well, at the latest until the first
    /// is through.
    pub(super) async fn below(&self, bytes: usize) -> Result<(), CloseReason> {
        loop {
            if let Some(reason) = self.reason() {
                return Err(reason);
            }
            let notified = self.room.notified();
            {
                let mut outgoing = locked(&self.outgoing);
                if outgoing.queued_bytes + outgoing.in_library_bytes < bytes {
                    // Whoever waits beside this one looks again.
                    self.room.notify_one();
                    return Ok(());
                }
                outgoing.wanted_below = Some(outgoing.wanted_below.map_or(bytes, |wanted| wanted.max(bytes)));
            }
            tokio::select! {
                () = notified => {}
                reason = self.ending() => return Err(reason),
            }
        }
    }

    /// For the hub: what is to be sent, in order.
    pub(super) fn take_outgoing(&self) -> VecDeque<BytesMut> {
        let mut outgoing = locked(&self.outgoing);
        outgoing.in_library_bytes += outgoing.queued_bytes;
        outgoing.queued_bytes = 0;
        std::mem::take(&mut outgoing.messages)
    }

    /// For the hub: what the library holds now.
    pub(super) fn set_in_library(&self, bytes: usize) {
        let mut outgoing = locked(&self.outgoing);
        outgoing.acknowledged_bytes += outgoing.in_library_bytes.saturating_sub(bytes);
        outgoing.in_library_bytes = bytes;
        if outgoing.wanted_below.is_some_and(|wanted| outgoing.queued_bytes + bytes < wanted) {
            outgoing.wanted_below = None;
            self.room.notify_waiters();
        }
    }

    /// For the hub, to be asked in every pass.
    pub(super) fn carried(&self, now: Instant) -> Carries {
        let is_heard = now < self.heard.at() + SILENT_AFTER;
        let mut outgoing = locked(&self.outgoing);
        let acknowledged = std::mem::take(&mut outgoing.acknowledged_bytes);
        let unacknowledged = outgoing.queued_bytes + outgoing.in_library_bytes;
        if acknowledged > 0 || unacknowledged == 0 {
            outgoing.moved_at = Some(now);
        }
        let stuck = outgoing.moved_at.is_none_or(|moved_at| moved_at + STUCK_AFTER < now);
        Carries { acknowledged, unacknowledged: if is_heard { unacknowledged } else { 0 }, stuck }
    }

    /// For the hub: a packet has come.
    pub(super) fn hear(&self, now: Instant) {
        self.heard.note(now);
    }

    pub(super) fn heard(&self) -> LastHeard {
        self.heard.clone()
    }

    /// For the hub: it has come, so the next call is a new one.
    pub(super) fn answered(&self) {
        self.called.store(false, Ordering::Release);
    }

    /// For the hub: the receiver is behind; it calls when it has taken something.
    pub(super) fn hold_back(&self) {
        self.held_back.store(true, Ordering::Release);
    }

    /// For the receiver: it has taken a message.
    pub(super) fn taken(&self) {
        if self.held_back.swap(false, Ordering::AcqRel) {
            self.call();
        }
    }

    /// Ends the link, for `reason` unless it had one already. Returns the one that counts.
    pub(super) fn end(&self, reason: CloseReason) -> CloseReason {
        let first = self.life.send_if_modified(|life| {
            let first = life.reason().is_none();
            if first {
                *life = Life::Ending(reason);
            }
            first
        });
        if first {
            self.call();
        }
        self.reason().unwrap_or(reason)
    }

    /// For the hub: the connection is gone.
    pub(super) fn gone(&self) {
        let reason = self.end(CloseReason::Lost);
        self.life.send_replace(Life::Ended(reason));
    }

    pub(super) fn reason(&self) -> Option<CloseReason> {
        self.life.borrow().reason()
    }

    /// Waits until the link is on its way down, whoever ended it.
    pub(super) async fn ending(&self) -> CloseReason {
        self.reaches(Life::reason).await
    }

    /// Waits until the hub knows the link no more.
    pub(super) async fn ended(&self) -> CloseReason {
        let ended = |life| match life {
            Life::Ended(reason) => Some(reason),
            Life::Running | Life::Ending(_) => None,
        };
        self.reaches(ended).await
    }

    async fn reaches(&self, reached: impl Fn(Life) -> Option<CloseReason>) -> CloseReason {
        let mut life = self.life.subscribe();
        match life.wait_for(|life| reached(*life).is_some()).await.as_deref() {
            Ok(life) => reached(*life).unwrap_or(CloseReason::Lost),
            // Does not happen while `self` holds the sending side.
            Err(_) => CloseReason::Lost,
        }
    }
}

/// A share in a link. When the last one is dropped the link ends.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    channel: Arc<Channel>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.channel.end(CloseReason::Local);
    }
}

impl Handle {
    pub(super) fn new(channel: Arc<Channel>) -> Self {
        Self { owner: Arc::new(Owner { channel }) }
    }
}

impl std::ops::Deref for Handle {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.owner.channel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> (Arc<Calls>, Channel) {
        let calls = Arc::new(Calls::default());
        (Arc::clone(&calls), Channel::new(LinkId(7), calls))
    }

    #[test]
    fn a_burst_of_messages_is_one_call() {
        let (calls, channel) = channel();
        for _ in 0..5 {
            channel.push(BytesMut::zeroed(10));
        }
        assert_eq!(calls.take(), [LinkId(7)]);
        assert_eq!(channel.unacknowledged(), 50);
        channel.answered();
        assert_eq!(channel.take_outgoing().len(), 5);
        assert_eq!(channel.unacknowledged(), 50, "the library has not told yet what was acknowledged");
        channel.set_in_library(20);
        assert_eq!(channel.unacknowledged(), 20);
        channel.push(BytesMut::zeroed(1));
        assert_eq!(calls.take(), [LinkId(7)], "after an answer the next message calls again");
    }

    #[tokio::test]
    async fn whoever_waits_for_room_is_woken_when_there_is_room_and_when_the_link_ends() {
        let (_calls, channel) = channel();
        let channel = Arc::new(channel);
        channel.push(BytesMut::zeroed(100));
        channel.take_outgoing();
        let waiting = |bytes| {
            let channel = Arc::clone(&channel);
            tokio::spawn(async move { channel.below(bytes).await })
        };
        let (soon, late) = (waiting(60), waiting(10));
        tokio::task::yield_now().await;
        channel.set_in_library(50);
        assert_eq!(soon.await.unwrap(), Ok(()));
        assert!(!late.is_finished());
        channel.end(CloseReason::Remote);
        assert_eq!(late.await.unwrap(), Err(CloseReason::Remote));
    }

    #[tokio::test]
    async fn the_first_reason_counts_and_the_end_comes_when_the_hub_has_let_go() {
        let (calls, channel) = channel();
        assert_eq!(channel.end(CloseReason::Remote), CloseReason::Remote);
        assert_eq!(channel.end(CloseReason::Local), CloseReason::Remote);
        assert_eq!(calls.take(), [LinkId(7)]);
        assert_eq!(channel.ending().await, CloseReason::Remote);
        channel.gone();
        assert_eq!(channel.ended().await, CloseReason::Remote);
    }

    #[test]
    fn the_last_handle_ends_the_link() {
        let (calls, channel) = channel();
        let channel = Arc::new(channel);
        let handle = Handle::new(Arc::clone(&channel));
        let second = handle.clone();
        drop(handle);
        assert_eq!(channel.reason(), None);
        drop(second);
        assert_eq!(channel.reason(), Some(CloseReason::Local));
        assert_eq!(calls.take(), [LinkId(7)]);
    }

    #[test]
    fn a_receiver_that_was_behind_calls_once_when_it_takes_something() {
        let (calls, channel) = channel();
        channel.taken();
        assert!(calls.take().is_empty());
        channel.hold_back();
        channel.taken();
        channel.taken();
        assert_eq!(calls.take(), [LinkId(7)]);
    }
}
