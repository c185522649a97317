//! One connection, from the first packet to its end.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use protocol::ws::{ClientMessage, MESSAGE_MAX, PushMessage, PushPosition, ServerMessage, challenge_bytes};
use protocol::{ErrorCode, PROTOCOL_VERSION, Problem, TimestampMs};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::clock::ClockFilter;
use super::outbox::Outbox;
use super::position::{Tracker, Verdict};
use super::{SocketConfig, SocketError, SocketEvent};
use crate::backoff::Backoff;

/// The library's 128 KiB each way would be most of a small terminal's memory; messages are a few hundred bytes.
const BUFFER_BYTES: usize = 8 << 10;
/// What may wait to be written below the library's own queue: two of the longest messages.
const WRITE_BUFFER_MAX: usize = 2 * MESSAGE_MAX + BUFFER_BYTES;
/// Clock exchanges at the start of a connection, at [`super::SocketTiming::clock_burst_every`].
const CLOCK_BURST: u32 = 5;
/// What stands before each message: length, mask, and what TLS adds.
const FRAME_HEADER_BYTES: usize = 32;
/// How the server's reason begins when it closes because a newer connection of the same terminal has come.
const REPLACED: &str = "replaced";
/// What the server could not take for the moment is sent again after this long, and ever later if it still cannot.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_CAP: Duration = Duration::from_secs(8);
/// How often the connection looks at what is due.
const TICK: Duration = Duration::from_millis(50);

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What lasts from one connection to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    tracker: Tracker,
    clock: ClockFilter,
    /// The present connection came as far as the welcome.
    pub(super) welcomed: bool,
}

/// How a connection ended.
pub(super) enum Ending {
    /// In good order, as asked.
    Closed,
    /// Nobody reads the events any more.
    Unheard,
    Lost(String),
    Rejected(SocketError),
}

impl Ending {
    fn lost(reason: impl std::fmt::Display) -> Self {
        Self::Lost(reason.to_string())
    }
}

struct Connection<'a> {
    stream: Stream,
    config: &'a SocketConfig,
    memory: &'a mut Memory,
    outbox: &'a Outbox,
    events: &'a mpsc::Sender<SocketEvent>,
    heard_at: Instant,
    sent_at: Instant,
    clock_due: Instant,
    clock_burst_left: u32,
    /// When what the server could not take for the moment is sent again.
    again_at: Option<Instant>,
    again_after: Backoff,
}

/// Connects and serves the connection until it ends.
pub(super) async fn run(
    config: &SocketConfig,
    memory: &mut Memory,
    outbox: &Outbox,
    events: &mpsc::Sender<SocketEvent>,
    closing: watch::Receiver<bool>,
) -> Ending {
    let stream = match connect(config).await {
        Ok(stream) => stream,
        Err(ending) => return ending,
    };
    let now = Instant::now();
    let mut connection = Connection {
        stream,
        config,
        memory,
        outbox,
        events,
        heard_at: now,
        sent_at: now,
        clock_due: now,
        clock_burst_left: CLOCK_BURST,
        again_at: None,
        again_after: Backoff::new(AGAIN_FIRST, AGAIN_CAP),
    };
    match connection.introduce().await {
        Ok(()) => connection.serve(closing).await,
        Err(ending) => ending,
    }
}

async fn connect(config: &SocketConfig) -> Result<Stream, Ending> {
    let token = config.tokens.access_token().await.map_err(token_failed)?;
    match dial(config, &token).await {
        Err(Dialled::Unauthenticated) => {
            let token = config.tokens.renew(&token).await.map_err(token_failed)?;
            dial(config, &token).await.map_err(|dialled| match dialled {
                Dialled::Unauthenticated => {
                    Ending::Rejected(SocketError::Refused { code: ErrorCode::Unauthenticated, detail: String::new() })
                }
                Dialled::Failed(ending) => ending,
            })
        }
        Err(Dialled::Failed(ending)) => Err(ending),
        Ok(stream) => Ok(stream),
    }
}

fn token_failed(error: crate::api::TokenError) -> Ending {
    if error.is_retryable() { Ending::lost(error) } else { Ending::Rejected(SocketError::Token(error)) }
}

enum Dialled {
    Unauthenticated,
    Failed(Ending),
}

async fn dial(config: &SocketConfig, token: &str) -> Result<Stream, Dialled> {
    let address = |error: String| Dialled::Failed(Ending::Rejected(SocketError::Address(error)));
    let mut request = config.address.as_str().into_client_request().map_err(|error| address(error.to_string()))?;
    let bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| address(error.to_string()))?;
    request.headers_mut().insert(AUTHORIZATION, bearer);
    let limits = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    let connecting = tokio_tungstenite::connect_async_with_config(request, Some(limits), true);
    match timeout(config.timing.handshake, connecting).await {
        Ok(Ok((stream, _))) => Ok(stream),
        Ok(Err(WsError::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err(refused_upgrade(response.status().as_u16(), body))
        }
        Ok(Err(WsError::Url(error))) => Err(address(error.to_string())),
        Ok(Err(error)) => Err(Dialled::Failed(Ending::lost(error))),
        Err(_) => Err(Dialled::Failed(Ending::lost("the server did not answer in time"))),
    }
}

