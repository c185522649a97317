//! Outgoing events as people meet them: a receiver of their own, the program, and a release whose money is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, Mac};
use protocol::rest::{Wallet, WebhookDelivery};
use serde_json::{Value, json};
use tests::program::Cli;
use tests::{Plan, Stack, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(60);

/// The options with which a server may call receivers on this machine.
const LOCAL: [&str; 4] = ["--webhook-http-host", "127.0.0.1", "--webhook-allow-network", "127.0.0.0/8"];

#[derive(Debug, Clone)]
struct Received {
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Received {
    fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    fn event(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Whether one of the signatures is by the secret.
    fn is_signed_by(&self, secret: &str) -> bool {
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("base64");
        self.headers["webhook-signature"].split(' ').any(|signature| {
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).expect("any length");
            mac.update(format!("{}.{}.", self.id(), self.headers["webhook-timestamp"]).as_bytes());
            mac.update(&self.body);
            let stated = signature.strip_prefix("v1,").and_then(|text| BASE64_STANDARD.decode(text).ok());
            stated.is_some_and(|stated| mac.verify_slice(&stated).is_ok())
        })
    }
}

/// A small HTTP server that keeps what it is sent, and answers with a status.
struct Receiver {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
    status: Arc<Mutex<u16>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hooks", listener.local_addr().expect("an address"));
        let (received, status) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(200)));
        let (kept, answered) = (received.clone(), status.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, answered) = (kept.clone(), answered.clone());
                tokio::spawn(async move { serve(stream, &kept, &answered).await });
            }
        });
        Self { url, received, status }
    }

    fn answers(&self, status: u16) {
        *self.status.lock().expect("no panic") = status;
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no panic").clone()
    }

    /// Waits for an event of a type.
    async fn of(&self, kind: &str) -> Received {
        eventually(&format!("{kind} is told"), PATIENCE, || async {
            self.received().into_iter().find(|received| received.event()["type"] == kind)
        })
        .await
    }
}

