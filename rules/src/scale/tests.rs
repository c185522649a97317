//! The scale by example, and the promises that it keeps for any demand.
#![allow(clippy::arithmetic_side_effects, reason = "tests compute expectations on small numbers")]

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn demand(edition: u8, applications: u32) -> Demand {
    Demand { edition_id: EditionId([edition; 32]), length: Bytes(32 * MIB), applications, uplink: BitsPerSecond::from_mbit(10) }
}

/// Ranks at these delays, without stated capacities.
fn limits(delays: &[u32]) -> Limits {
    Limits {
        origin_budget: Bytes(1 << 40),
        primaries_max: PRIMARIES_MAX,
        places_max: None,
        ranks: delays.iter().map(|&delay_s| RankLimits { delay_s, capacity: None }).collect(),
        wave_interval_s: None,
    }
}

fn capacities(demands: &[Demand], limits: &Limits) -> Vec<Vec<u32>> {
    scale(demands, limits).unwrap().into_iter().map(|edition| edition.capacities).collect()
}

#[test]
fn a15_the_count_of_applications_decides_how_many_primaries_each_edition_gets() {
    // Six primaries by Webster for 100, 50 and 10: the quotients 33.3, 20, 16.7, 14.3 follow the first three.
    let mut of_six = limits(&[0, 60]);
    of_six.primaries_max = 96;
    let demands = [demand(1, 100), demand(2, 50), demand(3, 10)];
    let mut primaries = |copies: u64| {
        of_six.origin_budget = Bytes(copies * 32 * MIB);
        capacities(&demands, &of_six).iter().map(|ranks| ranks[0]).collect::<Vec<_>>()
    };
    // A copy each, as far as the first edition's sixteen primaries take it: the 17th would be a second copy.
    assert_eq!(primaries(3), [16, 8, 2]);
    assert_eq!(primaries(4), [32, 16, 3]);
}

#[test]
fn a15_an_edition_that_nobody_applied_for_is_not_sent_and_one_applicant_is_a_primary() {
    let scales = scale(&[demand(1, 0), demand(2, 1)], &limits(&[0, 60, 120])).unwrap();
    assert_eq!(scales[0], EditionScale { capacities: vec![0, 0, 0], waves: vec![] });
    assert_eq!(scales[1].capacities[0], 1);
}

#[test]
fn a16_each_wave_is_as_wide_as_those_before_can_feed_and_at_least_as_wide_as_they_are() {
    // 32 MiB over 10 Mbit/s take 26.8 s: in 60 s each place carries 2.23 editions.
    let scales = scale(&[demand(1, 1000)], &limits(&[0, 60, 120])).unwrap();
    assert_eq!(scales[0].capacities, [16, 35, 1000]);
    assert_eq!(scales[0].waves, [113, 366, 521]);
    // In 10 s none: each wave doubles all the same.
    let scales = scale(&[demand(1, 200)], &limits(&[0, 10, 20])).unwrap();
    assert_eq!((scales[0].capacities.as_slice(), scales[0].waves.as_slice()), ([16, 5, 200].as_slice(), [21, 42, 84, 53].as_slice()));
}

#[test]
fn a16_with_one_rank_the_primaries_are_its_first_wave() {
    let mut one = limits(&[0]);
    one.wave_interval_s = Some(1);
    assert_eq!(scale(&[demand(1, 100)], &one).unwrap(), [EditionScale { capacities: vec![100], waves: vec![16, 16, 32, 36] }]);
}

