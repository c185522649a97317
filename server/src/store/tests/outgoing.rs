//! The outbox: written with what it tells of, claimed by one at a time, and brought to an end.

use std::collections::BTreeSet;

use protocol::rest::{DisabledReason, EventType, NewWebhook, Webhook, WebhookDelivery, WebhookDeliveryState, WebhookFailure};
use protocol::{ErrorCode, TerminalId, UserId, WebhookId};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::fixture::{CHUNKS, CLOSES, START, STARTS, World, after, code_of, request};
use crate::store::lifecycle::CancelledBy;
use crate::store::sending::{ClaimLimits, Claimed, KEPT_FOR, Recorded};
use crate::store::webhooks::WEBHOOKS_MAX;
use crate::store::{PageRequest, StoreError};
use crate::webhooks::schedule::{FAILING_MAX, Next};
use crate::webhooks::sender::Failed;

const LEASE: Duration = Duration::seconds(60);
const LIMITS: ClaimLimits = ClaimLimits { all: 32, per_owner: 4, lease: LEASE };

/// A connection that posts anything while this is armed dies as it commits.
const CRASHES: &str = "
    CREATE TABLE crash (armed boolean NOT NULL);
    INSERT INTO crash VALUES (true);
    CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (SELECT armed FROM crash) THEN
            PERFORM pg_terminate_backend(pg_backend_pid());
        END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER zz_crash AFTER INSERT ON transfers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION crash();";

impl World {
    /// A webhook for these types; for all if none is named.
    async fn webhook(&self, user: UserId, events: &[EventType]) -> WebhookId {
        let new = NewWebhook { url: "https://example.org/".to_owned(), events: events.to_vec(), description: String::new() };
        let id = WebhookId(Uuid::now_v7());
        self.store.create_webhook(id, &new, b"wrapped", &request(user), START).await.unwrap();
        id
    }

    /// What a user is to be told, in the order in which it was written.
    async fn told(&self, user: UserId) -> Vec<(String, Value)> {
        let rows = sqlx::query_as("SELECT kind, data FROM outbox WHERE user_id = $1 ORDER BY number").bind(user.0);
        rows.fetch_all(self.store.raw()).await.unwrap()
    }

    async fn kinds(&self, user: UserId) -> Vec<String> {
        self.told(user).await.into_iter().map(|(kind, _)| kind).collect()
    }

    /// Waiting events, all for one webhook.
    async fn waiting(&self, user: UserId, webhook: WebhookId, count: i32) {
        sqlx::query(
            "INSERT INTO outbox (event_id, webhook_id, user_id, kind, data, occurred_at, due_at)
             SELECT gen_random_uuid(), $1, $2, 'voucher.redeemed', '{}', $3, $3 FROM generate_series(1, $4)",
        )
        .bind(webhook.0)
        .bind(user.0)
        .bind(START)
        .bind(count)
        .execute(self.store.raw())
        .await
        .unwrap();
    }

    async fn claim(&self, limits: ClaimLimits, now: OffsetDateTime) -> Vec<Claimed> {
        self.store.claim_events(limits, now).await.unwrap()
    }

    async fn deliveries(&self, user: UserId, webhook: WebhookId) -> Vec<WebhookDelivery> {
        self.store.webhook_deliveries(user, webhook, None, &PageRequest::default()).await.unwrap().items
    }

    async fn seen(&self, user: UserId, webhook: WebhookId) -> Webhook {
        self.store.webhook(user, webhook).await.unwrap()
    }
}

fn answered(status: u16) -> Failed {
    Failed { failure: WebhookFailure::Status, status: Some(status) }
}

#[tokio::test]
async fn a11_a_posting_and_what_is_told_of_it_are_both_there_or_neither_is_whenever_the_instance_dies() {
    let world = World::new().await;
    let user = world.user().await;
    world.webhook(user, &[]).await;
    let code = world.voucher(700, None).await;
    world.store.tamper(CRASHES).await;
    let sent = request(user);
    let died = world.store.redeem_voucher(&code, &sent, START).await;
    assert_eq!(code_of(died), ErrorCode::Unavailable);
    assert_eq!((world.purse(user).await, world.told(user).await), ((0, 0), Vec::new()), "neither");
    world.store.tamper("UPDATE crash SET armed = false").await;
    let redeemed = world.store.redeem_voucher(&code, &sent, START).await.unwrap();
    let told = json!({"transfer_id": redeemed.body["transfer_id"], "amount": {"amount": 700, "currency": "EUR"}});
    // Whoever asks again because the answer was lost is told nothing more.
    assert!(world.store.redeem_voucher(&code, &sent, START).await.unwrap().replayed);
    assert_eq!((world.purse(user).await, world.told(user).await), ((700, 0), vec![("voucher.redeemed".to_owned(), told)]), "both");
    world.store.assert_books_balance().await;
}

