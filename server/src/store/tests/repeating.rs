//! A request that is sent again is answered again and works once.

use protocol::ErrorCode;
use protocol::rest::{Application, NewApplication};
use time::Duration;

use super::fixture::{START, World, code_of, eur, request};
use crate::store::idempotency::Idempotency;

#[tokio::test]
async fn twenty_sendings_of_one_request_work_once_and_are_answered_alike() {
    let world = World::new().await;
    let user = world.user().await;
    let code = world.voucher(700, None).await;
    let sent = request(user);
    let sendings: Vec<_> = (0..20)
        .map(|_| {
            let (store, sent, code) = (world.store.clone(), sent.clone(), code.clone());
            tokio::spawn(async move { store.redeem_voucher(&code, &sent, START).await })
        })
        .collect();
    let mut answers = Vec::new();
    for sending in sendings {
        answers.push(sending.await.unwrap().unwrap());
    }
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    for answer in &answers {
        assert_eq!((answer.status, answer.body.to_string()), (answers[0].status, answers[0].body.to_string()));
    }
    assert_eq!(world.purse(user).await, (700, 0));
    assert_eq!(world.store.wallet_entries(user, &Default::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn an_application_sent_twice_holds_once() {
    let world = World::new().await;
    let release = world.release(&[(100, 5)], 0).await;
    let (user, terminal_id) = world.bidder(100).await;
    let sent = request(user);
    let new = NewApplication { terminal_id, edition_id: release.editions[0].edition_id, rank: 1, maximum: eur(80) };
    let first: Application = world.store.apply(release.id, &new, &sent, START).await.unwrap().read().unwrap();
    let again = world.store.apply(release.id, &new, &sent, START).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.read::<Application>().unwrap(), first);
    assert_eq!(world.purse(user).await, (20, 80));
    let withdrawal = request(user);
    world.store.withdraw_application(first.id, &withdrawal, START).await.unwrap();
    assert!(world.store.withdraw_application(first.id, &withdrawal, START).await.unwrap().replayed);
    assert_eq!(world.purse(user).await, (100, 0));
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_user() {
    let world = World::new().await;
    let (user, other) = (world.user().await, world.user().await);
    let (first, second) = (world.voucher(10, None).await, world.voucher(20, None).await);
    let sent = request(user);
    world.store.redeem_voucher(&first, &sent, START).await.unwrap();
    let reused = Idempotency { request_hash: [1; 32], ..sent.clone() };
    assert_eq!(code_of(world.store.redeem_voucher(&second, &reused, START).await), ErrorCode::IdempotencyKeyReused);
    assert_eq!(world.purse(user).await, (10, 0));
    let of_another = Idempotency { user_id: other, ..reused };
    world.store.redeem_voucher(&second, &of_another, START).await.unwrap();
    assert_eq!(world.purse(other).await, (20, 0));
}

#[tokio::test]
async fn an_answer_is_remembered_for_thirty_days() {
    let world = World::new().await;
    let user = world.user().await;
    let code = world.voucher(10, None).await;
    let sent = request(user);
    world.store.redeem_voucher(&code, &sent, START).await.unwrap();
    world.store.forget_old_answers(START + Duration::days(30)).await.unwrap();
    assert!(world.store.redeem_voucher(&code, &sent, START).await.unwrap().replayed);
    world.store.forget_old_answers(START + Duration::days(30) + Duration::seconds(1)).await.unwrap();
    assert_eq!(code_of(world.store.redeem_voucher(&code, &sent, START).await), ErrorCode::VoucherUsed, "forgotten, but not paid twice");
}

#[tokio::test]
async fn a_refused_request_may_be_sent_again_when_the_reason_has_gone() {
    let world = World::new().await;
    let release = world.release(&[(100, 5)], 0).await;
    let (user, terminal_id) = world.bidder(50).await;
    let sent = request(user);
    let new = NewApplication { terminal_id, edition_id: release.editions[0].edition_id, rank: 1, maximum: eur(80) };
    assert_eq!(code_of(world.store.apply(release.id, &new, &sent, START).await), ErrorCode::InsufficientFunds);
    assert_eq!(world.purse(user).await, (50, 0));
    world.fund(user, 30).await;
    assert!(!world.store.apply(release.id, &new, &sent, START).await.unwrap().replayed);
    assert_eq!(world.purse(user).await, (0, 80));
}
