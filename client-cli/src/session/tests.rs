//! Renewal against a listener that keeps the server's rule for refresh tokens: each is good for one use.

use super::*;
use protocol::UserId;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// An address that refuses connections for as long as the socket is kept: bound, so that no other process gets the port, and not listening.
pub(crate) fn nobody_listens() -> (String, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    (format!("http://{}", socket.local_addr().unwrap()), socket)
}

/// A request whose body is one JSON object.
pub(crate) async fn json_request(socket: &mut TcpStream) -> String {
    let mut request = String::new();
    while !request.ends_with('}') {
        let mut piece = [0; 4096];
        let read = socket.read(&mut piece).await.expect("a connection");
        assert!(read > 0, "the request ended early: {request}");
        request.push_str(std::str::from_utf8(&piece[..read]).expect("text"));
    }
    request
}

/// Answers `POST /v1/sessions/refresh`: `refresh-N` becomes `refresh-N+1` once; any other text is a token that was used before.
async fn rotating_server() -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let generation = Arc::new(AtomicU32::new(0));
    let current = Arc::clone(&generation);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let request = json_request(&mut socket).await;
            assert!(request.starts_with("POST /v1/sessions/refresh "), "{request}");
            let number = current.load(Ordering::SeqCst);
            let (status, body) = if request.ends_with(&format!("{{\"refresh_token\":\"refresh-{number}\"}}")) {
                current.store(number + 1, Ordering::SeqCst);
                let next = number + 1;
                (
                    "200 OK",
                    format!(
                        r#"{{"access_token":"access-{next}","refresh_token":"refresh-{next}","token_type":"Bearer","expires_in":900}}"#
                    ),
                )
            } else {
                let problem = protocol::Problem::new(protocol::ErrorCode::RefreshTokenReused, protocol::RequestId::from_bytes([1; 16]));
                ("401 Unauthorized", serde_json::to_string(&problem).unwrap())
            };
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            socket.write_all((head + &body).as_bytes()).await.unwrap();
        }
    });
    (server, generation)
}

fn account(server: &str, expires_in: Duration) -> Account {
    Account {
        server: server.to_owned(),
        email: "a@b.example".into(),
        user_id: UserId::from_bytes([1; 16]),
        access_token: "access-0".into(),
        access_expires_at: OffsetDateTime::now_utc() + expires_in,
        refresh_token: "refresh-0".into(),
    }
}

async fn folder_with(account: &Account) -> (tempfile::TempDir, Folder) {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::locate(Some(parent.path().to_owned())).unwrap();
    let lock = folder.lock().await.unwrap();
    folder.write_account(account, &lock).unwrap();
    (parent, folder)
}

/// As another process would have them: nothing shared but the folder.
fn tokens_of(folder: &Folder) -> FolderTokens {
    let account = folder.account().unwrap().unwrap();
    FolderTokens::new(folder.clone(), Api::new(&account.server).unwrap(), account)
}

#[tokio::test]
async fn a_token_that_lasts_is_used_without_asking_the_server() {
    let (_parent, folder) = folder_with(&account("http://127.0.0.1:1", Duration::minutes(10))).await;
    assert_eq!(tokens_of(&folder).access_token().await.unwrap(), "access-0");
}

#[tokio::test]
async fn processes_that_share_a_folder_renew_once_and_all_get_the_new_token() {
    let (server, generation) = rotating_server().await;
    let (_parent, folder) = folder_with(&account(&server, Duration::seconds(5))).await;
    let renewals: Vec<_> = (0..4)
        .map(|_| {
            let tokens = tokens_of(&folder);
            tokio::spawn(async move { tokens.access_token().await.unwrap() })
        })
        .collect();
    for renewal in renewals {
        assert_eq!(renewal.await.unwrap(), "access-1");
    }
    assert_eq!(generation.load(Ordering::SeqCst), 1);
    let stored = folder.account().unwrap().unwrap();
    assert_eq!((stored.access_token.as_str(), stored.refresh_token.as_str()), ("access-1", "refresh-1"));
    assert_eq!(tokens_of(&folder).access_token().await.unwrap(), "access-1");
}

#[tokio::test]
async fn a_refused_token_is_renewed_unless_another_process_has_done_so() {
    let (server, generation) = rotating_server().await;
    let (_parent, folder) = folder_with(&account(&server, Duration::minutes(10))).await;
    let (first, second) = (tokens_of(&folder), tokens_of(&folder));
    assert_eq!(first.renew("access-0").await.unwrap(), "access-1");
    assert_eq!(second.renew("access-0").await.unwrap(), "access-1");
    assert_eq!(generation.load(Ordering::SeqCst), 1);
    assert_eq!(second.renew("access-1").await.unwrap(), "access-2");
}

#[tokio::test]
async fn a_login_that_the_server_has_ended_is_told_as_such() {
    let (server, generation) = rotating_server().await;
    generation.store(7, Ordering::SeqCst);
    let (_parent, folder) = folder_with(&account(&server, Duration::ZERO)).await;
    let error = tokens_of(&folder).access_token().await.unwrap_err();
    let failure = Failure::from(ApiError::Token(Box::new(error)));
    assert_eq!(failure.exit_code(), 3);
    assert!(failure.to_string().contains("log in again"), "{failure}");
    assert_eq!(folder.account().unwrap().unwrap().refresh_token, "refresh-0", "nothing is thrown away");
}

#[tokio::test]
async fn another_users_login_is_not_taken_over_by_a_running_process() {
    let (_parent, folder) = folder_with(&account("http://127.0.0.1:1", Duration::ZERO)).await;
    let tokens = tokens_of(&folder);
    let lock = folder.lock().await.unwrap();
    let other = Account { user_id: UserId::from_bytes([2; 16]), ..account("http://127.0.0.1:1", Duration::minutes(10)) };
    folder.write_account(&other, &lock).unwrap();
    drop(lock);
    assert!(matches!(tokens.access_token().await, Err(TokenError::NotLoggedIn)));
}

#[tokio::test]
async fn a_server_that_is_away_is_told_as_such_and_costs_no_login() {
    let (away, _bound) = nobody_listens();
    let (_parent, folder) = folder_with(&account(&away, Duration::ZERO)).await;
    let error = tokens_of(&folder).access_token().await.unwrap_err();
    assert_eq!(Failure::from(ApiError::Token(Box::new(error))).exit_code(), 5);
}

#[tokio::test]
async fn an_empty_folder_says_how_to_log_in() {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::locate(Some(parent.path().to_owned())).unwrap();
    let failure = Login::from_folder(&folder).unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    assert!(failure.to_string().contains("spillway login"));
}
