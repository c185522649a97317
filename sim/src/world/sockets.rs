//! Connections between terminals and server: what is said, what is pushed, and what is said again after a connection was lost.

use std::time::Duration;

use protocol::ws::GrantKind;
use swarm::Now;

use super::{Event, World};
use crate::server::{Fact, Push, Says};

/// How often an instance says that a terminal is there.
const REFRESH_EVERY: Duration = Duration::from_secs(3);
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_CAP: Duration = Duration::from_secs(8);
/// The most pushes that wait for a terminal that is away; beyond that it is told everything anew.
const STREAM_MAX: usize = 256;
/// The longest that a message between terminal and server is late while messages are repeated.
const LATE_BY: Duration = Duration::from_millis(900);

impl World {
    pub(super) fn switch_on(&mut self, terminal: usize) {
        let state = &mut self.terminals[terminal];
        if state.running {
            return;
        }
        state.running = true;
        // A new process knows of no earlier pushes.
        state.position = 0;
        let life = state.life;
        self.queue.post(self.now, Event::Connects { terminal, life });
    }

    pub(super) fn connects(&mut self, terminal: usize, life: u64) {
        let state = &mut self.terminals[terminal];
        if state.life != life || !state.running || state.session.is_some() {
            return;
        }
        if self.server_away || self.network.is_parted_from_server(terminal) || state.frozen_until > self.now {
            let whole = AGAIN_FIRST.saturating_mul(1 << state.attempts.min(10)).min(AGAIN_CAP);
            state.attempts += 1;
            let wait = self.retries.time(whole / 2, whole);
            return self.queue.post(self.now + wait, Event::Connects { terminal, life });
        }
        self.sessions += 1;
        let session = self.sessions;
        (state.session, state.attempts) = (Some(session), 0);
        let stream = &mut self.streams[terminal];
        (stream.session, stream.floor) = (Some(session), self.now);
        self.said_floor[terminal] = self.now;
        self.server.attach(terminal, self.now);
        self.queue.post(self.now + REFRESH_EVERY, Event::Refreshes { terminal, session });
        self.resume(terminal);
        self.after_server();
        let now = self.now;
        let unsent = std::mem::take(&mut self.terminals[terminal].unsent);
        if let Some(machine) = self.terminals[terminal].machine.as_mut() {
            machine.handle_connected(now);
        }
        unsent.into_iter().for_each(|says| self.say(terminal, says));
        self.drive(terminal);
    }

    /// Pushes what the terminal has not taken, or everything anew if some of it is gone.
    fn resume(&mut self, terminal: usize) {
        let stream = &mut self.streams[terminal];
        let position = self.terminals[terminal].position;
        if std::mem::take(&mut stream.torn) || position == 0 {
            stream.waiting.clear();
            return self.server.tell_everything(terminal);
        }
        stream.waiting.retain(|(at, _)| *at > position);
        let waiting: Vec<(u64, Push)> = stream.waiting.iter().cloned().collect();
        for (position, push) in waiting {
            self.forward(terminal, position, push);
        }
    }

    /// The server has learned that a connection is gone.
    pub(super) fn detaches(&mut self, terminal: usize, session: u64) {
        if self.streams[terminal].session == Some(session) && !self.server_away {
            self.streams[terminal].session = None;
            self.server.detach(terminal, self.now);
            self.after_server();
        }
    }

    pub(super) fn refreshes(&mut self, terminal: usize, session: u64) {
        if self.streams[terminal].session != Some(session) {
            return;
        }
        self.server.join(terminal, self.now);
        if std::mem::take(&mut self.streams[terminal].torn) {
            self.push(terminal, Push::Reload);
        }
        self.after_server();
        self.queue.post(self.now + REFRESH_EVERY, Event::Refreshes { terminal, session });
    }

    /// Both ends lose the connection; the server learns of it after `after`.
    pub(super) fn lose_socket(&mut self, terminal: usize, after: Duration) {
        if let Some(session) = self.terminals[terminal].session.take() {
            self.queue.post(self.now + after, Event::Detaches { terminal, session });
        }
    }

    /// The terminal tells the server something.
    pub(super) fn say(&mut self, terminal: usize, says: Says) {
        let state = &mut self.terminals[terminal];
        let (Some(session), life) = (state.session, state.life) else { return state.keep(says) };
        let repeated = self.repeats > 0 && self.retries.chance(self.repeats);
        if repeated {
            self.counts.repeated += 1;
            let late = self.retries.time(Duration::ZERO, LATE_BY);
            self.queue.post(self.now + late, Event::Says { terminal, life, session, says: says.clone() });
        }
        let at = (self.now + self.network.way_to_server(terminal)).max(self.said_floor[terminal]);
        self.said_floor[terminal] = at;
        self.queue.post(at, Event::Says { terminal, life, session, says });
    }

