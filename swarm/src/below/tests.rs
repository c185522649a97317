//! What a member does with destinations, honest and hostile ones.

use std::sync::Arc;

use bytes::Bytes;
use protocol::frame::{ChunkFrame, Duplicate, Frame};
use protocol::manifest::{ChunkEntry, FileEntry, Manifest};
use protocol::ws::{SuspectReason, SwarmPlan};
use protocol::*;

use super::*;
use crate::action::{Action, Transmit};
use crate::config::Config;

const LENGTH: u32 = 1_000;
const SWARM: SwarmId = SwarmId::from_bytes([2; 16]);
/// A member, a parent, the contacts in two groups below, and somebody whom the plan does not know.
const MEMBER: u8 = 2;
const PARENT: u8 = 3;
const FIRST: u8 = 4;
const SECOND: u8 = 5;
const OTHER: u8 = 6;
const STRANGER: u8 = 9;
/// The group of the first two contacts; the third one's is the next.
const GROUP: u8 = 10;

fn id(number: u8) -> TerminalId {
    TerminalId::from_bytes([number; 16])
}

fn group_id(number: u8) -> GroupId {
    GroupId::from_bytes([number; 16])
}

fn peer(number: u8) -> Peer {
    let public_key = TerminalKey::from_secret(&[number; 32]).public();
    Peer { terminal_id: id(number), public_key, delivery_id: DeliveryId::from_bytes([number; 16]), up: BitsPerSecond(0) }
}

fn payload(chunk: u32) -> Bytes {
    Bytes::from(vec![u8::try_from(chunk).unwrap(); LENGTH as usize])
}

/// Terminal 1, linked to all of its plan: one group below with two contacts, and one with a third.
fn machine(chunks: u32) -> Swarm {
    let entries = (0..chunks).map(|chunk| ChunkEntry { length: LENGTH, hash: Blake3::of(&payload(chunk)) }).collect();
    let whole: Vec<u8> = (0..chunks).flat_map(payload).collect();
    let length = protocol::Bytes(u64::from(chunks * LENGTH));
    let files = vec![FileEntry { path: "x".into(), length, executable: false }];
    let manifest = Manifest { directory: false, length, blake3: Blake3::of(&whole), files, chunks: entries };
    let way = Way { member: id(MEMBER), contact: id(SECOND) };
    let child = |group: u8, contacts: Vec<Peer>| ChildGroup { group_id: group_id(group), contacts, ways: vec![way] };
    let plan = SwarmPlan {
        release_id: ReleaseId::from_bytes([1; 16]),
        swarm_id: SWARM,
        edition_id: manifest.edition_id(),
        delivery_id: DeliveryId::from_bytes([1; 16]),
        epoch: 1,
        rank: 1,
        opens_at: TimestampMs(0),
        deadline_at: TimestampMs(10_000_000),
        group_id: GroupId::from_bytes([1; 16]),
        root: false,
        members: vec![peer(MEMBER)],
        parents: vec![peer(PARENT)],
        children: vec![child(GROUP, vec![peer(FIRST), peer(SECOND)]), child(GROUP + 1, vec![peer(OTHER)])],
        serves: vec![],
        sealed: None,
    };
    let config = Config { me: id(1), key: TerminalKey::from_secret(&[1; 32]), up: BitsPerSecond(0) };
    let mut swarm = Swarm::new(config, plan, Arc::new(manifest), &[], &[], TimestampMs(0), Now::ZERO).unwrap();
    for number in [MEMBER, PARENT, FIRST, SECOND, OTHER] {
        swarm.handle_link_up(id(number), Now::ZERO);
    }
    swarm
}

/// A chunk comes whole and is stored. Answers why its sender lost the link, if it did.
fn receive(swarm: &mut Swarm, from: u8, chunk: u32, destinations: &[u8]) -> Option<SuspectReason> {
    let frame = ChunkFrame {
        swarm_id: SWARM,
        chunk,
        offset: 0,
        first_copy: false,
        hop: 1,
        destinations: destinations.iter().map(|&number| id(number)).collect(),
        payload: payload(chunk),
    };
    swarm.handle_frame(id(from), Frame::Chunk(frame), Now::ZERO);
    let mut closed = None;
    while let Some(action) = swarm.poll_action() {
        if let Action::Store { chunk, .. } = action {
            swarm.handle_stored(chunk, Now::ZERO);
        } else if let Action::CloseLink { reason, .. } = action {
            closed = Some(reason);
        }
    }
    closed
}

/// Everything that goes out.
fn sent(swarm: &mut Swarm) -> Vec<(TerminalId, u32)> {
    let next = || swarm.poll_transmit(Now::ZERO, &|_| true);
    let noted = |transmit: Transmit| {
        assert!(transmit.first_copy && transmit.destinations.is_empty(), "the contact brings it into its group: {transmit:?}");
        (transmit.peer, transmit.chunk)
    };
    std::iter::from_fn(next).map(noted).collect()
}

#[test]
fn b31_a_member_copies_on_to_the_destinations_that_it_reads_and_keeps_what_comes_without_any() {
    let mut swarm = machine(3);
    assert_eq!(receive(&mut swarm, MEMBER, 0, &[]), None);
    assert_eq!(sent(&mut swarm), [], "kept, and not its own to copy");
    assert_eq!(receive(&mut swarm, MEMBER, 1, &[SECOND, OTHER]), None);
    assert_eq!(swarm.relaying[&1].remaining, BTreeSet::from([id(SECOND), id(OTHER)]), "the list is kept while the copies are owed");
    assert_eq!(sent(&mut swarm), [(id(SECOND), 1), (id(OTHER), 1)]);
    for contact in [SECOND, OTHER] {
        let has_it = Duplicate::signed(SWARM, 1, id(1), id(contact), &TerminalKey::from_secret(&[contact; 32]));
        swarm.handle_frame(id(contact), Frame::Duplicate(has_it), Now::ZERO);
    }
    assert!(swarm.relaying.is_empty(), "and no longer");
    assert_eq!(receive(&mut swarm, MEMBER, 1, &[FIRST]), None);
    assert_eq!(sent(&mut swarm), [], "a second copy is acknowledged and nothing else");
}

