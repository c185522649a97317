//! Real data channels over loopback, several terminals in one process, signals carried by hand.

mod narrow;

use std::collections::BTreeMap;

use bytes::Bytes;
use protocol::BitsPerSecond;
use protocol::frame::{ChunkFrame, Frame};
use protocol::ws::{ClientMessage, SuspectReason};

use super::*;
use crate::link::BindPolicy;

const SWARM: SwarmId = SwarmId::from_bytes([1; 16]);
const OTHER_SWARM: SwarmId = SwarmId::from_bytes([2; 16]);
const PATIENCE: Duration = Duration::from_secs(20);

fn id(byte: u8) -> TerminalId {
    TerminalId::from_bytes([byte; 16])
}

fn key(byte: u8) -> TerminalKey {
    TerminalKey::from_secret(&[byte; 32])
}

fn planned(byte: u8) -> PlannedPeer {
    PlannedPeer { terminal_id: id(byte), public_key: key(byte).public() }
}

/// One terminal's links and what they sent to the server.
struct Terminal {
    links: Links,
    end: SwarmEnd,
    swarm: SwarmLinks,
    outbox: Outbox,
    start: Instant,
}

fn timing() -> LinksTiming {
    LinksTiming { retry_first: Duration::from_millis(50), retry_cap: Duration::from_millis(200), ..LinksTiming::default() }
}

fn terminal_with(byte: u8, down: RateLimiter, timing: LinksTiming) -> Terminal {
    let (outbox, start) = (Outbox::default(), Instant::now());
    let bind = BindPolicy::Only(vec!["127.0.0.1".parse().unwrap()]);
    let config = LinksConfig {
        me: id(byte),
        key: key(byte),
        link: LinkConfig { bind, include_loopback: true, ..LinkConfig::default() },
        down,
        start,
        timing,
    };
    let links = Links::start(config, outbox.clone()).unwrap();
    let (end, swarm) = links.swarm(SWARM);
    Terminal { links, end, swarm, outbox, start }
}

fn terminal(byte: u8) -> Terminal {
    terminal_with(byte, RateLimiter::unlimited(), timing())
}

/// Carries signals between the terminals until dropped; keeps everything else that they say.
struct Switchboard {
    task: tokio::task::JoinHandle<()>,
    said: Arc<std::sync::Mutex<Vec<(TerminalId, ClientMessage)>>>,
}

impl Drop for Switchboard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Switchboard {
    fn between(terminals: &[(u8, &Terminal)]) -> Self {
        Self::with(terminals, |_, signal| signal)
    }

