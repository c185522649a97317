//! The client against a listener on loopback: what is sent, what is repeated, and what an answer becomes.

use std::sync::atomic::{AtomicU32, Ordering};

use protocol::manifest::{ChunkEntry, FileEntry, Manifest};
use protocol::rest::*;
use protocol::*;
use time::OffsetDateTime;

use super::*;
use crate::testing::http::{Answer, Listener};

fn api(listener: &Listener) -> Api {
    Api::new(&listener.address).unwrap().with_tokens(Arc::new(FixedToken("token-1".into())))
}

fn wallet() -> Wallet {
    let money = |amount| Money { amount: Amount(amount), currency: Currency::EUR };
    Wallet { available: money(5), held: money(1), publisher_balance: None }
}

fn redeemed() -> WalletEntry {
    let signed = |amount| SignedMoney { amount, currency: Currency::EUR };
    WalletEntry {
        transfer_id: TransferId::from_bytes([1; 16]),
        kind: TransferKind::VoucherRedemption,
        amount: signed(5),
        balance: signed(6),
        version: 1,
        delivery_id: None,
        created_at: OffsetDateTime::UNIX_EPOCH,
    }
}

fn tokens(access: &str, refresh: &str) -> Tokens {
    Tokens { access_token: access.into(), refresh_token: refresh.into(), token_type: "Bearer".into(), expires_in: 900 }
}

fn manifest() -> Manifest {
    Manifest {
        directory: false,
        length: Bytes(3),
        blake3: Blake3::of(b"abc"),
        files: vec![FileEntry { path: "abc.txt".into(), length: Bytes(3), executable: false }],
        chunks: vec![ChunkEntry { length: 3, hash: Blake3::of(b"abc") }],
    }
}

#[tokio::test]
async fn a_call_carries_the_token_and_its_answer_is_read() {
    let listener = Listener::start(|_, _| Answer::json(200, &wallet())).await;
    assert_eq!(api(&listener).wallet().await.unwrap(), wallet());
    let request = &listener.requests()[0];
    assert_eq!(request.line, "GET /v1/wallet");
    assert_eq!(request.headers["authorization"], "Bearer token-1");
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_its_pointers() {
    let listener = Listener::start(|_, _| {
        let mut problem = Problem::new(ErrorCode::BelowReserve, RequestId::from_bytes([1; 16]));
        problem.errors.push(protocol::error::ProblemError { pointer: "/maximum".into(), detail: "at least 100".into() });
        Answer::json(422, &problem)
    })
    .await;
    let error = api(&listener).wallet().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::BelowReserve));
    assert_eq!(error.to_string(), "The maximum price is below the reserve; /maximum: at least 100");
    assert!(!error.is_retryable());
    assert_eq!(listener.requests().len(), 1, "a refusal is not repeated");
}

#[tokio::test]
async fn an_answer_that_is_no_problem_document_keeps_its_status() {
    let listener = Listener::start(|_, _| Answer::Full { status: 418, headers: vec![], body: b"<html>".to_vec() }).await;
    assert!(matches!(api(&listener).wallet().await.unwrap_err(), ApiError::Status { status: 418 }));
    let listener = Listener::start(|_, _| Answer::bytes("not json")).await;
    assert!(matches!(api(&listener).wallet().await.unwrap_err(), ApiError::Answer(_)));
}

#[tokio::test]
async fn a_server_that_is_away_is_a_network_error() {
    // Bound, so that no other process gets the port, and not listening.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let error = Api::new(&format!("http://{}", bound.local_addr().unwrap()))
        .unwrap()
        .create_session(&Login { email: "a@b.c".into(), password: Password("12345678".into()) })
        .await;
    assert!(matches!(error.unwrap_err(), ApiError::Network { .. }));
}

