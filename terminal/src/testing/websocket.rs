//! A WebSocket server of which each test writes the script, message by message.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use protocol::ws::{ClientMessage, PushMessage, PushPosition, ServerMessage};
use protocol::{Blake3, PublicKey, TimestampMs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the server's clock shows when it welcomes.
pub(crate) const SERVER_TIME: TimestampMs = TimestampMs(1_700_000_000_000);

pub(crate) struct Server {
    listener: TcpListener,
}

/// One connection, seen from the server.
pub(crate) struct Peer {
    stream: WebSocketStream<TcpStream>,
    /// The `Authorization` header of the upgrade.
    pub(crate) authorization: String,
    /// Whether clock requests are answered on the way.
    pub(crate) answers_clock: bool,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> String {
        format!("ws://{}/v1/ws", self.listener.local_addr().unwrap())
    }

    async fn tcp(&self) -> TcpStream {
        tokio::time::timeout(PATIENCE, self.listener.accept()).await.expect("nobody connected").unwrap().0
    }

    pub(crate) async fn accept(&self) -> Peer {
        let stream = self.tcp().await;
        let mut authorization = String::new();
        #[allow(clippy::result_large_err, reason = "the library's callback has this signature")]
        let see = |request: &Request, response: Response| {
            authorization = request.headers()["authorization"].to_str().unwrap().to_owned();
            Ok(response)
        };
        let stream = tokio_tungstenite::accept_hdr_async(stream, see).await.unwrap();
        Peer { stream, authorization, answers_clock: true }
    }

    /// Answers the next upgrade with a plain HTTP answer.
    pub(crate) async fn refuse(&self, status: u16, body: &str) {
        let mut stream = self.tcp().await;
        let mut head = Vec::new();
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

impl Peer {
    pub(crate) async fn send(&mut self, message: &ServerMessage) {
        self.stream.send(Message::text(serde_json::to_string(message).unwrap())).await.unwrap();
    }

    pub(crate) async fn push(&mut self, epoch: u64, offset: u64, message: PushMessage) {
        self.send(&ServerMessage::Push { position: PushPosition { epoch, offset }, message }).await;
    }

    pub(crate) async fn close(&mut self, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::Policy, reason: reason.into() };
        self.stream.close(Some(frame)).await.unwrap();
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.stream.send(Message::text(text.to_owned())).await.unwrap();
    }

    /// The next message; clock requests are answered and passed over if this peer answers them.
    pub(crate) async fn receive(&mut self) -> Option<ClientMessage> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("the terminal said nothing");
            let Message::Text(text) = message?.ok()? else { continue };
            let message = serde_json::from_str(text.as_str()).unwrap();
            if let (ClientMessage::Clock { sent_at }, true) = (&message, self.answers_clock) {
                self.send(&ServerMessage::Clock { sent_at: *sent_at, server_time: SERVER_TIME }).await;
            } else {
                return Some(message);
            }
        }
    }

    /// Plays the introduction and returns the hello's resume position. The signature must hold.
    pub(crate) async fn welcome(&mut self, key: &PublicKey, position: PushPosition, resumed: bool) -> Option<PushPosition> {
        let nonce = Blake3([7; 32]);
        self.send(&ServerMessage::Challenge { nonce, server_time: SERVER_TIME }).await;
        let Some(ClientMessage::Hello { protocol, terminal_id, signature, resume, .. }) = self.receive().await else { panic!("no hello") };
        assert_eq!(protocol, protocol::PROTOCOL_VERSION);
        assert!(key.verifies(&protocol::ws::challenge_bytes(&nonce, terminal_id), &signature));
        let welcome = ServerMessage::Welcome { server_time: SERVER_TIME, position, resumed, ice_servers: vec![], report_interval_ms: 1000 };
        self.send(&welcome).await;
        resume
    }
}