    pub(super) fn heard_by_server(&mut self, terminal: usize, life: u64, session: u64, says: Says) {
        if self.network.is_parted_from_server(terminal) {
            // The connection holds it back until the partition is over.
            return self.queue.post(self.now + Duration::from_millis(100), Event::Says { terminal, life, session, says });
        }
        if self.server_away || self.streams[terminal].session != Some(session) {
            if self.terminals[terminal].life == life {
                match says {
                    Says::Notices(_) | Says::Receipts(_) => self.say_again(terminal, says),
                    Says::Credits(_) | Says::Missing(_) | Says::Holdings { .. } | Says::Suspect(_) | Says::Sync => {}
                }
            }
            return;
        }
        self.server.hear(terminal, says, self.now);
        self.after_server();
    }

    /// The server has surely not taken it.
    fn say_again(&mut self, terminal: usize, says: Says) {
        if self.terminals[terminal].session.is_some() { self.say(terminal, says) } else { self.terminals[terminal].keep(says) }
    }

    /// Takes what the server has decided: pushes go out, facts are checked.
    pub(super) fn after_server(&mut self) {
        for fact in std::mem::take(&mut self.server.facts) {
            self.compare_with_truth(fact);
            if let Fact::BudgetSpent { terminal, chunk } = fact {
                self.counts.budget_spent.insert((terminal, chunk));
            }
            let checked = self.invariants.fact(fact, self.now);
            self.check(checked);
        }
        for (terminal, push) in std::mem::take(&mut self.server.pushes) {
            let stream = &mut self.streams[terminal];
            if stream.session.is_some() && std::mem::take(&mut stream.torn) {
                // Redis was lost: the forwarder sees another epoch, says that the terminal is there, and has it ask for everything.
                self.server.shared.present.insert(terminal);
                self.push(terminal, Push::Reload);
            }
            self.push(terminal, push);
        }
    }

    /// Whether a chunk was granted that a live member of the group has in truth, or for a repair anybody.
    fn compare_with_truth(&mut self, fact: Fact) {
        let Fact::Granted { group, terminal, chunk, kind } = fact else { return };
        if kind == GrantKind::Direct {
            self.counts.direct += 1;
            return;
        }
        if kind == GrantKind::Repair {
            self.counts.repairs += 1;
            let is_held = self.terminals.iter().any(|state| state.session.is_some() && state.has(chunk));
            self.counts.needless += u64::from(is_held);
            return;
        }
        let is_here = |other: usize| self.terminals[other].session.is_some() && self.invariants.is_here(group, other);
        let is_live = |other: &usize| *other != terminal && is_here(*other) && self.terminals[*other].has(chunk);
        let holders: Vec<usize> = self.server.members(group).into_iter().filter(is_live).collect();
        let signed = holders.iter().find(|&&holder| self.server.has_receipt(holder, chunk));
        if let Some(&holder) = signed.or(holders.first()) {
            let checked = self.invariants.truly_held(holder, terminal, chunk, signed.is_some(), self.scenario.strict);
            self.check(checked);
        }
    }

    fn push(&mut self, terminal: usize, push: Push) {
        let stream = &mut self.streams[terminal];
        stream.last += 1;
        let position = stream.last;
        stream.waiting.push_back((position, push.clone()));
        if stream.waiting.len() > STREAM_MAX {
            stream.waiting.pop_front();
            stream.torn |= stream.session.is_none();
        }
        self.forward(terminal, position, push);
    }

    fn forward(&mut self, terminal: usize, position: u64, push: Push) {
        let way = self.network.way_to_server(terminal);
        let stream = &mut self.streams[terminal];
        let Some(session) = stream.session else { return };
        let at = (self.now + way).max(stream.floor);
        stream.floor = at;
        if self.repeats > 0 && self.retries.chance(self.repeats) {
            self.counts.repeated += 1;
            let late = self.retries.time(Duration::ZERO, LATE_BY);
            self.queue.post(at + late, Event::Pushed { terminal, session, position, push: push.clone() });
        }
        self.queue.post(at, Event::Pushed { terminal, session, position, push });
    }

    pub(super) fn pushed(&mut self, terminal: usize, session: u64, position: u64, push: Push) {
        if self.terminals[terminal].session != Some(session) {
            return;
        }
        if self.network.is_parted_from_server(terminal) {
            return self.queue.post(self.now + Duration::from_millis(100), Event::Pushed { terminal, session, position, push });
        }
        let Some(Event::Pushed { push, .. }) = self.unless_frozen(terminal, Event::Pushed { terminal, session, position, push }) else {
            return;
        };
        self.terminals[terminal].position = position.max(self.terminals[terminal].position);
        let taken = self.terminals[terminal].position;
        self.streams[terminal].waiting.retain(|(at, _)| *at > taken);
        let now: Now = self.now;
        let machine = self.terminals[terminal].machine.as_mut();
        match push {
            Push::Plan(plan) => return self.take_plan(terminal, *plan),
            Push::Reload => return self.say(terminal, Says::Sync),
            Push::Grant { kind, chunks } => _ = machine.map(|machine| machine.handle_grant(kind, &chunks, now)),
            Push::RepairRefused { chunks, code } => _ = machine.map(|machine| machine.handle_repair_refused(&chunks, code)),
            Push::PeerGone(peer) => _ = machine.map(|machine| machine.handle_peer_gone(peer, now)),
            Push::ReportHoldings => _ = machine.map(|machine| machine.handle_report_holdings(now)),
        }
        self.drive(terminal);
    }
}
