//! A terminal that holds everything and only serves it.

use std::sync::Arc;
use std::time::Duration;

use protocol::bitmap::ChunkSet;
use protocol::frame::Frame;
use protocol::manifest::{ChunkEntry, FileEntry, Manifest};
use protocol::ws::{Peer, SwarmPlan};
use protocol::{BitsPerSecond, Blake3, Bytes, DeliveryId, GroupId, ReleaseId, SwarmId, TerminalId, TerminalKey, TimestampMs};
use swarm::{Action, Config, Swarm};

const CHUNKS: usize = 5;

fn manifest() -> Manifest {
    let content = vec![7; CHUNKS * 1000];
    Manifest {
        directory: false,
        length: Bytes(content.len() as u64),
        blake3: Blake3::of(&content),
        files: vec![FileEntry { path: "film.bin".into(), length: Bytes(content.len() as u64), executable: false }],
        chunks: content.chunks(1000).map(|chunk| ChunkEntry { length: 1000, hash: Blake3::of(chunk) }).collect(),
    }
}

fn drain(swarm: &mut Swarm) -> Vec<Action> {
    std::iter::from_fn(|| swarm.poll_action()).collect()
}

#[test]
fn who_serves_only_offers_everything_sends_what_is_asked_and_signs_and_reports_nothing() {
    let manifest = Arc::new(manifest());
    let (me, receiver) = (TerminalId::from_bytes([1; 16]), TerminalId::from_bytes([2; 16]));
    let peer = Peer {
        terminal_id: receiver,
        public_key: TerminalKey::from_secret(&[2; 32]).public(),
        delivery_id: DeliveryId::from_bytes([3; 16]),
        up: BitsPerSecond(0),
    };
    let plan = SwarmPlan {
        release_id: ReleaseId::from_bytes([4; 16]),
        swarm_id: SwarmId::from_bytes([5; 16]),
        edition_id: manifest.edition_id(),
        delivery_id: DeliveryId::from_bytes([6; 16]),
        epoch: 2,
        rank: 1,
        opens_at: TimestampMs(0),
        deadline_at: TimestampMs(1_000_000),
        group_id: GroupId::from_bytes([7; 16]),
        root: false,
        members: vec![],
        parents: vec![],
        children: vec![],
        serves: vec![peer],
        sealed: None,
    };
    assert!(plan.serves_only());
    let config = Config { me, key: TerminalKey::from_secret(&[1; 32]), up: BitsPerSecond(0) };
    let now = Duration::from_secs(1);
    let mut swarm = Swarm::serving(config, plan.clone(), Arc::clone(&manifest), TimestampMs(0), now).unwrap();
    assert!(swarm.is_complete() && swarm.progress().verified == manifest.length);
    assert!(drain(&mut swarm).is_empty(), "not even that it is complete, which was told by another delivery");
    swarm.handle_link_up(receiver, now);
    let offered = drain(&mut swarm).into_iter().fold(ChunkSet::default(), |mut all, action| {
        if let Action::Send { frame: Frame::Have { segment, bitmap, .. }, .. } = action {
            all.insert_segment(segment, &bitmap);
        }
        all
    });
    assert_eq!(offered.len() as usize, CHUNKS);
    swarm.handle_frame(receiver, Frame::Request { swarm_id: plan.swarm_id, chunks: vec![3, 1] }, now);
    let sent: Vec<u32> = std::iter::from_fn(|| swarm.poll_transmit(now, &|_| true)).map(|transmit| transmit.chunk).collect();
    assert_eq!(sent, [3, 1]);
    swarm.handle_connected(now);
    swarm.handle_timeout(now + Duration::from_secs(5));
    swarm.flush(now + Duration::from_secs(5));
    for action in drain(&mut swarm) {
        assert!(matches!(action, Action::Send { .. } | Action::Suspect { .. }), "{action:?}");
    }
}
