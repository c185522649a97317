//! The uplink, as the thread that feeds it knows it: how much waits before it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::BitsPerSecond;

/// UDP and an Ethernet frame around it.
const UDP_AND_ETHERNET_BYTES: usize = 8 + 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
/// Payload of a full TCP segment, and the headers of one: TCP with timestamps, IPv4 and an Ethernet frame.
const SEGMENT_BYTES: usize = 1448;
const SEGMENT_HEADERS_BYTES: usize = 32 + IPV4_BYTES + 14;

/// An uplink that all links of a terminal share. Clones are the same line.
#[derive(Debug, Clone)]
pub struct Line {
    rate: BitsPerSecond,
    start: Instant,
    /// When all that waits will have gone out, in nanoseconds from `start`.
    clear_ns: Arc<AtomicU64>,
    /// Bytes that others have put on the line, and that the links have not made up for yet.
    beside: Arc<AtomicU64>,
    /// More is on its way than the line gets rid of.
    crowded: Arc<AtomicBool>,
}

impl Line {
    /// A line of this rate; 0 if it is not known, and then nothing ever waits before it.
    #[must_use]
    pub fn new(rate: BitsPerSecond) -> Self {
        Self { rate, start: Instant::now(), clear_ns: Arc::default(), beside: Arc::default(), crowded: Arc::default() }
    }

    #[must_use]
    pub fn rate(&self) -> BitsPerSecond {
        self.rate
    }

    /// How long the line needs for what it was given and what waits for it: packets with all their headers, acknowledgements and repetitions.
    #[must_use]
    pub fn queue(&self, now: Instant) -> Duration {
        let clear = Duration::from_nanos(self.clear_ns.load(Ordering::Relaxed));
        clear.saturating_sub(now.saturating_duration_since(self.start))
    }

    /// Whether the links have as much to get rid of as the line carries in half a second, whatever it is said to carry: a moment later they may have less.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    pub(super) fn crowd(&self, crowded: bool) {
        self.crowded.store(crowded, Ordering::Relaxed);
    }

    /// Tells of a TCP connection's share, about: what was sent over it, and the acknowledgements of what came, one for two segments. The kernel sends it
    /// past the links, so they leave as much of the line to it: else the line's queue grows until it drops packets.
    pub fn took_beside(&self, sent_bytes: usize, received_bytes: usize) {
        let headers = sent_bytes.div_ceil(SEGMENT_BYTES) + received_bytes.div_ceil(2 * SEGMENT_BYTES);
        let bytes = sent_bytes + headers * SEGMENT_HEADERS_BYTES;
        self.beside.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }

    /// What was told of since the last call, in bytes.
    pub(super) fn take_beside(&self) -> usize {
        usize::try_from(self.beside.swap(0, Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    pub(crate) fn clear_at(&self, at: Instant) {
        let clear = at.saturating_duration_since(self.start);
        self.clear_ns.store(u64::try_from(clear.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new(BitsPerSecond(0))
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

    #[test]
    fn a_connection_beside_the_links_takes_its_bytes_and_its_headers_once() {
        let line = Line::default();
        line.clone().took_beside(700, 0);
        line.took_beside(0, 65_536);
        assert_eq!(line.take_beside(), 700 + 66 + 23 * 66);
        assert_eq!(line.take_beside(), 0);
    }

    #[test]
    fn what_waits_grows_less_with_time() {
        let line = Line::new(BitsPerSecond::from_mbit(8));
        let now = Instant::now();
        assert_eq!(line.queue(now), Duration::ZERO);
        line.clone().clear_at(now + Duration::from_millis(80));
        let left = line.queue(now + Duration::from_millis(30));
        assert_eq!(left, Duration::from_millis(50));
        assert_eq!(line.queue(now + Duration::from_secs(1)), Duration::ZERO);
    }
}
