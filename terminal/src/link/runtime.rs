//! What the library asks of its runtime, with two corrections that it has no setting for: larger socket buffers, and a second look.
//!
//! **Second look.** A connection's driver sends what is due, then handles events, then waits for a packet or its next timer. What the events made due
//! is not sent before that wait is over, and the next timer is up to 200 ms away: the handshakes of DTLS and SCTP lose two such waits, and so does
//! every window that opens late. So the driver's wait after anything happened is cut to [`SECOND_LOOK`]; one that ran out without any news has its
//! full length. Set-up takes 60 ms instead of 470.

use std::cell::Cell;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::time::Sleep;
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime, TokioRuntime, Transmit,
};

use super::config::{WINDOW_BYTES_MAX, WINDOW_BYTES_MIN};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asked of the kernel per socket. It grants at most `net.core.rmem_max`, and charges a packet of 1.2 KB with about twice its length.
const SOCKET_BUFFER_BYTES: usize = 2 * WINDOW_BYTES_MAX as usize;

/// The shortest wait that tokio's timers know. An idle link wakes ten times a second instead of five for it.
const SECOND_LOOK: Duration = Duration::from_millis(1);

tokio::task_local! {
    /// Set in driver tasks only: whether the last wait was a second look that ran out.
    static SETTLED: Cell<bool>;
}

/// Tokio with the two corrections.
#[derive(Debug)]
pub(super) struct LinkRuntime;

fn enlarge(socket: &UdpSocket) -> io::Result<()> {
    let options = SockRef::from(socket);
    options.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    options.set_send_buffer_size(SOCKET_BUFFER_BYTES)
}

/// The window to use: what is wanted, but no more than the kernel grants as a receive buffer on this machine. The figure read back is halved,
/// because the kernel doubles it to pay for its own bookkeeping.
pub(super) fn window_granted(wanted_bytes: u32) -> io::Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).or_else(|_| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))?;
    enlarge(&socket)?;
    let granted_bytes = SockRef::from(&socket).recv_buffer_size()? / 2;
    Ok(window_for(wanted_bytes, granted_bytes))
}

fn window_for(wanted_bytes: u32, granted_bytes: usize) -> u32 {
    let granted_bytes = u32::try_from(granted_bytes).unwrap_or(u32::MAX);
    wanted_bytes.min(granted_bytes).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
}

impl Runtime for LinkRuntime {
    fn spawn(&self, future: Boxed<'static, ()>) -> Box<dyn JoinHandle> {
        TokioRuntime.spawn(future)
    }

    fn spawn_reactor(&self, reactor_pool_size: usize, future: Boxed<'static, ()>) -> Box<dyn JoinHandle> {
        TokioRuntime.spawn_reactor(reactor_pool_size, Box::pin(SETTLED.scope(Cell::new(false), future)))
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        enlarge(&socket)?;
        Ok(Arc::new(Gathering { socket: TokioRuntime.wrap_udp_socket(socket)?, pause: Mutex::new(Pause::None) }))
    }

    fn wrap_tcp_listener(&self, listener: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        TokioRuntime.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(&'a self, remote: SocketAddr) -> Boxed<'a, io::Result<Arc<dyn AsyncTcpStream>>> {
        TokioRuntime.connect_tcp(remote)
    }

    fn resolve_host<'a>(&'a self, host: &'a str) -> Boxed<'a, io::Result<Vec<SocketAddr>>> {
        TokioRuntime.resolve_host(host)
    }

    fn sleep(&self, duration: Duration) -> Boxed<'static, ()> {
        // Outside of drivers: the library's own time-outs keep their length.
        let Ok(settled) = SETTLED.try_with(|settled| settled.replace(false)) else { return TokioRuntime.sleep(duration) };
        let duration = if settled { duration } else { duration.min(SECOND_LOOK) };
        Box::pin(async move {
            tokio::time::sleep(duration).await;
            SETTLED.with(|settled| settled.set(true));
        })
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }

    fn yield_now(&self) -> Boxed<'static, ()> {
        TokioRuntime.yield_now()
    }

    fn name(&self) -> &'static str {
        "tokio for links"
    }
}

/// A socket that lets packets gather for a moment after it was emptied.
#[derive(Debug)]
struct Gathering {
    socket: Arc<dyn AsyncUdpSocket>,
    pause: Mutex<Pause>,
}

#[derive(Debug)]
enum Pause {
    None,
    AfterData,
    Until(Pin<Box<Sleep>>),
}

impl AsyncUdpSocket for Gathering {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn poll_send(&self, context: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        self.socket.poll_send(context, transmit)
    }

    fn poll_recv(&self, context: &mut Context<'_>, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if let Pause::Until(sleep) = &mut *pause {
            ready!(sleep.as_mut().poll(context));
            *pause = Pause::None;
        }
        let received = self.socket.poll_recv(context, buffers, meta);
        if received.is_ready() {
            *pause = Pause::AfterData;
        } else if matches!(*pause, Pause::AfterData) {
            let mut sleep = Box::pin(tokio::time::sleep(Duration::from_millis(1)));
            let _ = sleep.as_mut().poll(context);
            *pause = Pause::Until(sleep);
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
    use super::*;

    #[test]
    fn the_window_stays_at_or_below_what_the_kernel_grants() {
        assert_eq!(window_for(1 << 20, 4 << 20), 1 << 20);
        assert_eq!(window_for(1 << 20, 512 << 10), 512 << 10);
        assert_eq!(window_for(4 << 20, 64 << 20), WINDOW_BYTES_MAX);
        assert_eq!(window_for(1 << 20, 208 << 10), WINDOW_BYTES_MIN, "the largest message must fit, whatever the kernel grants");
        assert_eq!(window_for(1, 4 << 20), WINDOW_BYTES_MIN);
    }

    #[test]
    fn a_socket_of_a_link_has_the_buffers_that_the_window_was_chosen_for() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let before = SockRef::from(&socket).recv_buffer_size().unwrap();
        enlarge(&socket).unwrap();
        let granted = SockRef::from(&socket).recv_buffer_size().unwrap();
        assert!(granted >= before, "{granted} after asking for more than {before}");
        assert_eq!(window_granted(WINDOW_BYTES_MAX).unwrap(), window_for(WINDOW_BYTES_MAX, granted / 2));
    }
}
