//! Faults strike and end.

use std::time::Duration;

use super::{Event, World};
use crate::faults::What;
use crate::rng::{Purpose, Rng};

/// How long the server takes to notice that a machine is gone without a word, and how long presence lasts that nobody renews.
const SILENT_FOR: Duration = Duration::from_secs(15);
const PRESENCE_FOR: Duration = Duration::from_secs(10);

impl World {
    pub(super) fn strikes(&mut self, fault: usize) {
        let what = self.scenario.faults[fault].what.clone();
        let lasts = match what {
            What::Kill { terminal, silent, back_after, .. } => {
                self.kill(terminal, silent);
                back_after
            }
            What::Stall { terminal, lasts } => {
                self.terminals[terminal].frozen_until = self.now + lasts;
                Some(lasts)
            }
            What::Slow { terminal, divisor } => {
                self.network.slow_down(terminal, divisor);
                None
            }
            What::Partition { cut_off, from_server, lasts } => {
                self.network.cut(fault, cut_off, from_server);
                self.doubt_links();
                Some(lasts)
            }
            What::Lie { terminal } => {
                self.terminals[terminal].character.lies = true;
                None
            }
            What::Corrupt { terminal, per_mille } => {
                self.terminals[terminal].character.corrupts = per_mille;
                None
            }
            What::MixUp { terminal, per_mille } => {
                self.terminals[terminal].character.mixes_up = per_mille;
                None
            }
            What::Repeat { per_mille, lasts } => {
                self.repeats = per_mille;
                Some(lasts)
            }
            What::ServerAway { lasts } => {
                self.server_goes();
                Some(lasts)
            }
            What::RedisLost => {
                self.server.forget_everything();
                self.streams.iter_mut().for_each(|stream| {
                    stream.waiting.clear();
                    stream.torn = true;
                });
                self.after_server();
                None
            }
            What::Flap { terminal } => {
                for other in self.linked_to(terminal) {
                    self.close_link(terminal, other);
                }
                None
            }
            What::Socket { terminal, lasts } => {
                let way = self.network.way_to_server(terminal);
                self.lose_socket(terminal, way);
                Some(lasts)
            }
        };
        match lasts {
            Some(lasts) => self.queue.post(self.now + lasts, Event::Ends { fault }),
            None => self.unsettled -= 1,
        }
    }

    pub(super) fn fault_ends(&mut self, fault: usize) {
        self.unsettled -= 1;
        match self.scenario.faults[fault].what.clone() {
            What::Kill { terminal, forgets_per_mille, .. } => self.comes_back(terminal, forgets_per_mille),
            What::Partition { .. } => {
                self.network.heal(fault);
                self.release_held_up();
            }
            What::Repeat { .. } => self.repeats = 0,
            What::ServerAway { lasts } => self.server_comes(lasts),
            What::Socket { terminal, .. } => {
                let life = self.terminals[terminal].life;
                self.queue.post(self.now, Event::Connects { terminal, life });
            }
            What::Stall { .. }
            | What::Slow { .. }
            | What::Lie { .. }
            | What::Corrupt { .. }
            | What::MixUp { .. }
            | What::RedisLost
            | What::Flap { .. } => {}
        }
    }

    fn kill(&mut self, terminal: usize, silent: bool) {
        if !self.terminals[terminal].running {
            return;
        }
        let after = if silent { SILENT_FOR } else { self.network.way_to_server(terminal) };
        self.lose_socket(terminal, after);
        self.abandon_links(terminal);
        self.terminals[terminal].die();
        self.network.restart(terminal, self.now);
    }

    fn comes_back(&mut self, terminal: usize, forgets_per_mille: u64) {
        if self.terminals[terminal].running {
            return;
        }
        let mut rng = Rng::new(self.scenario.seed ^ self.steps, Purpose::Faults);
        let chunks: Vec<u32> = self.terminals[terminal].disk.keys().copied().filter(|_| rng.chance(forgets_per_mille)).collect();
        self.counts.forgotten.extend(chunks.iter().map(|chunk| (terminal, *chunk)));
        self.terminals[terminal].forget(&chunks);
        self.switch_on(terminal);
    }

    /// The only instance stops. Redis keeps what it knows, and presence for a while.
    fn server_goes(&mut self) {
        self.server_away = true;
        self.incarnation += 1;
        self.origin_free_at = self.now;
        for terminal in 0..self.terminals.len() {
            self.streams[terminal].session = None;
            let state = &mut self.terminals[terminal];
            if state.session.take().is_some() {
                let life = state.life;
                let wait = self.retries.time(Duration::from_millis(250), Duration::from_millis(500));
                self.queue.post(self.now + wait, Event::Connects { terminal, life });
            }
        }
    }

    fn server_comes(&mut self, away: Duration) {
        self.server_away = false;
        self.server.came_at = self.now;
        let forgotten: Vec<usize> = (0..self.terminals.len()).filter(|&terminal| self.streams[terminal].session.is_none()).collect();
        if away >= PRESENCE_FOR {
            for terminal in forgotten {
                self.server.detach(terminal, self.now);
            }
        } else {
            // Whoever is not back when its presence ends is taken out then: it is the session of nobody.
            for terminal in forgotten {
                self.sessions += 1;
                let session = self.sessions;
                self.streams[terminal].session = Some(session);
                self.queue.post(self.now + PRESENCE_FOR.saturating_sub(away), Event::Detaches { terminal, session });
            }
        }
        self.after_server();
    }
}
