//! Spillway's pure decisions: who gets which rank at what price, what a delivery costs and who is paid for it.
//!
//! No clock, no I/O, no randomness: facts and the time come in as arguments and an outcome with its reason goes out, so that the server, the
//! simulator and a suspicious bidder can all run the same decision and get the same answer.

// Money: exact integers, checked operations, no floats.
pub mod auction;
pub mod duty;
pub mod ledger;
pub mod oracle;
pub mod settlement;
pub mod tariff;

// Planning: how wide a release is, who copies to whom, who is given which chunk, who counts as gone, and what no schedule can beat.
pub mod bound;
pub mod kit;
pub mod lease_table;
pub mod relay_plan;
pub mod report;
pub mod scale;
pub mod seen_rate;
pub mod sources;
pub mod suspicion;
pub mod ties;
