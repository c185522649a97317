//! What terminals report about their deliveries while they run. It is shown, never paid on.

use std::time::Duration;

use protocol::DeliveryId;
use protocol::ws::Progress;

use super::{Live, LiveError};

/// How long a report is shown after the last one: long enough to see where a terminal stopped.
const PROGRESS_FOR: Duration = Duration::from_secs(3600);

impl Live {
    /// # Errors
    /// Redis is away.
    pub async fn set_progress(&self, delivery: DeliveryId, progress: &Progress) -> Result<(), LiveError> {
        let mut command = redis::cmd("SET");
        command.arg(self.key("progress", delivery)).arg(serde_json::to_string(progress)?).arg("EX").arg(PROGRESS_FOR.as_secs());
        self.command(command).await
    }

    /// The latest report of each delivery, in the order asked for.
    ///
    /// # Errors
    /// Redis is away, or holds what is no report.
    pub async fn progress(&self, deliveries: &[DeliveryId]) -> Result<Vec<Option<Progress>>, LiveError> {
        let reports = self.of_each("progress", deliveries).await?;
        reports.into_iter().map(|report| report.map(|text| serde_json::from_str(&text)).transpose().map_err(LiveError::from)).collect()
    }

    /// Notes a relay's overhead, measured from its notices.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn set_overhead(&self, delivery: DeliveryId, ns_per_byte: u64) -> Result<(), LiveError> {
        let mut command = redis::cmd("SET");
        command.arg(self.key("overhead", delivery)).arg(ns_per_byte).arg("EX").arg(PROGRESS_FOR.as_secs());
        self.command(command).await
    }

    /// The latest overhead of each delivery's terminal, in nanoseconds per byte, in the order asked for.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn overheads(&self, deliveries: &[DeliveryId]) -> Result<Vec<Option<u64>>, LiveError> {
        let overheads = self.of_each("overhead", deliveries).await?;
        Ok(overheads.into_iter().map(|text| text.and_then(|text| text.parse().ok())).collect())
    }

    async fn of_each(&self, kind: &str, deliveries: &[DeliveryId]) -> Result<Vec<Option<String>>, LiveError> {
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("MGET");
        for delivery in deliveries {
            command.arg(self.key(kind, delivery));
        }
        self.command(command).await
    }
}
