//! Deliveries are paid for to the last minor unit: nothing is lost, nothing is made up, and no chunk is paid twice.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::bitmap::ChunkSet;
use protocol::units::JSON_INTEGER_MAX;
use protocol::{Amount, BasisPoints, Bytes, TerminalId};
use rules::settlement::{self, Charging, Record, Settlement, SettlementError, SourceBytes, Terms, attribute};

use crate::books::config;

const A: TerminalId = TerminalId::from_bytes([1; 16]);
const B: TerminalId = TerminalId::from_bytes([2; 16]);
const C: TerminalId = TerminalId::from_bytes([3; 16]);
const ORIGIN: TerminalId = TerminalId::ORIGIN;

fn terms(price: u64, fee: u16, relay_share: u16) -> Terms {
    Terms {
        price: Amount(price),
        charging: Charging::Release,
        fee: BasisPoints::new(fee).unwrap(),
        relay_share: BasisPoints::new(relay_share).unwrap(),
    }
}

/// Settles where no tariff gives a relay another share.
fn settle(terms: &Terms, edition: Bytes, sources: &[SourceBytes], held: Bytes) -> Result<Settlement, SettlementError> {
    settlement::settle(terms, edition, sources, held, &BTreeMap::new())
}

fn from(source: TerminalId, bytes: u64) -> SourceBytes {
    SourceBytes { source, bytes: Bytes(bytes) }
}

fn chunks(list: &[u32]) -> ChunkSet {
    list.iter().copied().collect()
}

fn parts(settlement: &Settlement) -> Vec<(TerminalId, u64)> {
    settlement.relays.iter().map(|part| (part.terminal_id, part.amount.0)).collect()
}

#[test]
fn a_complete_delivery_divides_the_price_between_relays_publisher_and_platform() {
    // 315: fee ⌈3.15⌉ = 4, pool ⌊311 · 0.4⌋ = 124 over 500 + 300 + 200 bytes.
    let settlement = settle(&terms(315, 100, 4000), Bytes(1000), &[from(B, 300), from(A, 500), from(ORIGIN, 200)], Bytes(0)).unwrap();
    assert_eq!((settlement.charge.0, settlement.fee.0, settlement.pool.0, settlement.released.0), (315, 4, 124, 0));
    // 62.0, 37.2 and the origin's 24.8: the one unit left goes to the origin, so to the publisher.
    assert_eq!(parts(&settlement), [(A, 62), (B, 37)]);
    assert_eq!(settlement.publisher.0, 315 - 4 - 62 - 37);
}

#[test]
fn leftover_units_go_to_the_largest_remainder_then_to_the_smaller_id_and_to_the_origin_last() {
    let equal = settle(&terms(100, 0, 1000), Bytes(3), &[from(ORIGIN, 1), from(C, 1), from(B, 1)], Bytes(0)).unwrap();
    assert_eq!((equal.pool.0, parts(&equal)), (10, vec![(B, 4), (C, 3)]), "3⅓ each: the unit left goes to the smaller id");
    let two_left = settle(&terms(110, 0, 1000), Bytes(3), &[from(ORIGIN, 1), from(C, 1), from(B, 1)], Bytes(0)).unwrap();
    assert_eq!(
        (two_left.pool.0, parts(&two_left)),
        (11, vec![(B, 4), (C, 4)]),
        "3⅔ each: the origin, though its id is the smallest, comes last"
    );
}

