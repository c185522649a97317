//! Signals as a value that waits can look at.
//!
//! Every wait of the runner goes through [`Interrupt::pause`], so a signal ends it at once with [`Failure::Interrupted`]; the error
//! travels up, the guards on the way stop what they own, and `main` exits. A second signal means that the person does not want to wait
//! for that: [`Interrupt::is_impatient`] then lets the guards kill instead of ask.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// The signals that were received since the start; clones share one state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<Received>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Received {
    first: Option<i32>,
    count: u32,
}

impl Interrupt {
    /// Takes over SIGINT, SIGTERM and SIGHUP for the rest of the process.
    pub(crate) fn install() -> Result<Self, Failure> {
        let interrupt = Self::default();
        let mut signals =
            Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| Failure::told(format!("cannot handle signals: {error}")))?;
        let receiver = interrupt.clone();
        thread::spawn(move || {
            for signal in signals.forever() {
                receiver.receive(signal);
            }
        });
        Ok(interrupt)
    }

    /// Notes a signal and wakes every pause.
    fn receive(&self, signal: i32) {
        let mut received = self.lock();
        received.first.get_or_insert(signal);
        received.count += 1;
        drop(received);
        self.shared.changed.notify_all();
    }

    /// An error as soon as a signal was received.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.lock().first.map_or(Ok(()), |signal| Err(Failure::Interrupted(signal)))
    }

    /// Whether a second signal was received.
    pub(crate) fn is_impatient(&self) -> bool {
        self.lock().count >= 2
    }

    /// Waits for `length`, or fails at once when a signal is (or was) received.
    pub(crate) fn pause(&self, length: Duration) -> Result<(), Failure> {
        let end = Instant::now() + length;
        let mut received = self.lock();
        loop {
            if let Some(signal) = received.first {
                return Err(Failure::Interrupted(signal));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            received = self.shared.changed.wait_timeout(received, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_without_a_signal_lasts_its_length() {
        let begun = Instant::now();
        Interrupt::default().pause(Duration::from_millis(20)).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn a_signal_ends_a_pause_that_has_begun_and_is_named_by_the_error() {
        let interrupt = Interrupt::default();
        let sender = interrupt.clone();
        let begun = Instant::now();
        let waiting = thread::spawn(move || interrupt.pause(Duration::from_secs(60)));
        sender.receive(SIGTERM);
        assert_eq!(waiting.join().unwrap(), Err(Failure::Interrupted(SIGTERM)));
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn only_the_second_signal_is_impatience_and_the_first_one_names_the_exit_code() {
        let interrupt = Interrupt::default();
        interrupt.receive(SIGINT);
        assert!(!interrupt.is_impatient());
        interrupt.receive(SIGTERM);
        assert!(interrupt.is_impatient());
        assert_eq!(interrupt.check(), Err(Failure::Interrupted(SIGINT)));
    }
}
