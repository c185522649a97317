//! Transfers add up to zero, name each account once and stand in lock order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::units::JSON_INTEGER_MAX;
use protocol::{Amount, BasisPoints, Bytes, TerminalId, UserId};
use rules::ledger::{AccountRef, HoldEnd, LedgerError, Transfer, TransferKind};
use rules::settlement::{Charging, Settlement, SourceBytes, Terms, settle};

use crate::books::config;

fn user(number: u8) -> UserId {
    UserId::from_bytes([number; 16])
}

fn terminal(number: u8) -> TerminalId {
    TerminalId::from_bytes([number; 16])
}

fn settled(price: u64, fee: u16, relays: &[(u8, u64)]) -> Settlement {
    let terms = Terms {
        price: Amount(price),
        charging: Charging::Release,
        fee: BasisPoints::new(fee).unwrap(),
        relay_share: BasisPoints::new(5_000).unwrap(),
    };
    let sources: Vec<_> = relays.iter().map(|&(number, bytes)| SourceBytes { source: terminal(number), bytes: Bytes(bytes) }).collect();
    let edition = sources.iter().map(|source| source.bytes.0).sum::<u64>().max(1);
    settle(&terms, Bytes(edition), &sources, Bytes(0), &BTreeMap::new()).unwrap()
}

/// The owner of terminal n is user 10 + n.
fn owner(terminal: TerminalId) -> Option<UserId> {
    Some(user(10 + terminal.to_bytes()[0]))
}

#[test]
fn a_redeemed_voucher_moves_its_worth_into_the_wallet() {
    let transfer = Transfer::voucher_redemption(user(1), Amount(500)).unwrap();
    assert_eq!(transfer.kind(), TransferKind::VoucherRedemption);
    assert_eq!(transfer.entries(), [(AccountRef::Wallet(user(1)), 500), (AccountRef::VouchersIssued, -500)]);
    assert_eq!(Transfer::voucher_redemption(user(1), Amount(0)), Err(LedgerError::NothingToRedeem));
    for beyond in [JSON_INTEGER_MAX + 1, u64::MAX] {
        assert_eq!(Transfer::voucher_redemption(user(1), Amount(beyond)), Err(LedgerError::OutOfBounds));
    }
}

#[test]
fn a_delivery_posts_the_charge_and_everybodys_part_in_lock_order() {
    let transfer = Transfer::delivery(&settled(100, 1_000, &[(2, 1), (1, 2)]), user(50), user(60), owner).unwrap();
    assert_eq!(transfer.kind(), TransferKind::Delivery);
    let expected = [
        (AccountRef::Wallet(user(11)), 30),
        (AccountRef::Wallet(user(12)), 15),
        (AccountRef::Wallet(user(50)), -100),
        (AccountRef::Publisher(user(60)), 45),
        (AccountRef::Platform, 10),
    ];
    assert_eq!(transfer.entries(), expected);
}

#[test]
fn an_owner_of_several_relays_gets_one_entry_and_one_who_relays_to_itself_pays_the_fee() {
    let settlement = settled(100, 1_000, &[(2, 1), (1, 2)]);
    let one_owner = Transfer::delivery(&settlement, user(50), user(60), |_| Some(user(7))).unwrap();
    assert_eq!(one_owner.entries()[0], (AccountRef::Wallet(user(7)), 45));
    let oneself = Transfer::delivery(&settlement, user(7), user(7), |_| Some(user(7))).unwrap();
    assert_eq!(oneself.entries(), [(AccountRef::Wallet(user(7)), -55), (AccountRef::Publisher(user(7)), 45), (AccountRef::Platform, 10)]);
}

#[test]
fn nothing_received_posts_nothing() {
    assert!(Transfer::delivery(&settled(100, 1_000, &[]), user(50), user(60), owner).unwrap().is_empty());
}

#[test]
fn a_relay_without_a_known_owner_stops_the_settlement() {
    let missing = Transfer::delivery(&settled(100, 0, &[(1, 2)]), user(50), user(60), |_| None);
    assert_eq!(missing, Err(LedgerError::UnknownOwner(terminal(1))));
}

#[test]
fn a_settlement_that_was_tampered_with_cannot_be_posted() {
    let mut settlement = settled(100, 1_000, &[(1, 2)]);
    settlement.publisher = Amount(settlement.publisher.0 + 1);
    assert_eq!(Transfer::delivery(&settlement, user(50), user(60), owner), Err(LedgerError::Unbalanced(1)));
}

#[test]
fn a_hold_ends_posted_partly_posted_or_voided_and_never_pays_more() {
    assert_eq!(HoldEnd::of(Amount(100), Amount(100)), Ok(HoldEnd::Posted));
    assert_eq!(HoldEnd::of(Amount(100), Amount(99)), Ok(HoldEnd::PartlyPosted { released: Amount(1) }));
    assert_eq!(HoldEnd::of(Amount(100), Amount(0)), Ok(HoldEnd::Voided));
    assert_eq!(HoldEnd::of(Amount(100), Amount(101)), Err(LedgerError::MoreThanHeld { held: 100, posted: 101 }));
}

