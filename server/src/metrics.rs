//! What an instance counts about itself, in Prometheus's text form at `GET /metrics`. A proxy should not let the public see it.

use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Requests by method, route pattern and status.
pub const REQUESTS: &str = "spillway_http_requests_total";
/// Seconds from a request's head to its answer's head, by method and route pattern.
pub const REQUEST_SECONDS: &str = "spillway_http_request_seconds";
/// Bytes of editions received from publishers.
pub const UPLOADED_BYTES: &str = "spillway_uploaded_bytes_total";
/// Chunks of uploads, by whether they were already stored.
pub const UPLOADED_CHUNKS: &str = "spillway_uploaded_chunks_total";
/// Bytes of manifests sent.
pub const MANIFEST_BYTES: &str = "spillway_manifest_bytes_total";

/// Audits of terminals by result: right, false, gone, unanswered.
pub const AUDITS: &str = "spillway_audits_total";

/// Attempts to tell a webhook of an event, by outcome.
pub const WEBHOOK_ATTEMPTS: &str = "spillway_webhook_attempts_total";
/// Events that wait to be sent, in the whole service.
pub const WEBHOOK_PENDING: &str = "spillway_webhook_pending";
/// Events that were given up and have not been sent again, in the whole service.
pub const WEBHOOK_DEAD: &str = "spillway_webhook_dead_letters";
/// How long the event that is due for longest has waited for somebody to send it, in seconds: large when the instances cannot keep up.
pub const WEBHOOK_OLDEST_DUE: &str = "spillway_webhook_oldest_due_age";

/// From a health check to an upload of minutes.
const SECONDS_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// How often histograms are folded together; the exporter's own advice.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder of this process at the first call; later calls share it.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    static INSTALLING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?;
    let handle = builder.install_recorder()?;
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Keeps the recorder's memory bounded, for ever.
pub async fn keep_up(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}
