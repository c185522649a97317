//! The Ed25519 keys behind access tokens: made and rotated in Postgres, so that every instance signs with the newest and checks with both.
//!
//! The first instance makes the first key at its start; an hourly look makes the next one when the newest is old enough. A key is removed when two
//! newer ones exist, long after the last token that it signed has expired. A token whose `kid` is not known makes an instance look again, at most
//! every [`LOOK_AGAIN`], because another instance may have rotated a moment ago.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::store::Store;
use crate::store::StoreError;
use crate::store::keys::StoredKey;

/// The shortest pause between two looks for an unknown key: anybody can send tokens with made-up key names.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often the newest key's age is looked at.
const ROTATION_CHECK: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the signing keys cannot be read or written")]
    Store(#[from] StoreError),
    #[error("there is no signing key")]
    None,
    #[error("a stored signing key is not a valid one")]
    Invalid,
    #[error("the system gives no random numbers")]
    Random(#[from] getrandom::Error),
}

/// One key, ready for use.
#[derive(Clone)]
pub(super) struct SigningKey {
    pub(super) kid: String,
    pub(super) encoding: EncodingKey,
    pub(super) decoding: DecodingKey,
    public: [u8; 32],
}

/// The live keys, newest first. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    store: Store,
    live: Arc<RwLock<Live>>,
    /// Held by whoever looks for an unknown key; the others wait for what is found.
    looking: Arc<tokio::sync::Mutex<()>>,
    rotate_after: time::Duration,
}

struct Live {
    keys: Vec<SigningKey>,
    looked_at: Instant,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the keys; makes one if there is none or the newest is older than `rotation_days`.
    pub async fn open(store: Store, rotation_days: u16, now: OffsetDateTime) -> Result<Self, KeyError> {
        let rotate_after = time::Duration::days(rotation_days.into());
        let keys = rotated(&store, rotate_after, now).await?;
        let live = Arc::new(RwLock::new(Live { keys, looked_at: Instant::now() }));
        Ok(Self { store, live, looking: Arc::default(), rotate_after })
    }

    /// Looks at the newest key's age every hour, for ever. A failure is logged and the keys stay as they are.
    pub async fn keep_rotating(self) {
        let mut ticks = tokio::time::interval(ROTATION_CHECK);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if let Err(error) = self.rotate(crate::clock::now()).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the signing keys were not looked at");
            }
        }
    }

    /// Makes a new key if the newest is old enough, and takes over what other instances made.
    pub async fn rotate(&self, now: OffsetDateTime) -> Result<(), KeyError> {
        let keys = rotated(&self.store, self.rotate_after, now).await?;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Live { keys, looked_at: Instant::now() };
        Ok(())
    }

    /// The key that signs now.
    pub(super) fn newest(&self) -> Result<SigningKey, KeyError> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.keys.first().cloned().ok_or(KeyError::None)
    }

    /// The key named `kid`, if it is one that still counts.
    pub(super) async fn find(&self, kid: &str) -> Result<Option<SigningKey>, KeyError> {
        if let Some(key) = self.known(kid) {
            return Ok(Some(key));
        }
        let _turn = self.looking.lock().await;
        // Whoever was before may have found it. If it has not, the key did not exist a moment ago.
        let looked_at = self.live.read().unwrap_or_else(PoisonError::into_inner).looked_at;
        if looked_at.elapsed() >= LOOK_AGAIN {
            let looked_at = Instant::now();
            let keys = ready(self.store.signing_keys().await?)?;
            *self.live.write().unwrap_or_else(PoisonError::into_inner) = Live { keys, looked_at };
        }
        Ok(self.known(kid))
    }

    fn known(&self, kid: &str) -> Option<SigningKey> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.keys.iter().find(|key| key.kid == kid).cloned()
    }

    /// The public halves, for whoever checks tokens elsewhere.
    pub fn jwks(&self) -> Jwks {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        Jwks { keys: live.keys.iter().map(Jwk::of).collect() }
    }
}

