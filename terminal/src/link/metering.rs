//! What links put on the wire: payload, headers, acknowledgements and what is sent again, counted where packets leave.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

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

/// A socket that counts what it sends.
#[derive(Debug)]
pub(super) struct MeteredSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    sent: WireCount,
}

impl MeteredSocket {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, sent: WireCount) -> Self {
        Self { socket, sent }
    }
}

/// What `bytes` of UDP payload to `destination`, cut into datagrams of `segment`, take on the wire.
fn on_the_wire(bytes: usize, segment: Option<usize>, destination: SocketAddr) -> usize {
    let packets = segment.map_or(1, |segment| bytes.div_ceil(segment.max(1)).max(1));
    let ip = if destination.is_ipv4() { IPV4_BYTES } else { IPV6_BYTES };
    bytes + packets * (ip + UDP_AND_ETHERNET_BYTES)
}

impl AsyncUdpSocket for MeteredSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn poll_send(&self, context: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let sent = ready!(self.socket.poll_send(context, transmit));
        if let Ok(bytes) = sent {
            self.sent.add(on_the_wire(bytes, transmit.segment_size, transmit.destination));
        }
        Poll::Ready(sent)
    }

    fn poll_recv(&self, context: &mut Context<'_>, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }

    fn max_gso_segments(&self) -> usize {
        self.socket.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.socket.max_gro_segments()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use webrtc::runtime::{Runtime, TokioRuntime};

    use super::*;

    #[test]
    fn every_datagram_of_a_batch_has_its_own_headers() {
        let (v4, v6) = ("192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap());
        assert_eq!(on_the_wire(1_200, None, v4), 1_242);
        assert_eq!(on_the_wire(1_200, None, v6), 1_262);
        assert_eq!(on_the_wire(2_500, Some(1_200), v4), 2_500 + 3 * 42);
        assert_eq!(on_the_wire(0, Some(1_200), v4), 42);
    }

    #[tokio::test]
    async fn what_a_socket_sends_is_counted() {
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sent = WireCount::default();
        let socket = MeteredSocket::new(TokioRuntime.wrap_udp_socket(sender).unwrap(), sent.clone());
        let destination = receiver.local_addr().unwrap();
        let transmit = Transmit { destination, ecn: None, contents: &[7; 100], segment_size: None, src_ip: None };
        std::future::poll_fn(|context| socket.poll_send(context, &transmit)).await.unwrap();
        assert_eq!(sent.bytes(), 142);
    }
}