/// A release with one place that is won for 60 because somebody else offers that, and a relay.
struct Sold {
    world: World,
    publisher: UserId,
    winner: UserId,
    loser: UserId,
    relay: (UserId, TerminalId),
    release: protocol::rest::Release,
    delivery: protocol::DeliveryId,
}

impl Sold {
    async fn new() -> Self {
        let world = World::new().await;
        let (publisher, content, editions) = world.content(1).await;
        let (winner, loser, relay) = (world.bidder(100).await, world.bidder(100).await, world.bidder(0).await);
        for user in [publisher, winner.0, loser.0, relay.0] {
            world.webhook(user, &[]).await;
        }
        let release = world.schedule(publisher, &super::fixture::new_release(content, &editions, &[(100, 1)], 0)).await;
        let application = world.apply(&release, winner, 1, 90).await.unwrap();
        world.apply(&release, loser, 1, 60).await.unwrap();
        world.store.close_release(release.id, CLOSES).await.unwrap();
        assert!(world.store.start_release(release.id, STARTS).await.unwrap());
        assert!(!world.store.start_release(release.id, STARTS).await.unwrap());
        let delivery = world.delivery_of(&application, winner.0).await;
        Self { world, publisher, winner: winner.0, loser: loser.0, relay, release, delivery }
    }

    async fn settle(&self) -> Result<bool, StoreError> {
        Ok(self.world.store.settle_delivery(self.delivery, &CHUNKS, after(STARTS, 1), false).await?.is_some())
    }
}

#[tokio::test]
async fn a11_everybody_is_told_what_concerns_them_and_the_amounts_are_those_of_the_ledger() {
    let sold = Sold::new().await;
    let world = &sold.world;
    world.credit(sold.delivery, sold.relay.1, &[0, 1]).await;
    world.credit(sold.delivery, TerminalId::ORIGIN, &[2, 3]).await;
    world.store.tamper(CRASHES).await;
    let before = world.kinds(sold.winner).await;
    sold.settle().await.unwrap_err();
    assert_eq!(world.kinds(sold.winner).await, before, "a settlement that was not posted is not told");
    world.store.tamper("UPDATE crash SET armed = false").await;
    assert!(sold.settle().await.unwrap() && !sold.settle().await.unwrap());
    assert!(world.store.finish_release(sold.release.id, after(STARTS, 2)).await.unwrap());
    assert_eq!(
        world.kinds(sold.publisher).await,
        ["release.scheduled", "release.closed", "release.live", "delivery.sold", "release.settled"]
    );
    assert_eq!(world.kinds(sold.winner).await, ["application.won", "release.live", "delivery.settled"]);
    assert_eq!(world.kinds(sold.loser).await, ["application.lost"]);
    assert_eq!(world.kinds(sold.relay.0).await, ["delivery.relayed"]);

    let eur = |amount: u64| json!({"amount": amount, "currency": "EUR"});
    let (winner, publisher) = (world.told(sold.winner).await, world.told(sold.publisher).await);
    assert_eq!((&winner[0].1["price"], &winner[0].1["rank"], &winner[0].1["delivery_id"]), (&eur(60), &json!(1), &json!(sold.delivery)));
    // 60, of which 6 is the fee; half of 54 goes to the sources, and 700 of the 1,000 bytes were the relay's.
    assert_eq!((&winner[2].1["charged"], &winner[2].1["verified"], &winner[2].1["complete"]), (&eur(60), &json!(1_000), &json!(true)));
    let relayed = &world.told(sold.relay.0).await[0].1;
    let earned = relayed["earned"]["amount"].as_u64().unwrap();
    assert_eq!((world.purse(sold.relay.0).await, &relayed["bytes"]), ((earned, 0), &json!(700)));
    assert_eq!((&publisher[1].1["winners"], &publisher[1].1["losers"]), (&json!(1), &json!(1)));
    assert_eq!((&publisher[3].1["fee"], &publisher[3].1["charged"]), (&eur(6), &eur(60)));
    assert_eq!(publisher[3].1["earned"]["amount"].as_i64(), Some(world.earnings(sold.publisher).await));
    assert_eq!(publisher[1].1["book_hash"], json!(world.store.release(sold.release.id).await.unwrap().book_hash));
}

