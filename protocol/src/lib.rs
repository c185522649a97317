//! What crosses a border of Spillway: typed ids and units, REST bodies, WebSocket messages, data-channel frames, receipts, the manifest, what is sealed until its second, and the one
//! table of error codes. No I/O, no clock, no randomness: every other crate depends on this one and it depends on no runtime.
//!
//! JSON integers stay below 2^53 so that a browser reads them exactly.

pub mod audit;
pub mod bitmap;
pub mod error;
pub mod frame;
pub mod giving;
pub mod hello;
pub mod ids;
pub mod manifest;
pub mod plan_change;
pub mod receipt;
pub mod rest;
pub mod sealing;
pub mod units;
pub mod wire;
pub mod ws;

pub use error::{ErrorCode, Problem};
pub use ids::*;
pub use units::{Amount, BasisPoints, BitsPerSecond, Bytes, Currency, Money, TimestampMs};

/// The version of the WebSocket messages and data-channel frames. Both ends of a link must speak the same one.
pub const PROTOCOL_VERSION: u16 = 1;
