//! The socket against a server that each test plays.

use protocol::ws::{ChunkNotice, ClientMessage, PushPosition, ServerMessage};
use protocol::{Problem, RequestId, SwarmId, TimestampMs};

use super::*;
use crate::api::FixedToken;
use crate::testing::websocket::{Peer, SERVER_TIME, Server};

const SWARM: SwarmId = SwarmId::from_bytes([1; 16]);

fn key() -> TerminalKey {
    TerminalKey::from_secret(&[3; 32])
}

fn quick() -> SocketTiming {
    SocketTiming {
        handshake: Duration::from_secs(5),
        heartbeat: Duration::from_millis(200),
        silence: Duration::from_secs(5),
        clock_every: Duration::from_secs(30),
        clock_burst_every: Duration::from_millis(20),
    }
}

fn start_with(server: &Server, tokens: Arc<dyn TokenProvider>, timing: SocketTiming) -> (Socket, mpsc::Receiver<SocketEvent>) {
    Socket::start(SocketConfig {
        address: server.address(),
        tokens,
        terminal_id: TerminalId::from_bytes([2; 16]),
        key: key(),
        capabilities: Capabilities::default(),
        start: Instant::now(),
        timing,
        line: Line::default(),
    })
}

fn start(server: &Server) -> (Socket, mpsc::Receiver<SocketEvent>) {
    start_with(server, Arc::new(FixedToken("secret".into())), quick())
}

const fn at(epoch: u64, offset: u64) -> PushPosition {
    PushPosition { epoch, offset }
}

/// The next event that is not about the clock.
async fn event(events: &mut mpsc::Receiver<SocketEvent>) -> SocketEvent {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.expect("no event").expect("the socket ended");
        if !matches!(event, SocketEvent::Clock(_)) {
            return event;
        }
    }
}

async fn welcomed(server: &Server, events: &mut mpsc::Receiver<SocketEvent>) -> Peer {
    let mut peer = server.accept().await;
    peer.welcome(&key().public(), at(1, 0), false).await;
    assert!(matches!(event(events).await, SocketEvent::Connected { resumed: false, .. }));
    peer
}

fn leave() -> PushMessage {
    PushMessage::Leave { swarm_id: SWARM, reason: protocol::ws::LeaveReason::Settled }
}

