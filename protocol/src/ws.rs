//! Messages of the terminal's WebSocket, JSON text, one object a message, at most [`MESSAGE_MAX`] bytes.
//!
//! Flow: the server sends [`ServerMessage::Challenge`]; the terminal answers [`ClientMessage::Hello`], signed with its key; the server answers
//! [`ServerMessage::Welcome`] and then a [`PushMessage::Plan`] for each swarm that concerns the terminal now. Everything that the server says of its own
//! accord travels as [`ServerMessage::Push`] with a position (epoch, offset), so that a terminal that was away a moment can ask for what it missed.
//! Times are the server's clock in milliseconds; the terminal learns the difference by [`ClientMessage::Clock`].

use serde::{Deserialize, Serialize};

use crate::audit::{AuditAnswer, AuditQuestion};
use crate::error::ErrorCode;
use crate::ids::*;
use crate::plan_change::PlanChange;
use crate::units::{Amount, BitsPerSecond, Bytes, TimestampMs};

/// The longest WebSocket message either way.
pub const MESSAGE_MAX: usize = 64 << 10;
/// The most entries in one list of a message, so that the longest message stays below [`MESSAGE_MAX`].
pub const LIST_MAX: usize = 512;
/// The most receipts in one message: 48 × 856 base64 characters are 41 KiB, and mostly far fewer.
pub const RECEIPTS_MAX: usize = 48;
/// The most ways into one child group that a plan names: one that fails has two more, and eight child groups take 3 KiB of a plan.
pub const WAYS_MAX: usize = 3;
/// The domain tag before the nonce that a terminal signs to prove its key.
pub const CHALLENGE_TAG: &[u8] = b"spillway websocket v1";

/// A place in the stream of pushes to one terminal. A new epoch means that earlier pushes are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushPosition {
    pub epoch: u64,
    pub offset: u64,
}

