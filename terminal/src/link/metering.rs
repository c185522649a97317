//! What links put on the wire: payload, headers, acknowledgements and what is sent again, counted where packets leave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// UDP and an Ethernet frame around it.
const UDP_AND_ETHERNET_BYTES: usize = 8 + 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;

/// Bytes that went out on the wire, headers down to the Ethernet frame included. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct WireCount(Arc<AtomicU64>);

impl WireCount {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts `bytes` more.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What `bytes` of UDP payload to `destination`, cut into datagrams of `segment`, take on the wire.
pub(super) fn on_the_wire(bytes: usize, segment: Option<usize>, destination: SocketAddr) -> usize {
    let packets = segment.map_or(1, |segment| bytes.div_ceil(segment.max(1)).max(1));
    let ip = if destination.is_ipv4() { IPV4_BYTES } else { IPV6_BYTES };
    bytes + packets * (ip + UDP_AND_ETHERNET_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datagram_of_a_batch_has_its_own_headers() {
        let (v4, v6) = ("192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap());
        assert_eq!(on_the_wire(1_200, None, v4), 1_242);
        assert_eq!(on_the_wire(1_200, None, v6), 1_262);
        assert_eq!(on_the_wire(2_500, Some(1_200), v4), 2_500 + 3 * 42);
        assert_eq!(on_the_wire(0, Some(1_200), v4), 42);
    }
}
