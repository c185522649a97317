//! What this terminal knows of one peer of its plan.

use std::collections::{BTreeMap, BTreeSet};

use protocol::bitmap::ChunkSet;
use protocol::receipt::Receipt;
use protocol::ws::Peer;
use protocol::{GroupId, TerminalId};

use crate::Now;
use crate::assembly::Partial;
use crate::config::{PULLS_PER_PEER, STALLED_PEER_AFTER};
use crate::outbox::Outbox;

/// How a peer stands to this terminal in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Of the same group: copies go both ways.
    Member,
    /// Of an earlier group: chunks come from it.
    Parent,
    /// Of a group that this terminal's group copies to.
    Child(GroupId),
    /// Of a later group: it may pull from here.
    Served,
}

#[derive(Debug)]
pub(crate) struct PeerState {
    pub(crate) peer: Peer,
    pub(crate) role: Role,
    pub(crate) linked: bool,
    /// Nothing was heard for too long; chunks are pulled elsewhere until something is heard again.
    pub(crate) suspect: bool,
    /// The server has lost sight of it; what comes before this was on its way by then.
    pub(crate) last_words_until: Now,
    /// Broke the rules: not used again within this plan epoch.
    pub(crate) banned: bool,
    pub(crate) heard_at: Now,
    pub(crate) pinged_at: Now,
    /// Since when the link is in use without a pause.
    pub(crate) used_since: Option<Now>,
    pub(crate) have: ChunkSet,
    /// When it last announced something new.
    pub(crate) news_at: Now,
    /// Its have-list is complete: what it tells from now on is news.
    pub(crate) listed: bool,
    pub(crate) partial: Option<Partial>,
    /// When the last frame of a chunk came.
    pub(crate) frame_at: Now,
    pub(crate) out: Outbox,
    /// Chunks asked of this peer, and when.
    pub(crate) pulls: BTreeMap<u32, Now>,
    /// It is of a later group and was asked for something on this link.
    pub(crate) asked_below: bool,
    /// The groups below that it can copy chunks into, as it said.
    pub(crate) reaches: BTreeSet<GroupId>,
    /// Pulls in a row that it left unanswered: others are asked first.
    pub(crate) unanswered: u32,
    /// Bytes that it acknowledged by receipts, and bytes that it declared to have had already.
    pub(crate) receipted: u64,
    pub(crate) duplicated: u64,
    /// The latest receipt that this peer signed for this terminal, per segment.
    pub(crate) receipts: BTreeMap<u32, Receipt>,
}

impl PeerState {
    pub(crate) fn new(peer: Peer, role: Role) -> Self {
        Self {
            peer,
            role,
            linked: false,
            suspect: false,
            last_words_until: Now::ZERO,
            banned: false,
            heard_at: Now::ZERO,
            pinged_at: Now::ZERO,
            used_since: None,
            have: ChunkSet::default(),
            news_at: Now::ZERO,
            listed: false,
            partial: None,
            frame_at: Now::ZERO,
            out: Outbox::default(),
            pulls: BTreeMap::new(),
            asked_below: false,
            reaches: BTreeSet::new(),
            unanswered: 0,
            receipted: 0,
            duplicated: 0,
            receipts: BTreeMap::new(),
        }
    }

    pub(crate) fn id(&self) -> TerminalId {
        self.peer.terminal_id
    }

    /// Linked, heard of lately, and honest so far.
    pub(crate) fn is_live(&self) -> bool {
        self.linked && !self.suspect && !self.banned
    }

    /// Live, and taking what is sent: what such a peer is owed counts as this terminal's backlog.
    pub(crate) fn is_moving(&self, now: Now) -> bool {
        self.is_live() && !self.out.is_stalled(now, STALLED_PEER_AFTER)
    }

    /// Whether something is under way on the link, so that silence means trouble.
    pub(crate) fn is_used(&self) -> bool {
        self.linked && (!self.pulls.is_empty() || self.partial.is_some() || self.out.awaits_acknowledgement())
    }

    /// Whether a chunk that it has may be asked of it now.
    pub(crate) fn can_be_pulled(&self, chunk: u32) -> bool {
        self.is_live() && self.pulls.len() < PULLS_PER_PEER && self.have.contains(chunk)
    }

    /// Forgets what belonged to the link that went down; what the peer signed stays.
    pub(crate) fn reset_link(&mut self) {
        self.linked = false;
        self.suspect = false;
        self.last_words_until = Now::ZERO;
        self.used_since = None;
        self.have = ChunkSet::default();
        self.listed = false;
        self.partial = None;
        self.out = Outbox::default();
        self.pulls.clear();
        self.asked_below = false;
        self.reaches.clear();
    }
}
