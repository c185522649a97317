//! A terminal as the server sees it. It obeys the protocol and nothing else: what it does with chunks is up to the test.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::{SinkExt, StreamExt};
use protocol::bitmap::{ChunkSet, SEGMENT_CHUNKS};
use protocol::receipt::ReceiptBody;
use protocol::rest::Terminal;
use protocol::ws::{Capabilities, ClientMessage, PushMessage, PushPosition, ServerMessage, SwarmPlan, challenge_bytes};
use protocol::{Blake3, DeliveryId, PROTOCOL_VERSION, SwarmId, TerminalId, TerminalKey, TimestampMs};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::clock;
use crate::routes::tests::{Account, Service};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(crate) struct Machine {
    pub(crate) account: Account,
    pub(crate) terminal: Terminal,
    pub(crate) key: TerminalKey,
    pub(crate) socket: Option<Socket>,
    /// Where the last push stood.
    pub(crate) position: PushPosition,
    pub(crate) plans: BTreeMap<SwarmId, SwarmPlan>,
    /// What it was signed to have from each source.
    signed: BTreeMap<TerminalId, (u32, ChunkSet)>,
}

/// Opens a WebSocket with these headers.
pub(crate) async fn open(service: &Service, headers: &[(&'static str, &str)]) -> Result<Socket, tokio_tungstenite::tungstenite::Error> {
    let url = format!("{}/v1/ws", service.base.replace("http://", "ws://"));
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    connect_async(request).await.map(|(socket, _)| socket)
}

/// The next message of the server; `None` once it has closed.
pub(crate) async fn receive(socket: &mut Socket) -> Option<ServerMessage> {
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.expect("the server said nothing") {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(other)) => panic!("the server sent {other:?}"),
        }
    }
}

impl Machine {
    pub(crate) async fn new(service: &Service, account: Account, seed: u8) -> Self {
        let terminal = service.terminal(&account, seed).await;
        let key = TerminalKey::from_secret(&[seed; 32]);
        let position = PushPosition { epoch: 0, offset: 0 };
        Self { account, terminal, key, socket: None, position, plans: BTreeMap::new(), signed: BTreeMap::new() }
    }

    pub(crate) fn id(&self) -> TerminalId {
        self.terminal.id
    }

    /// The answer to a challenge.
    pub(crate) fn hello(&self, nonce: &Blake3) -> ClientMessage {
        ClientMessage::Hello {
            protocol: PROTOCOL_VERSION,
            terminal_id: self.id(),
            signature: self.key.sign(&challenge_bytes(nonce, self.id())),
            capabilities: Capabilities::default(),
            resume: None,
        }
    }

    /// Connects; answers whether the pushes go on where they ended.
    pub(crate) async fn connect(&mut self, service: &Service, resume: Option<PushPosition>) -> bool {
        let bearer = format!("Bearer {}", self.account.tokens.access_token);
        let mut socket = open(service, &[("Authorization", &bearer)]).await.unwrap();
        let Some(ServerMessage::Challenge { nonce, .. }) = receive(&mut socket).await else { panic!("no challenge") };
        let mut hello = self.hello(&nonce);
        if let ClientMessage::Hello { resume: after, .. } = &mut hello {
            *after = resume;
        }
        socket.send(Message::text(serde_json::to_string(&hello).unwrap())).await.unwrap();
        let Some(ServerMessage::Welcome { position, resumed, .. }) = receive(&mut socket).await else { panic!("no welcome") };
        self.position = position;
        self.socket = Some(socket);
        resumed
    }

    /// Breaks the connection without a word.
    pub(crate) fn vanish(&mut self) {
        self.socket = None;
    }

    pub(crate) async fn send(&mut self, message: &ClientMessage) {
        self.send_text(serde_json::to_string(message).unwrap()).await;
    }

    pub(crate) async fn send_text(&mut self, text: String) {
        self.socket.as_mut().expect("it is connected").send(Message::text(text)).await.unwrap();
    }

