//! Attempts at receivers on this machine, and at what must not be reached.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::*;
use crate::prefix::Prefix;
use crate::webhooks::address::Lookup;
use crate::webhooks::receiver::{Answer, Receiver};

/// Gives one answer after the other, as a name server that an owner runs may; counts how often it was asked.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<VecDeque<Vec<IpAddr>>>>);

impl Script {
    fn of(answers: &[&[&str]]) -> Self {
        let addresses = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        Self(Arc::new(Mutex::new(answers.iter().map(addresses).collect())))
    }

    fn left(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Lookup for Script {
    fn lookup(&self, _: &str) -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>> {
        let answer = self.0.lock().unwrap().pop_front().expect("it was asked more often than it has answers");
        Box::pin(std::future::ready(Ok(answer)))
    }
}

/// May reach this machine at 127.0.0.1 and at no other address.
fn sender(lookup: Script, timeout: Duration) -> Sender {
    let allowed: Prefix = "127.0.0.1/32".parse().unwrap();
    let hosts = ["127.0.0.1", "hooks.example"].map(str::to_owned);
    Sender::new(Addresses::with_lookup(&[allowed], &hosts, lookup), timeout).unwrap()
}

const TIMEOUT: Duration = Duration::from_secs(20);

async fn send(sender: &Sender, url: &str) -> Result<u16, Failed> {
    let secrets = [Secret::from_bytes(vec![1; 32])];
    sender.send(Message { url, id: "one".to_owned(), body: b"{}".to_vec(), secrets: &secrets, timestamp: 1 }).await
}

#[tokio::test]
async fn what_is_sent_has_the_headers_of_the_specification() {
    let receiver = Receiver::start(Answer::Status(204)).await;
    assert_eq!(send(&sender(Script::default(), TIMEOUT), &receiver.url).await, Ok(204));
    let [received] = receiver.received().try_into().unwrap();
    assert_eq!((received.headers["webhook-id"].as_str(), received.headers["webhook-timestamp"].as_str()), ("one", "1"));
    assert_eq!((received.headers["content-type"].as_str(), received.body.as_slice()), ("application/json", b"{}".as_slice()));
    assert_eq!(received.signed_by(&Secret::from_bytes(vec![1; 32]).shown()), 1);
    assert_eq!(received.signed_by(&Secret::from_bytes(vec![2; 32]).shown()), 0);
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_the_second_time_is_looked_up_and_checked_each_time_and_connected_to_as_checked() {
    // The same port at another address of this machine, where nobody is to come.
    let receiver = Receiver::start(Answer::Status(200)).await;
    let inside = Receiver::start_at(&format!("127.0.0.2:{}", receiver.port), Answer::Status(200)).await;
    let script =
        Script::of(&[&["127.0.0.1"], &["127.0.0.2"], &["127.0.0.1", "127.0.0.2"], &["127.0.0.2", "127.0.0.1"], &["::1"], &["127.0.0.1"]]);
    let sender = sender(script.clone(), TIMEOUT);
    let url = format!("http://hooks.example:{}/", receiver.port);
    assert_eq!(send(&sender, &url).await, Ok(200));
    assert_eq!(script.left(), 5, "one lookup for one attempt");
    for left in (1..5).rev() {
        assert_eq!(send(&sender, &url).await, Err(Failed::by(WebhookFailure::NotAllowed)));
        assert_eq!(script.left(), left);
    }
    assert_eq!(send(&sender, &url).await, Ok(200));
    assert_eq!((receiver.connections(), inside.connections()), (2, 0));
}

#[tokio::test]
async fn an_address_that_is_not_allowed_is_not_connected_to_however_it_is_written() {
    let inside = Receiver::start_at("127.0.0.2:0", Answer::Status(200)).await;
    let sender = sender(Script::of(&[&["10.0.0.1"], &["169.254.169.254"], &["fd00:ec2::254"], &["64:ff9b::7f00:2"]]), TIMEOUT);
    for host in ["127.0.0.2", "0x7f.2", "2130706434", "[::ffff:127.0.0.2]"] {
        let url = format!("https://{host}:{}/", inside.port);
        assert_eq!(send(&sender, &url).await, Err(Failed::by(WebhookFailure::NotAllowed)), "{url}");
    }
    for _ in 0..4 {
        assert_eq!(send(&sender, "https://hooks.example/").await, Err(Failed::by(WebhookFailure::NotAllowed)));
    }
    assert_eq!(inside.connections(), 0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Receiver::start(Answer::Status(200)).await;
    let receiver = Receiver::start(Answer::Redirect(target.url.clone())).await;
    let failed = Failed { failure: WebhookFailure::Status, status: Some(307) };
    assert_eq!(send(&sender(Script::default(), TIMEOUT), &receiver.url).await, Err(failed));
    assert_eq!((receiver.connections(), target.connections()), (1, 0));
}

#[tokio::test]
async fn each_way_to_fail_is_told_apart() {
    let silent = Receiver::start(Answer::Nothing).await;
    let sender = sender(Script::of(&[&[]]), Duration::from_secs(1));
    assert_eq!(send(&sender, &silent.url).await, Err(Failed::by(WebhookFailure::Timeout)));
    assert_eq!(send(&sender, "http://hooks.example/").await, Err(Failed::by(WebhookFailure::Unresolved)));
    silent.answers(Answer::Status(503));
    assert_eq!(send(&sender, &silent.url).await, Err(Failed { failure: WebhookFailure::Status, status: Some(503) }));
    // Nobody listens there any more.
    let unheard = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = format!("http://{}/", unheard.local_addr().unwrap());
    drop(unheard);
    assert_eq!(send(&sender, &closed).await, Err(Failed::by(WebhookFailure::Connection)));
    // Whoever takes the connection speaks no TLS.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = format!("https://{}/", mute.local_addr().unwrap());
    let (failed, _) = tokio::join!(send(&sender, &plain), async { drop(mute.accept().await.unwrap()) });
    assert_eq!(failed, Err(Failed::by(WebhookFailure::Connection)));
}

#[tokio::test]
async fn an_answer_that_never_ends_is_read_no_further_than_it_counts() {
    let receiver = Receiver::start(Answer::Endless).await;
    let sent = tokio::time::timeout(TIMEOUT, send(&sender(Script::default(), TIMEOUT), &receiver.url)).await;
    assert_eq!(sent.expect("it was read to no end"), Ok(200));
}