#[test]
fn b31_a_destination_that_is_gone_gives_way_to_another_contact_of_its_group() {
    let mut swarm = machine(2);
    swarm.handle_link_down(id(SECOND), Now::ZERO);
    swarm.handle_link_down(id(OTHER), Now::ZERO);
    assert_eq!(receive(&mut swarm, MEMBER, 0, &[SECOND, OTHER]), None);
    assert_eq!(sent(&mut swarm), [(id(FIRST), 0)], "the other group has no contact that is there: it pulls");
}

#[test]
fn b31_hostile_destinations_reach_no_stranger_no_group_twice_and_no_more_than_a_few_chunks_at_a_time() {
    let mut swarm = machine(200);
    assert_eq!(receive(&mut swarm, MEMBER, 0, &[STRANGER, MEMBER, PARENT, 1]), None);
    assert_eq!(sent(&mut swarm), [], "only contacts of this terminal's own plan are followed");
    assert_eq!(receive(&mut swarm, MEMBER, 1, &[FIRST, SECOND]), None);
    assert_eq!(sent(&mut swarm), [(id(FIRST), 1)], "a group gets a chunk once");
    let has_them = Frame::HaveDelta { swarm_id: SWARM, chunks: vec![2] };
    swarm.handle_frame(id(SECOND), has_them, Now::ZERO);
    assert_eq!(receive(&mut swarm, MEMBER, 2, &[FIRST]), None);
    assert_eq!(sent(&mut swarm), [], "and not if it has it");
    for chunk in 3..200 {
        assert_eq!(receive(&mut swarm, MEMBER, chunk, &[FIRST, OTHER]), None);
    }
    assert_eq!(swarm.relaying.len(), HANDED_MAX);
    assert_eq!(swarm.have().len(), 200, "the rest is kept");
}

#[test]
fn b31_destinations_from_outside_the_group_or_for_a_first_copy_close_the_link() {
    let mut swarm = machine(2);
    assert_eq!(receive(&mut swarm, PARENT, 0, &[FIRST]), Some(SuspectReason::Malformed));
    assert_eq!(receive(&mut swarm, FIRST, 0, &[OTHER]), Some(SuspectReason::Malformed));
    assert!(sent(&mut swarm).is_empty() && swarm.have().is_empty());
}

/// What the member is told that this terminal reaches, in groups; the latest word.
fn told(swarm: &mut Swarm) -> Option<Vec<GroupId>> {
    swarm.handle_timeout(swarm.next_deadline());
    let mut latest = None;
    while let Some(action) = swarm.poll_action() {
        if let Action::Send { peer, frame: Frame::Reach { groups, .. } } = action
            && peer == id(MEMBER)
        {
            latest = Some(groups);
        }
    }
    latest
}

#[test]
fn b31_members_hear_which_groups_below_a_terminal_reaches_and_when_it_does_no_more() {
    let mut swarm = machine(1);
    assert_eq!(told(&mut swarm), Some(vec![group_id(GROUP), group_id(GROUP + 1)]));
    assert_eq!(told(&mut swarm), None, "once");
    swarm.handle_link_down(id(FIRST), Now::ZERO);
    assert_eq!(told(&mut swarm), None, "the other contact is there");
    swarm.handle_link_down(id(SECOND), Now::ZERO);
    assert_eq!(told(&mut swarm), Some(vec![group_id(GROUP + 1)]));
    swarm.handle_link_down(id(MEMBER), Now::ZERO);
    swarm.handle_link_up(id(MEMBER), Now::ZERO);
    assert_eq!(told(&mut swarm), Some(vec![group_id(GROUP + 1)]), "who is back has forgotten");
    let plan = SwarmPlan { epoch: 2, ..swarm.plan().clone() };
    swarm.handle_plan(plan, Now::ZERO);
    assert_eq!(told(&mut swarm), Some(vec![group_id(GROUP + 1)]), "who was no member before may not know");
}

#[test]
fn b31_a_chunk_is_handed_over_to_a_member_that_reaches_the_group_and_to_no_other() {
    let mut swarm = machine(3);
    for contact in [FIRST, SECOND, OTHER] {
        swarm.handle_link_down(id(contact), Now::ZERO);
    }
    for (chunk, reached, handed) in [(0, vec![], vec![]), (1, vec![GROUP], vec![id(SECOND)]), (2, vec![], vec![])] {
        let groups = reached.into_iter().map(group_id).collect();
        swarm.handle_frame(id(MEMBER), Frame::Reach { swarm_id: SWARM, groups }, Now::ZERO);
        let frame =
            ChunkFrame { swarm_id: SWARM, chunk, offset: 0, first_copy: true, hop: 1, destinations: vec![], payload: payload(chunk) };
        swarm.handle_frame(id(PARENT), Frame::Chunk(frame), Now::ZERO);
        while let Some(action) = swarm.poll_action() {
            if let Action::Store { chunk, .. } = action {
                swarm.handle_stored(chunk, Now::ZERO);
            }
        }
        let Transmit { peer, destinations, .. } = swarm.poll_transmit(Now::ZERO, &|_| true).unwrap();
        assert_eq!((peer, destinations), (id(MEMBER), handed), "chunk {chunk}");
    }
}
