//! A plan fits the message that it is told in.

use protocol::ws::{PushMessage, PushPosition, ServerMessage, SwarmPlan};
use protocol::{EditionId, ReleaseId, SwarmId, TimestampMs};

use super::*;

/// The length of the message that tells a plan, with the longest figures that it may have.
fn message_length(view: TerminalView) -> usize {
    let plan = SwarmPlan {
        release_id: ReleaseId::from_bytes([255; 16]),
        swarm_id: SwarmId::from_bytes([255; 16]),
        edition_id: EditionId([255; 32]),
        delivery_id: DeliveryId::from_bytes([255; 16]),
        epoch: u64::MAX >> 11,
        rank: u32::MAX,
        opens_at: TimestampMs(u64::MAX >> 11),
        deadline_at: TimestampMs(u64::MAX >> 11),
        group_id: view.group_id,
        root: view.root,
        members: view.members,
        parents: view.parents,
        children: view.children,
        serves: view.serves,
        sealed: None,
    };
    let position = PushPosition { epoch: u64::MAX >> 11, offset: u64::MAX >> 11 };
    serde_json::to_string(&ServerMessage::Push { position, message: PushMessage::Plan(Box::new(plan)) }).unwrap().len()
}

#[test]
fn the_longest_plan_fits_a_websocket_message() {
    // Eight full groups, a group of one, eight full groups: the one in the middle is paired with everybody.
    let full = vec![9_999_999_999; 16];
    let mut waves = vec![full.clone(); 8];
    waves.push(vec![9_999_999_999]);
    waves.extend(vec![full; 8]);
    let tree = planned(&waves);
    let longest = views(&tree).into_values().map(message_length).max();
    assert!(longest.is_some_and(|bytes| (50_000..protocol::ws::MESSAGE_MAX).contains(&bytes)), "{longest:?} bytes");
}

fn named(view: &TerminalView) -> usize {
    let below: usize = view.children.iter().map(|child| child.contacts.len()).sum();
    view.members.len() + view.parents.len() + below + view.serves.len()
}

fn some_shapes() -> impl Strategy<Value = Vec<(usize, Shape)>> {
    let shape = (1usize..=16, 1usize..=8).prop_map(|(m, k)| Shape { m, k, roots: 1 });
    prop::collection::vec((0usize..60, shape), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn b17_no_plan_of_any_shape_names_more_than_a_message_holds(waves in some_shapes()) {
        let mut tree = SwarmTree::default();
        let mut number = 0;
        for (wave, (count, shape)) in (0u32..).zip(waves) {
            let candidates: Vec<Candidate> = (number..).take(count).map(|number| peer(number, 9_999_999_999).into()).collect();
            number += u32::try_from(count).unwrap();
            let groups = plan_wave(&tree, wave, &candidates, shape, wave > 0, &group_ids(wave, shape.groups(count))).unwrap();
            tree = tree.with_wave(groups).unwrap();
        }
        for view in views(&tree).into_values() {
            prop_assert!(named(&view) <= 272, "{} terminals", named(&view));
            prop_assert!(message_length(view) < protocol::ws::MESSAGE_MAX);
        }
    }
}
