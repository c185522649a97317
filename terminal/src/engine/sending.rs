//! Chunk frames on their way out: one after the other, as the uplink's limit and the links allow.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use protocol::SwarmId;
use protocol::frame::{ChunkFrame, Frame};
use swarm::Transmit;
use tokio::sync::mpsc;

use super::Context;
use crate::links::{ChunkJob, ChunkSlot};
use crate::store::{Store, StoreError};

/// Chunks that were found changed on disk. One is enough to start over, so further ones need no place.
const CORRUPT: usize = 1;

pub(super) struct Sending {
    context: Arc<Context>,
    swarm: SwarmId,
    store: Store,
    /// The last frame's price is being paid; the next one waits for it.
    paying: Option<BoxFuture<'static, ()>>,
    corrupt_sender: mpsc::Sender<StoreError>,
    corrupt: mpsc::Receiver<StoreError>,
    /// Payload handed to links.
    pub(super) bytes: u64,
}

impl Sending {
    pub(super) fn new(context: Arc<Context>, swarm: SwarmId, store: Store) -> Self {
        let (corrupt_sender, corrupt) = mpsc::channel(CORRUPT);
        Self { context, swarm, store, paying: None, corrupt_sender, corrupt, bytes: 0 }
    }

    /// Whether the next frame may go.
    pub(super) fn is_free(&self) -> bool {
        self.paying.is_none()
    }

    /// Queues a frame at its link and begins to pay for it.
    pub(super) fn send(&mut self, slot: ChunkSlot, transmit: Transmit) {
        let bytes = ChunkFrame::header_len(transmit.destinations.len()) + transmit.len as usize;
        self.bytes += u64::from(transmit.len);
        slot.send(self.job(transmit));
        let up = self.context.up.clone();
        let mut paying: BoxFuture<'static, ()> = Box::pin(async move { up.acquire(bytes).await });
        if paying.as_mut().now_or_never().is_none() {
            self.paying = Some(paying);
        }
    }

    /// Reads the chunk when the link is ready to take it: what waits in a queue holds no memory.
    fn job(&self, transmit: Transmit) -> ChunkJob {
        let (store, swarm_id, corrupt) = (self.store.clone(), self.swarm, self.corrupt_sender.clone());
        Box::pin(async move {
            let Transmit { peer: _, chunk, offset, len, first_copy, hop, destinations } = transmit;
            let (from, to) = (offset as usize, (offset + len) as usize);
            let payload = match store.read(chunk).await {
                Ok(bytes) if to <= bytes.len() => bytes.slice(from..to),
                Ok(_) => return None,
                Err(error) => {
                    let _ = corrupt.try_send(error);
                    return None;
                }
            };
            let frame = ChunkFrame { swarm_id, chunk, offset, first_copy, hop, destinations, payload };
            Some(Frame::Chunk(frame).encode())
        })
    }

    /// Waits until the last frame is paid for; for ever if it is.
    pub(super) async fn paid(paying: &mut Option<BoxFuture<'static, ()>>) {
        match paying {
            Some(pay) => pay.await,
            None => std::future::pending().await,
        }
        *paying = None;
    }

    /// What the task waits on: the payment, and chunks that could not be read.
    pub(super) fn waits(&mut self) -> (&mut Option<BoxFuture<'static, ()>>, &mut mpsc::Receiver<StoreError>) {
        (&mut self.paying, &mut self.corrupt)
    }
}
