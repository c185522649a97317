//! Cuts a byte stream into chunks as it arrives, holding no more than a chunk and what came in one piece.
//!
//! Content-defined cuts depend on the bytes around them only, so that an edition whose middle has changed shares the chunks before and after with
//! the old one (FastCDC: Xia et al., 2016 and 2020).

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::FastCDC;
use protocol::rest::Chunking;

const MINIMUM: usize = 16 << 10;
const AVERAGE: usize = 64 << 10;
const MAXIMUM: usize = 128 << 10;
/// The length of all chunks but the last when they are of fixed length.
pub const FIXED: usize = 64 << 10;

/// Push bytes, take chunks. The cuts do not depend on the pieces in which the bytes came.
#[derive(Debug)]
pub struct Cutter {
    chunking: Chunking,
    waiting: BytesMut,
}

impl Cutter {
    pub fn new(chunking: Chunking) -> Self {
        Self { chunking, waiting: BytesMut::with_capacity(2 * MAXIMUM) }
    }

    pub fn push(&mut self, piece: &[u8]) {
        self.waiting.extend_from_slice(piece);
    }

    /// The next chunk, if enough bytes are there to know where it ends.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        let needed = match self.chunking {
            // A cut looks at no byte past the longest chunk, so that with this many it falls where it would with all the rest.
            Chunking::ContentDefined => MAXIMUM,
            Chunking::Fixed => FIXED,
        };
        if self.waiting.len() < needed { None } else { Some(self.cut()) }
    }

    /// The chunks that are left when no more bytes come.
    pub fn last_chunk(&mut self) -> Option<Bytes> {
        if self.waiting.is_empty() { None } else { Some(self.cut()) }
    }

    fn cut(&mut self) -> Bytes {
        let end = match self.chunking {
            Chunking::ContentDefined => FastCDC::new(&self.waiting, MINIMUM, AVERAGE, MAXIMUM).cut(0, self.waiting.len()).1,
            Chunking::Fixed => self.waiting.len().min(FIXED),
        };
        self.waiting.split_to(end).freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The same bytes for the same seed (xorshift).
    fn bytes(mut seed: u64, length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(length + 8);
        while out.len() < length {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            out.extend_from_slice(&seed.to_le_bytes());
        }
        out.truncate(length);
        out
    }

    fn cut(chunking: Chunking, stream: &[u8], piece: usize) -> Vec<Bytes> {
        let mut cutter = Cutter::new(chunking);
        let mut chunks = Vec::new();
        for piece in stream.chunks(piece) {
            cutter.push(piece);
            while let Some(chunk) = cutter.next_chunk() {
                chunks.push(chunk);
            }
        }
        while let Some(chunk) = cutter.last_chunk() {
            chunks.push(chunk);
        }
        chunks
    }

    #[test]
    fn the_cuts_do_not_depend_on_the_pieces_and_equal_those_of_the_whole() {
        let stream = bytes(7, 3_000_000);
        let whole: Vec<usize> = FastCDC::new(&stream, MINIMUM, AVERAGE, MAXIMUM).map(|chunk| chunk.length).collect();
        for piece in [1_000, 65_536, 131_072, 1_000_003, 3_000_000] {
            let chunks = cut(Chunking::ContentDefined, &stream, piece);
            assert_eq!(chunks.iter().map(Bytes::len).collect::<Vec<_>>(), whole, "pieces of {piece}");
            assert_eq!(chunks.concat(), stream);
        }
    }

    #[test]
    fn a_chunk_is_never_longer_than_the_protocol_allows() {
        assert!(u32::try_from(MAXIMUM).unwrap() <= protocol::frame::CHUNK_MAX);
        let zeros = vec![0; 1_000_000];
        assert!(cut(Chunking::ContentDefined, &zeros, 9_999).iter().all(|chunk| chunk.len() <= MAXIMUM));
    }

    #[test]
    fn fixed_chunks_are_all_of_one_length_but_the_last() {
        let stream = bytes(3, 3 * FIXED + 1);
        let lengths: Vec<_> = cut(Chunking::Fixed, &stream, 1_000).iter().map(Bytes::len).collect();
        assert_eq!(lengths, [FIXED, FIXED, FIXED, 1]);
        assert_eq!(cut(Chunking::Fixed, &stream[..FIXED], 1_000).len(), 1);
    }

    #[test]
    fn a_change_in_the_middle_leaves_most_chunks_as_they_were() {
        let old = bytes(11, 8_000_000);
        let mut new = old.clone();
        new.splice(4_000_000..4_000_000, b"a few bytes more".iter().copied());
        let old: BTreeSet<_> = cut(Chunking::ContentDefined, &old, 65_536).into_iter().collect();
        let new = cut(Chunking::ContentDefined, &new, 65_536);
        let changed = new.iter().filter(|chunk| !old.contains(*chunk)).count();
        assert!(changed <= 3, "{changed} of {} chunks are new", new.len());
    }
}
