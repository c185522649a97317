//! Randomness for keys, ids and nonces: the system's.

use crate::failure::{Failure, Outcome};

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Failure::Failed(format!("this system gives no randomness: {error}")))?;
    Ok(bytes)
}
