//! The API from outside: each test starts the whole service on a free port, with a database of its own, and talks HTTP to it.

mod auth;
mod contents;
mod documents;
mod inputs;
mod kits;
mod limits;
pub(crate) mod market;
mod quarantines;
mod sessions;
mod terminals;
mod uploads;
mod users;
mod webhooks;

use std::net::TcpListener;

use protocol::error::Problem;
use protocol::rest::{Content, Edition, Role, Terminal, Tokens, User};
use protocol::{Currency, ErrorCode, TerminalKey};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::config::{Config, IceServers};
use crate::serve::{self, Opened};
use crate::state::AppState;
use crate::store::testing::TestDatabase;

pub(crate) const PASSWORD: &str = "correct horse battery";

/// A running service. It stops, and its database goes, when this is dropped.
pub(crate) struct Service {
    pub(crate) state: AppState,
    pub(crate) base: String,
    client: reqwest::Client,
    server: actix_web::dev::ServerHandle,
    pub(crate) stop: tokio::sync::watch::Sender<bool>,
    _folder: tempfile::TempDir,
    _database: TestDatabase,
}

impl Drop for Service {
    fn drop(&mut self) {
        // Without waiting: the open connections belong to this very test.
        drop(self.server.stop(false));
    }
}

/// A logged-in user.
pub(crate) struct Account {
    pub(crate) user: User,
    pub(crate) tokens: Tokens,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let database = TestDatabase::create().await;
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let mut config = Config {
            listen,
            database_url: database.url().to_owned(),
            redis_url: std::env::var("REDIS_URL").expect("REDIS_URL names the Redis that the tests use"),
            redis_namespace: format!("test-{}", uuid::Uuid::new_v4()),
            data_dir: folder.path().join("objects"),
            sync_chunks: false,
            public_url: None,
            currency: Currency::EUR,
            jwt_issuer: "spillway".to_owned(),
            jwt_audience: "spillway-api".to_owned(),
            key_rotation_days: 30,
            origin_up: protocol::BitsPerSecond(0),
            allowed_origins: Vec::new(),
            ice_servers: IceServers::default(),
            audit_every: 0,
            login_limit: 0,
            behind_proxy: false,
            regions: crate::regions::Regions::default(),
            webhook_http_hosts: Vec::new(),
            webhook_allow_networks: Vec::new(),
            webhook_timeout: 15,
            secrets_key_file: None,
            workers: std::num::NonZeroUsize::new(1),
        };
        change(&mut config);
        let Opened { state, stop } = serve::open(config).await.unwrap();
        let server = serve::http(state.clone(), listener).unwrap();
        let handle = server.handle();
        tokio::spawn(server);
        Self {
            state,
            base: format!("http://{listen}"),
            client: reqwest::Client::new(),
            server: handle,
            stop,
            _folder: folder,
            _database: database,
        }
    }

    /// A request without a token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    pub(crate) fn get(&self, account: &Account, path: &str) -> RequestBuilder {
        self.request(Method::GET, path).bearer_auth(&account.tokens.access_token)
    }

    pub(crate) fn post(&self, account: &Account, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).bearer_auth(&account.tokens.access_token).json(body)
    }

    pub(crate) fn put(&self, account: &Account, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::PUT, path).bearer_auth(&account.tokens.access_token).json(body)
    }

    pub(crate) async fn log_in(&self, email: &str, password: &str) -> Response {
        self.request(Method::POST, "/v1/sessions").json(&json!({"email": email, "password": password})).send().await.unwrap()
    }

    /// A new user named `name`, in a role, logged in.
    pub(crate) async fn account(&self, name: &str, role: Role) -> Account {
        let email = format!("{name}@example.org");
        let body = json!({"email": email, "password": PASSWORD});
        let mut user: User = answer(self.request(Method::POST, "/v1/users").json(&body), StatusCode::CREATED).await;
        if role != Role::User {
            user = self.state.store.set_role(user.id, role).await.unwrap();
        }
        let tokens = self.log_in(&email, PASSWORD).await;
        assert_eq!(tokens.status(), StatusCode::CREATED);
        Account { user, tokens: tokens.json().await.unwrap() }
    }

    /// A terminal of the account, with the key made from `seed`.
    pub(crate) async fn terminal(&self, account: &Account, seed: u8) -> Terminal {
        let body = terminal_body(account, &TerminalKey::from_secret(&[seed; 32]));
        answer(self.post(account, "/v1/terminals", &body), StatusCode::CREATED).await
    }

    pub(crate) async fn content(&self, publisher: &Account) -> Content {
        answer(self.post(publisher, "/v1/contents", &json!({"title": "A film"})), StatusCode::CREATED).await
    }

    /// An edition of one file with these bytes.
    pub(crate) async fn edition(&self, publisher: &Account, content: &Content, label: &str, bytes: Vec<u8>) -> Edition {
        let announcement = json!({"label": label, "files": [{"path": "film.bin", "length": bytes.len()}]});
        let path = format!("/v1/contents/{}/uploads", content.id);
        let upload: protocol::rest::Upload = answer(self.post(publisher, &path, &announcement), StatusCode::CREATED).await;
        let put = self.request(Method::PUT, &format!("/v1/uploads/{}", upload.id)).bearer_auth(&publisher.tokens.access_token);
        answer(put.body(bytes), StatusCode::CREATED).await
    }
}

pub(crate) fn terminal_body(owner: &Account, key: &TerminalKey) -> Value {
    let proof = key.sign(&protocol::rest::NewTerminal::proof_bytes(owner.user.id));
    json!({"name": "laptop", "public_key": key.public(), "proof": proof, "capabilities": {"up": 5_000_000, "down": 20_000_000}})
}

/// Sends a request that must be answered with `status` and a `T`.
pub(crate) async fn answer<T: serde::de::DeserializeOwned>(request: RequestBuilder, status: StatusCode) -> T {
    let response = request.send().await.unwrap();
    let got = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Sends a request that must be refused with `code`; checks that the answer is a complete problem.
pub(crate) async fn refused(request: RequestBuilder, code: ErrorCode) -> Problem {
    problem(request.send().await.unwrap(), code).await
}

pub(crate) async fn problem(response: Response, code: ErrorCode) -> Problem {
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    let problem: Problem = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {error}: {text}"));
    assert_eq!(problem.code, code, "{text}");
    assert_eq!((status.as_u16(), problem.status), (code.status(), code.status()), "{text}");
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(problem.kind, format!("/problems/{code}"));
    assert!(!problem.request_id.0.is_nil(), "the problem names no request");
    assert_eq!(headers.contains_key("www-authenticate"), status == StatusCode::UNAUTHORIZED);
    problem
}

/// The parts that a problem names.
pub(crate) fn pointers(problem: &Problem) -> Vec<&str> {
    problem.errors.iter().map(|error| error.pointer.as_str()).collect()
}