async fn rotated(store: &Store, rotate_after: time::Duration, now: OffsetDateTime) -> Result<Vec<SigningKey>, KeyError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let fresh = StoredKey { kid: uuid::Uuid::now_v7().simple().to_string(), seed, created_at: now };
    ready(store.rotate_signing_keys(fresh, now - rotate_after).await?)
}

fn ready(stored: Vec<StoredKey>) -> Result<Vec<SigningKey>, KeyError> {
    stored.into_iter().map(SigningKey::try_from).collect()
}

impl TryFrom<StoredKey> for SigningKey {
    type Error = KeyError;

    fn try_from(stored: StoredKey) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&stored.seed).map_err(|_| KeyError::Invalid)?;
        let public: [u8; 32] = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Invalid)?;
        let document = pair.to_pkcs8().map_err(|_| KeyError::Invalid)?;
        Ok(Self {
            kid: stored.kid,
            encoding: EncodingKey::from_ed_der(document.as_ref()),
            decoding: DecodingKey::from_ed_der(&public),
            public,
        })
    }
}

/// A JSON Web Key Set (RFC 7517).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Jwks {
    pub keys: Vec<Jwk>,
}

/// An Ed25519 public key as a JSON Web Key (RFC 8037).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Jwk {
    #[schema(example = "OKP")]
    pub kty: String,
    #[schema(example = "Ed25519")]
    pub crv: String,
    #[schema(example = "EdDSA")]
    pub alg: String,
    #[serde(rename = "use")]
    #[schema(example = "sig")]
    pub usage: String,
    pub kid: String,
    /// The 32 bytes of the key, base64url.
    pub x: String,
}

impl Jwk {
    fn of(key: &SigningKey) -> Self {
        Self {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            alg: "EdDSA".to_owned(),
            usage: "sig".to_owned(),
            kid: key.kid.clone(),
            x: BASE64_URL_SAFE_NO_PAD.encode(key.public),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::store::testing::TestDatabase;

    impl Keys {
        fn looked_at(&self) -> Instant {
            self.live.read().unwrap().looked_at
        }

        fn let_time_pass(&self) {
            self.live.write().unwrap().looked_at = Instant::now().checked_sub(LOOK_AGAIN).unwrap();
        }
    }

    #[tokio::test]
    async fn a_key_of_another_instance_is_found_by_everybody_who_asks_at_the_same_time() {
        let (_database, store) = TestDatabase::migrated().await;
        let one = Keys::open(store.clone(), 30, clock::now()).await.unwrap();
        let other = Keys::open(store, 30, clock::now()).await.unwrap();
        other.rotate(clock::now() + time::Duration::days(31)).await.unwrap();
        let fresh = other.newest().unwrap().kid;
        assert_ne!(one.newest().unwrap().kid, fresh, "it has not heard of it");
        one.let_time_pass();
        // Half of them ask for names that nobody has; whoever is first looks for all.
        let names: Vec<String> = (0..40).map(|number| if number % 2 == 0 { format!("made up {number}") } else { fresh.clone() }).collect();
        let found = futures_util::future::try_join_all(names.iter().map(|name| one.find(name))).await.unwrap();
        for (name, found) in names.iter().zip(found) {
            assert_eq!(found.is_some(), *name == fresh, "{name}");
        }
    }

    #[tokio::test]
    async fn made_up_names_make_an_instance_look_once_in_a_while_only() {
        let (_database, store) = TestDatabase::migrated().await;
        let keys = Keys::open(store, 30, clock::now()).await.unwrap();
        keys.let_time_pass();
        let before = keys.looked_at();
        assert!(keys.find("made up").await.unwrap().is_none());
        let looked_at = keys.looked_at();
        assert!(looked_at > before);
        for number in 0..100 {
            assert!(keys.find(&format!("made up {number}")).await.unwrap().is_none());
            if keys.looked_at() != looked_at {
                assert!(keys.looked_at() - looked_at >= LOOK_AGAIN, "it looked again too soon");
            }
        }
    }
}
