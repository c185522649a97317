//! Whether a kit that asks for its next statement is the one kit there is. Statements are a chain with one end; whoever comes with another end than the
//! service has, has been copied, or was put back to an earlier state.

use protocol::rest::NextStatement;
use protocol::{AttemptId, Blake3};

/// The end of a kit's chain, as the service knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainEnd {
    pub sequence: u64,
    pub hash: Blake3,
    /// What the last statement was made from: the one before it.
    pub previous: Blake3,
    /// Who asked for the last statement; none for the first.
    pub attempt: Option<AttemptId>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has the last statement: it gets the next one.
    Next,
    /// The answer to this very attempt was lost: it is given again.
    Again,
    /// There are two of it, or it was put back.
    Forked,
}

/// Judges what a kit presents.
pub fn judge(end: &ChainEnd, presented: &NextStatement) -> Verdict {
    let has_last = presented.sequence == end.sequence && presented.hash == end.hash;
    let had_the_one_before = presented.sequence.checked_add(1) == Some(end.sequence) && presented.hash == end.previous;
    if has_last {
        Verdict::Next
    } else if had_the_one_before && end.attempt == Some(presented.attempt) {
        Verdict::Again
    } else {
        Verdict::Forked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn hash(number: u8) -> Blake3 {
        Blake3([number; 32])
    }

    fn end() -> ChainEnd {
        ChainEnd { sequence: 5, hash: hash(5), previous: hash(4), attempt: Some(attempt(1)) }
    }

    const fn attempt(number: u8) -> AttemptId {
        AttemptId::from_bytes([number; 16])
    }

    fn presents(sequence: u64, number: u8, by: u8) -> NextStatement {
        NextStatement { sequence, hash: hash(number), attempt: attempt(by) }
    }

    #[test]
    fn a20_the_kit_goes_on_a_lost_answer_is_repeated_and_everything_else_is_a_copy() {
        assert_eq!(judge(&end(), &presents(5, 5, 9)), Verdict::Next);
        assert_eq!(judge(&end(), &presents(4, 4, 1)), Verdict::Again);
        for copied in
            [presents(4, 4, 2), presents(3, 3, 1), presents(5, 4, 1), presents(6, 6, 1), presents(5, 9, 1), presents(u64::MAX, 5, 1)]
        {
            assert_eq!(judge(&end(), &copied), Verdict::Forked, "{copied:?}");
        }
        let first = ChainEnd { sequence: 1, hash: hash(1), previous: hash(0), attempt: None };
        assert_eq!(judge(&first, &presents(1, 1, 7)), Verdict::Next);
        assert_eq!(judge(&first, &presents(0, 0, 7)), Verdict::Forked);
    }

    /// However two copies take turns, the second of them to ask is found out at the latest when each has asked once.
    #[test]
    fn a20_two_copies_that_take_turns_are_found_out() {
        let mut chain = end();
        let (first, second) = (presents(5, 5, 100), presents(5, 5, 200));
        assert_eq!(judge(&chain, &first), Verdict::Next);
        chain = ChainEnd { sequence: 6, hash: hash(6), previous: hash(5), attempt: Some(first.attempt) };
        assert_eq!(judge(&chain, &second), Verdict::Forked);
    }
}
