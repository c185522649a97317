//! Prices and shares by example, at both ends of summer time, and the formula for any terms.
#![allow(clippy::arithmetic_side_effects, reason = "tests compute expectations on small numbers")]

use proptest::prelude::*;
use protocol::Currency;
use protocol::rest::{ReceivedStep, SentStep, TimeOfDay};

use super::*;

fn at(text: &str) -> TimestampMs {
    TimestampMs(u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap())
}

fn clock(text: &str) -> TimeOfDay {
    text.parse().unwrap()
}

fn bp(value: u16) -> BasisPoints {
    BasisPoints::new(value).unwrap()
}

fn window(days: &[Weekday], from: &str, to: &str, price_bp: u32) -> TariffWindow {
    TariffWindow { days: days.to_vec(), from: clock(from), to: clock(to), price_bp, relay_bonus: bp(500) }
}

/// 1.00 each and 0.50 per GiB, at least 0.30, in Berlin; half of it for relays.
fn terms() -> TariffTerms {
    TariffTerms {
        currency: Currency::EUR,
        time_zone: "Europe/Berlin".to_owned(),
        period: VolumePeriod::Month,
        flat: Amount(100),
        per_gib: Amount(50),
        minimum: Amount(30),
        fee: bp(200),
        relay_share: bp(5_000),
        windows: Vec::new(),
        received: Vec::new(),
        sent: Vec::new(),
    }
}

fn tariff(change: impl FnOnce(&mut TariffTerms)) -> Tariff {
    let mut terms = terms();
    change(&mut terms);
    Tariff::new(terms).unwrap()
}

const GIB: Bytes = Bytes(1 << 30);
const NOON: &str = "2026-11-23T11:00:00Z";

fn price(tariff: &Tariff, when: &str, received: Volume) -> u64 {
    tariff.quote(GIB, at(when), received).unwrap().price.0
}

fn volume(deliveries: u32, gib: u64) -> Volume {
    Volume { deliveries, bytes: Bytes(gib << 30) }
}

#[test]
fn a06_a_price_is_flat_and_by_length_and_rounded_up_once() {
    let plain = tariff(|_| {});
    let of = |length| plain.quote(Bytes(length), at(NOON), Volume::default()).unwrap();
    assert_eq!(of(1 << 30), Quote { price: Amount(150), list_price: Amount(150), window: None, step: None, is_minimum: false });
    assert_eq!(of(0).price, Amount(100));
    assert_eq!(of(1).price, Amount(101), "a part of a cent is a cent");
    let reduced = tariff(|terms| {
        terms.flat = Amount(1);
        terms.per_gib = Amount(2);
        terms.minimum = Amount(0);
        terms.windows = vec![window(&[], "00:00", "24:00", 6_600)];
    });
    let quote = reduced.quote(Bytes((1 << 30) / 4), at(NOON), Volume::default()).unwrap();
    assert_eq!((quote.list_price, quote.price), (Amount(2), Amount(1)), "⌈1.5 · 0.66⌉ is 1, and ⌈2 · 0.66⌉ were 2");
}

#[test]
fn a06_no_reduction_goes_below_the_minimum() {
    let cheap = tariff(|terms| terms.windows = vec![window(&[], "00:00", "24:00", 0)]);
    let quote = cheap.quote(GIB, at(NOON), Volume::default()).unwrap();
    assert_eq!((quote.price, quote.is_minimum, quote.window), (Amount(30), true, Some(0)));
}

#[test]
fn a07_the_last_step_that_is_reached_by_count_or_by_bytes_counts() {
    let step = |from_deliveries, gib: Option<u64>, price_bp| ReceivedStep {
        from_deliveries,
        from_bytes: gib.map(|gib| Bytes(gib << 30)),
        price_bp,
    };
    let steps =
        tariff(|terms| terms.received = vec![step(Some(10), Some(100), 9_000), step(None, Some(500), 8_000), step(Some(100), None, 5_000)]);
    for (received, expected) in [
        (volume(0, 0), 150),
        (volume(9, 99), 150),
        (volume(10, 0), 135),
        (volume(0, 100), 135),
        (volume(99, 499), 135),
        (volume(1, 500), 120),
        (volume(100, 0), 75),
    ] {
        assert_eq!(price(&steps, NOON, received), expected, "{received:?}");
    }
}

