//! How much a link may be sent before it acknowledges.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use socket2::SockRef;

use super::config::{WINDOW_BYTES_MAX, WINDOW_BYTES_MIN};
use super::hub::enlarge;

/// The window to use: what is wanted, but no more than the kernel grants as a receive buffer on this machine. The figure read back is halved,
/// because the kernel doubles it to pay for its own bookkeeping.
pub(super) fn granted(wanted_bytes: u32) -> io::Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).or_else(|_| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))?;
    enlarge(&socket)?;
    let granted_bytes = SockRef::from(&socket).recv_buffer_size()? / 2;
    Ok(window_for(wanted_bytes, granted_bytes))
}

fn window_for(wanted_bytes: u32, granted_bytes: usize) -> u32 {
    let granted_bytes = u32::try_from(granted_bytes).unwrap_or(u32::MAX);
    wanted_bytes.min(granted_bytes).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
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
        let after = SockRef::from(&socket).recv_buffer_size().unwrap();
        assert!(after >= before, "{after} after asking for more than {before}");
        assert_eq!(granted(WINDOW_BYTES_MAX).unwrap(), window_for(WINDOW_BYTES_MAX, after / 2));
    }
}
