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
