//! Puts a chunk's frames together. A link is ordered and carries one chunk at a time, so one partial chunk per link is all the memory that it takes.

use bytes::{Bytes, BytesMut};
use protocol::TerminalId;
use protocol::frame::ChunkFrame;

/// A chunk that is arriving on one link.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) chunk: u32,
    length: u32,
    first_copy: bool,
    hop: u8,
    destinations: Vec<TerminalId>,
    bytes: BytesMut,
}

/// A chunk whose last frame has arrived; not verified yet.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) chunk: u32,
    pub(crate) first_copy: bool,
    pub(crate) hop: u8,
    /// As the first frame named them.
    pub(crate) destinations: Vec<TerminalId>,
    pub(crate) bytes: Bytes,
}

/// The frame does not continue what came before it on this link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfPlace;

/// Adds a frame. A frame at offset 0 starts a chunk anew and drops a partial one: the sender has changed its mind.
pub(crate) fn add(slot: &mut Option<Partial>, frame: ChunkFrame, length: u32) -> Result<Option<Arrived>, OutOfPlace> {
    let ChunkFrame { swarm_id: _, chunk, offset, first_copy, hop, destinations, payload } = frame;
    if payload.len() as u64 + u64::from(offset) > u64::from(length) {
        return Err(OutOfPlace);
    }
    if offset == 0 && payload.len() as u64 == u64::from(length) {
        *slot = None;
        return Ok(Some(Arrived { chunk, first_copy, hop, destinations, bytes: payload }));
    }
    if offset == 0 {
        *slot = Some(Partial { chunk, length, first_copy, hop, destinations, bytes: BytesMut::with_capacity(length as usize) });
    }
    let Some(partial) = slot.as_mut().filter(|partial| partial.chunk == chunk && partial.bytes.len() as u64 == u64::from(offset)) else {
        return Err(OutOfPlace);
    };
    partial.bytes.extend_from_slice(&payload);
    if (partial.bytes.len() as u64) < u64::from(partial.length) {
        return Ok(None);
    }
    Ok(slot.take().map(|partial| Arrived {
        chunk: partial.chunk,
        first_copy: partial.first_copy,
        hop: partial.hop,
        destinations: partial.destinations,
        bytes: partial.bytes.freeze(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::SwarmId;

    fn frame(chunk: u32, offset: u32, payload: &'static [u8]) -> ChunkFrame {
        ChunkFrame {
            swarm_id: SwarmId::from_bytes([0; 16]),
            chunk,
            offset,
            first_copy: offset == 0,
            hop: 0,
            destinations: vec![],
            payload: Bytes::from_static(payload),
        }
    }

    #[test]
    fn frames_in_order_make_the_chunk() {
        let mut slot = None;
        assert!(add(&mut slot, frame(1, 0, b"ab"), 5).unwrap().is_none());
        assert!(add(&mut slot, frame(1, 2, b"cd"), 5).unwrap().is_none());
        let arrived = add(&mut slot, frame(1, 4, b"e"), 5).unwrap().unwrap();
        assert_eq!((&arrived.bytes[..], arrived.first_copy), (&b"abcde"[..], true));
        assert!(slot.is_none());
    }

    #[test]
    fn a_gap_another_chunk_or_too_many_bytes_are_out_of_place() {
        let mut slot = None;
        assert_eq!(add(&mut slot, frame(1, 2, b"cd"), 5).unwrap_err(), OutOfPlace);
        add(&mut slot, frame(1, 0, b"ab"), 5).unwrap();
        assert_eq!(add(&mut slot, frame(1, 3, b"d"), 5).unwrap_err(), OutOfPlace);
        assert_eq!(add(&mut slot, frame(2, 2, b"c"), 5).unwrap_err(), OutOfPlace);
        assert_eq!(add(&mut slot, frame(1, 2, b"cdef"), 5).unwrap_err(), OutOfPlace);
    }

    #[test]
    fn a_sender_that_starts_another_chunk_drops_the_partial_one() {
        let mut slot = None;
        add(&mut slot, frame(1, 0, b"ab"), 5).unwrap();
        assert!(add(&mut slot, frame(2, 0, b"xyz"), 3).unwrap().is_some_and(|arrived| arrived.chunk == 2));
        assert!(slot.is_none());
    }
}
