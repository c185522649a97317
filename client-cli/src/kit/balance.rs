//! The balance that a kit carries: read without the service, and brought up to date with it.

use std::time::Duration;

use protocol::rest::{NextStatement, SignedStatement};
use protocol::{AttemptId, ErrorCode};
use terminal::api::Api;

use super::Kit;
use crate::failure::{Failure, Outcome};
use crate::folder::{KitState, SyncLock};
use crate::random::random;

/// A process beside this one may be between writing the statement and the state: what is wrong for a moment only is nothing.
const LOOKS: u32 = 2;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What is wrong with the statement that lies in the kit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Missing,
    Edited,
    RolledBack,
    /// It is newer than what the kit remembers: the rest of the rewritable area was put back.
    Ahead,
}

impl Fault {
    fn told(self) -> &'static str {
        match self {
            Self::Missing => "there is no balance statement in this kit, or it cannot be read",
            Self::Edited => "the balance statement in this kit was edited: the service has not signed it so",
            Self::RolledBack => "the balance statement in this kit was put back to an earlier one",
            Self::Ahead => "this kit was put back to an earlier state",
        }
    }
}

/// The statement in the kit, if it is the last one; or the next after it, which an interruption kept from being remembered.
fn judge(state: &KitState, stored: Option<SignedStatement>) -> Result<SignedStatement, Fault> {
    let stored = stored.ok_or(Fault::Missing)?;
    let statement = &stored.statement;
    if statement.kit_id != state.kit_id || !stored.is_genuine(&state.public_key) {
        return Err(Fault::Edited);
    }
    if statement.sequence < state.sequence {
        return Err(Fault::RolledBack);
    }
    let is_last = statement.sequence == state.sequence && statement.hash() == state.hash;
    let is_next = state.sequence.checked_add(1) == Some(statement.sequence) && statement.previous == state.hash;
    match is_last || is_next {
        true => Ok(stored),
        // Signed, and yet of another chain than the one that is remembered.
        false => Err(Fault::Ahead),
    }
}

impl Kit {
    /// The balance as of the last connection, without the service.
    pub(crate) fn balance(&self) -> Outcome<(SignedStatement, KitState)> {
        let mut state = self.folder.kit_state()?;
        let mut judged = judge(&state, self.folder.statement());
        for _ in 0..LOOKS {
            if judged.is_ok() {
                break;
            }
            std::thread::sleep(LOOK_AGAIN);
            state = self.folder.kit_state()?;
            judged = judge(&state, self.folder.statement());
        }
        let statement = judged.map_err(|fault| {
            Failure::Failed(format!(
                "{}; the true one comes with the next connection: `spillway --kit {} wallet`",
                fault.told(),
                self.dir().display()
            ))
        })?;
        Ok((statement, state))
    }

    /// Gets the next statement. Answers what was wrong with the one that lay here, if anything was: it is replaced.
    ///
    /// # Errors
    /// `kit_forked`, from then on for good; the service cannot be reached, or what it answers does not follow.
    pub(crate) async fn catch_up(&self, api: &Api) -> Outcome<Option<&'static str>> {
        let lock = self.folder.lock_sync().await?;
        let mut state = self.folder.kit_state()?;
        if state.forked {
            return Err(forked());
        }
        let fault = match judge(&state, self.folder.statement()) {
            Ok(stored) => {
                adopt(&mut state, &stored);
                None
            }
            Err(fault) => Some(fault.told()),
        };
        // What answers a request of an earlier time is the balance of that time.
        let was_left = state.attempt.is_some();
        self.next_statement(api, &mut state, &lock).await?;
        if was_left {
            self.next_statement(api, &mut state, &lock).await?;
        }
        Ok(fault)
    }

    async fn next_statement(&self, api: &Api, state: &mut KitState, lock: &SyncLock) -> Outcome<()> {
        let attempt = match state.attempt {
            Some(attempt) => attempt,
            None => AttemptId::from_bytes(random()?),
        };
        // Before it is asked for: whoever asks once more without it would be taken for a copy.
        state.attempt = Some(attempt);
        self.folder.write_kit_state(state, lock)?;
        let presented = NextStatement { sequence: state.sequence, hash: state.hash, attempt };
        let next = match api.next_statement(state.kit_id, &presented).await.map_err(Failure::from) {
            Ok(next) => next,
            Err(failure) if failure.code() == Some(ErrorCode::KitForked) => {
                state.forked = true;
                self.folder.write_kit_state(state, lock)?;
                return Err(failure);
            }
            Err(failure) => return Err(failure),
        };
        let follows = next.statement.kit_id == state.kit_id
            && next.is_genuine(&state.public_key)
            && state.sequence.checked_add(1) == Some(next.statement.sequence)
            && next.statement.previous == state.hash;
        if !follows {
            return Err(Failure::Unavailable(
                "the server's balance statement does not follow the last one; is this the server that made the kit?".into(),
            ));
        }
        self.folder.write_statement(&next, lock)?;
        adopt(state, &next);
        state.attempt = None;
        self.folder.write_kit_state(state, lock)
    }
}