    /// The next message; `None` once the server has closed.
    pub(crate) async fn next(&mut self) -> Option<ServerMessage> {
        let message = receive(self.socket.as_mut().expect("it is connected")).await;
        if let Some(ServerMessage::Push { position, message }) = &message {
            self.position = *position;
            match message {
                PushMessage::Plan(plan) => _ = self.plans.insert(plan.swarm_id, SwarmPlan::clone(plan)),
                PushMessage::PlanChange(change) => {
                    let changed = change.apply(&self.plans[&change.swarm_id]).expect("the change is of the plan that was told");
                    self.plans.insert(change.swarm_id, changed);
                }
                _ => {}
            }
        }
        message
    }

    /// Reads on until a message is what is looked for.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(ServerMessage) -> Option<T>) -> T {
        let search = async {
            loop {
                let message = self.next().await.expect("the server closed");
                if let Some(found) = wanted(message) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("what was looked for did not come")
    }

    /// Reads on until a push is what is looked for.
    pub(crate) async fn push<T>(&mut self, mut wanted: impl FnMut(PushMessage) -> Option<T>) -> T {
        self.until(|message| match message {
            ServerMessage::Push { message, .. } => wanted(message),
            ServerMessage::Error { code, detail, pointer } => panic!("refused: {code} {detail} {pointer}"),
            ServerMessage::Challenge { .. }
            | ServerMessage::Welcome { .. }
            | ServerMessage::Clock { .. }
            | ServerMessage::Audit { .. }
            | ServerMessage::Key { .. }
            | ServerMessage::NoKey { .. } => None,
        })
        .await
    }

    /// Reads on until the plan of a swarm has at least this epoch.
    pub(crate) async fn plan(&mut self, swarm_id: SwarmId, epoch: u64) -> SwarmPlan {
        while self.plans.get(&swarm_id).is_none_or(|plan| plan.epoch < epoch) {
            self.push(|message| matches!(message, PushMessage::Plan(_) | PushMessage::PlanChange(_)).then_some(())).await;
        }
        self.plans[&swarm_id].clone()
    }

    /// Waits until the server has handled everything sent before; answers what came meanwhile.
    pub(crate) async fn settle_down(&mut self) -> Vec<ServerMessage> {
        let mark = clock::to_timestamp_ms(clock::now()).0;
        self.send(&ClientMessage::Clock { sent_at: mark }).await;
        let mut seen = Vec::new();
        self.until(|message| match message {
            ServerMessage::Clock { sent_at, .. } if sent_at == mark => Some(()),
            other => {
                seen.push(other);
                None
            }
        })
        .await;
        seen
    }

    /// Fetches a chunk from the origin.
    pub(crate) async fn fetch(&self, service: &Service, swarm_id: SwarmId, chunk: u32) -> reqwest::Response {
        let path = format!("/v1/swarms/{swarm_id}/chunks/{chunk}");
        service.get(&self.account, &path).header("Spillway-Terminal", self.id().to_string()).send().await.unwrap()
    }

    /// Signs for chunks of a source, in addition to those signed for before. One receipt per segment, as base64.
    pub(crate) fn sign(&mut self, delivery_id: DeliveryId, source: TerminalId, chunks: &[u32]) -> Vec<String> {
        let (sequence, signed) = self.signed.entry(source).or_default();
        *sequence += 1;
        chunks.iter().for_each(|&chunk| _ = signed.insert(chunk));
        let segments: std::collections::BTreeSet<u32> = chunks.iter().map(|chunk| chunk / SEGMENT_CHUNKS).collect();
        let receipt = |segment| ReceiptBody {
            delivery_id,
            source,
            receiver: self.terminal.id,
            segment,
            sequence: *sequence,
            at: TimestampMs(0),
            bitmap: Box::new(signed.segment(segment)),
        };
        segments.into_iter().map(|segment| BASE64_STANDARD.encode(receipt(segment).sign(&self.key).pack())).collect()
    }

    pub(crate) async fn send_receipts(&mut self, delivery_id: DeliveryId, source: TerminalId, chunks: &[u32]) {
        let receipts = self.sign(delivery_id, source, chunks);
        self.send(&ClientMessage::Receipts { receipts }).await;
    }
}
