//! The settings of a process's links, and the figures behind them.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use protocol::BitsPerSecond;

use super::line::Line;
use super::warnings::Warnings;

/// The longest message that a link carries; a longer one from the other end closes it. The protocol owns the figure.
pub const MAX_MESSAGE_BYTES: usize = protocol::frame::MESSAGE_MAX;

/// Silence after which ICE calls a link disconnected.
pub(super) const DISCONNECTED_AFTER: Duration = Duration::from_secs(5);
/// How much longer the silence may last before the link is given up. The library adds it to [`DISCONNECTED_AFTER`]. Two keepalives may be lost each
/// way before that.
pub(super) const FAILED_AFTER_DISCONNECTED: Duration = Duration::from_secs(1);
/// Silence after which a link ends with [`super::CloseReason::Lost`]. The swarm suspects a silent link much earlier (600 ms) and pulls its chunks
/// elsewhere; this bound only has to free the sockets and must survive a machine that is short of processor time.
pub const LOST_AFTER: Duration = DISCONNECTED_AFTER.saturating_add(FAILED_AFTER_DISCONNECTED);
/// How often a link asks the other end for a sign of life. Only these answers count for the library, data does not. Every second, both ways over fifteen
/// links, they were 0.45 percent of an uplink of 10 Mbit/s.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// The interval of connectivity checks. The library's 200 ms adds as much to every set-up.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Checks per candidate pair before it is given up: more than [`LOST_AFTER`] holds at [`CHECK_INTERVAL`], so that an answer that is slow on its way
/// through the server does not find all pairs given up.
pub(super) const CHECKS_PER_PAIR: u16 = 400;

/// The SCTP window must hold the largest message that the library lets through (256 KiB), else such a message stalls the link for ever.
pub(super) const WINDOW_BYTES_MIN: u32 = 256 << 10;
/// 4 MiB is faster over loopback and collapses on a long path (3.6 instead of 10.8 MB/s at 100 Mbit/s and 50 ms).
pub(super) const WINDOW_BYTES_MAX: u32 = 1 << 20;

/// The library drops a longer incoming message without a word, so its own limit is set as high as it goes and ours is enforced by the receiver.
pub(super) const LIBRARY_MESSAGE_BYTES: u32 = 256 << 10;

/// An uplink up to this rate is what a terminal runs out of, and not its processor. Of one that is not known nobody can say.
pub(super) const SLOW_UP_TO: BitsPerSecond = BitsPerSecond::from_mbit(200);

/// With 29 bytes of DTLS and 48 of IPv6 and UDP these are 1,492 bytes: an Ethernet frame, less the 8 of PPPoE (RFC 2516) on many home lines.
pub(super) const LONG_PACKET_BYTES: u32 = 1_415;
/// With IPv4 the 1,420 bytes of a common tunnel. Headers take 0.3 percent more of the line than in a long packet.
pub(crate) const TUNNEL_PACKET_BYTES: u32 = 1_363;
/// The library's default: passes everywhere IPv6 does, relayed as well. Headers take 1.3 percent more of the line than in a long packet, and the
/// processor a tenth more time.
pub(crate) const SHORT_PACKET_BYTES: u32 = 1_191;

/// A description with all candidates of an ordinary machine has 1 to 3 KiB.
pub(super) const DESCRIPTION_BYTES_MAX: usize = 32 << 10;
/// Every candidate of the other end is sent checks 50 times a second, so a description must not be able to name a crowd.
pub(super) const CANDIDATES_MAX: usize = 32;
/// A socket is bound per address and link; machines with more addresses than this have bridges and containers, not more paths.
pub(super) const ADDRESSES_MAX: usize = 6;

/// A STUN or TURN server.
#[derive(Clone, PartialEq, Eq)]
pub struct IceServer {
    /// `stun:host:port` or `turn:host:port?transport=udp`.
    pub urls: Vec<String>,
    /// Empty for STUN.
    pub username: String,
    /// Empty for STUN.
    pub credential: String,
}

/// Without the credential: settings are logged.
impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer").field("urls", &self.urls).field("username", &self.username).finish_non_exhaustive()
    }
}

/// Which local addresses a link binds sockets to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BindPolicy {
    /// Every address of every interface, without loopback unless it is asked for or there is nothing else.
    #[default]
    Interfaces,
    /// These and no others.
    Only(Vec<IpAddr>),
}

#[derive(Debug, Clone)]
pub struct LinkConfig {
    pub ice_servers: Vec<IceServer>,
    /// Meet other terminals at addresses of TURN servers and nowhere else: they learn no address of this machine. Without such an address no link is made.
    pub turn_only: bool,
    pub bind: BindPolicy,
    /// Bind 127.0.0.1 as well: for terminals of one machine that share no other address.
    pub include_loopback: bool,
    /// The SCTP receive window per link. Kept between 256 KiB and 1 MiB and at or below what the kernel grants as a socket buffer: a larger window
    /// than the socket holds turns a busy moment into packet loss.
    pub window_bytes: u32,
    /// How many bytes a link holds that the other end has not acknowledged, sent and unsent together; `send` waits above it, until a quarter is
    /// free. It bounds the rate to this per round trip, so less than the window would waste the window.
    pub send_buffer_bytes: usize,
    /// How long `offer` and `accept` wait for STUN and TURN servers. One that does not answer would hold them for 8 s; the candidates gathered
    /// until then are used.
    pub gather_timeout: Duration,
    /// The most bytes of SCTP in one packet, 29 of DTLS (37 with AES-GCM) and 28 to 48 of IP and UDP not counted. Packets carry "do not fragment", so more than the
    /// path takes is a link that opens and then never moves data: who finds that falls back by [`super::Endpoint::with_packets_up_to`].
    pub packet_bytes: u32,
    /// The uplink. What all links together let out beyond its rate waits before it and not in its queue, which drops what is too much.
    pub line: Line,
    pub warnings: Warnings,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            ice_servers: Vec::new(),
            turn_only: false,
            bind: BindPolicy::Interfaces,
            include_loopback: false,
            window_bytes: WINDOW_BYTES_MAX,
            send_buffer_bytes: WINDOW_BYTES_MAX as usize,
            gather_timeout: Duration::from_secs(3),
            packet_bytes: LONG_PACKET_BYTES,
            line: Line::default(),
            warnings: Warnings::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checks_of_a_pair_outlast_the_time_after_which_the_library_gives_up_anyway() {
        assert!(CHECK_INTERVAL * u32::from(CHECKS_PER_PAIR) > LOST_AFTER);
    }

    #[test]
    fn a_logged_configuration_does_not_show_the_credential_of_a_turn_server() {
        let server = IceServer { urls: vec!["turn:turn.example.org".into()], username: "someone".into(), credential: "do-not-show".into() };
        let logged = format!("{:?}", LinkConfig { ice_servers: vec![server], ..LinkConfig::default() });
        assert!(logged.contains("turn.example.org") && !logged.contains("do-not-show"), "{logged}");
    }
}
