//! End to end: real server, Postgres, Redis, terminals and data channels.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests: whatever is not as expected ends them, and whatever is not awaited is passed over"
)]

mod applications;
mod bounds;
mod budgets;
mod crowds;
mod destinations;
mod disks;
mod downloads;
mod duties;
mod hostile;
mod interruptions;
mod kits;
mod market;
mod measurements;
mod quarantines;
mod quotas;
mod refusals;
mod release;
mod reports;
mod ring;
mod scene;
mod sealed;
mod sparse;
mod turn;
mod updates;
mod webhooks;
