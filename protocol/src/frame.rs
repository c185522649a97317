//! Messages of a data channel: fixed-layout binary, one kind byte first, integers little-endian.
//!
//! Flow: both ends send [`Frame::Hello`], then per swarm their have-list ([`Frame::Have`], one per non-empty segment, then [`Frame::HaveEnd`]). After that
//! [`Frame::Chunk`] frames bring data; each verified chunk is answered by a [`Frame::Receipt`] (or, for a second copy of a chunk, a
//! [`Frame::Duplicate`], which frees the sender's window and pays nothing) and announced to all others by [`Frame::HaveDelta`].
//! [`Frame::Request`] pulls chunks that are late, [`Frame::Reach`] says into which groups below the sender can copy. [`Frame::Ping`] is answered by
//! [`Frame::Pong`] from the message handler.

use bytes::{Buf, Bytes};

use crate::bitmap::{SEGMENT_BYTES, SEGMENT_CHUNKS};
use crate::hello::Hello;
use crate::ids::{GroupId, Signature, SwarmId, TerminalId, TerminalKey};
use crate::receipt::Receipt;
use crate::wire::{DecodeError, Reader, Writer};

/// The most payload in one chunk frame. Browsers take messages of at most 256 KiB; 64 KiB measured fastest.
pub const PAYLOAD_MAX: usize = 64 << 10;
/// The least payload in a chunk frame that is not a chunk's last: below it the headers cost more than the smoother pacing gains.
pub const PAYLOAD_MIN: usize = 16 << 10;
/// The longest message on a data channel; a longer one closes the link.
pub const MESSAGE_MAX: usize = PAYLOAD_MAX + 1024;
/// The most chunk indices in one request or delta, so that each fits one small message.
pub const INDICES_MAX: usize = 128;
/// The most copy destinations in other groups that a chunk frame names: one for each child group. Each is 16 bytes.
pub const DESTINATIONS_MAX: usize = 8;
/// The largest chunk that a manifest may name (the content-defined maximum; fixed chunking may not exceed it either).
pub const CHUNK_MAX: u32 = 128 << 10;

/// One piece of a chunk on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkFrame {
    pub swarm_id: SwarmId,
    pub chunk: u32,
    /// Where in the chunk the payload starts, in bytes.
    pub offset: u32,
    /// The receiver is the one that copies this chunk to its own group.
    pub first_copy: bool,
    /// How many terminals the chunk has passed since the origin.
    pub hop: u8,
    /// Terminals in other groups to which the receiver copies the chunk on; they stand in the frame at offset 0 only.
    pub destinations: Vec<TerminalId>,
    pub payload: Bytes,
}

/// A signed note that a chunk arrived which the receiver held already: it frees the sender's window and pays nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    pub swarm_id: SwarmId,
    pub chunk: u32,
    pub signature: Signature,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    /// One segment of the sender's have-list.
    Have {
        swarm_id: SwarmId,
        segment: u32,
        bitmap: Box<[u8; SEGMENT_BYTES]>,
    },
    /// The have-list is complete; later holdings come as deltas.
    HaveEnd {
        swarm_id: SwarmId,
    },
    /// Chunks that the sender has now as well.
    HaveDelta {
        swarm_id: SwarmId,
        chunks: Vec<u32>,
    },
    /// Chunks that the sender wants from the receiver of this message.
    Request {
        swarm_id: SwarmId,
        chunks: Vec<u32>,
    },
    Chunk(ChunkFrame),
    Receipt {
        swarm_id: SwarmId,
        receipt: Box<Receipt>,
    },
    Duplicate(Duplicate),
    /// The groups below in which the sender has a link to a contact, instead of those that it named before: for the members of its own group.
    Reach {
        swarm_id: SwarmId,
        groups: Vec<GroupId>,
    },
    Ping {
        nonce: u64,
    },
    Pong {
        nonce: u64,
    },
    /// The sender is leaving in good order.
    Bye,
}

