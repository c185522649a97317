//! The first message on a data channel: who is speaking, proved by the terminal's key over this very channel.
//!
//! The signature covers the DTLS fingerprints of both ends as they stand in the offer and the answer. Whoever relays those two texts can therefore not
//! put itself in the middle: it would have to show its own fingerprint, and the terminal's signature would not cover it.

use crate::PROTOCOL_VERSION;
use crate::ids::{PublicKey, Signature, TerminalId, TerminalKey};
use crate::wire::{DecodeError, Reader, Writer};

/// Zeros behind a hello, so that it takes full packets: a path that does not carry them shows when a link is opened, and not when chunks are on their way.
const PADDING_BYTES: usize = 3_000;

const DOMAIN_TAG: &[u8; 22] = b"spillway hello v1\0\0\0\0\0";

/// SHA-256 fingerprints of the two DTLS certificates: (the offering end's, the answering end's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelBinding {
    pub offerer: [u8; 32],
    pub answerer: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub version: u16,
    pub from: TerminalId,
    pub to: TerminalId,
    pub signature: Signature,
}

fn signed_bytes(version: u16, from: TerminalId, to: TerminalId, binding: &ChannelBinding) -> Vec<u8> {
    Writer::with_capacity(128)
        .raw(DOMAIN_TAG)
        .u16(version)
        .raw(&from.to_bytes())
        .raw(&to.to_bytes())
        .raw(&binding.offerer)
        .raw(&binding.answerer)
        .finish()
}

impl Hello {
    pub fn signed(from: TerminalId, to: TerminalId, binding: &ChannelBinding, key: &TerminalKey) -> Self {
        let signature = key.sign(&signed_bytes(PROTOCOL_VERSION, from, to, binding));
        Self { version: PROTOCOL_VERSION, from, to, signature }
    }

    /// Whether `from`'s key signed this hello to `to` for the channel with this binding.
    pub fn is_valid(&self, from: TerminalId, to: TerminalId, binding: &ChannelBinding, key: &PublicKey) -> bool {
        self.version == PROTOCOL_VERSION
            && self.from == from
            && self.to == to
            && key.verifies(&signed_bytes(self.version, from, to, binding), &self.signature)
    }

    pub(crate) fn write(&self, writer: Writer) -> Writer {
        let writer = writer.u16(self.version).raw(&self.from.to_bytes()).raw(&self.to.to_bytes()).raw(&self.signature.0);
        writer.raw(&[0; PADDING_BYTES])
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let hello = Self {
            version: reader.u16()?,
            from: TerminalId::from_bytes(reader.array()?),
            to: TerminalId::from_bytes(reader.array()?),
            signature: Signature(reader.array()?),
        };
        if reader.array::<PADDING_BYTES>()?.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::OutOfRange("hello padding"));
        }
        Ok(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_holds_for_its_own_channel_and_no_other() {
        let key = TerminalKey::from_secret(&[4; 32]);
        let (from, to) = (TerminalId::from_bytes([1; 16]), TerminalId::from_bytes([2; 16]));
        let binding = ChannelBinding { offerer: [1; 32], answerer: [2; 32] };
        let hello = Hello::signed(from, to, &binding, &key);
        assert!(hello.is_valid(from, to, &binding, &key.public()));
        assert!(!hello.is_valid(to, from, &binding, &key.public()));
        let other = ChannelBinding { offerer: [3; 32], ..binding };
        assert!(!hello.is_valid(from, to, &other, &key.public()), "somebody in the middle would show another fingerprint");
    }
}
