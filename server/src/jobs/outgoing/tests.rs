//! Events sent to real receivers, over a real Postgres.

use std::time::{Duration, Instant};

use protocol::rest::{DisabledReason, Page, Role, Webhook, WebhookDelivery, WebhookDeliveryState, WebhookFailure, WebhookSecret};
use protocol::{ErrorCode, WebhookId};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{PER_OWNER, run};
use crate::config::Config;
use crate::routes::tests::{Account, Service, answer, refused};
use crate::secrets::SecretsKey;
use crate::webhooks::receiver::{Answer, Receiver};
use crate::webhooks::schedule::ATTEMPTS_MAX;

const PATIENCE: Duration = Duration::from_secs(30);

/// A service that may call this machine.
async fn service() -> Service {
    service_with(|_| {}).await
}

async fn service_with(change: impl FnOnce(&mut Config)) -> Service {
    Service::start_with(|config| {
        config.webhook_allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
        config.webhook_http_hosts = vec!["127.0.0.1".to_owned()];
        config.webhook_timeout = 60;
        change(config);
    })
    .await
}

async fn webhook(service: &Service, owner: &Account, receiver: &Receiver) -> WebhookSecret {
    let key = uuid::Uuid::new_v4().to_string();
    let request = service.post(owner, "/v1/webhooks", &json!({"url": receiver.url})).header("Idempotency-Key", key);
    answer(request, StatusCode::CREATED).await
}

async fn test(service: &Service, owner: &Account, id: WebhookId) -> WebhookDelivery {
    answer(service.post(owner, &format!("/v1/webhooks/{id}/test"), &json!(null)), StatusCode::ACCEPTED).await
}

async fn read(service: &Service, owner: &Account, id: WebhookId) -> Webhook {
    answer(service.get(owner, &format!("/v1/webhooks/{id}")), StatusCode::OK).await
}

