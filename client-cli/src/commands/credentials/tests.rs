//! Against a listener that gives one answer after the other and keeps what it was asked.

use super::*;
use crate::folder::Account;
use crate::session::tests::{json_request, nobody_listens};
use protocol::rest::Password;
use protocol::{Problem, RequestId, UserId};
use time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The listener's address, and its requests once all `answers` (status and body) are given.
async fn server(answers: Vec<(&'static str, String)>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut requests = Vec::new();
        for (status, body) in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let request = json_request(&mut socket).await;
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            socket.write_all((head + &body).as_bytes()).await.unwrap();
            requests.push(request);
        }
        requests
    });
    (address, serving)
}

async fn folder_on(server: &str) -> (tempfile::TempDir, Folder) {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::locate(Some(parent.path().to_owned())).unwrap();
    let account = Account {
        server: server.to_owned(),
        email: "a@b.example".into(),
        user_id: UserId::from_bytes([1; 16]),
        access_token: "access-0".into(),
        access_expires_at: OffsetDateTime::now_utc() + Duration::minutes(10),
        refresh_token: "refresh-0".into(),
    };
    folder.write_account(&account, &folder.lock().await.unwrap()).unwrap();
    (parent, folder)
}

fn problem(code: ErrorCode) -> String {
    serde_json::to_string(&Problem::new(code, RequestId::from_bytes([1; 16]))).unwrap()
}

#[tokio::test]
async fn a_logout_ends_the_session_of_the_folders_refresh_token_and_forgets_it() {
    let (address, serving) = server(vec![("204 No Content", String::new())]).await;
    let (_parent, folder) = folder_on(&address).await;
    logout(&folder).await.unwrap();
    let requests = serving.await.unwrap();
    assert!(requests[0].starts_with("DELETE /v1/sessions ") && requests[0].contains("refresh-0"), "{requests:?}");
    assert_eq!(folder.account().unwrap(), None);
    assert_eq!(logout(&folder).await.unwrap_err().exit_code(), 3, "there is no login any more");
}

#[tokio::test]
async fn a_logout_that_the_server_did_not_hear_keeps_the_login() {
    let (away, _bound) = nobody_listens();
    let (_parent, folder) = folder_on(&away).await;
    assert_eq!(logout(&folder).await.unwrap_err().exit_code(), 5);
    assert_eq!(folder.account().unwrap().unwrap().refresh_token, "refresh-0");
}

async fn change(folder: &Folder) -> Outcome<Report> {
    replace_password(Login::from_folder(folder).unwrap(), Password("old one".into()), Password("new one".into()), folder).await
}

#[tokio::test]
async fn a_changed_password_is_logged_in_with_at_once() {
    let tokens = r#"{"access_token":"access-1","refresh_token":"refresh-1","token_type":"Bearer","expires_in":900}"#;
    let (address, serving) = server(vec![("204 No Content", String::new()), ("201 Created", tokens.into())]).await;
    let (_parent, folder) = folder_on(&address).await;
    change(&folder).await.unwrap();
    let requests = serving.await.unwrap();
    assert!(requests[0].starts_with("PUT /v1/users/me/password ") && requests[0].contains("old one"), "{requests:?}");
    assert!(requests[1].starts_with("POST /v1/sessions ") && requests[1].contains("new one"), "{requests:?}");
    let stored = folder.account().unwrap().unwrap();
    assert_eq!((stored.access_token.as_str(), stored.refresh_token.as_str()), ("access-1", "refresh-1"));
}

#[tokio::test]
async fn a_login_that_fails_after_the_change_says_that_the_password_is_changed() {
    let (address, serving) =
        server(vec![("204 No Content", String::new()), ("429 Too Many Requests", problem(ErrorCode::TooManyRequests))]).await;
    let (_parent, folder) = folder_on(&address).await;
    let failure = change(&folder).await.unwrap_err();
    serving.await.unwrap();
    assert_eq!(failure.exit_code(), 3);
    assert!(failure.to_string().contains("is changed") && failure.to_string().contains("spillway login"), "{failure}");
}

#[test]
fn a_wrong_present_password_is_not_taken_for_the_end_of_the_login() {
    let problem = |code| ApiError::Problem(Box::new(Problem::new(code, RequestId::from_bytes([1; 16]))));
    assert_eq!(refused(problem(ErrorCode::InvalidCredentials)).exit_code(), 4);
    assert_eq!(refused(problem(ErrorCode::Unauthenticated)).exit_code(), 3);
    assert_eq!(refused(problem(ErrorCode::InvalidRequest)).exit_code(), 4);
    assert_eq!(refused(ApiError::Timeout).exit_code(), 5);
}

#[tokio::test]
async fn a_folder_without_a_login_is_left_as_it_is() {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::locate(Some(parent.path().join("none"))).unwrap();
    assert_eq!(logout(&folder).await.unwrap_err().exit_code(), 3);
    assert_eq!(change_password(PasswordArguments { password_stdin: true }, &folder).await.unwrap_err().exit_code(), 3);
    assert!(!folder.path().exists());
}
