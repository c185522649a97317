//! An open link and its two halves, which different tasks may use.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::hello::ChannelBinding;
use tokio::time::Instant;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::error::Error as LibraryError;

use super::config::MAX_MESSAGE_BYTES;
use super::connection::Handle;
use super::error::{CloseReason, LinkError};

/// How long a sender looks away while its buffer is full, doubled each time. The library can wake it instead, and does so with every packet that
/// arrives, which costs more than the packets: 40 s of processor time per GiB on a link of 100 Mbit/s. At 250 MB/s a quarter of the buffer drains in
/// the shortest wait, and at 25 MB/s in the longest.
const WAIT_MIN: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_millis(10);

/// An open link. It ends when it, or the last half of it, is dropped.
#[derive(Debug)]
pub struct Link {
    sender: LinkSender,
    receiver: LinkReceiver,
    fingerprints: ChannelBinding,
}

/// The sending half. Clones send over the same channel; messages of one task stay in order.
#[derive(Clone)]
pub struct LinkSender {
    channel: Arc<dyn DataChannel>,
    handle: Handle,
    buffer_bytes: usize,
}

/// The receiving half.
pub struct LinkReceiver {
    channel: Arc<dyn DataChannel>,
    handle: Handle,
}

impl std::fmt::Debug for LinkSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkSender").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for LinkReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkReceiver").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(channel: Arc<dyn DataChannel>, handle: Handle, fingerprints: ChannelBinding, buffer_bytes: usize) -> Self {
        let sender = LinkSender { channel: Arc::clone(&channel), handle: handle.clone(), buffer_bytes };
        Self { sender, receiver: LinkReceiver { channel, handle }, fingerprints }
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
        match self.channel.send(message).await {
            Ok(()) => Ok(()),
            Err(LibraryError::ErrDataChannelClosed) => Err(LinkError::Closed(self.handle.end(CloseReason::Remote))),
            Err(error) => Err(LinkError::Transport(error.to_string())),
        }
    }

    /// Waits while the send buffer is full, and then until a quarter of it is free.
    async fn room(&self) -> Result<(), LinkError> {
        let mut allowed = self.buffer_bytes;
        let mut wait = WAIT_MIN;
        while self.unacknowledged().await? >= allowed {
            allowed = self.buffer_bytes / 4 * 3;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                reason = self.handle.ending() => return Err(LinkError::Closed(reason)),
            }
            wait = (wait * 2).min(WAIT_MAX);
        }
        Ok(())
    }

    async fn unacknowledged(&self) -> Result<usize, LinkError> {
        if let Some(reason) = self.handle.reason() {
            return Err(LinkError::Closed(reason));
        }
        // The library knows the channel no more when the other end has closed it.
        self.channel.outstanding_bytes().await.map_err(|_| LinkError::Closed(self.handle.end(CloseReason::Remote)))
    }

    /// How many bytes the other end has not acknowledged, sent and unsent together. 0 for a link that has ended.
    pub async fn buffered_bytes(&self) -> usize {
        self.channel.outstanding_bytes().await.unwrap_or(0)
    }

    /// Waits until the other end has acknowledged everything, so that closing loses nothing on the way. What its program has not read yet may
    /// still be lost when the link is closed.
    ///
    /// # Errors
    /// [`LinkError::Deadline`], or [`LinkError::Closed`] when the link ended first.
    pub async fn flush(&self, deadline: Instant) -> Result<(), LinkError> {
        let mut wait = WAIT_MIN;
        while self.unacknowledged().await? > 0 {
            if Instant::now() >= deadline {
                return Err(LinkError::Deadline);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
        Ok(())
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
    /// The next message, in the order of sending. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// [`LinkError::Closed`] after the last message that arrived. A message above [`MAX_MESSAGE_BYTES`], or text, ends the link.
    pub async fn recv(&mut self) -> Result<Bytes, LinkError> {
        loop {
            let reason = match self.channel.poll().await {
                Some(DataChannelEvent::OnMessage(message)) if message.is_string => CloseReason::Violation,
                Some(DataChannelEvent::OnMessage(message)) if message.data.len() > MAX_MESSAGE_BYTES => {
                    CloseReason::Oversize { bytes: message.data.len() }
                }
                Some(DataChannelEvent::OnMessage(message)) => return Ok(message.data.freeze()),
                Some(DataChannelEvent::OnClosing | DataChannelEvent::OnClose) => CloseReason::Remote,
                // The stream of events ended: closed by this end, or the driver gave up.
                None => CloseReason::Lost,
                // Opened, an error that does not end the channel, marks of the send buffer.
                Some(_) => continue,
            };
            return Err(LinkError::Closed(self.handle.end(reason)));
        }
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
