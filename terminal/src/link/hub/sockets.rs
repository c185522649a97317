//! The sockets that all links of a hub share: one per local address, read and written in batches.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use protocol::BitsPerSecond;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::super::config::WINDOW_BYTES_MAX;
use super::super::error::LinkError;
use super::super::line::{Line, on_the_wire};
use super::carried::Sent;
use crate::rate::{LINE_BURST, TokenBucket};

/// Asked of the kernel per socket. It grants at most `net.core.rmem_max`, and charges a packet of 1.2 KB with about twice its length.
const SOCKET_BUFFER_BYTES: usize = 2 * WINDOW_BYTES_MAX as usize;
/// Messages per read. Each may hold many packets where the kernel puts them together.
const READ_MESSAGES: usize = 16;
/// What the kernel puts together is at most one IP packet long.
const READ_BYTES: usize = 64 << 10;
/// Packets that one pass reads from one socket before the others, and the links, have their turn.
const READ_PACKETS_MAX: usize = 256;
/// Packets handed to the kernel together, and their bytes: less than the longest IP packet.
const RUN_PACKETS_MAX: usize = 44;
const RUN_BYTES_MAX: usize = 60 << 10;
/// And what the line takes in this time, of which it has more in its queue: 25 ms are a frame.
const RUN_OF_THE_LINE: Duration = Duration::from_millis(25);
/// A packet as long as this carries data: acknowledgements, receipts and questions are shorter.
const DATA_BYTES_MIN: usize = 600;

/// Grows the kernel's buffers of a socket as far as the kernel lets it.
pub(in super::super) fn enlarge(socket: &std::net::UdpSocket) -> io::Result<()> {
    let options = SockRef::from(socket);
    options.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    options.set_send_buffer_size(SOCKET_BUFFER_BYTES)
}

#[derive(Debug)]
struct Socket {
    address: SocketAddr,
    io: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    fn bind(ip: IpAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((ip, 0))?;
        enlarge(&socket)?;
        socket.set_nonblocking(true)?;
        let io = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        Ok(Self { address: io.local_addr()?, io, state })
    }

    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.io), transmit))
    }
}

/// Why packets are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The kernel takes no more for the socket at this address.
    Socket(SocketAddr),
    /// The line takes no more before this.
    Line(Instant),
}

pub(super) struct Sockets {
    open: Vec<Socket>,
    buffers: Vec<Vec<u8>>,
    /// A run of packets, put together for the kernel.
    run: Vec<u8>,
    run_bytes_max: usize,
    line: Line,
    /// What the line takes now, if its rate is known.
    bucket: Option<TokenBucket>,
    /// What was sent and not told yet.
    sent: Sent,
}

/// The longest run for a line of this rate; 0 is not known.
fn run_bytes_max(rate: BitsPerSecond) -> usize {
    let of_the_line = rate.0 / 8 * u64::try_from(RUN_OF_THE_LINE.as_millis()).unwrap_or(0) / 1000;
    if rate.0 == 0 { RUN_BYTES_MAX } else { usize::try_from(of_the_line).unwrap_or(RUN_BYTES_MAX).min(RUN_BYTES_MAX) }
}

impl Sockets {
    /// Sockets before a line. What links let out comes in bursts: a congestion window that has grown, or many links at a time. What the line's queue has
    /// no room for would be lost, and a data channel waits a second for what is lost. So it waits here.
    pub(super) fn new(line: Line) -> Self {
        let bucket = TokenBucket::new(line.rate(), LINE_BURST, Instant::now());
        let run_bytes_max = run_bytes_max(line.rate());
        let buffers = vec![vec![0; READ_BYTES]; READ_MESSAGES];
        Self { open: Vec::new(), buffers, run: Vec::with_capacity(run_bytes_max), run_bytes_max, line, bucket, sent: Sent::default() }
    }

    /// Lets packets go at this rate from now on, up to the line's. Nothing changes where the line's rate is not known.
    pub(super) fn set_pace(&mut self, rate: BitsPerSecond) {
        if let Some(bucket) = &mut self.bucket {
            bucket.set_rate(rate);
            self.run_bytes_max = run_bytes_max(rate);
        }
    }

    /// What was sent since the last call.
    pub(super) fn take_sent(&mut self) -> Sent {
        std::mem::take(&mut self.sent)
    }