#[test]
fn what_the_publisher_states_is_used_as_it_stands() {
    let mut stated = limits(&[0, 60, 120]);
    stated.ranks[0].capacity = Some(40);
    stated.ranks[2].capacity = Some(7);
    let scales = scale(&[demand(1, 1000), demand(2, 0)], &stated).unwrap();
    assert_eq!(scales[0], EditionScale { capacities: vec![40, 89, 7], waves: vec![7] });
    assert_eq!(scales[1].capacities, [40, 0, 7], "stated for each edition");
    stated.places_max = Some(50);
    assert_eq!(capacities(&[demand(1, 1000)], &stated), [[40, 10, 0]]);
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let broken = |change: fn(&mut Limits)| {
        let mut limits = limits(&[0, 60]);
        change(&mut limits);
        scale(&[demand(1, 5)], &limits).unwrap_err()
    };
    assert_eq!(broken(|limits| limits.ranks.clear()), ScaleError::NoRank);
    assert_eq!(broken(|limits| limits.ranks[0].delay_s = 1), ScaleError::Delays);
    assert_eq!(broken(|limits| limits.ranks[1].delay_s = 0), ScaleError::Delays);
    assert_eq!(broken(|limits| limits.primaries_max = 0), ScaleError::NoPrimary);
    assert_eq!(broken(|limits| limits.wave_interval_s = Some(0)), ScaleError::NoInterval);
    let twice = scale(&[demand(1, 5), demand(1, 6)], &limits(&[0]));
    assert_eq!(twice, Err(ScaleError::EditionTwice(EditionId([1; 32]))));
    let empty = Demand { length: Bytes(0), ..demand(1, 5) };
    assert_eq!(scale(&[empty], &limits(&[0])), Err(ScaleError::EmptyEdition(EditionId([1; 32]))));
}

#[test]
fn the_largest_figures_do_not_overflow() {
    let vast =
        Demand { length: Bytes(1), applications: u32::MAX, uplink: BitsPerSecond(protocol::units::JSON_INTEGER_MAX), ..demand(1, 0) };
    let mut limits = limits(&[0, 604_800, 1_209_600]);
    limits.primaries_max = 4096;
    limits.origin_budget = Bytes(u64::MAX);
    let scales = scale(&[vast, Demand { edition_id: EditionId([2; 32]), ..vast }], &limits).unwrap();
    assert_eq!(
        (scales[0].capacities.as_slice(), scales[0].waves.as_slice()),
        ([4096, u32::MAX, u32::MAX].as_slice(), [u32::MAX].as_slice())
    );
    let slow = Demand { uplink: BitsPerSecond(0), ..vast };
    let scales = scale(&[slow], &limits).unwrap();
    assert_eq!(scales[0].waves.iter().map(|&size| u64::from(size)).sum::<u64>(), u64::from(scales[0].capacities[2]));
    assert!(scales[0].waves.len() <= 33, "each wave is at least as wide as all before it");
}

fn any_demands() -> impl Strategy<Value = Vec<Demand>> {
    let one = (prop_oneof![Just(0u32), 1..40u32, 1..100_000u32], 1..64u64, 0..200u64);
    prop::collection::vec(one, 1..12).prop_map(|all| {
        let demand = |(edition, (applications, mib, mbit)): (u8, (u32, u64, u64))| Demand {
            edition_id: EditionId([edition; 32]),
            length: Bytes(mib * MIB),
            applications,
            uplink: BitsPerSecond::from_mbit(mbit),
        };
        (0u8..).zip(all).map(demand).collect()
    })
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let rank = (1..120u32, prop::option::weighted(0.2, 1..200u32));
    (1..20_000u64, 1..100u32, prop::option::weighted(0.2, 0..500u32), prop::collection::vec(rank, 1..6), prop::option::of(1..100u32))
        .prop_map(|(budget_mib, primaries_max, places_max, ranks, wave_interval_s)| {
            let mut at = 0;
            let rank = |(index, (step, capacity)): (usize, (u32, Option<u32>))| {
                at += if index == 0 { 0 } else { step };
                RankLimits { delay_s: at, capacity }
            };
            let ranks = ranks.into_iter().enumerate().map(rank).collect();
            Limits { origin_budget: Bytes(budget_mib * MIB), primaries_max, places_max, ranks, wave_interval_s }
        })
}

/// The smallest budget that gives each edition that is wanted its first copy.
fn first_copies(demands: &[Demand]) -> u64 {
    demands.iter().filter(|demand| demand.applications > 0).map(|demand| demand.length.0).sum()
}

