//! What the machine asks of its driver.

use bytes::Bytes;
use protocol::frame::Frame;
use protocol::receipt::Receipt;
use protocol::ws::{ChunkNotice, SuspectReason};
use protocol::{DeliveryId, TerminalId};

use crate::Now;

/// Something to do now. The driver carries actions out in the order in which they come.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send a small control message on the link to `peer`; it must not wait behind chunk data.
    Send {
        peer: TerminalId,
        frame: Frame,
    },
    /// Fetch a granted chunk from the origin; answer with [`crate::Swarm::handle_origin_chunk`] or [`crate::Swarm::handle_origin_failed`].
    FetchOrigin {
        chunk: u32,
    },
    /// The origin has sent a chunk whose bytes are wrong; it is fetched again. Said once: whoever runs the service has to look at its store.
    OriginSpoilt {
        chunk: u32,
    },
    /// Write a verified chunk and note its source durably; then call [`crate::Swarm::handle_stored`] (or [`crate::Swarm::handle_store_failed`]).
    Store {
        chunk: u32,
        source: TerminalId,
        bytes: Bytes,
    },
    /// Write a stored chunk at the places of its repeats too, and note them durably with this terminal as their source; then call
    /// [`crate::Swarm::handle_repeated`]. One at a time.
    Repeat {
        chunk: u32,
        into: Vec<u32>,
    },
    /// Ask the server for chunks: the number that this terminal can take more than it holds leases for.
    Credits {
        open: u32,
    },
    /// Tell the server what became of chunks.
    Notices(Vec<ChunkNotice>),
    /// Give receipts to the server: own ones, and those held from receivers that left.
    SubmitReceipts(Vec<Receipt>),
    /// Ask the server for chunks that no linked terminal offers.
    Missing(Vec<u32>),
    /// Tell the server everything that need not be sent, and the leases: see [`crate::Swarm::needs_no_sending`] for the chunks.
    ReportHoldings {
        leases: Vec<u32>,
    },
    Suspect {
        peer: TerminalId,
        reason: SuspectReason,
    },
    /// Close the link to a peer that broke the rules; it is not opened again in this plan epoch.
    CloseLink {
        peer: TerminalId,
        reason: SuspectReason,
    },
    /// A relay is gone (silent, unlinked or planned away) that owed chunks, and now the first of them begins to come from `source` instead. Once for
    /// each relay that is gone; for the owner to know.
    Replaced {
        relay: TerminalId,
        source: TerminalId,
        chunk: u32,
        /// Since the relay was last heard.
        silent_for: Now,
    },
    /// Every chunk is stored.
    Complete {
        delivery_id: DeliveryId,
    },
}

/// One chunk frame to send next. The driver reads `len` bytes at `offset` of the chunk from its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    pub peer: TerminalId,
    pub chunk: u32,
    /// Bytes into the chunk.
    pub offset: u32,
    pub len: u32,
    pub first_copy: bool,
    pub hop: u8,
    /// Terminals of other groups to which the receiver is to copy the chunk on; empty but in the first frame.
    pub destinations: Vec<TerminalId>,
}
