//! Signatures as Standard Webhooks has them (standardwebhooks.com, specification 1.0): HMAC-SHA-256 over `ID.TIMESTAMP.BODY`, as `v1,` and base64.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Before the base64 of a secret, so that it is known for what it is wherever it turns up.
const PREFIX: &str = "whsec_";
/// As long as the hash: the specification asks for 24 to 64.
const SECRET_BYTES: usize = 32;

/// What signs for one webhook. Deliberately neither printed nor serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// # Errors
    /// The system gives no random numbers.
    pub fn draw() -> Result<Self, getrandom::Error> {
        let mut bytes = vec![0; SECRET_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As its owner is shown it.
    pub fn shown(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(&self.0))
    }

    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
    }
}

/// The header `webhook-signature`: one signature by each secret that counts, the newest first. `timestamp` is the time of the attempt, in seconds since 1970.
pub fn header(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures: Vec<String> = secrets.iter().map(|secret| secret.sign(id, timestamp, body)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(shown: &str) -> Secret {
        Secret::from_bytes(BASE64_STANDARD.decode(shown.strip_prefix(PREFIX).unwrap()).unwrap())
    }

    /// The vector that libraries of the specification are tested with.
    #[test]
    fn the_known_vector_is_signed_as_everybody_signs_it() {
        let secret = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", br#"{"test": 2432232314}"#);
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(header(std::slice::from_ref(&secret), id, 1_614_265_330, body), signature);
        assert_eq!(secret.shown(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let other = Secret::from_bytes(vec![7; SECRET_BYTES]);
        let both = header(&[other.clone(), secret], id, 1_614_265_330, body);
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(second, signature);
        assert_eq!(first, header(&[other], id, 1_614_265_330, body));
    }

    #[test]
    fn a_drawn_secret_is_another_each_time_and_is_not_printed() {
        let (one, other) = (Secret::draw().unwrap(), Secret::draw().unwrap());
        assert_ne!(one, other);
        assert_eq!((secret(&one.shown()), one.bytes().len()), (one.clone(), 32));
        assert_eq!(format!("{one:?}"), "Secret(…)");
    }
}
