//! Fetches from the origin: granted chunks, a few at a time, in the order of their grants.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use protocol::{ErrorCode, SwarmId};

use super::Context;
use crate::api::ApiError;

/// Fetches at once: enough to fill a round trip, few enough that the first of them is not delayed by the last.
const PARALLEL: usize = 4;

/// What a request for a chunk takes, with its token; about.
const REQUEST_BYTES: usize = 700;

/// What became of a fetch.
#[derive(Debug)]
pub(super) enum Fetched {
    Chunk {
        chunk: u32,
        bytes: Bytes,
    },
    /// `retry_later`: the lease still stands.
    Failed {
        chunk: u32,
        retry_later: bool,
    },
}

/// The queue is bounded by the leases that the machine asks for (32) and the repairs that it is granted.
pub(super) struct OriginQueue {
    context: Arc<Context>,
    swarm: SwarmId,
    waiting: VecDeque<(u32, u32)>,
    running: FuturesUnordered<BoxFuture<'static, Fetched>>,
}

impl OriginQueue {
    pub(super) fn new(context: Arc<Context>, swarm: SwarmId) -> Self {
        Self { context, swarm, waiting: VecDeque::new(), running: FuturesUnordered::new() }
    }

    pub(super) fn push(&mut self, chunk: u32, length: u32) {
        if !self.waiting.iter().any(|(waiting, _)| *waiting == chunk) {
            self.waiting.push_back((chunk, length));
        }
    }

    /// Starts what may be started now.
    pub(super) fn start(&mut self) {
        while self.running.len() < PARALLEL
            && let Some((chunk, length)) = self.waiting.pop_front()
        {
            let (context, swarm) = (Arc::clone(&self.context), self.swarm);
            self.running.push(Box::pin(async move {
                context.down.acquire(length as usize).await;
                context.line.took_beside(REQUEST_BYTES, length as usize);
                match context.api.origin_chunk(swarm, chunk, context.me, length).await {
                    Ok(bytes) => Fetched::Chunk { chunk, bytes },
                    Err(error) => {
                        tracing::debug!(chunk, %error, "the origin did not send a chunk");
                        Fetched::Failed { chunk, retry_later: is_passing(&error) }
                    }
                }
            }));
        }
    }

    /// The next outcome; waits for ever if nothing is under way.
    pub(super) async fn next(&mut self) -> Fetched {
        match self.running.next().await {
            Some(fetched) => fetched,
            None => std::future::pending().await,
        }
    }
}

/// Whether the same fetch may succeed a little later under the same lease.
fn is_passing(error: &ApiError) -> bool {
    match error.code() {
        // The lease is gone, or the origin has nothing left to give.
        Some(ErrorCode::NoLease | ErrorCode::BudgetSpent | ErrorCode::NotInSwarm | ErrorCode::NotFound | ErrorCode::Forbidden) => false,
        Some(code) => code.is_retryable(),
        None => error.is_retryable(),
    }
}
