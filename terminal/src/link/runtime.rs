//! What the library asks of its runtime, with corrections that it has no setting for: larger socket buffers, sockets that let packets gather
//! ([`super::gathering`]) and count what they send ([`super::metering`]), a bound on name lookups, and a second look.
//!
//! **Second look.** A connection's driver sends what is due, then handles events, then waits for a packet or its next timer. What the events made due
//! is not sent before that wait is over, and the next timer is up to 200 ms away: the handshakes of DTLS and SCTP lose one such wait each, and so does
//! a window that opens late. So a wait after anything happened is cut to [`SECOND_LOOK`], and only one after a wait that ran out without news has its
//! full length. Set-up takes 60 ms instead of 470.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use webrtc::runtime::{AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, Runtime, TokioRuntime};

use super::config::{WINDOW_BYTES_MAX, WINDOW_BYTES_MIN};
use super::gathering::GatheringSocket;
use super::metering::{MeteredSocket, WireCount};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asked of the kernel per socket. It grants at most `net.core.rmem_max`, and charges a packet of 1.2 KB with about twice its length.
const SOCKET_BUFFER_BYTES: usize = 2 * WINDOW_BYTES_MAX as usize;

/// While a driver looks up the name of a STUN or TURN server it does nothing else, and the candidates that it has already wait with it. A resolver
/// that is not reachable takes 5 s and more to say so.
const RESOLVE_WITHIN: Duration = Duration::from_secs(1);

/// The shortest wait that tokio's timers know.
const SECOND_LOOK: Duration = Duration::from_millis(1);

tokio::task_local! {
    /// In driver tasks only: whether the last wait ran out, so that nothing has happened since.
    static SETTLED: Cell<bool>;
}

/// Tokio with the corrections.
#[derive(Debug)]
pub(super) struct LinkRuntime {
    pub(super) sent: WireCount,
}

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
        let metered = MeteredSocket::new(TokioRuntime.wrap_udp_socket(socket)?, self.sent.clone());
        Ok(Arc::new(GatheringSocket::new(Arc::new(metered))))
    }

    fn wrap_tcp_listener(&self, listener: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        TokioRuntime.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(&'a self, remote: SocketAddr) -> Boxed<'a, io::Result<Arc<dyn AsyncTcpStream>>> {
        TokioRuntime.connect_tcp(remote)
    }

    fn resolve_host<'a>(&'a self, host: &'a str) -> Boxed<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let resolved = tokio::time::timeout(RESOLVE_WITHIN, TokioRuntime.resolve_host(host)).await;
            resolved.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
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