#[tokio::test]
async fn one_idempotency_key_lasts_over_lost_answers_busy_keys_and_restarts_and_no_longer() {
    let listener = Listener::start(|index, _| match index {
        0 => Answer::Hangup,
        1 => Answer::problem(ErrorCode::Unavailable),
        2 => Answer::problem(ErrorCode::IdempotencyKeyBusy),
        3 => Answer::Cut { announced: 100, body: b"{".to_vec() },
        _ => Answer::json(201, &redeemed()),
    })
    .await;
    let api = api(&listener);
    let redemption = Redemption { code: "ABC".into() };
    assert_eq!(api.redeem_voucher(&redemption).await.unwrap(), redeemed());
    let keys: Vec<String> = listener.requests().iter().map(|request| request.headers["idempotency-key"].clone()).collect();
    assert_eq!(keys.len(), 5);
    assert!(keys.iter().all(|key| *key == keys[0]));
    api.redeem_voucher(&redemption).await.unwrap();
    assert_ne!(listener.requests()[5].headers["idempotency-key"], keys[0], "another call is another payment");
}

#[tokio::test]
async fn what_may_have_been_done_and_is_not_keyed_is_not_repeated() {
    let listener = Listener::start(|_, _| Answer::Hangup).await;
    let error = api(&listener).create_content(&NewContent { title: "x".into() }).await.unwrap_err();
    assert!(matches!(error, ApiError::Network { unreached: false, .. }));
    assert_eq!(listener.requests().len(), 1);
}

#[tokio::test]
async fn a_long_retry_after_is_left_to_the_caller_and_a_short_one_is_waited_for() {
    let listener = Listener::start(|_, _| Answer::problem(ErrorCode::TooManyRequests).header("retry-after", "60")).await;
    assert_eq!(api(&listener).wallet().await.unwrap_err().code(), Some(ErrorCode::TooManyRequests));
    assert_eq!(listener.requests().len(), 1);
    let listener = Listener::start(|index, _| match index {
        0 => Answer::problem(ErrorCode::TooManyRequests).header("retry-after", "0"),
        _ => Answer::json(200, &wallet()),
    })
    .await;
    api(&listener).wallet().await.unwrap();
}

#[tokio::test]
async fn a_refused_token_is_renewed_once_and_stored() {
    let listener = Listener::start(|_, request| match request.line.as_str() {
        "POST /v1/sessions/refresh" => Answer::json(200, &tokens("new", "refresh-2")),
        _ if request.headers["authorization"] == "Bearer new" => Answer::json(200, &wallet()),
        _ => Answer::problem(ErrorCode::Unauthenticated),
    })
    .await;
    let bare = Api::new(&listener.address).unwrap();
    let stored = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = Arc::clone(&stored);
    let session = Session::new(&bare, tokens("old", "refresh-1"), move |tokens| {
        log.lock().unwrap().push(tokens.refresh_token.clone());
        Ok(())
    });
    let api = bare.with_tokens(Arc::new(session));
    let (first, second) = tokio::join!(api.wallet(), api.wallet());
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(*stored.lock().unwrap(), ["refresh-2"], "two callers share one renewal");
}

#[tokio::test]
async fn a_session_that_is_over_says_so_and_is_not_hammered() {
    let listener = Listener::start(|_, request| match request.line.as_str() {
        "POST /v1/sessions/refresh" => Answer::problem(ErrorCode::RefreshTokenReused),
        _ => Answer::problem(ErrorCode::Unauthenticated),
    })
    .await;
    let bare = Api::new(&listener.address).unwrap();
    let api = bare.with_tokens(Arc::new(Session::new(&bare, tokens("old", "refresh"), |_| Ok(()))));
    let error = api.wallet().await.unwrap_err();
    assert!(
        matches!(&error, ApiError::Token(token) if matches!(&**token, TokenError::Renewal(cause) if cause.code() == Some(ErrorCode::RefreshTokenReused)))
    );
    assert!(!error.is_retryable());
    assert_eq!(listener.requests().len(), 2);
}

#[tokio::test]
async fn a_manifest_is_taken_only_if_its_hash_is_the_edition() {
    let manifest = manifest();
    let (id, bytes) = (manifest.edition_id(), manifest.encode());
    let listener = Listener::start(move |index, _| match index {
        0 => Answer::bytes(bytes.clone()),
        _ => Answer::bytes([&bytes[..bytes.len() - 1], b"x"].concat()),
    })
    .await;
    assert_eq!(api(&listener).manifest(id).await.unwrap(), manifest);
    assert!(matches!(api(&listener).manifest(id).await.unwrap_err(), ApiError::WrongBytes));
}

