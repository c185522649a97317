//! Decides which links to open, keep and close. It never waits for a peer or a swarm: whatever takes time runs in tasks of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use protocol::ws::{IceServer, Signal, SuspectReason};
use protocol::{SwarmId, TerminalId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::early::{EarlyOffer, EarlyOffers};
use super::opening::{OpenError, Opener, Path};
use super::routes::{LinkMap, Route, Routes, SwarmEnd};
use super::running::{End, LinkHandle, Prepared, Surroundings};
use super::{LinksConfig, PlannedPeer};
use crate::backoff::Backoff;
use crate::link::{Endpoint, Link};
use crate::socket::Outbox;

/// A link that lived this long has shown that it works: its next attempt comes soon again.
const PROVEN_AFTER: Duration = Duration::from_secs(10);
/// Numbers that JSON carries exactly.
const SESSION_BITS: u32 = 53;

pub(super) enum Command {
    Plan { end: SwarmEnd, epoch: u64, peers: Vec<PlannedPeer> },
    Leave { swarm: SwarmId },
    Block { swarm: SwarmId, peer: TerminalId },
    Restart { swarm: SwarmId },
    Signal { from: TerminalId, signal: Signal },
    IceServers(Vec<IceServer>),
    ShutDown { deadline: Instant, done: oneshot::Sender<()> },
}

struct PlannedSwarm {
    end: SwarmEnd,
    epoch: u64,
    peers: BTreeMap<TerminalId, PlannedPeer>,
    /// Peers that are not linked for this swarm in this epoch.
    blocked: BTreeSet<TerminalId>,
}

/// How far the link to a wanted peer is.
enum State {
    Down,
    Opening { session: u64, task: AbortHandle, answer: Option<oneshot::Sender<String>> },
    Up { handle: LinkHandle, since: Instant },
}

struct Peer {
    planned: PlannedPeer,
    path: Path,
    state: State,
    backoff: Backoff,
    /// When the next offer is due; only at the end that offers.
    offer_at: Option<Instant>,
}

type Opened = (TerminalId, u64, Result<Link, OpenError>);

pub(super) struct Manager {
    config: LinksConfig,
    opener: Opener,
    outbox: Outbox,
    swarms: BTreeMap<SwarmId, PlannedSwarm>,
    peers: BTreeMap<TerminalId, Peer>,
    early: EarlyOffers,
    routes: watch::Sender<Arc<Routes>>,
    around: Surroundings,
    opening: JoinSet<Opened>,
    running: JoinSet<(TerminalId, u64, End)>,
    generation: u64,
    /// Set while shutting down: nothing is opened any more.
    closing: Option<(Instant, oneshot::Sender<()>)>,
}

impl Manager {
    pub(super) fn new(config: LinksConfig, endpoint: Endpoint, outbox: Outbox, room: Arc<watch::Sender<u64>>) -> Self {
        let (routes, routes_receiver) = watch::channel(Arc::default());
        let around = Surroundings { routes: routes_receiver, down: config.down.clone(), room };
        let opener = Opener::new(config.me, config.key.clone(), endpoint, outbox.clone(), config.timing.clone());
        Self {
            config,
            opener,
            outbox,
            swarms: BTreeMap::new(),
            peers: BTreeMap::new(),
            early: EarlyOffers::default(),
            routes,
            around,
            opening: JoinSet::new(),
            running: JoinSet::new(),
            generation: 0,
            closing: None,
        }
    }

    /// Runs until nobody holds the links any more, or they were shut down. Dropping the manager ends all links.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let wake_at = self.next_wake();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(opened) = self.opening.join_next() => self.opened(opened),
                Some(ended) = self.running.join_next() => {
                    // An error is a panic outside of the link, of which nothing is left to be noted.
                    if let Ok((peer, generation, end)) = ended {
                        self.ended(peer, generation, end);
                    }
                }
                () = sleep_until(wake_at) => {
                    for (from, session) in self.early.expire(Instant::now()) {
                        self.decline(from, session);
                    }
                    self.offer_due();
                }
            }
            if self.closing.as_ref().is_some_and(|(deadline, _)| self.running.is_empty() || Instant::now() >= *deadline) {
                let Some((deadline, done)) = self.closing.take() else { return };
                let endpoint = self.opener.endpoint.clone();
                drop(self);
                let _ = tokio::time::timeout_at(deadline, endpoint.close()).await;
                let _ = done.send(());
                return;
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        if let Some((deadline, _)) = &self.closing {
            return Some(*deadline);
        }
        self.peers.values().filter_map(|peer| peer.offer_at).chain(self.early.next_expiry()).min()
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Plan { end, epoch, peers } => self.plan(end, epoch, peers),
            Command::Leave { swarm } => {
                self.swarms.remove(&swarm);
                self.settle();
            }
            Command::Block { swarm, peer } => self.block(swarm, peer),
            Command::Restart { swarm } => self.restart(swarm),
            Command::Signal { from, signal } => self.signal(from, signal),
            Command::IceServers(servers) => self.ice_servers(servers),
            Command::ShutDown { deadline, done } => {
                self.opening.abort_all();
                for peer in self.peers.values_mut() {
                    peer.offer_at = None;
                    if let State::Up { handle, .. } = &peer.state {
                        handle.end(End::Local);
                    }
                }
                self.closing = Some((deadline, done));
            }
        }
    }

    fn plan(&mut self, end: SwarmEnd, epoch: u64, peers: Vec<PlannedPeer>) {
        let swarm = end.swarm;
        let me = self.config.me;
        let peers: BTreeMap<_, _> = peers.into_iter().filter(|peer| peer.terminal_id != me).map(|peer| (peer.terminal_id, peer)).collect();
        let blocked = match self.swarms.get(&swarm) {
            Some(known) if known.epoch >= epoch => known.blocked.clone(),
            Some(_) | None => BTreeSet::new(),
        };
        for id in peers.keys() {
            // What the peer has said about this swarm before was not understood: it is to say it again, on a new link.
            if let Some(Peer { state: State::Up { handle, .. }, .. }) = self.peers.get(id)
                && handle.missed(swarm)
            {
                handle.end(End::Local);
            }
        }
        self.swarms.insert(swarm, PlannedSwarm { end, epoch, peers, blocked });
        self.settle();
    }

    fn block(&mut self, swarm: SwarmId, peer: TerminalId) {
        if let Some(planned) = self.swarms.get_mut(&swarm) {
            planned.blocked.insert(peer);
        }
        if let Some(Peer { state: State::Up { handle, .. }, .. }) = self.peers.get(&peer) {
            handle.end(End::Local);
        }
        self.settle();
    }

    fn restart(&mut self, swarm: SwarmId) {
        let Some(planned) = self.swarms.get(&swarm) else { return };
        for id in planned.peers.keys() {
            if let Some(Peer { state: State::Up { handle, .. }, .. }) = self.peers.get(id) {
                handle.end(End::Local);
            }
        }
    }

    fn ice_servers(&mut self, servers: Vec<IceServer>) {
        let servers: Vec<crate::link::IceServer> = servers
            .into_iter()
            .map(|server| crate::link::IceServer {
                urls: server.urls,
                username: server.username.unwrap_or_default(),
                credential: server.credential.unwrap_or_default(),
            })
            .collect();
        if servers == self.config.link.ice_servers {
            return;
        }
        self.config.link.ice_servers = servers;
        match Endpoint::new(self.config.link.clone()) {
            Ok(endpoint) => self.opener.endpoint = endpoint,
            Err(error) => tracing::warn!(%error, "the server's STUN and TURN servers cannot be used"),
        }
    }

    /// Brings peers, routes and the swarms' views in line with the plans.
    fn settle(&mut self) {
        let mut wanted: BTreeMap<TerminalId, PlannedPeer> = BTreeMap::new();
        for planned in self.swarms.values() {
            wanted.extend(planned.peers.iter().filter(|(id, _)| !planned.blocked.contains(id)).map(|(id, peer)| (*id, *peer)));
        }
        let me = self.config.me;
        self.peers.retain(|id, peer| {
            let keep = wanted.get(id).is_some_and(|planned| planned.public_key == peer.planned.public_key);
            match &peer.state {
                State::Opening { task, .. } if !keep => task.abort(),
                // The entry goes with the link's end.
                State::Up { handle, .. } if !keep => {
                    handle.end(End::Local);
                    return true;
                }
                State::Down | State::Opening { .. } | State::Up { .. } => {}
            }
            keep
        });
        let mut early = Vec::new();
        for (id, planned) in wanted {
            early.extend(self.early.take(id).map(|offer| (id, offer)));
            self.peers.entry(id).or_insert_with(|| Peer {
                planned,
                path: Path::Untried,
                state: State::Down,
                backoff: Backoff::new(self.config.timing.retry_first, self.config.timing.retry_cap),
                offer_at: (me < id).then(Instant::now),
            });
        }
        self.publish();
        for (id, offer) in early {
            self.accept(id, offer);
        }
        self.offer_due();
    }

    fn is_planned(&self, id: TerminalId) -> bool {
        self.swarms.values().any(|planned| planned.peers.contains_key(&id))
    }

    fn is_wanted(&self, id: TerminalId) -> bool {
        self.swarms.values().any(|planned| planned.peers.contains_key(&id) && !planned.blocked.contains(&id))
    }

    /// Tells readers where frames go and swarms which links are up. Done before a new link's reader starts.
    fn publish(&mut self) {
        let mut routes = Routes::default();
        for (swarm, planned) in &self.swarms {
            let usable: BTreeSet<TerminalId> = planned.peers.keys().filter(|id| !planned.blocked.contains(id)).copied().collect();
            let mut up = BTreeMap::new();
            for id in &usable {
                if let Some(Peer { state: State::Up { handle, .. }, .. }) = self.peers.get(id) {
                    up.insert(*id, handle.clone());
                }
            }
            planned.end.up.send_if_modified(|known| {
                let same = known.len() == up.len()
                    && known.iter().zip(&up).all(|((a, old), (b, new))| a == b && old.generation() == new.generation());
                if !same {
                    *known = LinkMap::new(up);
                }
                !same
            });
            routes.swarms.insert(*swarm, Route { frames: planned.end.frames.clone(), peers: usable });
        }
        self.routes.send_replace(Arc::new(routes));
    }

    /// Starts the offers whose time has come.
    fn offer_due(&mut self) {
        if self.closing.is_some() {
            return;
        }
        let now = Instant::now();
        for (&id, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.offer_at.is_some_and(|at| at <= now)) {
            peer.offer_at = None;
            if !matches!(peer.state, State::Down) {
                continue;
            }
            let session = getrandom::u64().unwrap_or_default() >> (u64::BITS - SESSION_BITS);
            let (answer, answered) = oneshot::channel();
            let (opener, planned, path) = (self.opener.clone(), peer.planned, peer.path);
            let task = self.opening.spawn(async move { (id, session, caught(opener.offer(planned, path, session, answered)).await) });
            peer.state = State::Opening { session, task, answer: Some(answer) };
        }
    }

    fn signal(&mut self, from: TerminalId, signal: Signal) {
        match signal {
            Signal::Offer { session, sdp } => self.offered(from, session, sdp),
            Signal::Answer { session, sdp } => {
                if let Some(Peer { state: State::Opening { session: ours, answer, .. }, .. }) = self.peers.get_mut(&from)
                    && *ours == session
                    && let Some(answer) = answer.take()
                {
                    let _ = answer.send(sdp);
                }
            }
            Signal::Decline { session } => {
                if let Some(Peer { state: State::Opening { session: ours, task, .. }, .. }) = self.peers.get(&from)
                    && *ours == session
                {
                    task.abort();
                    self.retry_later(from);
                }
            }
        }
    }

    /// The other end offers: only a planned peer with the smaller id may.
    fn offered(&mut self, from: TerminalId, session: u64, sdp: String) {
        let offer = EarlyOffer { session, sdp, at: Instant::now() };
        if self.closing.is_some() || from >= self.config.me {
            self.decline(from, session);
        } else if self.is_wanted(from) {
            self.accept(from, offer);
        } else if self.is_planned(from) {
            // It is blocked.
            self.decline(from, session);
        } else if let Some((from, session)) = self.early.keep(from, offer) {
            self.decline(from, session);
        }
    }

    fn decline(&self, from: TerminalId, session: u64) {
        self.outbox.signal(from, Signal::Decline { session });
    }

    fn accept(&mut self, from: TerminalId, offer: EarlyOffer) {
        let session = offer.session;
        let Some(peer) = self.peers.get_mut(&from) else { return };
        match &peer.state {
            State::Down => {}
            // It has given up its earlier attempt.
            State::Opening { task, .. } => task.abort(),
            // It has lost the link that is still up here. The present one's end will find another state and change nothing.
            State::Up { handle, since } => {
                peer.path = path_after(peer.path, *since);
                handle.end(End::Lost);
            }
        }
        let (opener, planned, path) = (self.opener.clone(), peer.planned, peer.path);
        let task = self.opening.spawn(async move { (from, session, caught(opener.answer(planned, path, offer)).await) });
        peer.state = State::Opening { session, task, answer: None };
        self.publish();
    }

    fn opened(&mut self, opened: Result<Opened, tokio::task::JoinError>) {
        // An aborted attempt has no outcome.
        let Ok((id, session, outcome)) = opened else { return };
        let current =
            self.peers.get(&id).is_some_and(|peer| matches!(&peer.state, State::Opening { session: ours, .. } if *ours == session));
        if !current || self.closing.is_some() {
            return;
        }
        match outcome {
            Ok(link) => self.up(id, link),
            Err(error) => {
                tracing::debug!(peer = %id, %error, "a link did not come up");
                if let (OpenError::NoHello, Some(peer)) = (&error, self.peers.get_mut(&id)) {
                    peer.path = peer.path.narrower();
                }
                self.retry_later(id);
            }
        }
    }

    fn up(&mut self, id: TerminalId, link: Link) {
        self.generation += 1;
        let (sender, receiver) = link.split();
        let prepared = Prepared::new(id, self.generation, sender, receiver, self.config.start);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.state = State::Up { handle: prepared.handle.clone(), since: Instant::now() };
        }
        self.publish();
        let (generation, around) = (self.generation, self.around.clone());
        self.running.spawn(async move {
            let run = AssertUnwindSafe(prepared.run(around)).catch_unwind();
            (id, generation, run.await.unwrap_or(End::Panicked))
        });
    }

    /// The attempt or the link is over; the end that offers tries again later.
    fn retry_later(&mut self, id: TerminalId) {
        let offers = self.config.me < id;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.state = State::Down;
            peer.offer_at = offers.then(|| Instant::now() + peer.backoff.wait());
        }
    }

    fn ended(&mut self, id: TerminalId, generation: u64, end: End) {
        tracing::debug!(peer = %id, ?end, "a link ended");
        if end == End::Malformed {
            self.report(id, SuspectReason::Malformed);
            for planned in self.swarms.values_mut().filter(|planned| planned.peers.contains_key(&id)) {
                planned.blocked.insert(id);
            }
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let State::Up { handle, since } = &peer.state
            && handle.generation() == generation
        {
            if since.elapsed() >= PROVEN_AFTER {
                peer.backoff.reset();
            }
            if end == End::Lost {
                peer.path = path_after(peer.path, *since);
            }
            self.retry_later(id);
            match end {
                End::Lost | End::Stuck if self.closing.is_none() => self.report(id, SuspectReason::Closed),
                End::Panicked => tracing::error!(peer = %id, "the task of a link has panicked; the link is made anew"),
                End::Lost | End::Stuck | End::Local | End::Farewell | End::Malformed => {}
            }
        }
        if !self.is_wanted(id) {
            self.peers.remove(&id);
        }
        self.settle();
    }

    fn report(&self, id: TerminalId, reason: SuspectReason) {
        for (swarm, _) in self.swarms.iter().filter(|(_, planned)| planned.peers.contains_key(&id)) {
            self.outbox.suspect(*swarm, id, reason);
        }
    }
}

/// What a link that was up `since` then and is lost says of its path: if it was lost at once, the other end may have heard no hello.
fn path_after(path: Path, since: Instant) -> Path {
    if since.elapsed() < PROVEN_AFTER { path.narrower() } else { path }
}

/// An attempt that panics has failed like any other: its peer is tried again.
async fn caught(attempt: impl Future<Output = Result<Link, OpenError>>) -> Result<Link, OpenError> {
    AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or(Err(OpenError::Panicked))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
