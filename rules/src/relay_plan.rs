//! The relay plan of one swarm: which terminals form a group, which group copies to which, and who may talk to whom.
//!
//! Flow: at closing the server plans wave 0 with [`plan_wave`], stores the groups, and pushes each member its [`TerminalView`]; at each later wave's
//! opening it does the same for that wave on top of the [`SwarmTree`] of all waves before. The plan of a wave never names a terminal of a later one.
//!
//! The groups of a swarm form a chain in the order (wave, position): each copies every chunk to one child group, the next in the chain. Besides its
//! parent in the chain a group may pull from groups of earlier waves, whose members hold the edition already.
//!
//! Two groups that are linked do not talk all to all. With P members above and C below, the pairs are
//! `{(i, i mod C)} ∪ {(j mod P, j)}`: every member above has somebody to copy to and every member below somebody to ask, with as few links as that takes.

mod tree;
mod wave;

#[cfg(test)]
mod properties;

use protocol::ws::Peer;
use protocol::{GroupId, TerminalId};

pub use tree::{SwarmTree, TerminalView};
pub use wave::{groups_needed, plan_wave};

/// Most members of a group: each keeps fifteen links to its own group, and a relay sends each chunk sixteen times at most.
pub const GROUP_MEMBERS_MAX: usize = 16;

/// Most groups that a group may pull from, its parent in the chain included, and most groups that it serves. In a release of up to eight earlier
/// groups everybody earlier is a source; beyond that, more links would cost sockets and make the plan longer than a WebSocket message may be (in the
/// worst case, one-member groups between full ones, it names 272 terminals in 56 KiB), and the chain feeds every group anyway.
pub const LINKED_GROUPS_MAX: usize = 8;

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
    /// 1 to [`GROUP_MEMBERS_MAX`]. The order is part of the plan: pairs between groups go by it.
    pub members: Vec<Peer>,
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
    #[error("group {0} is neither a root nor below the group before it")]
    Parent(GroupId),
}
