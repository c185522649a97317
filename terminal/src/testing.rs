//! The other ends that the tests of this crate talk to: real listeners on loopback, scripted per test.

pub(crate) mod http;
pub(crate) mod release;
pub(crate) mod websocket;
