//! Relay duties in the store: who looks, what is written of it, and whom the end is told.

use protocol::rest::{EventType, NewRelease, NewWebhook, RelayDuty};
use protocol::{Amount, DeliveryId, TerminalId, UserId, WebhookId};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::fixture::{CHUNKS, CLOSES, START, STARTS, World, eur, new_release, request};
use crate::store::lifecycle::CancelledBy;

fn at(second: i64) -> OffsetDateTime {
    STARTS + Duration::seconds(second)
}

/// A release with one place that owes 100 s for a deposit of 200, won for nothing.
struct Owed {
    world: World,
    publisher: UserId,
    winner: UserId,
    release: protocol::rest::Release,
    delivery: DeliveryId,
}

impl Owed {
    async fn new() -> Self {
        let world = World::new().await;
        let (publisher, content, editions) = world.content(1).await;
        let winner = world.bidder(1_000).await;
        let mut new: NewRelease = new_release(content, &editions, &[(100, 1)], 0);
        new.ranks[0].duty = Some(RelayDuty { after_s: 100, deposit: eur(200) });
        let release = world.schedule(publisher, &new).await;
        let application = world.apply(&release, winner, 1, 90).await.unwrap();
        assert_eq!(world.purse(winner.0).await, (710, 290), "the maximum and the deposit");
        world.store.close_release(release.id, CLOSES).await.unwrap();
        assert_eq!(world.purse(winner.0).await, (800, 200), "nobody competed");
        let delivery = world.delivery_of(&application, winner.0).await;
        Self { world, publisher, winner: winner.0, release, delivery }
    }

    /// A look that finds the terminal there or not.
    async fn look(&self, second: i64, is_there: bool) {
        let store = &self.world.store;
        let watch = store.claim_duty_watch(at(second)).await.unwrap().expect("a look is due");
        assert!(store.claim_duty_watch(at(second)).await.unwrap().is_none(), "by one instance at a time");
        let [duty] = store.open_duties(watch.release_id, None, 10).await.unwrap()[..] else { panic!("one duty") };
        store.write_presences(&[(duty, duty.presence.after(watch.look(at(second)), &duty.duty, is_there))]).await.unwrap();
        store.finish_look(watch.release_id, at(second), at(second + 5)).await.unwrap();
    }

    async fn told(&self, user: UserId) -> Vec<Value> {
        let rows = sqlx::query_scalar("SELECT data FROM outbox WHERE user_id = $1 AND kind = 'duty.ended'").bind(user.0);
        rows.fetch_all(self.world.store.raw()).await.unwrap()
    }
}

#[tokio::test]
async fn a18_a_duty_ends_once_and_its_owner_and_the_publisher_are_told_what_was_forfeited() {
    let owed = Owed::new().await;
    let store = &owed.world.store;
    for user in [owed.publisher, owed.winner] {
        let new = NewWebhook { url: "https://example.org/".to_owned(), events: vec![EventType::DutyEnded], description: String::new() };
        store.create_webhook(WebhookId(Uuid::now_v7()), &new, b"wrapped", &request(user), START).await.unwrap();
    }
    store.start_release(owed.release.id, STARTS).await.unwrap();
    assert!(store.end_duty(owed.delivery, at(1)).await.unwrap().is_none(), "its delivery is pending");
    owed.world.credit(owed.delivery, TerminalId::ORIGIN, &[0, 1, 2, 3]).await;
    store.settle_delivery(owed.delivery, &CHUNKS, at(10), false).await.unwrap().expect("it is complete");
    for second in (10..=110).step_by(5) {
        owed.look(second, second < 60).await;
    }
    let ended = store.end_duty(owed.delivery, at(110)).await.unwrap().unwrap();
    assert_eq!((ended.missed_ms, ended.forfeited), (50_000, Amount(100)));
    assert!(store.end_duty(owed.delivery, at(110)).await.unwrap().is_none(), "once");
    assert_eq!(owed.world.purse(owed.winner).await, (900, 0));
    let told = json!({ "delivery_id": owed.delivery, "release_id": owed.release.id, "missed_s": 50,
        "forfeited": { "amount": 100, "currency": "EUR" } });
    assert_eq!((owed.told(owed.winner).await, owed.told(owed.publisher).await), (vec![told.clone()], vec![told]));
    store.finish_look(owed.release.id, at(110), at(115)).await.unwrap();
    assert!(store.claim_duty_watch(at(1_000)).await.unwrap().is_none(), "nothing is left to be looked at");
    store.assert_books_balance().await;
}

#[tokio::test]
async fn a18_a_look_that_was_overtaken_writes_nothing() {
    let owed = Owed::new().await;
    let store = &owed.world.store;
    let stale = store.open_duties(owed.release.id, None, 10).await.unwrap()[0];
    owed.look(0, false).await;
    let overtaken = stale.presence.after(rules::duty::Look { before: None, now: protocol::TimestampMs(1) }, &stale.duty, false);
    store.write_presences(&[(stale, overtaken)]).await.unwrap();
    let now = store.open_duties(owed.release.id, None, 10).await.unwrap()[0];
    assert_eq!(now.presence.absent_since, Some(crate::clock::to_timestamp_ms(at(0))));
}

#[tokio::test]
async fn a18_a_cancelled_release_gives_deposits_back_and_is_looked_at_no_more() {
    let owed = Owed::new().await;
    let store = &owed.world.store;
    store.cancel_release(owed.release.id, CancelledBy::Publisher(owed.publisher), &request(owed.publisher), CLOSES).await.unwrap();
    assert_eq!(owed.world.purse(owed.winner).await, (1_000, 0));
    assert!(store.claim_duty_watch(at(1_000)).await.unwrap().is_none());
    assert!(store.end_duty(owed.delivery, at(1_000)).await.unwrap().is_none());
    store.assert_books_balance().await;
}