fn adopt(state: &mut KitState, statement: &SignedStatement) {
    if statement.statement.sequence > state.sequence {
        state.attempt = None;
    }
    (state.sequence, state.hash) = (statement.statement.sequence, statement.statement.hash());
}

fn forked() -> Failure {
    Failure::from_refusal(ErrorCode::KitForked, String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::rest::BalanceStatement;
    use protocol::{Amount, Blake3, Currency, KitId, Money, TerminalId, TerminalKey};
    use time::macros::datetime;

    fn key() -> TerminalKey {
        TerminalKey::from_secret(&[3; 32])
    }

    fn signed(sequence: u64, previous: Blake3, available: u64) -> SignedStatement {
        let money = |amount| Money { amount: Amount(amount), currency: Currency::EUR };
        let statement = BalanceStatement {
            kit_id: KitId::from_bytes([1; 16]),
            sequence,
            previous,
            available: money(available),
            held: money(0),
            at: datetime!(2026-11-24 12:00 UTC),
        };
        SignedStatement { signature: key().sign(&statement.signed_bytes()), statement }
    }

    fn state(last: &SignedStatement) -> KitState {
        KitState {
            kit_id: last.statement.kit_id,
            terminal_id: TerminalId::from_bytes([2; 16]),
            public_key: key().public(),
            sequence: last.statement.sequence,
            hash: last.statement.hash(),
            attempt: None,
            forked: false,
        }
    }

    #[test]
    fn a20_an_edited_a_rolled_back_and_a_missing_balance_are_told_apart() {
        let first = signed(1, Blake3([0; 32]), 500);
        let second = signed(2, first.statement.hash(), 400);
        let third = signed(3, second.statement.hash(), 300);
        let fourth = signed(4, third.statement.hash(), 200);
        let state = state(&second);
        assert_eq!(judge(&state, Some(second.clone())), Ok(second.clone()));
        assert_eq!(judge(&state, Some(third.clone())), Ok(third.clone()), "written, and not remembered any more");
        assert_eq!(judge(&state, None), Err(Fault::Missing));
        assert_eq!(judge(&state, Some(first.clone())), Err(Fault::RolledBack));
        assert_eq!(judge(&state, Some(fourth)), Err(Fault::Ahead));
        assert_eq!(judge(&state, Some(signed(3, first.statement.hash(), 300))), Err(Fault::Ahead), "of another chain");
        assert_eq!(judge(&state, Some(signed(2, first.statement.hash(), 9_999))), Err(Fault::Ahead));
        let mut edited = second.clone();
        edited.statement.available.amount = Amount(1_000_000);
        assert_eq!(judge(&state, Some(edited)), Err(Fault::Edited));
        let mut other = second;
        other.statement.kit_id = KitId::from_bytes([9; 16]);
        other.signature = key().sign(&other.statement.signed_bytes());
        assert_eq!(judge(&state, Some(other)), Err(Fault::Edited), "another kit's");
    }

    #[test]
    fn a20_an_attempt_is_over_when_its_statement_is_here() {
        let first = signed(1, Blake3([0; 32]), 500);
        let mut state = KitState { attempt: Some(AttemptId::from_bytes([5; 16])), ..state(&first) };
        adopt(&mut state, &first);
        assert_eq!(state.attempt, Some(AttemptId::from_bytes([5; 16])));
        let second = signed(2, first.statement.hash(), 400);
        adopt(&mut state, &second);
        assert_eq!((state.attempt, state.sequence, state.hash), (None, 2, second.statement.hash()));
    }
}
