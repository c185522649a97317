//! Telling owners of events over HTTP: where that may lead ([`address`]), how it is signed ([`signature`]), one attempt ([`sender`]), and when the
//! next one is ([`schedule`]). What is to be told lies in the outbox ([`crate::store::outbox`]); the work itself is in [`crate::jobs::outgoing`].

pub mod address;
pub mod schedule;
pub mod sender;
pub mod signature;

#[cfg(test)]
pub(crate) mod receiver;

pub use address::Addresses;
pub use sender::Sender;
