//! What terminals say, brought to the lease tables.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ErrorCode;
use protocol::bitmap::ChunkSet;
use protocol::receipt::Receipt;
use protocol::ws::ChunkNotice;
use rules::lease_table::{Affordable, Call, Part, Refused, Wanted};
use rules::suspicion::reports_needed;
use swarm::Now;

use super::{BENCH, CLAIMS_MAX, Fact, Limits, Place, Push, Rebuild, SUSPICION_FOR, Says, Server, State, UNSIGNED_MAX, millis};
use crate::plan::CLOCK_AT_ZERO;

impl Server {
    /// The terminal's WebSocket is there.
    pub(crate) fn attach(&mut self, terminal: usize, now: Now) {
        self.shared.present.insert(terminal);
        self.join(terminal, now);
    }

    /// Said again every few seconds, so that a lost Redis learns it.
    pub(crate) fn join(&mut self, terminal: usize, now: Now) {
        self.shared.present.insert(terminal);
        let Some(place) = self.place(terminal) else { return };
        self.with_table(place.group, now, |table, call| table.credits(Some(terminal), None, call));
        self.note_presence(terminal, place);
    }

    fn note_presence(&mut self, terminal: usize, place: Place) {
        if let Some(State::Ready(table)) = self.tables.get(&place.group)
            && table.live.contains(&terminal)
        {
            self.facts.push(Fact::Here { group: place.group, terminal });
        }
    }

    /// Its WebSocket is gone.
    pub(crate) fn detach(&mut self, terminal: usize, now: Now) {
        self.shared.present.remove(&terminal);
        self.leave(terminal, Duration::ZERO, now);
        let id = self.planner.id(terminal);
        for peer in self.planner.linked(terminal) {
            if self.shared.present.contains(&peer) {
                self.pushes.push((peer, Push::PeerGone(id)));
            }
        }
    }

    fn leave(&mut self, terminal: usize, bench: Duration, now: Now) {
        let Some(place) = self.place(terminal) else { return };
        let Some(State::Ready(table)) = self.tables.get_mut(&place.group) else { return };
        self.facts.push(Fact::Gone { group: place.group, terminal });
        let bench = millis(bench);
        let limits = Limits { in_flight_max: self.in_flight_max, unsigned_max: UNSIGNED_MAX, direct: self.budget.room_for_direct() };
        let given = table.leave(terminal, bench, &mut Call { shared: &mut self.shared, limits, now: millis(now) });
        self.say(place.group, given);
    }

    /// All that concerns the terminal is told again.
    pub(crate) fn tell_everything(&mut self, terminal: usize) {
        self.tell_plan(terminal);
    }

    pub(crate) fn hear(&mut self, terminal: usize, says: Says, now: Now) {
        let Some(place) = self.place(terminal) else { return };
        match says {
            Says::Credits(open) => self.credits(terminal, place, open, now),
            Says::Notices(notices) => self.notices(terminal, place, &notices, now),
            Says::Receipts(receipts) => self.receipts(&receipts),
            Says::Missing(chunks) => self.missing(terminal, place, &chunks, now),
            Says::Holdings { have, leases } => self.holdings(terminal, place, have, &leases, now),
            Says::Suspect(peer) => self.suspect(terminal, peer, now),
            Says::Sync => self.tell_everything(terminal),
        }
        self.note_presence(terminal, place);
    }

    fn credits(&mut self, terminal: usize, place: Place, open: u32, now: Now) {
        if !place.root {
            return;
        }
        if let Some(State::Ready(table)) = self.tables.get_mut(&place.group)
            && table.owes_signatures(terminal, Limits { unsigned_max: UNSIGNED_MAX, ..Limits::default() })
        {
            table.signed(terminal, self.signed[terminal].iter(), false);
        }
        self.with_table(place.group, now, |table, call| table.credits(Some(terminal), Some(open), call));
    }

    fn notices(&mut self, terminal: usize, place: Place, notices: &[ChunkNotice], now: Now) {
        if self.is_ready(place, now) {
            let facts = notices.iter().map(|notice| Fact::Holds {
                group: place.group,
                terminal,
                chunk: notice.chunk,
                done: notice.copies_done_at.is_some(),
            });
            self.facts.extend(facts);
        }
        let timed: Vec<(u32, Option<u64>)> =
            notices.iter().map(|notice| (notice.chunk, notice.copies_done_at.map(|at| at.0.saturating_sub(CLOCK_AT_ZERO)))).collect();
        self.with_table(place.group, now, |table, call| table.notices(terminal, &timed, call));
    }

