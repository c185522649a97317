//! Sets of chunk indices, whole and in segments of 4,096 as receipts and have-lists carry them.

use crate::wire::DecodeError;

/// Chunks per segment: a segment is 512 bytes, so a receipt with one fits a small frame and an edition of 16 GiB has 64 of them.
pub const SEGMENT_CHUNKS: u32 = 4096;
/// Bytes of one segment.
pub const SEGMENT_BYTES: usize = SEGMENT_CHUNKS as usize / 8;

/// The number of segments that `chunks` chunks take.
pub const fn segment_count(chunks: u32) -> u32 {
    chunks.div_ceil(SEGMENT_CHUNKS)
}

/// A growable set of chunk indices, one bit each, least significant bit first within a byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkSet {
    words: Vec<u64>,
    len: u32,
}

impl ChunkSet {
    /// An empty set with room for `chunks` chunks.
    pub fn with_chunks(chunks: u32) -> Self {
        Self { words: vec![0; chunks.div_ceil(64) as usize], len: 0 }
    }

    pub fn contains(&self, chunk: u32) -> bool {
        self.words.get((chunk / 64) as usize).is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    /// Adds a chunk; `false` if it was there already.
    pub fn insert(&mut self, chunk: u32) -> bool {
        let index = (chunk / 64) as usize;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let bit = 1 << (chunk % 64);
        let new = self.words[index] & bit == 0;
        self.words[index] |= bit;
        self.len += u32::from(new);
        new
    }

    pub fn remove(&mut self, chunk: u32) -> bool {
        let Some(word) = self.words.get_mut((chunk / 64) as usize) else { return false };
        let bit = 1 << (chunk % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        self.len -= u32::from(was);
        was
    }

    /// The first chunk at or after `from` and below `end` that is not in the set.
    pub fn next_missing(&self, from: u32, end: u32) -> Option<u32> {
        let mut chunk = from;
        while chunk < end {
            let absent = !self.words.get((chunk / 64) as usize).copied().unwrap_or(0) >> (chunk % 64);
            if absent != 0 {
                let found = chunk + absent.trailing_zeros();
                return (found < end).then_some(found);
            }
            chunk = (chunk / 64 + 1) * 64;
        }
        None
    }

    /// How many chunks are in the set.
    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The chunks in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.words).flat_map(|(index, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                Some(index * 64 + bit)
            })
        })
    }

    /// The bytes of one segment, as receipts and have-lists carry it.
    pub fn segment(&self, segment: u32) -> [u8; SEGMENT_BYTES] {
        let mut bytes = [0; SEGMENT_BYTES];
        let first = (segment * SEGMENT_CHUNKS / 64) as usize;
        for (target, word) in bytes.chunks_exact_mut(8).zip(self.words.iter().skip(first)) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Adds every chunk of a segment.
    pub fn insert_segment(&mut self, segment: u32, bytes: &[u8; SEGMENT_BYTES]) {
        for chunk in segment_chunks(segment, bytes) {
            self.insert(chunk);
        }
    }

    pub fn extend(&mut self, other: &Self) {
        for chunk in other.iter() {
            self.insert(chunk);
        }
    }
}

impl FromIterator<u32> for ChunkSet {
    fn from_iter<I: IntoIterator<Item = u32>>(chunks: I) -> Self {
        let mut set = Self::default();
        for chunk in chunks {
            set.insert(chunk);
        }
        set
    }
}

/// The chunk indices that a segment's bytes name, ascending.
pub fn segment_chunks(segment: u32, bytes: &[u8; SEGMENT_BYTES]) -> impl Iterator<Item = u32> + '_ {
    let first = segment * SEGMENT_CHUNKS;
    (0u32..)
        .zip(bytes)
        .flat_map(move |(index, &byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| first + index * 8 + bit))
}

/// Whether every chunk of `smaller` is in `larger`: bitmaps of receipts only grow.
pub fn is_subset(smaller: &[u8; SEGMENT_BYTES], larger: &[u8; SEGMENT_BYTES]) -> bool {
    smaller.iter().zip(larger).all(|(small, large)| small & !large == 0)
}

/// Packs a segment for a message: for each of its chunks, ascending, how many that are not in it stand before it, in LEB128 (two bytes from 128 on). Nothing
/// for an empty segment, and the segment itself where that is not longer. A member that got every fifteenth chunk of a segment from one source signs
/// for 273 bytes instead of 512 at the most, and for half of that on average.
pub fn pack_segment(segment: &[u8; SEGMENT_BYTES]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(64);
    let mut next = 0;
    for chunk in segment_chunks(0, segment) {
        let [low, high, ..] = (chunk - next).to_le_bytes();
        let gap = u16::from_le_bytes([low, high]);
        let [below, _] = (gap & 0x7F).to_le_bytes();
        let [above, _] = (gap >> 7).to_le_bytes();
        if above == 0 {
            packed.push(below);
        } else {
            packed.extend([below | 0x80, above]);
        }
        next = chunk + 1;
        if packed.len() >= SEGMENT_BYTES {
            return segment.to_vec();
        }
    }
    packed
}

