//! First copies for open credits.

use protocol::ws::GrantKind;

use super::{CREDIT_LIFE_MS, Call, GRANTS_MAX, HOLD_BACK_MS, OVERHEAD_MAX, Table};

/// Bytes that a relay with this overhead copies to everybody in a second.
fn speed(overhead: u64) -> u64 {
    (1_000_000_000 / overhead.max(1)).max(1)
}

impl<T: Copy + Ord> Table<T> {
    pub(super) fn give_chunks(&mut self, call: &mut Call<'_, T>) {
        if !self.spec.root || call.now < self.spec.opens {
            return;
        }
        self.give_first_copies(call);
        self.give_directly(call);
    }

    /// The chunk to be given next: returned ones first, then in the order of giving. Never one that a live member holds or leases, or is sent by the origin.
    pub(super) fn take(&mut self) -> Option<u32> {
        while let Some(&chunk) = self.returned.first() {
            if self.is_free(chunk) && !self.directs.keys().any(|(coming, _)| *coming == chunk) {
                return Some(chunk);
            }
            self.returned.remove(&chunk);
        }
        while let Some(&chunk) = self.order.first().get(self.led) {
            if self.is_free(chunk) {
                return Some(chunk);
            }
            self.led += 1;
        }
        while self.next < self.count() {
            if self.order.is_in_between(self.next) && self.is_free(self.next) {
                return Some(self.next);
            }
            self.next += 1;
        }
        while let Some(&chunk) = self.order.last().get(self.trailed) {
            if self.is_free(chunk) {
                return Some(chunk);
            }
            self.trailed += 1;
        }
        None
    }

    fn is_free(&self, chunk: u32) -> bool {
        !self.leases.contains_key(&chunk) && !self.live_holder(chunk, None)
    }

    fn overhead(&self, terminal: T) -> u64 {
        self.spec.members.get(&terminal).copied().unwrap_or(OVERHEAD_MAX)
    }

    fn owed_by(&self, terminal: T) -> u64 {
        self.outstanding.get(&terminal).copied().unwrap_or(0)
    }

    /// When the terminal would have copied `length` more bytes to everybody, in milliseconds from now.
    fn finish_ms(&self, terminal: T, length: u64) -> u64 {
        self.overhead(terminal) * (self.owed_by(terminal) + length) / 1_000_000
    }

    /// How long a relay may take for `length` more bytes without being the one that everybody waits for at the end: as long as all relays together need
    /// for what is owed and what was not given, or as the first of them to finish.
    fn worthwhile_ms(&self, relays: &[T], length: u64) -> u64 {
        let left = self.mean * (u64::try_from(self.returned.len()).unwrap_or(u64::MAX) + u64::from(self.count() - self.passed()));
        let owed: u64 = relays.iter().map(|relay| self.owed_by(*relay)).sum();
        let speeds: u64 = relays.iter().map(|relay| speed(self.overhead(*relay))).sum();
        let together = (owed + left) * 1_000 / speeds.max(1);
        let first = relays.iter().map(|relay| self.finish_ms(*relay, length)).min().unwrap_or(0);
        together.max(first)
    }

    fn give_first_copies(&mut self, call: &mut Call<'_, T>) {
        let (now, limits) = (call.now, call.limits);
        for _ in 0..GRANTS_MAX {
            let asks =
                |terminal: &T| self.open.get(terminal).is_some_and(|&(open, at)| open > 0 && now.saturating_sub(at) <= CREDIT_LIFE_MS);
            let signs = |terminal: &T| !self.owes_signatures(*terminal, limits);
            let wanting: Vec<T> = self.live.iter().copied().filter(|terminal| asks(terminal) && signs(terminal)).collect();
            let relays: Vec<T> =
                self.live.iter().copied().filter(|terminal| (asks(terminal) || self.owed_by(*terminal) > 0) && signs(terminal)).collect();
            if wanting.is_empty() {
                return;
            }
            let Some(chunk) = self.take() else { return };
            let length = self.length(chunk);
            if limits.in_flight_max > 0 && self.in_flight > 0 && self.in_flight + length > limits.in_flight_max {
                return;
            }
            let finish = |terminal: &T| self.overhead(*terminal) * (self.owed_by(*terminal) + length);
            let Some(chosen) = wanting.into_iter().min_by_key(|terminal| (finish(terminal), *terminal)) else { return };
            let late = self.finish_ms(chosen, length) > self.worthwhile_ms(&relays, length);
            if late && now.saturating_sub(self.given_at) < HOLD_BACK_MS {
                return;
            }
            self.note_given(chunk);
            self.given_at = now;
            self.grant(chunk, chosen, (GrantKind::FirstCopy, false), now);
            if let Some((open, _)) = self.open.get_mut(&chosen) {
                *open -= 1;
            }
        }
    }
}