#[tokio::test]
async fn a_chunk_from_the_origin_is_neither_longer_nor_shorter_than_asked() {
    let listener = Listener::start(|index, _| match index {
        0 => Answer::bytes("abc"),
        1 => Answer::bytes("abcd"),
        2 => Answer::bytes("ab"),
        3 => Answer::Cut { announced: 3, body: b"ab".to_vec() },
        _ => Answer::problem(ErrorCode::NoLease),
    })
    .await;
    let (api, swarm, me) = (api(&listener), SwarmId::from_bytes([1; 16]), TerminalId::from_bytes([2; 16]));
    assert_eq!(&api.origin_chunk(swarm, 7, me, 3).await.unwrap()[..], b"abc");
    assert!(matches!(api.origin_chunk(swarm, 7, me, 3).await.unwrap_err(), ApiError::WrongBytes));
    assert!(matches!(api.origin_chunk(swarm, 7, me, 3).await.unwrap_err(), ApiError::WrongBytes));
    assert!(matches!(api.origin_chunk(swarm, 7, me, 3).await.unwrap_err(), ApiError::Network { .. }));
    assert_eq!(api.origin_chunk(swarm, 7, me, 3).await.unwrap_err().code(), Some(ErrorCode::NoLease));
    let request = &listener.requests()[0];
    assert_eq!(request.line, format!("GET /v1/swarms/{swarm}/chunks/7"));
    assert_eq!(request.headers["spillway-terminal"], me.to_string());
}

fn upload(length: u64) -> Upload {
    Upload { id: UploadId::from_bytes([3; 16]), content_id: ContentId::from_bytes([4; 16]), label: "en".into(), length: Bytes(length) }
}

fn edition() -> Edition {
    Edition {
        id: EditionId([1; 32]),
        label: "en".into(),
        directory: false,
        length: Bytes(200_000),
        chunks: 4,
        blake3: Blake3([2; 32]),
        created_at: OffsetDateTime::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn an_upload_streams_its_exact_length_and_tells_how_far_it_is() {
    let listener = Listener::start(|_, _| Answer::json(201, &edition())).await;
    let content: Vec<u8> = (0..200_000u32).map(|index| index.to_le_bytes()[0]).collect();
    let told = Arc::new(AtomicU32::new(0));
    let last = Arc::clone(&told);
    let progress = move |sent: Bytes| last.store(u32::try_from(sent.0).unwrap(), Ordering::Relaxed);
    let answer = api(&listener).upload_bytes(&upload(200_000), std::io::Cursor::new(content.clone()), progress).await.unwrap();
    assert_eq!(answer, edition());
    let request = &listener.requests()[0];
    assert_eq!(request.line, format!("PUT /v1/uploads/{}", upload(0).id));
    assert_eq!(request.headers["content-length"], "200000");
    assert!(request.body == content);
    assert_eq!(told.load(Ordering::Relaxed), 200_000);
}

#[tokio::test]
async fn a_source_that_is_not_as_long_as_announced_breaks_the_upload() {
    let listener = Listener::start(|_, _| Answer::json(201, &edition())).await;
    for length in [199_999, 200_001] {
        let error = api(&listener).upload_bytes(&upload(length), std::io::Cursor::new(vec![0; 200_000]), |_| ()).await.unwrap_err();
        assert!(matches!(error, ApiError::Source(_)), "{error:?}");
    }
    assert!(listener.requests().iter().all(|request| request.body.len() < 200_000), "the last piece never went out");
}

#[tokio::test]
async fn a_refused_upload_says_why() {
    let listener = Listener::start(|_, _| Answer::problem(ErrorCode::Conflict)).await;
    let error = api(&listener).upload_bytes(&upload(10), std::io::Cursor::new(vec![0; 10]), |_| ()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Conflict));
}

#[tokio::test]
async fn a_change_names_the_version_that_it_is_based_on() {
    let listener = Listener::start(|_, _| Answer::problem(ErrorCode::PreconditionFailed)).await;
    let change =
        ChangeApplication { edition_id: EditionId([1; 32]), rank: 1, maximum: Money { amount: Amount(1), currency: Currency::EUR } };
    let error = api(&listener).change_application(ApplicationId::from_bytes([5; 16]), 3, &change).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::PreconditionFailed));
    assert_eq!(listener.requests()[0].headers["if-match"], "\"3\"");
}
