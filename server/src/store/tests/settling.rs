//! Settling: what was received is paid for once, and divided over whoever sent it.

use protocol::rest::{Application, DeliveryState, Release, ReleaseState, TransferKind};
use protocol::{Amount, Bytes, DeliveryId, ErrorCode, TerminalId, UserId};
use time::Duration;

use super::fixture::{CHUNKS, CLOSES, STARTS, World, after, code_of};
use crate::store::contents::Viewer;
use crate::store::settlement::{Settled, Share};
use crate::store::{PageRequest, StoreError};

/// A live release with one rank of `places`, won by `places` terminals that pay exactly 1,000 each, because a further one bids that and loses.
struct Live {
    world: World,
    release: Release,
    winners: Vec<(UserId, TerminalId, DeliveryId)>,
}

impl Live {
    async fn new(places: u32) -> Self {
        let world = World::new().await;
        let release = world.release(&[(100, places)], 0).await;
        let mut applications: Vec<(UserId, TerminalId, Application)> = Vec::new();
        for _ in 0..places {
            let (user, terminal) = world.bidder(2_000).await;
            applications.push((user, terminal, world.apply(&release, (user, terminal), 1, 1_500).await.unwrap()));
        }
        let loser = world.bidder(1_000).await;
        world.apply(&release, loser, 1, 1_000).await.unwrap();
        world.store.close_release(release.id, CLOSES).await.unwrap();
        world.store.start_release(release.id, STARTS).await.unwrap();
        let mut winners = Vec::new();
        for (user, terminal, application) in applications {
            winners.push((user, terminal, world.delivery_of(&application, user).await));
        }
        Self { world, release, winners }
    }

    async fn settle(&self, winner: usize, last_call: bool) -> Result<Option<Settled>, StoreError> {
        self.world.store.settle_delivery(self.winners[winner].2, &CHUNKS, after(STARTS, 1), last_call).await
    }
}

/// Price 1,000; fee 10 % = 100; half of the 900 left to the sources by bytes.
#[tokio::test]
async fn a11_amounts_are_subtracted_from_receivers_and_added_to_relays_and_publishers_and_every_posting_is_stored() {
    let live = Live::new(3).await;
    let world = &live.world;
    let [(payer, _, delivery), (first, first_terminal, _), (second, second_terminal, _)] = live.winners[..] else { panic!("three") };
    world.credit(delivery, TerminalId::ORIGIN, &[0]).await;
    world.credit(delivery, first_terminal, &[1]).await;
    world.credit(delivery, second_terminal, &[2, 3]).await;
    let settled = live.settle(0, false).await.unwrap().expect("it is complete");
    assert!(settled.complete);
    assert_eq!((settled.charged, settled.fee, settled.publisher), (Amount(1_000), Amount(100), Amount(450 + 180)));
    let share = |source, bytes, earned| Share { source, bytes: Bytes(bytes), earned: Amount(earned), relay_share: None };
    let mut expected = vec![share(first_terminal, 300, 135), share(second_terminal, 300, 135)];
    expected.sort_by_key(|share| share.source);
    expected.push(share(TerminalId::ORIGIN, 400, 180));
    assert_eq!(settled.shares, expected);
    assert_eq!(world.purse(payer).await, (1_000, 0));
    assert_eq!(world.purse(first).await, (1_000 + 135, 1_000));
    assert_eq!(world.purse(second).await, (1_000 + 135, 1_000));
    assert_eq!(world.earnings(live.release.publisher_id).await, 630);
    let totals = world.store.ledger_totals().await.unwrap();
    assert_eq!((totals.sum.amount, totals.platform.amount, totals.publishers.amount), (0, 100, 630));
    assert_eq!((totals.vouchers_issued.amount, totals.held.amount), (-7_000, 2_000));

    for (user, amount, balance) in [(payer, -1_000, 1_000), (first, 135, 2_135), (second, 135, 2_135)] {
        let statement = world.store.wallet_entries(user, &PageRequest::default()).await.unwrap().items;
        let kinds: Vec<_> = statement.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [TransferKind::Delivery, TransferKind::VoucherRedemption]);
        assert_eq!((statement[0].amount.amount, statement[0].balance.amount), (amount, balance));
        assert_eq!(statement[0].delivery_id, Some(delivery));
    }
    world.store.assert_books_balance().await;
}

