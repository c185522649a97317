//! Every id is a type of its own, parsed at the edge, so that a release id can never be passed where a terminal id is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A text that is not an id of the named kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind}; expected {expected}")]
pub struct InvalidId {
    pub kind: &'static str,
    pub expected: &'static str,
    pub text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
            pub const fn to_bytes(self) -> [u8; 16] {
                *self.0.as_bytes()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId { kind: stringify!($name), expected: "a UUID", text: text.chars().take(64).collect() })
            }
        }
        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }
    };
}

uuid_id!(/// A person or organisation with a login and a wallet.
    UserId);
uuid_id!(/// A client machine: a command line or a browser, with an Ed25519 key of its own.
    TerminalId);
uuid_id!(/// Something that a publisher distributes, in one or more editions.
    ContentId);
uuid_id!(/// An upload that becomes an edition when its last byte has arrived.
    UploadId);
uuid_id!(/// A publisher's prices and shares for downloads, in versions.
    TariffId);
uuid_id!(/// A scheduled, synchronous distribution.
    ReleaseId);
uuid_id!(/// One edition within one release: the unit of planning, leasing and copying.
    SwarmId);
uuid_id!(/// A terminal's bid for an edition and a rank of a release.
    ApplicationId);
uuid_id!(/// An application in a closed book: random, so that the book tells nobody whose it is.
    BidId);
uuid_id!(/// The contract to bring one edition to one terminal at one price.
    DeliveryId);
uuid_id!(/// One edition brought to one terminal that asked for it at any time. Its release has the same number.
    DownloadId);
uuid_id!(/// A fully meshed set of terminals of one swarm and one wave.
    GroupId);
uuid_id!(/// An amount set aside in a wallet.
    HoldId);
uuid_id!(/// One double-entry transfer.
    TransferId);
uuid_id!(/// A batch of prepaid vouchers made at once.
    VoucherBatchId);
uuid_id!(/// A terminal that is carried on a stick.
    KitId);
uuid_id!(/// One attempt of a kit to get its next statement.
    AttemptId);
uuid_id!(/// The time for which a terminal is shut out.
    QuarantineId);
uuid_id!(/// An address of an owner's that outgoing events are sent to.
    WebhookId);
uuid_id!(/// Something that happened, for one owner: the same in every sending of it.
    EventId);
uuid_id!(/// An event on its way to one webhook.
    WebhookDeliveryId);
uuid_id!(/// One HTTP request, quoted in problems and logs.
    RequestId);

impl TerminalId {
    /// The origin, where a source terminal is named in receipts and reports.
    pub const ORIGIN: Self = Self(Uuid::nil());

    pub fn is_origin(self) -> bool {
        self == Self::ORIGIN
    }
}

macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $pattern:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
        #[schema(value_type = String, pattern = $pattern)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes)
                    .map(|()| Self(bytes))
                    .map_err(|_| InvalidId { kind: stringify!($name), expected: concat!(stringify!($len), " bytes as hexadecimal"), text: text.chars().take(64).collect() })
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_bytes!(/// The BLAKE3 hash of an edition's manifest: equal manifests are the same edition.
    EditionId, 32, "^[0-9a-fA-F]{64}$");
hex_bytes!(/// The BLAKE3 hash of a byte string: a chunk, a file, a whole edition, or a closed book.
    Blake3, 32, "^[0-9a-fA-F]{64}$");
hex_bytes!(/// An Ed25519 public key (RFC 8032).
    PublicKey, 32, "^[0-9a-fA-F]{64}$");
hex_bytes!(/// An Ed25519 signature (RFC 8032).
    Signature, 64, "^[0-9a-fA-F]{128}$");

impl Blake3 {
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl PublicKey {
    /// Checks a signature with the strict rules (no small-order keys, no malleable signatures).
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&self.0) else { return false };
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

/// A terminal's key pair. Deliberately neither `Debug`-printing its secret nor serialisable.
#[derive(Clone)]
pub struct TerminalKey(ed25519_dalek::SigningKey);

impl fmt::Debug for TerminalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TerminalKey({})", self.public())
    }
}

impl TerminalKey {
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(secret))
    }
    /// The 32 secret bytes, to be stored where only the owner can read them.
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }
    /// The X25519 private key whose public key is [`PublicKey`] on the Montgomery curve (RFC 7748, 4.1).
    pub(crate) fn agreement_secret(&self) -> [u8; 32] {
        self.0.to_scalar_bytes()
    }
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
    pub fn sign(&self, message: &[u8]) -> Signature {
        use ed25519_dalek::Signer;
        Signature(self.0.sign(message).to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_the_wrong_shape_is_refused_with_what_was_expected() {
        let error = "42".parse::<TerminalId>().unwrap_err();
        assert_eq!(error.to_string(), "\"42\" is not a valid TerminalId; expected a UUID");
        assert!("ab".parse::<EditionId>().is_err());
    }

    #[test]
    fn a_signature_holds_for_its_message_and_key_only() {
        let (key, other) = (TerminalKey::from_secret(&[1; 32]), TerminalKey::from_secret(&[2; 32]));
        let signature = key.sign(b"hello");
        assert!(key.public().verifies(b"hello", &signature));
        assert!(!key.public().verifies(b"hellp", &signature));
        assert!(!other.public().verifies(b"hello", &signature));
        assert!(!PublicKey([0; 32]).verifies(b"hello", &signature), "a small-order key never verifies");
    }
}