const HELLO: u8 = 1;
const HAVE: u8 = 2;
const HAVE_END: u8 = 3;
const HAVE_DELTA: u8 = 4;
const REQUEST: u8 = 5;
const CHUNK: u8 = 6;
const RECEIPT: u8 = 7;
const DUPLICATE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const BYE: u8 = 11;
const REACH: u8 = 12;

const FLAG_FIRST_COPY: u8 = 1;

impl Duplicate {
    fn signed_bytes(swarm_id: SwarmId, chunk: u32, source: TerminalId, receiver: TerminalId) -> Vec<u8> {
        Writer::with_capacity(96)
            .raw(b"spillway duplicate v1\0")
            .raw(&swarm_id.to_bytes())
            .u32(chunk)
            .raw(&source.to_bytes())
            .raw(&receiver.to_bytes())
            .finish()
    }

    pub fn signed(swarm_id: SwarmId, chunk: u32, source: TerminalId, receiver: TerminalId, key: &TerminalKey) -> Self {
        Self { swarm_id, chunk, signature: key.sign(&Self::signed_bytes(swarm_id, chunk, source, receiver)) }
    }

    pub fn is_signed_by(&self, source: TerminalId, receiver: TerminalId, key: &crate::ids::PublicKey) -> bool {
        key.verifies(&Self::signed_bytes(self.swarm_id, self.chunk, source, receiver), &self.signature)
    }
}

impl Frame {
    /// The message to send. A chunk's payload is copied once, behind its header.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => hello.write(Writer::with_capacity(4096).u8(HELLO)).finish(),
            Self::Have { swarm_id, segment, bitmap } => {
                Writer::with_capacity(23 + SEGMENT_BYTES).u8(HAVE).raw(&swarm_id.to_bytes()).u32(*segment).packed(bitmap).finish()
            }
            Self::HaveEnd { swarm_id } => Writer::with_capacity(17).u8(HAVE_END).raw(&swarm_id.to_bytes()).finish(),
            Self::HaveDelta { swarm_id, chunks } => indices(HAVE_DELTA, *swarm_id, chunks),
            Self::Request { swarm_id, chunks } => indices(REQUEST, *swarm_id, chunks),
            Self::Chunk(frame) => frame.write(),
            Self::Receipt { swarm_id, receipt } => {
                Writer::with_capacity(256).u8(RECEIPT).raw(&swarm_id.to_bytes()).raw(&receipt.pack()).finish()
            }
            Self::Duplicate(duplicate) => Writer::with_capacity(85)
                .u8(DUPLICATE)
                .raw(&duplicate.swarm_id.to_bytes())
                .u32(duplicate.chunk)
                .raw(&duplicate.signature.0)
                .finish(),
            Self::Reach { swarm_id, groups } => {
                let writer = Writer::with_capacity(17 + 16 * groups.len()).u8(REACH).raw(&swarm_id.to_bytes());
                groups.iter().take(DESTINATIONS_MAX).fold(writer, |writer, group| writer.raw(&group.to_bytes())).finish()
            }
            Self::Ping { nonce } => Writer::with_capacity(9).u8(PING).u64(*nonce).finish(),
            Self::Pong { nonce } => Writer::with_capacity(9).u8(PONG).u64(*nonce).finish(),
            Self::Bye => vec![BYE],
        }
    }

    /// Reads a message. The payload of a chunk frame shares `message`'s memory.
    pub fn decode(message: Bytes) -> Result<Self, DecodeError> {
        if message.len() > MESSAGE_MAX {
            return Err(DecodeError::OutOfRange("message length"));
        }
        let mut reader = Reader::new(&message);
        let frame = match reader.u8()? {
            HELLO => Self::Hello(Hello::read(&mut reader)?),
            HAVE => {
                let swarm_id = swarm_id(&mut reader)?;
                Self::Have { swarm_id, segment: segment(&mut reader)?, bitmap: reader.packed()? }
            }
            HAVE_END => Self::HaveEnd { swarm_id: swarm_id(&mut reader)? },
            HAVE_DELTA => Self::HaveDelta { swarm_id: swarm_id(&mut reader)?, chunks: read_indices(&mut reader)? },
            REQUEST => Self::Request { swarm_id: swarm_id(&mut reader)?, chunks: read_indices(&mut reader)? },
            CHUNK => {
                let (mut frame, header_len) = ChunkFrame::read_header(&mut reader, message.len())?;
                reader.rest();
                let mut payload = message.clone();
                payload.advance(header_len);
                frame.payload = payload;
                Self::Chunk(frame)
            }
            RECEIPT => Self::Receipt { swarm_id: swarm_id(&mut reader)?, receipt: Box::new(Receipt::unpack(reader.rest())?) },
            DUPLICATE => {
                Self::Duplicate(Duplicate { swarm_id: swarm_id(&mut reader)?, chunk: reader.u32()?, signature: Signature(reader.array()?) })
            }
            REACH => Self::Reach { swarm_id: swarm_id(&mut reader)?, groups: read_groups(&mut reader)? },
            PING => Self::Ping { nonce: reader.u64()? },
            PONG => Self::Pong { nonce: reader.u64()? },
            BYE => Self::Bye,
            kind => return Err(DecodeError::UnknownKind(kind)),
        };
        reader.end()?;
        Ok(frame)
    }
}

