//! A small world under virtual time: terminals that run the real machine, links with latency and a limited uplink, an origin with a lease table.

#![allow(clippy::unwrap_used, reason = "a test world: whatever is not as expected ends the test")]

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::bitmap::ChunkSet;
use protocol::frame::{ChunkFrame, Frame};
use protocol::manifest::{ChunkEntry, FileEntry, Manifest};
use protocol::ws::{ChildGroup, GrantKind, Peer, SuspectReason, SwarmPlan, WAYS_MAX, Way};
use protocol::*;
use swarm::{Action, Config, Held, Swarm};

pub(crate) type Now = Duration;
const LATENCY: Now = Duration::from_millis(10);
const START: u64 = 1_000_000;

#[derive(Debug)]
pub(crate) enum Event {
    Frame { from: usize, to: usize, bytes: Bytes },
    Origin { node: usize, chunk: u32 },
    Stored { node: usize, chunk: u32 },
    Repeated { node: usize, chunks: Vec<u32> },
    Credits { node: usize, open: u32 },
    Missing { node: usize, chunks: Vec<u32> },
    Wake { node: usize },
}

impl Event {
    /// Who does something when it happens.
    fn node(&self) -> usize {
        match self {
            Self::Frame { to: node, .. }
            | Self::Origin { node, .. }
            | Self::Stored { node, .. }
            | Self::Repeated { node, .. }
            | Self::Credits { node, .. }
            | Self::Missing { node, .. }
            | Self::Wake { node } => *node,
        }
    }
}

pub(crate) struct Node {
    pub(crate) id: TerminalId,
    pub(crate) key: TerminalKey,
    pub(crate) delivery_id: DeliveryId,
    pub(crate) swarm: Option<Swarm>,
    pub(crate) disk: BTreeMap<u32, TerminalId>,
    /// Signed for, and lost from the disk.
    pub(crate) lost: BTreeMap<u32, TerminalId>,
    pub(crate) up: u64,
    /// How many times slower its uplink is than it says.
    pub(crate) slower: u64,
    uplink_free_at: Now,
    woken_for: Now,
    pub(crate) suspects: Vec<(TerminalId, SuspectReason)>,
    /// The relay that is gone, who sends instead, which chunk, and how long the relay was silent.
    pub(crate) replaced: Vec<(TerminalId, TerminalId, u32, Now)>,
    pub(crate) copies_done: usize,
    pub(crate) received_notices: usize,
}

/// Group of terminals by index; `parent` is the index of the group above.
pub(crate) struct GroupSpec {
    pub(crate) members: Vec<usize>,
    pub(crate) parent: Option<usize>,
}

pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) nodes: Vec<Node>,
    pub(crate) groups: Vec<GroupSpec>,
    pub(crate) payload: Vec<Vec<u8>>,
    pub(crate) manifest: Arc<Manifest>,
    queue: BinaryHeap<Reverse<(Now, u64, usize)>>,
    events: BTreeMap<usize, Event>,
    sequence: u64,
    next: u32,
    returned: BTreeSet<u32>,
    pub(crate) origin_sent: BTreeMap<u32, u32>,
    links: BTreeSet<(usize, usize)>,
    epoch: u64,
    /// Flips a byte of every chunk frame on this (from, to).
    pub(crate) corrupt: Option<(usize, usize)>,
    pub(crate) corrupted: usize,
    /// A terminal that signs nothing to those who send it chunks, and what each of them has sent it.
    pub(crate) denier: Option<usize>,
    pub(crate) sent_to_denier: BTreeMap<usize, u64>,
    /// Chunk payload sent between terminals.
    pub(crate) copied: u64,
    /// Copies with destinations: from, to, chunk, and whom they named.
    pub(crate) handed: Vec<(usize, usize, u32, Vec<TerminalId>)>,
    /// How often the origin will send a chunk wrong, and how often somebody complained of it.
    pub(crate) spoilt: BTreeMap<u32, u32>,
    pub(crate) complaints: usize,
    /// How long the origin takes per chunk and terminal, one after the other.
    pub(crate) origin_takes: Now,
    origin_free_at: BTreeMap<usize, Now>,
    /// Chunks asked of the server as missing, and those of them that had never been given out.
    pub(crate) asked: Vec<u32>,
    pub(crate) premature: Vec<u32>,
    leases: BTreeMap<u32, usize>,
    /// What terminals have told that they need nobody to send.
    told: BTreeMap<usize, ChunkSet>,
    /// When a repair was first refused because somebody has the chunk: who goes on asking for five seconds is given it.
    refused: BTreeMap<u32, Now>,
    /// A terminal that does nothing until then: no processor time, or a cable pulled.
    pub(crate) frozen: Option<(usize, Now)>,
    /// Chunks asked of other terminals, by the terminal that asks.
    pub(crate) requested: BTreeMap<usize, Vec<u32>>,
    /// What each receiver has signed for whom: (receiver, chunk) and the sources.
    pub(crate) signed: BTreeMap<(TerminalId, u32), BTreeSet<TerminalId>>,
    last_arrival: RefCell<BTreeMap<(usize, usize), Now>>,
}

