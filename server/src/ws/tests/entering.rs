//! The handshake.

use protocol::ErrorCode;
use protocol::rest::Role;
use protocol::ws::{Capabilities, ClientMessage, ServerMessage, challenge_bytes};
use protocol::{BitsPerSecond, Blake3, PROTOCOL_VERSION, TerminalId, TerminalKey};
use tokio_tungstenite::tungstenite;

use super::{read_to_the_end, say};
use crate::app::swarm::tests::Machine;
use crate::app::swarm::tests::machine::{Socket, open, receive};
use crate::routes::tests::{Service, problem};

fn hello(protocol: u16, terminal_id: TerminalId, key: &TerminalKey, nonce: &Blake3, up: u64) -> String {
    let signature = key.sign(&challenge_bytes(nonce, terminal_id));
    let capabilities = Capabilities { up: BitsPerSecond(up), down: BitsPerSecond(0) };
    serde_json::to_string(&ClientMessage::Hello { protocol, terminal_id, signature, capabilities, resume: None }).unwrap()
}

async fn challenged(service: &Service, bearer: &str) -> (Socket, Blake3) {
    let mut socket = open(service, &[("Authorization", bearer)]).await.unwrap();
    let Some(ServerMessage::Challenge { nonce, .. }) = receive(&mut socket).await else { panic!("no challenge") };
    (socket, nonce)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_with_the_terminals_own_key_is_welcomed() {
    let service = Service::start().await;
    let machine = Machine::new(&service, service.account("anna", Role::User).await, 1).await;
    let other = Machine::new(&service, service.account("bert", Role::User).await, 2).await;
    let bearer = format!("Bearer {}", machine.account.tokens.access_token);
    let own = machine.id();
    let stale = Blake3([0; 32]);
    for (case, expected) in [
        ("the key of another terminal", ErrorCode::Unauthenticated),
        ("an old challenge", ErrorCode::Unauthenticated),
        ("another's terminal", ErrorCode::NotFound),
        ("a terminal that does not exist", ErrorCode::NotFound),
        ("another version", ErrorCode::ProtocolVersion),
        ("not a hello", ErrorCode::Unauthenticated),
        ("no message at all", ErrorCode::MalformedMessage),
    ] {
        let (mut socket, nonce) = challenged(&service, &bearer).await;
        let text = match case {
            "the key of another terminal" => hello(PROTOCOL_VERSION, own, &other.key, &nonce, 0),
            "an old challenge" => hello(PROTOCOL_VERSION, own, &machine.key, &stale, 0),
            "another's terminal" => hello(PROTOCOL_VERSION, other.id(), &other.key, &nonce, 0),
            "a terminal that does not exist" => hello(PROTOCOL_VERSION, TerminalId::from_bytes([9; 16]), &machine.key, &nonce, 0),
            "another version" => hello(PROTOCOL_VERSION + 1, own, &machine.key, &nonce, 0),
            "not a hello" => serde_json::to_string(&ClientMessage::Sync).unwrap(),
            _ => "hello".to_owned(),
        };
        say(&mut socket, text).await;
        assert_eq!(read_to_the_end(&mut socket).await, (vec![expected], Some("refused".to_owned())), "{case}");
    }
    let (mut socket, nonce) = challenged(&service, &bearer).await;
    say(&mut socket, hello(PROTOCOL_VERSION, own, &machine.key, &nonce, 7_000_000)).await;
    assert!(matches!(receive(&mut socket).await, Some(ServerMessage::Welcome { resumed: false, .. })));
    // What it measured is known from now on, and what it did not say stays.
    let known = service.state.store.terminal(own).await.unwrap().unwrap().terminal.capabilities;
    assert_eq!((known.up.0, known.down), (7_000_000, machine.terminal.capabilities.down));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_valid_token_or_from_a_foreign_page_there_is_no_websocket() {
    let service = Service::start_with(|config| config.allowed_origins = vec!["https://console.example.org".to_owned()]).await;
    let account = service.account("anna", Role::User).await;
    let bearer = format!("Bearer {}", account.tokens.access_token);
    let own = service.base.clone();
    let status = |outcome: Result<Socket, tungstenite::Error>| match outcome {
        Ok(_) => 101,
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(status(open(&service, &[]).await), 401);
    assert_eq!(status(open(&service, &[("Authorization", "Bearer abc")]).await), 401);
    for (origin, expected) in [
        ("https://console.example.org", 101),
        (own.as_str(), 101),
        ("https://console.example.org.evil.example", 403),
        ("http://console.example.org", 403),
        ("null", 403),
    ] {
        assert_eq!(status(open(&service, &[("Authorization", &bearer), ("Origin", origin)]).await), expected, "{origin}");
    }
    problem(service.get(&account, "/v1/ws").send().await.unwrap(), ErrorCode::InvalidRequest).await;
}
