//! What nobody has to send: chunks from another edition on the disk, and chunks that repeat one of the same edition.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::TerminalId;

use crate::world::{GroupSpec, World};
use crate::{MBIT, one_group};

impl World {
    /// Whom the receiver has signed a chunk for.
    fn signed_for(&self, node: usize, chunk: u32) -> BTreeSet<TerminalId> {
        self.signed.get(&(self.nodes[node].id, chunk)).cloned().unwrap_or_default()
    }

    fn all_signed(&self) -> bool {
        (0..self.nodes.len()).all(|node| (0..self.manifest.chunk_count()).all(|chunk| !self.signed_for(node, chunk).is_empty()))
    }
}

#[test]
fn x09_of_equal_chunks_the_first_travels_and_the_others_are_signed_for_as_had() {
    let kinds: Vec<u32> = (0..40).map(|chunk| if chunk % 4 == 0 { chunk } else { 1 }).collect();
    let groups = vec![GroupSpec { members: vec![0, 1, 2], parent: None }, GroupSpec { members: vec![3, 4], parent: Some(0) }];
    let mut world = World::with(&kinds, &[], &[10 * MBIT; 5], groups);
    assert!(world.run_until(Duration::from_secs(60), World::all_complete), "stuck at {:?}", world.now);
    assert!(world.run_until(world.now + Duration::from_secs(5), World::all_signed), "something is not signed for");
    let is_first = |chunk: u32| chunk.is_multiple_of(4) || chunk == 1;
    assert_eq!(world.origin_sent.keys().copied().collect::<Vec<_>>(), (0..40).filter(|&chunk| is_first(chunk)).collect::<Vec<_>>());
    assert!(world.requested.values().flatten().all(|&chunk| is_first(chunk)), "a repeat was asked for");
    assert_eq!(world.copied, 11 * 100_000 * 4, "eleven chunks went to four others");
    for node in 0..5 {
        let me = world.nodes[node].id;
        for chunk in 0..40 {
            assert_eq!(world.signed_for(node, chunk) == BTreeSet::from([me]), !is_first(chunk), "terminal {node}, chunk {chunk}");
        }
        let progress = world.nodes[node].swarm.as_ref().unwrap().progress();
        assert_eq!(progress.verified, world.manifest.length);
        assert_eq!(progress.from_origin.0 + progress.from_peers.0, 11 * 100_000);
    }
}

#[test]
fn x09_chunks_of_another_edition_are_not_sent_again_and_are_signed_for_once_the_wave_is_open() {
    let own: Vec<u32> = (0..64).filter(|chunk| chunk % 16 != 5).collect();
    let mut world = World::with(&(0..64).collect::<Vec<_>>(), &[own.clone(), own.clone(), own.clone()], &[10 * MBIT; 3], one_group(3));
    assert!(!world.run_until(Duration::from_millis(499), |world| !world.signed.is_empty()), "signed for before the wave opened");
    assert!(world.run_until(Duration::from_secs(30), World::all_complete), "stuck at {:?}", world.now);
    assert!(world.run_until(world.now + Duration::from_secs(5), World::all_signed));
    assert_eq!(world.origin_sent.keys().copied().collect::<Vec<_>>(), [5, 21, 37, 53]);
    assert_eq!(world.copied, 4 * 100_000 * 2, "each of the four chunks went to the two others");
    for node in 0..3 {
        let me = world.nodes[node].id;
        assert!(own.iter().all(|&chunk| world.signed_for(node, chunk) == BTreeSet::from([me])));
        assert!([5, 21, 37, 53].iter().all(|&chunk| !world.signed_for(node, chunk).contains(&me)));
    }
}

#[test]
fn x09_who_holds_everything_signs_for_it_and_gives_it_to_who_has_nothing() {
    let all: Vec<u32> = (0..32).collect();
    let mut world = World::with(&all, std::slice::from_ref(&all), &[20 * MBIT; 2], one_group(2));
    assert!(world.nodes[0].swarm.as_ref().unwrap().is_complete());
    assert!(world.run_until(Duration::from_secs(30), |world| world.all_complete() && world.all_signed()), "stuck at {:?}", world.now);
    let (holder, newcomer) = (world.nodes[0].id, 1);
    assert!(all.iter().all(|&chunk| world.signed_for(newcomer, chunk) == BTreeSet::from([holder])), "the newcomer got it from elsewhere");
    assert!(world.origin_sent.is_empty());
    assert!(all.iter().all(|&chunk| world.signed_for(0, chunk) == BTreeSet::from([holder])));
}

#[test]
fn a_terminal_that_cannot_write_asks_for_nothing_and_goes_on_when_it_can() {
    let mut world = World::new(64, &[20 * MBIT; 3], one_group(3));
    assert!(world.run_until(Duration::from_secs(30), |world| world.nodes[2].disk.len() >= 8));
    let now = world.now;
    world.nodes[2].swarm.as_mut().unwrap().handle_paused(true, now);
    let others = |world: &World| (0..2).all(|node| world.nodes[node].swarm.as_ref().unwrap().is_complete());
    let asked = world.requested.get(&2).map_or(0, Vec::len);
    assert!(world.run_until(Duration::from_secs(120), others), "the others wait for it");
    assert_eq!(world.requested.get(&2).map_or(0, Vec::len), asked, "it pulled while it could not write");
    let now = world.now;
    world.nodes[2].swarm.as_mut().unwrap().handle_paused(false, now);
    assert!(world.run_until(Duration::from_secs(180), World::all_complete), "stuck at {:?}", world.now);
}
