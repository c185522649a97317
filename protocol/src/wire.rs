//! Reading and writing fixed-layout binary: little-endian integers and raw byte runs, nothing self-describing.
//! Every message of a data channel, every signed text and the manifest are built from these two types.

use crate::bitmap::{SEGMENT_BYTES, pack_segment, unpack_segment};

/// Why a byte string is not the message that it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the message ends in the middle of a field")]
    Truncated,
    #[error("the message goes on after its last field")]
    Trailing,
    #[error("{0} is not a known message kind")]
    UnknownKind(u8),
    #[error("the field {0} is out of range")]
    OutOfRange(&'static str),
}

/// Takes fields off the front of a byte string.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A segment that [`Writer::packed`] wrote.
    pub fn packed(&mut self) -> Result<Box<[u8; SEGMENT_BYTES]>, DecodeError> {
        let length = self.u16()?;
        unpack_segment(self.take(length.into())?)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The message must end here.
    pub fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

/// Puts fields at the end of a byte string.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }
    /// A segment in as few bytes as it takes, after their number as a `u16`.
    #[must_use]
    pub fn packed(self, segment: &[u8; SEGMENT_BYTES]) -> Self {
        let packed = pack_segment(segment);
        self.u16(u16::try_from(packed.len()).unwrap_or(u16::MAX)).raw(&packed)
    }
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
    #[must_use]
    pub fn u8(self, value: u8) -> Self {
        self.raw(&[value])
    }
    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.raw(&value.to_le_bytes())
    }
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }
    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}