async fn serve(mut stream: TcpStream, kept: &Mutex<Vec<Received>>, status: &Mutex<u16>) -> Option<()> {
    let mut bytes = Vec::new();
    let head = loop {
        match bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(at) => break at,
            None => (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?,
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let lines = text.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<String, String> = lines.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let length: usize = headers.get("content-length")?.parse().ok()?;
    let mut body = bytes.split_off(head + 4);
    while body.len() < length {
        (stream.read_buf(&mut body).await.ok()? > 0).then_some(())?;
    }
    kept.lock().expect("no panic").push(Received { headers, body });
    let status = *status.lock().expect("no panic");
    stream.write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).await.ok()
}

/// What a command that succeeds prints as JSON.
async fn told(cli: &Cli, arguments: &[&str]) -> Value {
    let output = cli.call(&[arguments, &["--json"]].concat()).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What it prints for people.
async fn shown(cli: &Cli, arguments: &[&str]) -> String {
    let output = cli.call(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_the_owner_of_a_terminal_is_told_of_the_place_the_charge_and_what_was_relayed_and_the_wallet_says_the_same() {
    let plan = Plan { closes_in_ms: 8_000, starts_in_ms: 10_000, ..Plan::default() };
    let mut scene = Scene::set_on(&LOCAL, 2, 3 << 20, &plan).await;
    let receiver = Receiver::start().await;
    let mut secrets = Vec::new();
    for terminal in &scene.terminals {
        let made = told(terminal, &["webhook", "create", &receiver.url]).await;
        secrets.push(made["secret"].as_str().expect("a secret").to_owned());
    }
    scene.run_all();
    scene.all_complete(&[0, 1]).await;
    scene.settled(PATIENCE).await;
    // One event for the receiver and one for the relay of each delivery, if it has one.
    let deliveries = scene.publisher.deliveries(scene.release.id).await;
    let relays: usize = deliveries.iter().map(|delivery| delivery.sources.iter().filter(|share| !share.source.is_origin()).count()).sum();
    let events = eventually("all is told", PATIENCE, || async {
        let received = receiver.received();
        let of = |kind: &str| received.iter().filter(|received| received.event()["type"] == kind).count();
        (of("application.won") == 2 && of("release.live") == 2 && of("delivery.settled") == 2 && of("delivery.relayed") == relays)
            .then_some(received)
    })
    .await;
    assert!(relays > 0, "nothing was relayed: {deliveries:?}");
    let mut ids: Vec<&str> = events.iter().map(Received::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), events.len(), "nothing failed, so nothing was sent twice");
    for delivery in &deliveries {
        let mine = |event: &Value, kind: &str| event["type"] == kind && event["data"]["delivery_id"] == json!(delivery.id);
        let settled = events.iter().map(Received::event).find(|event| mine(event, "delivery.settled")).expect("it is told");
        assert_eq!(settled["data"]["charged"], json!(delivery.charged));
        assert_eq!(settled["data"]["terminal_id"], json!(delivery.terminal_id));
        for share in delivery.sources.iter().filter(|share| !share.source.is_origin()) {
            let relayed = events.iter().map(Received::event).find(|event| mine(event, "delivery.relayed")).expect("it is told");
            assert_eq!(relayed["data"]["earned"], json!(share.earned));
        }
    }
    for (terminal, secret) in scene.terminals.iter().zip(&secrets) {
        let told = events.iter().filter(|received| received.is_signed_by(secret));
        let moved: i64 = told
            .map(|received| {
                let data = &received.event()["data"];
                data["earned"]["amount"].as_i64().unwrap_or(0) - data["charged"]["amount"].as_i64().unwrap_or(0)
            })
            .sum();
        let wallet: Wallet = terminal.person.get("/v1/wallet").await.expect();
        assert_eq!(i64::try_from(wallet.available.amount.0).unwrap(), 10_000 + moved, "what was told is what was booked");
    }
    scene.books_balance().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_made_tested_rotated_retried_and_removed_by_the_program() {
    let stack = Stack::start_with(&LOCAL).await;
    let operator = stack.operator().await;
    let cli = stack.cli(&operator, "owner", 0).await;
    let receiver = Receiver::start().await;
    assert!(shown(&cli, &["webhook", "list"]).await.contains("No webhooks"));
    for (url, reason) in [("http://example.org", "https"), ("https://10.0.0.1/x", "not allowed"), ("https://a:b@example.org", "user name")]
    {
        let refused = cli.call(&["webhook", "create", url]).await;
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(4) && text.contains(reason) && text.contains("URL"), "{text}");
    }
    let made = told(&cli, &["webhook", "create", &receiver.url, "--event", "voucher.redeemed", "--description", "accounts"]).await;
    let (id, first) = (made["id"].as_str().expect("an id"), made["secret"].as_str().expect("a secret"));
    assert!(shown(&cli, &["webhook", "test", id]).await.contains("it answered 200"));
    assert!(receiver.of("webhook.test").await.is_signed_by(first));

    let rotated = told(&cli, &["webhook", "rotate", id]).await;
    let second = rotated["secret"].as_str().expect("a secret");
    cli.person.redeem(&operator.vouchers(1, 500).await[0]).await.expect_ok();
    let redeemed = receiver.of("voucher.redeemed").await;
    assert!(redeemed.is_signed_by(first) && redeemed.is_signed_by(second) && first != second);
    assert_eq!(redeemed.event()["data"]["amount"]["amount"], json!(500));

    let changed = told(&cli, &["webhook", "change", id, "--all-events", "--description", "everything"]).await;
    assert_eq!((&changed["description"], &changed["events"], &changed["url"]), (&json!("everything"), &json!([]), &json!(receiver.url)));
    let refused = cli.call(&["webhook", "change", id, "--url", "http://example.org"]).await;
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");

    // A receiver that wants no more: the letter is dead, and sent again when it wants it after all.
    receiver.answers(410);
    let failed = cli.call(&["webhook", "test", id]).await;
    assert!(!failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("it answered 410"), "{failed:?}");
    assert!(shown(&cli, &["webhook", "list"]).await.contains("disabled: it answered 410, gone"));
    receiver.answers(200);
    assert!(shown(&cli, &["webhook", "enable", id]).await.contains("enabled"));
    let before = receiver.received().len();
    assert!(shown(&cli, &["webhook", "retry", id, "--dead"]).await.contains("1 event is sent again"));
    eventually("it is sent again", PATIENCE, || async { (receiver.received().len() > before).then_some(()) }).await;
    let all = eventually("it is delivered", PATIENCE, || async {
        let all: Vec<WebhookDelivery> = serde_json::from_value(told(&cli, &["webhook", "deliveries", id]).await).expect("deliveries");
        all.iter().all(|delivery| delivery.state.as_str() == "delivered").then_some(all)
    })
    .await;
    assert_eq!(all.len(), 3);
    let table = shown(&cli, &["webhook", "deliveries", id, "--state", "delivered", "--entries", "2"]).await;
    assert!(table.lines().count() == 3 && table.contains("webhook.test"), "{table}");

    assert!(shown(&cli, &["webhook", "disable", id]).await.contains("disabled"));
    shown(&cli, &["webhook", "delete", id]).await;
    let gone = cli.call(&["webhook", "test", id]).await;
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_was_sending_when_it_was_killed_is_sent_by_the_next_one() {
    let mut stack = Stack::start_with(&[&LOCAL[..], &["--webhook-timeout", "5"]].concat()).await;
    let operator = stack.operator().await;
    let cli = stack.cli(&operator, "owner", 0).await;
    // It takes the connection and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address");
    let made = told(&cli, &["webhook", "create", &format!("http://{address}/")]).await;
    let id = made["id"].as_str().expect("an id");
    cli.person.redeem(&operator.vouchers(1, 500).await[0]).await.expect_ok();
    let (held, _) = tokio::time::timeout(PATIENCE, silent.accept()).await.expect("it is sent").expect("a connection");
    stack.kill_server().await;
    drop((held, silent));
    let receiver = Receiver::start().await;
    stack.start_server().await;
    let url = json!({ "url": receiver.url });
    let request = cli.person.http.patch(format!("{}/v1/webhooks/{id}", cli.person.url)).header("If-Match", "*").json(&url);
    cli.person.send(request).await.expect_ok();
    let told = receiver.of("voucher.redeemed").await;
    assert!(told.is_signed_by(made["secret"].as_str().expect("a secret")));
    assert_eq!(told.event()["data"]["amount"]["amount"], json!(500));
}
