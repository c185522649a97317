//! Refresh tokens: 256 random bits, of which the database keeps only the hash.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use protocol::Blake3;
use protocol::rest::Refresh;

use crate::error::ApiError;

/// Days until an unused refresh token, and with it the session, ends.
pub const REFRESH_DAYS: i64 = 30;

/// A token as the client holds it and as the database knows it.
pub struct RefreshToken {
    text: String,
    hash: Blake3,
}

impl RefreshToken {
    pub fn random() -> Result<Self, ApiError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(ApiError::internal)?;
        Ok(Self { text: BASE64_URL_SAFE_NO_PAD.encode(bytes), hash: Blake3::of(&bytes) })
    }

    /// What a client sent; `None` if it cannot be a token at all.
    pub fn parse(sent: &Refresh) -> Option<Self> {
        let bytes: [u8; 32] = BASE64_URL_SAFE_NO_PAD.decode(&sent.refresh_token).ok()?.try_into().ok()?;
        Some(Self { text: sent.refresh_token.clone(), hash: Blake3::of(&bytes) })
    }

    pub fn hash(&self) -> Blake3 {
        self.hash
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

impl std::fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RefreshToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_itself_and_nothing_else_does() {
        let token = RefreshToken::random().unwrap();
        let hash = token.hash();
        let text = token.into_text();
        assert_eq!(RefreshToken::parse(&Refresh { refresh_token: text.clone() }).unwrap().hash(), hash);
        for bad in ["", "x", &text[1..], &format!("{text}A")] {
            assert!(RefreshToken::parse(&Refresh { refresh_token: bad.to_owned() }).is_none(), "{bad:?} was accepted");
        }
        assert_ne!(RefreshToken::random().unwrap().hash(), hash);
    }
}
