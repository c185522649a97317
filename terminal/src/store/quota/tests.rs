//! The decision as a table, and what holds for every one of them.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const FREE: Standing = Standing::Free;
const SOURCE: Standing = Standing::Source;
const OWED: Standing = Standing::Stays(Stays::Owed);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// (bytes, when it was useful, standing)
fn kept(what: &[(u64, u64, Standing)]) -> Vec<Candidate> {
    what.iter().map(|&(bytes, useful, standing)| Candidate { bytes: Bytes(bytes), useful_at: at(useful), standing }).collect()
}

/// A quota of 100 and an edition of which nothing is there.
fn decide_for(needed: u64, what: &[(u64, u64, Standing)]) -> Verdict {
    decide(Wish { quota: Bytes(100), most: Bytes(needed), to_come: Bytes(needed) }, &kept(what))
}

fn fits(now: &[usize], later: &[usize]) -> Verdict {
    Verdict::Fits { now: now.to_vec(), later: later.to_vec() }
}

#[test]
fn x09_what_was_useful_least_recently_goes_first_and_no_more_than_needed() {
    assert_eq!(decide_for(40, &[]), fits(&[], &[]));
    assert_eq!(decide_for(40, &[(30, 2, FREE), (30, 1, FREE)]), fits(&[], &[]), "both have room beside it, to the last byte");
    assert_eq!(decide_for(41, &[(30, 2, FREE), (30, 1, FREE)]), fits(&[1], &[]));
    assert_eq!(decide_for(80, &[(30, 2, FREE), (30, 1, FREE)]), fits(&[1, 0], &[]));
    assert_eq!(decide_for(100, &[(30, 1, FREE), (30, 1, FREE)]), fits(&[0, 1], &[]), "everything, if it takes everything");
    // Of the three the second alone is enough: the first is spared, the third was never thought of.
    assert_eq!(decide_for(40, &[(10, 1, FREE), (60, 2, FREE), (30, 3, FREE)]), fits(&[1], &[]));
    assert_eq!(decide_for(90, &[(0, 1, FREE), (20, 2, FREE)]), fits(&[1], &[]), "what leaves no room does not go");
}

#[test]
fn x09_what_is_owed_stays_whatever_comes() {
    assert_eq!(decide_for(70, &[(30, 1, OWED), (30, 2, FREE)]), fits(&[1], &[]));
    assert_eq!(decide_for(80, &[(30, 1, OWED), (30, 2, FREE)]), Verdict::Blocked { missing: Bytes(10) });
    for stays in [Stays::InUse, Stays::Owed, Stays::Unknown] {
        assert_eq!(decide_for(1, &[(100, 1, Standing::Stays(stays))]), Verdict::Blocked { missing: Bytes(1) }, "{stays:?}");
    }
}

#[test]
fn x09_what_an_update_takes_chunks_from_goes_last_and_later() {
    assert_eq!(decide_for(80, &[(50, 1, SOURCE), (30, 9, FREE)]), fits(&[1], &[0]));
    assert_eq!(decide_for(60, &[(50, 1, SOURCE), (30, 9, FREE)]), fits(&[], &[0]), "what would not be enough does not go beside it");
    assert_eq!(decide_for(50, &[(50, 1, SOURCE), (30, 9, FREE)]), fits(&[1], &[]), "it stays if there is room without");
    assert_eq!(decide_for(90, &[(50, 1, SOURCE), (30, 9, OWED)]), Verdict::Blocked { missing: Bytes(20) });
}

#[test]
fn x09_an_edition_that_no_eviction_can_make_room_for_is_told_from_one_that_has_to_wait() {
    assert_eq!(decide_for(101, &[]), Verdict::TooLarge);
    assert_eq!(decide_for(101, &[(100, 1, FREE)]), Verdict::TooLarge, "nothing goes for what cannot come");
    // A part of it lies here: only the rest is to come.
    let (wish, own) = (Wish { quota: Bytes(100), most: Bytes(90), to_come: Bytes(50) }, (40, 5, Standing::Stays(Stays::InUse)));
    assert_eq!(decide(wish, &kept(&[own, (10, 1, FREE)])), fits(&[], &[]));
    assert_eq!(decide(wish, &kept(&[own, (11, 1, FREE)])), fits(&[1], &[]));
}

#[test]
fn sums_beyond_the_largest_number_are_too_much_and_no_overflow() {
    let wish = Wish { quota: Bytes(u64::MAX), most: Bytes(1), to_come: Bytes(u64::MAX) };
    assert_eq!(decide(wish, &kept(&[(u64::MAX, 1, OWED), (u64::MAX, 1, OWED)])), Verdict::Blocked { missing: Bytes(u64::MAX) });
}

fn standings() -> impl Strategy<Value = Standing> {
    let stays = [Stays::InUse, Stays::Owed, Stays::Unknown].map(Standing::Stays);
    prop_oneof![4 => Just(FREE), 1 => Just(SOURCE), 2 => prop::sample::select(stays.to_vec())]
}

proptest! {
    #[test]
    fn x09_every_decision_keeps_the_quota_and_takes_no_more_than_it_must(
        what in prop::collection::vec((0u64..40, 0u64..6, standings()), 0..12),
        most in 0u64..120,
        own in 0u64..60,
        beside in 0u64..60,
    ) {
        let kept = kept(&what);
        let wish = Wish { quota: Bytes(100), most: Bytes(most), to_come: Bytes(most.saturating_sub(own) + beside) };
        let sum: u64 = kept.iter().map(|candidate| candidate.bytes.0).sum::<u64>() + wish.to_come.0;
        let all_that_may_go: u64 =
            kept.iter().filter(|candidate| !matches!(candidate.standing, Standing::Stays(_))).map(|candidate| candidate.bytes.0).sum();
        match decide(wish, &kept) {
            Verdict::TooLarge => prop_assert!(most > 100),
            Verdict::Blocked { missing } => prop_assert_eq!(sum - all_that_may_go, 100 + missing.0, "it gives up only if everything is not enough"),
            Verdict::Fits { now, later } => {
                let gone: Vec<usize> = now.iter().chain(&later).copied().collect();
                let rest = sum - gone.iter().map(|&index| kept[index].bytes.0).sum::<u64>();
                prop_assert!(most <= 100 && rest <= 100);
                prop_assert!(now.iter().all(|&index| kept[index].standing == FREE));
                prop_assert!(later.iter().all(|&index| kept[index].standing == SOURCE));
                for &index in &gone {
                    prop_assert!(rest + kept[index].bytes.0 > 100, "{index} went for nothing");
                }
                // Whatever was useful later than everything that went is still there, and the chunks of the new edition went last.
                let latest = gone.iter().map(|&index| (kept[index].standing == SOURCE, kept[index].useful_at)).max();
                let older: u64 = kept
                    .iter()
                    .filter(|candidate| !matches!(candidate.standing, Standing::Stays(_)))
                    .filter(|candidate| latest.is_some_and(|latest| (candidate.standing == SOURCE, candidate.useful_at) < latest))
                    .map(|candidate| candidate.bytes.0)
                    .sum();
                prop_assert!(latest.is_none() || sum - older > 100, "what was useful less recently would have been enough");
                let mut sorted = now.clone();
                sorted.sort_by_key(|&index| kept[index].useful_at);
                prop_assert_eq!(sorted, now, "least useful first");
            }
        }
    }
}
