//! The kit's balance follows every delivery and every relay while the kit runs: whoever has moved money says so, and the next statement is fetched a moment later.

use std::time::Duration;

use protocol::ErrorCode;
use terminal::api::Api;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::Kit;
use crate::failure::Failure;

/// A relay's earnings grow many times a second: one statement covers them.
const GATHER: Duration = Duration::from_secs(1);
/// Failures that wait to be told. More than one only if the screen stands still; the later ones say the same.
const TOLD_MAX: usize = 4;

/// Fetches statements beside a run. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    moved: watch::Sender<u64>,
    failures: mpsc::Receiver<Failure>,
    task: JoinHandle<()>,
}

impl Follower {
    pub(crate) fn start(kit: Kit, api: Api) -> Self {
        let (moved, mut news) = watch::channel(0u64);
        let (tell, failures) = mpsc::channel(TOLD_MAX);
        let task = tokio::spawn(async move {
            while news.changed().await.is_ok() {
                tokio::time::sleep(GATHER).await;
                news.borrow_and_update();
                let Err(failure) = kit.catch_up(&api).await else { continue };
                let is_over = failure.code() == Some(ErrorCode::KitForked);
                // A full queue has the same to tell.
                let _ = tell.try_send(failure);
                if is_over {
                    return;
                }
            }
        });
        Self { moved, failures, task }
    }

    /// Money has moved.
    pub(crate) fn ask(&self) {
        self.moved.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// What keeps the balance from following. Never returns while nothing does.
    pub(crate) async fn failure(&mut self) -> Failure {
        match self.failures.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // An answer that is lost by this is given again: see `KitState::attempt`.
        self.task.abort();
    }
}
