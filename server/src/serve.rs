//! An instance from its start to its end.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::{App, HttpServer, web};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_actix_web::TracingLogger;

use crate::app::swarm::{Reselections, Swarms};
use crate::auth::keys::KeyError;
use crate::auth::passwords::HashError;
use crate::auth::{Keys, Passwords};
use crate::clock;
use crate::config::Config;
use crate::jobs;
use crate::live::{Live, LiveError};
use crate::origin::budget::Budgets;
use crate::origin::pace::Pace;
use crate::origin::{ChunkStore, ChunkStoreError};
use crate::routes;
use crate::routes::problems::RequestSpan;
use crate::secrets::{SecretsError, SecretsKey};
use crate::state::AppState;
use crate::store::{Store, StoreError};
use crate::webhooks::{Addresses, Sender};

/// How long open requests may take to end at a stop; the whole stop takes less than ten seconds.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// How long an idle connection stays open: longer than clients and proxies keep theirs in a pool, so that they do not write into one just closed.
const KEEP_ALIVE: Duration = Duration::from_secs(90);

/// How much longer than the requests the work with a due time may take to end at a stop.
const JOBS_STOP_WITHIN: Duration = Duration::from_secs(1);

/// Why an instance did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the database is not ready")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error("the chunk store is not ready")]
    Chunks(#[from] ChunkStoreError),
    #[error("the signing keys are not ready")]
    Keys(#[from] KeyError),
    #[error("the key for secrets is not ready")]
    Secrets(#[from] SecretsError),
    #[error("webhooks cannot be called")]
    Webhooks(#[from] reqwest::Error),
    #[error("passwords cannot be hashed")]
    Passwords(#[from] HashError),
    #[error("the metrics cannot be recorded")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error("{address} cannot be listened on")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("the server failed")]
    Serve(#[from] std::io::Error),
}

/// An instance that is open but does not listen yet; `stop` tells its background work to end.
#[derive(Debug)]
pub struct Opened {
    pub state: AppState,
    pub stop: watch::Sender<bool>,
}

/// Connects to everything, brings the schema up to date and makes what is missing.
pub async fn open(config: Config) -> Result<Opened, StartError> {
    let store = Store::connect(&config.database_url, config.currency).await?;
    store.migrate().await?;
    let keys = Keys::open(store.clone(), config.key_rotation_days, clock::now()).await?;
    let live = Live::connect(&config.redis_url, &config.redis_namespace).await?;
    let chunks = ChunkStore::local(&config.data_dir, config.sync_chunks)?;
    let secrets = SecretsKey::open(&config.secrets_key_file())?;
    let addresses = Addresses::new(&config.webhook_allow_networks, &config.webhook_http_hosts);
    let webhooks = Sender::new(addresses, Duration::from_secs(config.webhook_timeout.into()))?;
    let (stop, stopping) = watch::channel(false);
    let runtime = tokio::runtime::Handle::current();
    let state = AppState {
        swarms: Swarms::new(store.clone(), chunks.clone(), secrets.clone()),
        reselections: Reselections::new(store.clone(), live.clone()),
        budgets: Budgets::new(store.clone(), runtime.clone()),
        pace: Pace::new(config.origin_up),
        store,
        live,
        chunks,
        keys,
        secrets,
        webhooks,
        passwords: Passwords::new()?,
        metrics: crate::metrics::install()?,
        stopping,
        started_at: clock::now(),
        runtime,
        config: Arc::new(config),
    };
    Ok(Opened { state, stop })
}

/// The HTTP side on a listener, not yet polled.
pub fn http(state: AppState, listener: TcpListener) -> std::io::Result<Server> {
    let workers = state.config.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, std::num::NonZero::get);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(state.clone()))
            .configure(routes::configure)
            .wrap(actix_web::middleware::from_fn(routes::problems::problems))
            .wrap(TracingLogger::<RequestSpan>::new())
    });
    let server = server
        .workers(workers)
        .keep_alive(KEEP_ALIVE)
        // Without it every chunk waits some 40 ms for a delayed acknowledgement.
        .tcp_nodelay(true)
        .disable_signals();
    Ok(server.shutdown_timeout(STOP_WITHIN.as_secs()).listen(listener)?.run())
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(mut config: Config) -> Result<(), StartError> {
    let asked = config.listen;
    let listener = TcpListener::bind(asked).map_err(|source| StartError::Listen { address: asked, source })?;
    config.listen = listener.local_addr()?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let Opened { state, stop } = open(config).await?;
    let server = http(state.clone(), listener)?;
    let handle = server.handle();
    tokio::spawn(state.keys.clone().keep_rotating());
    tokio::spawn(crate::metrics::keep_up(state.metrics.clone()));
    tokio::spawn(state.budgets.clone().keep_written(state.stopping.clone()));
    tokio::spawn(state.reselections.clone().keep_written(state.stopping.clone()));
    let working = state.clone();
    let jobs = tokio::spawn(async move { tokio::join!(jobs::run(working.clone()), jobs::outgoing::run(working)) });
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        // WebSockets and jobs first: an open WebSocket would keep the server from stopping.
        stop.send_replace(true);
        handle.stop(true).await;
    });
    announce(&state);
    server.await?;
    match tokio::time::timeout(JOBS_STOP_WITHIN, jobs).await {
        Ok(Ok(((), ()))) => {}
        Ok(Err(error)) => tracing::error!(%error, "the work with a due time did not end well"),
        // Its claims run out in a few seconds, and what was half done is rolled back.
        Err(_) => tracing::warn!("work with a due time is left to another instance"),
    }
    if let Err(error) = state.reselections.write().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "what was chosen again last is not in the reports");
    }
    // After the last chunk was sent: what is left of the reserved blocks is free again.
    state.budgets.close().await?;
    state.store.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// One line on standard output, for whoever started this process and waits until it is ready.
fn announce(state: &AppState) {
    let line = serde_json::json!({ "listening": format!("http://{}", state.config.listen) });
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        tracing::warn!(%error, "standard output takes no line");
    }
    tracing::info!(address = %state.config.listen, public_url = state.config.public_url(), "ready");
}
