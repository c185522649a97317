//! Free loopback ports.

use std::net::{Ipv4Addr, TcpListener};

use crate::failure::Failure;

/// Attempts to start a service on a free port: between finding a port and the service's own bind another process may take it.
pub(crate) const ATTEMPTS: usize = 3;

/// A port that nothing listens on right now.
pub(crate) fn free() -> Result<u16, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener
        .and_then(|bound| bound.local_addr())
        .map(|address| address.port())
        .map_err(|error| Failure::told(format!("no free loopback port: {error}")))
}

/// Runs `start` with free ports until it succeeds, or fails for another reason than a port that was taken meanwhile.
pub(crate) fn with_free<T>(mut start: impl FnMut(u16) -> Result<T, Failure>) -> Result<T, Failure> {
    for _ in 1..ATTEMPTS {
        match start(free()?) {
            Err(Failure::Told(message)) if message.to_lowercase().contains("address already in use") => {}
            outcome => return outcome,
        }
    }
    start(free()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_taken_meanwhile_is_replaced_by_another_one() {
        let mut tried = Vec::new();
        let outcome = with_free(|port| {
            tried.push(port);
            if tried.len() < ATTEMPTS { Err(Failure::told("bind: Address already in use")) } else { Ok(port) }
        });
        assert_eq!(outcome, Ok(tried[ATTEMPTS - 1]));
    }

    #[test]
    fn any_other_failure_is_final() {
        let mut tried = 0;
        let outcome = with_free(|_| {
            tried += 1;
            Err::<(), _>(Failure::told("no space left on device"))
        });
        assert_eq!((outcome.is_err(), tried), (true, 1));
    }
}
