//! A content key on its way to one terminal: HPKE (RFC 9180) in base mode with X25519, HKDF-SHA256 and ChaCha20-Poly1305, so that nobody reads it who stands
//! between the service and the terminal's own key, wherever the TLS connection ends.
//!
//! The terminal's X25519 key is its Ed25519 key on the birationally equivalent curve (RFC 7748, 4.1; as age does for SSH keys): a second key would have to be
//! registered, stored and rotated beside the first one. What is signed and what is agreed on carry different domain tags.
//!
//! ```text
//! encapsulated key(32) | sealed content key(32) | tag(16)
//! ```

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use super::ContentKey;
use crate::ids::{PublicKey, SwarmId, TerminalKey};

/// Bytes of a sealed key.
pub const ENVELOPE_LEN: usize = ENCAPSULATED_LEN + 32 + 16;
const ENCAPSULATED_LEN: usize = 32;
const TAG: &[u8; 15] = b"spillway key v1";

type Exchange = X25519HkdfSha256;

/// Why a key was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the terminal's public key cannot be used")]
    PublicKey,
    #[error("the sealed key is not for this terminal and this swarm, or was changed on its way")]
    Unopened,
}

fn info(swarm: SwarmId) -> Vec<u8> {
    [TAG.as_slice(), &swarm.to_bytes()].concat()
}

/// Seals a content key to one terminal.
///
/// # Errors
/// [`EnvelopeError::PublicKey`] for bytes that are no Ed25519 key, or one of small order.
pub fn seal_key(
    key: &ContentKey,
    to: &PublicKey,
    swarm: SwarmId,
    random: &mut impl hpke::rand_core::CryptoRng,
) -> Result<[u8; ENVELOPE_LEN], EnvelopeError> {
    let to = ed25519_dalek::VerifyingKey::from_bytes(&to.0).ok().filter(|key| !key.is_weak()).ok_or(EnvelopeError::PublicKey)?;
    let to = to.to_montgomery().to_bytes();
    let to = <Exchange as Kem>::PublicKey::from_bytes(&to).map_err(|_| EnvelopeError::PublicKey)?;
    let sealed = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Exchange>(
        &OpModeS::Base,
        &to,
        &info(swarm),
        key.secret(),
        &[],
        random,
    );
    let (encapsulated, sealed) = sealed.map_err(|_| EnvelopeError::PublicKey)?;
    let mut envelope = [0; ENVELOPE_LEN];
    let (front, back) = envelope.split_at_mut(ENCAPSULATED_LEN);
    front.copy_from_slice(&encapsulated.to_bytes());
    back.copy_from_slice(&sealed);
    Ok(envelope)
}

/// Opens a content key that was sealed to this terminal for this swarm.
///
/// # Errors
/// [`EnvelopeError::Unopened`].
pub fn open_key(envelope: &[u8], me: &TerminalKey, swarm: SwarmId) -> Result<ContentKey, EnvelopeError> {
    let (encapsulated, sealed) =
        envelope.split_at_checked(ENCAPSULATED_LEN).filter(|_| envelope.len() == ENVELOPE_LEN).ok_or(EnvelopeError::Unopened)?;
    let scalar = Zeroizing::new(me.agreement_secret());
    let me = <Exchange as Kem>::PrivateKey::from_bytes(&*scalar).map_err(|_| EnvelopeError::Unopened)?;
    let encapsulated = <Exchange as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| EnvelopeError::Unopened)?;
    let opened =
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Exchange>(&OpModeR::Base, &me, &encapsulated, &info(swarm), sealed, &[]);
    let opened = Zeroizing::new(opened.map_err(|_| EnvelopeError::Unopened)?);
    let key: [u8; 32] = opened.as_slice().try_into().map_err(|_| EnvelopeError::Unopened)?;
    Ok(ContentKey::from_bytes(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not random: what is checked here does not rest on it.
    struct Counting(u8);

    impl hpke::rand_core::TryRng for Counting {
        type Error = std::convert::Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            let mut bytes = [0; 4];
            self.try_fill_bytes(&mut bytes).map(|()| u32::from_le_bytes(bytes))
        }
        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            let mut bytes = [0; 8];
            self.try_fill_bytes(&mut bytes).map(|()| u64::from_le_bytes(bytes))
        }
        fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Self::Error> {
            for byte in target {
                self.0 = self.0.wrapping_mul(5).wrapping_add(17);
                *byte = self.0;
            }
            Ok(())
        }
    }
    impl hpke::rand_core::TryCryptoRng for Counting {}

    #[test]
    fn x02_a_sealed_key_is_opened_by_its_terminal_for_its_swarm_alone() {
        let (key, swarm) = (ContentKey::from_bytes([7; 32]), SwarmId::from_bytes([1; 16]));
        let (me, other) = (TerminalKey::from_secret(&[2; 32]), TerminalKey::from_secret(&[3; 32]));
        let envelope = seal_key(&key, &me.public(), swarm, &mut Counting(1)).unwrap();
        assert_eq!(open_key(&envelope, &me, swarm).unwrap().secret(), key.secret());
        assert!(!envelope.windows(8).any(|window| window == [7; 8]));
        assert_eq!(open_key(&envelope, &other, swarm).unwrap_err(), EnvelopeError::Unopened);
        assert_eq!(open_key(&envelope, &me, SwarmId::from_bytes([9; 16])).unwrap_err(), EnvelopeError::Unopened);
        for cut in 0..envelope.len() {
            assert_eq!(open_key(&envelope[..cut], &me, swarm).unwrap_err(), EnvelopeError::Unopened);
        }
        for place in 0..envelope.len() {
            let mut changed = envelope;
            changed[place] ^= 1;
            assert_eq!(open_key(&changed, &me, swarm).unwrap_err(), EnvelopeError::Unopened, "byte {place}");
        }
    }

    #[test]
    fn x02_what_is_no_key_is_sealed_to_nobody() {
        let key = ContentKey::from_bytes([7; 32]);
        // The neutral element has small order: everybody would know what is agreed on with it.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut off_the_curve = [0; 32];
        off_the_curve[0] = 2;
        for bad in [off_the_curve, neutral] {
            let sealed = seal_key(&key, &PublicKey(bad), SwarmId::from_bytes([1; 16]), &mut Counting(1));
            assert_eq!(sealed.unwrap_err(), EnvelopeError::PublicKey);
        }
    }
}
