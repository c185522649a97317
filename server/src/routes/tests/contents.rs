//! Contents and editions: who sees them, and what a manifest says.

use protocol::ErrorCode::{Forbidden, NotFound};
use protocol::manifest::Manifest;
use protocol::rest::{Content, Edition, Page, Role};
use protocol::{Blake3, EditionId};
use reqwest::StatusCode;
use serde_json::json;

use super::market::schedule;
use super::{Service, answer, refused};

#[tokio::test(flavor = "multi_thread")]
async fn only_publishers_make_contents() {
    let service = Service::start().await;
    let user = service.account("anna", Role::User).await;
    refused(service.post(&user, "/v1/contents", &json!({"title": "A film"})), Forbidden).await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    assert_eq!((content.publisher_id, content.editions.len()), (publisher.user.id, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_is_seen_by_its_publisher_and_once_released_by_all() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let rival = service.account("rita", Role::Publisher).await;
    let operator = service.account("olga", Role::Operator).await;
    let content = service.content(&publisher).await;
    let edition = service.edition(&publisher, &content, "en", vec![7; 100_000]).await;
    let paths =
        [format!("/v1/contents/{}", content.id), format!("/v1/editions/{}", edition.id), format!("/v1/editions/{}/manifest", edition.id)];
    for path in &paths {
        refused(service.get(&rival, path), NotFound).await;
        for account in [&publisher, &operator] {
            assert_eq!(service.get(account, path).send().await.unwrap().status(), StatusCode::OK, "{path}");
        }
    }
    let listed: Page<Content> = answer(service.get(&rival, "/v1/contents"), StatusCode::OK).await;
    assert!(listed.items.is_empty());

    schedule(&service, &publisher, &content, &[&edition]).await;
    for path in &paths {
        assert_eq!(service.get(&rival, path).send().await.unwrap().status(), StatusCode::OK, "{path}");
    }
    let listed: Page<Content> = answer(service.get(&rival, "/v1/contents"), StatusCode::OK).await;
    assert_eq!(listed.items[0].editions, [edition]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edition_that_no_release_names_is_hidden_although_its_content_is_released() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let stranger = service.account("anna", Role::User).await;
    let operator = service.account("olga", Role::Operator).await;
    let (content, other) = (service.content(&publisher).await, service.content(&publisher).await);
    let named = service.edition(&publisher, &content, "en", vec![7; 100_000]).await;
    let secret = service.edition(&publisher, &content, "next", vec![8; 100_000]).await;
    // The same bytes elsewhere, in a content of which something else is released.
    let rest = service.edition(&publisher, &other, "rest", vec![9; 100_000]).await;
    assert_eq!(service.edition(&publisher, &other, "copy", vec![8; 100_000]).await.id, secret.id);
    schedule(&service, &publisher, &content, &[&named]).await;
    schedule(&service, &publisher, &other, &[&rest]).await;
    for path in [format!("/v1/editions/{}", secret.id), format!("/v1/editions/{}/manifest", secret.id)] {
        refused(service.get(&stranger, &path), NotFound).await;
        for account in [&publisher, &operator] {
            assert_eq!(service.get(account, &path).send().await.unwrap().status(), StatusCode::OK, "{path}");
        }
    }
    let path = format!("/v1/contents/{}", content.id);
    for (account, editions) in [(&stranger, vec![&named]), (&publisher, vec![&named, &secret]), (&operator, vec![&named, &secret])] {
        let seen: Content = answer(service.get(account, &path), StatusCode::OK).await;
        assert_eq!(seen.editions.iter().collect::<Vec<_>>(), editions);
        let listed: Page<Content> = answer(service.get(account, "/v1/contents"), StatusCode::OK).await;
        assert_eq!(listed.items.iter().find(|listed| listed.id == content.id), Some(&seen));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_the_editions_id_and_is_sent_once() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let edition = service.edition(&publisher, &content, "en", bytes.clone()).await;
    let path = format!("/v1/editions/{}/manifest", edition.id);
    let response = service.get(&publisher, &path).send().await.unwrap();
    let tag = response.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", edition.id));
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    let body = response.bytes().await.unwrap();
    let manifest = Manifest::decode(&body).unwrap();
    assert_eq!(EditionId(Blake3::of(&body).0), edition.id);
    assert_eq!((manifest.chunk_count(), manifest.length, manifest.blake3), (edition.chunks, edition.length, Blake3::of(&bytes)));
    let mut offset = 0;
    for chunk in &manifest.chunks {
        let end = offset + chunk.length as usize;
        let stored = service.state.chunks.chunk(chunk.hash).await.unwrap();
        assert!(stored == bytes[offset..end], "the chunk at {offset} is not what was sent");
        offset = end;
    }
    for known in [tag.as_str(), "*", &format!("\"x\", {tag}")] {
        let again = service.get(&publisher, &path).header("If-None-Match", known).send().await.unwrap();
        assert_eq!((again.status(), again.headers()["etag"].to_str().unwrap()), (StatusCode::NOT_MODIFIED, tag.as_str()));
        assert!(again.bytes().await.unwrap().is_empty());
    }
    let other = service.get(&publisher, &path).header("If-None-Match", "\"x\"").send().await.unwrap();
    assert_eq!(other.status(), StatusCode::OK);
    refused(service.get(&publisher, &format!("/v1/editions/{}", EditionId([0; 32]))), NotFound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_files_of_two_publishers_are_one_edition_under_two_labels() {
    let service = Service::start().await;
    let (paul, rita) = (service.account("paul", Role::Publisher).await, service.account("rita", Role::Publisher).await);
    let (of_paul, of_rita) = (service.content(&paul).await, service.content(&rita).await);
    let first = service.edition(&paul, &of_paul, "en", vec![1; 1000]).await;
    let second = service.edition(&rita, &of_rita, "english", vec![1; 1000]).await;
    assert_eq!(first.id, second.id);
    for (account, label) in [(&paul, "en"), (&rita, "english")] {
        let seen: Edition = answer(service.get(account, &format!("/v1/editions/{}", first.id)), StatusCode::OK).await;
        assert_eq!(seen.label, label);
    }
}