#[tokio::test]
async fn whoever_takes_part_is_told_that_a_release_is_cancelled_or_aborted_and_that_nothing_arrived() {
    let world = World::new().await;
    let release = world.release(&[(100, 1)], 0).await;
    let (bidder, stranger) = (world.bidder(100).await, world.user().await);
    for user in [release.publisher_id, bidder.0, stranger] {
        world.webhook(user, &[]).await;
    }
    world.apply(&release, bidder, 1, 50).await.unwrap();
    world.store.cancel_release(release.id, CancelledBy::Operator, &request(release.publisher_id), START).await.unwrap();
    for user in [release.publisher_id, bidder.0] {
        assert_eq!(world.kinds(user).await, ["release.cancelled"]);
    }
    assert!(world.told(stranger).await.is_empty());

    let sold = Sold::new().await;
    let (store, publisher) = (&sold.world.store, sold.publisher);
    store.abort_release(sold.release.id, CancelledBy::Publisher(publisher), &request(publisher), after(STARTS, 1)).await.unwrap();
    store.release_delivery(sold.delivery, after(STARTS, 1)).await.unwrap().expect("nothing arrived");
    assert_eq!(sold.world.kinds(sold.winner).await[2..], ["release.aborted", "delivery.released"]);
    assert_eq!(sold.world.kinds(publisher).await.last().unwrap(), "release.aborted", "nothing was sold");
    assert_eq!(sold.world.kinds(sold.loser).await, ["application.lost"]);
}

#[tokio::test]
async fn a_webhook_is_told_only_the_types_it_wants_while_it_is_enabled() {
    let world = World::new().await;
    let user = world.user().await;
    let picky = world.webhook(user, &[EventType::ReleaseLive]).await;
    let fitting = world.webhook(user, &[EventType::ReleaseLive, EventType::VoucherRedeemed]).await;
    let disabled = world.webhook(user, &[]).await;
    let off = protocol::rest::ChangeWebhook { enabled: Some(false), ..Default::default() };
    world.store.change_webhook(user, disabled, None, &off).await.unwrap();
    world.fund(user, 5).await;
    for (webhook, count) in [(picky, 0), (fitting, 1), (disabled, 0)] {
        assert_eq!(world.deliveries(user, webhook).await.len(), count);
    }
}

#[tokio::test]
async fn an_instance_that_is_killed_loses_nothing_and_one_that_is_late_changes_nothing() {
    let world = World::new().await;
    let user = world.user().await;
    let webhook = world.webhook(user, &[]).await;
    world.fund(user, 5).await;
    let [first] = world.claim(LIMITS, START).await.try_into().unwrap();
    assert!(world.claim(LIMITS, START + LEASE - Duration::seconds(1)).await.is_empty(), "it is being sent");
    let [second] = world.claim(LIMITS, START + LEASE).await.try_into().unwrap();
    assert_eq!(
        (second.event_id, second.attempts),
        (first.event_id, 0),
        "whoever claimed it has died: the same event, and nothing is counted"
    );
    let store = &world.store;
    let late = store.event_failed(&first, answered(500), Next::GiveUp, START + LEASE).await.unwrap();
    assert_eq!(late, Recorded::Late, "its claim has ended");
    assert_eq!(world.deliveries(user, webhook).await[0].state, WebhookDeliveryState::Pending);
    // But what was taken was taken.
    store.event_delivered(&first, 200, START + LEASE).await.unwrap();
    assert_eq!(store.event_failed(&second, answered(500), Next::GiveUp, START + LEASE).await.unwrap(), Recorded::Late);
    let [delivery] = world.deliveries(user, webhook).await.try_into().unwrap();
    assert_eq!((delivery.state, delivery.attempts, delivery.last_status), (WebhookDeliveryState::Delivered, 1, Some(200)));
    assert!(world.claim(LIMITS, START + LEASE * 10).await.is_empty());
}

#[tokio::test]
async fn what_a_stopped_instance_gives_back_is_due_at_once() {
    let world = World::new().await;
    let user = world.user().await;
    world.webhook(user, &[]).await;
    world.fund(user, 5).await;
    let [claimed] = world.claim(LIMITS, START).await.try_into().unwrap();
    world.store.release_events(&[claimed.claim], START).await.unwrap();
    let [again] = world.claim(LIMITS, START).await.try_into().unwrap();
    assert_ne!(again.claim, claimed.claim);
}

