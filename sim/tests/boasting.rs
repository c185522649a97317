//! A terminal that states more than its line carries. It is paid for what its receivers have signed for, which is what the line has carried: that may be
//! more than it would have been asked for honestly, because its queue is never empty, and everybody waits for it.

use std::time::Duration;

use protocol::BitsPerSecond;
use sim::lab::{Lab, LabBudget};
use sim::{Fault, Outcome, What, World};
use swarm::Now;

const BOASTER: usize = 5;
const LINE: u64 = 10_000_000;

/// Sixteen terminals of 10 Mbit/s; the line of one of them carries so many times less.
fn played(seed: u64, budget: LabBudget, times: u64, boasts: bool) -> Outcome {
    let mut uplinks = vec![BitsPerSecond(LINE); 16];
    if !boasts {
        uplinks[BOASTER] = BitsPerSecond(LINE / times);
    }
    let (origin_up, peer_down) = (BitsPerSecond::from_mbit(40), BitsPerSecond::from_mbit(200));
    let mut scenario = Lab { seed, terminals: 16, mib: 8, origin_up, uplinks, peer_down, budget }.scenario();
    if boasts {
        scenario.faults.push(Fault { at: Now::ZERO, what: What::Slow { terminal: BOASTER, divisor: times } });
    }
    let outcome = World::new(scenario).run();
    assert_eq!(outcome.violation, None, "{}", outcome.summary());
    outcome
}

/// Bytes that a line of that rate carries in that time.
fn carried(rate: u64, time: Duration) -> u128 {
    u128::from(rate / 8) * time.as_micros() / 1_000_000
}

#[test]
fn x03_who_states_ten_times_its_uplink_is_paid_for_no_more_than_its_line_has_carried() {
    let outcome = played(1, LabBudget::Percent(105), 10, true);
    let (boaster, wave) = (outcome.each[BOASTER], outcome.waves[0]);
    assert_eq!(wave.completed, 16);
    assert!(boaster.copied.0 > 0);
    assert!(u128::from(boaster.copied.0) <= carried(LINE / 10, wave.took), "{boaster:?} in {:?}", wave.took);
}

/// For `docs/BENCHMARKS.md`.
#[test]
#[ignore = "a table of a minute, not a check"]
fn x03_measured_what_a_boast_brings() {
    for budget in [LabBudget::Percent(105), LabBudget::Open] {
        for times in [2, 4, 10] {
            let (mut paid, mut took) = (Vec::new(), Vec::new());
            for seed in 1..=5 {
                let (honest, boast) = (played(seed, budget, times, false), played(seed, budget, times, true));
                paid.push(boast.each[BOASTER].copied.0 * 100 / honest.each[BOASTER].copied.0.max(1));
                took.push(boast.waves[0].took.as_micros() * 100 / honest.waves[0].took.as_micros().max(1));
            }
            println!("budget {budget}, {times} times the uplink: copies {paid:?} %, the release's time {took:?} % of the honest run's");
        }
    }
}
