//! What the service does, between the routes and the stores: load → decide → one transaction → answer. No HTTP and no SQL here.

pub mod accounts;
pub mod applications;
pub mod checks;
pub mod contents;
pub mod downloads;
pub mod duties;
pub mod measurements;
pub mod quarantines;
pub mod releases;
pub mod reports;
pub mod sealing;
pub mod swarm;
pub mod tariffs;
pub mod terminals;
pub mod wallet;
pub mod webhooks;
