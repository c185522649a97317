//! What is forfeited of a deposit: never more than it, never for time that nobody looked, and all of it for leaving at once.

use proptest::prelude::*;
use protocol::{Amount, TimestampMs};
use rules::duty::{Duty, Look, Presence, STANDSTILL_MS};

use crate::books::config;

const LOOK_MS: u64 = 5_000;

/// The duty of a terminal that was complete at `completed_at`, in seconds: 100 s for a deposit of 1,000.
fn duty(completed_at: Option<u64>) -> Duty {
    Duty { after_ms: 100_000, deposit: Amount(1_000), completed_at: completed_at.map(|second| TimestampMs(second * 1_000)) }
}

/// Looks every five seconds from 0 on; the terminal is there when `is_there` says so of the second.
fn watched(duty: &Duty, until_s: u64, is_there: impl Fn(u64) -> bool) -> Presence {
    let mut presence = Presence::default();
    let mut before = None;
    for second in (0..=until_s).step_by(5) {
        let now = TimestampMs(second * 1_000);
        presence = presence.after(Look { before, now }, duty, is_there(second));
        before = Some(now);
    }
    presence
}

fn forfeited(duty: &Duty, ends_s: u64, is_there: impl Fn(u64) -> bool) -> u64 {
    duty.ended(watched(duty, ends_s, is_there), TimestampMs(ends_s * 1_000), true).forfeited.0
}

#[test]
fn a18_whoever_leaves_forfeits_the_part_of_the_deposit_that_it_was_away() {
    let complete = duty(Some(20));
    assert_eq!(forfeited(&complete, 120, |_| true), 0);
    // From the first look that misses it.
    assert_eq!(forfeited(&complete, 120, |second| second <= 20), 950);
    assert_eq!(forfeited(&complete, 120, |second| second < 20), 1_000);
    assert_eq!(forfeited(&complete, 120, |second| second < 70), 500);
    assert_eq!(forfeited(&complete, 120, |second| !(30..60).contains(&second)), 250, "six looks miss it: 25 s at least");
}

#[test]
fn a18_a_tenth_is_forgiven_in_all_and_beyond_it_everything_counts() {
    let complete = duty(Some(0));
    assert_eq!(forfeited(&complete, 100, |second| second < 90), 0);
    assert_eq!(forfeited(&complete, 100, |second| second < 85), 150);
    let flickers = |second: u64| (second / 5).is_multiple_of(3);
    assert!(forfeited(&complete, 100, flickers) >= 300, "two looks of three miss it");
    let long = Duty { after_ms: 10_000_000, ..complete };
    assert_eq!(long.missed_ms(Presence { absent_since: None, absent_ms: 60_000 }, TimestampMs(0)), 0, "a minute at most");
    assert_eq!(long.missed_ms(Presence { absent_since: None, absent_ms: 60_001 }, TimestampMs(0)), 60_001);
}

#[test]
fn a18_the_duty_ends_with_the_release_and_counts_nothing_from_before_the_completion() {
    let complete = duty(Some(50));
    assert_eq!(forfeited(&complete, 70, |second| second < 50), 200, "the release ended after 20 of 100 s");
    assert_eq!(forfeited(&complete, 150, |second| second >= 50), 0, "it was away before it was complete");
    assert_eq!(forfeited(&complete, 400, |second| second < 150), 0, "and afterwards nothing is owed");
}

#[test]
fn a18_keeping_the_last_chunk_unsigned_frees_nobody_and_nothing_received_owes_nothing() {
    let incomplete = duty(None);
    assert_eq!(forfeited(&incomplete, 300, |second| second < 60), 1_000);
    assert_eq!(forfeited(&incomplete, 300, |second| second < 250), 500);
    assert_eq!(forfeited(&incomplete, 300, |_| true), 0, "it tried to the end");
    let never_came = watched(&incomplete, 300, |_| false);
    assert_eq!(incomplete.ended(never_came, TimestampMs(300_000), false).forfeited, Amount(0));
}

#[test]
fn a18_a_standstill_of_the_service_counts_for_nobodys_absence() {
    let complete = duty(Some(0));
    let here = Presence::default();
    let stood_still = Look { before: Some(TimestampMs(5_000)), now: TimestampMs(95_000) };
    let back = here.after(stood_still, &complete, false);
    assert_eq!(complete.ended(back, TimestampMs(100_000), true).forfeited, Amount(0), "nobody saw it leave before");
    let away = Presence { absent_since: Some(TimestampMs(5_000)), absent_ms: 0 };
    let still_away = away.after(stood_still, &complete, false);
    assert_eq!(still_away.absent_since, Some(TimestampMs(95_000)));
    assert_eq!(away.after(stood_still, &complete, true).absent_ms, 0, "when it came back is not known");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a18_no_absence_is_counted_longer_than_it_was_and_no_more_is_forfeited_than_the_deposit(
        there in prop::collection::vec(any::<bool>(), 1..60),
        gaps in prop::collection::vec(1u64..=STANDSTILL_MS, 60),
        completed in prop::option::of(0u64..200_000),
        after_ms in 1u64..400_000,
        deposit in 0u64..=1 << 53,
    ) {
        let duty = Duty { after_ms, deposit: Amount(deposit), completed_at: completed.map(TimestampMs) };
        let (mut presence, mut before, mut now, mut away) = (Presence::default(), None, 0, 0);
        let mut was_there = true;
        for (is_there, gap) in there.iter().zip(&gaps) {
            now += gap;
            presence = presence.after(Look { before, now: TimestampMs(now) }, &duty, *is_there);
            // Away between two looks that both missed it, or between one that saw it and one that did not.
            away += if was_there && *is_there { 0 } else { *gap };
            (was_there, before) = (*is_there, Some(TimestampMs(now)));
        }
        let outcome = duty.ended(presence, TimestampMs(now), true);
        prop_assert!(outcome.missed_ms <= away.min(after_ms));
        prop_assert!(outcome.forfeited.0 <= deposit);
        prop_assert_eq!(outcome.forfeited.0 == deposit, deposit == 0 || outcome.missed_ms == after_ms);
        if there.iter().all(|is_there| *is_there) {
            prop_assert_eq!(outcome.forfeited, Amount(0));
        }
        // More of an absence never costs less.
        let longer = duty.ended(Presence { absent_ms: presence.absent_ms + LOOK_MS, ..presence }, TimestampMs(now), true);
        prop_assert!(longer.forfeited >= outcome.forfeited);
    }
}
