//! How editions get in, and how they do not.

use std::time::Duration;

use protocol::ErrorCode::{Conflict, EmptyEdition, Forbidden, InvalidRequest, NotFound};
use protocol::manifest::Manifest;
use protocol::rest::{Content, Edition, Role, Upload};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::{Account, Service, answer, pointers, refused};

fn announce(service: &Service, publisher: &Account, content: &Content, body: &Value) -> RequestBuilder {
    service.post(publisher, &format!("/v1/contents/{}/uploads", content.id), body)
}

fn send(service: &Service, publisher: &Account, upload: &Upload) -> RequestBuilder {
    service.request(Method::PUT, &format!("/v1/uploads/{}", upload.id)).bearer_auth(&publisher.tokens.access_token)
}

async fn editions(service: &Service, publisher: &Account, content: &Content) -> Vec<Edition> {
    answer::<Content>(service.get(publisher, &format!("/v1/contents/{}", content.id)), StatusCode::OK).await.editions
}

/// A body without a stated length, in pieces.
fn pieces(bytes: &[u8]) -> reqwest::Body {
    let pieces: Vec<_> = bytes.chunks(10_000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    reqwest::Body::wrap_stream(futures_util::stream::iter(pieces))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_sent_as_one_stream_and_keeps_its_layout() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    let body = json!({"label": "en", "directory": true, "chunking": "fixed", "files": [
        {"path": "bin/tool", "length": 70_000, "executable": true}, {"path": "empty", "length": 0}, {"path": "lib/été", "length": 30_000}]});
    let upload: Upload = answer(announce(&service, &publisher, &content, &body), StatusCode::CREATED).await;
    assert_eq!(upload.length.0, 100_000);
    let edition: Edition = answer(send(&service, &publisher, &upload).body(pieces(&[5; 100_000])), StatusCode::CREATED).await;
    assert_eq!((edition.chunks, edition.length.0, edition.directory, edition.label.as_str()), (2, 100_000, true, "en"));
    let bytes = service.get(&publisher, &format!("/v1/editions/{}/manifest", edition.id)).send().await.unwrap().bytes().await.unwrap();
    let manifest = Manifest::decode(&bytes).unwrap();
    assert_eq!(
        manifest.files.iter().map(|file| (file.path.as_str(), file.executable)).collect::<Vec<_>>(),
        [("bin/tool", true), ("empty", false), ("lib/été", false)]
    );
    assert_eq!(manifest.chunks[0].length, 65_536);
    assert_eq!(editions(&service, &publisher, &content).await, [edition]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_length_than_the_announced_one_makes_no_edition_and_may_be_corrected() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    let body = json!({"label": "en", "files": [{"path": "film", "length": 300_000}]});
    let upload: Upload = answer(announce(&service, &publisher, &content, &body), StatusCode::CREATED).await;
    for length in [299_999, 300_001] {
        let stated = refused(send(&service, &publisher, &upload).body(vec![1; length]), InvalidRequest).await;
        assert_eq!(pointers(&stated), ["header/Content-Length"]);
    }
    for length in [0, 299_999, 300_001] {
        let sent = refused(send(&service, &publisher, &upload).body(pieces(&vec![1; length])), InvalidRequest).await;
        assert!(sent.detail.unwrap().contains("300000 announced"));
    }
    assert!(editions(&service, &publisher, &content).await.is_empty());
    let _: Edition = answer(send(&service, &publisher, &upload).body(vec![1; 300_000]), StatusCode::CREATED).await;
    refused(send(&service, &publisher, &upload).body(vec![1; 300_000]), NotFound).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_the_middle_leaves_no_edition_and_may_come_back() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    let bytes: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let body = json!({"label": "en", "files": [{"path": "film", "length": bytes.len()}]});
    let upload: Upload = answer(announce(&service, &publisher, &content, &body), StatusCode::CREATED).await;
    let (half, length) = (bytes[..1_000_000].to_vec(), bytes.len());
    // Half of the bytes, then the connection breaks.
    let broken = futures_util::stream::iter([Ok(half), Err(std::io::Error::other("the cable was pulled"))]);
    let request = send(&service, &publisher, &upload).header("Content-Length", length).body(reqwest::Body::wrap_stream(broken));
    assert!(request.send().await.is_err());
    assert!(editions(&service, &publisher, &content).await.is_empty());
    let edition: Edition = answer(send(&service, &publisher, &upload).body(bytes), StatusCode::CREATED).await;
    assert_eq!(editions(&service, &publisher, &content).await, [edition]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_clients_that_send_the_same_upload_one_makes_the_edition() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    let body = json!({"label": "en", "files": [{"path": "film", "length": 400_000}]});
    let upload: Upload = answer(announce(&service, &publisher, &content, &body), StatusCode::CREATED).await;
    let both = tokio::join!(
        send(&service, &publisher, &upload).body(vec![1; 400_000]).send(),
        send(&service, &publisher, &upload).body(vec![1; 400_000]).send()
    );
    let mut statuses = [both.0.unwrap().status(), both.1.unwrap().status()];
    statuses.sort_unstable();
    assert_eq!(statuses[0], StatusCode::CREATED);
    assert!([StatusCode::CONFLICT, StatusCode::NOT_FOUND].contains(&statuses[1]), "{statuses:?}");
    assert_eq!(editions(&service, &publisher, &content).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_that_cannot_be_is_refused() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    for (files, pointer) in [
        (json!([{"path": "../../etc/passwd", "length": 1}]), "/files/0/path"),
        (json!([{"path": "/etc/passwd", "length": 1}]), "/files/0/path"),
        (json!([{"path": "a\u{0}b", "length": 1}]), "/files/0/path"),
        (json!([{"path": "a", "length": 1}, {"path": "b", "length": 1}]), "/files"),
        (json!([]), "/files"),
        (json!([{"path": "a", "length": -1}]), "/files/0/length"),
        (json!([{"path": "a", "length": 1, "mode": 7}]), "/files/0/mode"),
    ] {
        let body = json!({"label": "en", "files": files});
        let fault = refused(announce(&service, &publisher, &content, &body), InvalidRequest).await;
        assert_eq!(pointers(&fault), [pointer], "{body}");
    }
    let empty = json!({"label": "en", "directory": true, "files": [{"path": "a", "length": 0}]});
    refused(announce(&service, &publisher, &content, &empty), EmptyEdition).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_files_can_be_announced() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    let file = |index: usize| json!({"path": format!("folder/{}/a file with a rather common name {index}.txt", index / 1000), "length": 1});
    let body = json!({"label": "en", "directory": true, "files": (0..100_000).map(file).collect::<Vec<_>>()});
    let upload: Upload = answer(announce(&service, &publisher, &content, &body), StatusCode::CREATED).await;
    let edition: Edition = answer(send(&service, &publisher, &upload).body(vec![0; 100_000]), StatusCode::CREATED).await;
    assert_eq!(edition.length.0, 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_and_an_edition_stand_once_in_a_content() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    let body = |label: &str| json!({"label": label, "files": [{"path": "film.bin", "length": 1000}]});
    let upload = |label: &'static str| answer::<Upload>(announce(&service, &publisher, &content, &body(label)), StatusCode::CREATED);
    let (first, second, third) = (upload("en").await, upload("en").await, upload("fr").await);
    let _: Edition = answer(send(&service, &publisher, &first).body(vec![1; 1000]), StatusCode::CREATED).await;
    refused(announce(&service, &publisher, &content, &body("en")), Conflict).await;
    refused(send(&service, &publisher, &second).body(vec![2; 1000]), Conflict).await;
    refused(send(&service, &publisher, &third).body(vec![1; 1000]), Conflict).await;
    let _: Edition = answer(send(&service, &publisher, &third).body(vec![3; 1000]), StatusCode::CREATED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_uploads_into_anothers_content() {
    let service = Service::start().await;
    let (paul, rita) = (service.account("paul", Role::Publisher).await, service.account("rita", Role::Publisher).await);
    let user = service.account("anna", Role::User).await;
    let content = service.content(&paul).await;
    let body = json!({"label": "en", "files": [{"path": "film", "length": 10}]});
    refused(announce(&service, &rita, &content, &body), NotFound).await;
    refused(announce(&service, &user, &content, &body), Forbidden).await;
    let upload: Upload = answer(announce(&service, &paul, &content, &body), StatusCode::CREATED).await;
    refused(send(&service, &rita, &upload).body(vec![1; 10]), NotFound).await;
    refused(send(&service, &user, &upload).body(vec![1; 10]), Forbidden).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_stores_only_what_changed() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    let old: Vec<u8> = (0..1_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut new = old.clone();
    new.splice(2_000_000..2_000_000, *b"a few bytes more");
    let first = service.edition(&publisher, &content, "1.0", old).await;
    let second = service.edition(&publisher, &content, "1.1", new).await;
    let hashes = |edition: Edition| {
        let chunks = service.state.chunks.clone();
        async move {
            chunks.manifest(edition.id).await.unwrap().chunks.iter().map(|chunk| chunk.hash).collect::<std::collections::BTreeSet<_>>()
        }
    };
    let (first, second) = (hashes(first).await, hashes(second).await);
    let fresh = second.difference(&first).count();
    assert!(fresh <= 3, "{fresh} of {} chunks are new", second.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_upload_holds_up_nobody_else() {
    let service = Service::start().await;
    let publisher = service.account("paul", Role::Publisher).await;
    let content = service.content(&publisher).await;
    let body = json!({"label": "en", "files": [{"path": "film", "length": 1_000_000}]});
    let upload: Upload = answer(announce(&service, &publisher, &content, &body), StatusCode::CREATED).await;
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let stalled = tokio::spawn(send(&service, &publisher, &upload).body(reqwest::Body::wrap_stream(never)).send());
    let other = service.get(&publisher, "/v1/users/me").timeout(Duration::from_secs(5)).send().await.unwrap();
    assert_eq!(other.status(), StatusCode::OK);
    stalled.abort();
}