impl ChunkFrame {
    /// The bytes before the payload.
    pub fn header_len(destinations: usize) -> usize {
        28 + destinations.min(DESTINATIONS_MAX) * 16
    }

    fn write(&self) -> Vec<u8> {
        let count = self.destinations.len().min(DESTINATIONS_MAX);
        let mut writer = Writer::with_capacity(Self::header_len(count) + self.payload.len())
            .u8(CHUNK)
            .raw(&self.swarm_id.to_bytes())
            .u32(self.chunk)
            .u32(self.offset)
            .u8(if self.first_copy { FLAG_FIRST_COPY } else { 0 })
            .u8(self.hop)
            .u8(u8::try_from(count).unwrap_or(0));
        for destination in &self.destinations[..count] {
            writer = writer.raw(&destination.to_bytes());
        }
        writer.raw(&self.payload).finish()
    }

    /// The frame without its payload, and where in the message the payload starts.
    fn read_header(reader: &mut Reader<'_>, message_len: usize) -> Result<(Self, usize), DecodeError> {
        let swarm_id = swarm_id(reader)?;
        let (chunk, offset, flags, hop) = (reader.u32()?, reader.u32()?, reader.u8()?, reader.u8()?);
        if flags & !FLAG_FIRST_COPY != 0 {
            return Err(DecodeError::OutOfRange("flags"));
        }
        let count = usize::from(reader.u8()?);
        if count > DESTINATIONS_MAX {
            return Err(DecodeError::OutOfRange("destinations"));
        }
        let destinations = (0..count).map(|_| reader.array().map(TerminalId::from_bytes)).collect::<Result<Vec<_>, _>>()?;
        let payload_len = reader.remaining();
        if payload_len == 0 || payload_len > PAYLOAD_MAX {
            return Err(DecodeError::OutOfRange("payload length"));
        }
        if offset as usize + payload_len > CHUNK_MAX as usize {
            return Err(DecodeError::OutOfRange("offset"));
        }
        let named_once = (1..count).all(|index| !destinations[..index].contains(&destinations[index]));
        if !named_once || (count > 0 && offset > 0) {
            return Err(DecodeError::OutOfRange("destinations"));
        }
        let frame = Self { swarm_id, chunk, offset, first_copy: flags & FLAG_FIRST_COPY != 0, hop, destinations, payload: Bytes::new() };
        Ok((frame, message_len - payload_len))
    }
}

fn indices(kind: u8, swarm_id: SwarmId, chunks: &[u32]) -> Vec<u8> {
    let chunks = &chunks[..chunks.len().min(INDICES_MAX)];
    let mut writer = Writer::with_capacity(17 + 4 * chunks.len()).u8(kind).raw(&swarm_id.to_bytes());
    for chunk in chunks {
        writer = writer.u32(*chunk);
    }
    writer.finish()
}

