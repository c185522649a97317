//! Who is asking: access tokens (JWT, EdDSA), the keys that sign them, passwords, and the extractors that handlers ask for.
//!
//! Flow: log in with a password → an access token of 15 minutes and a refresh token for one use → the next pair, and so on. A refresh token that
//! comes twice was copied: its whole family ends.

pub mod caller;
pub mod keys;
pub mod passwords;
pub mod refresh;
pub mod tokens;

pub use caller::{Caller, Operator, Publisher};
pub use keys::Keys;
pub use passwords::Passwords;
