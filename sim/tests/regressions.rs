//! Seeds that once broke a promise of the server's rules, and the releases of the lab.

use std::collections::BTreeSet;

use protocol::BitsPerSecond;
use sim::lab::{Lab, LabBudget};
use sim::{FaultKind, Outcome, Wish, World};

fn run(seed: u64, faults: &[FaultKind], change: impl FnOnce(&mut Wish)) -> Outcome {
    let mut wish = Wish { faults: faults.iter().copied().collect::<BTreeSet<_>>(), ..Wish::small(seed) };
    change(&mut wish);
    let outcome = sim::run(&wish);
    assert_eq!(outcome.violation, None, "seed {seed}: {}", outcome.summary());
    outcome
}

#[test]
fn b29_what_a_live_member_has_signed_for_is_not_given_again_as_a_first_copy() {
    for seed in [191, 238] {
        let wish = Wish { strict: true, ..Wish::small(seed) };
        assert_eq!(sim::run(&wish).violation, None, "again with: cargo xtask sim --seed {seed} --strict");
    }
}

#[test]
fn b29_a_wave_whose_opening_the_server_missed_is_fed_by_the_wave_before() {
    for seed in [2, 8, 12, 13] {
        let outcome = run(seed, &[FaultKind::MissedOpening], |wish| wish.waves = 2);
        assert_eq!(outcome.completed(), outcome.terminals);
    }
}

#[test]
fn x07_what_only_later_groups_have_comes_back_to_earlier_ones_when_the_budget_is_spent() {
    for seed in [18, 48, 71] {
        let outcome = run(seed, &[FaultKind::TightBudget, FaultKind::Kill, FaultKind::Corrupt], |_| {});
        assert!(outcome.origin_sent <= outcome.budget);
    }
}

fn lab(terminals: usize, uplinks: &[u64], budget: LabBudget) -> Outcome {
    let lab = Lab {
        seed: 1,
        terminals,
        mib: 32,
        origin_up: BitsPerSecond::from_mbit(20),
        uplinks: uplinks.iter().copied().map(BitsPerSecond::from_mbit).collect(),
        peer_down: BitsPerSecond::from_mbit(50),
        budget,
    };
    let outcome = World::new(lab.scenario()).run();
    assert_eq!((outcome.violation.clone(), outcome.completed()), (None, terminals));
    println!("{}", outcome.against_fluid(true));
    outcome
}

/// The last terminal's time in hundredths of T*.
fn last(outcome: &Outcome) -> u128 {
    outcome.waves[0].took.as_micros() * 100 / outcome.waves[0].fluid.as_micros()
}

const MIXED: [u64; 4] = [2, 5, 10, 23];

#[test]
fn b03_slow_relays_hold_up_nobody_within_a_strict_budget() {
    let outcome = lab(16, &MIXED, LabBudget::Percent(105));
    assert!(last(&outcome) <= 128, "{}", outcome.against_fluid(true));
    assert_eq!((outcome.origin_sent, outcome.counts.direct), (outcome.size, 0), "a strict budget has nothing for direct copies");
    let chunks = |mbit: u64| {
        let of = outcome.each.iter().filter(|terminal| terminal.up == BitsPerSecond::from_mbit(mbit));
        of.map(|terminal| terminal.from_origin).sum::<usize>()
    };
    assert!(chunks(2) * 5 < chunks(23) && chunks(5) * 3 < chunks(23) && chunks(2) > 0, "{}", outcome.against_fluid(true));
}

#[test]
fn b01_with_an_open_budget_the_origin_sends_what_its_line_has_to_spare_to_everybody() {
    for (uplinks, most) in [(&[10][..], 121), (&MIXED[..], 121)] {
        let outcome = lab(16, uplinks, LabBudget::Open);
        assert!(last(&outcome) <= most, "{}", outcome.against_fluid(true));
        // The optimum is 1.78 sizes without headers.
        let sizes = outcome.origin_sent.0 * 100 / outcome.size.0;
        assert!((170..=205).contains(&sizes), "{sizes} hundredths of the size");
    }
}

#[test]
fn b29_two_groups_take_hardly_longer_than_one() {
    for (budget, most) in [(LabBudget::Open, 128), (LabBudget::Percent(105), 131)] {
        let outcome = lab(32, &[10], budget);
        assert!(last(&outcome) <= most, "{}", outcome.against_fluid(true));
    }
}