#[test]
fn a07_a_relay_with_a_share_of_its_own_gets_that_of_its_bytes() {
    let bp = |value| BasisPoints::new(value).unwrap();
    let sources = [from(A, 500), from(B, 300), from(ORIGIN, 200)];
    let with = |shares: &[(TerminalId, u16)]| {
        let shares = shares.iter().map(|&(relay, share)| (relay, bp(share))).collect();
        let settlement = settlement::settle(&terms(1000, 0, 5000), Bytes(1000), &sources, Bytes(0), &shares).unwrap();
        (settlement.pool.0, parts(&settlement), settlement.publisher.0)
    };
    assert_eq!(with(&[]), (500, vec![(A, 250), (B, 150)], 600));
    assert_eq!(with(&[(A, 8000)]), (650, vec![(A, 400), (B, 150)], 450));
    assert_eq!(with(&[(A, 0), (B, 10_000)]), (400, vec![(A, 0), (B, 300)], 700));
    assert_eq!(with(&[(ORIGIN, 10_000)]), with(&[]), "the origin has no share of its own");
    let none = settlement::settle(&terms(1000, 0, 0), Bytes(1000), &sources, Bytes(0), &BTreeMap::new()).unwrap();
    assert_eq!((none.pool.0, parts(&none)), (0, vec![(A, 0), (B, 0)]));
}

#[test]
fn nothing_received_costs_nothing_and_releases_the_whole_hold() {
    let settlement = settle(&terms(315, 1000, 4000), Bytes(1000), &[], Bytes(0)).unwrap();
    assert_eq!((settlement.charge.0, settlement.fee.0, settlement.publisher.0, settlement.released.0), (0, 0, 0, 315));
    assert!(settlement.relays.is_empty());
}

#[test]
fn a_part_is_charged_rounded_down_and_the_fee_rounded_up() {
    let settlement = settle(&terms(100, 1, 10_000), Bytes(7), &[from(A, 2)], Bytes(0)).unwrap();
    // ⌊200/7⌋ = 28; ⌈28 · 0.0001⌉ = 1.
    assert_eq!((settlement.charge.0, settlement.fee.0, settlement.released.0), (28, 1, 72));
    assert_eq!((parts(&settlement), settlement.publisher.0), (vec![(A, 27)], 0));
}

#[test]
fn in_a_release_held_chunks_are_charged_and_count_as_the_origins_but_on_demand_they_are_free() {
    let sources = [from(A, 50)];
    let release = settle(&terms(1000, 0, 5000), Bytes(1000), &sources, Bytes(950)).unwrap();
    assert_eq!((release.charge.0, release.pool.0, parts(&release), release.publisher.0), (1000, 500, vec![(A, 25)], 975));
    let on_demand = settle(&Terms { charging: Charging::OnDemand, ..terms(1000, 0, 5000) }, Bytes(1000), &sources, Bytes(950)).unwrap();
    assert_eq!((on_demand.charge.0, on_demand.pool.0, parts(&on_demand), on_demand.released.0), (50, 25, vec![(A, 25)], 950));
}

#[test]
fn what_cannot_be_is_an_error_and_not_a_charge() {
    let ordinary = terms(100, 0, 0);
    assert_eq!(settle(&ordinary, Bytes(0), &[], Bytes(0)), Err(SettlementError::EmptyEdition));
    assert_eq!(
        settle(&ordinary, Bytes(10), &[from(A, 6), from(B, 5)], Bytes(0)),
        Err(SettlementError::MoreThanTheEdition { verified: 11, edition: 10 })
    );
    let held = settle(&Terms { charging: Charging::OnDemand, ..ordinary }, Bytes(10), &[from(A, 6)], Bytes(5));
    assert_eq!(held, Err(SettlementError::MoreThanTheEdition { verified: 11, edition: 10 }));
    let endless = settle(&ordinary, Bytes(u64::MAX), &[from(A, u64::MAX), from(B, u64::MAX)], Bytes(u64::MAX));
    assert!(matches!(endless, Err(SettlementError::MoreThanTheEdition { .. })));
    assert_eq!(settle(&terms(JSON_INTEGER_MAX + 1, 0, 0), Bytes(10), &[], Bytes(0)), Err(SettlementError::AmountOutOfBounds));
}