#[tokio::test]
async fn an_owner_with_many_events_takes_no_more_than_a_few_places_from_the_others() {
    let world = World::new().await;
    let mut owners = Vec::new();
    for _ in 0..3 {
        let user = world.user().await;
        owners.push((user, world.webhook(user, &[]).await));
    }
    let [busy, .., quiet] = owners[..] else { panic!("three") };
    world.waiting(busy.0, busy.1, 50).await;
    world.waiting(quiet.0, quiet.1, 1).await;
    let now = after(START, 1);
    let of = |claimed: &[Claimed], user: UserId| claimed.iter().filter(|event| event.user_id == user).count();
    let first = world.claim(LIMITS, now).await;
    assert_eq!((of(&first, busy.0), of(&first, quiet.0)), (4, 1));
    assert!(world.claim(LIMITS, now).await.is_empty(), "its places are taken, by whichever instance");
    world.store.event_delivered(first.iter().find(|event| event.user_id == busy.0).unwrap(), 200, now).await.unwrap();
    assert_eq!(of(&world.claim(LIMITS, now).await, busy.0), 1, "one place is free again");
    world.waiting(owners[1].0, owners[1].1, 9).await;
    assert_eq!(world.claim(ClaimLimits { all: 3, ..LIMITS }, now).await.len(), 3, "no more than there is room for");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_claim_at_once_never_claim_the_same() {
    let world = World::new().await;
    for _ in 0..8 {
        let user = world.user().await;
        let webhook = world.webhook(user, &[]).await;
        world.waiting(user, webhook, 4).await;
    }
    let claiming: Vec<_> = (0..8)
        .map(|_| {
            let store = world.store.clone();
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                for _ in 0..20 {
                    claimed.extend(store.claim_events(ClaimLimits { all: 3, ..LIMITS }, START).await.unwrap());
                }
                claimed
            })
        })
        .collect();
    let mut all = Vec::new();
    for claiming in claiming {
        all.extend(claiming.await.unwrap().into_iter().map(|event| event.event_id));
    }
    let different: BTreeSet<_> = all.iter().copied().collect();
    assert_eq!((all.len(), different.len()), (32, 32));
}

#[tokio::test]
async fn five_days_without_anything_taken_disable_a_webhook_and_end_its_queue() {
    let world = World::new().await;
    let user = world.user().await;
    let webhook = world.webhook(user, &[]).await;
    world.waiting(user, webhook, 4).await;
    let store = &world.store;
    let claimed = world.claim(LIMITS, START).await;
    let fail = async |event: &Claimed, now| store.event_failed(event, answered(500), Next::Again(Duration::days(30)), now).await.unwrap();
    let counted = |disabled| Recorded::Counted { disabled };
    assert_eq!(fail(&claimed[0], START).await, counted(None));
    assert_eq!(world.seen(user, webhook).await.failing_since, Some(START));
    // One that is taken begins it anew.
    store.event_delivered(&claimed[1], 200, START + Duration::days(1)).await.unwrap();
    assert_eq!(world.seen(user, webhook).await.failing_since, None);
    let anew = START + Duration::days(2);
    assert_eq!(fail(&claimed[2], anew).await, counted(None));
    assert_eq!(fail(&claimed[3], anew + FAILING_MAX).await, counted(Some(DisabledReason::Failing)));
    let seen = world.seen(user, webhook).await;
    assert_eq!((seen.enabled, seen.disabled_reason, seen.pending, seen.dead), (false, Some(DisabledReason::Failing), 3, 0));
    world.fund(user, 5).await;
    assert_eq!(world.seen(user, webhook).await.pending, 3, "it is told nothing more");
    assert_eq!(store.sweep_outbox(anew).await.unwrap(), 3);
    let seen = world.seen(user, webhook).await;
    assert_eq!((seen.pending, seen.dead), (0, 3));
    let dead = store.webhook_deliveries(user, webhook, Some(WebhookDeliveryState::Dead), &PageRequest::default()).await.unwrap().items;
    assert!(dead.iter().all(|letter| letter.last_failure == Some(WebhookFailure::Disabled)), "{dead:?}");

    assert_eq!(code_of(store.retry_delivery(user, webhook, dead[0].id, anew).await), ErrorCode::Conflict);
    let on = protocol::rest::ChangeWebhook { enabled: Some(true), ..Default::default() };
    let enabled = store.change_webhook(user, webhook, None, &on).await.unwrap();
    assert_eq!((enabled.enabled, enabled.disabled_reason, enabled.failing_since), (true, None, None));
    let again = store.retry_delivery(user, webhook, dead[0].id, anew).await.unwrap();
    assert_eq!((again.state, again.attempts), (WebhookDeliveryState::Pending, 0));
    assert_eq!(world.claim(LIMITS, anew).await.len(), 1);
}

