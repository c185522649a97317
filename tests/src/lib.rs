//! The harness of the end-to-end tests: a real server process on a database of its own, the real `spillway` program, and people who use the REST API.
//!
//! `cargo xtask test` sets what it needs: `DATABASE_URL` and `REDIS_URL` of services that tests may use, and the paths of the two built programs. Every test has
//! a database and a Redis namespace of its own, so that they run in parallel; a test that fails leaves nothing running.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a harness: whatever is not as expected ends the test"
)]

pub mod database;
pub mod hostile;
pub mod person;
pub mod program;
pub mod redis;
pub mod release;
pub mod stack;
pub mod turn;

pub use person::Person;
pub use program::Running;
pub use release::{Plan, Published};
pub use stack::Stack;
pub use turn::TurnServer;

use std::future::Future;
use std::time::{Duration, Instant};

/// Asks `probe` until it gives a value; ends the test with `what` when the deadline has passed.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, within: Duration, mut probe: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(begun.elapsed() < within, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Bytes that no two calls share and that do not compress; the same for the same seed.
pub fn payload(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