/// What a terminal is able to do, measured or set by its owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Capabilities {
    /// Uplink; 0 if unknown.
    pub up: BitsPerSecond,
    /// Downlink; 0 if unknown.
    pub down: BitsPerSecond,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClientMessage {
    /// The first message: who this is. The signature covers [`CHALLENGE_TAG`], the challenge's nonce and the terminal id.
    Hello {
        protocol: u16,
        terminal_id: TerminalId,
        signature: Signature,
        capabilities: Capabilities,
        /// Where the last connection's pushes ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<PushPosition>,
    },
    /// Asks for the server's time; `sent_at` is the terminal's own clock and comes back untouched.
    Clock { sent_at: u64 },
    /// "I can take up to `open` chunks of this swarm more than I hold leases for." The latest message counts.
    Credits { swarm_id: SwarmId, open: u32 },
    /// What became of chunks: received (b15), copies done (b04).
    Notices { swarm_id: SwarmId, notices: Vec<ChunkNotice> },
    /// Receipts, each base64 of [`crate::receipt::Receipt::pack`]; from the receiver or from the source.
    Receipts { receipts: Vec<String> },
    /// Chunks that no linked terminal has offered for too long: asks for a repair by the origin.
    Missing { swarm_id: SwarmId, chunks: Vec<u32> },
    /// Answer to [`PushMessage::ReportHoldings`]: one segment of the have-list (base64 of 512 bytes), and on the last one the leases held.
    Holdings { swarm_id: SwarmId, segment: u32, bitmap: String, last: bool, leases: Vec<u32> },
    /// An offer or answer for a planned pair.
    Signal { to: TerminalId, signal: Signal },
    /// A linked terminal that has been silent too long, or sent what it may not.
    Suspect { swarm_id: SwarmId, terminal_id: TerminalId, reason: SuspectReason },
    /// Distribution state (a10, a12): cumulative, sent about once a second while a swarm is active.
    Progress { swarm_id: SwarmId, progress: Progress },
    /// Asks for the key of a sealed swarm. It comes by [`ServerMessage::Key`] at the second of the terminal's rank, or at once if that is over; to whom it
    /// does not come is to ask again after a reconnection.
    WantKey { swarm_id: SwarmId },
    /// The answer to [`ServerMessage::Audit`].
    Audited { question: AuditQuestion, answer: AuditAnswer },
    /// Complete editions that this terminal holds and serves to others (a01, a22). `whole`: these and no others; else these as well. Told after every
    /// connection, and whenever it changes.
    Holds { editions: Vec<EditionId>, whole: bool },
    /// Asks for the plans again, after a push said [`PushMessage::Reload`], a gap was seen, or a [`PushMessage::PlanChange`] was of another plan.
    Sync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkNotice {
    pub chunk: u32,
    pub received_at: TimestampMs,
    /// When the last copy that this terminal owed for the chunk was acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies_done_at: Option<TimestampMs>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuspectReason {
    /// No byte of any kind for 600 ms on a used link.
    Silent,
    /// The link closed.
    Closed,
    /// A chunk whose hash was wrong.
    Corrupt,
    /// A message that is not allowed or cannot be read.
    Malformed,
    /// A receiver that does not acknowledge what it was sent.
    Unacknowledged,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Signal {
    /// From the smaller terminal id, with all candidates. `session` is drawn by the offerer and names the attempt.
    Offer {
        session: u64,
        sdp: String,
    },
    Answer {
        session: u64,
        sdp: String,
    },
    /// The attempt cannot go on (for instance the peer knows of no such plan yet); the offerer tries again later.
    Decline {
        session: u64,
    },
}

/// Cumulative figures of one delivery as the terminal sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Progress {
    pub verified: Bytes,
    pub from_origin: Bytes,
    pub from_peers: Bytes,
    /// Payload acknowledged by receivers.
    pub relayed: Bytes,
    pub up: BitsPerSecond,
    pub down: BitsPerSecond,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    Challenge {
        nonce: Blake3,
        server_time: TimestampMs,
    },
    Welcome {
        server_time: TimestampMs,
        position: PushPosition,
        /// Whether the pushes after the stated position follow; else the terminal starts from the plans that follow.
        resumed: bool,
        ice_servers: Vec<IceServer>,
        /// How often to send [`ClientMessage::Progress`] and receipts, in milliseconds.
        report_interval_ms: u32,
    },
    Clock {
        sent_at: u64,
        server_time: TimestampMs,
    },
    Push {
        position: PushPosition,
        message: PushMessage,
    },
    /// The key of a sealed swarm: base64 of a [`crate::sealing::envelope`] to the terminal's own key. Not a push: it is kept nowhere on its way.
    Key {
        swarm_id: SwarmId,
        envelope: String,
    },
    /// The key of a swarm that was asked for is not given, now or later.
    NoKey {
        swarm_id: SwarmId,
        code: ErrorCode,
    },
    /// Asks for the keyed hash of a chunk that the terminal has signed for, as it travels.
    Audit {
        question: AuditQuestion,
    },
    /// The answer to a message that was refused. Nothing was changed by it.
    Error {
        code: ErrorCode,
        detail: String,
        pointer: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IceServer {
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PushMessage {
    Plan(Box<SwarmPlan>),
    /// What became different in a plan that was told before. Whoever has another one asks for it by [`ClientMessage::Sync`].
    PlanChange(Box<PlanChange>),
    /// The terminal is no longer part of the swarm: settle, close its links, keep what is complete.
    Leave {
        swarm_id: SwarmId,
        reason: LeaveReason,
    },
    /// Chunks to fetch from the origin and relay.
    Grant {
        swarm_id: SwarmId,
        kind: GrantKind,
        chunks: Vec<u32>,
        expires_at: TimestampMs,
    },
    /// Says why asked-for repairs are not granted: pull from terminals, or wait.
    RepairRefused {
        swarm_id: SwarmId,
        chunks: Vec<u32>,
        code: ErrorCode,
    },
    /// The WebSocket of a linked terminal has ended. What it owes is asked of others at once, until it is heard on its link again.
    PeerGone {
        swarm_id: SwarmId,
        terminal_id: TerminalId,
    },
    /// The server's lease table for the terminal's group is gone: tell what is held and leased.
    ReportHoldings {
        swarm_id: SwarmId,
    },
    Signal {
        from: TerminalId,
        signal: Signal,
    },
    /// The delivery is complete and paid for.
    Settled {
        swarm_id: SwarmId,
        delivery_id: DeliveryId,
        charged: Amount,
        earned: Amount,
    },
    /// What this terminal's sources owe has been paid out again: a relay's earning grew.
    Earned {
        swarm_id: SwarmId,
        earned: Amount,
    },
    /// Pushes were lost: ask for the plans by [`ClientMessage::Sync`].
    Reload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantKind {
    /// The swarm group's first copy.
    FirstCopy,
    /// A chunk that the group lost or never got.
    Repair,
    /// A chunk that the origin sends to every member of the group itself: nobody copies it on within the group.
    Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaveReason {
    /// The release is settled: nobody needs this terminal's copies any more.
    Settled,
    Cancelled,
    Aborted,
    Removed,
}

/// What one terminal needs to know to take part in one swarm. A newer epoch replaces an older one whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmPlan {
    pub release_id: ReleaseId,
    pub swarm_id: SwarmId,
    pub edition_id: EditionId,
    pub delivery_id: DeliveryId,
    /// Rises with each change of this terminal's plan within the swarm.
    pub epoch: u64,
    pub rank: u32,
    /// Before this moment no byte moves; links may be opened earlier.
    pub opens_at: TimestampMs,
    /// After this moment nothing more is delivered.
    pub deadline_at: TimestampMs,
    pub group_id: GroupId,
    /// Whether this group is fed by the origin: its members ask for credits.
    pub root: bool,
    /// The other members of this terminal's group; fully meshed (b17).
    pub members: Vec<Peer>,
    /// Terminals of earlier groups that this one may pull from.
    pub parents: Vec<Peer>,
    /// Groups that this terminal's group copies to: of each, the members that this terminal may contact (b29).
    pub children: Vec<ChildGroup>,
    /// Terminals of later groups that may pull from this one.
    pub serves: Vec<Peer>,
    /// Of a sealed release, what travels before the key does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedPlan>,
}

/// What travels instead of an edition's own chunks (x02).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedPlan {
    /// The BLAKE3 hash of the [`crate::sealing::manifest::SealedManifest`].
    pub manifest: Blake3,
    /// When this terminal is given the key, if it asks for it.
    pub key_at: TimestampMs,
}

/// One group below this terminal's group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildGroup {
    pub group_id: GroupId,
    pub contacts: Vec<Peer>,
    /// Members of this terminal's group to whom a copy for that group may be handed (b31), at most [`WAYS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ways: Vec<Way>,
}

/// A way into another group that leads over another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    pub member: TerminalId,
    /// Whom that member may contact there: the destination to name.
    pub contact: TerminalId,
}

/// Another terminal of the swarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub terminal_id: TerminalId,
    pub public_key: PublicKey,
    /// The peer's own delivery: receipts that it signs name it.
    pub delivery_id: DeliveryId,
    pub up: BitsPerSecond,
}

impl SwarmPlan {
    /// Whether this terminal takes part only to serve what it holds: nobody is named that it could get anything from.
    pub fn serves_only(&self) -> bool {
        !self.root && self.members.is_empty() && self.parents.is_empty() && !self.serves.is_empty()
    }

    /// Every terminal that this plan pairs with, each once.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        let mut seen = std::collections::BTreeSet::new();
        self.members
            .iter()
            .chain(&self.parents)
            .chain(self.children.iter().flat_map(|child| &child.contacts))
            .chain(&self.serves)
            .filter(move |peer| seen.insert(peer.terminal_id))
    }
}