#[tokio::test]
async fn what_is_not_the_receivers_fault_is_not_held_against_it() {
    let world = World::new().await;
    let user = world.user().await;
    let webhook = world.webhook(user, &[]).await;
    world.waiting(user, webhook, 1).await;
    let [claimed] = world.claim(LIMITS, START).await.try_into().unwrap();
    let failed = Failed { failure: WebhookFailure::Secret, status: None };
    let recorded = world.store.event_failed(&claimed, failed, Next::Again(Duration::days(9)), START).await.unwrap();
    assert_eq!(recorded, Recorded::Counted { disabled: None });
    let seen = world.seen(user, webhook).await;
    assert_eq!((seen.failing_since, seen.enabled), (None, true));
}

#[tokio::test]
async fn what_waits_for_a_webhook_that_is_gone_is_given_up_and_what_is_old_is_removed_in_batches() {
    let world = World::new().await;
    let (user, store) = (world.user().await, &world.store);
    let (removed, kept) = (world.webhook(user, &[]).await, world.webhook(user, &[]).await);
    world.waiting(user, removed, 2_500).await;
    world.waiting(user, kept, 1).await;
    store.remove_webhook(user, removed).await.unwrap();
    let mut batches = Vec::new();
    loop {
        match store.sweep_outbox(START).await.unwrap() {
            0 => break,
            swept => batches.push(swept),
        }
    }
    assert_eq!(batches, [1_000, 1_000, 500]);
    let figures = store.outbox_figures(START).await.unwrap();
    assert_eq!((figures.pending, figures.dead, figures.oldest_due), (1, 2_500, Some(START)));
    assert_eq!(store.outbox_figures(START - Duration::seconds(1)).await.unwrap().oldest_due, None, "nothing is due yet");
    assert_eq!(store.sweep_outbox(START + KEPT_FOR).await.unwrap(), 0, "it is kept for so long");
    let mut gone = 0;
    loop {
        match store.sweep_outbox(START + KEPT_FOR + Duration::seconds(1)).await.unwrap() {
            0 => break,
            swept => gone += swept,
        }
    }
    assert_eq!(gone, 2_501);
}

#[tokio::test]
async fn a_secret_before_a_rotation_counts_for_a_day() {
    let world = World::new().await;
    let (user, store) = (world.user().await, &world.store);
    let webhook = world.webhook(user, &[]).await;
    world.waiting(user, webhook, 2).await;
    let rotated = request(user);
    store.rotate_webhook(webhook, b"second", &rotated, START).await.unwrap();
    assert!(store.rotate_webhook(webhook, b"third", &rotated, START).await.unwrap().replayed, "a repeat draws no other one");
    let one = ClaimLimits { all: 1, ..LIMITS };
    let day = Duration::days(1);
    let secrets = async |now| world.claim(one, now).await[0].secrets.clone();
    assert_eq!(secrets(START + day - Duration::seconds(1)).await, [b"second".to_vec(), b"wrapped".to_vec()]);
    assert_eq!(secrets(START + day).await, [b"second".to_vec()]);
    store.sweep_outbox(START + day).await.unwrap();
    assert_eq!(world.seen(user, webhook).await.old_secret_until, None);
    assert!(store.peek("SELECT old_secret FROM webhooks WHERE old_secret IS NOT NULL").await.is_empty());
    assert_eq!(code_of(store.rotate_webhook(webhook, b"x", &request(world.user().await), START).await), ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_has_so_many_webhooks_and_no_more_however_fast_they_are_made() {
    let world = World::new().await;
    let user = world.user().await;
    let new = NewWebhook { url: "https://example.org/".to_owned(), events: Vec::new(), description: String::new() };
    let making: Vec<_> = (0..2 * WEBHOOKS_MAX)
        .map(|_| {
            let (store, new) = (world.store.clone(), new.clone());
            tokio::spawn(async move { store.create_webhook(WebhookId(Uuid::now_v7()), &new, b"w", &request(user), START).await })
        })
        .collect();
    let mut refused = 0;
    for making in making {
        if let Err(error) = making.await.unwrap() {
            assert_eq!(error.code(), ErrorCode::WebhookLimit);
            refused += 1;
        }
    }
    assert_eq!(refused, WEBHOOKS_MAX);
    world.webhook(world.user().await, &[]).await;
}
