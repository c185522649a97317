//! The relay plan of one swarm: which terminals form a group, which group copies to which, and who may talk to whom.
//!
//! Flow: at closing the server chooses the [`Shape`] of wave 0 with [`choose_shape`], plans it with [`plan_wave`], stores the groups, and pushes each
//! member its [`TerminalView`]; at each later wave's opening it does the same for that wave on top of the [`SwarmTree`] of all waves before. The plan
//! of a wave never names a terminal of a later one.
//!
//! Within [`plan_wave`] the terminals are put in blocks that are alike and not slower than the rest (`balance`), those of a block are dealt to
//! its groups by their uplinks (`dealing`), and the groups take their places in a tree with as few levels as `k` children allow (`wave`).
//!
//! Besides its parent in the tree a group may pull from groups of earlier waves, whose members hold the edition already: first from those of the primary
//! terminals that its members are tied to (`links`).
//!
//! Two groups that are linked do not talk all to all. With P members above and C below, the pairs are
//! `{(i, i mod C)} ∪ {(j mod P, j)}`: every member above has somebody to copy to and every member below somebody to ask, with as few links as that takes.

mod balance;
mod candidate;
mod dealing;
mod links;
mod shape;
mod tree;
mod wave;

#[cfg(test)]
mod properties;

use protocol::ws::Peer;
use protocol::{GroupId, TerminalId};

pub use candidate::{Candidate, CommunicationState, NatKind, Region};
pub(crate) use candidate::{loss_band, round_trip_band};
pub use shape::{Shape, choose_shape};
pub use tree::{SwarmTree, TerminalView};
pub use wave::plan_wave;

/// Most members of a group: each keeps fifteen links to its own group, and a relay sends each chunk sixteen times at most.
pub const GROUP_MEMBERS_MAX: usize = 16;

/// Most groups that a group may pull from, its parent included, and most groups that it serves. In a release of up to eight earlier
/// groups everybody earlier is a source; beyond that, more links would cost sockets and make the plan longer than a WebSocket message may be (in the
/// worst case, one-member groups between full ones, it names 272 terminals in 56 KiB), and the tree feeds every group anyway.
pub const LINKED_GROUPS_MAX: usize = 8;

/// Most groups of its own wave that a group copies to. At most one group of a later wave comes below it besides, and only if it has none of its own:
/// the first one of a wave hangs below the last one before.
pub const CHILD_GROUPS_MAX: usize = LINKED_GROUPS_MAX;

/// One group of a swarm as it was planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedGroup {
    pub id: GroupId,
    /// 0 for rank 1.
    pub wave: u32,
    /// Within the wave, from 0.
    pub position: u32,
    /// The group that copies to this one; none for a root.
    pub parent: Option<GroupId>,
    /// Whether the origin feeds this group.
    pub root: bool,
    /// 1 to [`GROUP_MEMBERS_MAX`]. The order is part of the plan: pairs between groups go by it, and as the fastest stand first, fast ones are paired
    /// with fast ones.
    pub members: Vec<Peer>,
    /// The primary of each member that is tied to one, ascending.
    pub primaries: Vec<TerminalId>,
}

/// Why a plan cannot be made, or stored groups are not a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{given} group ids were given where {needed} are needed")]
    GroupIds { needed: usize, given: usize },
    #[error("wave {wave} cannot be planned after wave {latest}")]
    WaveOrder { wave: u32, latest: u32 },
    #[error("terminal {0} stands twice")]
    TerminalTwice(TerminalId),
    #[error("group {0} stands twice, or its place does")]
    GroupTwice(GroupId),
    #[error("group {0} has no member, or more than {GROUP_MEMBERS_MAX}")]
    GroupSize(GroupId),
    #[error("group {0} is neither a root nor below a group before it that has room")]
    Parent(GroupId),
    #[error("{candidates} terminals cannot be cut into groups of {} with {} child groups each below {} roots", shape.m, shape.k, shape.roots)]
    Shape { shape: Shape, candidates: usize },
}