/// The bytes that a terminal signs to answer a challenge.
pub fn challenge_bytes(nonce: &Blake3, terminal_id: TerminalId) -> Vec<u8> {
    [CHALLENGE_TAG, &nonce.0, &terminal_id.to_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_a_stable_json_form() {
        let swarm_id = SwarmId::from_bytes([1; 16]);
        let credits = ClientMessage::Credits { swarm_id, open: 3 };
        let json = serde_json::to_string(&credits).unwrap();
        assert_eq!(json, r#"{"type":"credits","swarm_id":"01010101-0101-0101-0101-010101010101","open":3}"#);
        assert_eq!(serde_json::from_str::<ClientMessage>(&json).unwrap(), credits);
        let push = ServerMessage::Push { position: PushPosition { epoch: 1, offset: 2 }, message: PushMessage::Reload };
        assert_eq!(
            serde_json::to_string(&push).unwrap(),
            r#"{"type":"push","position":{"epoch":1,"offset":2},"message":{"type":"reload"}}"#
        );
    }

    #[test]
    fn an_unknown_type_or_field_is_refused() {
        assert!(serde_json::from_str::<ClientMessage>(r#"{"type":"give_me_money"}"#).is_err());
        assert!(serde_json::from_str::<ClientMessage>(r#"{"type":"clock","sent_at":1,"extra":2}"#).is_err());
        assert!(serde_json::from_str::<ClientMessage>(r#"{"type":"clock","sent_at":-1}"#).is_err());
    }

    #[test]
    fn the_longest_lists_stay_below_the_longest_message() {
        let swarm_id = SwarmId::from_bytes([0xFF; 16]);
        let notice = ChunkNotice { chunk: u32::MAX, received_at: TimestampMs(u64::MAX), copies_done_at: Some(TimestampMs(u64::MAX)) };
        let notices = ClientMessage::Notices { swarm_id, notices: vec![notice; LIST_MAX] };
        assert!(serde_json::to_string(&notices).unwrap().len() < MESSAGE_MAX);
        let holds = ClientMessage::Holds { editions: vec![EditionId([0xFF; 32]); LIST_MAX], whole: false };
        assert!(serde_json::to_string(&holds).unwrap().len() < MESSAGE_MAX);
        let receipts =
            ClientMessage::Receipts { receipts: vec!["A".repeat(crate::receipt::Receipt::PACKED_MAX.div_ceil(3) * 4); RECEIPTS_MAX] };
        assert!(serde_json::to_string(&receipts).unwrap().len() < MESSAGE_MAX);
    }
}
