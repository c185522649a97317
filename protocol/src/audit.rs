//! Audits: a terminal that by its own receipts has a chunk shows that it has it, by a hash that nobody could have kept beforehand.
//!
//! The service draws a key and asks for the keyed BLAKE3 of one chunk as it travels. The answer is signed, so that a false one can be shown to
//! anybody. A terminal hashes what it reads once more with the chunk's own hash first: what its disk has lost it says it has not, which is no fault. So an honest one never gives a false answer.

use crate::ids::{Blake3, PublicKey, Signature, SwarmId, TerminalId, TerminalKey};
use crate::wire::Writer;

const TAG: &[u8; 18] = b"spillway audit v1\n";

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct AuditQuestion {
    pub swarm_id: SwarmId,
    pub chunk: u32,
    /// Drawn for this question.
    pub key: Blake3,
}

/// What a terminal says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct AuditAnswer {
    /// Absent if it does not have the chunk any more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<Blake3>,
    pub signature: Signature,
}

impl AuditQuestion {
    /// The right answer, from the chunk's bytes as they travel.
    pub fn digest(&self, bytes: &[u8]) -> Blake3 {
        Blake3(*blake3::keyed_hash(&self.key.0, bytes).as_bytes())
    }

    /// Answers it for a terminal; `digest` is none if the chunk is not there any more.
    pub fn answered(&self, terminal: TerminalId, key: &TerminalKey, digest: Option<Blake3>) -> AuditAnswer {
        AuditAnswer { digest, signature: key.sign(&self.signed_bytes(terminal, digest)) }
    }

    /// Whether this terminal has said this to this question.
    pub fn is_answered_by(&self, terminal: TerminalId, key: &PublicKey, answer: &AuditAnswer) -> bool {
        key.verifies(&self.signed_bytes(terminal, answer.digest), &answer.signature)
    }

    /// `tag(18) | terminal(16) | swarm(16) | chunk u32 | key(32) | 1 and digest(32), or 0`
    fn signed_bytes(&self, terminal: TerminalId, digest: Option<Blake3>) -> Vec<u8> {
        let bytes = Writer::with_capacity(128)
            .raw(TAG)
            .raw(&terminal.to_bytes())
            .raw(&self.swarm_id.to_bytes())
            .u32(self.chunk)
            .raw(&self.key.0)
            .finish();
        match digest {
            Some(digest) => [bytes.as_slice(), &[1], &digest.0].concat(),
            None => [bytes.as_slice(), &[0]].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> AuditQuestion {
        AuditQuestion { swarm_id: SwarmId::from_bytes([1; 16]), chunk: 7, key: Blake3([2; 32]) }
    }

    #[test]
    fn x03_an_answer_holds_for_its_terminal_question_and_digest_alone() {
        let (key, me) = (TerminalKey::from_secret(&[3; 32]), TerminalId::from_bytes([4; 16]));
        let digest = question().digest(b"chunk");
        for said in [Some(digest), None] {
            let answer = question().answered(me, &key, said);
            assert!(question().is_answered_by(me, &key.public(), &answer));
            let other = |change: fn(&mut AuditQuestion)| {
                let mut question = question();
                change(&mut question);
                question
            };
            assert!(!other(|question| question.chunk += 1).is_answered_by(me, &key.public(), &answer));
            assert!(!other(|question| question.key = Blake3([9; 32])).is_answered_by(me, &key.public(), &answer));
            assert!(!other(|question| question.swarm_id = SwarmId::from_bytes([9; 16])).is_answered_by(me, &key.public(), &answer));
            assert!(!question().is_answered_by(TerminalId::from_bytes([9; 16]), &key.public(), &answer));
            assert!(!question().is_answered_by(me, &TerminalKey::from_secret(&[9; 32]).public(), &answer));
            let turned = AuditAnswer { digest: Some(Blake3([0; 32])), ..answer };
            assert!(!question().is_answered_by(me, &key.public(), &turned));
        }
    }

    #[test]
    fn x03_no_hash_that_was_kept_answers_another_key() {
        let other = AuditQuestion { key: Blake3([9; 32]), ..question() };
        assert_ne!(question().digest(b"chunk"), other.digest(b"chunk"));
        assert_ne!(question().digest(b"chunk"), question().digest(b"chunK"));
        assert_ne!(question().digest(b"chunk"), Blake3::of(b"chunk"));
    }
}
