//! What the service must be able to read again and nobody else may read out of the database: wrapped with AES-256-GCM by a key that lies in a file
//! beside the chunks, where all instances find it. Whoever has a copy of the database alone has no secret. What is signed for kits is signed by the same file.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::rest::{BalanceStatement, files_bytes};
use protocol::{Blake3, KitId, PublicKey, Signature, TerminalKey};

use crate::store::kits::KitSigner;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// The key file's name where none is stated.
pub const KEY_FILE: &str = "secrets.key";
const KEY_BYTES: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("{path} cannot be read or made")]
    File { path: PathBuf, source: io::Error },
    #[error("{0} is no key: it holds {KEY_BYTES} bytes as hexadecimal digits; restore it, or remove it to begin with a new one")]
    Invalid(PathBuf),
    #[error("the system gives no random numbers")]
    Random(#[from] getrandom::Error),
}

/// The key. Cheap to clone.
#[derive(Clone)]
pub struct SecretsKey(Arc<Keys>);

struct Keys {
    wrapping: LessSafeKey,
    /// Signs for kits: as stable as this file is, since kits check signatures offline for years.
    kits: TerminalKey,
}

impl std::fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretsKey(…)")
    }
}

impl SecretsKey {
    /// Reads the key in a file; the first instance makes it.
    ///
    /// # Errors
    /// The file cannot be read or made, or holds no key.
    pub fn open(path: &Path) -> Result<Self, SecretsError> {
        let failed = |source| SecretsError::File { path: path.to_owned(), source };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(path).map_err(failed)?;
                fs::read_to_string(path).map_err(failed)?
            }
            read => read.map_err(failed)?,
        };
        let mut key = [0; KEY_BYTES];
        hex::decode_to_slice(text.trim(), &mut key).map_err(|_| SecretsError::Invalid(path.to_owned()))?;
        let kits = TerminalKey::from_secret(&blake3::derive_key("spillway 2026-11-24 kit statements", &key));
        let wrapping = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| SecretsError::Invalid(path.to_owned()))?;
        Ok(Self(Arc::new(Keys { wrapping: LessSafeKey::new(wrapping), kits })))
    }

    /// Wraps a secret; it is unwrapped with the same `context` only, which says whose it is.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn wrap(&self, context: &[u8], secret: &[u8]) -> Result<Vec<u8>, SecretsError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)?;
        let mut sealed = secret.to_vec();
        let sealing = self.0.wrapping.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut sealed);
        // Only a text of many GiB is too long.
        sealing.map_err(|_| getrandom::Error::UNEXPECTED)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// The secret, unless it was wrapped by another key, for another context, or changed.
    pub fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = wrapped.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let length = self.0.wrapping.open_in_place(nonce, Aad::from(context), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

impl KitSigner for SecretsKey {
    fn public_key(&self) -> PublicKey {
        self.0.kits.public()
    }

    fn sign_statement(&self, statement: &BalanceStatement) -> Signature {
        self.0.kits.sign(&statement.signed_bytes())
    }

    fn sign_files(&self, kit: KitId, files: &Blake3) -> Signature {
        self.0.kits.sign(&files_bytes(kit, files))
    }
}

/// Makes the file at once with all of its content, or leaves the one that another instance has made meanwhile.
fn make(path: &Path) -> io::Result<()> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let fresh = path.with_extension(format!("{}.new", uuid::Uuid::new_v4().simple()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(format!("{}\n", hex::encode(key)).as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&fresh, path);
    fs::remove_file(&fresh)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_read_again_by_the_same_key_for_the_same_purpose_and_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let key = SecretsKey::open(&folder.path().join("a")).unwrap();
        let wrapped = key.wrap(b"one", b"the secret").unwrap();
        assert!(!wrapped.windows(10).any(|window| window == b"the secret"));
        assert_ne!(wrapped, key.wrap(b"one", b"the secret").unwrap(), "the same secret does not look the same");
        let again = SecretsKey::open(&folder.path().join("a")).unwrap();
        assert_eq!(again.unwrap(b"one", &wrapped).unwrap(), b"the secret");
        assert_eq!(again.unwrap(b"two", &wrapped), None);
        let other = SecretsKey::open(&folder.path().join("b")).unwrap();
        assert_eq!(other.unwrap(b"one", &wrapped), None);
        for at in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[at] ^= 1;
            assert_eq!(key.unwrap(b"one", &changed), None, "byte {at}");
        }
        for length in 0..wrapped.len() {
            assert_eq!(key.unwrap(b"one", &wrapped[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn instances_that_start_at_once_have_the_same_key_and_only_their_user_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        let keys: Vec<SecretsKey> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..8).map(|_| scope.spawn(|| SecretsKey::open(&path).unwrap())).collect();
            starting.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let wrapped = keys[0].wrap(b"", b"x").unwrap();
        assert!(keys.iter().all(|key| key.unwrap(b"", &wrapped).is_some()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(SecretsKey::open(&path), Err(SecretsError::Invalid(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");
        assert!(matches!(SecretsKey::open(&folder.path().join("none/x")), Err(SecretsError::File { .. })));
    }
}