    /// Binds those of `addresses` that are not bound yet, and says where all of them listen. An address that cannot be bound is left out: another one
    /// may do.
    ///
    /// # Errors
    /// [`LinkError::Transport`] if none could be bound.
    pub(super) fn bind(&mut self, addresses: &[IpAddr]) -> Result<Vec<SocketAddr>, LinkError> {
        let mut bound = Vec::new();
        let mut refusal = String::from("no address to bind");
        for ip in addresses {
            if let Some(socket) = self.open.iter().find(|socket| socket.address.ip() == *ip) {
                bound.push(socket.address);
                continue;
            }
            match Socket::bind(*ip) {
                Ok(socket) => {
                    bound.push(socket.address);
                    self.open.push(socket);
                }
                Err(error) => {
                    tracing::debug!(%ip, %error, "an address cannot be bound");
                    refusal = format!("{ip}: {error}");
                }
            }
        }
        if bound.is_empty() { Err(LinkError::Transport(refusal)) } else { Ok(bound) }
    }

    /// Closes all sockets. Called when there is no link: the next one binds the addresses that the machine has then.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }

    /// Ready when a socket has packets. Never if there is none.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        // A socket with an error is read, and tells it then.
        let ready = self.open.iter().filter(|socket| socket.io.poll_recv_ready(context).is_ready()).count();
        if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ready when the socket at `address` takes packets again.
    pub(super) fn poll_writable(&self, address: SocketAddr, context: &mut Context<'_>) -> Poll<()> {
        match self.open.iter().find(|socket| socket.address == address) {
            Some(socket) => socket.io.poll_send_ready(context).map(|_| ()),
            None => Poll::Ready(()),
        }
    }

    /// Reads what is there into `packets`, up to a bound. Returns whether something may be left.
    pub(super) fn read(&mut self, now: Instant, packets: &mut Vec<TaggedBytesMut>) -> bool {
        let mut more = false;
        for socket in &self.open {
            let end = packets.len() + READ_PACKETS_MAX;
            loop {
                if packets.len() >= end {
                    more = true;
                    break;
                }
                match read_once(socket, &mut self.buffers, now, packets) {
                    Ok(READ_MESSAGES) => {}
                    Ok(_) => break,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // ICMP errors of one destination come this way too, and say nothing about the others.
                    Err(error) => {
                        tracing::trace!(%error, address = %socket.address, "reading");
                        break;
                    }
                }
            }
        }
        more
    }

    /// Sends from the front of `packets`. What is left stays queued, and the answer says what it waits for.
    pub(super) fn send(&mut self, packets: &mut VecDeque<TaggedBytesMut>) -> Option<Full> {
        let beside = self.line.take_beside();
        if let Some(bucket) = &mut self.bucket {
            bucket.spend(beside, Instant::now());
        }
        let full = self.send_what_goes(packets);
        if let Some(bucket) = &self.bucket {
            let left = packets.iter().map(|packet| on_the_wire(packet.message.len(), None, packet.transport.peer_addr)).sum();
            self.line.clear_at(bucket.paid_at(left, Instant::now()));
        }
        full
    }

    /// Sends everything now, whatever the line takes: last words, for which nobody comes back. What a socket does not take is lost.
    pub(super) fn send_last(&mut self, packets: &mut VecDeque<TaggedBytesMut>) {
        let bucket = self.bucket.take();
        self.send_what_goes(packets);
        self.bucket = bucket;
        packets.clear();
    }

