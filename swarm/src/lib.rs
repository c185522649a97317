//! The terminal's side of a swarm as a sans-IO state machine: events in (`handle_*`), actions and the next deadline out (`poll_*`).
//!
//! It reads no clock, socket, disk or randomness. The terminal's engine drives it with data channels, and the simulator with virtual time.
//!
//! Flow of a chunk: the server grants it → [`Action::FetchOrigin`] → [`Swarm::handle_origin_chunk`] verifies → [`Action::Store`] →
//! [`Swarm::handle_stored`] signs the receipt, announces it and queues the copies → [`Swarm::poll_transmit`] hands out one frame at a time, as fast as
//! the driver's uplink takes them. At the other end [`Swarm::handle_frame`] puts the frames together, verifies, and the same goes on from there.
//! A chunk that does not come in time is pulled: from the group, from an earlier group, and at last from the origin ([`Action::Missing`]).

mod action;
mod assembly;
mod below;
mod config;
mod credits;
mod due;
mod endgame;
mod gone;
mod inbound;
mod lost;
mod machine;
mod missing;
mod origin;
mod outbox;
mod peer;
mod pull;
mod relay;
mod relief;
mod repeats;
mod signing;

pub use action::{Action, Transmit};
pub use config::{Config, WINDOW_BYTES};
pub use machine::{Held, PlanError, Swarm};

/// Monotonic time since a start of the driver's choosing.
pub type Now = std::time::Duration;