    fn is_ready(&mut self, place: Place, now: Now) -> bool {
        self.open_table(place.group, now);
        matches!(self.tables.get(&place.group), Some(State::Ready(_)))
    }

    fn receipts(&mut self, receipts: &[Receipt]) {
        for receipt in receipts {
            let Some(&receiver) = self.planner.indices.get(&receipt.body.receiver) else { continue };
            if self.keys.as_ref().is_some_and(|keys| !receipt.is_signed_by(&keys[receiver])) {
                self.forged += 1;
                continue;
            }
            let fresh: Vec<u32> = receipt.body.chunks().filter(|&chunk| self.signed[receiver].insert(chunk)).collect();
            let place = self.place(receiver);
            if let Some(State::Ready(table)) = place.and_then(|place| self.tables.get_mut(&place.group)) {
                table.signed(receiver, fresh, true);
            }
        }
    }

    fn missing(&mut self, terminal: usize, place: Place, chunks: &[u32], now: Now) {
        let above = self.planner.upstream(terminal);
        let live: Vec<usize> = above.into_iter().filter(|peer| self.shared.present.contains(peer)).collect();
        let receipted = |chunk: u32| live.iter().any(|&peer| self.signed[peer].contains(chunk));
        let wanted: BTreeMap<u32, bool> = chunks.iter().map(|&chunk| (chunk, receipted(chunk))).collect();
        let feeders_connected = !place.root && self.places.iter().any(|(member, place)| place.root && self.shared.present.contains(member));
        let affordable =
            Affordable { again: self.budget.room(Part::Repair), first: self.budget.room(Part::First), doubled: self.budget.for_doubles() };
        if self.is_ready(place, now) {
            self.facts.extend(wanted.keys().map(|&chunk| Fact::Lacks { group: place.group, terminal, chunk }));
        }
        let wanted = Wanted { chunks: &wanted, feeders_connected };
        let asked = self.with_table(place.group, now, |table, call| table.missing(terminal, affordable, wanted, call));
        let Some(Refused { elsewhere, unaffordable }) = asked else { return };
        self.facts.extend(unaffordable.iter().map(|&chunk| Fact::BudgetSpent { terminal, chunk }));
        for (chunks, code) in [(elsewhere, ErrorCode::Conflict), (unaffordable, ErrorCode::BudgetSpent)] {
            if !chunks.is_empty() {
                self.pushes.push((terminal, Push::RepairRefused { chunks, code }));
            }
        }
    }

    fn holdings(&mut self, terminal: usize, place: Place, have: ChunkSet, leases: &[u32], now: Now) {
        let group = place.group;
        if matches!(self.tables.get(&group), Some(State::Ready(_) | State::Rebuilding(_))) {
            self.facts.extend(have.iter().map(|chunk| Fact::Holds { group, terminal, chunk, done: false }));
        }
        match self.tables.get_mut(&group) {
            Some(State::Rebuilding(Rebuild { told, claims, .. })) => {
                if place.root {
                    let mut claimed = claims.values().filter(|claimant| **claimant == terminal).count();
                    for &chunk in leases.iter().filter(|chunk| (**chunk as usize) < self.lengths.len()) {
                        if claimed < CLAIMS_MAX && !claims.contains_key(&chunk) {
                            claims.insert(chunk, terminal);
                            claimed += 1;
                        }
                    }
                }
                told.insert(terminal, have);
                self.with_table(group, now, |table, call| table.credits(None, None, call));
            }
            Some(State::Ready(_)) => {
                self.with_table(group, now, |table, call| table.holdings(terminal, &have, call));
            }
            Some(State::Lost) | None => {}
        }
    }

    /// Enough different neighbours, or one if the WebSocket is gone as well, remove a member for a while.
    fn suspect(&mut self, reporter: usize, suspect: usize, now: Now) {
        if !self.planner.linked(reporter).contains(&suspect) {
            return;
        }
        let reports = self.suspicions.entry(suspect).or_default();
        reports.insert(reporter, now);
        reports.retain(|_, at| now <= *at + SUSPICION_FOR);
        if reports.len() >= reports_needed(self.planner.linked(suspect).len()) || !self.shared.present.contains(&suspect) {
            self.removed += 1;
            self.leave(suspect, BENCH, now);
        }
    }
}
