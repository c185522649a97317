//! Sealed pre-delivery: chunks that travel before anybody may read them. All terminals of a swarm get the same ciphertext, so that they can copy it to each other;
//! the one key that opens it comes to each at its rank's second ([`envelope`]).
//!
//! A chunk is encrypted by XChaCha20-Poly1305 (RFC 8439 with the 192-bit nonces of draft-irtf-cfrg-xchacha-03) under a key that is drawn for one edition of one
//! release and used for nothing else. The nonce is the chunk's number, which no two chunks of an edition share; the same chunk encrypted twice gives the same
//! bytes, which is what lets a terminal that has decrypted its copy pass the ciphertext on. Release, edition and number are authenticated with it, so that a
//! chunk opens at its own place alone. The tag stands in the [`manifest::SealedManifest`]: a chunk is as long sealed as it is open.

pub mod envelope;
pub mod manifest;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::ids::{EditionId, ReleaseId};

const TAG: &[u8; 18] = b"spillway sealed v1";
/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;

/// Authenticates one chunk or the layout.
pub type SealTag = [u8; TAG_LEN];

/// The key of one edition in one release. Never printed; forgotten when it is dropped.
#[derive(Clone)]
pub struct ContentKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContentKey(…)")
    }
}

impl ContentKey {
    /// From 32 bytes that nobody can guess.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret itself, to be stored where only its owner can read it.
    pub fn secret(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What is sealed under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Chunk(u32),
    Layout,
}

impl Part {
    /// The kind and the number: different for everything that is encrypted under one key.
    fn bytes(self) -> [u8; 5] {
        let (kind, number) = match self {
            Self::Chunk(index) => (0, index),
            Self::Layout => (1, 0),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [kind, a, b, c, d]
    }

    fn nonce(self) -> XNonce {
        let mut nonce = XNonce::default();
        nonce[..5].copy_from_slice(&self.bytes());
        nonce
    }
}

/// These are not the bytes that were sealed at this place under this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes do not open under this key")]
pub struct NotSealed;

/// Seals and opens the chunks of one edition in one release.
pub struct Sealing {
    cipher: XChaCha20Poly1305,
    /// Domain, release and edition, which are authenticated with every part.
    context: Vec<u8>,
}

impl std::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealing(…)")
    }
}

impl Sealing {
    pub fn new(key: &ContentKey, release: ReleaseId, edition: EditionId) -> Self {
        let context = [TAG.as_slice(), &release.to_bytes(), &edition.0].concat();
        Self { cipher: XChaCha20Poly1305::new((&*key.0).into()), context }
    }

    /// Encrypts a chunk in place.
    ///
    /// # Errors
    /// Only for more bytes than the cipher can take, 256 GiB: no chunk has them.
    pub fn seal(&self, index: u32, bytes: &mut [u8]) -> Result<SealTag, NotSealed> {
        self.seal_part(Part::Chunk(index), bytes)
    }

    /// Decrypts a chunk in place.
    ///
    /// # Errors
    /// The tag does not fit; the bytes are as they were.
    pub fn open(&self, index: u32, bytes: &mut [u8], tag: &SealTag) -> Result<(), NotSealed> {
        self.open_part(Part::Chunk(index), bytes, tag)
    }

    fn seal_part(&self, part: Part, bytes: &mut [u8]) -> Result<SealTag, NotSealed> {
        let tag = self.cipher.encrypt_inout_detached(&part.nonce(), &self.authenticated(part), bytes.into());
        tag.map(|tag| tag.into()).map_err(|_| NotSealed)
    }

    fn open_part(&self, part: Part, bytes: &mut [u8], tag: &SealTag) -> Result<(), NotSealed> {
        let tag: &Tag = tag.into();
        self.cipher.decrypt_inout_detached(&part.nonce(), &self.authenticated(part), bytes.into(), tag).map_err(|_| NotSealed)
    }

    fn authenticated(&self, part: Part) -> Vec<u8> {
        [self.context.as_slice(), &part.bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealing(key: u8, release: u8, edition: u8) -> Sealing {
        Sealing::new(&ContentKey::from_bytes([key; 32]), ReleaseId::from_bytes([release; 16]), EditionId([edition; 32]))
    }

    #[test]
    fn x02_a_chunk_opens_at_its_own_place_under_its_own_key_alone() {
        let (plain, own) = (vec![7u8; 70_000], sealing(1, 2, 3));
        let mut sealed = plain.clone();
        let tag = own.seal(5, &mut sealed).unwrap();
        assert_eq!(sealed.len(), plain.len());
        assert!(sealed.iter().zip(&plain).filter(|(sealed, plain)| sealed == plain).count() < 1_000, "it looks like noise");
        let mut again = plain.clone();
        assert_eq!(own.seal(5, &mut again).unwrap(), tag);
        assert_eq!(again, sealed, "whoever has opened it can pass on the same ciphertext");
        for (other, index) in [(sealing(9, 2, 3), 5), (sealing(1, 9, 3), 5), (sealing(1, 2, 9), 5), (sealing(1, 2, 3), 6)] {
            let mut bytes = sealed.clone();
            assert_eq!(other.open(index, &mut bytes, &tag), Err(NotSealed));
            assert_eq!(bytes, sealed, "what does not open is left as it is");
        }
        let mut changed = sealed.clone();
        changed[69_999] ^= 1;
        assert_eq!(own.open(5, &mut changed, &tag), Err(NotSealed));
        own.open(5, &mut sealed, &tag).unwrap();
        assert_eq!(sealed, plain);
    }

    #[test]
    fn x02_equal_chunks_and_the_layout_do_not_look_alike_when_sealed() {
        let own = sealing(1, 2, 3);
        let sealed = [Part::Chunk(0), Part::Chunk(1), Part::Chunk(256), Part::Chunk(u32::MAX), Part::Layout].map(|part| {
            let mut bytes = vec![0; 64];
            own.seal_part(part, &mut bytes).unwrap();
            bytes
        });
        for (place, one) in sealed.iter().enumerate() {
            assert!(!sealed[place + 1..].contains(one));
        }
    }

    #[test]
    fn x02_a_key_is_not_printed() {
        let key = ContentKey::from_bytes([0xAB; 32]);
        let printed = format!("{key:?} {:?}", Sealing::new(&key, ReleaseId::from_bytes([0; 16]), EditionId([0; 32])));
        assert!(!printed.to_lowercase().contains("ab, ab") && !printed.contains("171") && !printed.contains("abab"), "{printed}");
    }
}