const CHUNK: u32 = 100_000;

/// The bytes of a chunk of this kind; up to 256 kinds differ.
fn payload(kind: u32) -> Vec<u8> {
    (0..CHUNK).map(|at| (at.wrapping_mul(31) ^ kind.wrapping_mul(17)).to_le_bytes()[0]).collect()
}

fn manifest(payload: &[Vec<u8>]) -> Manifest {
    let chunks = payload.iter().map(|bytes| ChunkEntry { length: CHUNK, hash: Blake3::of(bytes) }).collect();
    let length = protocol::Bytes(payload.len() as u64 * u64::from(CHUNK));
    let files = vec![FileEntry { path: "x".into(), length, executable: false }];
    Manifest { directory: false, length, blake3: Blake3::of(&payload.concat()), files, chunks }
}

impl World {
    /// `up`: each terminal's uplink in bits per second.
    pub(crate) fn new(chunks: u32, up: &[u64], groups: Vec<GroupSpec>) -> Self {
        Self::with(&(0..chunks).collect::<Vec<_>>(), &[], up, groups)
    }

    /// An edition of chunks of these kinds, and for each terminal the chunks that it has from another one.
    pub(crate) fn with(kinds: &[u32], own: &[Vec<u32>], up: &[u64], groups: Vec<GroupSpec>) -> Self {
        let payload: Vec<Vec<u8>> = kinds.iter().map(|&kind| payload(kind)).collect();
        let manifest = manifest(&payload);
        let nodes = up.iter().enumerate().map(|(index, &up)| {
            let byte = u8::try_from(index + 1).unwrap();
            let id = TerminalId::from_bytes([byte; 16]);
            Node {
                id,
                key: TerminalKey::from_secret(&[byte; 32]),
                delivery_id: DeliveryId::from_bytes([byte; 16]),
                swarm: None,
                disk: own.get(index).into_iter().flatten().map(|&chunk| (chunk, id)).collect(),
                lost: BTreeMap::new(),
                up,
                slower: 1,
                uplink_free_at: Now::ZERO,
                woken_for: Now::MAX,
                suspects: vec![],
                replaced: vec![],
                copies_done: 0,
                received_notices: 0,
            }
        });
        let nodes = nodes.collect();
        let mut world = Self {
            now: Now::ZERO,
            nodes,
            groups,
            payload,
            manifest: Arc::new(manifest),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            next: 0,
            returned: BTreeSet::new(),
            origin_sent: BTreeMap::new(),
            links: BTreeSet::new(),
            epoch: 1,
            corrupt: None,
            corrupted: 0,
            denier: None,
            sent_to_denier: BTreeMap::new(),
            copied: 0,
            handed: vec![],
            spoilt: BTreeMap::new(),
            complaints: 0,
            origin_takes: LATENCY * 2,
            origin_free_at: BTreeMap::new(),
            asked: vec![],
            premature: vec![],
            leases: BTreeMap::new(),
            told: BTreeMap::new(),
            refused: BTreeMap::new(),
            frozen: None,
            requested: BTreeMap::new(),
            signed: BTreeMap::new(),
            last_arrival: RefCell::default(),
        };
        let planned: Vec<usize> = world.groups.iter().flat_map(|group| group.members.clone()).collect();
        for node in planned {
            world.start(node);
        }
        world.link_all();
        world
    }

    fn peer(&self, node: usize) -> Peer {
        let node = &self.nodes[node];
        Peer { terminal_id: node.id, public_key: node.key.public(), delivery_id: node.delivery_id, up: BitsPerSecond(node.up) }
    }

