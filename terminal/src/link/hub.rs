//! What carries the packets of all links of an endpoint. It drives the library's connections, which do no I/O of their own, over a few shared
//! sockets: one per local address, whatever the number of links. So two endpoints have one link between them at a time, and one that is opened anew takes
//! the place of the one before.
//!
//! **Where it runs.** On a slow line as a task of the endpoint's runtime: what comes is handed on within the same thread, and nobody has to be woken for it.
//! On a fast line, or one whose rate nobody knows, in a thread of its own, so that packets move while chunks are verified and stored.
//!
//! **Rests.** On a path that is slower than the machine packets arrive one by one, and a wake-up for each costs more than all that is done with it: 100 s of
//! processor time per GiB on a terminal with fifteen links at 10 Mbit/s, where packets out of bursts cost 8. So after each pass the hub rests: what comes or
//! is to be sent meanwhile is handled in one go, and acknowledged once. A packet after silence is not delayed, and a hub that never runs out of packets never
//! rests. The slower the packets come, the longer the rest ([`rests`]).

mod candidates;
mod carried;
mod rests;
mod routes;
mod servers;
mod session;
mod sockets;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc::shared::TaggedBytesMut;
use tokio::runtime::{Builder, Handle as Runtime};
use tokio::sync::{mpsc, oneshot, watch};

use self::carried::Carried;
use self::rests::{Place, Rests};
use self::routes::Routes;
use self::servers::Servers;
pub(super) use self::servers::{Credentials, Server};
use self::session::Session;
pub(super) use self::session::Settings;
pub(super) use self::sockets::enlarge;
use self::sockets::{Full, Sockets};
use super::channel::{Calls, Channel, Handle, LinkId};
use super::description;
use super::error::LinkError;
use super::line::Line;
use super::warnings::Warnings;

/// Requests of endpoints that wait for the hub. Each waits for its answer, so a few are enough.
const REQUESTS: usize = 16;
/// Messages that a receiver has not taken yet. What comes beyond stays in the library, whose window shuts.
const INBOX_MESSAGES: usize = 64;
/// Packets that wait for sockets before the links are asked for no more, and nothing more is read.
const OUTBOX_PACKETS: usize = 1024;

/// How an endpoint speaks to its hub, which ends when the last clone and the last link are gone.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    requests: mpsc::Sender<Request>,
    /// Closed when the hub has ended.
    running: watch::Receiver<()>,
}

/// A link that has its description and waits for the other end.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) sdp: String,
    pub(super) id: LinkId,
    pub(super) handle: Handle,
    pub(super) inbox: mpsc::Receiver<Bytes>,
    /// Told when the channel is open.
    pub(super) opened: oneshot::Receiver<()>,
}

/// What a new link is made from.
pub(super) struct Opening {
    /// The other end's text; none for the end that offers.
    pub(super) offer: Option<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) servers: Vec<Server>,
    /// Offer the other end nothing but addresses of TURN servers.
    pub(super) turn_only: bool,
    /// How long to wait for the servers.
    pub(super) gather_within: Duration,
    /// The longest packets, in bytes of SCTP.
    pub(super) packet_bytes: u32,
}

enum Request {
    Open { opening: Opening, reply: oneshot::Sender<Result<Described, LinkError>> },
    Answer { id: LinkId, answer: String, reply: oneshot::Sender<Result<(), LinkError>> },
}

impl Hub {
    /// Starts the hub: on the runtime of the caller if the line is slow and there is one, else in a thread of its own.
    ///
    /// # Errors
    /// [`LinkError::Transport`] if the machine gives no thread.
    pub(super) fn start(settings: Settings, line: Line, warnings: Warnings) -> Result<Self, LinkError> {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let (alive, running) = watch::channel(());
        match Runtime::try_current() {
            Ok(runtime) if settings.slow => {
                runtime.spawn(async move {
                    Reactor::new(settings, line, warnings, receiver).run(Place::Shared).await;
                    drop(alive);
                });
            }
            Ok(_) | Err(_) => {
                let runtime = Builder::new_current_thread().enable_all().build().map_err(session::transport)?;
                std::thread::Builder::new()
                    .name("links".to_owned())
                    .spawn(move || {
                        runtime.block_on(Reactor::new(settings, line, warnings, receiver).run(Place::Own));
                        drop(alive);
                    })
                    .map_err(session::transport)?;
            }
        }
        Ok(Self { requests, running })
    }