#[test]
fn the_largest_amounts_and_lengths_settle_exactly() {
    let settlement =
        settle(&terms(JSON_INTEGER_MAX, 9_999, 10_000), Bytes(u64::MAX), &[from(A, u64::MAX - 1), from(B, 1)], Bytes(0)).unwrap();
    assert_eq!(settlement.charge.0, JSON_INTEGER_MAX);
    assert_eq!(settlement.fee.0 + settlement.publisher.0 + parts(&settlement).iter().map(|part| part.1).sum::<u64>(), JSON_INTEGER_MAX);
}

#[test]
fn a_chunk_signed_for_two_sources_is_paid_once_to_the_earliest() {
    let (first, second) = (chunks(&[0, 1]), chunks(&[1, 2]));
    let records = [Record { source: B, chunks: &first }, Record { source: A, chunks: &second }];
    let found = attribute(&[10, 20, 30], &records, &ChunkSet::default(), |_| None).unwrap();
    assert_eq!(found.sources, [from(A, 30), from(B, 30)]);
    assert_eq!(found.contested.len(), 1);
    assert_eq!((found.contested[0].chunk, found.contested[0].paid, found.contested[0].unpaid.as_slice()), (1, B, [A].as_slice()));
}

#[test]
fn a_chunk_signed_for_two_sources_is_paid_to_the_lease_holder_if_it_is_among_them() {
    let claimed = chunks(&[0]);
    let records = [Record { source: B, chunks: &claimed }, Record { source: A, chunks: &claimed }, Record { source: C, chunks: &claimed }];
    let to_holder = attribute(&[10], &records, &ChunkSet::default(), |_| Some(C)).unwrap();
    assert_eq!(to_holder.sources, [from(C, 10)]);
    assert_eq!(to_holder.contested[0].unpaid, [B, A]);
    let holder_absent = attribute(&[10], &records[..2], &ChunkSet::default(), |_| Some(C)).unwrap();
    assert_eq!(holder_absent.sources, [from(B, 10)]);
    let alone = attribute(&[10], &records[..1], &ChunkSet::default(), |_| Some(C)).unwrap();
    assert_eq!((alone.sources.as_slice(), alone.contested.len()), ([from(B, 10)].as_slice(), 0), "a lease without a receipt earns nothing");
}

#[test]
fn growing_receipts_of_one_source_count_each_chunk_once() {
    let (first, grown) = (chunks(&[0]), chunks(&[0, 1]));
    let records = [Record { source: A, chunks: &first }, Record { source: A, chunks: &grown }, Record { source: A, chunks: &grown }];
    let found = attribute(&[10, 20], &records, &ChunkSet::default(), |_| None).unwrap();
    assert_eq!((found.sources.as_slice(), found.contested.len()), ([from(A, 30)].as_slice(), 0));
}

#[test]
fn a_held_chunk_counts_as_held_only_if_nobody_delivered_it() {
    let received = chunks(&[1]);
    let records = [Record { source: A, chunks: &received }];
    let found = attribute(&[10, 20, 30], &records, &chunks(&[0, 1]), |_| None).unwrap();
    assert_eq!((found.edition_bytes, found.held, found.sources.as_slice()), (Bytes(60), Bytes(10), [from(A, 20)].as_slice()));
}

#[test]
fn the_origin_stands_last_among_the_sources() {
    let (one, two) = (chunks(&[0]), chunks(&[1]));
    let records = [Record { source: ORIGIN, chunks: &one }, Record { source: C, chunks: &two }];
    let found = attribute(&[10, 20], &records, &ChunkSet::default(), |_| None).unwrap();
    assert_eq!(found.sources, [from(C, 20), from(ORIGIN, 10)]);
}

#[test]
fn a_receipt_or_a_claim_beyond_the_edition_is_refused() {
    let beyond = chunks(&[0, 2]);
    let unknown = Err(SettlementError::UnknownChunk { chunk: 2, chunks: 2 });
    assert_eq!(attribute(&[10, 20], &[Record { source: A, chunks: &beyond }], &ChunkSet::default(), |_| None), unknown);
    assert_eq!(attribute(&[10, 20], &[], &beyond, |_| None), unknown);
    assert!(attribute(&[10], &[Record { source: A, chunks: &chunks(&[1 << 20]) }], &ChunkSet::default(), |_| None).is_err());
}

