//! Whole transfers through the real machine under virtual time.

mod below;
mod own;
mod sharing;
mod trouble;
mod world;

use std::time::Duration;

use protocol::TerminalId;
use protocol::ws::SuspectReason;
use world::{GroupSpec, World};

const MBIT: u64 = 1_000_000;

fn one_group(members: usize) -> Vec<GroupSpec> {
    vec![GroupSpec { members: (0..members).collect(), parent: None }]
}

#[test]
fn a_group_completes_from_one_copy_per_chunk_of_the_origin() {
    let mut world = World::new(64, &[10 * MBIT; 6], one_group(6));
    assert!(world.run_until(Duration::from_secs(60), World::all_complete), "stuck at {:?}", world.now);
    assert!(world.origin_sent.values().all(|&times| times == 1) && world.origin_sent.len() == 64);
    assert!(
        world.run_until(world.now + Duration::from_secs(2), |world| world.nodes.iter().map(|node| node.copies_done).sum::<usize>() == 64)
    );
    for node in &world.nodes {
        let swarm = node.swarm.as_ref().unwrap();
        assert_eq!(swarm.progress().verified, world.manifest.length);
        assert!(swarm.progress().relayed.0 > 0, "everyone relays");
        assert!(node.suspects.is_empty(), "{:?}", node.suspects);
    }
    let relayed: u64 = world.nodes.iter().map(|node| node.swarm.as_ref().unwrap().progress().relayed.0).sum();
    assert_eq!(relayed, 5 * world.manifest.length.0, "each chunk was copied to the five others once");
    // 6 receivers of 6.4 MB over 6 × 10 Mbit/s and a fast origin: at least 4.27 s of copying.
    assert!(world.now < Duration::from_secs(8), "took {:?}", world.now);
}

#[test]
fn a_slow_relay_is_given_fewer_chunks() {
    let mut world = World::new(96, &[2 * MBIT, 20 * MBIT, 20 * MBIT, 20 * MBIT], one_group(4));
    assert!(world.run_until(Duration::from_secs(60), World::all_complete));
    let from_origin = |node: usize| world.nodes[node].disk.values().filter(|source| source.is_origin()).count();
    assert!(from_origin(0) * 4 < from_origin(1), "the slow one got {} and a fast one {}", from_origin(0), from_origin(1));
}

#[test]
fn b29_a_chunk_enters_a_second_group_once_and_is_copied_on_inside_it() {
    let groups = vec![GroupSpec { members: vec![0, 1, 2], parent: None }, GroupSpec { members: vec![3, 4, 5, 6], parent: Some(0) }];
    let mut world = World::new(48, &[10 * MBIT; 7], groups);
    assert!(world.run_until(Duration::from_secs(60), World::all_complete));
    assert!(world.origin_sent.values().all(|&times| times == 1));
    for chunk in 0..48 {
        let from_outside =
            (3..7).filter(|&node| world.nodes[..3].iter().any(|parent| Some(&parent.id) == world.nodes[node].disk.get(&chunk))).count();
        assert_eq!(from_outside, 1, "chunk {chunk} entered the second group {from_outside} times");
    }
}

#[test]
fn a_group_that_joins_late_pulls_from_those_that_are_complete() {
    let mut world = World::new(48, &[10 * MBIT; 6], one_group(3));
    assert!(world.run_until(Duration::from_secs(60), |world| world.nodes[..3].iter().all(|node| node.disk.len() == 48)));
    world.groups.push(GroupSpec { members: vec![3, 4, 5], parent: Some(0) });
    for node in 3..6 {
        world.start(node);
    }
    world.replan();
    let opened = world.now;
    assert!(world.run_until(Duration::from_secs(120), World::all_complete));
    assert_eq!(world.origin_sent.values().sum::<u32>(), 48, "the origin sends nothing for a later wave");
    // 3 × 4.8 MB over 6 × 10 Mbit/s take 1.92 s.
    assert!(world.now - opened < Duration::from_secs(5), "took {:?}", world.now - opened);
    let outside: usize = (3..6)
        .map(|node| world.nodes[node].disk.values().filter(|source| world.nodes[..3].iter().any(|parent| parent.id == **source)).count())
        .sum();
    assert!(outside < 60, "{outside} of 48 chunks entered the group from outside");
}

#[test]
fn a_killed_relay_costs_its_group_no_chunk() {
    for victim in 0..5 {
        let mut world = World::new(64, &[10 * MBIT; 5], one_group(5));
        assert!(world.run_until(Duration::from_secs(60), |world| world.stored() > 160));
        world.kill(victim);
        assert!(world.run_until(Duration::from_secs(120), World::all_complete), "stuck with victim {victim}: {} stored", world.stored());
    }
}

#[test]
fn a_receiver_that_restarts_keeps_what_it_has() {
    let mut world = World::new(64, &[10 * MBIT; 4], one_group(4));
    assert!(world.run_until(Duration::from_secs(60), |world| world.nodes[2].disk.len() > 30));
    world.kill(2);
    let before = world.nodes[2].disk.clone();
    world.start(2);
    world.link_all();
    assert!(world.run_until(Duration::from_secs(60), World::all_complete));
    for (chunk, source) in before {
        assert_eq!(world.nodes[2].disk[&chunk], source, "chunk {chunk} was fetched again");
    }
    assert_eq!(world.nodes[2].swarm.as_ref().unwrap().progress().verified, world.manifest.length);
}

#[test]
fn corrupt_frames_close_the_link_and_nothing_bad_is_stored_or_relayed() {
    // `carry_out` asserts on every store that the bytes are right.
    let mut world = World::new(64, &[10 * MBIT; 4], one_group(4));
    world.corrupt = Some((1, 3));
    assert!(world.run_until(Duration::from_secs(120), World::all_complete));
    assert!(world.corrupted > 0);
    let liar: TerminalId = world.nodes[1].id;
    assert!(world.nodes[3].suspects.contains(&(liar, SuspectReason::Corrupt)));
    assert!(world.nodes[3].disk.values().all(|source| *source != liar), "nothing from the bad link counts");
}

#[test]
fn nothing_moves_before_the_wave_opens() {
    let mut world = World::new(8, &[10 * MBIT; 3], one_group(3));
    let opens = Duration::from_millis(500);
    world.run_until(opens - Duration::from_millis(1), |_| false);
    assert_eq!(world.stored(), 0);
    assert!(world.origin_sent.is_empty());
    assert!(world.run_until(Duration::from_secs(20), World::all_complete));
}

#[test]
fn one_terminal_alone_is_fed_by_the_origin() {
    let mut world = World::new(1, &[10 * MBIT], one_group(1));
    assert!(world.run_until(Duration::from_secs(5), World::all_complete));
    assert_eq!(world.origin_sent.len(), 1);
}
