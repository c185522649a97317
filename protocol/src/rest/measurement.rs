//! How a terminal communicates: what it measures of itself, and what the server keeps.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::ids::TerminalId;
use crate::units::{BitsPerSecond, Bytes};

/// The most payload of one exchange that measures a line.
pub const MEASURED_BYTES_MAX: u64 = 8 << 20;

/// About `length` bytes that no compression on the way makes shorter, in whole words of eight: the payload of a measurement. The same ones each time
/// (xorshift64, Marsaglia 2003).
pub fn incompressible(length: usize) -> bytes::Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).take(length / 8).flatten().collect()
}

/// What a terminal has measured of itself. What is left out was not measured, and stays as it was known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// From the terminal to the server; takes the place of the rate stated before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub up: Option<BitsPerSecond>,
    /// From the server to the terminal; takes the place of the rate stated before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub down: Option<BitsPerSecond>,
    /// There and back, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round_trip_ms: Option<u16>,
    /// What its disk takes, to the platter.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disk_write: Option<BitsPerSecond>,
    /// Where its owner says that it stands; only equal regions are alike. What the operator knows of its address counts before that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub region: Option<u16>,
}

/// What an exchange that measured an uplink brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MeasuredUpload {
    pub bytes: Bytes,
    /// From the first piece to the last one, in microseconds; what came with the first piece is not a part of the rate.
    pub elapsed_us: u64,
    /// The rate behind the first piece; 0 if everything came at once.
    pub rate: BitsPerSecond,
}

/// The kind of address translation before a terminal, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NatMapping {
    #[default]
    Unknown,
    Open,
    EndpointIndependent,
    EndpointDependent,
}

/// How a terminal communicates, as measured last by anybody. What nobody measured is absent, or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CommunicationState {
    pub terminal_id: TerminalId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub region: Option<u16>,
    /// Between the terminal and the server, there and back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round_trip_ms: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loss_ppm: Option<u32>,
    pub nat: NatMapping,
    /// The highest rates of its transfers, smoothed.
    pub up_seen: BitsPerSecond,
    pub down_seen: BitsPerSecond,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub disk_write: Option<BitsPerSecond>,
    #[serde(with = "time::serde::rfc3339")]
    pub measured_at: OffsetDateTime,
}
