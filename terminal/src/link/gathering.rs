//! A socket that lets packets gather.
//!
//! On a path that is slower than the machine, packets arrive one by one, and the library goes through a whole round of its driver for each: 33 µs where
//! a packet out of a burst costs 3. So a socket that delivered packets and was then found empty rests: what comes meanwhile waits in the kernel, is
//! read in one go and acknowledged once. A packet after silence is not delayed, and a socket that never runs empty never rests.
//!
//! The slower the path, the longer the rest: from [`REST_MIN`], twice as long after each that brought fewer than [`FEW`] reads, up to [`REST_MAX`].

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::Sleep;
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

/// The shortest wait that tokio's timers know; 12 packets at 100 Mbit/s.
const REST_MIN: Duration = Duration::from_millis(1);
/// 16 packets at 10 Mbit/s. Round trips become longer by as much while data flows.
const REST_MAX: Duration = Duration::from_millis(16);
/// Packets of one rest that make a longer one worth its delay, and those that make it too long: a burst must not overfill the receive buffer.
const FEW: usize = 8;
const MANY: usize = 32;

#[derive(Debug)]
pub(super) struct GatheringSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    resting: Mutex<Resting>,
}

#[derive(Debug)]
struct Resting {
    state: State,
    /// How long the next rest takes.
    next: Duration,
}

#[derive(Debug)]
enum State {
    /// Nothing was delivered since the last rest.
    Quiet,
    Delivering {
        packets: usize,
    },
    Resting(Pin<Box<Sleep>>),
}

impl Resting {
    /// The length of the rest after `packets` came in one go.
    fn after(&mut self, packets: usize) -> Duration {
        if packets < FEW {
            self.next = (self.next * 2).min(REST_MAX);
        } else if packets > MANY {
            self.next = (self.next / 2).max(REST_MIN);
        }
        self.next
    }
}

impl GatheringSocket {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self { socket, resting: Mutex::new(Resting { state: State::Quiet, next: REST_MIN }) }
    }
}

/// A message holds several packets where the kernel has put them together.
fn packets_of(meta: &[RecvMeta], messages: usize) -> usize {
    meta.iter().take(messages).map(|message| message.len.div_ceil(message.stride.max(1)).max(1)).sum()
}

impl AsyncUdpSocket for GatheringSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn poll_send(&self, context: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        self.socket.poll_send(context, transmit)
    }

    fn poll_recv(&self, context: &mut Context<'_>, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let mut guard = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let resting = &mut *guard;
        if let State::Resting(rest) = &mut resting.state {
            ready!(rest.as_mut().poll(context));
            resting.state = State::Quiet;
        }
        let State::Delivering { packets } = resting.state else {
            let received = self.socket.poll_recv(context, buffers, meta);
            match &received {
                Poll::Ready(Ok(messages)) => resting.state = State::Delivering { packets: packets_of(meta, *messages) },
                Poll::Ready(Err(_)) => {}
                // A rest that brought nothing: the next packet comes after silence.
                Poll::Pending => resting.next = REST_MIN,
            }
            return received;
        };
        // Nobody is woken by what comes during the rest.
        let received = self.socket.poll_recv(&mut Context::from_waker(Waker::noop()), buffers, meta);
        match &received {
            Poll::Ready(Ok(messages)) => resting.state = State::Delivering { packets: packets + packets_of(meta, *messages) },
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let mut rest = Box::pin(tokio::time::sleep(resting.after(packets)));
                if rest.as_mut().poll(context).is_ready() {
                    context.waker().wake_by_ref();
                }
                resting.state = State::Resting(rest);
            }
        }
        received
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
    use std::time::Instant;

    use webrtc::runtime::{Runtime, TokioRuntime};

    use super::*;

    struct Pair {
        sender: UdpSocket,
        receiver: GatheringSocket,
    }

    fn pair() -> Pair {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.connect(socket.local_addr().unwrap()).unwrap();
        Pair { sender, receiver: GatheringSocket::new(TokioRuntime.wrap_udp_socket(socket).unwrap()) }
    }

    impl Pair {
        fn poll(&self, context: &mut Context<'_>) -> Poll<u8> {
            let mut buffer = [0; 2048];
            let received = ready!(self.receiver.poll_recv(context, &mut [IoSliceMut::new(&mut buffer)], &mut [RecvMeta::default()]));
            assert_eq!(received.unwrap(), 1);
            Poll::Ready(buffer[0])
        }

        async fn next(&self) -> u8 {
            std::future::poll_fn(|context| self.poll(context)).await
        }

        /// Reads what is there until the socket is found empty, as the library's driver does after a packet.
        fn probe(&self) -> Vec<u8> {
            let mut found = Vec::new();
            while let Poll::Ready(byte) = self.poll(&mut Context::from_waker(Waker::noop())) {
                found.push(byte);
            }
            found
        }
    }

    #[tokio::test]
    async fn packets_that_come_while_the_socket_rests_are_read_together_and_in_order() {
        let pair = pair();
        pair.sender.send(&[1]).unwrap();
        assert_eq!(pair.next().await, 1);
        assert!(pair.probe().is_empty());
        let emptied = Instant::now();
        for byte in 2..7 {
            pair.sender.send(&[byte]).unwrap();
        }
        assert!(pair.probe().is_empty(), "the socket rests");
        assert_eq!(pair.next().await, 2);
        assert!(emptied.elapsed() >= REST_MIN - Duration::from_micros(100), "{:?}", emptied.elapsed());
        assert_eq!(pair.probe(), [3, 4, 5, 6]);
    }

    #[tokio::test]
    async fn a_packet_after_silence_is_read_at_once_and_an_idle_socket_sets_no_timers() {
        let pair = pair();
        assert!(pair.probe().is_empty());
        assert!(
            matches!(pair.receiver.resting.lock().unwrap().state, State::Quiet),
            "nothing was delivered, so there is nothing to rest from"
        );
        pair.sender.send(&[1]).unwrap();
        assert_eq!(pair.next().await, 1);
        assert!(pair.probe().is_empty());
        tokio::time::sleep(10 * REST_MAX).await;
        assert!(pair.probe().is_empty());
        assert!(matches!(pair.receiver.resting.lock().unwrap().state, State::Quiet), "one rest per delivery");
        pair.sender.send(&[2]).unwrap();
        assert_eq!(pair.next().await, 2);
    }

    #[tokio::test]
    async fn a_socket_that_never_runs_empty_never_rests() {
        let pair = pair();
        for byte in 0..100 {
            pair.sender.send(&[byte]).unwrap();
        }
        for byte in 0..100 {
            assert_eq!(pair.next().await, byte);
            assert!(matches!(pair.receiver.resting.lock().unwrap().state, State::Delivering { .. }));
        }
    }

    #[tokio::test]
    async fn rests_grow_while_little_comes_and_shrink_while_much_does() {
        let mut resting = Resting { state: State::Quiet, next: REST_MIN };
        let lengths: Vec<u128> = [1, 1, 1, 1, 20, 40, 40, 40, 40].map(|packets| resting.after(packets).as_millis()).to_vec();
        assert_eq!(lengths, [2, 4, 8, 16, 16, 8, 4, 2, 1]);
    }
}