/// Sources, bytes held, bytes of the edition.
fn delivery() -> impl Strategy<Value = (Vec<SourceBytes>, Bytes, Bytes)> {
    let size = || prop_oneof![0..8u64, 0..5_000_000_000u64];
    let source = (0..6u8, size()).prop_map(|(number, bytes)| from(TerminalId::from_bytes([number; 16]), bytes));
    (proptest::collection::vec(source, 0..9), size(), size()).prop_map(|(sources, held, missing)| {
        let known = sources.iter().map(|source| source.bytes.0).sum::<u64>() + held;
        (sources, Bytes(held), Bytes((known + missing).max(1)))
    })
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let price = prop_oneof![0..100u64, 0..1_000_000u64, 0..=JSON_INTEGER_MAX];
    let share = || prop_oneof![Just(0), Just(10_000), 0..=10_000u16];
    (price, share(), share(), prop_oneof![Just(Charging::Release), Just(Charging::OnDemand)])
        .prop_map(|(price, fee, relay_share, charging)| Terms { charging, ..terms(price, fee, relay_share) })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_parts_add_up_to_the_charge_and_the_charge_never_exceeds_the_price(terms in any_terms(), (sources, held, edition) in delivery()) {
        let settlement = settle(&terms, edition, &sources, held).unwrap();
        let relays: u64 = settlement.relays.iter().map(|part| part.amount.0).sum();
        prop_assert_eq!(settlement.fee.0 + relays + settlement.publisher.0, settlement.charge.0);
        prop_assert_eq!(settlement.charge.0 + settlement.released.0, terms.price.0);
        prop_assert!(relays <= settlement.pool.0 && settlement.pool.0 + settlement.fee.0 <= settlement.charge.0);
        let exact = u128::from(terms.price.0) * u128::from(settlement.counted.0);
        prop_assert_eq!(u128::from(settlement.charge.0), exact / u128::from(edition.0));
        if settlement.counted == edition {
            prop_assert_eq!(settlement.charge, terms.price);
        }
    }

    /// Each relay gets its exact share by bytes, rounded down or up by less than one unit, and more bytes never earn less.
    #[test]
    fn relays_are_paid_in_proportion_to_their_bytes(terms in any_terms(), (sources, held, edition) in delivery()) {
        let settlement = settle(&terms, edition, &sources, held).unwrap();
        let total = u128::from(settlement.counted.0);
        for part in &settlement.relays {
            let delivered: u64 = sources.iter().filter(|source| source.source == part.terminal_id).map(|source| source.bytes.0).sum();
            prop_assert_eq!(part.bytes.0, delivered);
            let (exact, paid) = (u128::from(settlement.pool.0) * u128::from(delivered), u128::from(part.amount.0) * total);
            prop_assert!(paid < exact + total && exact < paid + total);
            for other in &settlement.relays {
                prop_assert!(part.bytes <= other.bytes || part.amount >= other.amount);
            }
        }
    }

    /// rest · bytes · share / (all bytes · 10,000), less than one unit above it and less than two below: the pool is rounded down, and so are its parts.
    #[test]
    fn a07_each_relay_gets_its_own_share_of_its_bytes(
        terms in any_terms(), (sources, held, edition) in delivery(), shares in proptest::collection::btree_map(0..6u8, 0..=10_000u16, 0..6),
    ) {
        let shares: BTreeMap<_, _> =
            shares.into_iter().map(|(number, share)| (TerminalId::from_bytes([number; 16]), BasisPoints::new(share).unwrap())).collect();
        let settlement = settlement::settle(&terms, edition, &sources, held, &shares).unwrap();
        let relays: u64 = settlement.relays.iter().map(|part| part.amount.0).sum();
        prop_assert_eq!(settlement.fee.0 + relays + settlement.publisher.0, settlement.charge.0);
        prop_assert!(relays <= settlement.pool.0 && settlement.pool.0 + settlement.fee.0 <= settlement.charge.0);
        let (rest, whole) = (u128::from(settlement.charge.0 - settlement.fee.0), u128::from(settlement.counted.0) * 10_000);
        for part in &settlement.relays {
            let share = shares.get(&part.terminal_id).copied().unwrap_or(terms.relay_share);
            let (exact, paid) = (rest * u128::from(part.bytes.0) * u128::from(share.get()), u128::from(part.amount.0) * whole);
            prop_assert!(paid < exact + whole && exact < paid + 2 * whole, "{:?} at {:?}", part, share);
        }
        let same = sources.iter().map(|source| (source.source, terms.relay_share)).collect();
        prop_assert_eq!(settlement::settle(&terms, edition, &sources, held, &same).unwrap(), settle(&terms, edition, &sources, held).unwrap());
    }

    #[test]
    fn the_order_and_the_splitting_of_sources_do_not_matter(terms in any_terms(), (sources, held, edition) in delivery(), cut in 0..4u64) {
        let whole = settle(&terms, edition, &sources, held).unwrap();
        let split: Vec<_> = sources.iter().rev().flat_map(|part| {
            let first = part.bytes.0 * cut / 4;
            [from(part.source, part.bytes.0 - first), from(part.source, first)]
        }).collect();
        prop_assert_eq!(settle(&terms, edition, &split, held).unwrap(), whole);
    }

    /// Whatever is signed twice, the bytes that are paid are those of the chunks that were signed or held, each once; nobody is paid for a chunk
    /// that the receiver did not sign for it.
    #[test]
    fn overlapping_receipts_are_paid_once(
        lengths in proptest::collection::vec(1..100u32, 1..40),
        claims in proptest::collection::vec((0..4u8, proptest::collection::vec(any::<prop::sample::Index>(), 0..20)), 0..8),
        held in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
        lease in 0..5u8,
    ) {
        let terminal = |number: u8| TerminalId::from_bytes([number; 16]);
        let pick = |list: &[prop::sample::Index]| list.iter().map(|index| u32::try_from(index.index(lengths.len())).unwrap()).collect::<ChunkSet>();
        let sets: Vec<_> = claims.iter().map(|(source, list)| (terminal(*source), pick(list))).collect();
        let records: Vec<_> = sets.iter().map(|(source, chunks)| Record { source: *source, chunks }).collect();
        let held = pick(&held);
        let holder = |chunk: u32| chunk.is_multiple_of(3).then_some(terminal(lease));
        let found = attribute(&lengths, &records, &held, holder).unwrap();

        let mut expected = std::collections::BTreeMap::<TerminalId, u64>::new();
        let (mut expected_held, mut expected_contested) = (0, Vec::new());
        for (chunk, length) in (0u32..).zip(&lengths) {
            let claimants: Vec<_> = sets.iter().filter(|(_, set)| set.contains(chunk)).map(|(source, _)| *source).collect();
            let paid = claimants.iter().copied().find(|source| holder(chunk) == Some(*source)).or(claimants.first().copied());
            match paid {
                Some(source) => *expected.entry(source).or_default() += u64::from(*length),
                None if held.contains(chunk) => expected_held += u64::from(*length),
                None => {}
            }
            if claimants.iter().any(|source| *source != claimants[0]) {
                expected_contested.push((chunk, paid.unwrap()));
            }
        }
        let counted: std::collections::BTreeMap<_, _> = found.sources.iter().map(|source| (source.source, source.bytes.0)).collect();
        prop_assert_eq!(counted, expected);
        prop_assert_eq!(found.held.0, expected_held);
        prop_assert_eq!(found.contested.iter().map(|chunk| (chunk.chunk, chunk.paid)).collect::<Vec<_>>(), expected_contested);
        // What was attributed always settles.
        prop_assert!(settle(&terms(1000, 100, 4000), found.edition_bytes, &found.sources, found.held).is_ok());
    }
}
