//! A server that plays one release from memory: one root group, fully meshed, fed by leases. It keeps to the rules of the real one as far as a terminal
//! can see (a chunk only against a lease, receipts checked, settled when all bits are there), so that a whole transfer runs through the engine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use protocol::bitmap::ChunkSet;
use protocol::manifest::{ChunkEntry, FileEntry, Manifest};
use protocol::plan_change::PlanChange;
use protocol::receipt::Receipt;
use protocol::ws::*;
use protocol::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

/// Half a round trip on a busy machine.
const CLOCK_ERROR_MS: u64 = 100;
pub(crate) const CHUNK: usize = 64 << 10;
const SWARM: SwarmId = SwarmId::from_bytes([1; 16]);
pub(crate) const RELEASE: ReleaseId = ReleaseId::from_bytes([2; 16]);

/// Reproducible bytes without repetition.
pub(crate) fn content(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn key(terminal: u8) -> TerminalKey {
    TerminalKey::from_secret(&[terminal; 32])
}

pub(crate) fn id(terminal: u8) -> TerminalId {
    TerminalId::from_bytes([terminal; 16])
}

fn delivery(terminal: u8) -> DeliveryId {
    DeliveryId::from_bytes([terminal; 16])
}

#[derive(Debug, Default)]
struct State {
    terminals: Vec<u8>,
    opens_at: TimestampMs,
    sessions: BTreeMap<TerminalId, mpsc::UnboundedSender<PushMessage>>,
    next: u32,
    returned: VecDeque<u32>,
    leases: BTreeMap<u32, TerminalId>,
    /// How often the origin has sent each chunk.
    sent: BTreeMap<u32, u32>,
    /// What each terminal has signed for, by source.
    credited: BTreeMap<TerminalId, BTreeMap<u32, TerminalId>>,
    settled: BTreeSet<TerminalId>,
    problems: Vec<String>,
    suspects: Vec<(TerminalId, TerminalId, SuspectReason)>,
    /// Chunks of which the origin's first copy arrives changed.
    corrupt_once: BTreeSet<u32>,
}

/// The running release.
pub(crate) struct Release {
    pub(crate) address: String,
    pub(crate) manifest: Arc<Manifest>,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Release {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Server {
    content: Arc<Vec<u8>>,
    manifest: Arc<Manifest>,
    state: Arc<Mutex<State>>,
}

pub(crate) fn now() -> TimestampMs {
    TimestampMs(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap())
}

impl Release {
    /// A release of `content` as one file to the terminals with these numbers, which opens after `delay`.
    pub(crate) async fn start(content: Vec<u8>, terminals: &[u8], delay: Duration) -> Self {
        let chunk = |bytes: &[u8]| ChunkEntry { length: u32::try_from(bytes.len()).unwrap(), hash: Blake3::of(bytes) };
        let manifest = Arc::new(Manifest {
            directory: false,
            length: Bytes(content.len() as u64),
            blake3: Blake3::of(&content),
            files: vec![FileEntry { path: "film.bin".into(), length: Bytes(content.len() as u64), executable: false }],
            chunks: content.chunks(CHUNK).map(chunk).collect(),
        });
        let opens_at = TimestampMs(now().0 + u64::try_from(delay.as_millis()).unwrap());
        let state = Arc::new(Mutex::new(State { terminals: terminals.to_vec(), opens_at, ..State::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Server { content: Arc::new(content), manifest: Arc::clone(&manifest), state: Arc::clone(&state) };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream));
            }
        });
        Self { address, manifest, state, task }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Payload chunks that the origin has sent, and how often the most frequent one.
    pub(crate) fn origin_sent(&self) -> (u32, u32) {
        let state = self.state();
        (state.sent.values().sum(), state.sent.values().copied().max().unwrap_or(0))
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.state().problems.clone()
    }

    pub(crate) fn suspects(&self) -> Vec<(TerminalId, TerminalId, SuspectReason)> {
        self.state().suspects.clone()
    }

    /// From whom a terminal says that it has its chunks.
    pub(crate) fn sources(&self, terminal: u8) -> BTreeMap<TerminalId, u32> {
        let mut counts = BTreeMap::new();
        for source in self.state().credited.entry(id(terminal)).or_default().values() {
            *counts.entry(*source).or_default() += 1;
        }
        counts
    }

    pub(crate) fn corrupt_once(&self, chunk: u32) {
        self.state().corrupt_once.insert(chunk);
    }

    /// Cuts a terminal's WebSocket.
    pub(crate) fn cut(&self, terminal: u8) {
        self.state().sessions.remove(&id(terminal));
    }

    /// Tells a terminal its plan once more.
    pub(crate) fn plan_again(&self, terminal: u8) {
        let state = self.state();
        state.push(id(terminal), PushMessage::Plan(Box::new(state.plan(id(terminal), self.manifest.edition_id()))));
    }

    /// Tells a terminal that its plan of epoch `from` is the one of epoch `to`, and nothing else became different.
    pub(crate) fn change_plan(&self, terminal: u8, from: u64, to: u64) {
        let state = self.state();
        let before = SwarmPlan { epoch: from, ..state.plan(id(terminal), self.manifest.edition_id()) };
        let change = PlanChange::between(&before, &SwarmPlan { epoch: to, ..before.clone() }).unwrap();
        state.push(id(terminal), PushMessage::PlanChange(Box::new(change)));
    }

    /// Tells a terminal a plan for another release, whose edition nobody has.
    pub(crate) fn plan_without_edition(&self, terminal: u8, release_id: ReleaseId) {
        let state = self.state();
        let plan = state.plan(id(terminal), EditionId([77; 32]));
        let plan = SwarmPlan { release_id, swarm_id: SwarmId::from_bytes([88; 16]), ..plan };
        state.push(id(terminal), PushMessage::Plan(Box::new(plan)));
    }

    /// Ends the release for everybody.
    pub(crate) fn leave(&self, reason: LeaveReason) {
        let state = self.state();
        for session in state.sessions.values() {
            let _ = session.send(PushMessage::Leave { swarm_id: SWARM, reason });
        }
    }
}

impl State {
    fn plan(&self, terminal: TerminalId, edition_id: EditionId) -> SwarmPlan {
        let peer = |&number: &u8| Peer {
            terminal_id: id(number),
            public_key: key(number).public(),
            delivery_id: delivery(number),
            up: BitsPerSecond::from_mbit(100),
        };
        SwarmPlan {
            release_id: RELEASE,
            swarm_id: SWARM,
            edition_id,
            delivery_id: DeliveryId::from_bytes(terminal.to_bytes()),
            epoch: 1,
            rank: 1,
            opens_at: self.opens_at,
            deadline_at: TimestampMs(self.opens_at.0 + 3_600_000),
            group_id: GroupId::from_bytes([3; 16]),
            root: true,
            members: self.terminals.iter().filter(|number| id(**number) != terminal).map(peer).collect(),
            parents: vec![],
            children: vec![],
            serves: vec![],
            sealed: None,
        }
    }

    fn push(&self, to: TerminalId, message: PushMessage) {
        if let Some(session) = self.sessions.get(&to) {
            let _ = session.send(message);
        }
    }

    /// As the real server: an offer to somebody who is not connected is declined.
    fn signal(&self, from: TerminalId, to: TerminalId, signal: Signal) {
        if let (Signal::Offer { session, .. }, false) = (&signal, self.sessions.contains_key(&to)) {
            let signal = Signal::Decline { session: *session };
            return self.push(from, PushMessage::Signal { from: to, signal });
        }
        self.push(to, PushMessage::Signal { from, signal });
    }

    fn credits(&mut self, from: TerminalId, open: u32, chunks: u32) {
        if now().0 + CLOCK_ERROR_MS < self.opens_at.0 {
            self.problems.push(format!("{from} asked before the opening"));
        }
        let mut granted = Vec::new();
        while granted.len() < open as usize
            && let Some(chunk) = self.returned.pop_front().or_else(|| (self.next < chunks).then_some(self.next))
        {
            self.next = self.next.max(chunk + 1);
            self.leases.insert(chunk, from);
            granted.push(chunk);
        }
        if !granted.is_empty() {
            let expires_at = TimestampMs(now().0 + 15_000);
            self.push(from, PushMessage::Grant { swarm_id: SWARM, kind: GrantKind::FirstCopy, chunks: granted, expires_at });
        }
    }

    fn receipt(&mut self, text: &str, manifest: &Manifest) {
        let receipt = Receipt::unpack(&STANDARD.decode(text).unwrap()).unwrap();
        let body = &receipt.body;
        let receiver = body.receiver;
        let Some(number) = self.terminals.iter().copied().find(|number| id(*number) == receiver) else {
            return self.problems.push(format!("a receipt of {receiver}"));
        };
        if !receipt.is_signed_by(&key(number).public()) || body.delivery_id != delivery(number) || body.source == receiver {
            return self.problems.push(format!("a wrong receipt of {number}"));
        }
        let credited = self.credited.entry(receiver).or_default();
        for chunk in body.chunks() {
            let source = *credited.entry(chunk).or_insert(body.source);
            if source != body.source {
                self.problems.push(format!("{number} signed chunk {chunk} for {source} and {}", body.source));
            }
        }
        if credited.len() == manifest.chunks.len() && self.settled.insert(receiver) {
            let settled = PushMessage::Settled { swarm_id: SWARM, delivery_id: delivery(number), charged: Amount(100), earned: Amount(0) };
            self.push(receiver, settled);
            if self.settled.len() == self.terminals.len() {
                for number in &self.terminals {
                    self.push(id(*number), PushMessage::Leave { swarm_id: SWARM, reason: LeaveReason::Settled });
                }
            }
        }
    }

    fn missing(&mut self, from: TerminalId, chunks: &[u32]) {
        let others = self.credited.iter().filter(|(terminal, _)| **terminal != from && self.sessions.contains_key(terminal));
        let held: ChunkSet = others.flat_map(|(_, credited)| credited.keys().copied()).collect();
        let (refused, granted): (Vec<u32>, Vec<u32>) =
            chunks.iter().partition(|chunk| held.contains(**chunk) || self.leases.get(chunk).is_some_and(|holder| *holder != from));
        if !granted.is_empty() {
            for chunk in &granted {
                self.leases.insert(*chunk, from);
            }
            let expires_at = TimestampMs(now().0 + 15_000);
            self.push(from, PushMessage::Grant { swarm_id: SWARM, kind: GrantKind::Repair, chunks: granted, expires_at });
        }
        if !refused.is_empty() {
            self.push(from, PushMessage::RepairRefused { swarm_id: SWARM, chunks: refused, code: ErrorCode::Conflict });
        }
    }

    /// The terminal is gone: what it leased and never got is handed out again.
    fn gone(&mut self, terminal: TerminalId) {
        self.sessions.remove(&terminal);
        let held = self.credited.get(&terminal).cloned().unwrap_or_default();
        let leased: Vec<u32> = self.leases.iter().filter(|(_, holder)| **holder == terminal).map(|(chunk, _)| *chunk).collect();
        for chunk in leased {
            self.leases.remove(&chunk);
            if !held.contains_key(&chunk) {
                self.returned.push_back(chunk);
            }
        }
    }
}

impl Server {
    async fn serve(self, mut stream: TcpStream) {
        let mut start = [0; 10];
        while stream.peek(&mut start).await.is_ok_and(|len| len < start.len() && len > 0) {
            tokio::task::yield_now().await;
        }
        if start.starts_with(b"GET /v1/ws") {
            return self.websocket(stream).await;
        }
        let mut head = Vec::new();
        loop {
            // One connection carries many requests.
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let text = String::from_utf8_lossy(&head).into_owned();
            head.clear();
            let (status, body) = self.answer(&text);
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
            if stream.write_all(&[answer.as_bytes(), &body].concat()).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, head: &str) -> (u16, Vec<u8>) {
        let path = head.split_whitespace().nth(1).unwrap_or_default();
        if path.ends_with(&format!("{}/manifest", self.manifest.edition_id())) {
            return (200, self.manifest.encode());
        }
        let Some(chunk) = path.strip_prefix(&format!("/v1/swarms/{SWARM}/chunks/")).and_then(|index| index.parse::<u32>().ok()) else {
            let problem = Problem::new(ErrorCode::NotFound, RequestId::from_bytes([0; 16]));
            return (404, serde_json::to_vec(&problem).unwrap());
        };
        let terminal = head.lines().find_map(|line| line.strip_prefix("spillway-terminal: ")).unwrap().parse::<TerminalId>().unwrap();
        let mut state = self.state.lock().unwrap();
        if state.leases.get(&chunk) != Some(&terminal) {
            let problem = Problem::new(ErrorCode::NoLease, RequestId::from_bytes([0; 16]));
            return (403, serde_json::to_vec(&problem).unwrap());
        }
        *state.sent.entry(chunk).or_default() += 1;
        let start = chunk as usize * CHUNK;
        let mut bytes = self.content[start..(start + CHUNK).min(self.content.len())].to_vec();
        if state.corrupt_once.remove(&chunk) {
            bytes[0] ^= 1;
        }
        (200, bytes)
    }

    async fn websocket(self, stream: TcpStream) {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let say = |message: ServerMessage| Message::text(serde_json::to_string(&message).unwrap());
        let nonce = Blake3([9; 32]);
        let _ = socket.send(say(ServerMessage::Challenge { nonce, server_time: now() })).await;
        let Some(Ok(Message::Text(hello))) = socket.next().await else { return };
        let Ok(ClientMessage::Hello { terminal_id, signature, .. }) = serde_json::from_str(hello.as_str()) else { return };
        let number = terminal_id.to_bytes()[0];
        assert!(key(number).public().verifies(&challenge_bytes(&nonce, terminal_id), &signature));
        let position = PushPosition { epoch: now().0, offset: 0 };
        let welcome = ServerMessage::Welcome { server_time: now(), position, resumed: false, ice_servers: vec![], report_interval_ms: 100 };
        let _ = socket.send(say(welcome)).await;
        let (pushes, mut pushed) = mpsc::unbounded_channel();
        {
            let mut state = self.state.lock().unwrap();
            let plan = state.plan(terminal_id, self.manifest.edition_id());
            let _ = pushes.send(PushMessage::Plan(Box::new(plan)));
            state.sessions.insert(terminal_id, pushes);
        }
        let mut offset = 0;
        loop {
            let message = tokio::select! {
                biased;
                message = pushed.recv() => {
                    let Some(message) = message else { break };
                    offset += 1;
                    let position = PushPosition { offset, ..position };
                    if socket.send(say(ServerMessage::Push { position, message })).await.is_err() {
                        break;
                    }
                    continue;
                }
                message = socket.next() => message,
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    if let Some(answer) = self.take(terminal_id, serde_json::from_str(text.as_str()).unwrap()) {
                        let _ = socket.send(say(answer)).await;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            }
        }
        drop(pushed);
        let mut state = self.state.lock().unwrap();
        if state.sessions.get(&terminal_id).is_none_or(mpsc::UnboundedSender::is_closed) {
            state.gone(terminal_id);
        }
    }

    fn take(&self, from: TerminalId, message: ClientMessage) -> Option<ServerMessage> {
        let mut state = self.state.lock().unwrap();
        match message {
            ClientMessage::Clock { sent_at } => return Some(ServerMessage::Clock { sent_at, server_time: now() }),
            ClientMessage::Credits { open, .. } => state.credits(from, open, self.manifest.chunk_count()),
            ClientMessage::Receipts { receipts } => receipts.iter().for_each(|receipt| state.receipt(receipt, &self.manifest)),
            ClientMessage::Missing { chunks, .. } => state.missing(from, &chunks),
            ClientMessage::Signal { to, signal } => state.signal(from, to, signal),
            ClientMessage::Suspect { terminal_id, reason, .. } => state.suspects.push((from, terminal_id, reason)),
            // Nothing that this server sends is sealed, and nobody asks it for anything on demand.
            ClientMessage::WantKey { swarm_id } => return Some(ServerMessage::NoKey { swarm_id, code: ErrorCode::NotInSwarm }),
            ClientMessage::Holds { .. } => {}
            ClientMessage::Sync => state.push(from, PushMessage::Plan(Box::new(state.plan(from, self.manifest.edition_id())))),
            ClientMessage::Notices { .. }
            | ClientMessage::Holdings { .. }
            | ClientMessage::Audited { .. }
            | ClientMessage::Progress { .. }
            | ClientMessage::Hello { .. } => {}
        }
        None
    }
}