    /// Carries what `change` makes of each signal.
    fn with(terminals: &[(u8, &Terminal)], change: impl Fn(TerminalId, Signal) -> Signal + Send + 'static) -> Self {
        let links: BTreeMap<TerminalId, Links> = terminals.iter().map(|(byte, terminal)| (id(*byte), terminal.links.clone())).collect();
        let outboxes: Vec<(TerminalId, Outbox)> = terminals.iter().map(|(byte, terminal)| (id(*byte), terminal.outbox.clone())).collect();
        let said = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = Arc::clone(&said);
        let task = tokio::spawn(async move {
            loop {
                for (from, outbox) in &outboxes {
                    while let Some(message) = outbox.take() {
                        let ClientMessage::Signal { to, signal } = message else {
                            log.lock().unwrap().push((*from, message));
                            continue;
                        };
                        if let Some(links) = links.get(&to) {
                            links.signal(*from, change(*from, signal)).await;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { task, said }
    }

    async fn hears(&self, wanted: impl Fn(&TerminalId, &ClientMessage) -> bool) {
        let heard = async {
            while !self.said.lock().unwrap().iter().any(|(from, message)| wanted(from, message)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("the terminals never said it");
    }
}

impl Terminal {
    async fn plan(&self, epoch: u64, peers: &[u8]) {
        self.links.plan(&self.end, epoch, peers.iter().map(|byte| planned(*byte)).collect()).await;
    }

    async fn up(&mut self, byte: u8) -> LinkHandle {
        let links = tokio::time::timeout(PATIENCE, self.swarm.up.wait_for(|up| up.contains_key(&id(byte)))).await;
        links.expect("the link did not come up").unwrap()[&id(byte)].clone()
    }

    async fn down(&mut self, byte: u8) {
        tokio::time::timeout(PATIENCE, self.swarm.up.wait_for(|up| !up.contains_key(&id(byte))))
            .await
            .expect("the link stayed up")
            .unwrap();
    }

    async fn frame(&mut self) -> Inbound {
        tokio::time::timeout(PATIENCE, self.swarm.frames.recv()).await.expect("no frame").unwrap()
    }
}

fn have_end() -> Frame {
    Frame::HaveEnd { swarm_id: SWARM }
}

fn chunk(index: u32, len: usize) -> Frame {
    let payload = Bytes::from(vec![u8::try_from(index % 256).unwrap(); len]);
    Frame::Chunk(ChunkFrame { swarm_id: SWARM, chunk: index, offset: 0, first_copy: false, hop: 0, destinations: vec![], payload })
}

fn job(frame: &Frame) -> ChunkJob {
    let message = frame.encode();
    Box::pin(async move { Some(message) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planned_pairs_are_linked_and_frames_arrive_in_order_with_control_ahead() {
    let (mut a, mut b, mut c) = (terminal(1), terminal(2), terminal(3));
    let _switchboard = Switchboard::between(&[(1, &a), (2, &b), (3, &c)]);
    a.plan(1, &[2, 3]).await;
    b.plan(1, &[1, 3]).await;
    c.plan(1, &[1, 2]).await;
    for (terminal, others) in [(&mut a, [2, 3]), (&mut b, [1, 3]), (&mut c, [1, 2])] {
        for other in others {
            terminal.up(other).await;
        }
    }
    let link = a.up(3).await;
    link.control(have_end());
    link.reserve().unwrap().send(job(&chunk(7, 1000)));
    let first = c.frame().await;
    assert_eq!((first.peer, first.frame), (id(1), have_end()));
    assert_eq!(c.frame().await.frame, chunk(7, 1000));
    assert!(c.swarm.frames.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_two_chunk_frames_wait_and_room_is_announced() {
    let (mut a, mut b) = (terminal(1), terminal(2));
    let _switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    a.plan(1, &[2]).await;
    b.plan(1, &[1]).await;
    let link = a.up(2).await;
    b.up(1).await;
    let (release, held) = tokio::sync::oneshot::channel::<()>();
    link.reserve().unwrap().send(Box::pin(async move {
        let _ = held.await;
        Some(chunk(1, 10).encode())
    }));
    // The first is being made; two more fit the queue.
    let queued = async {
        for index in 2..4 {
            loop {
                match link.reserve() {
                    Some(slot) => break slot.send(job(&chunk(index, 10))),
                    None => tokio::task::yield_now().await,
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, queued).await.unwrap();
    assert!(link.reserve().is_none(), "a full queue takes no more");
    let mut room = a.swarm.room.clone();
    room.borrow_and_update();
    release.send(()).unwrap();
    tokio::time::timeout(PATIENCE, room.changed()).await.unwrap().unwrap();
    for index in 1..4 {
        assert_eq!(b.frame().await.frame, chunk(index, 10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_cannot_be_had_ends_the_link_instead_of_leaving_a_hole() {
    let (mut a, mut b) = (terminal(1), terminal(2));
    let _switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    a.plan(1, &[2]).await;
    b.plan(1, &[1]).await;
    let link = a.up(2).await;
    b.up(1).await;
    link.reserve().unwrap().send(Box::pin(async { None }));
    let renewed = b.swarm.up.wait_for(|up| up.get(&id(1)).is_some_and(|link| link.generation() > 1));
    tokio::time::timeout(PATIENCE, renewed).await.expect("the link was not renewed").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_another_key_than_planned_never_gets_a_link() {
    let (a, b) = (terminal(1), terminal(2));
    let _switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    let impostor = PlannedPeer { terminal_id: id(1), public_key: key(9).public() };
    a.plan(1, &[2]).await;
    b.links.plan(&b.end, 1, vec![impostor]).await;
    let mut up = b.swarm.up.clone();
    let never = tokio::time::timeout(Duration::from_secs(3), up.wait_for(|up| !up.is_empty())).await;
    assert!(never.is_err(), "a link with the wrong key was accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_comes_before_the_plan_is_answered_when_the_plan_is_there() {
    let (a, b) = (terminal(1), terminal(2));
    a.plan(1, &[2]).await;
    let offer = async {
        loop {
            if let Some(ClientMessage::Signal { signal: signal @ Signal::Offer { .. }, .. }) = a.outbox.take() {
                return signal;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let offer = tokio::time::timeout(PATIENCE, offer).await.expect("no offer");
    b.links.signal(id(1), offer).await;
    // Whatever the second says now is in its outbox: it has taken the offer, the plan comes behind it.
    b.plan(1, &[1]).await;
    let switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    let (mut a, mut b) = (a, b);
    a.up(2).await;
    b.up(1).await;
    drop(switchboard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_of_a_terminal_that_never_comes_into_a_plan_is_declined_in_the_end() {
    let b = terminal(2);
    b.links.signal(id(1), Signal::Offer { session: 7, sdp: "v=0".into() }).await;
    let declined = async {
        loop {
            match b.outbox.take() {
                Some(message) => return message,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let said = tokio::time::timeout(PATIENCE, declined).await.expect("it was never declined");
    assert_eq!(said, ClientMessage::Signal { to: id(1), signal: Signal::Decline { session: 7 } });
    // A terminal with a greater id never offers.
    b.links.signal(id(3), Signal::Offer { session: 8, sdp: "v=0".into() }).await;
    b.plan(1, &[3]).await;
    let at_once = async {
        loop {
            if let Some(ClientMessage::Signal { to, signal: Signal::Decline { session } }) = b.outbox.take() {
                return (to, session);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, at_once).await.unwrap(), (id(3), 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_whose_task_panics_is_made_anew() {
    let (mut a, mut b) = (terminal(1), terminal(2));
    let _switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    a.plan(1, &[2]).await;
    b.plan(1, &[1]).await;
    let first = a.up(2).await;
    b.up(1).await;
    first.reserve().unwrap().send(Box::pin(async { panic!("a fault, on purpose") }));
    let mut up = a.swarm.up.clone();
    let anew = up.wait_for(|up| up.get(&id(2)).is_some_and(|link| link.generation() != first.generation()));
    tokio::time::timeout(PATIENCE, anew).await.expect("the link never came back").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_frame_costs_the_link_and_is_reported() {
    for bad in [vec![99, 1, 2], vec![], vec![0; protocol::frame::MESSAGE_MAX]] {
        let (mut a, mut b) = (terminal(1), terminal(2));
        let switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
        a.plan(1, &[2]).await;
        b.plan(1, &[1]).await;
        let link = a.up(2).await;
        b.up(1).await;
        let length = bad.len();
        link.reserve().unwrap().send(Box::pin(async move { Some(bad) }));
        let expected = ClientMessage::Suspect { swarm_id: SWARM, terminal_id: id(1), reason: SuspectReason::Malformed };
        switchboard.hears(|from, message| *from == id(2) && *message == expected).await;
        b.down(1).await;
        // Not before the next epoch.
        let mut up = b.swarm.up.clone();
        assert!(tokio::time::timeout(Duration::from_secs(1), up.wait_for(|up| !up.is_empty())).await.is_err(), "{length} bytes");
        b.plan(2, &[1]).await;
        b.up(1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_dies_and_returns_is_linked_again_with_a_new_generation() {
    let (a, mut b) = (terminal(1), terminal(2));
    let switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    a.plan(1, &[2]).await;
    b.plan(1, &[1]).await;
    let first = b.up(1).await.generation();
    drop(switchboard);
    drop(a);
    let mut a = terminal(1);
    let _switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    a.plan(1, &[2]).await;
    a.up(2).await;
    let newer =
        tokio::time::timeout(PATIENCE, b.swarm.up.wait_for(|up| up.get(&id(1)).is_some_and(|link| link.generation() > first))).await;
    assert!(newer.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_left_the_plan_is_unlinked_and_a_blocked_one_stays_away() {
    let (mut a, mut b) = (terminal(1), terminal(2));
    let _switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    a.plan(1, &[2]).await;
    b.plan(1, &[1]).await;
    a.up(2).await;
    b.up(1).await;
    a.links.block(SWARM, id(2)).await;
    a.down(2).await;
    b.down(1).await;
    a.plan(2, &[2]).await;
    a.up(2).await;
    b.up(1).await;
    b.links.leave(SWARM).await;
    a.down(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_that_only_the_peer_knew_of_is_heard_in_full_once_it_is_planned() {
    let (mut a, mut b) = (terminal(1), terminal(2));
    let _switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    a.plan(1, &[2]).await;
    b.plan(1, &[1]).await;
    let link = a.up(2).await;
    let generation = b.up(1).await.generation();
    link.control(Frame::HaveEnd { swarm_id: OTHER_SWARM });
    link.control(have_end());
    assert_eq!(b.frame().await.frame, have_end(), "what is not planned is not passed on");
    let (end, mut other) = b.links.swarm(OTHER_SWARM);
    b.links.plan(&end, 1, vec![planned(1)]).await;
    let renewed = other.up.wait_for(|up| up.get(&id(1)).is_some_and(|link| link.generation() > generation));
    tokio::time::timeout(PATIENCE, renewed).await.expect("the link was not renewed").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_downlink_limit_holds_back_the_sender_and_life_is_shown_meanwhile() {
    let (mut a, mut b) = (terminal(1), terminal_with(2, RateLimiter::new(BitsPerSecond::from_mbit(2)), timing()));
    let _switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    a.plan(1, &[2]).await;
    b.plan(1, &[1]).await;
    let link = a.up(2).await;
    b.up(1).await;
    let mut room = a.swarm.room.clone();
    let sending = tokio::spawn(async move {
        for index in 0..12 {
            let frame = chunk(index, 60_000);
            let slot = loop {
                match link.reserve() {
                    Some(slot) => break slot,
                    None => room.changed().await.unwrap(),
                }
            };
            slot.send(job(&frame));
        }
        link
    });
    let (start, began) = (a.start, Instant::now());
    for index in 0..12 {
        assert_eq!(b.frame().await.frame, chunk(index, 60_000));
    }
    // 720 KB at 250 KB/s, less the burst, and the last message is paid for after it was handed over.
    assert!(began.elapsed() > Duration::from_millis(1800), "{:?}", began.elapsed());
    let link = sending.await.unwrap();
    // B said nothing but that it lives: its reader waited for tokens for seconds.
    let now = start.elapsed();
    let silence = now - link.heard_at(now);
    assert!(silence < Duration::from_millis(900), "{silence:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_says_farewell_within_its_deadline() {
    let (mut a, mut b) = (terminal(1), terminal(2));
    let switchboard = Switchboard::between(&[(1, &a), (2, &b)]);
    a.plan(1, &[2]).await;
    b.plan(1, &[1]).await;
    a.up(2).await.control(have_end());
    b.up(1).await;
    let began = Instant::now();
    a.links.shut_down(tokio::time::Instant::now() + Duration::from_secs(3)).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(b.frame().await.frame, have_end(), "what was queued before the farewell arrives");
    b.down(1).await;
    let said = switchboard.said.lock().unwrap();
    assert!(
        !said.iter().any(|(_, message)| matches!(message, ClientMessage::Suspect { .. })),
        "a farewell is no reason for suspicion: {said:?}"
    );
}
