//! Copies that go into another group over a member that was named in a frame.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::TimestampMs;
use protocol::bitmap::SEGMENT_BYTES;
use protocol::frame::Frame;
use protocol::receipt::ReceiptBody;
use tests::eventually;
use time::OffsetDateTime;

use crate::ring::Ring;

/// The contact of all three relays in the group below opens a link to one of them alone, asks nobody for anything, and signs for what comes.
#[tokio::test(flavor = "multi_thread")]
async fn b31_a_relay_copies_on_what_others_name_a_destination_for_that_they_cannot_reach() {
    let mut ring = Ring::start_with_hostile_below(16 << 20).await;
    let manifest = ring.publisher.manifest(ring.published.edition.id).await;
    let [(over, running), ..] = &ring.honest[..] else { panic!("three honest terminals") };
    let contact = ring.plan.parents.iter().find(|peer| peer.terminal_id == over.terminal_id).expect("a relay above").clone();
    assert_eq!(ring.plan.parents.len(), 3, "{:?}", ring.plan);
    let mut link = ring.hostile.link(contact.terminal_id).await;
    let mut arrived: BTreeMap<u32, u32> = BTreeMap::new();
    let mut whole = Vec::new();
    let mut bitmap = Box::new([0; SEGMENT_BYTES]);
    let brought =
        || running.last("progress").and_then(|event| event["from_origin"].as_u64()).filter(|_| running.last("completed").is_some());
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut came = 0;
    // What a relay owes its own group comes first: what is for the one below may come when it is complete itself.
    while tokio::time::Instant::now() < until && brought().is_none_or(|brought| came <= brought) {
        let Ok(message) = tokio::time::timeout(Duration::from_millis(500), link.recv()).await else { continue };
        match Frame::decode(message.expect("the link stays open")).expect("a frame") {
            Frame::Chunk(frame) => {
                let got = arrived.entry(frame.chunk).or_default();
                *got += u32::try_from(frame.payload.len()).unwrap();
                if *got != manifest.chunks[frame.chunk as usize].length {
                    continue;
                }
                came += u64::from(*got);
                whole.push(frame.chunk);
                bitmap[frame.chunk as usize / 8] |= 1 << (frame.chunk % 8);
                let body = ReceiptBody {
                    delivery_id: ring.plan.delivery_id,
                    source: contact.terminal_id,
                    receiver: ring.hostile.terminal_id,
                    segment: 0,
                    sequence: u32::try_from(whole.len()).unwrap(),
                    at: TimestampMs(u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap()),
                    bitmap: bitmap.clone(),
                };
                let receipt = Frame::Receipt { swarm_id: ring.plan.swarm_id, receipt: Box::new(body.sign(&ring.hostile.key)) };
                link.send(&receipt.encode()[..]).await.expect("it goes out");
            }
            Frame::Ping { nonce } => link.send(&Frame::Pong { nonce }.encode()[..]).await.expect("it goes out"),
            _ => {}
        }
    }
    let brought = eventually("the relay is complete", Duration::from_secs(30), || async { brought() }).await;
    assert!(came > brought, "of {came} bytes the relay brought at most {brought} itself: nobody handed it anything");
    ring.honest_complete().await;
}
