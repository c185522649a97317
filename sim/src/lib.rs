//! A deterministic simulator: the real planner of `rules` and the real machine of `swarm` under virtual time, with seeded faults, and promises that are
//! checked at every step.
//!
//! Flow: a [`Wish`] and its seed become a [`Scenario`] (who, which lines, which faults); a [`World`] runs it event by event and gives an [`Outcome`].
//! [`invariants`] holds what must be true; the first broken promise ends the run. The same seed gives the same run, event for event: there is no clock, no
//! thread and no hash map here, and each purpose has its own stream of random numbers ([`rng`]).
//!
//! What is real: plans, groups, views, every decision of a terminal, every message between terminals by way of its bytes, every hash and signature.
//! What is modelled: lines and losses, disks, the server with its lease tables and its budget, and what a terminal's engine does around the machine.

mod content;
pub mod faults;
pub mod invariants;
pub mod lab;
mod network;
mod plan;
mod queue;
pub mod report;
pub mod rng;
pub mod scenario;
mod server;
mod terminal;
mod world;

pub use faults::{Fault, FaultKind, What};
pub use invariants::{Invariant, Violation};
pub use report::Outcome;
pub use scenario::{Scenario, Wish};
pub use server::Fact;
pub use world::World;

/// Runs what is wished for.
pub fn run(wish: &Wish) -> Outcome {
    World::new(Scenario::new(wish)).run()
}
