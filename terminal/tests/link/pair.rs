//! Two ends of a link in one process, and messages that show by themselves whether they arrived whole and in order.

use std::time::Duration;

use bytes::BytesMut;
use terminal::link::{BindPolicy, Endpoint, Link, LinkConfig, LinkError};
use tokio::time::Instant;

/// Generous: the machine may be busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn soon() -> Instant {
    Instant::now() + SOON
}

pub(crate) fn loopback() -> LinkConfig {
    LinkConfig { bind: BindPolicy::Only(vec!["127.0.0.1".parse().expect("an address")]), ..LinkConfig::default() }
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::new(loopback()).expect("an endpoint")
}

/// The offering end and the answering end of an open link.
pub(crate) async fn open(offering: &Endpoint, answering: &Endpoint) -> Result<(Link, Link), LinkError> {
    let (ours, offer) = offering.offer().await?;
    let (theirs, answer) = answering.accept(&offer).await?;
    tokio::try_join!(ours.complete(Some(&answer), soon()), theirs.complete(None, soon()))
}

pub(crate) async fn open_pair() -> (Link, Link) {
    open(&endpoint(), &endpoint()).await.expect("an open link")
}

/// A link between two endpoints of this configuration.
pub(crate) async fn open_pair_with(config: &LinkConfig) -> (Link, Link) {
    let [offering, answering] = [(); 2].map(|()| Endpoint::new(config.clone()).expect("an endpoint"));
    open(&offering, &answering).await.expect("an open link")
}

/// Message `number`, every byte of which depends on the number and the place.
pub(crate) fn message(number: u32, bytes: usize) -> BytesMut {
    let mut message = BytesMut::with_capacity(bytes);
    message.extend_from_slice(&number.to_le_bytes());
    message.extend((4..bytes).map(|place| expected(number, place)));
    message
}

fn expected(number: u32, place: usize) -> u8 {
    let mixed = (number as usize).wrapping_mul(2_654_435_761).wrapping_add(place.wrapping_mul(40_503));
    (mixed >> 8).to_le_bytes()[0]
}

pub(crate) fn assert_is(received: &[u8], number: u32, bytes: usize) {
    assert_eq!(received.len(), bytes, "message {number}");
    assert!(received == &message(number, bytes)[..], "message {number} arrived changed or out of order");
}

/// `future`, or a panic that names what was waited for.
pub(crate) async fn within<T>(wait: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(wait, future).await.unwrap_or_else(|_| panic!("{what} took longer than {wait:?}"))
}