    fn send_what_goes(&mut self, packets: &mut VecDeque<TaggedBytesMut>) -> Option<Full> {
        while let Some(first) = packets.front() {
            let transport = first.transport;
            let Some(socket) = self.open.iter().find(|socket| socket.address == transport.local_addr) else {
                // Its address has gone with the last link that used it.
                packets.pop_front();
                continue;
            };
            let count = run_length(packets, socket.state.max_gso_segments().min(RUN_PACKETS_MAX), self.run_bytes_max);
            let segment = first.message.len();
            let mut transmit =
                Transmit { destination: transport.peer_addr, ecn: None, contents: &first.message, segment_size: None, src_ip: None };
            if count > 1 {
                self.run.clear();
                packets.iter().take(count).for_each(|packet| self.run.extend_from_slice(&packet.message));
                transmit.contents = &self.run;
                transmit.segment_size = Some(segment);
            }
            let bytes = on_the_wire(transmit.contents.len(), transmit.segment_size, transport.peer_addr);
            let now = Instant::now();
            if let Some(wait) = self.bucket.as_ref().and_then(|bucket| bucket.wait(bytes, now)) {
                return Some(Full::Line(now + wait));
            }
            match socket.send(&transmit) {
                Ok(()) => {
                    if let Some(bucket) = &mut self.bucket {
                        bucket.spend(bytes, now);
                    }
                    self.sent.on_the_wire += bytes;
                    if segment >= DATA_BYTES_MIN {
                        self.sent.data += transmit.contents.len();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(Full::Socket(transport.local_addr)),
                // As if it had been lost on the way: a destination that cannot be reached is noticed by its silence.
                Err(error) => tracing::trace!(%error, to = %transport.peer_addr, "sending"),
            }
            packets.drain(..count);
        }
        None
    }
}

/// How many packets at the front can go to the kernel as one: the same two ends, the same length, the last one may be shorter.
fn run_length(packets: &VecDeque<TaggedBytesMut>, packets_max: usize, bytes_max: usize) -> usize {
    let Some(first) = packets.front() else { return 0 };
    let segment = first.message.len();
    if segment == 0 {
        return 1;
    }
    let (mut count, mut bytes) = (1, segment);
    for packet in packets.iter().skip(1) {
        let length = packet.message.len();
        let alike = packet.transport.local_addr == first.transport.local_addr && packet.transport.peer_addr == first.transport.peer_addr;
        if !alike || length == 0 || length > segment || count >= packets_max || bytes + length > bytes_max {
            break;
        }
        count += 1;
        bytes += length;
        if length < segment {
            break;
        }
    }
    count
}

/// One call into the kernel. Returns how many messages it gave: with less than [`READ_MESSAGES`] nothing is left, which the runtime is told as if another
/// call had said so. What comes later wakes it anew.
fn read_once(socket: &Socket, buffers: &mut [Vec<u8>], now: Instant, packets: &mut Vec<TaggedBytesMut>) -> io::Result<usize> {
    let mut metas = [RecvMeta::default(); READ_MESSAGES];
    let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
    let mut messages = 0;
    let read = socket.io.try_io(Interest::READABLE, || {
        messages = socket.state.recv(UdpSockRef::from(&socket.io), &mut slices, &mut metas)?;
        if messages < READ_MESSAGES { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match read {
        Err(error) if messages == 0 => return Err(error),
        Ok(()) | Err(_) => {}
    }
    for (meta, buffer) in metas.iter().zip(buffers.iter()).take(messages) {
        let transport =
            TransportContext { local_addr: socket.address, peer_addr: meta.addr, transport_protocol: TransportProtocol::UDP, ecn: None };
        // An empty datagram has no stride.
        for packet in buffer[..meta.len].chunks(meta.stride.max(1)) {
            packets.push(TaggedBytesMut { now, transport, message: BytesMut::from(packet) });
        }
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn packet(to: u16, bytes: usize) -> TaggedBytesMut {
        let transport = TransportContext {
            local_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            peer_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, to)),
            transport_protocol: TransportProtocol::UDP,
            ecn: None,
        };
        TaggedBytesMut { now: Instant::now(), transport, message: BytesMut::zeroed(bytes) }
    }

    #[test]
    fn a_run_is_of_one_destination_and_length_and_ends_with_a_shorter_packet() {
        let run = |packets: &[(u16, usize)], most| {
            run_length(&packets.iter().map(|(to, bytes)| packet(*to, *bytes)).collect(), most, RUN_BYTES_MAX)
        };
        assert_eq!(run(&[], 9), 0);
        assert_eq!(run(&[(5, 100)], 9), 1);
        assert_eq!(run(&[(5, 100), (5, 100), (5, 60), (5, 60)], 9), 3);
        assert_eq!(run(&[(5, 100), (5, 101)], 9), 1);
        assert_eq!(run(&[(5, 100), (6, 100)], 9), 1);
        assert_eq!(run(&[(5, 100), (5, 100), (5, 100)], 2), 2);
        assert_eq!(run(&[(5, 0), (5, 0)], 9), 1);
        assert_eq!(run(&[(5, 1_400); 80], 99), RUN_BYTES_MAX / 1_400);
    }

    #[tokio::test]
    async fn what_others_send_over_the_line_is_waited_for() {
        let line = Line::new(BitsPerSecond::from_mbit(8));
        let mut sockets = Sockets::new(line.clone());
        let address = sockets.bind(&[IpAddr::from(Ipv4Addr::LOCALHOST)]).unwrap()[0];
        let mut packet = packet(address.port(), 1_000);
        packet.transport.local_addr = address;
        let mut packets = VecDeque::from([packet]);
        line.took_beside(100_000, 0);
        let Some(Full::Line(until)) = sockets.send(&mut packets) else { panic!("a tenth of a second is taken already") };
        assert!(until > Instant::now() + Duration::from_millis(40) && packets.len() == 1);
    }

    #[tokio::test]
    async fn a_batch_arrives_packet_by_packet() {
        let mut sockets = Sockets::new(Line::default());
        let from = sockets.bind(&[IpAddr::from(Ipv4Addr::LOCALHOST)]).unwrap()[0];
        let mut receiving = Sockets::new(Line::default());
        let to = receiving.bind(&[IpAddr::from(Ipv4Addr::LOCALHOST)]).unwrap()[0];
        let lengths = [1_000, 1_000, 1_000, 400, 1_200, 7];
        let mut packets: VecDeque<TaggedBytesMut> = VecDeque::new();
        for (number, length) in lengths.iter().enumerate() {
            let mut packet = packet(to.port(), *length);
            packet.transport.local_addr = from;
            packet.message[0] = u8::try_from(number).unwrap();
            packets.push_back(packet);
        }
        // A socket is not known to be writable until it was asked.
        while let Some(Full::Socket(blocked)) = sockets.send(&mut packets) {
            std::future::poll_fn(|context| sockets.poll_writable(blocked, context)).await;
        }
        assert!(packets.is_empty());
        let mut received = Vec::new();
        while received.len() < lengths.len() {
            std::future::poll_fn(|context| receiving.poll_readable(context)).await;
            receiving.read(Instant::now(), &mut received);
        }
        let seen: Vec<_> = received.iter().map(|packet| (packet.message.len(), packet.message[0], packet.transport.peer_addr)).collect();
        let expected: Vec<_> = lengths.iter().enumerate().map(|(number, length)| (*length, u8::try_from(number).unwrap(), from)).collect();
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn what_a_line_does_not_take_at_once_waits_and_leaves_at_its_rate() {
        // 100 KB/s, so 4 KB at once.
        let line = Line::new(BitsPerSecond(800_000));
        let mut sockets = Sockets::new(line.clone());
        let from = sockets.bind(&[IpAddr::from(Ipv4Addr::LOCALHOST)]).unwrap()[0];
        let mut packets: VecDeque<TaggedBytesMut> = (0..20).map(|_| packet(from.port(), 1_000 - 42)).collect();
        packets.iter_mut().for_each(|packet| packet.transport.local_addr = from);
        let start = Instant::now();
        while let Some(full) = sockets.send(&mut packets) {
            match full {
                Full::Line(until) => {
                    let (now, due) = (Instant::now(), start + Duration::from_millis(200));
                    assert!(!packets.is_empty() && until > start);
                    // Whatever has gone, all of it is paid 0.2 s after the start, or later if this thread was late.
                    assert!(now + line.queue(now) >= due - Duration::from_millis(1), "{:?} are left", line.queue(now));
                    tokio::time::sleep_until(until.into()).await;
                }
                Full::Socket(blocked) => std::future::poll_fn(|context| sockets.poll_writable(blocked, context)).await,
            }
        }
        assert!(start.elapsed() >= Duration::from_millis(159), "16 KB beyond the first 4: {:?}", start.elapsed());
    }

    #[tokio::test]
    async fn last_words_do_not_wait_for_the_line() {
        let mut sockets = Sockets::new(Line::new(BitsPerSecond(8_000)));
        let from = sockets.bind(&[IpAddr::from(Ipv4Addr::LOCALHOST)]).unwrap()[0];
        let mut packets: VecDeque<TaggedBytesMut> = (0..3).map(|_| packet(from.port(), 1_000)).collect();
        packets.iter_mut().for_each(|packet| packet.transport.local_addr = from);
        std::future::poll_fn(|context| sockets.poll_writable(from, context)).await;
        assert!(matches!(sockets.send(&mut packets), Some(Full::Line(_))), "a second for each");
        sockets.send_last(&mut packets);
        let mut received = Vec::new();
        while received.len() < 3 {
            std::future::poll_fn(|context| sockets.poll_readable(context)).await;
            sockets.read(Instant::now(), &mut received);
        }
        assert!(packets.is_empty());
    }

    #[tokio::test]
    async fn an_address_is_bound_once_and_one_that_is_not_here_is_left_out() {
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let elsewhere = "203.0.113.7".parse().unwrap();
        let mut sockets = Sockets::new(Line::default());
        let first = sockets.bind(&[here, elsewhere]).unwrap();
        assert_eq!(sockets.bind(&[here]).unwrap(), first);
        assert!(matches!(sockets.bind(&[elsewhere]), Err(LinkError::Transport(_))));
    }
}