    fn contacts(above: &GroupSpec, below: &GroupSpec) -> BTreeSet<(usize, usize)> {
        let (p, c) = (above.members.len(), below.members.len());
        (0..p).map(|i| (above.members[i], below.members[i % c])).chain((0..c).map(|j| (above.members[j % p], below.members[j]))).collect()
    }

    fn ways(&self, above: &GroupSpec, below: &GroupSpec, node: usize) -> Vec<Way> {
        let place = |index: usize| self.nodes[below.members[index % below.members.len()]].id;
        let others = above.members.iter().enumerate().filter(|(_, member)| **member != node);
        others.map(|(index, &member)| Way { member: self.nodes[member].id, contact: place(index) }).take(WAYS_MAX).collect()
    }

    pub(crate) fn plan(&self, node: usize) -> SwarmPlan {
        let index = self.groups.iter().position(|group| group.members.contains(&node)).unwrap();
        let group = &self.groups[index];
        let parents = group.parent.map(|parent| Self::contacts(&self.groups[parent], group)).unwrap_or_default();
        let children =
            self.groups.iter().enumerate().filter(|(_, child)| child.parent == Some(index)).map(|(child_index, child)| ChildGroup {
                group_id: GroupId::from_bytes([u8::try_from(child_index + 100).unwrap(); 16]),
                contacts: Self::contacts(group, child).iter().filter(|(from, _)| *from == node).map(|(_, to)| self.peer(*to)).collect(),
                ways: self.ways(group, child, node),
            });
        let children: Vec<ChildGroup> = children.collect();
        SwarmPlan {
            release_id: ReleaseId::from_bytes([1; 16]),
            swarm_id: SwarmId::from_bytes([2; 16]),
            edition_id: self.manifest.edition_id(),
            delivery_id: self.nodes[node].delivery_id,
            epoch: self.epoch,
            rank: 1,
            opens_at: TimestampMs(START + 500),
            deadline_at: TimestampMs(START + 10_000_000),
            group_id: GroupId::from_bytes([u8::try_from(index + 100).unwrap(); 16]),
            root: group.parent.is_none(),
            members: group.members.iter().filter(|member| **member != node).map(|member| self.peer(*member)).collect(),
            parents: parents.iter().filter(|(_, to)| *to == node).map(|(from, _)| self.peer(*from)).collect(),
            serves: children.iter().flat_map(|child| child.contacts.clone()).collect(),
            sealed: None,
            children,
        }
    }

    pub(crate) fn start(&mut self, node: usize) {
        let config = Config { me: self.nodes[node].id, key: self.nodes[node].key.clone(), up: BitsPerSecond(self.nodes[node].up) };
        let held: Vec<Held> = self.nodes[node].disk.iter().map(|(&chunk, &source)| Held { chunk, source }).collect();
        let lost: Vec<Held> = std::mem::take(&mut self.nodes[node].lost).iter().map(|(&chunk, &source)| Held { chunk, source }).collect();
        let plan = self.plan(node);
        self.nodes[node].swarm = Some(Swarm::new(config, plan, self.manifest.clone(), &held, &lost, TimestampMs(START), self.now).unwrap());
        self.drive(node);
    }

    /// Pushes the plans again with a new epoch (groups were added).
    pub(crate) fn replan(&mut self) {
        self.epoch += 1;
        for node in 0..self.nodes.len() {
            let plan = self.plan(node);
            let now = self.now;
            if let Some(swarm) = self.nodes[node].swarm.as_mut() {
                swarm.handle_plan(plan, now);
            }
        }
        self.link_all();
    }

