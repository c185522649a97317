//! The origin: one line, of which each allowed fetch gets its part in turn.

use std::time::Duration;

use super::{Event, Fetched, World};
use crate::server::{Paid, Refused};

/// How long a terminal waits for a server that does not answer.
const NO_ANSWER: Duration = Duration::from_secs(2);

impl World {
    /// How long the origin's line carries a chunk.
    fn origin_takes(&self, chunk: u32) -> Duration {
        let bytes = self.content.length(chunk) * self.scenario.origin_wire_per_mille / 1_000;
        Duration::from_nanos(bytes.saturating_mul(8_000_000_000) / self.scenario.origin_up.0.max(1))
    }

    pub(super) fn fetch_asked(&mut self, terminal: usize, life: u64, chunk: u32) {
        if self.terminals[terminal].life != life {
            return;
        }
        if self.server_away || self.network.is_parted_from_server(terminal) {
            let fetched = Fetched::Failed { retry_later: true };
            return self.queue.post(self.now + NO_ANSWER, Event::Fetched { terminal, life, chunk, fetched });
        }
        let asked = self.server.fetch(terminal, chunk, self.now);
        match asked {
            Ok(paid) => {
                let at = self.origin_free_at.max(self.now);
                self.origin_free_at = at + self.origin_takes(chunk);
                self.queue.post(at, Event::OriginSends { terminal, life, chunk, paid });
            }
            Err(refused) => {
                let retry_later = match refused {
                    Refused::NoLease | Refused::BudgetSpent => false,
                    Refused::Unsigned => true,
                };
                let fetched = Fetched::Failed { retry_later };
                let back = self.network.way_to_server(terminal);
                self.queue.post(self.now + back, Event::Fetched { terminal, life, chunk, fetched });
            }
        }
        self.after_server();
    }

    /// Its turn has come: from here on the bytes count, whether they arrive or not.
    pub(super) fn origin_sends(&mut self, terminal: usize, life: u64, chunk: u32, paid: Paid) {
        if self.server_away || self.terminals[terminal].life != life {
            self.server.unfetch(terminal, chunk, paid, self.now);
            if self.terminals[terminal].life == life {
                let fetched = Fetched::Failed { retry_later: true };
                self.queue.post(self.now + NO_ANSWER, Event::Fetched { terminal, life, chunk, fetched });
            }
            return;
        }
        let length = self.content.length(chunk);
        let checked = self.invariants.origin_sends(length);
        self.check(checked);
        self.counts.origin_chunks += 1;
        let sending = self.origin_takes(chunk);
        let way = self.network.way_to_server(terminal);
        let incarnation = self.incarnation;
        self.queue.post(self.now + sending + way, Event::OriginSent { terminal, life, chunk, incarnation });
    }

    pub(super) fn origin_sent(&mut self, terminal: usize, life: u64, chunk: u32, incarnation: u64) {
        if self.terminals[terminal].life != life {
            return;
        }
        if self.incarnation != incarnation || self.network.is_parted_from_server(terminal) {
            let fetched = Fetched::Failed { retry_later: true };
            return self.queue.post(self.now + NO_ANSWER, Event::Fetched { terminal, life, chunk, fetched });
        }
        let at = self.network.receive(terminal, self.content.length(chunk), self.now);
        self.queue.post(at, Event::Fetched { terminal, life, chunk, fetched: Fetched::Chunk });
    }
}
