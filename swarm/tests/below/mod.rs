//! How chunks get into the group below when the straight way is shut (b31).

use std::time::Duration;

use protocol::ws::GrantKind;

use super::MBIT;
use super::world::{GroupSpec, World};

const LONG: Duration = Duration::from_secs(60);

/// Two groups of three: 0, 1, 2 above 3, 4, 5, paired in this order.
fn two_groups(up: &[u64; 6], chunks: u32) -> World {
    let groups = vec![GroupSpec { members: vec![0, 1, 2], parent: None }, GroupSpec { members: vec![3, 4, 5], parent: Some(0) }];
    World::new(chunks, up, groups)
}

/// Whether nobody of the group below had to ask anybody above for anything.
fn nobody_below_asked(world: &World) -> bool {
    (3..6).all(|node| world.requested.get(&node).is_none_or(Vec::is_empty))
}

#[test]
fn b31_where_contacts_are_there_no_frame_names_a_destination() {
    let mut world = two_groups(&[20 * MBIT; 6], 48);
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    assert_eq!(world.handed, []);
}

#[test]
fn b31_a_relay_whose_contact_is_gone_hands_the_copy_to_a_member_with_the_destination() {
    let mut world = two_groups(&[100 * MBIT; 6], 12);
    world.kill(3);
    world.give(0, GrantKind::FirstCopy, 0..12);
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    let mut handed: Vec<u32> = world.handed.iter().map(|(.., chunk, _)| *chunk).collect();
    handed.sort_unstable();
    assert_eq!(handed, (0..12).collect::<Vec<_>>(), "each chunk once, in its first frame");
    for (from, to, chunk, destinations) in &world.handed {
        assert_eq!((*from, &destinations[..]), (0, &[world.nodes[to + 3].id][..]));
        assert_eq!(world.nodes[to + 3].disk[chunk], world.nodes[*to].id, "the destination got it from the member");
    }
    assert!(nobody_below_asked(&world), "and before anybody below missed it");
    assert_eq!(world.origin_sent.values().sum::<u32>(), 12);
}

#[test]
fn b31_copies_that_wait_for_a_contact_that_dies_go_another_way() {
    // At 2 Mbit/s a copy takes 400 ms: the contact dies while the first ones are on their way.
    let mut world = two_groups(&[2 * MBIT, 100 * MBIT, 100 * MBIT, 100 * MBIT, 100 * MBIT, 100 * MBIT], 6);
    world.give(0, GrantKind::FirstCopy, 0..6);
    assert!(world.run_until(LONG, |world| world.nodes[0].disk.len() == 6));
    assert_eq!(world.handed, []);
    world.kill(3);
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    assert!(world.handed.len() >= 4, "{:?}", world.handed);
    for (_, to, chunk, destinations) in &world.handed {
        let destination = world.nodes.iter().position(|node| node.id == destinations[0]).unwrap();
        assert_eq!(destination, to + 3);
        assert!(world.nodes[4].disk[chunk] == world.nodes[1].id || world.nodes[5].disk[chunk] == world.nodes[2].id);
    }
}

/// Two groups of four with these uplinks above and below, and chunks enough that the end is not all.
fn two_groups_of_four(above: u64, below: u64) -> World {
    let groups = vec![GroupSpec { members: vec![0, 1, 2, 3], parent: None }, GroupSpec { members: vec![4, 5, 6, 7], parent: Some(0) }];
    World::new(240, &[[above; 4], [below; 4]].concat(), groups)
}

/// Chunks that members of the group above got from the one below.
fn given_back(world: &World) -> usize {
    let below: Vec<_> = world.nodes[4..].iter().map(|node| node.id).collect();
    world.nodes[..4].iter().map(|node| node.disk.values().filter(|source| below.contains(source)).count()).sum()
}

#[test]
fn b29_a_group_below_that_keeps_up_relieves_the_one_above_of_copies() {
    let mut world = two_groups_of_four(10 * MBIT, 10 * MBIT);
    assert!(world.run_until(LONG, World::all_complete), "stuck at {:?}", world.now);
    // The first and the last of the 240 chunks, 90 in all, come from who brought them; of the others every second one is given back once.
    assert!((40..=75).contains(&given_back(&world)), "{}", given_back(&world));
    assert_eq!(world.origin_sent.values().sum::<u32>(), 240);
    let copies = world.copied / (world.payload[0].len() as u64);
    // Some of the last ones come twice: their relays are late, and others are asked for them too.
    assert!(copies <= 7 * 240 * 103 / 100, "{copies} copies of {}", 7 * 240);
}

#[test]
fn b29_what_a_group_below_was_to_give_back_comes_from_the_own_group_if_it_dies() {
    let mut world = two_groups_of_four(10 * MBIT, 10 * MBIT);
    assert!(world.run_until(LONG, |world| given_back(world) >= 20), "nothing is given back");
    (4..8).for_each(|node| world.kill(node));
    assert!(world.run_until(LONG, |world| world.nodes[..4].iter().all(|node| node.disk.len() == 240)), "stuck at {:?}", world.now);
    assert_eq!(world.origin_sent.values().sum::<u32>(), 240);
}

#[test]
fn b29_a_group_below_that_is_behind_gives_nothing_back() {
    let mut world = two_groups_of_four(40 * MBIT, 4 * MBIT);
    assert!(world.run_until(LONG, |world| world.nodes[..4].iter().all(|node| node.disk.len() == 240)), "stuck at {:?}", world.now);
    assert!(given_back(&world) <= 12, "{} while it is still near", given_back(&world));
}