    /// Waits, once the last other clone and all links are gone, until the hub has said what it had to say and has ended.
    pub(super) async fn ended(self) {
        let Self { requests, mut running } = self;
        drop(requests);
        while running.changed().await.is_ok() {}
    }

    pub(super) async fn open(&self, opening: Opening) -> Result<Described, LinkError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Open { opening, reply }, answer).await
    }

    /// Gives link `id` the other end's answer.
    pub(super) async fn answer(&self, id: LinkId, text: String) -> Result<(), LinkError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Answer { id, answer: text, reply }, answer).await
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<Result<T, LinkError>>) -> Result<T, LinkError> {
        let stopped = || LinkError::Transport("what carries the links has stopped".to_owned());
        self.requests.send(request).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// A link whose servers have not answered yet.
struct Gathering {
    id: LinkId,
    described: Described,
    until: Instant,
    patience: Duration,
    locals: Vec<SocketAddr>,
    turn_only: bool,
    reply: oneshot::Sender<Result<Described, LinkError>>,
}

struct Reactor {
    settings: Settings,
    requests: mpsc::Receiver<Request>,
    /// Whether endpoints may still ask.
    asked: bool,
    calls: Arc<Calls>,
    line: Line,
    carried: Option<Carried>,
    sockets: Sockets,
    servers: Servers,
    routes: Routes,
    sessions: BTreeMap<LinkId, Session>,
    gathering: Vec<Gathering>,
    next_id: u64,
    outbox: VecDeque<TaggedBytesMut>,
    /// What the outbox waits for.
    full: Option<Full>,
    rests: Rests,
}

impl Reactor {
    fn new(settings: Settings, line: Line, warnings: Warnings, requests: mpsc::Receiver<Request>) -> Self {
        let servers = Servers::new(Arc::clone(&settings.crypto), warnings);
        Self {
            settings,
            requests,
            asked: true,
            calls: Arc::default(),
            carried: Carried::new(line.rate(), Instant::now()),
            sockets: Sockets::new(line.clone()),
            line,
            servers,
            routes: Routes::default(),
            sessions: BTreeMap::new(),
            gathering: Vec::new(),
            next_id: 0,
            outbox: VecDeque::new(),
            full: None,
            rests: Rests::new(Instant::now()),
        }
    }

    async fn run(mut self, place: Place) {
        let mut packets = Vec::new();
        while self.asked || !self.sessions.is_empty() {
            let request = self.wait().await;
            let now = Instant::now();
            if let Some(request) = request {
                self.request(request, now);
            }
            while let Ok(request) = self.requests.try_recv() {
                self.request(request, now);
            }
            // What is not read waits in the kernel, which drops what is too much.
            let more = self.outbox.len() < OUTBOX_PACKETS && self.sockets.read(now, &mut packets);
            let handled = packets.len() + self.pass(now, &mut packets);
            if !more {
                self.rest_after(handled, place).await;
            }
        }
    }

    /// Waits until there is something to do; returns a request if that is what woke it.
    async fn wait(&mut self) -> Option<Request> {
        let deadline = self.deadline();
        let (sockets, full) = (&self.sockets, self.full);
        let readable = std::future::poll_fn(|context| sockets.poll_readable(context));
        let writable = std::future::poll_fn(|context| match full {
            Some(Full::Socket(address)) => sockets.poll_writable(address, context),
            Some(Full::Line(_)) | None => std::task::Poll::Pending,
        });
        tokio::select! {
            request = self.requests.recv(), if self.asked => {
                self.asked = request.is_some();
                request
            }
            () = self.calls.called() => None,
            () = readable => None,
            () = writable => None,
            () = tokio::time::sleep_until(deadline.into()), if !self.sessions.is_empty() => None,
        }
    }

    fn deadline(&mut self) -> Instant {
        let sessions = self.sessions.values().map(|session| session.deadline);
        let gathering = self.gathering.iter().map(|gathering| gathering.until);
        let line = match self.full {
            Some(Full::Line(until)) => Some(until),
            Some(Full::Socket(_)) | None => None,
        };
        let now = Instant::now();
        sessions.chain(gathering).chain(self.servers.deadline()).chain(line).min().unwrap_or(now).max(now)
    }

    /// One pass over everything that has something to do. Returns how many packets it sent.
    fn pass(&mut self, now: Instant, packets: &mut Vec<TaggedBytesMut>) -> usize {
        let mut due: Vec<LinkId> = self.calls.take();
        for id in &due {
            if let Some(session) = self.sessions.get(id) {
                session.channel.answered();
            }
        }
        let mut came: Vec<LinkId> = Vec::new();
        let mut relayed = Vec::new();
        for packet in packets.drain(..) {
            if let Some(packet) = self.servers.packet(packet, &mut relayed) {
                came.extend(self.inbound(packet));
            }
        }
        self.servers.round(now);
        came.extend(relayed.into_iter().filter_map(|packet| self.inbound(packet)));
        came.sort_unstable();
        came.dedup();
        self.describe(now);
        let slow = self.rests.is_slow();
        let holds = |session: &Session| slow && session.holds(now);
        let held = |id: &LinkId, session: &Session| came.binary_search(id).is_ok() && holds(session);
        due.extend(came.iter().filter(|id| self.sessions.get(id).is_some_and(|session| !holds(session))));
        due.extend(self.sessions.iter().filter(|(id, session)| session.deadline <= now && !held(id, session)).map(|(id, _)| *id));
        due.sort_unstable();
        due.dedup();
        if self.outbox.len() < OUTBOX_PACKETS {
            for id in due {
                self.round(id, now);
            }
        } else {
            // Their sockets are full: they are asked again when there is room.
            due.iter().filter_map(|id| self.sessions.get(id)).for_each(|session| session.channel.call());
        }
        self.servers.flush(now, &mut self.outbox);
        let sent = self.outbox.len();
        self.full = self.sockets.send(&mut self.outbox);
        if let Some(carried) = &mut self.carried {
            let links: Vec<_> = self.sessions.values().map(|session| session.channel.carried(now)).collect();
            self.line.crowd(carried.note(&links, self.sockets.take_sent(), now));
            self.sockets.set_pace(carried.pace());
        }
        if self.sessions.is_empty() && self.gathering.is_empty() {
            self.let_go(now);
        }
        sent - self.outbox.len()
    }

    fn inbound(&mut self, packet: TaggedBytesMut) -> Option<LinkId> {
        let pair = (packet.transport.local_addr, packet.transport.peer_addr);
        let id = self.routes.inbound(pair, &packet.message)?;
        let session = self.sessions.get_mut(&id)?;
        session.packet(packet);
        Some(id)
    }

    fn round(&mut self, id: LinkId, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let mut packets = VecDeque::new();
        let channel = Arc::clone(&session.channel);
        let over = guarded(&channel, || session.round(now, &mut packets)).unwrap_or(true);
        for packet in packets {
            self.routes.outbound((packet.transport.local_addr, packet.transport.peer_addr), id);
            self.outbox.extend(self.servers.outbound(packet));
        }
        if over {
            self.sessions.remove(&id);
            self.routes.remove(id);
            channel.gone();
        }
    }

    fn request(&mut self, request: Request, now: Instant) {
        match request {
            Request::Open { opening, reply } => match self.open(&opening, now) {
                Ok((described, locals)) => {
                    let Opening { gather_within: patience, turn_only, .. } = opening;
                    let (id, until) = (described.id, now + patience);
                    self.gathering.push(Gathering { id, described, until, patience, locals, turn_only, reply });
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::Answer { id, answer, reply } => {
                let outcome = match self.sessions.get_mut(&id) {
                    Some(session) => {
                        let channel = Arc::clone(&session.channel);
                        let refused = || LinkError::Description("the library cannot take it".to_owned());
                        guarded(&channel, || session.answered(&answer, now)).unwrap_or_else(|| Err(refused()))
                    }
                    None => Err(LinkError::Transport("the link is gone".to_owned())),
                };
                if let Some(session) = self.sessions.get(&id) {
                    session.channel.call();
                }
                let _ = reply.send(outcome);
            }
        }
    }

    fn open(&mut self, opening: &Opening, now: Instant) -> Result<(Described, Vec<SocketAddr>), LinkError> {
        let locals = self.sockets.bind(&opening.addresses)?;
        self.servers.ask(&opening.servers, &locals, now);
        self.next_id += 1;
        let id = LinkId(self.next_id);
        let channel = Arc::new(Channel::new(id, Arc::clone(&self.calls)));
        let handle = Handle::new(Arc::clone(&channel));
        let (inbox_sender, inbox) = mpsc::channel(INBOX_MESSAGES);
        let (opened_sender, opened) = oneshot::channel();
        let engine = self.settings.engine(session::is_loopback(&locals), opening.packet_bytes);
        let made = || Session::new(engine, opening.offer.as_deref(), Arc::clone(&channel), inbox_sender, opened_sender, now);
        let refused = || LinkError::Description("the library cannot take it".to_owned());
        let session = guarded(&channel, made).unwrap_or_else(|| Err(refused()))?;
        self.sessions.insert(id, session);
        Ok((Described { sdp: String::new(), id, handle, inbox, opened }, locals))
    }

    /// Gives those links their descriptions whose servers have answered or have had their time.
    fn describe(&mut self, now: Instant) {
        for gathering in std::mem::take(&mut self.gathering) {
            if now < gathering.until && !self.servers.settled(now, gathering.patience) {
                self.gathering.push(gathering);
                continue;
            }
            let Gathering { id, mut described, until: _, patience: _, locals, turn_only, reply } = gathering;
            let outcome = self.description(id, &locals, turn_only).map(|sdp| {
                described.sdp = sdp;
                described
            });
            // If nobody waits any more, the handle ends the link.
            let _ = reply.send(outcome);
        }
    }

    fn description(&mut self, id: LinkId, locals: &[SocketAddr], turn_only: bool) -> Result<String, LinkError> {
        let gone = || LinkError::Transport("the link is gone".to_owned());
        let session = self.sessions.get_mut(&id).ok_or_else(gone)?;
        let mut candidates = Vec::new();
        for local in locals.iter().filter(|_| !turn_only) {
            candidates.push(candidates::host(*local).map_err(session::transport)?);
        }
        candidates.extend(self.servers.candidates(turn_only));
        if turn_only && candidates.is_empty() {
            return Err(LinkError::NoTurnAddress);
        }
        let sdp = session.describe(candidates)?;
        let fragment = description::user_name_fragment(&sdp).ok_or_else(|| LinkError::Transport("no user name fragment".to_owned()))?;
        self.routes.add(id, fragment.to_owned());
        Ok(sdp)
    }

    /// There is no link: addresses at servers are given back and sockets closed, so that the next link finds the machine's addresses of its day.
    fn let_go(&mut self, now: Instant) {
        self.servers.close(now, &mut self.outbox);
        self.sockets.send_last(&mut self.outbox);
        self.full = None;
        self.sockets.close();
    }

    async fn rest_after(&mut self, packets: usize, place: Place) {
        if packets == 0 && self.outbox.is_empty() {
            return;
        }
        rests::take(self.rests.after(packets, Instant::now()), place).await;
    }
}

/// Runs what the library does for one link. A panic there ends that link and no other.
fn guarded<T>(channel: &Channel, work: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(work)).ok();
    if outcome.is_none() {
        tracing::error!("the library has panicked; the link is closed");
        channel.end(super::error::CloseReason::Lost);
    }
    outcome
}
