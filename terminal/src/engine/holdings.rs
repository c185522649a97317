//! The answer to the question what this terminal holds: one message per segment of the have-list that has anything in it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol::SwarmId;
use protocol::bitmap::{ChunkSet, segment_count};
use protocol::ws::{ClientMessage, LIST_MAX};

/// All messages, the leases in the last one. There is always one, so that an empty terminal answers as well.
pub(super) fn messages(swarm_id: SwarmId, have: &ChunkSet, chunks: u32, mut leases: Vec<u32>) -> Vec<ClientMessage> {
    leases.truncate(LIST_MAX);
    let mut segments: Vec<(u32, String)> = (0..segment_count(chunks))
        .map(|segment| (segment, have.segment(segment)))
        .filter(|(_, bitmap)| bitmap.iter().any(|byte| *byte != 0))
        .map(|(segment, bitmap)| (segment, STANDARD.encode(bitmap)))
        .collect();
    if segments.is_empty() {
        segments.push((0, STANDARD.encode(have.segment(0))));
    }
    let count = segments.len();
    let message = |(index, (segment, bitmap)): (usize, (u32, String))| {
        let last = index + 1 == count;
        ClientMessage::Holdings { swarm_id, segment, bitmap, last, leases: if last { leases.clone() } else { Vec::new() } }
    };
    segments.into_iter().enumerate().map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_segments_are_left_out_and_the_last_message_has_the_leases() {
        let swarm = SwarmId::from_bytes([1; 16]);
        let have: ChunkSet = [1, 9000].into_iter().collect();
        let messages = messages(swarm, &have, 10_000, vec![5, 6]);
        let parts: Vec<(u32, bool, usize)> = messages
            .iter()
            .map(|message| {
                let ClientMessage::Holdings { segment, last, leases, bitmap, .. } = message else { panic!("{message:?}") };
                assert_eq!(STANDARD.decode(bitmap).unwrap().len(), 512);
                (*segment, *last, leases.len())
            })
            .collect();
        assert_eq!(parts, [(0, false, 0), (2, true, 2)]);
    }

    #[test]
    fn an_empty_terminal_answers_too() {
        let messages = messages(SwarmId::from_bytes([1; 16]), &ChunkSet::default(), 10, vec![]);
        assert!(matches!(&messages[..], [ClientMessage::Holdings { segment: 0, last: true, .. }]));
    }
}
