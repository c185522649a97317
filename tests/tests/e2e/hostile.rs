//! Hostile clients: on the WebSocket, and on data channels. What they do costs them the connection and nobody else a byte.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use bytes::Bytes;
use protocol::bitmap::SEGMENT_BYTES;
use protocol::frame::{ChunkFrame, Frame, PAYLOAD_MAX};
use protocol::receipt::{Receipt, ReceiptBody};
use protocol::ws::{Capabilities, ClientMessage, ServerMessage};
use protocol::{DeliveryId, ErrorCode, PROTOCOL_VERSION, Signature, SwarmId, TerminalId, TerminalKey, TimestampMs};
use tests::Stack;
use tests::hostile::{is_closed_by_the_other_end, open};

use crate::ring::Ring;

/// All frames of a chunk of the right length and the wrong bytes.
fn wrong_chunk(swarm_id: SwarmId, chunk: u32, length: u32) -> Vec<Vec<u8>> {
    let offsets = (0..length).step_by(PAYLOAD_MAX);
    let frame = |offset: u32| {
        let payload = Bytes::from(vec![0xEE; PAYLOAD_MAX.min((length - offset) as usize)]);
        Frame::Chunk(ChunkFrame { swarm_id, chunk, offset, first_copy: false, hop: 0, destinations: vec![], payload }).encode()
    };
    offsets.map(frame).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn b16_a_chunk_is_verified_before_use_so_that_corrupt_frames_are_neither_stored_nor_relayed() {
    let mut ring = Ring::start(3 << 20, 20).await;
    let manifest = ring.publisher.manifest(ring.published.edition.id).await;
    let victims: Vec<TerminalId> = ring.plan.members.iter().map(|peer| peer.terminal_id).collect();
    let mut links = Vec::new();
    for victim in victims {
        links.push(ring.hostile.link(victim).await);
    }
    ring.wait_for_the_start().await;
    for link in &mut links {
        // From the end: the last chunks are the ones that nobody has yet.
        for (chunk, entry) in (0..).zip(&manifest.chunks).collect::<Vec<_>>().into_iter().rev() {
            for frame in wrong_chunk(ring.plan.swarm_id, chunk, entry.length) {
                // It may be refused because the link was closed over an earlier one: that is what is tested.
                let _ = link.send(&frame[..]).await;
            }
        }
        assert!(is_closed_by_the_other_end(link).await, "the victim closes the link");
    }
    ring.honest_complete().await;
    ring.hostile_earned_nothing().await;
    drop(ring.stack);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_frame_or_a_hello_of_another_key_closes_the_link() {
    let mut ring = Ring::start(1 << 20, 20).await;
    let victims: Vec<TerminalId> = ring.plan.members.iter().map(|peer| peer.terminal_id).collect();
    let mut garbage = ring.hostile.link(victims[0]).await;
    garbage.send(&[0xFF; 40][..]).await.expect("it goes out");
    assert!(is_closed_by_the_other_end(&mut garbage).await, "garbage closes the link");
    let mut beyond = ring.hostile.link(victims[1]).await;
    beyond.send(&wrong_chunk(ring.plan.swarm_id, u32::MAX, 100)[0][..]).await.expect("it goes out");
    assert!(is_closed_by_the_other_end(&mut beyond).await, "a chunk that the edition does not have closes the link");
    let mut false_hello = ring.hostile.raw_link(victims[2]).await;
    let other_key = TerminalKey::from_secret(&[9; 32]);
    let hello = protocol::hello::Hello::signed(ring.hostile.terminal_id, victims[2], &false_hello.fingerprints(), &other_key);
    false_hello.send(&Frame::Hello(hello).encode()[..]).await.expect("it goes out");
    assert!(is_closed_by_the_other_end(&mut false_hello).await, "a hello signed by another key closes the link");
    ring.honest_complete().await;
    ring.hostile_earned_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_terminal_may_not_say_on_the_websocket_is_answered_by_the_same_codes() {
    let mut ring = Ring::start(100_000, 20).await;
    let (mine, nobodys) = (ring.plan.swarm_id, SwarmId::from_bytes([7; 16]));
    ring.hostile.send_text("{".into()).await;
    assert_eq!(ring.hostile.error().await, ErrorCode::MalformedMessage);
    ring.hostile.send_text(r#"{"type":"give_me_money"}"#.into()).await;
    assert_eq!(ring.hostile.error().await, ErrorCode::MalformedMessage);
    ring.hostile.send(&ClientMessage::Credits { swarm_id: nobodys, open: 1 }).await;
    assert_eq!(ring.hostile.error().await, ErrorCode::NotInSwarm);
    ring.hostile.send(&ClientMessage::Missing { swarm_id: mine, chunks: vec![u32::MAX] }).await;
    assert_eq!(ring.hostile.error().await, ErrorCode::InvalidRequest);
    let honest = &ring.plan.members[0];
    let body = |delivery_id: DeliveryId, source: TerminalId| ReceiptBody {
        delivery_id,
        source,
        receiver: ring.hostile.terminal_id,
        segment: 0,
        sequence: 1,
        at: TimestampMs(1),
        bitmap: Box::new([1; SEGMENT_BYTES]),
    };
    let forged = Receipt { body: body(ring.plan.delivery_id, honest.terminal_id), signature: Signature([1; 64]) };
    let others = body(honest.delivery_id, honest.terminal_id).sign(&ring.hostile.key);
    let of_itself = body(ring.plan.delivery_id, ring.hostile.terminal_id).sign(&ring.hostile.key);
    let of_a_stranger = body(ring.plan.delivery_id, TerminalId::from_bytes([9; 16])).sign(&ring.hostile.key);
    for receipt in [forged, others, of_itself, of_a_stranger] {
        let receipts = vec![STANDARD.encode(receipt.pack())];
        ring.hostile.send(&ClientMessage::Receipts { receipts }).await;
        assert_eq!(ring.hostile.error().await, ErrorCode::InvalidReceipt, "{receipt:?}");
    }
    ring.honest_complete().await;
    ring.hostile.send_text("x".repeat(70 << 10)).await;
    assert_eq!(ring.hostile.error().await, ErrorCode::PayloadTooLarge);
    while ring.hostile.next().await.is_some() {}
    ring.hostile_earned_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_without_a_lease_is_not_served() {
    let ring = Ring::start(1 << 20, 20).await;
    ring.ask_for(0).await.expect_problem(ErrorCode::NoLease);
    ring.wait_for_the_start().await;
    for chunk in [0, 1, ring.published.edition.chunks - 1] {
        ring.ask_for(chunk).await.expect_problem(ErrorCode::NoLease);
    }
    ring.ask_for(ring.published.edition.chunks).await.expect_problem(ErrorCode::NotFound);
    ring.honest_complete().await;
    let release = ring.publisher.release(ring.release.id).await;
    assert_eq!(release.origin.sent, ring.published.edition.length, "the origin sent each chunk once, to those who held the leases");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_of_a_key_gets_in() {
    let stack = Stack::start().await;
    let operator = stack.operator().await;
    let (owner, thief) = (stack.rich_user(&operator, 1).await, stack.rich_user(&operator, 1).await);
    let (terminal_id, _) = owner.terminal("t").await;
    assert_eq!(open(&stack.url, "no token").await.unwrap_err(), 401);
    for (person, terminal_id) in [(&owner, terminal_id), (&thief, terminal_id), (&owner, TerminalId::from_bytes([3; 16]))] {
        use futures_util::{SinkExt, StreamExt};
        use tokio_tungstenite::tungstenite::Message;
        let mut socket = open(&stack.url, &person.token).await.expect("a WebSocket");
        assert!(matches!(socket.next().await, Some(Ok(Message::Text(_)))), "a challenge");
        let hello = ClientMessage::Hello {
            protocol: PROTOCOL_VERSION,
            terminal_id,
            signature: TerminalKey::from_secret(&[1; 32]).sign(b"something else"),
            capabilities: Capabilities::default(),
            resume: None,
        };
        socket.send(Message::text(serde_json::to_string(&hello).unwrap())).await.unwrap();
        let Some(Ok(Message::Text(answer))) = socket.next().await else { panic!("no answer") };
        let ServerMessage::Error { code, .. } = serde_json::from_str(&answer).unwrap() else { panic!("{answer}") };
        assert!(matches!(code, ErrorCode::Unauthenticated | ErrorCode::NotFound | ErrorCode::Forbidden), "{code}");
    }
}
