//! The terminal's engine: receives editions from the origin and from other terminals, verifies and stores them, and passes them on.
//!
//! [`engine::Engine`] drives the sans-IO machine of the crate `swarm` with everything that does input and output:
//!
//! ```text
//!              ┌── socket   the WebSocket: plans, grants, signals in; credits, notices, receipts out
//!  engine ─────┼── links    data channels to other terminals (link: the only module that knows the WebRTC library)
//!  one task    ├── api      REST and the origin's chunks over HTTPS
//!  per swarm   ├── store    chunks on disk, journal, files laid out at the end
//!              └── rate     limits on what is sent and received
//! ```

pub mod api;
mod backoff;
pub mod engine;
pub mod link;
pub mod links;
pub mod rate;
pub mod socket;
pub mod store;
#[cfg(test)]
mod testing;