#[tokio::test]
async fn a12_amounts_follow_what_was_verified_and_what_did_not_arrive_costs_nothing() {
    let live = Live::new(3).await;
    let world = &live.world;
    let [(payer, _, delivery), (relay, relay_terminal, _), (idle, _, _)] = live.winners[..] else { panic!("three") };
    world.credit(delivery, relay_terminal, &[1, 3]).await;
    assert_eq!(live.settle(0, false).await.unwrap(), None, "it is not complete and its time is not over");
    assert_eq!(world.purse(payer).await, (1_000, 1_000));
    let settled = live.settle(0, true).await.unwrap().expect("the deadline settles it");
    // 400 of 1,000 bytes: 400, of which 40 is the fee, half of 360 is the relay's, the other half the publisher's.
    assert!(!settled.complete);
    assert_eq!((settled.state, settled.verified, settled.charged), (DeliveryState::Settled, Bytes(400), Amount(400)));
    assert_eq!((settled.fee, settled.publisher, settled.shares[0].earned), (Amount(40), Amount(180), Amount(180)));
    assert_eq!(world.purse(payer).await, (1_600, 0), "the rest of the hold is available again");
    assert_eq!(world.purse(relay).await, (1_180, 1_000));
    let nothing = live.settle(2, true).await.unwrap().expect("the deadline ends it");
    assert_eq!((nothing.state, nothing.charged, nothing.shares.len()), (DeliveryState::Released, Amount(0), 0));
    assert_eq!(world.purse(idle).await, (2_000, 0));
    world.store.assert_books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_eight_instances_settle_at_once_is_paid_once() {
    let live = Live::new(2).await;
    let (payer, _, delivery) = live.winners[0];
    live.world.credit(delivery, live.winners[1].1, &[0, 1, 2, 3]).await;
    let attempts: Vec<_> = (0..8)
        .map(|number| {
            let store = live.world.store.clone();
            tokio::spawn(async move { store.settle_delivery(delivery, &CHUNKS, after(STARTS, 1), number % 2 == 0).await })
        })
        .collect();
    let mut settled = 0;
    for attempt in attempts {
        settled += usize::from(attempt.await.unwrap().unwrap().is_some());
    }
    assert_eq!(settled, 1);
    assert_eq!(live.world.purse(payer).await, (1_000, 0));
    live.world.store.assert_books_balance().await;
}

/// Everybody relays to everybody, so the same wallets are paid and pay in transactions that run at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_between_the_same_wallets_settle_at_once_without_standing_in_each_others_way() {
    let live = Live::new(12).await;
    for (receiver, (_, _, delivery)) in live.winners.iter().enumerate() {
        let source = |step: usize| live.winners[(receiver + step) % live.winners.len()].1;
        for (step, chunk) in (1..).zip(0..4) {
            live.world.credit(*delivery, source(step), &[chunk]).await;
        }
    }
    let settling: Vec<_> = live
        .winners
        .iter()
        .map(|&(_, _, delivery)| {
            let store = live.world.store.clone();
            tokio::spawn(async move { store.settle_delivery(delivery, &CHUNKS, after(STARTS, 1), false).await })
        })
        .collect();
    for settled in settling {
        assert_eq!(settled.await.unwrap().unwrap().unwrap().charged, Amount(1_000));
    }
    for (user, ..) in &live.winners {
        // 1,000 paid, and 450 earned: 40 %, 30 %, 20 % and 10 % of four pools of 450.
        assert_eq!(live.world.purse(*user).await, (1_450, 0));
    }
    live.world.store.assert_books_balance().await;
}

#[tokio::test]
async fn a_user_who_relays_to_its_own_terminal_pays_the_publisher_and_the_fee() {
    let live = Live::new(2).await;
    let (payer, _, delivery) = live.winners[0];
    let second_terminal = live.world.terminal(payer).await;
    live.world.credit(delivery, second_terminal, &[0, 1, 2, 3]).await;
    let settled = live.settle(0, false).await.unwrap().unwrap();
    assert_eq!((settled.charged, settled.shares[0].earned), (Amount(1_000), Amount(450)));
    assert_eq!(live.world.purse(payer).await, (1_450, 0));
    let statement = live.world.store.wallet_entries(payer, &PageRequest::default()).await.unwrap().items;
    assert_eq!(statement[0].amount.amount, -550, "one entry per account and transfer");
    live.world.store.assert_books_balance().await;
}

#[tokio::test]
async fn a_free_delivery_is_settled_without_a_transfer() {
    let world = World::new().await;
    let release = world.release(&[(100, 2)], 0).await;
    let bidder = world.bidder(0).await;
    let application = world.apply(&release, bidder, 1, 0).await.unwrap();
    world.store.close_release(release.id, CLOSES).await.unwrap();
    let delivery = world.delivery_of(&application, bidder.0).await;
    world.credit(delivery, TerminalId::ORIGIN, &[0, 1, 2, 3]).await;
    let settled = world.store.settle_delivery(delivery, &CHUNKS, after(STARTS, 1), false).await.unwrap().unwrap();
    assert_eq!((settled.state, settled.charged, settled.verified), (DeliveryState::Settled, Amount(0), Bytes(1_000)));
    let transfers: i64 = sqlx::query_scalar("SELECT count(*) FROM transfers").fetch_one(world.store.raw()).await.unwrap();
    assert_eq!(transfers, 0);
}

