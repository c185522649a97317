//! Exchanges that measure this machine's line to the server.

use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::rest::{CommunicationState, MeasuredUpload, Measurement};
use protocol::{BitsPerSecond, TerminalId};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};

use super::request::{Call, accepted, read_bounded};
use super::{Api, ApiError};

/// An exchange that does not go on for this long has failed; the server ends it after ten seconds.
const IDLE_MAX: Duration = Duration::from_secs(15);
/// The longest answer to an upload.
const ANSWER_BYTES_MAX: u64 = 4 << 10;
/// The header that names the terminal.
const TERMINAL_HEADER: &str = "Spillway-Terminal";

/// How fast an exchange was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// 0 if everything came at once.
    pub rate: BitsPerSecond,
    /// From the first piece to the last one.
    pub elapsed: Duration,
}

impl Api {
    /// The time that the smallest request and its answer take.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn round_trip(&self) -> Result<Duration, ApiError> {
        let began = Instant::now();
        self.call_empty(Call::get("health/live").anonymous().once()).await?;
        Ok(began.elapsed())
    }

    /// Fetches up to `bytes` bytes without a meaning.
    ///
    /// # Errors
    /// Refused, for instance while a release needs the server's line, or the connection failed. Not tried again here: that would be another measurement.
    pub async fn measure_downlink(&self, terminal: TerminalId, bytes: u64) -> Result<Measured, ApiError> {
        let request = self.request(Method::GET, "v1/measurements/downlink", &[("bytes", bytes.to_string())])?;
        let mut response = accepted(self.sent(request.header(TERMINAL_HEADER, terminal.to_string())).await?).await?;
        let (mut first, mut last, mut after_first) = (None, Instant::now(), 0_u64);
        loop {
            let piece =
                tokio::time::timeout(IDLE_MAX, response.chunk()).await.map_err(|_| ApiError::Timeout)?.map_err(ApiError::network)?;
            let Some(piece) = piece else { break };
            last = Instant::now();
            match first {
                None => first = Some(last),
                Some(_) => after_first += piece.len() as u64,
            }
        }
        let elapsed = first.map_or(Duration::ZERO, |first| last - first);
        Ok(Measured { rate: rate(after_first, elapsed), elapsed })
    }

    /// Sends `bytes` bytes without a meaning; the server says how fast they came.
    ///
    /// # Errors
    /// As [`Api::measure_downlink`].
    pub async fn measure_uplink(&self, terminal: TerminalId, bytes: Bytes) -> Result<Measured, ApiError> {
        let request = self.request(Method::POST, "v1/measurements/uplink", &[])?;
        let request = request.header(TERMINAL_HEADER, terminal.to_string()).header(CONTENT_TYPE, "application/octet-stream").body(bytes);
        let response = accepted(self.sent(request).await?).await?;
        let answer = read_bounded(response, ANSWER_BYTES_MAX, IDLE_MAX).await?;
        let answer: MeasuredUpload = serde_json::from_slice(&answer).map_err(|error| ApiError::Answer(error.to_string()))?;
        Ok(Measured { rate: answer.rate, elapsed: Duration::from_micros(answer.elapsed_us) })
    }

    async fn sent(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ApiError> {
        let request = match self.access_token().await? {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        tokio::time::timeout(IDLE_MAX, request.send()).await.map_err(|_| ApiError::Timeout)?.map_err(ApiError::network)
    }

    /// Tells the server what this machine has measured of itself.
    pub async fn put_measurement(&self, terminal: TerminalId, measured: &Measurement) -> Result<CommunicationState, ApiError> {
        self.call(Call::put(format!("v1/terminals/{terminal}/measurement")).json(measured)).await
    }
}

fn rate(bytes: u64, elapsed: Duration) -> BitsPerSecond {
    let rate = (u128::from(bytes) * 8_000_000_000).checked_div(elapsed.as_nanos()).unwrap_or(0);
    BitsPerSecond(u64::try_from(rate).unwrap_or(u64::MAX).min(protocol::units::JSON_INTEGER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_came_after_the_first_piece_over_the_time_it_took() {
        assert_eq!(rate(1_000_000, Duration::from_secs(1)), BitsPerSecond(8_000_000));
        assert_eq!(rate(1, Duration::ZERO), BitsPerSecond(0), "all at once says nothing");
        assert_eq!(rate(u64::MAX, Duration::from_nanos(1)), BitsPerSecond(protocol::units::JSON_INTEGER_MAX));
    }
}
