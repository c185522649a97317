//! What terminals tell the server, and what the server shows and charges because of it.

use std::time::Duration;

use bytes::Bytes;
use protocol::frame::{ChunkFrame, Frame, PAYLOAD_MAX};
use protocol::rest::DeliveryState;
use protocol::ws::{ClientMessage, Progress, PushMessage};
use protocol::{BitsPerSecond, Bytes as ByteCount, TimestampMs};
use tests::{Plan, eventually};
use time::OffsetDateTime;

use crate::ring::Ring;
use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a10_each_terminal_reports_its_distribution_state_and_the_server_shows_it_live() {
    let scene = Scene::start(3, 6 << 20, &Plan::default()).await;
    let length = scene.published.edition.length;
    let live = eventually("every terminal's progress is shown in mid-transfer", Duration::from_secs(60), || async {
        let deliveries = scene.publisher.deliveries(scene.release.id).await;
        let shown: Vec<Progress> = deliveries.iter().filter_map(|delivery| delivery.progress).collect();
        let in_the_middle = shown.iter().all(|progress| progress.verified.0 > 0 && progress.verified < length);
        (shown.len() == 3 && in_the_middle).then_some(shown)
    })
    .await;
    for progress in live {
        assert_eq!(progress.from_origin.0 + progress.from_peers.0, progress.verified.0, "{progress:?}");
    }
    scene.all_complete(&[0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_what_is_charged_follows_from_signed_receipts_and_not_from_what_a_terminal_says() {
    let mut ring = Ring::start(1 << 20, 12).await;
    let everything = Progress {
        verified: ring.published.edition.length,
        from_origin: ByteCount(0),
        from_peers: ring.published.edition.length,
        relayed: ByteCount(3 << 20),
        up: BitsPerSecond(1),
        down: BitsPerSecond(1),
    };
    ring.hostile.send(&ClientMessage::Progress { swarm_id: ring.plan.swarm_id, progress: everything }).await;
    ring.honest_complete().await;
    let me = ring.hostile.terminal_id;
    let mine = eventually("the deadline passes", Duration::from_secs(60), || async {
        let deliveries = ring.publisher.deliveries(ring.release.id).await;
        deliveries.into_iter().find(|delivery| delivery.terminal_id == me && delivery.state != DeliveryState::Pending)
    })
    .await;
    assert_eq!((mine.verified.0, mine.charged.amount.0, mine.earned.amount.0), (0, 0, 0), "{mine:?}");
    assert_eq!(mine.state, DeliveryState::Released);
    ring.hostile_earned_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b04_a_relays_overhead_is_measured_from_sending_to_its_copies_being_done() {
    let scene = Scene::start(3, 4 << 20, &Plan::default()).await;
    scene.all_complete(&[0, 1, 2]).await;
    scene.settled(Duration::from_secs(60)).await;
    for delivery in scene.publisher.deliveries(scene.release.id).await {
        let overhead = delivery.overhead_ns_per_byte.expect("every member of the group relayed chunks of its own");
        // Two copies at 12 Mbit/s take 1,333 ns per byte of chunk; several chunks outstanding share that time. More than 100 times it would be
        // a measurement of something else than copying.
        assert!((200..133_300).contains(&overhead), "{overhead} ns per byte");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b15_a_receipt_carries_the_time_of_receiving_and_pays_the_relay_that_sent() {
    let mut ring = Ring::start(2 << 20, 40).await;
    let receiver = ring.plan.members[0].clone();
    let manifest = ring.publisher.manifest(ring.published.edition.id).await;
    let mut link = ring.hostile.link(receiver.terminal_id).await;
    ring.wait_for_the_start().await;
    ring.hostile.send(&ClientMessage::Credits { swarm_id: ring.plan.swarm_id, open: 1 }).await;
    let granted = ring.hostile.push(|push| if let PushMessage::Grant { chunks, .. } = push { Some(chunks) } else { None }).await;
    let chunk = granted[0];
    let bytes = ring.fetch(chunk).await;
    assert_eq!(protocol::Blake3::of(&bytes), manifest.chunks[chunk as usize].hash);
    let sent_at = now();
    for (index, payload) in bytes.chunks(PAYLOAD_MAX).enumerate() {
        let offset = u32::try_from(index * PAYLOAD_MAX).unwrap();
        let payload = Bytes::copy_from_slice(payload);
        let frame = ChunkFrame { swarm_id: ring.plan.swarm_id, chunk, offset, first_copy: false, hop: 1, destinations: vec![], payload };
        link.send(&Frame::Chunk(frame).encode()[..]).await.expect("it goes out");
    }
    let receipt = loop {
        match Frame::decode(link.recv().await.expect("the link stays open")).expect("a frame") {
            Frame::Receipt { receipt, .. } => break receipt,
            Frame::Ping { nonce } => link.send(&Frame::Pong { nonce }.encode()[..]).await.expect("it goes out"),
            _ => {}
        }
    };
    assert!(receipt.is_signed_by(&receiver.public_key));
    assert_eq!((receipt.body.source, receipt.body.delivery_id), (ring.hostile.terminal_id, receiver.delivery_id));
    assert!(receipt.body.chunks().any(|acknowledged| acknowledged == chunk));
    // One machine, one clock: the receiver's estimate of the server's clock is off by no more than the exchange took.
    let (earliest, latest) = (sent_at.0.saturating_sub(500), now().0 + 500);
    assert!((earliest..=latest).contains(&receipt.body.at.0), "{} is not between {earliest} and {latest}", receipt.body.at.0);
    ring.honest_complete().await;
    let settled = eventually("the receiver's delivery is settled", Duration::from_secs(60), || async {
        let deliveries = ring.publisher.deliveries(ring.release.id).await;
        deliveries.into_iter().find(|delivery| delivery.id == receiver.delivery_id && delivery.state == DeliveryState::Settled)
    })
    .await;
    let share =
        settled.sources.iter().find(|share| share.source == ring.hostile.terminal_id).expect("the relay that sent is among the sources");
    assert_eq!(share.bytes.0, bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn b13_b17_a_terminal_is_told_who_is_in_its_network_when_it_changes_by_what_became_different() {
    let mut ring = Ring::start_with_later_rank(1 << 20).await;
    assert_eq!(ring.plan.members.len(), 2, "before the second wave opens nobody knows of it: {:?}", ring.plan);
    assert!(ring.plan.children.is_empty() && ring.plan.serves.is_empty());
    let first_epoch = ring.plan.epoch;
    let newer = loop {
        let plan = ring.hostile.plan().await;
        if !plan.children.is_empty() {
            break plan;
        }
    };
    assert!(newer.epoch > first_epoch);
    assert!(ring.hostile.differences > 0, "the wave was told as a difference to the plan before");
    assert_eq!(newer.members, ring.plan.members, "who was there is there still, in the same order");
    let late = ring.honest[2].0.terminal_id;
    assert!(newer.peers().any(|peer| peer.terminal_id == late), "the terminal of the second wave is named: {newer:?}");
}

fn now() -> TimestampMs {
    TimestampMs(u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap())
}