#[tokio::test]
async fn money_is_not_computed_from_another_editions_chunks() {
    let live = Live::new(1).await;
    let delivery = live.winners[0].2;
    for wrong in [&[400, 300, 200][..], &[400, 300, 200, 101], &[1_000], &[]] {
        let refused = live.world.store.settle_delivery(delivery, wrong, STARTS, true).await;
        assert_eq!(code_of(refused), ErrorCode::Internal, "{wrong:?}");
    }
    live.world.credit(delivery, TerminalId::ORIGIN, &[4]).await;
    assert_eq!(code_of(live.settle(0, true).await), ErrorCode::Internal, "a chunk beyond the edition");
    let unknown = live.world.store.settle_delivery(DeliveryId::from_bytes([5; 16]), &CHUNKS, STARTS, true).await;
    assert_eq!(code_of(unknown), ErrorCode::NotFound);
    assert_eq!(live.world.purse(live.winners[0].0).await, (1_000, 1_000), "nothing was charged");
}

#[tokio::test]
async fn a_release_is_settled_when_its_last_delivery_is() {
    let live = Live::new(2).await;
    let (store, id) = (&live.world.store, live.release.id);
    live.world.credit(live.winners[0].2, TerminalId::ORIGIN, &[0, 1, 2, 3]).await;
    live.settle(0, false).await.unwrap().unwrap();
    assert!(!store.finish_release(id, after(STARTS, 2)).await.unwrap());
    live.settle(1, true).await.unwrap().unwrap();
    assert!(store.finish_release(id, after(STARTS, 2)).await.unwrap());
    assert!(!store.finish_release(id, after(STARTS, 2)).await.unwrap(), "once");
    assert_eq!(live.world.state_of(id).await, ReleaseState::Settled);
    let rolled_up: i64 = sqlx::query_scalar("SELECT count(*) FROM balance_rollups").fetch_one(store.raw()).await.unwrap();
    assert_eq!(rolled_up, 3, "the publisher, the platform, the vouchers issued");
    assert_eq!(live.world.earnings(live.release.publisher_id).await, 900);
    store.assert_books_balance().await;

    let early = live.world.release(&[(100, 1)], 0).await;
    assert!(!store.finish_release(early.id, STARTS).await.unwrap(), "a release that nobody has closed is not finished");
    assert_eq!(code_of(store.finish_release(protocol::ReleaseId::from_bytes([1; 16]), STARTS).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn deliveries_are_shown_whole_to_the_publisher_and_else_to_their_owners() {
    let live = Live::new(3).await;
    let (user, terminal, delivery) = live.winners[0];
    let relay = live.winners[1].1;
    live.world.credit(delivery, relay, &[0, 1, 2]).await;
    live.world.credit(delivery, TerminalId::ORIGIN, &[3]).await;
    live.settle(0, false).await.unwrap().unwrap();
    let read = async |viewer, request: PageRequest| live.world.store.deliveries(live.release.id, viewer, &request).await.unwrap();
    let own = read(Viewer::User(user), PageRequest::default()).await.items;
    assert_eq!(own.len(), 1);
    assert_eq!(
        (own[0].terminal_id, own[0].state, own[0].verified.0, own[0].charged.amount.0),
        (terminal, DeliveryState::Settled, 1_000, 1_000)
    );
    assert_eq!(
        own[0].sources.iter().map(|share| (share.source, share.bytes.0, share.earned.amount.0)).collect::<Vec<_>>(),
        [(relay, 900, 405), (TerminalId::ORIGIN, 100, 45),]
    );
    assert_eq!(own[0].completed_at, Some(STARTS + Duration::minutes(1)));
    for viewer in [Viewer::User(live.release.publisher_id), Viewer::Operator] {
        let first = read(viewer, PageRequest { limit: 2, cursor: None }).await;
        let rest = read(viewer, PageRequest { limit: 2, cursor: first.next_cursor }).await;
        let all: Vec<_> = first.items.into_iter().chain(rest.items).collect();
        assert_eq!((all.len(), rest.next_cursor), (3, None));
        let served = all.iter().find(|delivery| delivery.terminal_id == relay).unwrap();
        assert_eq!((served.earned.amount.0, served.state), (405, DeliveryState::Pending));
    }
    let stranger = live.world.user().await;
    assert!(read(Viewer::User(stranger), PageRequest::default()).await.items.is_empty());
}