/// Waits until the only event of a webhook is as wanted.
async fn until(service: &Service, owner: &Account, id: WebhookId, wanted: impl Fn(&WebhookDelivery) -> bool) -> WebhookDelivery {
    let begun = Instant::now();
    loop {
        let page: Page<WebhookDelivery> =
            answer(service.get(owner, &format!("/v1/webhooks/{id}/deliveries?limit=1")), StatusCode::OK).await;
        match page.items.into_iter().next() {
            Some(delivery) if wanted(&delivery) => return delivery,
            other => assert!(begun.elapsed() < PATIENCE, "it is {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All pauses are over.
async fn pass_pauses(service: &Service) {
    service.state.store.tamper("UPDATE outbox SET due_at = now() WHERE state = 'pending' AND claim IS NULL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_sent_until_it_is_taken_with_the_same_id_and_a_signature_that_others_verify() {
    let (service, receiver) = (service().await, Receiver::start(Answer::Status(500)).await);
    let anna = service.account("anna", Role::User).await;
    let made = webhook(&service, &anna, &receiver).await;
    let sending = tokio::spawn(run(service.state.clone()));
    let sent = test(&service, &anna, made.webhook.id).await;
    assert_eq!((sent.state, sent.attempts), (WebhookDeliveryState::Pending, 0));
    let failed = until(&service, &anna, made.webhook.id, |delivery| delivery.attempts == 1).await;
    assert_eq!(
        (failed.state, failed.last_status, failed.last_failure),
        (WebhookDeliveryState::Pending, Some(500), Some(WebhookFailure::Status))
    );
    assert!(failed.due_at.unwrap() > failed.occurred_at + Duration::from_secs(3), "{failed:?}");
    assert!(read(&service, &anna, made.webhook.id).await.failing_since.is_some());
    receiver.answers(Answer::Status(204));
    pass_pauses(&service).await;
    let taken = until(&service, &anna, made.webhook.id, |delivery| delivery.state == WebhookDeliveryState::Delivered).await;
    assert_eq!((taken.attempts, taken.last_status, taken.last_failure), (2, Some(204), None));
    let received = receiver.received();
    assert_eq!(received.len(), 2);
    for attempt in &received {
        assert_eq!(attempt.headers["webhook-id"], sent.event_id.to_string());
        assert_eq!((attempt.signed_by(&made.secret), attempt.headers["webhook-signature"].split(' ').count()), (1, 1));
        assert_eq!(attempt.body, received[0].body);
        let body: Value = serde_json::from_slice(&attempt.body).unwrap();
        assert_eq!((&body["type"], &body["data"]), (&json!("webhook.test"), &json!({"webhook_id": made.webhook.id})));
        assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(read(&service, &anna, made.webhook.id).await.failing_since, None);
    service.stop.send_replace(true);
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_attempt_it_is_a_dead_letter_that_its_owner_sees_and_sends_again() {
    let (service, receiver) = (service().await, Receiver::start(Answer::Status(404)).await);
    let (anna, bert) = (service.account("anna", Role::User).await, service.account("bert", Role::User).await);
    let id = webhook(&service, &anna, &receiver).await.webhook.id;
    let sent = test(&service, &anna, id).await;
    let before = i64::from(ATTEMPTS_MAX) - 2;
    assert_eq!(before, 11, "the statement says so, too");
    service.state.store.tamper("UPDATE outbox SET attempts = 11").await;
    let sending = tokio::spawn(run(service.state.clone()));
    let waits = until(&service, &anna, id, |delivery| i64::from(delivery.attempts) == before + 1).await;
    assert_eq!(waits.state, WebhookDeliveryState::Pending, "one is left");
    pass_pauses(&service).await;
    let dead = until(&service, &anna, id, |delivery| delivery.state == WebhookDeliveryState::Dead).await;
    assert_eq!((dead.attempts, dead.last_status, dead.due_at), (ATTEMPTS_MAX, Some(404), None));
    assert_eq!(read(&service, &anna, id).await.dead, 1);
    super::count(&service.state, crate::clock::now()).await.unwrap();
    let metrics = service.request(reqwest::Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    for gauge in ["spillway_webhook_dead_letters ", "spillway_webhook_oldest_due_age ", "spillway_webhook_pending "] {
        assert!(metrics.lines().any(|line| line.starts_with(gauge)), "no {gauge}");
    }
    receiver.answers(Answer::Status(200));
    let path = format!("/v1/webhooks/{id}/deliveries/{}/retry", sent.id);
    refused(service.post(&bert, &path, &json!(null)), ErrorCode::NotFound).await;
    let again: WebhookDelivery = answer(service.post(&anna, &path, &json!(null)), StatusCode::ACCEPTED).await;
    assert_eq!((again.state, again.event_id), (WebhookDeliveryState::Pending, sent.event_id));
    until(&service, &anna, id, |delivery| delivery.state == WebhookDeliveryState::Delivered).await;
    refused(service.post(&anna, &path, &json!(null)), ErrorCode::Conflict).await;
    let ids: Vec<String> = receiver.received().iter().map(|received| received.headers["webhook-id"].clone()).collect();
    assert_eq!(ids, vec![sent.event_id.to_string(); 3]);
    service.stop.send_replace(true);
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_answers_gone_is_asked_no_more() {
    let (service, receiver) = (service().await, Receiver::start(Answer::Status(410)).await);
    let anna = service.account("anna", Role::User).await;
    let id = webhook(&service, &anna, &receiver).await.webhook.id;
    test(&service, &anna, id).await;
    let sending = tokio::spawn(run(service.state.clone()));
    let dead = until(&service, &anna, id, |delivery| delivery.state == WebhookDeliveryState::Dead).await;
    assert_eq!((dead.attempts, dead.last_status), (1, Some(410)));
    let seen = read(&service, &anna, id).await;
    assert_eq!((seen.enabled, seen.disabled_reason), (false, Some(DisabledReason::Gone)));
    refused(service.post(&anna, &format!("/v1/webhooks/{id}/test"), &json!(null)), ErrorCode::Conflict).await;
    service.stop.send_replace(true);
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_never_answers_holds_up_nobody_else() {
    let service = service().await;
    let (slow, quick) = (Receiver::start(Answer::Nothing).await, Receiver::start(Answer::Status(200)).await);
    let (anna, bert) = (service.account("anna", Role::User).await, service.account("bert", Role::User).await);
    let (held_up, other) = (webhook(&service, &anna, &slow).await.webhook.id, webhook(&service, &bert, &quick).await.webhook.id);
    // More than could be sent at once, all of them earlier than the other's.
    for _ in 0..2 * super::AT_ONCE {
        test(&service, &anna, held_up).await;
        service.state.store.tamper("UPDATE outbox SET kind = 'voucher.redeemed', due_at = now() - interval '1 hour'").await;
    }
    let sending = tokio::spawn(run(service.state.clone()));
    slow.until(PER_OWNER as usize).await;
    test(&service, &bert, other).await;
    until(&service, &bert, other, |delivery| delivery.state == WebhookDeliveryState::Delivered).await;
    assert_eq!((slow.most_open(), slow.connections()), (PER_OWNER as usize, PER_OWNER as usize));
    service.stop.send_replace(true);
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_has_an_end_although_nobody_answers() {
    let service = service_with(|config| config.webhook_timeout = 1).await;
    let receiver = Receiver::start(Answer::Nothing).await;
    let anna = service.account("anna", Role::User).await;
    let id = webhook(&service, &anna, &receiver).await.webhook.id;
    test(&service, &anna, id).await;
    let sending = tokio::spawn(run(service.state.clone()));
    let failed = until(&service, &anna, id, |delivery| delivery.attempts == 1).await;
    assert_eq!((failed.last_failure, failed.last_status), (Some(WebhookFailure::Timeout), None));
    service.stop.send_replace(true);
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_stopped_gives_back_what_it_is_sending_and_another_one_sends_it() {
    let (service, receiver) = (service().await, Receiver::start(Answer::Nothing).await);
    let anna = service.account("anna", Role::User).await;
    let id = webhook(&service, &anna, &receiver).await.webhook.id;
    let sent = test(&service, &anna, id).await;
    let mut stopped = service.state.clone();
    let (stop, stopping) = tokio::sync::watch::channel(false);
    stopped.stopping = stopping;
    let first = tokio::spawn(run(stopped));
    receiver.until(1).await;
    stop.send_replace(true);
    tokio::time::timeout(PATIENCE, first).await.expect("it does not stop").unwrap();
    let given_back: WebhookDelivery =
        answer(service.get(&anna, &format!("/v1/webhooks/{id}/deliveries/{}", sent.id)), StatusCode::OK).await;
    assert!(given_back.due_at.unwrap() <= crate::clock::now() && given_back.attempts == 0, "{given_back:?}");
    receiver.answers(Answer::Status(200));
    let second = tokio::spawn(run(service.state.clone()));
    until(&service, &anna, id, |delivery| delivery.state == WebhookDeliveryState::Delivered).await;
    let ids: Vec<String> = receiver.received().iter().map(|received| received.headers["webhook-id"].clone()).collect();
    assert_eq!(ids, vec![sent.event_id.to_string(); 2], "at least once");
    service.stop.send_replace(true);
    second.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_inside_is_not_called_and_its_owner_learns_nothing_of_it() {
    // The operator allows plain HTTP to the host, and not its network.
    let service = service_with(|config| config.webhook_allow_networks = vec!["127.0.0.2/32".parse().unwrap()]).await;
    let receiver = Receiver::start(Answer::Status(200)).await;
    let anna = service.account("anna", Role::User).await;
    let request = service.post(&anna, "/v1/webhooks", &json!({"url": receiver.url})).header("Idempotency-Key", "a");
    let problem = refused(request, ErrorCode::InvalidRequest).await;
    assert_eq!((problem.errors[0].pointer.as_str(), problem.errors[0].detail.as_str()), ("/url", "the address is not allowed"));
    // A name is not known before it is looked up.
    let body = json!({"url": format!("https://localhost:{}/", receiver.port)});
    let made: WebhookSecret = answer(service.post(&anna, "/v1/webhooks", &body).header("Idempotency-Key", "b"), StatusCode::CREATED).await;
    test(&service, &anna, made.webhook.id).await;
    let sending = tokio::spawn(run(service.state.clone()));
    let failed = until(&service, &anna, made.webhook.id, |delivery| delivery.attempts == 1).await;
    assert_eq!((failed.last_failure, failed.last_status), (Some(WebhookFailure::NotAllowed), None));
    let shown = serde_json::to_string(&failed).unwrap();
    assert!(!shown.contains("127.") && !shown.contains("::1"), "{shown}");
    assert_eq!(receiver.connections(), 0);
    service.stop.send_replace(true);
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_both_secrets_sign_and_a_secret_that_cannot_be_read_is_nobodys_fault() {
    let (service, receiver) = (service().await, Receiver::start(Answer::Status(200)).await);
    let anna = service.account("anna", Role::User).await;
    let made = webhook(&service, &anna, &receiver).await;
    let path = format!("/v1/webhooks/{}/rotate-secret", made.webhook.id);
    let rotate = || service.post(&anna, &path, &json!(null)).header("Idempotency-Key", "r");
    let rotated: WebhookSecret = answer(rotate(), StatusCode::OK).await;
    assert_ne!(rotated.secret, made.secret);
    assert_eq!(answer::<WebhookSecret>(rotate(), StatusCode::OK).await.secret, rotated.secret, "a repeat shows the same one");
    assert!(rotated.webhook.old_secret_until.is_some());
    test(&service, &anna, made.webhook.id).await;
    let sending = tokio::spawn(run(service.state.clone()));
    let [received] = receiver.until(1).await.try_into().unwrap();
    assert_eq!((received.signed_by(&rotated.secret), received.signed_by(&made.secret)), (1, 1));
    assert_eq!(received.headers["webhook-signature"].split(' ').count(), 2);
    until(&service, &anna, made.webhook.id, |delivery| delivery.state == WebhookDeliveryState::Delivered).await;
    service.stop.send_replace(true);
    sending.await.unwrap();

    // An instance whose key file is another one.
    let folder = tempfile::tempdir().unwrap();
    let mut other = service.state.clone();
    other.secrets = SecretsKey::open(&folder.path().join("key")).unwrap();
    let (stop, stopping) = tokio::sync::watch::channel(false);
    other.stopping = stopping;
    service.state.store.tamper("DELETE FROM outbox").await;
    test(&service, &anna, made.webhook.id).await;
    let sending = tokio::spawn(run(other));
    let failed = until(&service, &anna, made.webhook.id, |delivery| delivery.attempts == 1).await;
    assert_eq!(failed.last_failure, Some(WebhookFailure::Secret));
    assert_eq!((receiver.received().len(), read(&service, &anna, made.webhook.id).await.failing_since), (1, None));
    stop.send_replace(true);
    sending.await.unwrap();
}
