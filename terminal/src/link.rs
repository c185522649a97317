//! Links: reliable, ordered message channels between two terminals. This module is the only one that knows the WebRTC library.
//!
//! Flow, with the smaller terminal id on the left:
//!
//! ```text
//! Endpoint::offer() ── offer text ──────────► Endpoint::accept(offer)
//!        Pending ◄────────────── answer text ── Pending
//! Pending::complete(Some(answer)) ◄═ ICE, DTLS, SCTP, channel ═► Pending::complete(None)
//!          Link ◄───────────────── messages ─────────────────► Link
//! ```
//!
//! The texts travel through the server. All candidates are in them (no trickling), so that one message each way is enough. A description names the
//! certificate of the end that wrote it; [`Link::fingerprints`] gives both, and the hello signs them, so that the server cannot listen in.
//!
//! **Threads.** One hub per endpoint carries the packets of all its links over a few shared sockets: on the caller's runtime if the line is slow, else in a
//! thread of its own. The tasks that send and receive run wherever the caller's runtime puts them. A link ends when its last half is dropped, whoever held it. Two endpoints have one link between them at a time.
//!
//! **Back-pressure.** [`LinkSender::send`] waits while [`LinkConfig::send_buffer_bytes`] are unacknowledged. A receiver that does not read fills its inbox,
//! 64 messages, and the library's queue, 256, then its SCTP window shuts and the sender waits: 330 messages of 64 KiB, 21 MiB, is the most that a link
//! holds for a receiver that stands still. The queues count messages, so a receiver should always read and decide afterwards.
//!
//! **Ends.** A link that is closed tells the other end at once. One whose process dies is noticed after [`LOST_AFTER`]. Closing is abrupt: what the
//! other end has not acknowledged yet is lost, so [`LinkSender::flush`] first if the last words matter.

mod addresses;
mod channel;
mod config;
mod description;
mod endpoint;
mod ends;
mod error;
mod hub;
mod line;
mod warnings;
mod window;

pub use channel::LastHeard;
pub use config::{BindPolicy, IceServer, LOST_AFTER, LinkConfig, MAX_MESSAGE_BYTES};
pub(crate) use config::{SHORT_PACKET_BYTES, TUNNEL_PACKET_BYTES};
pub use endpoint::{Endpoint, Pending};
pub use ends::{Link, LinkReceiver, LinkSender};
pub use error::{CloseReason, LinkError};
pub use line::Line;
pub use warnings::Warnings;