fn refused_upgrade(status: u16, body: &[u8]) -> Dialled {
    if status == 401 {
        return Dialled::Unauthenticated;
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) if status < 500 && !problem.code.is_retryable() => {
            let detail = problem.detail.unwrap_or_default();
            Dialled::Failed(Ending::Rejected(SocketError::Refused { code: problem.code, detail }))
        }
        // Without a problem document it is not the server that speaks but something before it, which may change its mind.
        Ok(_) | Err(_) => Dialled::Failed(Ending::lost(format_args!("the server refused the connection with status {status}"))),
    }
}

impl Connection<'_> {
    fn now(&self) -> Duration {
        self.config.start.elapsed()
    }

    /// Answers the challenge and waits for the welcome.
    async fn introduce(&mut self) -> Result<(), Ending> {
        let ServerMessage::Challenge { nonce, .. } = self.expect().await? else {
            return Err(Ending::lost("the server did not begin with a challenge"));
        };
        let hello = ClientMessage::Hello {
            protocol: PROTOCOL_VERSION,
            terminal_id: self.config.terminal_id,
            signature: self.config.key.sign(&challenge_bytes(&nonce, self.config.terminal_id)),
            capabilities: self.config.capabilities,
            resume: self.memory.tracker.last(),
        };
        let asked_at = self.now();
        self.send(&hello).await?;
        match self.expect().await? {
            ServerMessage::Welcome { server_time, position, resumed, ice_servers, report_interval_ms } => {
                self.memory.welcomed = true;
                if !resumed || self.memory.tracker.last().is_none() {
                    self.memory.tracker.restart(position);
                }
                let report_interval = Duration::from_millis(u64::from(report_interval_ms));
                // The clock first: with the welcome come plans, and a plan needs the time.
                self.exchanged(asked_at, server_time).await?;
                self.tell(SocketEvent::Connected { resumed, ice_servers, report_interval }).await
            }
            ServerMessage::Error { code, detail, .. } if code.is_retryable() => Err(Ending::lost(format_args!("{code}: {detail}"))),
            ServerMessage::Error { code, detail, .. } => Err(Ending::Rejected(SocketError::Refused { code, detail })),
            ServerMessage::Challenge { .. }
            | ServerMessage::Clock { .. }
            | ServerMessage::Push { .. }
            | ServerMessage::Key { .. }
            | ServerMessage::Audit { .. }
            | ServerMessage::NoKey { .. } => Err(Ending::lost("the server did not answer the hello with a welcome")),
        }
    }

    /// The next message before the welcome.
    async fn expect(&mut self) -> Result<ServerMessage, Ending> {
        let deadline = Instant::now() + self.config.timing.handshake;
        loop {
            let message = tokio::time::timeout_at(deadline, self.stream.next())
                .await
                .map_err(|_| Ending::lost("the server did not answer in time"))?;
            match read(message)? {
                Some(text) => return serde_json::from_str(&text).map_err(Ending::lost),
                None => continue,
            }
        }
    }

    async fn serve(mut self, closing: watch::Receiver<bool>) -> Ending {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                message = self.stream.next() => self.take(message).await,
                () = self.outbox.added() => self.send_waiting().await,
                _ = tick.tick() => self.tick().await,
                () = super::asked_to_close(closing.clone()), if !*closing.borrow() => self.send_waiting().await,
            };
            if let Err(ending) = outcome {
                return ending;
            }
            if *closing.borrow() && !self.outbox.holds_what_must_arrive() {
                // The other end's answer to the close changes nothing any more.
                let _ = timeout(self.config.timing.heartbeat, self.stream.close(None)).await;
                return Ending::Closed;
            }
        }
    }

    async fn take(&mut self, message: Option<Result<Message, WsError>>) -> Result<(), Ending> {
        self.heard_at = Instant::now();
        let Some(text) = read(message)? else { return Ok(()) };
        self.config.line.took_beside(0, text.len());
        let message = match serde_json::from_str(&text) {
            Ok(message) => message,
            Err(error) => {
                // A newer server may say what this terminal does not know. If it mattered, the position of the next push shows the gap.
                tracing::debug!(%error, "a message of the server cannot be read");
                return Ok(());
            }
        };
        match message {
            ServerMessage::Push { position, message } => self.take_push(position, message).await,
            ServerMessage::Clock { sent_at, server_time } => {
                if self.outbox.clock_answered(sent_at) {
                    self.again_after.reset();
                }
                self.exchanged(Duration::from_micros(sent_at), server_time).await?;
                self.send_barrier().await
            }
            ServerMessage::Key { swarm_id, envelope } => {
                let envelope = STANDARD.decode(envelope).unwrap_or_default();
                self.tell(SocketEvent::Key { swarm_id, envelope }).await
            }
            ServerMessage::Audit { question } => self.tell(SocketEvent::Audit(question)).await,
            ServerMessage::NoKey { swarm_id, code } => self.tell(SocketEvent::NoKey { swarm_id, code }).await,
            ServerMessage::Error { code, detail, pointer } => {
                if code.is_retryable() && self.outbox.keep_back() && self.again_at.is_none() {
                    self.again_at = Some(Instant::now() + self.again_after.wait());
                }
                self.tell(SocketEvent::Refused { code, detail, pointer }).await
            }
            ServerMessage::Challenge { .. } | ServerMessage::Welcome { .. } => Err(Ending::lost("the server introduced itself twice")),
        }
    }

    async fn take_push(&mut self, position: PushPosition, message: PushMessage) -> Result<(), Ending> {
        match self.memory.tracker.observe(position) {
            Verdict::Repeat => return Ok(()),
            Verdict::Next => {}
            Verdict::Gap => self.outbox.sync(),
        }
        if message == PushMessage::Reload {
            self.outbox.sync();
        }
        self.tell(SocketEvent::Push(message)).await
    }

    async fn exchanged(&mut self, sent: Duration, server_time: TimestampMs) -> Result<(), Ending> {
        let received = self.now();
        match self.memory.clock.exchange(sent, received, server_time) {
            Some(clock) => self.tell(SocketEvent::Clock(clock)).await,
            None => Ok(()),
        }
    }

    async fn tell(&self, event: SocketEvent) -> Result<(), Ending> {
        self.events.send(event).await.map_err(|_| Ending::Unheard)
    }

    async fn tick(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        if now >= self.heard_at + self.config.timing.silence {
            return Err(Ending::lost("the server was not heard any more"));
        }
        if self.again_at.is_some_and(|at| now >= at) {
            self.again_at = None;
            self.outbox.send_again();
        }
        if now >= self.clock_due {
            self.clock_burst_left = self.clock_burst_left.saturating_sub(1);
            let wait = if self.clock_burst_left > 0 { self.config.timing.clock_burst_every } else { self.config.timing.clock_every };
            self.clock_due = now + wait;
            self.ask_clock().await?;
        }
        if now >= self.sent_at + self.config.timing.heartbeat {
            self.put(Message::Ping(bytes::Bytes::new())).await?;
        }
        Ok(())
    }

    async fn ask_clock(&mut self) -> Result<(), Ending> {
        let sent_at = u64::try_from(self.now().as_micros()).unwrap_or(u64::MAX);
        self.outbox.begin_barrier(sent_at);
        self.send(&ClientMessage::Clock { sent_at }).await
    }

    /// Sends everything that waits.
    async fn send_waiting(&mut self) -> Result<(), Ending> {
        while let Some(message) = self.outbox.take() {
            self.send(&message).await?;
        }
        self.send_barrier().await
    }

    /// Asks for the time behind receipts and notices: the answer proves that they were read.
    async fn send_barrier(&mut self) -> Result<(), Ending> {
        let sent_at = u64::try_from(self.now().as_micros()).unwrap_or(u64::MAX);
        if self.outbox.begin_barrier(sent_at) {
            self.send(&ClientMessage::Clock { sent_at }).await?;
        }
        Ok(())
    }

    async fn send(&mut self, message: &ClientMessage) -> Result<(), Ending> {
        let text = serde_json::to_string(message).map_err(Ending::lost)?;
        self.put(Message::text(text)).await
    }

    async fn put(&mut self, message: Message) -> Result<(), Ending> {
        self.config.line.took_beside(message.len() + FRAME_HEADER_BYTES, 0);
        let sent = timeout(self.config.timing.silence, self.stream.send(message)).await;
        sent.map_err(|_| Ending::lost("the server does not read any more"))?.map_err(Ending::lost)?;
        self.sent_at = Instant::now();
        Ok(())
    }
}

/// The text of a message, `None` for one without, an ending for the end.
fn read(message: Option<Result<Message, WsError>>) -> Result<Option<String>, Ending> {
    match message {
        Some(Ok(Message::Text(text))) => Ok(Some(text.as_str().to_owned())),
        Some(Ok(Message::Close(Some(frame)))) if frame.reason.starts_with(REPLACED) => Err(Ending::Rejected(SocketError::Replaced)),
        Some(Ok(Message::Close(Some(frame)))) => Err(Ending::lost(format_args!("the server closed: {} {}", frame.code, frame.reason))),
        Some(Ok(Message::Close(None))) | None => Err(Ending::lost("the server closed the connection")),
        Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(None),
        Some(Err(error)) => Err(Ending::lost(error)),
    }
}
