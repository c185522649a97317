//! Links between terminals: opened by the smaller id by way of the server, closed by either end, noticed late when an end dies.

use std::time::Duration;

use super::{Channel, Event, Pair, World};
use crate::server::Says;

/// How long a link without a sign of life is kept by the end that is left.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(6);
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_CAP: Duration = Duration::from_secs(15);
/// Trips between the two ends before a link is open: offer and answer, checks, handshake, hello.
const TRIPS: u32 = 6;

impl World {
    /// The pair of two terminals, the one that offers first, and which of them `one` is.
    fn pair_of(&self, one: usize, other: usize) -> ((usize, usize), usize) {
        if self.terminals[one].identity.id < self.terminals[other].identity.id { ((one, other), 0) } else { ((other, one), 1) }
    }

    /// The channel from one terminal to another, if the link is up at the first.
    pub(super) fn channel(&self, from: usize, to: usize) -> Option<Channel> {
        let (pair, end) = self.pair_of(from, to);
        let found = self.pairs.get(&pair).filter(|pair| pair.up[end])?;
        Some(Channel { from, to, generation: found.generation })
    }

    /// Whether the receiver's end of this very link is up.
    pub(super) fn is_up(&self, channel: Channel) -> bool {
        let (pair, end) = self.pair_of(channel.to, channel.from);
        self.pairs.get(&pair).is_some_and(|pair| pair.up[end] && pair.generation == channel.generation)
    }

    pub(super) fn linked_to(&self, terminal: usize) -> Vec<usize> {
        let ends = |(&(a, b), pair): (&(usize, usize), &Pair)| match (a == terminal, b == terminal) {
            (true, _) if pair.up[0] => Some(b),
            (_, true) if pair.up[1] => Some(a),
            (true | false, true | false) => None,
        };
        self.pairs.iter().filter_map(ends).collect()
    }

    /// Sees to it that every link of the terminal's plan is tried.
    pub(super) fn want_links(&mut self, terminal: usize) {
        let Some(machine) = self.terminals[terminal].machine.as_ref() else { return };
        let peers: Vec<usize> = machine.plan().peers().filter_map(|peer| self.index_of(peer.terminal_id)).collect();
        for peer in peers {
            self.try_link(terminal, peer, Duration::ZERO);
        }
    }

    fn try_link(&mut self, one: usize, other: usize, wait: Duration) {
        let ((a, b), _) = self.pair_of(one, other);
        let pair = self.pairs.entry((a, b)).or_default();
        if !std::mem::replace(&mut pair.trying, true) {
            self.queue.post(self.now + wait, Event::LinkTried { a, b });
        }
    }

    /// Whether both want the link; `None` if the end that offers does not, so that nobody tries.
    fn is_wanted(&self, a: usize, b: usize) -> Option<bool> {
        let wants = |one: usize, other: usize| {
            let state = &self.terminals[one];
            state.running && !state.blocked.contains(&other) && state.plans(self.terminals[other].identity.id)
        };
        wants(a, b).then(|| wants(b, a))
    }

    fn can_be_opened(&self, a: usize, b: usize) -> bool {
        let reached = |one: usize| {
            let state = &self.terminals[one];
            state.session.is_some() && state.frozen_until <= self.now && !self.network.is_parted_from_server(one)
        };
        !self.server_away && reached(a) && reached(b) && !self.network.are_parted(a, b)
    }

    pub(super) fn link_tried(&mut self, a: usize, b: usize) {
        let wanted = self.is_wanted(a, b);
        let Some(pair) = self.pairs.get_mut(&(a, b)) else { return };
        if wanted.is_none() || pair.up[0] {
            pair.trying = false;
            return;
        }
        if wanted == Some(true) && self.can_be_opened(a, b) {
            let way = self.network.distance(a, b) * TRIPS;
            return self.queue.post(self.now + way, Event::LinkOpens { a, b });
        }
        self.retry_link(a, b);
    }

    fn retry_link(&mut self, a: usize, b: usize) {
        let Some(pair) = self.pairs.get_mut(&(a, b)) else { return };
        let whole = RETRY_FIRST.saturating_mul(1 << pair.failures.min(10)).min(RETRY_CAP);
        pair.failures += 1;
        let wait = self.retries.time(whole / 2, whole);
        self.queue.post(self.now + wait, Event::LinkTried { a, b });
    }