    pub(crate) fn link_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let wanted =
                    self.nodes[a].swarm.as_ref().is_some_and(|swarm| swarm.plan().peers().any(|peer| peer.terminal_id == self.nodes[b].id));
                if wanted && self.nodes[b].swarm.is_some() && self.links.insert((a, b)) {
                    let (id, now) = (self.nodes[b].id, self.now);
                    self.nodes[a].swarm.as_mut().unwrap().handle_link_up(id, now);
                }
            }
        }
        for node in 0..self.nodes.len() {
            self.drive(node);
        }
    }

    /// The node's process is gone and no link says so yet; `told`: the server does.
    pub(crate) fn vanish(&mut self, node: usize, told: bool) {
        self.nodes[node].swarm = None;
        let (id, now) = (self.nodes[node].id, self.now);
        self.leases.retain(|_, holder| *holder != node);
        for other in 0..self.nodes.len() {
            if let Some(swarm) = self.nodes[other].swarm.as_mut().filter(|_| told) {
                swarm.handle_peer_gone(id, now);
            }
            self.drive(other);
        }
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].swarm = None;
        let (id, now) = (self.nodes[node].id, self.now);
        self.links.retain(|&(a, b)| a != node && b != node);
        self.leases.retain(|_, holder| *holder != node);
        for other in 0..self.nodes.len() {
            if let Some(swarm) = self.nodes[other].swarm.as_mut() {
                swarm.handle_link_down(id, now);
            }
            self.drive(other);
        }
    }

    fn post(&mut self, at: Now, event: Event) {
        self.sequence += 1;
        let key = usize::try_from(self.sequence).unwrap();
        self.events.insert(key, event);
        self.queue.push(Reverse((at, self.sequence, key)));
    }

    /// Carries out what a node asks for, and lets it send.
    fn drive(&mut self, node: usize) {
        while let Some(action) = self.nodes[node].swarm.as_mut().and_then(Swarm::poll_action) {
            self.carry_out(node, action);
        }
        let now = self.now;
        while self.nodes[node].uplink_free_at <= now {
            let Some(transmit) = self.nodes[node].swarm.as_mut().and_then(|swarm| swarm.poll_transmit(now, &|_| true)) else { break };
            assert!(self.nodes[node].disk.contains_key(&transmit.chunk), "sent a chunk that was not verified and stored");
            let range = transmit.offset as usize..(transmit.offset + transmit.len) as usize;
            let mut payload = self.payload[transmit.chunk as usize][range].to_vec();
            let to = self.nodes.iter().position(|other| other.id == transmit.peer).unwrap();
            if self.corrupt == Some((node, to)) {
                payload[0] ^= 1;
                self.corrupted += 1;
            }
            self.copied += u64::from(transmit.len);
            if self.denier == Some(to) {
                *self.sent_to_denier.entry(node).or_default() += u64::from(transmit.len);
            }
            if !transmit.destinations.is_empty() {
                self.handed.push((node, to, transmit.chunk, transmit.destinations.clone()));
            }
            let sending = Duration::from_nanos(u64::from(transmit.len) * 8 * 1_000_000_000 * self.nodes[node].slower / self.nodes[node].up);
            self.nodes[node].uplink_free_at = now + sending;
            let frame = Frame::Chunk(ChunkFrame {
                swarm_id: SwarmId::from_bytes([2; 16]),
                chunk: transmit.chunk,
                offset: transmit.offset,
                first_copy: transmit.first_copy,
                hop: transmit.hop,
                destinations: transmit.destinations.clone(),
                payload: payload.into(),
            });
            self.send(node, to, &frame, sending);
        }
        let Some(swarm) = self.nodes[node].swarm.as_ref() else { return };
        let wake = swarm.next_deadline().max(now + Duration::from_millis(1));
        let wake = if self.nodes[node].uplink_free_at > now { wake.min(self.nodes[node].uplink_free_at) } else { wake };
        if wake < self.nodes[node].woken_for || self.nodes[node].woken_for <= now {
            self.nodes[node].woken_for = wake;
            self.post(wake, Event::Wake { node });
        }
    }

    fn send(&mut self, from: usize, to: usize, frame: &Frame, sending: Now) {
        let floor = self.last_arrival.borrow().get(&(from, to)).copied().unwrap_or(Now::ZERO);
        let at = (self.now + sending + LATENCY).max(floor);
        self.last_arrival.borrow_mut().insert((from, to), at);
        self.post(at, Event::Frame { from, to, bytes: frame.encode().into() });
    }

    fn carry_out(&mut self, node: usize, action: Action) {
        match action {
            Action::Send { frame: Frame::Receipt { .. } | Frame::Duplicate(_), .. } if self.denier == Some(node) => {}
            Action::Send { peer, frame } => {
                let to = self.nodes.iter().position(|other| other.id == peer).unwrap();
                if let Frame::Request { chunks, .. } = &frame {
                    self.requested.entry(node).or_default().extend(chunks);
                }
                self.send(node, to, &frame, Now::ZERO);
            }
            Action::FetchOrigin { chunk } => {
                let free_at = self.origin_free_at.get(&node).copied().unwrap_or(Now::ZERO).max(self.now);
                let at = if self.origin_takes > LATENCY * 2 { free_at + self.origin_takes } else { self.now + LATENCY * 2 };
                self.origin_free_at.insert(node, at);
                self.post(at, Event::Origin { node, chunk });
            }
            Action::Store { chunk, source, bytes } => {
                assert_eq!(bytes, self.payload[chunk as usize], "a bad byte was stored");
                assert!(self.nodes[node].disk.insert(chunk, source).is_none(), "stored twice");
                self.post(self.now + Duration::from_micros(200), Event::Stored { node, chunk });
            }
            Action::Repeat { chunk, into } => {
                let me = self.nodes[node].id;
                for &repeat in &into {
                    assert_eq!(self.payload[repeat as usize], self.payload[chunk as usize], "a repeat of another chunk");
                    assert!(self.nodes[node].disk.insert(repeat, me).is_none(), "stored twice");
                }
                self.post(self.now + Duration::from_micros(200), Event::Repeated { node, chunks: into });
            }
            Action::Credits { open } => self.post(self.now + LATENCY, Event::Credits { node, open }),
            Action::Missing(chunks) => {
                self.asked.extend(&chunks);
                self.premature.extend(chunks.iter().filter(|chunk| **chunk >= self.next));
                self.post(self.now + LATENCY, Event::Missing { node, chunks });
            }
            Action::Suspect { peer, reason } => self.nodes[node].suspects.push((peer, reason)),
            Action::CloseLink { peer, .. } => {
                let to = self.nodes.iter().position(|other| other.id == peer).unwrap();
                let (id, now) = (self.nodes[node].id, self.now);
                self.links.remove(&(node, to));
                self.links.remove(&(to, node));
                if let Some(swarm) = self.nodes[to].swarm.as_mut() {
                    swarm.handle_link_down(id, now);
                }
            }
            Action::Notices(notices) => {
                self.nodes[node].copies_done += notices.iter().filter(|notice| notice.copies_done_at.is_some()).count();
                self.nodes[node].received_notices += notices.iter().filter(|notice| notice.copies_done_at.is_none()).count();
            }
            Action::SubmitReceipts(receipts) => {
                for receipt in receipts {
                    let receiver = self.nodes.iter().find(|other| other.id == receipt.body.receiver).unwrap();
                    assert!(receipt.is_signed_by(&receiver.key.public()));
                    for chunk in receipt.body.chunks() {
                        self.signed.entry((receipt.body.receiver, chunk)).or_default().insert(receipt.body.source);
                    }
                }
            }
            Action::OriginSpoilt { .. } => self.complaints += 1,
            Action::ReportHoldings { .. } => {
                let told = self.nodes[node].swarm.as_ref().unwrap().needs_no_sending().clone();
                self.told.insert(node, told);
            }
            Action::Replaced { relay, source, chunk, silent_for } => self.nodes[node].replaced.push((relay, source, chunk, silent_for)),
            Action::Complete { .. } => {}
        }
    }

    /// The origin's table gives these to a terminal, and to nobody else by itself.
    pub(crate) fn give(&mut self, node: usize, kind: GrantKind, chunks: std::ops::Range<u32>) {
        self.next = self.next.max(chunks.end);
        let chunks: Vec<u32> = chunks.collect();
        self.leases.extend(chunks.iter().map(|chunk| (*chunk, node)));
        self.grant(node, kind, &chunks);
        self.drive(node);
    }

    fn grant(&mut self, node: usize, kind: GrantKind, chunks: &[u32]) {
        let now = self.now;
        if let Some(swarm) = self.nodes[node].swarm.as_mut() {
            swarm.handle_grant(kind, chunks, now);
        }
    }

    /// The bytes of a chunk as the origin sends them this time.
    fn sent_by_origin(&mut self, chunk: u32) -> Bytes {
        let mut bytes = self.payload[chunk as usize].clone();
        if let Some(times) = self.spoilt.get_mut(&chunk).filter(|times| **times > 0) {
            *times -= 1;
            bytes[0] ^= 1;
        }
        bytes.into()
    }

    /// Repairs what nobody has, and what somebody has who does not send it to one that goes on asking.
    fn repair(&mut self, node: usize, chunks: Vec<u32>) {
        let held = |chunk: &u32| self.nodes.iter().any(|node| node.swarm.is_some() && node.disk.contains_key(chunk));
        let leased = |chunk: &u32| self.leases.get(chunk).is_some_and(|holder| *holder != node);
        let patient = |chunk: &u32| self.refused.get(chunk).is_some_and(|at| self.now >= *at + Duration::from_secs(5));
        let (lost, others): (Vec<u32>, Vec<u32>) =
            chunks.into_iter().partition(|chunk| *chunk < self.next && (!held(chunk) || patient(chunk)) && !leased(chunk));
        for chunk in &others {
            self.refused.entry(*chunk).or_insert(self.now);
        }
        self.leases.extend(lost.iter().map(|chunk| (*chunk, node)));
        if !lost.is_empty() {
            self.grant(node, GrantKind::Repair, &lost);
        }
        if let Some(swarm) = self.nodes[node].swarm.as_mut().filter(|_| !others.is_empty()) {
            swarm.handle_repair_refused(&others, ErrorCode::Conflict);
        }
    }

    fn take(&mut self, event: Event) -> Option<usize> {
        let now = self.now;
        match event {
            Event::Frame { from, to, bytes } => {
                if !self.links.contains(&(to, from)) {
                    return None;
                }
                let id = self.nodes[from].id;
                let frame = Frame::decode(bytes).unwrap();
                let pong = if let Frame::Ping { nonce } = frame { Some(Frame::Pong { nonce }) } else { None };
                let swarm = self.nodes[to].swarm.as_mut()?;
                swarm.handle_heard(id, now);
                swarm.handle_frame(id, frame, now);
                if let Some(pong) = pong {
                    self.send(to, from, &pong, Now::ZERO);
                }
                Some(to)
            }
            Event::Origin { node, chunk } => {
                let bytes = self.sent_by_origin(chunk);
                self.nodes[node].swarm.as_mut()?.handle_origin_chunk(chunk, bytes, now);
                *self.origin_sent.entry(chunk).or_default() += 1;
                self.leases.remove(&chunk);
                Some(node)
            }
            Event::Stored { node, chunk } => {
                self.nodes[node].swarm.as_mut()?.handle_stored(chunk, now);
                Some(node)
            }
            Event::Repeated { node, chunks } => {
                self.nodes[node].swarm.as_mut()?.handle_repeated(&chunks, now);
                Some(node)
            }
            Event::Credits { node, open } => {
                self.nodes[node].swarm.as_ref()?;
                let mut chunks = vec![];
                while chunks.len() < open as usize {
                    let Some(chunk) = self.returned.pop_first().or_else(|| {
                        let held =
                            |chunk: u32| self.told.iter().any(|(node, told)| self.nodes[*node].swarm.is_some() && told.contains(chunk));
                        while self.next < self.manifest.chunk_count() && held(self.next) {
                            self.next += 1;
                        }
                        (self.next < self.manifest.chunk_count()).then(|| {
                            self.next += 1;
                            self.next - 1
                        })
                    }) else {
                        break;
                    };
                    chunks.push(chunk);
                }
                self.leases.extend(chunks.iter().map(|chunk| (*chunk, node)));
                self.grant(node, GrantKind::FirstCopy, &chunks);
                Some(node)
            }
            Event::Missing { node, chunks } => {
                self.repair(node, chunks);
                Some(node)
            }
            Event::Wake { node } => {
                self.nodes[node].woken_for = Now::MAX;
                self.nodes[node].swarm.as_mut()?.handle_timeout(now);
                Some(node)
            }
        }
    }

    /// Runs until `done` or the limit of virtual time; says whether `done` was reached.
    pub(crate) fn run_until(&mut self, limit: Now, mut done: impl FnMut(&Self) -> bool) -> bool {
        while !done(self) {
            // What comes after the limit is left for the next run.
            let Some(&Reverse((at, _, key))) = self.queue.peek().filter(|Reverse((at, ..))| *at <= limit) else { return false };
            self.queue.pop();
            self.now = self.now.max(at);
            let event = self.events.remove(&key).unwrap();
            if let Some((_, until)) = self.frozen.filter(|(node, until)| self.now < *until && event.node() == *node) {
                self.post(until, event);
                continue;
            }
            if let Some(node) = self.take(event) {
                self.drive(node);
            }
        }
        true
    }

    pub(crate) fn all_complete(&self) -> bool {
        self.nodes.iter().filter_map(|node| node.swarm.as_ref()).all(Swarm::is_complete)
    }

    pub(crate) fn stored(&self) -> usize {
        self.nodes.iter().map(|node| node.disk.len()).sum()
    }
}
