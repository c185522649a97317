//! How requests to a TURN server are signed: by the long-term credential mechanism (RFC 8489, section 9.2).
//!
//! The first request is not signed, and its refusal (401) brings the realm and the nonce that all later ones are signed with. A nonce gets old; the refusal
//! that says so (438) brings the next one.

use std::sync::Arc;

use rtc::crypto::RTCCryptoProvider;
use rtc::shared::error::Error;
use rtc::stun::attributes::{ATTR_NONCE, ATTR_REALM, ATTR_USERNAME};
use rtc::stun::error_code::ErrorCodeAttribute;
use rtc::stun::fingerprint::FINGERPRINT;
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{Getter, Message, Setter};
use rtc::stun::textattrs::{Nonce, Realm, TextAttribute, Username};

use super::Credentials;

/// Challenges that are answered per request. The first one, one that has become old meanwhile, and one more.
const CHALLENGES_MAX: u32 = 3;

const UNAUTHENTICATED: u16 = 401;
const STALE_NONCE: u16 = 438;

/// Why a server did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Of RFC 8489, section 14.8, and RFC 8656, section 19; 0 if the server told none.
    pub(super) code: u16,
    reason: String,
}

impl Refusal {
    pub(super) fn of(response: &Message) -> Self {
        let mut error = ErrorCodeAttribute::default();
        match error.get_from(response) {
            Ok(()) => Self { code: error.code.0, reason: String::from_utf8_lossy(&error.reason).into_owned() },
            Err(_) => Self { code: 0, reason: "no reason given".to_owned() },
        }
    }

    /// The request was signed, and that did not help.
    pub(super) fn is_of_credentials(&self) -> bool {
        self.code == UNAUTHENTICATED
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.reason)
    }
}

struct Challenge {
    realm: Realm,
    nonce: Nonce,
    key: Vec<u8>,
}

pub(super) struct Login {
    credentials: Credentials,
    challenge: Option<Challenge>,
    crypto: Arc<dyn RTCCryptoProvider>,
}

impl Login {
    pub(super) fn new(credentials: Credentials, crypto: Arc<dyn RTCCryptoProvider>) -> Self {
        Self { credentials, challenge: None, crypto }
    }

    /// The next request is the first one.
    pub(super) fn forget(&mut self) {
        self.challenge = None;
    }

    /// A whole request with these attributes, signed if there is something to sign it with.
    ///
    /// # Errors
    /// The library's, for a user name that is too long.
    pub(super) fn request<'a>(&'a self, mut attributes: Vec<Box<dyn Setter + 'a>>) -> Result<Message, Error> {
        if let Some(challenge) = &self.challenge {
            attributes.push(Box::new(Username::new(ATTR_USERNAME, self.credentials.username.clone())));
            attributes.push(Box::new(challenge.realm.clone()));
            attributes.push(Box::new(challenge.nonce.clone()));
            attributes.push(Box::new(MessageIntegrity::new_raw_integrity_with_provider(challenge.key.clone(), self.crypto.crypto())));
        }
        attributes.push(Box::new(FINGERPRINT));
        let mut message = Message::new();
        message.build(&attributes)?;
        Ok(message)
    }

    /// Whether a response may be believed: once requests are signed, those that grant something are too.
    pub(super) fn vouches_for(&self, response: &mut Message) -> bool {
        match &self.challenge {
            Some(challenge) => MessageIntegrity::check(response, &challenge.key, self.crypto.crypto()).is_ok(),
            None => true,
        }
    }

    /// Takes what a refusal says about signing. Returns whether the request is worth another attempt, signed by that.
    pub(super) fn takes(&mut self, refusal: &Refusal, response: &Message, challenges: u32) -> bool {
        let is_challenge = match refusal.code {
            UNAUTHENTICATED => self.challenge.is_none(),
            STALE_NONCE => true,
            _ => false,
        };
        if !is_challenge || challenges >= CHALLENGES_MAX {
            return false;
        }
        match self.challenge_of(response) {
            Ok(challenge) => {
                self.challenge = Some(challenge);
                true
            }
            Err(error) => {
                tracing::debug!(%error, "a TURN server's challenge");
                false
            }
        }
    }

    fn challenge_of(&self, response: &Message) -> Result<Challenge, Error> {
        let nonce = TextAttribute::get_from_as(response, ATTR_NONCE)?;
        let realm = TextAttribute::get_from_as(response, ATTR_REALM)?;
        let Credentials { username, password } = self.credentials.clone();
        let key = MessageIntegrity::long_term_integrity_key(username, realm.text.clone(), password, self.crypto.crypto())?;
        Ok(Challenge { realm, nonce, key })
    }
}