fn swarm_id(reader: &mut Reader<'_>) -> Result<SwarmId, DecodeError> {
    reader.array().map(SwarmId::from_bytes)
}

fn segment(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let segment = reader.u32()?;
    if segment > u32::MAX / SEGMENT_CHUNKS { Err(DecodeError::OutOfRange("segment")) } else { Ok(segment) }
}

fn read_indices(reader: &mut Reader<'_>) -> Result<Vec<u32>, DecodeError> {
    if reader.remaining() == 0 || reader.remaining() > 4 * INDICES_MAX {
        return Err(DecodeError::OutOfRange("chunk indices"));
    }
    let mut chunks = Vec::with_capacity(reader.remaining() / 4);
    while reader.remaining() > 0 {
        chunks.push(reader.u32()?);
    }
    Ok(chunks)
}

fn read_groups(reader: &mut Reader<'_>) -> Result<Vec<GroupId>, DecodeError> {
    let mut groups = Vec::new();
    while reader.remaining() > 0 {
        let group = GroupId::from_bytes(reader.array()?);
        if groups.len() == DESTINATIONS_MAX || groups.contains(&group) {
            return Err(DecodeError::OutOfRange("groups"));
        }
        groups.push(group);
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::ReceiptBody;
    use crate::units::TimestampMs;

    fn every_kind() -> Vec<Frame> {
        let swarm_id = SwarmId::from_bytes([5; 16]);
        let key = TerminalKey::from_secret(&[1; 32]);
        let (a, b) = (TerminalId::from_bytes([1; 16]), TerminalId::from_bytes([2; 16]));
        let binding = crate::hello::ChannelBinding { offerer: [1; 32], answerer: [2; 32] };
        let receipt = ReceiptBody {
            delivery_id: crate::ids::DeliveryId::from_bytes([6; 16]),
            source: a,
            receiver: b,
            segment: 0,
            sequence: 1,
            at: TimestampMs(5),
            bitmap: Box::new([1; SEGMENT_BYTES]),
        };
        vec![
            Frame::Hello(Hello::signed(a, b, &binding, &key)),
            Frame::Have { swarm_id, segment: 3, bitmap: Box::new([7; SEGMENT_BYTES]) },
            Frame::HaveEnd { swarm_id },
            Frame::HaveDelta { swarm_id, chunks: vec![1, 2, 70_000] },
            Frame::Request { swarm_id, chunks: vec![9] },
            Frame::Chunk(ChunkFrame {
                swarm_id,
                chunk: 3,
                offset: 0,
                first_copy: false,
                hop: 2,
                destinations: vec![a, b],
                payload: Bytes::from_static(b"payload"),
            }),
            Frame::Receipt { swarm_id, receipt: Box::new(receipt.sign(&key)) },
            Frame::Duplicate(Duplicate::signed(swarm_id, 4, a, b, &key)),
            Frame::Reach { swarm_id, groups: vec![GroupId::from_bytes([3; 16]), GroupId::from_bytes([4; 16])] },
            Frame::Ping { nonce: 1 },
            Frame::Pong { nonce: u64::MAX },
            Frame::Bye,
        ]
    }

    #[test]
    fn every_frame_survives_the_wire() {
        for frame in every_kind() {
            let bytes = Bytes::from(frame.encode());
            assert_eq!(Frame::decode(bytes.clone()).unwrap(), frame);
            assert!(
                Frame::decode(bytes.slice(..bytes.len() - 1)).is_err() || matches!(frame, Frame::Chunk(_)),
                "a cut {frame:?} was accepted"
            );
        }
    }

    #[test]
    fn the_layout_of_a_chunk_frame_is_fixed() {
        let frame = Frame::Chunk(ChunkFrame {
            swarm_id: SwarmId::from_bytes([0xAA; 16]),
            chunk: 0x0102_0304,
            offset: 16,
            first_copy: true,
            hop: 1,
            destinations: vec![],
            payload: Bytes::from_static(b"xyz"),
        });
        assert_eq!(hex::encode(frame.encode()), "06aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa040302011000000001010078797a");
    }

    #[test]
    fn b31_a_frame_that_nobody_copies_on_is_28_bytes_and_each_destination_takes_16() {
        let destination = |number: u8| TerminalId::from_bytes([number; 16]);
        let frame = |count: u8, offset| ChunkFrame {
            swarm_id: SwarmId::from_bytes([5; 16]),
            chunk: 3,
            offset,
            first_copy: false,
            hop: 1,
            destinations: (0..count).map(destination).collect(),
            payload: Bytes::from_static(b"payload"),
        };
        for count in 0..=8 {
            let bytes = Frame::Chunk(frame(count, 0)).encode();
            assert_eq!(bytes.len() - 7, ChunkFrame::header_len(usize::from(count)));
            assert_eq!(bytes.len() - 7, 28 + 16 * usize::from(count));
            assert_eq!(Frame::decode(bytes.into()), Ok(Frame::Chunk(frame(count, 0))));
        }
        let refused = Err(DecodeError::OutOfRange("destinations"));
        let mut nine = Frame::Chunk(frame(8, 0)).encode();
        nine[27] = 9;
        assert_eq!(Frame::decode(nine.into()), refused, "a ninth destination");
        let mut twice = Frame::Chunk(frame(2, 0)).encode();
        twice.copy_within(28..44, 44);
        assert_eq!(Frame::decode(twice.into()), refused, "one terminal twice");
        assert_eq!(Frame::decode(Frame::Chunk(frame(1, 16)).encode().into()), refused, "not in the first frame");
        let mut cut = Frame::Chunk(frame(2, 0)).encode();
        cut.truncate(40);
        assert_eq!(Frame::decode(cut.into()), Err(DecodeError::Truncated));
    }

    #[test]
    fn b31_who_reaches_no_group_below_any_more_says_so_and_nobody_reaches_nine_or_one_twice() {
        let reach = |groups: &[u8]| {
            let groups = groups.iter().map(|&number| GroupId::from_bytes([number; 16])).collect();
            Frame::Reach { swarm_id: SwarmId::from_bytes([5; 16]), groups }
        };
        let survives = |frame: Frame| Frame::decode(frame.encode().into()) == Ok(frame);
        assert!(survives(reach(&[])) && survives(reach(&[1, 2, 3, 4, 5, 6, 7, 8])));
        let refused = Err(DecodeError::OutOfRange("groups"));
        assert_eq!(Frame::decode(reach(&[1, 1]).encode().into()), refused);
        let mut nine = reach(&[1, 2, 3, 4, 5, 6, 7, 8]).encode();
        nine.extend([9; 16]);
        assert_eq!(Frame::decode(nine.into()), refused);
    }

    #[test]
    fn malformed_messages_are_named_not_guessed() {
        let decode = |bytes: &[u8]| Frame::decode(Bytes::copy_from_slice(bytes)).unwrap_err();
        assert_eq!(decode(&[]), DecodeError::Truncated);
        assert_eq!(decode(&[99]), DecodeError::UnknownKind(99));
        assert_eq!(decode(&[BYE, 0]), DecodeError::Trailing);
        assert_eq!(decode(&vec![0; MESSAGE_MAX + 1]), DecodeError::OutOfRange("message length"));
        let mut chunk = every_kind()[5].encode();
        chunk[25] = 0x80;
        assert_eq!(decode(&chunk), DecodeError::OutOfRange("flags"));
        let mut past_end = every_kind()[5].encode();
        past_end[21..25].copy_from_slice(&CHUNK_MAX.to_le_bytes());
        assert_eq!(decode(&past_end), DecodeError::OutOfRange("offset"));
        let mut request = every_kind()[4].encode();
        request.truncate(17);
        assert_eq!(decode(&request), DecodeError::OutOfRange("chunk indices"));
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for round in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..(round % 700) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bytes.push(state.to_be_bytes()[0]);
            }
            if let Some(kind) = bytes.first_mut() {
                *kind = u8::try_from(round % 13).unwrap();
            }
            let _ = Frame::decode(Bytes::from(bytes));
        }
    }
}
