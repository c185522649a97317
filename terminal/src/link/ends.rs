//! An open link and its two halves, which different tasks may use.

use bytes::{Bytes, BytesMut};
use protocol::hello::ChannelBinding;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channel::{Handle, LastHeard};
use super::config::MAX_MESSAGE_BYTES;
use super::error::{CloseReason, LinkError};

/// An open link. It ends when it, or the last half of it, is dropped.
#[derive(Debug)]
pub struct Link {
    sender: LinkSender,
    receiver: LinkReceiver,
    fingerprints: ChannelBinding,
}

/// The sending half. Clones send over the same channel; messages of one task stay in order.
#[derive(Debug, Clone)]
pub struct LinkSender {
    handle: Handle,
    buffer_bytes: usize,
}

/// The receiving half.
#[derive(Debug)]
pub struct LinkReceiver {
    inbox: mpsc::Receiver<Bytes>,
    handle: Handle,
}

impl Drop for LinkReceiver {
    fn drop(&mut self) {
        // The hub may keep messages for it.
        self.inbox.close();
        self.handle.taken();
    }
}

impl Link {
    pub(super) fn new(handle: Handle, inbox: mpsc::Receiver<Bytes>, fingerprints: ChannelBinding, buffer_bytes: usize) -> Self {
        let sender = LinkSender { handle: handle.clone(), buffer_bytes };
        Self { sender, receiver: LinkReceiver { inbox, handle }, fingerprints }
    }

    /// The SHA-256 fingerprints of both ends' certificates, the same at both ends of an honest link.
    #[must_use]
    pub fn fingerprints(&self) -> ChannelBinding {
        self.fingerprints
    }

    /// The halves. The link lives as long as one of them does.
    #[must_use]
    pub fn split(self) -> (LinkSender, LinkReceiver) {
        (self.sender, self.receiver)
    }

    /// See [`LinkSender::send`].
    pub async fn send(&self, message: impl Into<BytesMut> + Send) -> Result<(), LinkError> {
        self.sender.send(message).await
    }

    /// See [`LinkReceiver::recv`].
    pub async fn recv(&mut self) -> Result<Bytes, LinkError> {
        self.receiver.recv().await
    }

    /// See [`LinkSender::close`].
    pub async fn close(self) -> CloseReason {
        self.sender.close().await
    }
}

impl LinkSender {
    /// Queues a message, after waiting while the send buffer is full. A `Bytes` that nobody else holds is not copied. A caller that stops waiting
    /// does not know whether the message went out.
    ///
    /// # Errors
    /// [`LinkError::TooLarge`] without any effect on the link; [`LinkError::Closed`] when it has ended, also while waiting.
    pub async fn send(&self, message: impl Into<BytesMut> + Send) -> Result<(), LinkError> {
        let message = message.into();
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(LinkError::TooLarge { bytes: message.len() });
        }
        self.room().await?;
        self.handle.push(message);
        Ok(())
    }

    /// Waits while the send buffer is full, and then until a quarter of it is free.
    async fn room(&self) -> Result<(), LinkError> {
        if let Some(reason) = self.handle.reason() {
            return Err(LinkError::Closed(reason));
        }
        if self.handle.unacknowledged() < self.buffer_bytes {
            return Ok(());
        }
        self.handle.below(self.buffer_bytes / 4 * 3).await.map_err(LinkError::Closed)
    }

    /// How many bytes the other end has not acknowledged, sent and unsent together. 0 for a link that has ended.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        if self.handle.reason().is_some() { 0 } else { self.handle.unacknowledged() }
    }

    /// Waits until the other end has acknowledged everything, so that closing loses nothing on the way. What its program has not read yet may
    /// still be lost when the link is closed.
    ///
    /// # Errors
    /// [`LinkError::Deadline`], or [`LinkError::Closed`] when the link ended first.
    pub async fn flush(&self, deadline: Instant) -> Result<(), LinkError> {
        match tokio::time::timeout_at(deadline, self.handle.below(1)).await {
            Ok(outcome) => outcome.map_err(LinkError::Closed),
            Err(_) => Err(LinkError::Deadline),
        }
    }

    /// Waits until the link has ended, and says why.
    pub async fn closed(&self) -> CloseReason {
        self.handle.ending().await
    }

    /// Ends the link: the other end is told, and sockets and tasks are gone on return. What was not acknowledged is lost. Any half may close;
    /// the others get [`LinkError::Closed`].
    pub async fn close(&self) -> CloseReason {
        self.handle.end(CloseReason::Local);
        self.handle.ended().await
    }
}

impl LinkReceiver {
    /// When the other end was last heard, for whoever watches it.
    #[must_use]
    pub fn last_heard(&self) -> LastHeard {
        self.handle.heard()
    }

    /// The next message, in the order of sending. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// [`LinkError::Closed`] after the last message that arrived. A message above [`MAX_MESSAGE_BYTES`], or text, ends the link.
    pub async fn recv(&mut self) -> Result<Bytes, LinkError> {
        let received = self.inbox.recv().await;
        self.handle.taken();
        // The hub lets go of the inbox when the link has ended and everything was handed over.
        received.ok_or_else(|| LinkError::Closed(self.handle.end(CloseReason::Lost)))
    }

    /// Waits until the link has ended, and says why.
    pub async fn closed(&self) -> CloseReason {
        self.handle.ending().await
    }

    /// See [`LinkSender::close`].
    pub async fn close(&self) -> CloseReason {
        self.handle.end(CloseReason::Local);
        self.handle.ended().await
    }
}