fn account() -> impl Strategy<Value = AccountRef> {
    prop_oneof![
        (0..4u8).prop_map(|number| AccountRef::Wallet(user(number))),
        (0..2u8).prop_map(|number| AccountRef::Publisher(user(number))),
        Just(AccountRef::Platform),
        Just(AccountRef::VouchersIssued),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn only_balanced_entries_become_a_transfer(
        entries in proptest::collection::vec((account(), prop_oneof![-5..5i64, any::<i64>()]), 0..8),
        balance in any::<bool>(),
    ) {
        let sum: i128 = entries.iter().map(|entry| i128::from(entry.1)).sum();
        let mut entries = entries;
        let closing = i64::try_from(-sum);
        if let (true, Ok(closing)) = (balance, closing) {
            entries.push((AccountRef::Platform, closing));
        }
        let total: i128 = entries.iter().map(|entry| i128::from(entry.1)).sum();
        match Transfer::new(TransferKind::Delivery, entries.clone()) {
            Ok(transfer) => {
                let posted = transfer.entries();
                prop_assert_eq!(total, 0);
                prop_assert_eq!(posted.iter().map(|entry| i128::from(entry.1)).sum::<i128>(), 0);
                prop_assert!(posted.iter().all(|entry| entry.1 != 0));
                prop_assert!(posted.windows(2).all(|pair| pair[0].0 < pair[1].0), "each account once, in lock order");
                for (account, amount) in posted {
                    let meant: i128 = entries.iter().filter(|entry| entry.0 == *account).map(|entry| i128::from(entry.1)).sum();
                    prop_assert_eq!(meant, i128::from(*amount));
                }
            }
            Err(LedgerError::Unbalanced(by)) => prop_assert!(by == total && by != 0),
            Err(error) => {
                prop_assert_eq!(error, LedgerError::OutOfBounds);
                prop_assert!(entries.iter().any(|entry| entry.1.unsigned_abs() > JSON_INTEGER_MAX / 8));
            }
        }
    }

    #[test]
    fn every_settlement_posts_balanced_and_takes_exactly_the_charge(price in 0..1_000_000u64, fee in 0..=10_000u16, relays in proptest::collection::vec((0..6u8, 0..10_000u64), 0..8)) {
        let settlement = settled(price, fee, &relays);
        let transfer = Transfer::delivery(&settlement, user(50), user(60), owner).unwrap();
        let of = |account| transfer.entries().iter().find(|entry| entry.0 == account).map_or(0, |entry| entry.1);
        prop_assert_eq!(transfer.entries().iter().map(|entry| entry.1).sum::<i64>(), 0);
        prop_assert_eq!(of(AccountRef::Wallet(user(50))), -i64::try_from(settlement.charge.0).unwrap());
        prop_assert_eq!(of(AccountRef::Platform), i64::try_from(settlement.fee.0).unwrap());
        prop_assert_eq!(of(AccountRef::Publisher(user(60))), i64::try_from(settlement.publisher.0).unwrap());
    }
}

#[test]
fn a18_what_is_forfeited_of_a_deposit_goes_to_the_publisher() {
    let transfer = Transfer::duty_forfeit(Amount(70), user(1), user(2)).unwrap();
    assert_eq!(transfer.kind(), TransferKind::DutyForfeit);
    assert_eq!(transfer.entries(), [(AccountRef::Wallet(user(1)), -70), (AccountRef::Publisher(user(2)), 70)]);
    assert!(Transfer::duty_forfeit(Amount(0), user(1), user(2)).unwrap().is_empty());
    assert_eq!(Transfer::duty_forfeit(Amount(JSON_INTEGER_MAX + 1), user(1), user(2)), Err(LedgerError::OutOfBounds));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn x03_a_ring_that_signs_for_itself_loses_the_fee_and_the_publishers_part(
        deliveries in proptest::collection::vec(
            (0..1u64 << 40, 0..=10_000u16, 0..=10_000u16, proptest::collection::vec((0..6u8, 1..1u64 << 30), 1..6), 0..1u64 << 30),
            1..12,
        ),
    ) {
        // Users 10 to 15 own terminals 0 to 5, receive from each other, and sign whatever they like; the publisher is none of them.
        let (mut ring, mut kept_by_others) = (0i128, 0i128);
        for (number, (price, fee, relay_share, relays, origin)) in deliveries.iter().enumerate() {
            let terms = Terms {
                price: Amount(*price),
                charging: Charging::Release,
                fee: BasisPoints::new(*fee).unwrap(),
                relay_share: BasisPoints::new(*relay_share).unwrap(),
            };
            let mut sources: Vec<_> = relays.iter().map(|&(of, bytes)| SourceBytes { source: terminal(of), bytes: Bytes(bytes) }).collect();
            sources.push(SourceBytes { source: TerminalId::ORIGIN, bytes: Bytes(*origin) });
            let edition: u64 = sources.iter().map(|source| source.bytes.0).sum();
            let settlement = settle(&terms, Bytes(edition), &sources, Bytes(0), &BTreeMap::new()).unwrap();
            let receiver = user(10 + u8::try_from(number % 6).unwrap());
            let transfer = Transfer::delivery(&settlement, receiver, user(60), owner).unwrap();
            for (account, amount) in transfer.entries() {
                match account {
                    AccountRef::Wallet(_) => ring += i128::from(*amount),
                    AccountRef::Publisher(_) | AccountRef::Platform | AccountRef::VouchersIssued => kept_by_others += i128::from(*amount),
                }
            }
            // Nobody outside is ever paid less than the fee and what the relays' share leaves.
            let least = u128::from(settlement.fee.0) + u128::from(settlement.charge.0 - settlement.fee.0) * u128::from(10_000 - relay_share) / 10_000;
            prop_assert!(u128::from(settlement.fee.0) + u128::from(settlement.publisher.0) >= least);
        }
        prop_assert_eq!(ring, -kept_by_others);
        prop_assert!(ring <= 0, "money out of nothing: {}", ring);
    }
}
