//! Access tokens: JWTs (RFC 9068's `at+jwt`) signed with EdDSA, good for 15 minutes.

use jsonwebtoken::{Algorithm, Header, Validation};
use protocol::UserId;
use protocol::rest::Role;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::keys::{KeyError, Keys};

/// Seconds that an access token is good for: short, because it cannot be called back.
pub const ACCESS_SECONDS: u32 = 15 * 60;
/// Keeps other kinds of JWT signed by the same keys from ever being taken for an access token.
const TYPE: &str = "at+jwt";

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    pub sub: UserId,
    /// As it was when the token was made; what needs a role asks the database for the present one.
    pub role: Role,
    pub iat: i64,
    pub exp: i64,
    pub jti: uuid::Uuid,
}

/// Why a token is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Whatever is wrong with it, the client learns no more than this.
    #[error("the access token is not valid")]
    Invalid,
    #[error("the access token has expired")]
    Expired,
    #[error("the signing keys are not at hand")]
    Keys(#[from] KeyError),
    #[error("an access token could not be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// For whom and by whom tokens are made.
#[derive(Debug, Clone, Copy)]
pub struct Parties<'a> {
    pub issuer: &'a str,
    pub audience: &'a str,
}

impl Keys {
    pub fn issue(&self, parties: Parties<'_>, user: UserId, role: Role, now: OffsetDateTime) -> Result<String, TokenError> {
        let key = self.newest()?;
        let header = Header { typ: Some(TYPE.to_owned()), kid: Some(key.kid), ..Header::new(Algorithm::EdDSA) };
        let iat = now.unix_timestamp();
        let claims = Claims {
            iss: parties.issuer.to_owned(),
            aud: parties.audience.to_owned(),
            sub: user,
            role,
            iat,
            exp: iat + i64::from(ACCESS_SECONDS),
            jti: uuid::Uuid::now_v7(),
        };
        jsonwebtoken::encode(&header, &claims, &key.encoding).map_err(TokenError::Sign)
    }

    /// Checks everything: the type, the algorithm, the key, the signature, issuer, audience, expiry and that each of them is there.
    pub async fn verify(&self, parties: Parties<'_>, token: &str) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        if header.typ.as_deref() != Some(TYPE) || header.alg != Algorithm::EdDSA || header.crit.is_some() {
            return Err(TokenError::Invalid);
        }
        let kid = header.kid.ok_or(TokenError::Invalid)?;
        let key = self.find(&kid).await?.ok_or(TokenError::Invalid)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.set_issuer(&[parties.issuer]);
        validation.set_audience(&[parties.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        match jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation) {
            Ok(data) => Ok(data.claims),
            Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::ExpiredSignature) => Err(TokenError::Expired),
            Err(_) => Err(TokenError::Invalid),
        }
    }
}