fn copies_cost(demands: &[Demand], primaries: &[u32]) -> u64 {
    demands.iter().zip(primaries).map(|(demand, &primaries)| u64::from(primaries.div_ceil(PRIMARIES_PER_COPY)) * demand.length.0).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a15_totals_match_and_nobody_is_left_out(demands in any_demands(), limits in any_limits()) {
        for (demand, scale) in demands.iter().zip(scale(&demands, &limits).unwrap()) {
            let (last, before) = scale.capacities.split_last().unwrap();
            let total: u64 = scale.capacities.iter().map(|&capacity| u64::from(capacity)).sum();
            prop_assert_eq!(scale.waves.iter().sum::<u32>(), *last, "the waves are the last rank");
            if let Some(most) = limits.places_max {
                prop_assert!(total <= u64::from(most));
            }
            if limits.places_max.is_none() && limits.ranks.last().unwrap().capacity.is_none() {
                prop_assert_eq!(*last, demand.applications, "whatever rank each of them wants");
            }
            if demand.applications == 0 {
                prop_assert!(limits.ranks.iter().zip(&scale.capacities).all(|(rank, &capacity)| rank.capacity.is_some() || capacity == 0));
            }
            if limits.ranks.last().unwrap().capacity.is_none() {
                let mut places = before.iter().sum::<u32>().min(demand.applications);
                for &wave in scale.waves.split_last().map_or(&[][..], |(_, full)| full) {
                    prop_assert!(wave >= places, "a wave is at least as wide as all before it");
                    places += wave;
                }
            }
        }
    }

    #[test]
    fn a15_no_edition_is_starved_and_the_budget_is_kept(demands in any_demands(), limits in any_limits()) {
        let primaries = primaries(&demands, &limits);
        prop_assert!(copies_cost(&demands, &primaries) <= limits.origin_budget.0);
        for (demand, &primaries) in demands.iter().zip(&primaries) {
            prop_assert!(primaries <= demand.applications.min(limits.primaries_max));
            if first_copies(&demands) <= limits.origin_budget.0 {
                prop_assert_eq!(primaries > 0, demand.applications > 0);
            }
        }
    }

    #[test]
    fn a15_a_larger_budget_never_takes_a_primary_away(demands in any_demands(), limits in any_limits(), more in 0..10_000u64) {
        let before = primaries(&demands, &limits);
        let larger = Limits { origin_budget: Bytes(limits.origin_budget.0 + more * MIB), ..limits };
        prop_assert!(before.iter().zip(primaries(&demands, &larger)).all(|(&before, after)| before <= after));
    }

    #[test]
    fn a15_the_order_of_the_editions_does_not_matter(demands in any_demands(), limits in any_limits(), turn in 0..12usize) {
        let mut turned = demands.clone();
        turned.rotate_left(turn % demands.len());
        turned.reverse();
        let by_edition = |demands: &[Demand]| {
            let scales = scale(demands, &limits).unwrap();
            demands.iter().map(|demand| demand.edition_id).zip(scales).collect::<std::collections::BTreeMap<_, _>>()
        };
        prop_assert_eq!(by_edition(&demands), by_edition(&turned));
    }

    /// No primary could move to another edition and make n/(2s+1) more even: what marks Webster's method (Balinski and Young, 1982).
    #[test]
    fn a15_no_primary_would_stand_better_elsewhere(demands in any_demands(), primaries_max in 1..100u32) {
        let limits = Limits { primaries_max, origin_budget: Bytes(u64::MAX), ..limits(&[0, 60]) };
        let budget = copies_cost(&demands, &primaries(&demands, &limits)) / 2;
        let limits = Limits { origin_budget: Bytes(budget.max(first_copies(&demands))), ..limits };
        let primaries = primaries(&demands, &limits);
        for (giver, &has) in demands.iter().zip(&primaries).filter(|(_, has)| **has > 1) {
            for (taker, &gets) in demands.iter().zip(&primaries) {
                let full = gets >= taker.applications.min(primaries_max);
                let keeps = u64::from(giver.applications) * (2 * u64::from(gets) + 1) >= u64::from(taker.applications) * (2 * u64::from(has) - 1);
                prop_assert!(full || keeps, "{giver:?} has {has}, {taker:?} {gets}");
            }
        }
    }
}