/// Undoes [`pack_segment`].
///
/// # Errors
/// The bytes are longer than a segment, end within a number, or name a chunk beyond the segment.
pub fn unpack_segment(packed: &[u8]) -> Result<Box<[u8; SEGMENT_BYTES]>, DecodeError> {
    if let Ok(whole) = <[u8; SEGMENT_BYTES]>::try_from(packed) {
        return Ok(Box::new(whole));
    }
    if packed.len() > SEGMENT_BYTES {
        return Err(DecodeError::OutOfRange("bitmap length"));
    }
    let mut segment = Box::new([0; SEGMENT_BYTES]);
    let (mut next, mut bytes) = (0, packed.iter());
    while let Some(&low) = bytes.next() {
        let above = if low & 0x80 == 0 { 0 } else { *bytes.next().ok_or(DecodeError::Truncated)? };
        let chunk = next + u32::from(low & 0x7F) + (u32::from(above) << 7);
        let byte = segment.get_mut((chunk / 8) as usize).ok_or(DecodeError::OutOfRange("chunk of a segment"))?;
        *byte |= 1 << (chunk % 8);
        next = chunk + 1;
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_segment_is_the_same_again_and_never_longer() {
        let every = |step: usize| (0..SEGMENT_CHUNKS).step_by(step).collect::<ChunkSet>().segment(0);
        for (segment, length) in [
            (every(1), 512),
            (every(7), 512),
            (every(15), 274),
            (every(200), 41),
            (ChunkSet::from_iter([0, 127, 4095]).segment(0), 4),
            (ChunkSet::from_iter([4095]).segment(0), 2),
            ([0; SEGMENT_BYTES], 0),
        ] {
            let packed = pack_segment(&segment);
            assert_eq!((packed.len(), *unpack_segment(&packed).unwrap() == segment), (length, true));
        }
    }

    #[test]
    fn bytes_that_are_no_packed_segment_are_refused() {
        assert_eq!(unpack_segment(&[0; SEGMENT_BYTES + 1]), Err(DecodeError::OutOfRange("bitmap length")));
        assert_eq!(unpack_segment(&[0, 0x80]), Err(DecodeError::Truncated));
        assert_eq!(unpack_segment(&[0xFF, 0x1F, 0]), Err(DecodeError::OutOfRange("chunk of a segment")));
        assert_eq!(unpack_segment(&[0xFF, 0x20]), Err(DecodeError::OutOfRange("chunk of a segment")));
        assert!(unpack_segment(&[0xFF, 0x1F]).is_ok());
    }

    #[test]
    fn a_set_survives_the_way_through_its_segments() {
        let set: ChunkSet = [0, 1, 63, 64, 4095, 4096, 9000].into_iter().collect();
        let mut back = ChunkSet::default();
        for segment in 0..segment_count(9001) {
            back.insert_segment(segment, &set.segment(segment));
        }
        assert_eq!(back.iter().collect::<Vec<_>>(), set.iter().collect::<Vec<_>>());
        assert_eq!(back.len(), 7);
    }

    #[test]
    fn inserting_twice_and_removing_keep_the_count_right() {
        let mut set = ChunkSet::with_chunks(10);
        assert!(set.insert(3) && !set.insert(3));
        assert_eq!(set.len(), 1);
        assert!(set.remove(3) && !set.remove(3) && !set.remove(1000));
        assert!(set.is_empty());
    }

    #[test]
    fn the_next_missing_chunk_is_found_over_full_words_and_past_the_end_of_the_set() {
        let mut set: ChunkSet = (0..130).collect();
        assert_eq!((set.next_missing(0, 131), set.next_missing(0, 130)), (Some(130), None));
        set.remove(65);
        assert_eq!((set.next_missing(0, 131), set.next_missing(66, 131)), (Some(65), Some(130)));
        assert_eq!(set.next_missing(1000, 2000), Some(1000));
        assert_eq!(set.next_missing(5, 5), None);
    }

    #[test]
    fn a_bitmap_that_lost_a_chunk_is_no_growth() {
        let (mut small, mut large) = ([0; SEGMENT_BYTES], [0; SEGMENT_BYTES]);
        small[3] = 0b101;
        large[3] = 0b111;
        assert!(is_subset(&small, &large) && !is_subset(&large, &small));
    }
}