    pub(super) fn link_opens(&mut self, a: usize, b: usize) {
        if self.is_wanted(a, b) != Some(true) || !self.can_be_opened(a, b) {
            return self.link_tried(a, b);
        }
        // An end that has not noticed yet that the last link is over hears it by the new one.
        self.end_closes(b, a);
        self.generations += 1;
        let generation = self.generations;
        let Some(pair) = self.pairs.get_mut(&(a, b)) else { return };
        *pair = Pair { generation, up: [true, true], trying: false, failures: 0 };
        self.counts.links += 1;
        for (one, other) in [(a, b), (b, a)] {
            let (id, now) = (self.terminals[other].identity.id, self.now);
            if let Some(machine) = self.terminals[one].machine.as_mut() {
                machine.handle_link_up(id, now);
            }
        }
        self.drive(a);
        self.drive(b);
    }

    /// The end at `one` is not up any more; says whether it was.
    fn end_closes(&mut self, one: usize, other: usize) -> bool {
        let (key, end) = self.pair_of(one, other);
        let Some(pair) = self.pairs.get_mut(&key) else { return false };
        if !std::mem::replace(&mut pair.up[end], false) {
            return false;
        }
        let generation = pair.generation;
        if pair.up == [false, false] {
            self.network.close(one, other, generation);
        }
        self.invariants.link_closed(one, other);
        let (id, now) = (self.terminals[other].identity.id, self.now);
        if let Some(machine) = self.terminals[one].machine.as_mut() {
            machine.handle_link_down(id, now);
        }
        true
    }

    /// `by` closes its link to `other`, which hears of it.
    pub(super) fn close_link(&mut self, by: usize, other: usize) {
        for (one, peer) in [(by, other), (other, by)] {
            if self.end_closes(one, peer) {
                self.drive(one);
            }
        }
        self.try_link(by, other, RETRY_FIRST);
    }

    /// No sign of life for too long: each end that still has the link gives it up, and tells the server.
    pub(super) fn link_lost(&mut self, a: usize, b: usize, generation: u64) {
        if self.pairs.get(&(a, b)).is_none_or(|pair| pair.generation != generation) {
            return;
        }
        let is_well = self.pairs.get(&(a, b)).is_some_and(|pair| pair.up == [true, true]) && !self.network.are_parted(a, b);
        if is_well {
            return;
        }
        for (one, other) in [(a, b), (b, a)] {
            if self.end_closes(one, other) {
                self.counts.suspicions.entry(("Closed".to_owned(), self.scenario.is_honest(other))).and_modify(|n| *n += 1).or_insert(1);
                self.say(one, Says::Suspect(other));
                self.drive(one);
            }
        }
        self.try_link(a, b, RETRY_FIRST);
    }

    /// The terminal is dead: its ends are gone, and the others notice later.
    pub(super) fn abandon_links(&mut self, terminal: usize) {
        for other in self.linked_to(terminal) {
            let ((a, b), end) = self.pair_of(terminal, other);
            if let Some(pair) = self.pairs.get_mut(&(a, b)) {
                pair.up[end] = false;
                let generation = pair.generation;
                self.invariants.link_closed(terminal, other);
                self.queue.post(self.now + LOST_AFTER, Event::LinkLost { a, b, generation });
            }
        }
    }

    /// A partition has begun: links across it are given up unless it ends in time.
    pub(super) fn doubt_links(&mut self) {
        for (&(a, b), pair) in &self.pairs {
            if pair.up != [false, false] && self.network.are_parted(a, b) {
                self.queue.post(self.now + LOST_AFTER, Event::LinkLost { a, b, generation: pair.generation });
            }
        }
    }

    /// What partitions that are over have held up goes on, in its order.
    pub(super) fn release_held_up(&mut self) {
        let held_up = std::mem::take(&mut self.held_up);
        for (channel, frame, bytes) in held_up {
            if self.network.are_parted(channel.from, channel.to) {
                self.held_up.push((channel, frame, bytes));
            } else if self.is_up(channel) {
                let at = self.network.release(channel.from, channel.to, channel.generation, self.now);
                self.queue.post(at, Event::Arrives { channel, frame, bytes });
            }
        }
    }
}
