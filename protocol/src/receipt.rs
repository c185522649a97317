//! Receipts: what a receiver signs for what a source delivered. They are what relays are paid on.
//!
//! A receipt is cumulative: per (delivery, source, segment of 4,096 chunks) one bitmap that only grows, with a rising sequence number. A receiver
//! signs a chunk for one source only, the one whose copy it verified first. What is signed, little-endian, 598 bytes:
//!
//! ```text
//! tag(22) "spillway receipt v1\0\0\0" | delivery(16) | source(16) | receiver(16) | segment u32 | sequence u32 | time u64 ms | bitmap(512)
//! ```
//!
//! What travels is shorter: [`Receipt::pack`].

use crate::bitmap::{SEGMENT_BYTES, SEGMENT_CHUNKS, segment_chunks};
use crate::ids::{DeliveryId, PublicKey, Signature, TerminalId, TerminalKey};
use crate::units::TimestampMs;
use crate::wire::{DecodeError, Reader, Writer};

/// Keeps a receipt's signature from ever being valid for another kind of message.
const DOMAIN_TAG: &[u8; 22] = b"spillway receipt v1\0\0\0";

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptBody {
    /// The receiver's delivery, which names the release, the edition and the price.
    pub delivery_id: DeliveryId,
    /// Who sent the chunks; [`TerminalId::ORIGIN`] for the origin.
    pub source: TerminalId,
    pub receiver: TerminalId,
    /// Which 4,096 chunks the bitmap is about.
    pub segment: u32,
    /// Rises with every receipt for the same (delivery, source, segment).
    pub sequence: u32,
    /// The receiver's estimate of the server's clock when it signed.
    pub at: TimestampMs,
    pub bitmap: Box<[u8; SEGMENT_BYTES]>,
}

/// A signed receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub body: ReceiptBody,
    pub signature: Signature,
}

impl ReceiptBody {
    /// The bytes that the signature covers.
    pub fn signed_bytes(&self) -> Vec<u8> {
        Writer::with_capacity(640)
            .raw(DOMAIN_TAG)
            .raw(&self.delivery_id.to_bytes())
            .raw(&self.source.to_bytes())
            .raw(&self.receiver.to_bytes())
            .u32(self.segment)
            .u32(self.sequence)
            .u64(self.at.0)
            .raw(&*self.bitmap)
            .finish()
    }

    pub fn sign(self, key: &TerminalKey) -> Receipt {
        let signature = key.sign(&self.signed_bytes());
        Receipt { body: self, signature }
    }

    /// Whether this receipt acknowledges `chunk`.
    pub fn acknowledges(&self, chunk: u32) -> bool {
        let byte = (chunk % SEGMENT_CHUNKS / 8) as usize;
        chunk / SEGMENT_CHUNKS == self.segment && self.bitmap.get(byte).is_some_and(|byte| byte >> (chunk % 8) & 1 == 1)
    }

    /// The chunks that this receipt acknowledges, ascending.
    pub fn chunks(&self) -> impl Iterator<Item = u32> + '_ {
        segment_chunks(self.segment, &self.bitmap)
    }
}

impl Receipt {
    /// The most bytes that [`Receipt::pack`] makes.
    pub const PACKED_MAX: usize = 3 * 16 + 4 + 4 + 8 + 64 + 2 + SEGMENT_BYTES;

    /// The receipt as it travels, without the tag and with its bitmap packed ([`crate::bitmap::pack_segment`]):
    /// delivery(16), source(16), receiver(16), segment u32, sequence u32, time u64 ms, signature(64), length u16, packed bitmap(0..512).
    pub fn pack(&self) -> Vec<u8> {
        let body = &self.body;
        Writer::with_capacity(256)
            .raw(&body.delivery_id.to_bytes())
            .raw(&body.source.to_bytes())
            .raw(&body.receiver.to_bytes())
            .u32(body.segment)
            .u32(body.sequence)
            .u64(body.at.0)
            .raw(&self.signature.0)
            .packed(&body.bitmap)
            .finish()
    }

    /// Undoes [`Receipt::pack`]; the signature is not checked yet.
    pub fn unpack(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (delivery_id, source, receiver) = (reader.array()?, reader.array()?, reader.array()?);
        let (segment, sequence, at) = (reader.u32()?, reader.u32()?, TimestampMs(reader.u64()?));
        let signature = Signature(reader.array()?);
        if segment > u32::MAX / SEGMENT_CHUNKS {
            return Err(DecodeError::OutOfRange("segment"));
        }
        let body = ReceiptBody {
            delivery_id: DeliveryId::from_bytes(delivery_id),
            source: TerminalId::from_bytes(source),
            receiver: TerminalId::from_bytes(receiver),
            segment,
            sequence,
            at,
            bitmap: reader.packed()?,
        };
        reader.end()?;
        Ok(Self { body, signature })
    }

    pub fn is_signed_by(&self, receiver: &PublicKey) -> bool {
        receiver.verifies(&self.body.signed_bytes(), &self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> ReceiptBody {
        let mut bitmap = Box::new([0; SEGMENT_BYTES]);
        bitmap[0] = 0b1001;
        ReceiptBody {
            delivery_id: DeliveryId::from_bytes([1; 16]),
            source: TerminalId::from_bytes([2; 16]),
            receiver: TerminalId::from_bytes([3; 16]),
            segment: 1,
            sequence: 7,
            at: TimestampMs(99),
            bitmap,
        }
    }

    #[test]
    fn a_receipt_survives_the_wire_and_names_its_chunks() {
        let key = TerminalKey::from_secret(&[9; 32]);
        let receipt = body().sign(&key);
        assert_eq!(receipt.body.signed_bytes().len(), 598);
        let bytes = receipt.pack();
        assert_eq!(bytes.len(), 128 + 2 + 2, "two chunks are two bytes");
        let back = Receipt::unpack(&bytes).unwrap();
        assert_eq!(back, receipt);
        assert!(back.is_signed_by(&key.public()));
        assert_eq!(back.body.chunks().collect::<Vec<_>>(), [4096, 4099]);
        assert!(back.body.acknowledges(4099) && !back.body.acknowledges(4098) && !back.body.acknowledges(3));
    }

    #[test]
    fn changing_any_byte_breaks_the_receipt() {
        let key = TerminalKey::from_secret(&[9; 32]);
        let bytes = body().sign(&key).pack();
        for index in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[index] ^= 1;
            let holds = Receipt::unpack(&bad).is_ok_and(|receipt| receipt.is_signed_by(&key.public()));
            assert!(!holds, "byte {index} is not covered");
        }
        assert_eq!(Receipt::unpack(&bytes[..bytes.len() - 1]), Err(DecodeError::Truncated));
    }
}
