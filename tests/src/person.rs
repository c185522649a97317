//! Somebody who uses the REST API as any client would.

use protocol::rest::{NewTerminal, Tokens, User, Vouchers, Wallet};
use protocol::{ErrorCode, Problem, TerminalId, TerminalKey, UserId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::stack::PASSWORD;

#[derive(Debug, Clone)]
pub struct Person {
    pub url: String,
    pub email: String,
    pub user_id: UserId,
    pub token: String,
    pub http: reqwest::Client,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn expect_ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text);
        if self.text.is_empty() { Value::Null } else { serde_json::from_str(&self.text).expect("JSON") }
    }

    pub fn expect<T: DeserializeOwned>(self) -> T {
        serde_json::from_value(self.expect_ok()).expect("the documented shape")
    }

    /// The request was refused, by a problem that says so consistently.
    pub fn expect_problem(self, code: ErrorCode) -> Problem {
        let kind = self.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let problem: Problem = serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{} is no problem: {}", self.status, self.text));
        assert_eq!(problem.code, code, "{}", self.text);
        assert_eq!((problem.status, self.status), (code.status(), code.status()), "{}", self.text);
        assert!(kind.starts_with("application/problem+json"), "{kind}");
        problem
    }

    /// As [`Answer::expect_problem`], and it points at the offending part.
    pub fn expect_problem_at(self, code: ErrorCode, pointer: &str) {
        let problem = self.expect_problem(code);
        assert!(problem.errors.iter().any(|error| error.pointer == pointer), "no pointer {pointer} in {:?}", problem.errors);
    }
}

impl Person {
    pub async fn register(url: &str, email: &str) -> Self {
        let http = reqwest::Client::new();
        let body = json!({ "email": email, "password": PASSWORD });
        let answer = http.post(format!("{url}/v1/users")).json(&body).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
        Self::login(url, email).await
    }

    pub async fn login(url: &str, email: &str) -> Self {
        let http = reqwest::Client::new();
        let body = json!({ "email": email, "password": PASSWORD });
        let answer = http.post(format!("{url}/v1/sessions")).json(&body).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
        let tokens: Tokens = answer.json().await.expect("tokens");
        let nobody = UserId::from_bytes([0; 16]);
        let mut person = Self { url: url.into(), email: email.into(), user_id: nobody, token: tokens.access_token, http };
        let user: User = person.get("/v1/users/me").await.expect();
        person.user_id = user.id;
        person
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.bearer_auth(&self.token).send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, text: answer.text().await.expect("a body") }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(format!("{}{path}", self.url))).await
    }

    /// With an idempotency key of its own.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        self.post_with_key(path, body, &uuid::Uuid::new_v4().to_string()).await
    }

    pub async fn post_with_key(&self, path: &str, body: &impl Serialize, key: &str) -> Answer {
        self.send(self.http.post(format!("{}{path}", self.url)).header("Idempotency-Key", key).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &impl Serialize) -> Answer {
        let request = self.http.put(format!("{}{path}", self.url)).header("Idempotency-Key", uuid::Uuid::new_v4().to_string());
        self.send(request.json(body)).await
    }

    pub async fn put_if_match(&self, path: &str, etag: &str, body: &impl Serialize) -> Answer {
        let request = self.http.put(format!("{}{path}", self.url)).header("Idempotency-Key", uuid::Uuid::new_v4().to_string());
        self.send(request.header("If-Match", etag).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.http.delete(format!("{}{path}", self.url)).header("Idempotency-Key", uuid::Uuid::new_v4().to_string())).await
    }

    /// Voucher codes; for an operator.
    pub async fn vouchers(&self, count: u32, amount: u64) -> Vec<String> {
        let body = json!({ "count": count, "value": money(amount) });
        self.post("/v1/vouchers", &body).await.expect::<Vouchers>().codes
    }

    pub async fn redeem(&self, code: &str) -> Answer {
        self.post("/v1/wallet/redemptions", &json!({ "code": code })).await
    }

    /// (available, held).
    pub async fn wallet(&self) -> (u64, u64) {
        let wallet: Wallet = self.get("/v1/wallet").await.expect();
        (wallet.available.amount.0, wallet.held.amount.0)
    }

    /// Registers a terminal with a new key.
    pub async fn terminal(&self, name: &str) -> (TerminalId, TerminalKey) {
        let secret = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
        let key = TerminalKey::from_secret(&secret.try_into().expect("32 bytes"));
        let new = NewTerminal {
            name: name.into(),
            public_key: key.public(),
            proof: key.sign(&NewTerminal::proof_bytes(self.user_id)),
            capabilities: Default::default(),
        };
        let terminal: protocol::rest::Terminal = self.post("/v1/terminals", &new).await.expect();
        (terminal.id, key)
    }
}

/// A `Money` body in the service's currency.
pub fn money(amount: u64) -> Value {
    json!({ "amount": amount, "currency": "EUR" })
}
