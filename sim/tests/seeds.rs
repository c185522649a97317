//! Two hundred small releases, each decided on by its seed alone: 4 to 24 terminals, up to three waves, up to four kinds of trouble.

use std::collections::BTreeSet;

use sim::{FaultKind, Wish};

fn every_promise_is_kept(seeds: std::ops::RangeInclusive<u64>) {
    let mut broken = Vec::new();
    for seed in seeds {
        let wish = Wish::small(seed);
        let outcome = sim::run(&wish);
        if let Some(violation) = outcome.violation {
            let faults: Vec<&str> = wish.faults.iter().map(|kind| kind.name()).collect();
            broken.push(format!("{violation} at step {} under {faults:?}; again with: cargo xtask sim --seed {seed}", outcome.steps));
        }
    }
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}

macro_rules! seeds {
    ($($name:ident: $seeds:expr;)*) => {
        $(#[test]
        fn $name() {
            every_promise_is_kept($seeds);
        })*
    };
}

// In parts, so that they run beside each other.
seeds! {
    x06_every_promise_is_kept_with_seeds_from_1: 1..=25;
    x06_every_promise_is_kept_with_seeds_from_26: 26..=50;
    x06_every_promise_is_kept_with_seeds_from_51: 51..=75;
    x06_every_promise_is_kept_with_seeds_from_76: 76..=100;
    x06_every_promise_is_kept_with_seeds_from_101: 101..=125;
    x06_every_promise_is_kept_with_seeds_from_126: 126..=150;
    x06_every_promise_is_kept_with_seeds_from_151: 151..=175;
    x06_every_promise_is_kept_with_seeds_from_176: 176..=200;
}

#[test]
fn x06_every_kind_of_trouble_and_none_at_all_are_among_the_seeds() {
    let wishes: Vec<Wish> = (1..=200).map(Wish::small).collect();
    let met: BTreeSet<FaultKind> = wishes.iter().flat_map(|wish| wish.faults.iter().copied()).collect();
    assert_eq!(met, FaultKind::MIX.into_iter().collect());
    assert!(wishes.iter().any(|wish| wish.faults.is_empty()));
}

#[test]
fn x06_every_kind_of_trouble_at_once_breaks_no_promise() {
    for seed in 1..=10 {
        let outcome = sim::run(&Wish { faults: FaultKind::MIX.into_iter().collect(), ..Wish::small(seed) });
        assert_eq!(outcome.violation, None, "again with: cargo xtask sim --seed {seed} --faults all");
    }
}

#[test]
fn x06_a_seed_replays_event_for_event() {
    let mut digests = BTreeSet::new();
    for seed in 1..=8 {
        let wish = Wish { faults: FaultKind::MIX.into_iter().collect(), ..Wish::small(seed) };
        let (first, second) = (sim::run(&wish), sim::run(&wish));
        assert_eq!(first, second, "seed {seed}");
        digests.insert(first.digest);
    }
    assert_eq!(digests.len(), 8, "other seeds are other runs");
}
