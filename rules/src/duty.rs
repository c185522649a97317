//! Relay duty: whoever has a place in a rank that owes one stays connected for a while after its delivery is complete, or forfeits a part of a deposit.
//!
//! The service looks now and then who is connected. An absence counts from the first look that misses the terminal to the last one that does, so it is never
//! counted longer than it was, and not at all while nobody looked. Of the time that is owed, which begins with the completion and ends after the rank's
//! seconds or with the release, the absences are added up; a tenth of what is owed, at most a minute, is forgiven, and beyond that all of it counts.
//! ⌊deposit · missed / owed⌋ is forfeited.
//!
//! Whoever received something and never completed would owe nothing by that rule, and could keep the last chunk unsigned to be free: it owes
//! its duty from the moment that it was last there.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use protocol::{Amount, TimestampMs};
use serde::{Deserialize, Serialize};

/// However much is owed, no more than this is forgiven: as long as a restart of a machine takes.
const FORGIVEN_MS_MAX: u64 = 60_000;
/// And of a short duty this part.
const FORGIVEN_PART: u64 = 10;
/// Looks that are further apart than this are a standstill of the service: the time between them counts for nobody's absence.
pub const STANDSTILL_MS: u64 = 30_000;

/// What is known of a terminal's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Presence {
    /// The first look that missed it, if the last one did; moved on by what nobody looked.
    pub absent_since: Option<TimestampMs>,
    /// Absences that have ended and that count, in milliseconds.
    pub absent_ms: u64,
}

/// One look at who is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The look before; `None` for the first.
    pub before: Option<TimestampMs>,
    pub now: TimestampMs,
}

/// What a terminal owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duty {
    pub after_ms: u64,
    pub deposit: Amount,
    /// When its delivery was complete.
    pub completed_at: Option<TimestampMs>,
}

/// How a duty ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// At most what was owed.
    pub missed_ms: u64,
    /// At most the deposit.
    pub forfeited: Amount,
}

impl Presence {
    /// What is known after a look that did or did not find the terminal.
    #[must_use]
    pub fn after(self, look: Look, duty: &Duty, is_present: bool) -> Self {
        let before = look.before.unwrap_or(look.now);
        match (self.absent_since, is_present) {
            (None, true) => self,
            (None, false) => Self { absent_since: Some(look.now), ..self },
            (Some(since), true) => {
                let ended = counted_ms(duty, since, before);
                Self { absent_since: None, absent_ms: self.absent_ms.saturating_add(ended) }
            }
            (Some(since), false) => {
                let unseen = look.now.0.saturating_sub(before.0);
                let slept = if unseen > STANDSTILL_MS { unseen } else { 0 };
                Self { absent_since: Some(TimestampMs(since.0.saturating_add(slept))), ..self }
            }
        }
    }
}

impl Duty {
    /// When it ends if the release goes on for as long.
    pub fn until(&self) -> Option<TimestampMs> {
        self.completed_at.map(|completed| TimestampMs(completed.0.saturating_add(self.after_ms)))
    }

    /// What counts as missed if the duty ends now, in milliseconds: at most what is owed.
    pub fn missed_ms(&self, presence: Presence, now: TimestampMs) -> u64 {
        let trailing = match (presence.absent_since, self.completed_at) {
            (None, _) => 0,
            (Some(since), None) => now.0.saturating_sub(since.0),
            (Some(since), Some(_)) => counted_ms(self, since, now),
        };
        let absent = presence.absent_ms.saturating_add(trailing).min(self.after_ms);
        let forgiven = (self.after_ms / FORGIVEN_PART).min(FORGIVEN_MS_MAX);
        if absent > forgiven { absent } else { 0 }
    }

    /// How the duty ends now. Whoever was `served` nothing owes nothing.
    pub fn ended(&self, presence: Presence, now: TimestampMs, served: bool) -> Outcome {
        let missed_ms = if served { self.missed_ms(presence, now) } else { 0 };
        Outcome { missed_ms, forfeited: part_of(self.deposit, missed_ms, self.after_ms) }
    }
}

/// The part of [from, to] that lies in the time that is owed.
fn counted_ms(duty: &Duty, from: TimestampMs, to: TimestampMs) -> u64 {
    let (Some(begins), Some(ends)) = (duty.completed_at, duty.until()) else { return 0 };
    to.0.min(ends.0).saturating_sub(from.0.max(begins.0))
}

/// ⌊deposit · missed / owed⌋; all of it where nothing is owed, which no duty is.
fn part_of(deposit: Amount, missed_ms: u64, owed_ms: u64) -> Amount {
    let exact = u128::from(deposit.0).saturating_mul(u128::from(missed_ms)).checked_div(u128::from(owed_ms));
    Amount(exact.and_then(|part| u64::try_from(part).ok()).unwrap_or(deposit.0).min(deposit.0))
}
