//! What is lost on the way: terminals that stop for a moment or for ever, and disks that forget.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::TerminalId;
use protocol::ws::GrantKind;

use super::world::{GroupSpec, World};
use super::{MBIT, one_group};

const LONG: Duration = Duration::from_secs(120);

fn no_one_is_suspected_of(world: &World, reason: protocol::ws::SuspectReason) -> bool {
    world.nodes.iter().all(|node| node.suspects.iter().all(|(_, why)| *why != reason))
}

#[test]
fn copies_for_a_member_that_stops_for_a_moment_wait_for_it() {
    let mut world = World::new(64, &[10 * MBIT; 3], one_group(3));
    assert!(world.run_until(LONG, |world| world.nodes[2].disk.len() > 20));
    let thaws_at = world.now + Duration::from_millis(1_800);
    world.frozen = Some((2, thaws_at));
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    // The others hear nothing of it for more than a second, and go on meanwhile. What it asks for when it goes on is queued for it already.
    let copies = world.copied / 100_000;
    assert!(copies <= 64 * 2 + 4, "{copies} copies of 128 were sent");
    assert_eq!(world.origin_sent.values().sum::<u32>(), 64);
}

#[test]
fn a_chunk_that_a_relay_took_along_is_fetched_again_while_others_still_come() {
    let mut world = World::new(500, &[2 * MBIT, 10 * MBIT, 10 * MBIT, 10 * MBIT], one_group(4));
    let only_with_the_first = |world: &World| -> BTreeSet<u32> {
        let elsewhere = |chunk: &u32| world.nodes[1..].iter().any(|node| node.disk.contains_key(chunk));
        world.nodes[0].disk.keys().copied().filter(|chunk| !elsewhere(chunk)).collect()
    };
    assert!(world.run_until(LONG, |world| world.nodes[1].disk.len() > 60 && !only_with_the_first(world).is_empty()));
    let taken_along = only_with_the_first(&world);
    world.kill(0);
    let killed_at = world.now;
    let back = |world: &World| taken_along.iter().all(|chunk| world.nodes[1..].iter().all(|node| node.disk.contains_key(chunk)));
    assert!(world.run_until(LONG, back), "{taken_along:?} never came back");
    assert!(!world.all_complete(), "the others must not have run out of chunks");
    assert!(world.now - killed_at < Duration::from_secs(5), "{taken_along:?} came back after {:?}", world.now - killed_at);
    assert!(world.run_until(LONG, World::all_complete));
    assert!(world.premature.is_empty(), "{:?}", world.premature);
}

#[test]
fn each_receiver_tells_when_the_first_of_what_a_dead_relay_owed_comes_from_somebody_else() {
    // The first one is slow: it owes copies at any time.
    let mut world = World::new(200, &[2 * MBIT, 10 * MBIT, 10 * MBIT, 10 * MBIT], one_group(4));
    let lacks = |world: &World, node: usize, of: &BTreeSet<u32>| of.iter().any(|chunk| !world.nodes[node].disk.contains_key(chunk));
    let brought = |world: &World| -> BTreeSet<u32> {
        world.nodes[0].disk.iter().filter(|(_, source)| source.is_origin()).map(|(chunk, _)| *chunk).collect()
    };
    assert!(
        world.run_until(LONG, |world| world.nodes[1].disk.len() > 60
            && lacks(world, 1, &brought(world))
            && lacks(world, 2, &brought(world)))
    );
    // By then it has announced what it has brought now.
    let announced = brought(&world);
    world.run_until(world.now + Duration::from_millis(150), |_| false);
    let owed: Vec<bool> = (0..4).map(|node| lacks(&world, node, &announced)).collect();
    assert!(owed.contains(&true), "it owed nothing");
    assert!(world.nodes.iter().all(|node| node.replaced.is_empty()), "nobody is gone yet");
    let (dead, killed_at) = (world.nodes[0].id, world.now);
    world.kill(0);
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    for (node, owed) in world.nodes.iter().zip(owed).skip(1) {
        assert!(node.replaced.len() <= 1 && (!owed || node.replaced.len() == 1), "{:?}", node.replaced);
        for &(relay, source, chunk, silent_for) in &node.replaced {
            assert!(relay == dead && source != dead, "{relay} by {source}");
            assert_eq!(node.disk[&chunk], source, "chunk {chunk}");
            assert!(silent_for < world.now - killed_at + Duration::from_secs(1), "{silent_for:?}");
        }
    }
}

