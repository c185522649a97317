//! Relays that are gone while they owed something, and the first that comes from somebody else in their place. Nothing is decided by it: it tells how
//! long the loss of a relay was felt here.
//!
//! A relay owes what was asked of it or was coming from it, and every chunk that it brought into the group and that is not here yet.

use std::collections::{BTreeMap, BTreeSet};

use protocol::TerminalId;

use crate::Now;
use crate::action::Action;
use crate::machine::Swarm;

/// The relays that are gone and that nothing has replaced yet: at most those that brought something, and those that something was asked of.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    relays: BTreeMap<TerminalId, Left>,
}

#[derive(Debug)]
struct Left {
    heard_at: Now,
    /// Asked of it, or begun by it. What it brought is looked up when it comes.
    asked: BTreeSet<u32>,
}

impl Gone {
    /// It is here again, so that what comes from others is no replacement.
    pub(crate) fn is_back(&mut self, relay: TerminalId) {
        self.relays.remove(&relay);
    }
}

impl Swarm {
    /// A relay is silent, unlinked, banned or planned away. To be called before what was asked of it is forgotten; the first call counts.
    pub(crate) fn note_gone(&mut self, relay: TerminalId) {
        let Some(state) = self.peers.get(&relay).filter(|_| !self.completed) else { return };
        let begun = state.partial.as_ref().map(|partial| partial.chunk);
        let asked: BTreeSet<u32> = state.pulls.keys().copied().chain(begun).collect();
        if !asked.is_empty() || self.pulling.has_brought(relay) {
            self.gone.relays.entry(relay).or_insert(Left { heard_at: state.heard_at, asked });
        }
    }

    /// `source` has begun to send `chunk`. Says so if that is the first of what a relay owed that is gone.
    pub(crate) fn note_replacement(&mut self, chunk: u32, source: TerminalId, now: Now) {
        if self.gone.relays.is_empty() || self.settled.contains(chunk) || self.pending.contains_key(&chunk) {
            return;
        }
        let bringer = self.pulling.bringer(chunk);
        let actions = &mut self.actions;
        self.gone.relays.retain(|&relay, left| {
            // It may have been more than one: what the first one brought was asked of the second.
            let replaced = relay != source && (bringer == Some(relay) || left.asked.contains(&chunk));
            if replaced {
                actions.push_back(Action::Replaced { relay, source, chunk, silent_for: now.saturating_sub(left.heard_at) });
            }
            !replaced
        });
    }
}
