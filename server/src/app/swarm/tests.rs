//! Swarms from outside: a whole service with real stores, and terminals that speak the protocol over real WebSockets.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one message among many; a new kind changes nothing for it")]

mod audits;
mod cheats;
mod downloads;
mod loss;
pub(crate) mod machine;
mod money;
mod origin;
mod plans;
mod receipts;
mod relays;
mod repair;
mod reports;
mod sealed;
pub(crate) mod stage;

pub(crate) use machine::Machine;
pub(crate) use stage::Stage;
