//! What is on its way to the terminal: a bounded queue and the task that empties it into the socket.
//!
//! actix's own queue holds 32 messages and makes whoever sends wait; here only pushes wait, which are kept in Redis meanwhile. A terminal that does not
//! read is closed when the queue has no room for an answer, or when its pongs do not come. It comes back and resumes: everything else is an answer that it can ask for again.

use std::time::Duration;

use actix_ws::{CloseCode, CloseReason};
use protocol::ErrorCode;
use protocol::ws::ServerMessage;
use tokio::sync::{mpsc, watch};

use crate::error::ApiError;

/// Messages in the queue, at most 8 MiB.
const QUEUE_MAX: usize = 128;
/// Room in the queue that pushes leave to what cannot wait.
const FOR_ANSWERS: usize = 32;
/// How long the last messages and the close frame may take to be handed to the socket.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a session ends, as the close frame says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// The terminal closed, or its connection broke.
    Gone,
    /// It did not answer pings.
    Silent,
    /// It did not read what it was sent.
    Slow,
    /// A newer WebSocket stands for it.
    Replaced,
    /// It is in quarantine.
    ShutOut,
    Expired,
    /// This instance stops.
    Stopping,
    TooLarge,
    /// It broke the protocol or was not who it claimed to be.
    Refused,
    /// A store is away.
    Unavailable,
}

impl Closing {
    fn reason(self) -> CloseReason {
        let (code, text) = match self {
            Self::Gone => (CloseCode::Normal, "bye"),
            Self::Silent => (CloseCode::Policy, "no answer to pings"),
            Self::Slow => (CloseCode::Again, "too slow; come back and resume"),
            Self::Replaced => (CloseCode::Policy, "replaced by a newer connection of this terminal"),
            Self::ShutOut => (CloseCode::Policy, "in quarantine"),
            Self::Expired => (CloseCode::Policy, "the access token has expired"),
            Self::Stopping => (CloseCode::Restart, "this instance stops; come back"),
            Self::TooLarge => (CloseCode::Size, "a message is too large"),
            Self::Refused => (CloseCode::Policy, "refused"),
            Self::Unavailable => (CloseCode::Again, "not ready; come back"),
        };
        CloseReason { code, description: Some(text.to_owned()) }
    }
}

/// What goes into the socket.
#[derive(Debug)]
enum Outgoing {
    Text(String),
    Ping,
    Pong(bytes::Bytes),
}

/// The sending end; all of a session's parts share it.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Outgoing>,
    closing: watch::Sender<Option<Closing>>,
}

impl Outbox {
    /// The queue, and the task that empties it into the socket until the session closes.
    pub(super) fn new(sink: actix_ws::Session) -> (Self, impl Future<Output = ()>) {
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let (closing, closed) = watch::channel(None);
        (Self { queue, closing }, write(sink, queued, closed))
    }

    fn put(&self, outgoing: Outgoing) {
        match self.queue.try_send(outgoing) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.close(Closing::Slow),
        }
    }

    pub(super) fn send(&self, message: &ServerMessage) {
        if let Some(text) = text_of(message) {
            self.put(Outgoing::Text(text));
        }
    }

    /// Sends when there is room, and leaves room for answers: somebody who comes back may have missed more than the queue holds.
    pub(super) async fn send_in_turn(&self, message: &ServerMessage) {
        // An error means that the session has ended.
        let (Some(text), Ok(mut room)) = (text_of(message), self.queue.reserve_many(1 + FOR_ANSWERS).await) else { return };
        if let Some(place) = room.next() {
            place.send(Outgoing::Text(text));
        }
    }

    /// Tells the terminal that a message was refused; a failure of the server is logged, too.
    pub(super) fn refuse(&self, error: &ApiError) {
        if error.code.status() >= 500 {
            tracing::warn!(error = error as &dyn std::error::Error, "a message could not be handled");
        }
        let detail = error.detail.clone().or_else(|| error.errors.first().map(|part| part.detail.clone()));
        self.send(&ServerMessage::Error {
            code: error.code,
            detail: detail.unwrap_or_else(|| error.code.title().to_owned()),
            pointer: error.errors.first().map(|part| part.pointer.clone()).unwrap_or_default(),
        });
    }

    pub(super) fn refuse_with(&self, code: ErrorCode, detail: impl Into<String>) {
        self.refuse(&ApiError::new(code).detail(detail));
    }

    /// A ping that finds no room is left out: whoever does not read is heard of no more, and that ends the session.
    pub(super) fn ping(&self) {
        let _ = self.queue.try_send(Outgoing::Ping);
    }

    pub(super) fn pong(&self, payload: bytes::Bytes) {
        self.put(Outgoing::Pong(payload));
    }

    /// Ends the session; the first reason counts.
    pub(super) fn close(&self, closing: Closing) {
        self.closing.send_if_modified(|present| {
            let first = present.is_none();
            present.get_or_insert(closing);
            first
        });
    }

    /// Waits until the session is to end.
    pub(super) async fn closed(&self) -> Closing {
        let mut closing = self.closing.subscribe();
        let found = closing.wait_for(Option::is_some).await;
        found.ok().and_then(|closing| *closing).unwrap_or(Closing::Gone)
    }
}

fn text_of(message: &ServerMessage) -> Option<String> {
    serde_json::to_string(message).inspect_err(|error| tracing::error!(%error, "a message cannot be written")).ok()
}

async fn put_into(sink: &mut actix_ws::Session, outgoing: Outgoing) -> Result<(), actix_ws::Closed> {
    match outgoing {
        Outgoing::Text(text) => sink.text(text).await,
        Outgoing::Ping => sink.ping(b"").await,
        Outgoing::Pong(payload) => sink.pong(&payload).await,
    }
}

async fn write(mut sink: actix_ws::Session, mut queued: mpsc::Receiver<Outgoing>, mut closed: watch::Receiver<Option<Closing>>) {
    loop {
        let outgoing = tokio::select! {
            biased;
            _ = closed.wait_for(Option::is_some) => break,
            outgoing = queued.recv() => outgoing,
        };
        let Some(outgoing) = outgoing else { break };
        // The socket may be full for long: the end of the session must not wait for it.
        tokio::select! {
            written = put_into(&mut sink, outgoing) => if written.is_err() { break },
            _ = closed.wait_for(Option::is_some) => break,
        }
    }
    let closing = (*closed.borrow()).unwrap_or(Closing::Gone);
    let last_words = async {
        // What was queued before the end explains it, such as an error.
        while let Ok(outgoing) = queued.try_recv() {
            if put_into(&mut sink, outgoing).await.is_err() {
                return;
            }
        }
        let _ = sink.close(Some(closing.reason())).await;
    };
    let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
}
