//! What becomes due with time: receipts, announcements, reports, pings, suspicion, and the next deadline.

use protocol::frame::{Frame, INDICES_MAX};
use protocol::ws::{LIST_MAX, SuspectReason};

use crate::Now;
use crate::action::Action;
use crate::config::{
    PING_EVERY, RECEIPT_EVERY, RECEIPTS_AT_LEAST_EVERY, RECEIPTS_EVERY, REPORT_EVERY, REPORT_ORIGIN_CHUNKS, SUSPECT_AFTER,
    UNACKNOWLEDGED_AFTER,
};
use crate::machine::Swarm;
use crate::signing::Signer;

/// How often the machine looks at what is late or silent while a transfer runs.
const TICK: Now = Now::from_millis(50);
/// How far the server's clock may be from what this terminal takes it for.
const CLOCKS_APART: Now = Now::from_millis(500);

impl Swarm {
    /// Does what is due. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.receipts_due.is_some_and(|due| due <= now) {
            self.send_receipts(now);
        }
        if self.delta_due.is_some_and(|due| due <= now) {
            self.announce();
        }
        if self.report_due <= now {
            self.report(now);
        }
        if self.tick_due <= now {
            self.watch_links(now);
            self.tell_reach();
            self.retry_fetches(now);
            self.update_credits(now);
            self.pull(now);
            self.tick_due = now + if self.completed { PING_EVERY } else { TICK };
            if now < self.opens_at() {
                self.tick_due = self.tick_due.max(self.opens_at().min(now + PING_EVERY));
            }
        }
    }

    /// Says what has not been said yet: receipts to sources and server, holdings, notices. For a driver that is about to stop.
    pub fn flush(&mut self, now: Now) {
        self.send_receipts(now);
        self.announce();
        self.submit_receipts(now);
        self.report(now);
    }

    fn send_receipts(&mut self, now: Now) {
        self.receipts_due = None;
        let (swarm_id, signer_parts) = (self.plan.swarm_id, self.server_time(now));
        let signer = Signer { key: &self.config.key, receiver: self.config.me, delivery_id: self.plan.delivery_id, at: signer_parts };
        for (peer, receipt) in self.signing.take_for_sources(&signer) {
            if self.peers.get(&peer).is_some_and(|state| state.linked) {
                self.actions.push_back(Action::Send { peer, frame: Frame::Receipt { swarm_id, receipt: Box::new(receipt) } });
            }
        }
    }

    fn announce(&mut self) {
        self.delta_due = None;
        let (swarm_id, chunks) = (self.plan.swarm_id, std::mem::take(&mut self.new_holdings));
        for part in chunks.chunks(INDICES_MAX) {
            for (&peer, _) in self.peers.iter().filter(|(_, state)| state.linked) {
                // Also to those who have it: they may be about to send it here. Only whoever sent it knows already.
                let news: Vec<u32> = part.iter().filter(|(_, sender)| *sender != peer).map(|(chunk, _)| *chunk).collect();
                if !news.is_empty() {
                    self.actions.push_back(Action::Send { peer, frame: Frame::HaveDelta { swarm_id, chunks: news } });
                }
            }
        }
    }

    fn report(&mut self, now: Now) {
        self.report_due = now + REPORT_EVERY;
        if self.completed || self.origin_unreported >= REPORT_ORIGIN_CHUNKS || now >= self.receipts_to_server_due {
            self.submit_receipts(now);
        }
        let notices = std::mem::take(&mut self.notices);
        for part in notices.chunks(LIST_MAX) {
            self.actions.push_back(Action::Notices(part.to_vec()));
        }
    }

    fn submit_receipts(&mut self, now: Now) {
        // What was here before may be all of it, and is signed for when the wave is surely open by the server's clock too.
        let received = self.progress.from_origin.0 + self.progress.from_peers.0;
        if received == 0 && now < self.opens_at() + CLOCKS_APART {
            return;
        }
        self.origin_unreported = 0;
        let at = self.server_time(now);
        let signer = Signer { key: &self.config.key, receiver: self.config.me, delivery_id: self.plan.delivery_id, at };
        let receipts = self.signing.take_for_server(&signer);
        let all_of_them = RECEIPT_EVERY.saturating_mul(u32::try_from(receipts.len()).unwrap_or(u32::MAX));
        self.receipts_to_server_due = now + all_of_them.clamp(RECEIPTS_EVERY, RECEIPTS_AT_LEAST_EVERY);
        if !receipts.is_empty() {
            self.actions.push_back(Action::SubmitReceipts(receipts));
        }
    }

    /// Pings links in use that are silent, and those of relays that owe copies, and suspects those that stay so.
    fn watch_links(&mut self, now: Now) {
        let (mut silent, mut dropped) = (Vec::new(), Vec::new());
        for (&peer, state) in &mut self.peers {
            if !(state.is_used() || (state.linked && self.pulling.is_owing(peer))) || state.banned {
                state.used_since = None;
                continue;
            }
            let used_since = *state.used_since.get_or_insert(now);
            let quiet_since = state.heard_at.max(used_since);
            if now >= state.heard_at + PING_EVERY && now >= state.pinged_at + PING_EVERY {
                state.pinged_at = now;
                let nonce = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
                self.actions.push_back(Action::Send { peer, frame: Frame::Ping { nonce } });
            }
            if !state.suspect && now >= quiet_since + SUSPECT_AFTER {
                state.suspect = true;
                silent.push((peer, SuspectReason::Silent));
            }
            if state.out.is_stalled(now, UNACKNOWLEDGED_AFTER) {
                // It may pull what it still wants; what is queued for it must not hold the others' chunks back.
                dropped.extend(state.out.drop_queue(now).into_iter().map(|chunk| (peer, chunk)));
                silent.push((peer, SuspectReason::Unacknowledged));
            }
        }
        let any_silent = !silent.is_empty();
        for (peer, reason) in silent {
            if reason == SuspectReason::Silent {
                self.note_gone(peer);
            }
            if let Some(state) = self.peers.get_mut(&peer) {
                state.unanswered = state.unanswered.saturating_add(u32::try_from(state.pulls.len()).unwrap_or(u32::MAX));
                state.pulls.clear();
            }
            self.actions.push_back(Action::Suspect { peer, reason });
        }
        if any_silent {
            self.reroute(now);
        }
        for (peer, chunk) in dropped {
            self.copy_done(peer, chunk, now);
        }
    }

    /// When [`Swarm::handle_timeout`] is to be called next.
    pub fn next_deadline(&self) -> Now {
        let report = if self.notices.is_empty() && self.completed { self.report_due.max(self.tick_due) } else { self.report_due };
        [self.receipts_due, self.delta_due].into_iter().flatten().chain([self.tick_due, report]).min().unwrap_or(self.tick_due)
    }
}