#[test]
fn a07_relays_get_more_by_volume_and_window_and_never_more_than_all() {
    let step = |from, relay_bonus| SentStep { from_deliveries: Some(from), from_bytes: None, relay_bonus: bp(relay_bonus) };
    let bonus = tariff(|terms| {
        terms.sent = vec![step(10, 1_000), step(100, 4_800)];
        terms.windows = vec![window(&[], "22:00", "06:00", 10_000)];
    });
    let share = |when: &str, deliveries| bonus.relay_share(at(when), volume(deliveries, 0)).unwrap().get();
    let night = "2026-11-23T23:30:00Z";
    assert_eq!([share(NOON, 9), share(NOON, 10), share(NOON, 100)], [5_000, 6_000, 9_800]);
    assert_eq!([share(night, 9), share(night, 10), share(night, 100)], [5_500, 6_500, 10_000]);
}

#[test]
fn a07_a_window_past_midnight_belongs_to_the_day_that_it_begins_on() {
    let friday_night = tariff(|terms| terms.windows = vec![window(&[Weekday::Friday], "22:00", "06:00", 8_000)]);
    // 27 November 2026 is a Friday; Berlin is an hour ahead of UTC.
    for (when, inside) in [
        ("2026-11-27T04:00:00Z", false),
        ("2026-11-27T20:59:59Z", false),
        ("2026-11-27T21:00:00Z", true),
        ("2026-11-28T04:59:59Z", true),
        ("2026-11-28T05:00:00Z", false),
        ("2026-11-28T21:00:00Z", false),
    ] {
        assert_eq!(price(&friday_night, when, Volume::default()), if inside { 120 } else { 150 }, "{when}");
    }
}

#[test]
fn a07_the_first_window_that_holds_the_time_counts() {
    let both = tariff(|terms| {
        terms.windows = vec![window(&[Weekday::Monday], "12:00", "13:00", 5_000), window(&[], "08:00", "20:00", 12_000)];
    });
    assert_eq!([price(&both, NOON, Volume::default()), price(&both, "2026-11-24T11:00:00Z", Volume::default())], [75, 180]);
    assert_eq!(both.quote(GIB, at(NOON), Volume::default()).unwrap().window, Some(0));
}

#[test]
fn a07_when_clocks_are_put_forward_the_missing_hour_has_no_moment() {
    let hour = tariff(|terms| terms.windows = vec![window(&[], "02:00", "03:00", 5_000)]);
    // On 29 March 2026 the minute after 01:59 is 03:00, in Berlin.
    for when in ["2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z", "2026-03-29T01:59:59Z"] {
        assert_eq!(price(&hour, when, Volume::default()), 150, "{when}");
    }
    assert_eq!(price(&hour, "2026-03-30T00:30:00Z", Volume::default()), 75, "a day later it is there again");
    // A window around it is an hour shorter.
    let night = tariff(|terms| terms.windows = vec![window(&[], "01:00", "04:00", 5_000)]);
    for (when, inside) in
        [("2026-03-28T23:59:59Z", false), ("2026-03-29T00:00:00Z", true), ("2026-03-29T01:59:59Z", true), ("2026-03-29T02:00:00Z", false)]
    {
        assert_eq!(price(&night, when, Volume::default()), if inside { 75 } else { 150 }, "{when}");
    }
}

