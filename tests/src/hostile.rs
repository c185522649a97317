//! A terminal that speaks the protocol by hand, so that a test can break its rules one at a time.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use protocol::frame::Frame;
use protocol::hello::Hello;
use protocol::ws::{Capabilities, ClientMessage, PushMessage, ServerMessage, Signal, SwarmPlan, challenge_bytes};
use protocol::{ErrorCode, PROTOCOL_VERSION, TerminalId, TerminalKey};
use terminal::link::{Endpoint, Link, LinkConfig, LinkError};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::person::Person;

const PATIENCE: Duration = Duration::from_secs(30);
/// How often a link is tried.
const ATTEMPTS: u64 = 5;

#[derive(Debug)]
pub struct Hostile {
    pub terminal_id: TerminalId,
    pub key: TerminalKey,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    endpoint: Endpoint,
    /// The plan that was told last.
    known: Option<SwarmPlan>,
    /// How often a plan was told as a difference.
    pub differences: u32,
}

/// Opens the WebSocket and waits for the challenge; the hello is the caller's.
pub async fn open(url: &str, token: &str) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, u16> {
    let mut request = format!("{}/v1/ws", url.replacen("http", "ws", 1)).into_client_request().expect("an address");
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().expect("a header"));
    match connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

impl Hostile {
    /// Connects and proves its key as an honest terminal would.
    pub async fn connect(person: &Person, terminal_id: TerminalId, key: TerminalKey) -> Self {
        let socket = open(&person.url, &person.token).await.expect("a WebSocket");
        let endpoint = Endpoint::new(LinkConfig { include_loopback: true, ..LinkConfig::default() }).expect("an endpoint");
        let mut hostile = Self { terminal_id, key, socket, endpoint, known: None, differences: 0 };
        let ServerMessage::Challenge { nonce, .. } = hostile.next().await.expect("a challenge") else { panic!("no challenge") };
        let signature = hostile.key.sign(&challenge_bytes(&nonce, terminal_id));
        let hello = ClientMessage::Hello {
            protocol: PROTOCOL_VERSION,
            terminal_id,
            signature,
            capabilities: Capabilities::default(),
            resume: None,
        };
        hostile.send(&hello).await;
        let ServerMessage::Welcome { .. } = hostile.next().await.expect("a welcome") else { panic!("no welcome") };
        hostile
    }

    pub async fn send(&mut self, message: &ClientMessage) {
        self.send_text(serde_json::to_string(message).expect("JSON")).await;
    }

    pub async fn send_text(&mut self, text: String) {
        // The server may close in the middle of what it refuses.
        let _ = self.socket.send(Message::text(text)).await;
    }

    /// The next message of the server; `None` when it closed the connection.
    pub async fn next(&mut self) -> Option<ServerMessage> {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("the server says something in time") {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).expect("a server message")),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {}
            }
        }
    }

    /// The next push that `pick` takes.
    pub async fn push<T>(&mut self, mut pick: impl FnMut(PushMessage) -> Option<T>) -> T {
        loop {
            if let ServerMessage::Push { message, .. } = self.next().await.expect("a message")
                && let Some(picked) = pick(message)
            {
                return picked;
            }
        }
    }

    /// The next error of the server.
    pub async fn error(&mut self) -> ErrorCode {
        loop {
            match self.next().await.expect("an error before the end") {
                ServerMessage::Error { code, .. } => return code,
                ServerMessage::Challenge { .. }
                | ServerMessage::Welcome { .. }
                | ServerMessage::Clock { .. }
                | ServerMessage::Push { .. }
                | ServerMessage::Audit { .. }
                | ServerMessage::Key { .. }
                | ServerMessage::NoKey { .. } => {}
            }
        }
    }

    /// The next plan, told whole or as a difference to the one before.
    pub async fn plan(&mut self) -> SwarmPlan {
        let (known, mut differences) = (self.known.take(), 0);
        let plan = self
            .push(|message| {
                if let PushMessage::Plan(plan) = message {
                    return Some(*plan);
                }
                let PushMessage::PlanChange(change) = message else { return None };
                differences += 1;
                Some(change.apply(known.as_ref().expect("a plan before")).expect("the change is of that plan"))
            })
            .await;
        self.differences += differences;
        self.known = Some(plan.clone());
        plan
    }

    /// Opens the link to one planned peer, without a hello. An offer that has waited too long is dead: the peer makes another.
    pub async fn raw_link(&mut self, peer: TerminalId) -> Link {
        for session in 1..=ATTEMPTS {
            match self.attempt(peer, session).await {
                Ok(link) => return link,
                Err(error) => eprintln!("attempt {session} at a link to {peer}: {error}"),
            }
        }
        panic!("no link to {peer} after {ATTEMPTS} attempts");
    }

    async fn attempt(&mut self, peer: TerminalId, session: u64) -> Result<Link, LinkError> {
        let deadline = || tokio::time::Instant::now() + PATIENCE;
        if self.terminal_id < peer {
            let (pending, sdp) = self.endpoint.offer().await?;
            self.send(&ClientMessage::Signal { to: peer, signal: Signal::Offer { session, sdp } }).await;
            let answer = self.signal_from(peer).await;
            let Signal::Answer { sdp, .. } = answer else { panic!("{answer:?} instead of an answer") };
            pending.complete(Some(&sdp), deadline()).await
        } else {
            let offer = self.signal_from(peer).await;
            let Signal::Offer { session, sdp } = offer else { panic!("{offer:?} instead of an offer") };
            let (pending, sdp) = self.endpoint.accept(&sdp).await?;
            self.send(&ClientMessage::Signal { to: peer, signal: Signal::Answer { session, sdp } }).await;
            pending.complete(None, deadline()).await
        }
    }

    async fn signal_from(&mut self, peer: TerminalId) -> Signal {
        let of_peer = |message| if let PushMessage::Signal { from, signal } = message { (from == peer).then_some(signal) } else { None };
        self.push(of_peer).await
    }

    /// A link with both hellos done, as an honest terminal would open it.
    pub async fn link(&mut self, peer: TerminalId) -> Link {
        let mut link = self.raw_link(peer).await;
        let hello = Hello::signed(self.terminal_id, peer, &link.fingerprints(), &self.key);
        link.send(&Frame::Hello(hello).encode()[..]).await.expect("the hello goes out");
        let first = link.recv().await.expect("the other hello");
        assert!(matches!(Frame::decode(first), Ok(Frame::Hello(_))));
        link
    }
}

/// Whether the other end closes the link within a generous time; what it still says is read away.
pub async fn is_closed_by_the_other_end(link: &mut Link) -> bool {
    tokio::time::timeout(PATIENCE, async { while link.recv().await.is_ok() {} }).await.is_ok()
}
