//! Webhooks as their owners make, change and read them.

use protocol::ErrorCode;
use protocol::rest::{Page, Role, Webhook, WebhookDelivery, WebhookSecret};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::{Account, Service, answer, pointers, refused};

fn create(service: &Service, owner: &Account, body: &Value, key: &str) -> RequestBuilder {
    service.post(owner, "/v1/webhooks", body).header("Idempotency-Key", key)
}

fn patch(service: &Service, owner: &Account, path: &str, body: &Value) -> RequestBuilder {
    service.request(Method::PATCH, path).bearer_auth(&owner.tokens.access_token).json(body)
}

fn delete(service: &Service, owner: &Account, path: &str) -> RequestBuilder {
    service.request(Method::DELETE, path).bearer_auth(&owner.tokens.access_token)
}

async fn made(service: &Service, owner: &Account) -> WebhookSecret {
    answer(create(service, owner, &json!({"url": "https://example.org/a"}), &uuid::Uuid::new_v4().to_string()), StatusCode::CREATED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_to_who_makes_the_webhook_and_to_nobody_later() {
    let service = Service::start().await;
    let anna = service.account("anna", Role::User).await;
    let body = json!({"url": "https://example.org/a", "events": ["delivery.settled"], "description": "accounts"});
    refused(service.post(&anna, "/v1/webhooks", &body), ErrorCode::IdempotencyKeyRequired).await;
    let response = create(&service, &anna, &body, "a").send().await.unwrap();
    assert_eq!((response.status(), response.headers()["etag"].to_str().unwrap()), (StatusCode::CREATED, "\"1\""));
    let text = response.text().await.unwrap();
    assert!(!text.contains("wrapped"), "{text}");
    let made: WebhookSecret = serde_json::from_str(&text).unwrap();
    assert!(made.secret.starts_with("whsec_") && made.secret.len() == 6 + 44, "{}", made.secret.len());
    let again: WebhookSecret = answer(create(&service, &anna, &body, "a"), StatusCode::CREATED).await;
    assert_eq!(again, made, "who has not heard the answer asks again with the key");
    let other = json!({"url": "https://example.org/b"});
    refused(create(&service, &anna, &other, "a"), ErrorCode::IdempotencyKeyReused).await;

    let path = format!("/v1/webhooks/{}", made.webhook.id);
    for read in ["/v1/webhooks", &path] {
        let text = service.get(&anna, read).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("https://example.org/a") && !text.contains("secret") && !text.contains("wrapped"), "{text}");
    }
    let secret = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, &made.secret[6..]).unwrap();
    for stored in service.state.store.peek("SELECT secret FROM webhooks UNION ALL SELECT body::text::bytea FROM idempotency_keys").await {
        assert!(
            !stored.windows(secret.len()).any(|window| window == secret) && !stored.windows(44).any(|w| w == &made.secret.as_bytes()[6..])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_needs_the_tag_of_what_was_seen() {
    let service = Service::start().await;
    let anna = service.account("anna", Role::User).await;
    let id = made(&service, &anna).await.webhook.id;
    let path = format!("/v1/webhooks/{id}");
    let body = json!({"description": "new", "events": ["release.closed", "webhook.test"]});
    refused(patch(&service, &anna, &path, &body), ErrorCode::PreconditionRequired).await;
    for old in ["\"2\"", "W/\"1\"", "\"x\"", "\"4294967295\""] {
        refused(patch(&service, &anna, &path, &body).header("If-Match", old), ErrorCode::PreconditionFailed).await;
    }
    let changed = patch(&service, &anna, &path, &body).header("If-Match", "\"1\"").send().await.unwrap();
    assert_eq!((changed.status(), changed.headers()["etag"].to_str().unwrap()), (StatusCode::OK, "\"2\""));
    let changed: Webhook = changed.json().await.unwrap();
    assert_eq!((changed.description.as_str(), changed.url.as_str(), changed.events.len()), ("new", "https://example.org/a", 2));
    refused(patch(&service, &anna, &path, &body).header("If-Match", "\"1\""), ErrorCode::PreconditionFailed).await;
    let off: Webhook = answer(patch(&service, &anna, &path, &json!({"enabled": false})).header("If-Match", "*"), StatusCode::OK).await;
    assert_eq!((off.enabled, off.version, off.description), (false, 3, "new".to_owned()));
    let read = service.get(&anna, &path).send().await.unwrap();
    assert_eq!(read.headers()["etag"], "\"3\"");

    for (body, pointer) in [
        (json!({"url": "http://example.org"}), "/url"),
        (json!({"url": "https://user@example.org"}), "/url"),
        (json!({"url": "https://10.0.0.1"}), "/url"),
        (json!({"description": "x".repeat(201)}), "/description"),
        (json!({"events": ["release.close"]}), "/events/0"),
        (json!({"secret": "whsec_"}), "/secret"),
    ] {
        let problem = refused(patch(&service, &anna, &path, &body).header("If-Match", "\"3\""), ErrorCode::InvalidRequest).await;
        assert_eq!(pointers(&problem), [pointer]);
    }
    assert_eq!(pointers(&refused(create(&service, &anna, &json!({"url": "ftp://a"}), "x"), ErrorCode::InvalidRequest).await), ["/url"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_webhooks_do_not_exist() {
    let service = Service::start().await;
    let anna = service.account("anna", Role::User).await;
    let id = made(&service, &anna).await.webhook.id;
    let path = format!("/v1/webhooks/{id}");
    let test: WebhookDelivery = answer(service.post(&anna, &format!("{path}/test"), &json!(null)), StatusCode::ACCEPTED).await;
    let again: WebhookDelivery = answer(service.post(&anna, &format!("{path}/test"), &json!(null)), StatusCode::ACCEPTED).await;
    assert_eq!(test, again, "one that waits is enough");
    let one = format!("{path}/deliveries/{}", test.id);
    for stranger in [service.account("bert", Role::User).await, service.account("olga", Role::Operator).await] {
        for read in [&path, &format!("{path}/deliveries"), &one] {
            refused(service.get(&stranger, read), ErrorCode::NotFound).await;
        }
        for asked in [format!("{path}/test"), format!("{one}/retry")] {
            refused(service.post(&stranger, &asked, &json!(null)), ErrorCode::NotFound).await;
        }
        let rotate = service.post(&stranger, &format!("{path}/rotate-secret"), &json!(null)).header("Idempotency-Key", "r");
        refused(rotate, ErrorCode::NotFound).await;
        refused(patch(&service, &stranger, &path, &json!({"enabled": false})).header("If-Match", "*"), ErrorCode::NotFound).await;
        refused(delete(&service, &stranger, &path), ErrorCode::NotFound).await;
        assert!(answer::<Page<Webhook>>(service.get(&stranger, "/v1/webhooks"), StatusCode::OK).await.items.is_empty());
        // Nor does a delivery of another webhook, by way of an own one.
        let own = made(&service, &stranger).await.webhook.id;
        refused(service.get(&stranger, &format!("/v1/webhooks/{own}/deliveries/{}", test.id)), ErrorCode::NotFound).await;
        refused(service.post(&stranger, &format!("/v1/webhooks/{own}/deliveries/{}/retry", test.id), &json!(null)), ErrorCode::NotFound)
            .await;
    }
    assert_eq!(answer::<WebhookDelivery>(service.get(&anna, &one), StatusCode::OK).await, test);
    assert_eq!(delete(&service, &anna, &path).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    refused(delete(&service, &anna, &path), ErrorCode::NotFound).await;
    refused(service.get(&anna, &one), ErrorCode::NotFound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_read_page_by_page_and_by_their_state() {
    let service = Service::start().await;
    let anna = service.account("anna", Role::User).await;
    let path = format!("/v1/webhooks/{}/deliveries", made(&service, &anna).await.webhook.id);
    service
        .state
        .store
        .tamper(
            "INSERT INTO outbox (event_id, webhook_id, user_id, kind, data, occurred_at, due_at, state, ended_at)
             SELECT gen_random_uuid(), id, user_id, 'release.live', '{}', now(), now(), (ARRAY['pending', 'dead', 'delivered'])[1 + n % 3],
                 CASE WHEN n % 3 > 0 THEN now() END
             FROM webhooks, generate_series(0, 29) n ORDER BY n",
        )
        .await;
    let (mut seen, mut next) = (Vec::new(), Some(String::new()));
    while let Some(cursor) = next {
        let page: Page<WebhookDelivery> = answer(service.get(&anna, &format!("{path}?limit=7{cursor}")), StatusCode::OK).await;
        assert!(page.items.len() <= 7);
        seen.extend(page.items.into_iter().map(|delivery| delivery.id));
        next = page.next_cursor.map(|cursor| format!("&cursor={cursor}"));
    }
    let mut different = seen.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!((seen.len(), different.len()), (30, 30));
    for state in ["pending", "delivered", "dead"] {
        let page: Page<WebhookDelivery> = answer(service.get(&anna, &format!("{path}?state={state}")), StatusCode::OK).await;
        assert!(page.items.len() == 10 && page.items.iter().all(|delivery| delivery.state.as_str() == state));
    }
    let webhooks: Page<Webhook> = answer(service.get(&anna, "/v1/webhooks"), StatusCode::OK).await;
    assert_eq!((webhooks.items[0].pending, webhooks.items[0].dead), (10, 10));
    for (query, part) in [("state=lost", "query/state"), ("cursor=x", "query/cursor"), ("kind=x", "query/kind")] {
        assert_eq!(pointers(&refused(service.get(&anna, &format!("{path}?{query}")), ErrorCode::InvalidRequest).await), [part]);
    }
}