#[test]
fn what_a_relay_owes_that_the_server_has_lost_sight_of_is_asked_of_others_before_its_links_are_found_silent() {
    let silences = |told: bool| -> Vec<Duration> {
        let mut world = World::new(3, &[MBIT, 20 * MBIT, 20 * MBIT, 20 * MBIT, 20 * MBIT], one_group(5));
        world.give(0, GrantKind::FirstCopy, 0..3);
        // It has sent the first copy of one chunk, which its receiver has announced, and is in the middle of the second one.
        assert!(world.run_until(LONG, |world| world.nodes[1..].iter().any(|node| !node.disk.is_empty())));
        world.run_until(world.now + Duration::from_millis(250), |_| false);
        world.vanish(0, told);
        world.run_until(world.now + Duration::from_secs(5), |_| false);
        world.nodes[1..].iter().flat_map(|node| &node.replaced).map(|&(.., silent_for)| silent_for).collect()
    };
    let (told, untold) = (silences(true), silences(false));
    assert!(!told.is_empty() && !untold.is_empty(), "it owed nothing");
    assert!(told.iter().all(|silent_for| *silent_for < Duration::from_millis(500)), "{told:?}");
    assert!(untold.iter().all(|silent_for| *silent_for >= Duration::from_millis(600)), "{untold:?}");
}

#[test]
fn what_a_relay_that_is_gone_owed_comes_before_what_the_others_owe() {
    let mut world = World::new(400, &[10 * MBIT; 8], one_group(8));
    assert!(world.run_until(LONG, |world| world.nodes[1].disk.len() > 100));
    world.vanish(0, true);
    assert!(world.run_until(LONG, |world| world.nodes[1].disk.len() > 200));
    let mut silences: Vec<Duration> = world.nodes[1..].iter().flat_map(|node| &node.replaced).map(|&(.., silent_for)| silent_for).collect();
    silences.sort_unstable();
    // Each of them owes half a second to a second of copies at any time.
    let median = silences.get(silences.len() / 2).copied().expect("it owed nothing");
    assert!(median < Duration::from_millis(500), "{silences:?}");
}

#[test]
fn a_peer_that_the_server_has_lost_sight_of_and_that_is_heard_is_relied_on_as_before() {
    let mut world = World::new(64, &[10 * MBIT; 3], one_group(3));
    assert!(world.run_until(LONG, |world| world.nodes[2].disk.len() > 20));
    let id = world.nodes[0].id;
    let now = world.now;
    world.nodes[1].swarm.as_mut().unwrap().handle_peer_gone(id, now);
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    assert!(world.nodes.iter().all(|node| node.suspects.is_empty() && node.replaced.len() <= 1));
    let copies = world.copied / 100_000;
    assert!(copies <= 64 * 2 + 4, "{copies} copies of 128 were sent");
}

#[test]
fn what_comes_from_others_after_a_relay_is_back_replaces_nothing() {
    let mut world = World::new(3, &[MBIT, 20 * MBIT, 20 * MBIT, 20 * MBIT, 20 * MBIT], one_group(5));
    world.give(0, GrantKind::FirstCopy, 0..3);
    // The wave opens at 500 ms: it is in the middle of its first copy, which takes 800 ms.
    world.run_until(Duration::from_millis(900), |_| false);
    assert_eq!((world.nodes[0].disk.len(), world.stored()), (3, 3));
    let relay = world.nodes[0].id;
    world.frozen = Some((0, world.now + Duration::from_millis(900)));
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    let receivers = &world.nodes[1..];
    assert!(receivers.iter().any(|node| node.suspects.iter().any(|(peer, _)| *peer == relay)), "nobody missed it");
    let taken_over = receivers.iter().flat_map(|node| node.disk.values()).filter(|source| **source != relay).count();
    assert!(taken_over > 0, "it was slow, and nobody helped");
    assert!(receivers.iter().all(|node| node.replaced.is_empty()), "{:?}", receivers.iter().map(|node| &node.replaced).collect::<Vec<_>>());
}

#[test]
fn a_slow_origin_is_not_asked_for_what_it_has_not_given_out() {
    let mut world = World::new(40, &[10 * MBIT; 3], one_group(3));
    world.origin_takes = Duration::from_millis(2_500);
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    assert!(world.now > Duration::from_secs(30), "the origin was not slow: {:?}", world.now);
    assert!(world.premature.is_empty(), "asked too early for {:?}", world.premature);
    assert!(world.origin_sent.values().all(|&times| times == 1), "{:?}", world.origin_sent);
}

/// Ends the last terminal, and takes `chunks` of what it has from its disk before it begins again.
fn restart_without(world: &mut World, node: usize, chunks: impl Fn(u32, TerminalId) -> bool) -> Vec<(u32, TerminalId)> {
    world.kill(node);
    // What was under way on the old links is gone with them.
    world.run_until(world.now + Duration::from_millis(500), |_| false);
    let lost: Vec<(u32, TerminalId)> = world.nodes[node].disk.iter().map(|(&chunk, &source)| (chunk, source)).collect();
    let lost: Vec<(u32, TerminalId)> = lost.into_iter().filter(|(chunk, source)| chunks(*chunk, *source)).collect();
    for (chunk, source) in &lost {
        world.nodes[node].disk.remove(chunk);
        world.nodes[node].lost.insert(*chunk, *source);
    }
    world.start(node);
    world.link_all();
    lost
}