#[tokio::test]
async fn a_terminal_proves_its_key_and_learns_the_clock_before_anything_else() {
    let server = Server::start().await;
    let (_socket, mut events) = start(&server);
    let mut peer = server.accept().await;
    assert_eq!(peer.authorization, "Bearer secret");
    assert_eq!(peer.welcome(&key().public(), at(1, 0), false).await, None);
    let SocketEvent::Clock(clock) = events.recv().await.unwrap() else { panic!("the clock comes first") };
    assert!(clock.server_time_at_zero.0.abs_diff(SERVER_TIME.0) < 5_000);
    assert!(
        matches!(events.recv().await.unwrap(), SocketEvent::Connected { report_interval, .. } if report_interval == Duration::from_secs(1))
    );
    peer.push(1, 1, leave()).await;
    let reading = async {
        loop {
            peer.receive().await;
        }
    };
    tokio::select! {
        event = event(&mut events) => assert!(matches!(event, SocketEvent::Push(PushMessage::Leave { .. }))),
        () = reading => unreachable!(),
    }
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_resumed_behind_the_last_push() {
    let server = Server::start().await;
    let (_socket, mut events) = start(&server);
    let mut peer = welcomed(&server, &mut events).await;
    peer.push(1, 1, leave()).await;
    peer.push(1, 2, leave()).await;
    event(&mut events).await;
    event(&mut events).await;
    drop(peer);
    assert!(matches!(event(&mut events).await, SocketEvent::Disconnected { .. }));
    let mut peer = server.accept().await;
    assert_eq!(peer.welcome(&key().public(), at(1, 3), true).await, Some(at(1, 2)));
    assert!(matches!(event(&mut events).await, SocketEvent::Connected { resumed: true, .. }));
    // The push that was missed is new; the one that was seen is not given out again.
    peer.push(1, 2, leave()).await;
    peer.push(1, 3, PushMessage::ReportHoldings { swarm_id: SWARM }).await;
    assert!(matches!(event(&mut events).await, SocketEvent::Push(PushMessage::ReportHoldings { .. })));
}

#[tokio::test]
async fn a_reload_or_a_gap_asks_for_the_plans_again() {
    for (position, message) in [(at(1, 1), PushMessage::Reload), (at(1, 5), leave()), (at(2, 1), leave())] {
        let server = Server::start().await;
        let (_socket, mut events) = start(&server);
        let mut peer = welcomed(&server, &mut events).await;
        peer.push(position.epoch, position.offset, message).await;
        event(&mut events).await;
        assert_eq!(peer.receive().await, Some(ClientMessage::Sync), "{position:?}");
    }
}

#[tokio::test]
async fn notices_that_a_dying_connection_swallowed_are_sent_again() {
    let server = Server::start().await;
    let (socket, mut events) = start(&server);
    let mut peer = welcomed(&server, &mut events).await;
    peer.answers_clock = false;
    let notice = ChunkNotice { chunk: 4, received_at: TimestampMs(9), copies_done_at: None };
    socket.outbox().notices(SWARM, &[notice]);
    let sent = ClientMessage::Notices { swarm_id: SWARM, notices: vec![notice] };
    loop {
        match peer.receive().await {
            Some(ClientMessage::Clock { .. }) => {}
            other => break assert_eq!(other, Some(sent.clone())),
        }
    }
    // It was read from the wire, but nothing told the terminal so.
    drop(peer);
    assert!(matches!(event(&mut events).await, SocketEvent::Disconnected { .. }));
    let mut peer = server.accept().await;
    peer.welcome(&key().public(), at(1, 0), true).await;
    assert_eq!(peer.receive().await, Some(sent));
    assert!(socket.outbox().holds_what_must_arrive());
    // The answered clock request behind the notices settles it.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while socket.outbox().holds_what_must_arrive() {
        assert!(tokio::time::Instant::now() < deadline);
        let _ = tokio::time::timeout(Duration::from_millis(20), peer.receive()).await;
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_any_more_is_left() {
    let server = Server::start().await;
    let timing = SocketTiming { silence: Duration::from_millis(300), ..quick() };
    let (_socket, mut events) = start_with(&server, Arc::new(FixedToken("secret".into())), timing);
    // Held open, but never read from again: no pong comes back.
    let _peer = welcomed(&server, &mut events).await;
    let SocketEvent::Disconnected { reason } = event(&mut events).await else { panic!("still connected") };
    assert!(reason.contains("not heard"), "{reason}");
    server.accept().await;
}

#[tokio::test]
async fn a_server_that_is_quiet_but_answers_pings_is_kept() {
    let server = Server::start().await;
    let timing = SocketTiming { silence: Duration::from_millis(600), clock_every: Duration::from_secs(60), ..quick() };
    let (socket, mut events) = start_with(&server, Arc::new(FixedToken("secret".into())), timing);
    let mut peer = welcomed(&server, &mut events).await;
    // Reading answers pings; nothing else is said for several times the allowed silence.
    assert!(tokio::time::timeout(Duration::from_secs(2), peer.receive()).await.is_err());
    socket.outbox().sync();
    assert_eq!(peer.receive().await, Some(ClientMessage::Sync));
    assert!(events.try_recv().is_err() || matches!(events.try_recv(), Ok(SocketEvent::Clock(_)) | Err(_)));
}

#[tokio::test]
async fn a_terminal_that_the_server_does_not_know_is_told_once() {
    let server = Server::start().await;
    let (_socket, mut events) = start(&server);
    let mut peer = server.accept().await;
    peer.send(&ServerMessage::Challenge { nonce: protocol::Blake3([1; 32]), server_time: SERVER_TIME }).await;
    peer.receive().await;
    peer.send(&ServerMessage::Error { code: ErrorCode::NotFound, detail: "no such terminal".into(), pointer: "/terminal_id".into() }).await;
    let SocketEvent::Rejected(error) = event(&mut events).await else { panic!("not rejected") };
    assert_eq!(error.to_string(), "the server refuses this terminal: not_found: no such terminal");
    assert!(events.recv().await.is_none());
}

#[tokio::test]
async fn a_busy_server_is_tried_again_and_a_refusing_one_is_not() {
    let server = Server::start().await;
    let (_socket, mut events) = start(&server);
    server.refuse(503, "busy").await;
    assert!(matches!(event(&mut events).await, SocketEvent::Disconnected { .. }));
    let problem = Problem::new(ErrorCode::Forbidden, RequestId::from_bytes([1; 16]));
    server.refuse(403, &serde_json::to_string(&problem).unwrap()).await;
    let rejected = event(&mut events).await;
    assert!(matches!(rejected, SocketEvent::Rejected(SocketError::Refused { code: ErrorCode::Forbidden, .. })), "{rejected:?}");
}

#[derive(Debug)]
struct Renewing;

#[async_trait::async_trait]
impl TokenProvider for Renewing {
    async fn access_token(&self) -> Result<String, TokenError> {
        Ok("old".into())
    }
    async fn renew(&self, refused: &str) -> Result<String, TokenError> {
        assert_eq!(refused, "old");
        Ok("new".into())
    }
}

#[tokio::test]
async fn an_expired_token_is_renewed_before_the_upgrade_is_given_up() {
    let server = Server::start().await;
    let (_socket, mut events) = start_with(&server, Arc::new(Renewing), quick());
    server.refuse(401, "").await;
    let mut peer = server.accept().await;
    assert_eq!(peer.authorization, "Bearer new");
    peer.welcome(&key().public(), at(1, 0), false).await;
    assert!(matches!(event(&mut events).await, SocketEvent::Connected { .. }));
}

#[tokio::test]
async fn a_login_that_cannot_be_renewed_ends_the_socket() {
    let server = Server::start().await;
    let (_socket, mut events) = start(&server);
    server.refuse(401, "").await;
    assert!(matches!(event(&mut events).await, SocketEvent::Rejected(SocketError::Token(TokenError::NotLoggedIn))));
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_passed_over_and_an_oversized_one_ends_the_connection() {
    let server = Server::start().await;
    let (_socket, mut events) = start(&server);
    let mut peer = welcomed(&server, &mut events).await;
    peer.send_text(r#"{"type":"news_of_the_future"}"#).await;
    peer.push(1, 1, leave()).await;
    assert!(matches!(event(&mut events).await, SocketEvent::Push(_)));
    peer.send_text(&"x".repeat(protocol::ws::MESSAGE_MAX + 1)).await;
    assert!(matches!(event(&mut events).await, SocketEvent::Disconnected { .. }));
}

#[tokio::test]
async fn a_refused_message_is_reported_and_the_connection_goes_on() {
    let server = Server::start().await;
    let (_socket, mut events) = start(&server);
    let mut peer = welcomed(&server, &mut events).await;
    peer.send(&ServerMessage::Error { code: ErrorCode::NotInSwarm, detail: String::new(), pointer: "/swarm_id".into() }).await;
    assert!(matches!(event(&mut events).await, SocketEvent::Refused { code: ErrorCode::NotInSwarm, .. }));
    peer.push(1, 1, leave()).await;
    assert!(matches!(event(&mut events).await, SocketEvent::Push(_)));
}

#[tokio::test]
async fn what_the_server_could_not_take_for_the_moment_is_sent_again_on_the_same_connection() {
    let server = Server::start().await;
    let (socket, mut events) = start(&server);
    let mut peer = welcomed(&server, &mut events).await;
    let notice = ChunkNotice { chunk: 4, received_at: TimestampMs(9), copies_done_at: None };
    let sent = ClientMessage::Notices { swarm_id: SWARM, notices: vec![notice] };
    peer.answers_clock = false;
    socket.outbox().notices(SWARM, &[notice]);
    for code in [ErrorCode::Unavailable, ErrorCode::Internal] {
        // The clock request behind it is answered after the error, as the server does in its order.
        let mut asked = Vec::new();
        loop {
            match peer.receive().await {
                Some(ClientMessage::Clock { sent_at }) => asked.push(sent_at),
                other => break assert_eq!(other.as_ref(), Some(&sent)),
            }
        }
        peer.send(&ServerMessage::Error { code, detail: String::new(), pointer: String::new() }).await;
        let Some(ClientMessage::Clock { sent_at }) = peer.receive().await else { panic!("nothing was asked behind the notices") };
        asked.push(sent_at);
        for sent_at in asked {
            peer.send(&ServerMessage::Clock { sent_at, server_time: SERVER_TIME }).await;
        }
        assert!(matches!(event(&mut events).await, SocketEvent::Refused { .. }));
        assert!(socket.outbox().holds_what_must_arrive(), "{code}");
    }
    peer.answers_clock = true;
    assert_eq!(peer.receive().await, Some(sent));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while socket.outbox().holds_what_must_arrive() {
        assert!(tokio::time::Instant::now() < deadline);
        let _ = tokio::time::timeout(Duration::from_millis(20), peer.receive()).await;
    }
}

#[tokio::test]
async fn closing_waits_until_what_is_owed_has_been_read() {
    let server = Server::start().await;
    let (socket, mut events) = start(&server);
    let mut peer = welcomed(&server, &mut events).await;
    let notice = ChunkNotice { chunk: 1, received_at: TimestampMs(1), copies_done_at: None };
    socket.outbox().notices(SWARM, &[notice]);
    let serving = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(message) = peer.receive().await {
            seen.push(message);
        }
        seen
    });
    assert!(socket.close(tokio::time::Instant::now() + Duration::from_secs(5)).await);
    assert_eq!(serving.await.unwrap(), [ClientMessage::Notices { swarm_id: SWARM, notices: vec![notice] }]);
}

#[tokio::test]
async fn a_terminal_whose_place_another_process_took_does_not_take_it_back() {
    let server = Server::start().await;
    let (_socket, mut events) = start(&server);
    let mut peer = welcomed(&server, &mut events).await;
    peer.close("replaced by a newer connection of this terminal").await;
    assert!(matches!(event(&mut events).await, SocketEvent::Rejected(SocketError::Replaced)));
}

#[tokio::test]
async fn a_server_that_stops_is_returned_to() {
    let server = Server::start().await;
    let (_socket, mut events) = start(&server);
    let mut peer = welcomed(&server, &mut events).await;
    peer.close("this instance stops; come back").await;
    assert!(matches!(event(&mut events).await, SocketEvent::Disconnected { reason } if reason.contains("come back")));
    server.accept().await;
}
