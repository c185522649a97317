//! Who copies what: the origin directly, helpers in the end game, later groups for earlier ones.

use std::time::Duration;

use protocol::ws::GrantKind;

use super::world::{GroupSpec, World};
use super::{MBIT, one_group};

const LONG: Duration = Duration::from_secs(60);

/// Chunk payload that terminals have sent to each other, in chunks.
fn copies(world: &World) -> u64 {
    world.copied / (world.manifest.length.0 / u64::from(world.manifest.chunk_count()))
}

#[test]
fn b29_a_direct_chunk_is_copied_to_no_member_and_into_each_group_below_once() {
    let groups = vec![GroupSpec { members: vec![0, 1, 2], parent: None }, GroupSpec { members: vec![3, 4, 5, 6], parent: Some(0) }];
    let mut world = World::new(24, &[10 * MBIT; 7], groups);
    for node in 0..3 {
        world.give(node, GrantKind::Direct, 0..24);
    }
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    assert!(world.origin_sent.values().all(|&times| times == 3) && world.origin_sent.len() == 24);
    assert!(world.nodes[..3].iter().all(|node| node.disk.values().all(|source| source.is_origin())));
    for chunk in 0..24 {
        let above = |source| world.nodes[..3].iter().any(|node| node.id == source);
        let entered = world.nodes[3..].iter().filter(|node| above(node.disk[&chunk])).count();
        assert_eq!(entered, 1, "chunk {chunk} entered the second group {entered} times");
    }
    assert_eq!(copies(&world), 24 * 4);
    assert!(world.nodes[..3].iter().all(|node| node.received_notices == 24), "the server hears of each of them");
    assert!(world.nodes.iter().all(|node| node.suspects.is_empty()));
}

#[test]
fn b03_in_the_end_members_take_over_what_a_slow_relay_owes() {
    let mut world = World::new(3, &[MBIT, 20 * MBIT, 20 * MBIT, 20 * MBIT, 20 * MBIT], one_group(5));
    world.give(0, GrantKind::FirstCopy, 0..3);
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    // By itself it would take 3 chunks · 4 copies · 800 ms = 9.6 s. Once each are 2.4 s.
    assert!(world.now < Duration::from_secs(6), "took {:?}", world.now);
    assert!(copies(&world) <= 15, "{} copies instead of 12", copies(&world));
    assert_eq!(world.origin_sent.values().sum::<u32>(), 3, "it costs the origin nothing");
    let by_the_slow_one: usize =
        world.nodes[1..].iter().map(|node| node.disk.values().filter(|source| **source == world.nodes[0].id).count()).sum();
    assert!(by_the_slow_one <= 9, "the slow one delivered {by_the_slow_one} of 12");
}

#[test]
fn b03_a_relay_that_is_slower_than_it_says_is_not_waited_for_once_somebody_has_its_chunk() {
    // A copy takes 40 ms by what it says, and 2.4 s or 4 s. In the second case all of them have asked the relay itself meanwhile, in vain.
    for (slower, first_copy) in [(60, Duration::from_millis(2_400)), (100, Duration::from_secs(4))] {
        let mut world = World::new(1, &[20 * MBIT; 5], one_group(5));
        world.nodes[0].slower = slower;
        world.give(0, GrantKind::FirstCopy, 0..1);
        assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
        let since = world.now.saturating_sub(first_copy);
        assert!(since < Duration::from_millis(900), "the others had it {since:?} after the first one");
        assert_eq!(world.origin_sent.values().sum::<u32>(), 1, "it costs the origin nothing");
    }
}

#[test]
fn b03_relays_that_are_in_time_are_left_alone_in_the_end() {
    let mut world = World::new(64, &[10 * MBIT; 6], one_group(6));
    assert!(world.run_until(LONG, World::all_complete));
    assert_eq!(copies(&world), 64 * 5, "nothing was sent twice");
}

#[test]
fn b29_a_chunk_that_only_a_later_group_has_comes_back_without_the_origin() {
    let groups = vec![GroupSpec { members: vec![0, 1, 2], parent: None }, GroupSpec { members: vec![3, 4, 5], parent: Some(0) }];
    // None of the group above is fast enough to be of help to the next one.
    let mut world = World::new(1, &[MBIT, MBIT, MBIT, 10 * MBIT, 10 * MBIT, 10 * MBIT], groups);
    world.give(0, GrantKind::FirstCopy, 0..1);
    assert!(world.run_until(LONG, |world| world.nodes[3].disk.len() == 1), "the group below gets its copy");
    let seed = (1..3).find(|&node| !world.nodes[node].disk.is_empty());
    assert!(world.nodes[1].disk.is_empty() || world.nodes[2].disk.is_empty(), "and gets it before the group has it");
    [Some(0), seed].into_iter().flatten().for_each(|node| world.kill(node));
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    assert_eq!(world.origin_sent.values().sum::<u32>(), 1);
    let below: Vec<_> = world.nodes[3..].iter().map(|node| node.id).collect();
    let left = (1..3).find(|&node| Some(node) != seed).unwrap();
    assert!(below.contains(&world.nodes[left].disk[&0]) || seed.is_none());
    assert!(world.nodes.iter().all(|node| node.suspects.is_empty()));
}
