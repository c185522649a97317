//! What ends a session, and what is there for its successor.

use protocol::rest::Role;
use protocol::ws::{ClientMessage, PushMessage, PushPosition, ServerMessage, Signal};
use protocol::{Amount, ErrorCode, SwarmId, TerminalId};

use super::{read_to_the_end, say};
use crate::app::swarm::tests::Machine;
use crate::app::swarm::tests::machine::PATIENCE;
use crate::clock;
use crate::routes::tests::Service;

async fn connected(service: &Service) -> Machine {
    let mut machine = Machine::new(service, service.account("anna", Role::User).await, 1).await;
    assert!(!machine.connect(service, None).await);
    machine
}

fn numbered(number: u64) -> PushMessage {
    PushMessage::Earned { swarm_id: SwarmId::from_bytes([1; 16]), earned: Amount(number) }
}

async fn push(service: &Service, terminal: TerminalId, number: u64) {
    service.state.live.push(terminal, &numbered(number), clock::now()).await.unwrap();
}

/// Reads the numbers of the next pushes.
async fn numbers(machine: &mut Machine, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let next = machine.push(|message| match message {
            PushMessage::Earned { earned, .. } => Some(earned.0),
            _ => None,
        });
        numbers.push(next.await);
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_comes_back_is_sent_what_it_missed_and_nothing_twice() {
    let service = Service::start().await;
    let mut machine = connected(&service).await;
    for number in 1..=3 {
        push(&service, machine.id(), number).await;
    }
    assert_eq!(numbers(&mut machine, 3).await, [1, 2, 3]);
    let position = machine.position;
    machine.vanish();
    for number in 4..=500 {
        push(&service, machine.id(), number).await;
    }
    assert!(machine.connect(&service, Some(position)).await);
    assert_eq!(numbers(&mut machine, 497).await, (4..=500).collect::<Vec<_>>());
    // From somewhere that never was, it starts anew.
    machine.vanish();
    assert!(!machine.connect(&service, Some(PushPosition { epoch: position.epoch, offset: 1_000 })).await);
    push(&service, machine.id(), 501).await;
    assert_eq!(numbers(&mut machine, 1).await, [501]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_connection_of_the_same_terminal_replaces_the_older_one() {
    let service = Service::start().await;
    let mut machine = connected(&service).await;
    let mut old = machine.socket.take().unwrap();
    assert!(!machine.connect(&service, None).await);
    let (_, reason) = read_to_the_end(&mut old).await;
    assert!(reason.is_some_and(|reason| reason.contains("replaced")));
    push(&service, machine.id(), 1).await;
    assert_eq!(numbers(&mut machine, 1).await, [1]);
    assert_eq!(service.state.live.connected(&[machine.id()]).await.unwrap(), [machine.id()], "the old one did not take the presence along");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_read_are_answered_and_too_many_end_the_session() {
    let service = Service::start().await;
    let mut machine = connected(&service).await;
    for bad in ["", "{}", r#"{"type":"fly"}"#, r#"{"type":"clock","sent_at":1,"extra":1}"#, r#"{"type":"clock","sent_at":1.5}"#, "[]"] {
        machine.send_text(bad.to_owned()).await;
        let answers = machine.settle_down().await;
        assert!(matches!(answers[..], [ServerMessage::Error { code: ErrorCode::MalformedMessage, .. }]), "{bad}: {answers:?}");
    }
    let mut socket = machine.socket.take().unwrap();
    for _ in 0..4 {
        say(&mut socket, "nonsense").await;
    }
    let (errors, reason) = read_to_the_end(&mut socket).await;
    assert_eq!((errors, reason), (vec![ErrorCode::MalformedMessage; 5], Some("refused".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_long_is_refused_by_name_and_ends_the_session() {
    let service = Service::start().await;
    let mut machine = connected(&service).await;
    // The longest one that is allowed is read.
    machine.send_text(format!(r#"{{"type":"sync"{}}}"#, " ".repeat(protocol::ws::MESSAGE_MAX - 15))).await;
    assert_eq!(machine.settle_down().await, []);
    for length in [protocol::ws::MESSAGE_MAX + 1, 1 << 20] {
        let mut socket = machine.socket.take().unwrap();
        say(&mut socket, " ".repeat(length)).await;
        let (errors, _) = read_to_the_end(&mut socket).await;
        assert_eq!(errors, [ErrorCode::PayloadTooLarge], "{length} bytes");
        machine.connect(&service, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_access_token() {
    let service = Service::start().await;
    let mut machine = Machine::new(&service, service.account("anna", Role::User).await, 1).await;
    let lasts = time::Duration::seconds(i64::from(crate::auth::tokens::ACCESS_SECONDS) - 3);
    let token = service.state.keys.issue(service.state.token_parties(), machine.account.user.id, Role::User, clock::now() - lasts);
    machine.account.tokens.access_token = token.unwrap();
    machine.connect(&service, None).await;
    let (_, reason) = read_to_the_end(machine.socket.as_mut().unwrap()).await;
    assert_eq!(reason.as_deref(), Some("the access token has expired"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_says_so_to_its_terminals() {
    let service = Service::start().await;
    let mut machine = connected(&service).await;
    service.stop.send_replace(true);
    let (_, reason) = read_to_the_end(machine.socket.as_mut().unwrap()).await;
    assert_eq!(reason.as_deref(), Some("this instance stops; come back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_does_not_read_is_closed_instead_of_filling_the_memory() {
    let service = Service::start().await;
    let machine = connected(&service).await;
    let signal = Signal::Offer { session: 1, sdp: "x".repeat(60_000) };
    let large = PushMessage::Signal { from: TerminalId::from_bytes([9; 16]), signal };
    let fill = async {
        // More than every buffer on the way holds, and in the end the server gives up.
        while !service.state.live.connected(&[machine.id()]).await.unwrap().is_empty() {
            service.state.live.push(machine.id(), &large, clock::now()).await.unwrap();
        }
    };
    tokio::time::timeout(2 * PATIENCE, fill).await.expect("the server holds on to a terminal that does not read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_says_nothing_at_all_is_gone_after_fifteen_seconds() {
    let service = Service::start().await;
    let machine = connected(&service).await;
    // Nobody polls the socket, so no ping is answered.
    let began = tokio::time::Instant::now();
    let wait = async {
        while !service.state.live.connected(&[machine.id()]).await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(3 * PATIENCE, wait).await.expect("it still counts as connected");
    assert!(began.elapsed() >= std::time::Duration::from_secs(14), "gone after {:?}", began.elapsed());
    drop(machine);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_answered_with_what_was_sent() {
    let service = Service::start().await;
    let mut machine = connected(&service).await;
    machine.send(&ClientMessage::Clock { sent_at: 42 }).await;
    let before = clock::to_timestamp_ms(clock::now()).0;
    let time = machine.until(|message| match message {
        ServerMessage::Clock { sent_at: 42, server_time } => Some(server_time.0),
        _ => None,
    });
    assert!(time.await.abs_diff(before) < 5_000);
}
