//! The vault: small files that a passphrase locks.
//!
//! `vault.json` holds a key that was drawn for this folder, wrapped by another one that Argon2id (RFC 9106) derives from the passphrase. Each file is sealed by
//! the first one with XChaCha20-Poly1305, under its own name: none can take another's place, and a new passphrase rewrites `vault.json` alone.
//!
//! ```text
//! nonce(24) | ciphertext | tag(16)      authenticated with it: "spillway vault v1\n" | the file's name
//! ```

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use protocol::rest::Password;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::failure::{Failure, Outcome};
use crate::random::random;

const CONTEXT: &[u8; 18] = b"spillway vault v1\n";
const KEY_CONTEXT: &str = "key";
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const SALT_BYTES: usize = 16;

/// The second recommendation of RFC 9106 (section 4), for machines with little memory: 64 MiB, three passes, four lanes.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// A file that asks for more was not written by this program, and would only take the machine's memory.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 64;

/// An open vault. Cheap to make new files with, expensive to open.
pub(crate) struct Vault {
    key: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(…)")
    }
}

/// The vault as it lies in `vault.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LockedVault {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    #[serde(with = "hex::serde")]
    salt: [u8; SALT_BYTES],
    #[serde(with = "hex::serde")]
    wrapped_key: Vec<u8>,
}

/// These are not the bytes that were sealed under this key and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotSealed;

impl Vault {
    /// A vault with a key of its own.
    pub(crate) fn new() -> Outcome<Self> {
        Ok(Self { key: Zeroizing::new(random()?) })
    }

    /// The vault for its file, locked by a passphrase; with the same key under another passphrase if it was locked before.
    pub(crate) fn locked(&self, passphrase: &Password) -> Outcome<LockedVault> {
        let mut locked = LockedVault { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt: random()?, wrapped_key: Vec::new() };
        let wrapping = Self { key: locked.derived(passphrase)? };
        locked.wrapped_key = wrapping.seal(KEY_CONTEXT, self.key.as_slice())?;
        Ok(locked)
    }

    /// Encrypts what goes into the file of this name.
    pub(super) fn seal(&self, name: &str, bytes: &[u8]) -> Outcome<Vec<u8>> {
        let nonce: [u8; NONCE_BYTES] = random()?;
        let mut sealed = bytes.to_vec();
        let tag = self.cipher().encrypt_inout_detached(&XNonce::from(nonce), &authenticated(name), sealed.as_mut_slice().into());
        let tag: [u8; TAG_BYTES] = tag.map_err(|_| Failure::Failed(format!("{name} is too long to be locked")))?.into();
        Ok([nonce.as_slice(), &sealed, &tag].concat())
    }

    /// Decrypts what was read out of the file of this name.
    pub(super) fn open(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotSealed> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(NotSealed)?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(NotSealed)?;
        let tag: &Tag = tag.into();
        let mut opened = Zeroizing::new(ciphertext.to_vec());
        self.cipher()
            .decrypt_inout_detached(&XNonce::from(*nonce), &authenticated(name), opened.as_mut_slice().into(), tag)
            .map_err(|_| NotSealed)?;
        Ok(opened)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.key).into())
    }
}

impl LockedVault {
    /// The vault, if this is its passphrase.
    pub(crate) fn open(&self, passphrase: &Password) -> Outcome<Vault> {
        if self.memory_kib > MEMORY_KIB_MAX || self.passes > PASSES_MAX || self.lanes > LANES {
            return Err(damaged());
        }
        let wrapping = Vault { key: self.derived(passphrase)? };
        let wrong = || Failure::Failed("this is not the kit's passphrase".into());
        let key = wrapping.open(KEY_CONTEXT, &self.wrapped_key).map_err(|NotSealed| wrong())?;
        let key = <[u8; 32]>::try_from(key.as_slice()).map_err(|_| damaged())?;
        Ok(Vault { key: Zeroizing::new(key) })
    }

    fn derived(&self, passphrase: &Password) -> Outcome<Zeroizing<[u8; 32]>> {
        let mut key = Zeroizing::new([0; 32]);
        let parameters = Params::new(self.memory_kib, self.passes, self.lanes, Some(key.len())).map_err(|_| damaged())?;
        Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
            .hash_password_into(passphrase.0.as_bytes(), &self.salt, key.as_mut_slice())
            .map_err(|error| Failure::Failed(format!("the passphrase cannot be used: {error}")))?;
        Ok(key)
    }
}

fn damaged() -> Failure {
    Failure::Failed("the kit's vault.json is damaged: make a new kit with `spillway kit create`".into())
}

fn authenticated(name: &str) -> Vec<u8> {
    [CONTEXT.as_slice(), name.as_bytes()].concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn passphrase(text: &str) -> Password {
        Password(text.into())
    }

    #[test]
    fn a05_files_open_under_their_own_key_and_name_alone_and_not_when_a_bit_was_changed() {
        let (vault, other) = (Vault::new().unwrap(), Vault::new().unwrap());
        let sealed = vault.seal("account.json", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(vault.open("account.json", &sealed).unwrap().as_slice(), b"secret");
        assert_eq!(vault.open("terminal.json", &sealed), Err(NotSealed));
        assert_eq!(other.open("account.json", &sealed), Err(NotSealed));
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert_eq!(vault.open("account.json", &changed), Err(NotSealed), "byte {position}");
        }
        for length in 0..sealed.len() {
            assert_eq!(vault.open("account.json", &sealed[..length]), Err(NotSealed), "{length} bytes");
        }
    }

    #[test]
    fn a05_a_passphrase_opens_the_vault_another_does_not_and_it_can_be_changed() {
        let vault = Vault::new().unwrap();
        let sealed = vault.seal("state.json", b"kept").unwrap();
        let first = vault.locked(&passphrase("open sesame")).unwrap();
        let stored: LockedVault = serde_json::from_str(&serde_json::to_string(&first).unwrap()).unwrap();
        assert_eq!(stored.open(&passphrase("open sesame")).unwrap().open("state.json", &sealed).unwrap().as_slice(), b"kept");
        let wrong = stored.open(&passphrase("open sesam")).unwrap_err();
        assert_eq!((wrong.exit_code(), wrong.to_string().as_str()), (1, "this is not the kit's passphrase"));
        let second = vault.locked(&passphrase("another one")).unwrap();
        assert!(second.open(&passphrase("open sesame")).is_err());
        assert_eq!(second.open(&passphrase("another one")).unwrap().open("state.json", &sealed).unwrap().as_slice(), b"kept");
    }

    #[test]
    fn a05_a_file_that_asks_for_all_the_memory_is_refused_before_it_gets_it() {
        let mut locked = Vault::new().unwrap().locked(&passphrase("open sesame")).unwrap();
        for (memory_kib, passes, lanes) in [(u32::MAX, 1, 1), (64, u32::MAX, 1), (64 * 1024, 3, 5), (1, 1, 4), (64, 0, 1)] {
            (locked.memory_kib, locked.passes, locked.lanes) = (memory_kib, passes, lanes);
            let failure = locked.open(&passphrase("open sesame")).unwrap_err().to_string();
            assert!(failure.contains("damaged"), "{failure}");
        }
    }
}