#[test]
fn a07_when_clocks_are_put_back_the_hour_that_comes_twice_is_inside_twice() {
    let hour = tariff(|terms| terms.windows = vec![window(&[Weekday::Sunday], "02:00", "03:00", 5_000)]);
    // On 25 October 2026 the minute after the first 02:59 is 02:00 again, in Berlin.
    for (when, inside) in [
        ("2026-10-24T23:59:59Z", false),
        ("2026-10-25T00:00:00Z", true),
        ("2026-10-25T00:59:59Z", true),
        ("2026-10-25T01:00:00Z", true),
        ("2026-10-25T01:59:59Z", true),
        ("2026-10-25T02:00:00Z", false),
    ] {
        assert_eq!(price(&hour, when, Volume::default()), if inside { 75 } else { 150 }, "{when}");
    }
}

#[test]
fn a07_periods_begin_at_the_zones_midnight_also_where_days_are_longer_or_have_none() {
    let start = |period, zone: &str, when: &str| {
        let tariff = tariff(|terms| (terms.period, terms.time_zone) = (period, zone.to_owned()));
        Timestamp::from_millisecond(i64::try_from(tariff.period_start(at(when)).unwrap().0).unwrap()).unwrap().to_string()
    };
    use VolumePeriod::{Day, Month, Week};
    for (period, zone, when, begins) in [
        (Day, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z"),
        (Day, "Europe/Berlin", "2026-03-29T22:00:00Z", "2026-03-29T22:00:00Z"),
        (Day, "Europe/Berlin", "2026-10-25T22:59:59Z", "2026-10-24T22:00:00Z"),
        (Week, "Europe/Berlin", "2026-11-22T22:59:59Z", "2026-11-15T23:00:00Z"),
        (Week, "Europe/Berlin", "2026-11-22T23:00:00Z", "2026-11-22T23:00:00Z"),
        (Month, "Europe/Berlin", "2026-10-31T22:59:59Z", "2026-09-30T22:00:00Z"),
        (Month, "Asia/Tokyo", "2026-10-31T15:00:00Z", "2026-10-31T15:00:00Z"),
        // In Sao Paulo 4 November 2018 began at 01:00.
        (Day, "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z"),
    ] {
        assert_eq!(start(period, zone, when), begins, "{period:?} of {when} in {zone}");
    }
}

#[test]
fn what_is_no_tariff_is_refused_and_the_fault_is_named() {
    type Spoil = fn(&mut TariffTerms);
    let faults: [(Spoil, &str); 10] = [
        (|terms| terms.time_zone = "Europe/Atlantis".into(), "/time_zone"),
        (|terms| terms.time_zone.clear(), "/time_zone"),
        (|terms| terms.windows = vec![window(&[], "24:00", "06:00", 1)], "/windows/0/from"),
        (|terms| terms.windows = vec![window(&[], "22:00", "00:00", 1)], "/windows/0/from"),
        (|terms| terms.windows = vec![window(&[Weekday::Monday, Weekday::Monday], "22:00", "23:00", 1)], "/windows/0/days"),
        (|terms| terms.windows = vec![window(&[], "22:00", "23:00", 100_001)], "/windows/0/price_bp"),
        (|terms| terms.windows = vec![window(&[], "22:00", "23:00", 1); 65], "/windows"),
        (|terms| terms.received = vec![ReceivedStep { from_deliveries: None, from_bytes: None, price_bp: 1 }], "/received/0"),
        (|terms| terms.received = vec![ReceivedStep { from_deliveries: Some(3), from_bytes: None, price_bp: 1 }; 2], "/received/1"),
        (|terms| terms.sent = vec![SentStep { from_deliveries: Some(0), from_bytes: None, relay_bonus: bp(1) }], "/sent/0"),
    ];
    for (spoil, pointer) in faults {
        let mut terms = terms();
        spoil(&mut terms);
        assert_eq!(Tariff::new(terms).map(|_| ()).map_err(|error| error.pointer()), Err(pointer.to_owned()));
    }
    let vast = tariff(|terms| terms.per_gib = Amount(JSON_INTEGER_MAX));
    assert_eq!(vast.quote(Bytes(JSON_INTEGER_MAX), at(NOON), Volume::default()), Err(TariffError::OutOfBounds));
    assert_eq!(vast.quote(GIB, TimestampMs(JSON_INTEGER_MAX), Volume::default()).map(|_| ()), Err(TariffError::Time));
}

/// Steps that rise, from the differences between them.
fn some_steps() -> impl Strategy<Value = Vec<ReceivedStep>> {
    prop::collection::vec((1u32..50, 1u64..50, 0u8..3, 0u32..15_000), 0..6).prop_map(|differences| {
        let (mut deliveries, mut gib) = (0, 0);
        let step = |(more, more_gib, kind, price_bp): (u32, u64, u8, u32)| {
            deliveries += more;
            gib += more_gib;
            let from_deliveries = (kind != 1).then_some(deliveries);
            ReceivedStep { from_deliveries, from_bytes: (kind != 2).then_some(Bytes(gib << 30)), price_bp }
        };
        differences.into_iter().map(step).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a06_the_price_is_the_least_amount_that_is_not_below_the_formula(
        flat in 0u64..1_000_000, per_gib in 0u64..100_000, minimum in 0u64..1_000, length in 0u64..(1 << 42),
        window_bp in 0u32..=PRICE_BP_MAX, steps in some_steps(), deliveries in 0u32..300, gib in 0u64..300,
    ) {
        let tariff = tariff(|terms| {
            (terms.flat, terms.per_gib, terms.minimum) = (Amount(flat), Amount(per_gib), Amount(minimum));
            terms.windows = vec![window(&[], "00:00", "24:00", window_bp)];
            terms.received = steps.clone();
        });
        let received = volume(deliveries, gib);
        let quote = tariff.quote(Bytes(length), at(NOON), received).unwrap();
        // The last step, looked for the plain way.
        let reached = |step: &ReceivedStep| {
            step.from_deliveries.is_some_and(|from| deliveries >= from) || step.from_bytes.is_some_and(|from| gib << 30 >= from.0)
        };
        let mut step_bp = 10_000;
        for step in steps.iter().filter(|step| reached(step)) {
            step_bp = step.price_bp;
        }
        // exact = listed · window · step / (2³⁰ · 10⁸), compared without a division.
        let listed = (u128::from(flat) << 30) + u128::from(per_gib) * u128::from(length);
        let exact = listed * u128::from(window_bp) * u128::from(step_bp);
        let unit = (1u128 << 30) * 100_000_000;
        let paid = u128::from(quote.price.0);
        prop_assert!(paid * unit >= exact && paid >= u128::from(minimum));
        prop_assert!(paid == u128::from(minimum) || (paid - 1) * unit < exact, "not a unit more than that");
        prop_assert_eq!(quote.is_minimum, exact.div_ceil(unit) < u128::from(minimum));
    }

    #[test]
    fn a06_more_bytes_never_cost_less(length in 0u64..(1 << 42), more in 0u64..(1 << 42), window_bp in 0u32..=PRICE_BP_MAX) {
        let tariff = tariff(|terms| terms.windows = vec![window(&[], "00:00", "24:00", window_bp)]);
        let of = |length| tariff.quote(Bytes(length), at(NOON), Volume::default()).unwrap().price;
        prop_assert!(of(length) <= of(length + more));
    }

    #[test]
    fn a07_a_period_holds_the_moment_and_all_its_moments_have_the_same_start(
        ms in 0u64..4_000_000_000_000, kind in 0usize..3, zone in 0usize..5, later in 0u64..40 * 86_400_000,
    ) {
        let period = [VolumePeriod::Day, VolumePeriod::Week, VolumePeriod::Month][kind];
        let zone = ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Auckland", "UTC"][zone];
        let tariff = tariff(|terms| (terms.period, terms.time_zone) = (period, zone.to_owned()));
        let ms = ms + 86_400_000 * 40;
        let start = tariff.period_start(TimestampMs(ms)).unwrap();
        prop_assert!(start.0 <= ms && ms - start.0 < 32 * 86_400_000);
        prop_assert_eq!(tariff.period_start(start).unwrap(), start);
        let next = tariff.period_start(TimestampMs(ms + later)).unwrap();
        prop_assert!(next == start || next.0 > ms, "periods do not overlap");
    }
}
