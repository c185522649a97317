//! How many chunks to ask of the origin: as many as the uplink can copy on in half a second, so that a slow relay gets fewer and none waits long.

use crate::Now;
use crate::action::Action;
use crate::config::{CREDITS_MAX, REPEAT_EVERY, WINDOW_BYTES};
use crate::machine::Swarm;
use crate::peer::Role;

/// What the server was told last.
#[derive(Debug, Default)]
pub(crate) struct Credits {
    told: u32,
    told_at: Option<Now>,
}

impl Credits {
    /// The server has used up some of what it was told.
    pub(crate) fn granted(&mut self, chunks: u32) {
        self.told = self.told.saturating_sub(chunks);
    }
}

/// Chunks to ask for, given what waits to be copied. All in bytes but `leases`, in chunks.
pub(crate) fn open_credits(backlog_max: u64, unsent: u64, leases: u64, copies: u64, mean_chunk: u64) -> u64 {
    let per_chunk = mean_chunk.max(1) * copies.max(1);
    let room = backlog_max.saturating_sub(unsent).saturating_sub(leases * per_chunk);
    room.div_ceil(per_chunk).min(CREDITS_MAX.saturating_sub(leases))
}

impl Swarm {
    pub(crate) fn update_credits(&mut self, now: Now) {
        if !self.plan.root || self.is_complete() || now < self.opens_at() {
            return;
        }
        if self.paused {
            if self.credits.told > 0 {
                self.credits = Credits { told: 0, told_at: Some(now) };
                self.actions.push_back(Action::Credits { open: 0 });
            }
            return;
        }
        let members = self.peers.values().filter(|state| state.role == Role::Member && state.is_live()).count();
        let copies = u64::try_from(members + self.plan.children.len()).unwrap_or(u64::MAX);
        // A peer that takes nothing does not hold the others back.
        let moving: Vec<u64> = self.peers.values().filter(|state| state.is_moving(now)).map(|state| state.out.unsent_bytes()).collect();
        // And one that takes little counts for its part of the backlog, not for all that has come together for it.
        let share = WINDOW_BYTES.max(self.config.backlog_bytes() / u64::try_from(moving.len().max(1)).unwrap_or(1));
        let unsent = moving.iter().map(|unsent| share.min(*unsent)).sum();
        let leases = u64::try_from(self.fetching.to_relay() + self.pending.len()).unwrap_or(u64::MAX);
        let mean = self.manifest.length.0.div_ceil(u64::from(self.manifest.chunk_count()).max(1));
        let open = u32::try_from(open_credits(self.config.backlog_bytes(), unsent, leases, copies, mean)).unwrap_or(u32::MAX);
        let repeat = self.credits.told_at.is_none_or(|at| now >= at + REPEAT_EVERY);
        if (open > self.credits.told && open >= (self.credits.told * 2).max(1)) || (repeat && (open > 0 || self.credits.told > 0)) {
            self.credits = Credits { told: open, told_at: Some(now) };
            self.actions.push_back(Action::Credits { open });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_asks_for_what_it_can_copy_in_half_a_second() {
        // 10 Mbit/s, 15 copies of 64 KiB: one chunk takes 786 ms to copy, so the next one is asked for when half a second of it is left.
        let backlog = 10_000_000 / 8 / 2;
        assert_eq!(open_credits(backlog, 0, 0, 15, 65_536), 1);
        assert_eq!([backlog - 1, backlog].map(|unsent| open_credits(backlog, unsent, 0, 15, 65_536)), [1, 0]);
        assert_eq!(open_credits(backlog, 983_040, 0, 15, 65_536), 0, "a full backlog asks for nothing");
        assert_eq!(open_credits(backlog, 0, 2, 15, 65_536), 0, "leases count");
        assert_eq!(open_credits(100_000_000, 0, 0, 1, 65_536), CREDITS_MAX);
    }
}