#[test]
fn a_chunk_lost_from_disk_is_fetched_again_and_stays_signed_for_its_first_source() {
    // With two terminals the one that is asked is the one that has a receipt for it already.
    for members in [2, 4] {
        let mut world = World::new(64, &vec![10 * MBIT; members], one_group(members));
        let last = members - 1;
        assert!(world.run_until(LONG, |world| world.nodes[last].disk.len() > 40));
        let lost = restart_without(&mut world, last, |chunk, source| chunk % 2 == 0 && !source.is_origin());
        assert!(lost.len() > 3, "{lost:?}");
        let began = world.now;
        let done = world.run_until(LONG, World::all_complete);
        let missing = |node: usize| (0..64).filter(|chunk| !world.nodes[node].disk.contains_key(chunk)).collect::<Vec<u32>>();
        assert!(done, "stuck at {:?}: {:?}", world.now, (0..members).map(missing).collect::<Vec<_>>());
        assert!(world.now - began < Duration::from_secs(8), "took {:?}", world.now - began);
        world.run_until(world.now + Duration::from_secs(15), |_| false);
        let me = world.nodes[last].id;
        for (chunk, source) in lost {
            assert_eq!(world.nodes[last].disk[&chunk], source, "chunk {chunk} is noted for its first source");
            assert_eq!(world.signed[&(me, chunk)], BTreeSet::from([source]), "chunk {chunk} is signed for its first source alone");
        }
        for node in &world.nodes {
            assert!(node.suspects.is_empty(), "{:?}", node.suspects);
        }
    }
}

#[test]
fn a_terminal_that_lost_its_whole_disk_is_served_again_by_those_that_served_it() {
    let mut world = World::new(200, &[40 * MBIT; 2], vec![GroupSpec { members: vec![0, 1], parent: None }]);
    assert!(world.run_until(LONG, World::all_complete));
    let lost = restart_without(&mut world, 1, |_, _| true);
    assert_eq!(lost.len(), 200, "more than a sender accepts as duplicates");
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    assert!(no_one_is_suspected_of(&world, protocol::ws::SuspectReason::Unacknowledged));
    let again = world.origin_sent.values().sum::<u32>() - 200;
    assert!(again < 80, "the origin had to send {again} chunks again");
    let me = world.nodes[1].id;
    assert!(lost.iter().all(|(chunk, source)| world.signed[&(me, *chunk)].contains(source)), "the first source keeps what was signed");
}

#[test]
fn a_chunk_that_the_origin_keeps_sending_wrong_is_fetched_ever_more_seldom_and_complained_of_once() {
    let mut world = World::new(4, &[10 * MBIT], one_group(1));
    world.spoilt.insert(1, 6);
    world.spoilt.insert(2, 1);
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    assert_eq!((world.origin_sent[&1], world.origin_sent[&2], world.complaints), (7, 2, 1));
    // Half a second, then one, two, four, eight and eight.
    let waited = Duration::from_millis(23_500);
    assert!(world.now > waited && world.now < waited + Duration::from_secs(2), "{:?}", world.now);
}

#[test]
fn what_is_asked_of_a_second_member_because_the_first_is_slow_is_not_sent_by_both() {
    // The first one takes 2.7 s for a chunk: longer than a pull is waited for.
    let mut world = World::new(40, &[3 * MBIT / 10, 2 * MBIT, 10 * MBIT], vec![GroupSpec { members: vec![0, 1, 2], parent: None }]);
    world.kill(2);
    assert!(world.run_until(LONG, World::all_complete));
    let before = world.copied;
    world.start(2);
    world.link_all();
    assert!(world.run_until(world.now + LONG, World::all_complete), "stuck at {:?}", world.now);
    world.run_until(world.now + Duration::from_secs(30), |_| false);
    let sent = (world.copied - before) / 100_000;
    assert!(sent <= 43, "{sent} chunks were sent for the 40 that were wanted");
}

#[test]
fn x03_a_receiver_that_denies_what_it_got_is_sent_one_window_by_each_relay_and_no_more() {
    let mut world = World::new(200, &[10 * MBIT; 6], one_group(6));
    world.denier = Some(5);
    let others_complete = |world: &World| world.nodes[..5].iter().all(|node| node.disk.len() == 200);
    assert!(world.run_until(LONG, others_complete), "stuck at {:?}", world.now);
    // However long it waits.
    world.run_until(world.now + Duration::from_secs(30), |_| false);
    assert_eq!(world.sent_to_denier.len(), 5, "each of them has tried");
    for (relay, sent) in &world.sent_to_denier {
        assert!(*sent <= swarm::WINDOW_BYTES, "{sent} bytes of relay {relay} are lost");
    }
    let denied: u64 = world.sent_to_denier.values().sum();
    assert!(denied < world.manifest.length.0 / 10, "{denied} bytes for nothing are far from the whole");
}
