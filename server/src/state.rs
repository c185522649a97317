//! What every request handler and every background job shares. Cheap to clone.

use std::future::Future;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use tracing::Instrument;

use crate::app::swarm::{Reselections, Swarms};
use crate::auth::tokens::Parties;
use crate::auth::{Keys, Passwords};
use crate::config::Config;
use crate::error::ApiError;
use crate::live::Live;
use crate::origin::ChunkStore;
use crate::origin::budget::Budgets;
use crate::origin::pace::Pace;
use crate::secrets::SecretsKey;
use crate::store::Store;
use crate::webhooks::Sender;

#[derive(Debug, Clone)]
pub struct AppState {
    pub config: Arc<Config>,
    pub store: Store,
    pub live: Live,
    pub chunks: ChunkStore,
    /// The plans at hand.
    pub swarms: Swarms,
    /// What was chosen again, on its way into the report.
    pub reselections: Reselections,
    /// This instance's part of the origin budgets.
    pub budgets: Budgets,
    /// The origin's uplink.
    pub pace: Pace,
    pub keys: Keys,
    pub passwords: Passwords,
    /// Reads again what the database has wrapped.
    pub secrets: SecretsKey,
    /// Sends to owners' webhooks.
    pub webhooks: Sender,
    pub metrics: PrometheusHandle,
    /// Becomes true when the instance is told to stop: WebSockets close, jobs take nothing new.
    pub stopping: watch::Receiver<bool>,
    /// Since when this instance runs: what it missed it cannot know of.
    pub started_at: time::OffsetDateTime,
    /// Where work goes that must run to its end although the client that asked for it may leave: it outlives the connection.
    pub runtime: tokio::runtime::Handle,
}

impl AppState {
    /// Runs work to its end on a task of its own, whatever becomes of whoever waits for it. Every transaction that changes something runs so:
    /// a handler may be dropped in the middle when its client leaves, and a pool whose `begin` was cancelled loses a connection.
    pub async fn to_the_end<T, E>(&self, work: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, ApiError>
    where
        T: Send + 'static,
        E: Send + 'static,
        ApiError: From<E>,
    {
        let done = self.runtime.spawn(work.in_current_span()).await.map_err(ApiError::internal)?;
        Ok(done?)
    }

    /// Whose access tokens count here.
    pub fn token_parties(&self) -> Parties<'_> {
        Parties { issuer: &self.config.jwt_issuer, audience: &self.config.jwt_audience }
    }
}
