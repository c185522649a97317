//! The money decisions, property by property. `PROPTEST_CASES` sets how many cases each property is tried on (256 if unset).
#![allow(
    clippy::unwrap_used,
    reason = "a test's own arrangement must not fail; the lint's exception for tests does not reach functions they call"
)]

mod auction_examples;
mod auction_properties;
mod auction_truthfulness;
mod books;
mod duty;
mod ledger;
mod settlement;
