//! Audits: now and then a terminal is asked for the keyed hash of one chunk that it has signed for. A false answer is signed by it, which is all that a
//! quarantine needs; no answer, or that the chunk is gone, is nobody's fault. The question lives as long as the connection.

use std::cell::Cell;
use std::time::Duration;

use metrics::counter;
use protocol::audit::{AuditAnswer, AuditQuestion};
use protocol::rest::AuditEvidence;
use protocol::ws::ServerMessage;
use protocol::{Blake3, ErrorCode, TerminalId};

use super::outbox::Outbox;
use super::pushes::Links;
use crate::app::{quarantines, sealing, swarm};
use crate::clock;
use crate::error::ApiError;
use crate::metrics::AUDITS;
use crate::state::AppState;

/// The one question of a session that waits for its answer.
#[derive(Debug, Default)]
pub(super) struct Audits {
    asked: Cell<Option<AuditQuestion>>,
}

impl Audits {
    /// Asks, in the mean as often as the configuration says and at no time that could be told beforehand, until the session ends.
    pub(super) async fn ask_now_and_then(&self, state: &AppState, outbox: &Outbox, links: &Links, terminal: TerminalId) {
        let every = Duration::from_secs(state.config.audit_every.into());
        if every.is_zero() {
            return std::future::pending().await;
        }
        loop {
            // A system without random bytes asks nobody: a key that can be guessed shows nothing.
            let Ok(key) = drawn() else { return std::future::pending().await };
            let [a, b, ..] = key.0;
            tokio::time::sleep(every / 2 + every * u32::from(u16::from_le_bytes([a, b])) / u32::from(u16::MAX)).await;
            if self.asked.take().is_some() {
                counter!(AUDITS, "result" => "unanswered").increment(1);
            }
            match question(state, links, terminal, key).await {
                Ok(Some(question)) => {
                    self.asked.set(Some(question));
                    outbox.send(&ServerMessage::Audit { question });
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, %terminal, "no audit this time"),
            }
        }
    }

    /// Takes an answer. A false one puts the terminal in quarantine, which ends this session too.
    ///
    /// # Errors
    /// `invalid_request` for an answer to what was not asked, or one that the terminal has not signed; or a store fails, and the answer counts for nothing.
    pub(super) async fn answered(
        &self,
        state: &AppState,
        terminal: TerminalId,
        question: AuditQuestion,
        answer: AuditAnswer,
    ) -> Result<(), ApiError> {
        if self.asked.get() != Some(question) {
            return Err(ApiError::invalid("/question", "this was not asked, or is answered"));
        }
        let known = state.store.terminal(terminal).await?.ok_or_else(ApiError::not_found)?;
        if !question.is_answered_by(terminal, &known.terminal.public_key, &answer) {
            return Err(ApiError::invalid("/answer/signature", "this is not the terminal's signature of its answer"));
        }
        let Some(digest) = answer.digest else {
            self.asked.set(None);
            counter!(AUDITS, "result" => "gone").increment(1);
            return Ok(());
        };
        let expected = expected(state, terminal, &question).await?;
        self.asked.set(None);
        if digest == expected {
            counter!(AUDITS, "result" => "right").increment(1);
            return Ok(());
        }
        counter!(AUDITS, "result" => "false").increment(1);
        tracing::warn!(%terminal, swarm = %question.swarm_id, chunk = question.chunk, "an audit was answered falsely");
        let evidence = AuditEvidence { question, expected, answer };
        let own = state.clone();
        let found = async move {
            if own.store.quarantine_found(terminal, &evidence, clock::now()).await?.is_some() {
                quarantines::shut_out(&own, terminal).await;
            }
            Ok::<_, ApiError>(())
        };
        state.to_the_end(found).await
    }
}

fn drawn() -> Result<Blake3, getrandom::Error> {
    let mut key = [0; 32];
    getrandom::fill(&mut key)?;
    Ok(Blake3(key))
}

/// A chunk of a swarm that the terminal is in and that it has signed for, if there is one. Which one follows from the key.
async fn question(state: &AppState, links: &Links, terminal: TerminalId, key: Blake3) -> Result<Option<AuditQuestion>, ApiError> {
    let swarms = links.swarms();
    let [_, _, c, d, e, f, g, h, ..] = key.0;
    let picked = |choice: u64, count: usize| usize::try_from(choice % u64::try_from(count).unwrap_or(1).max(1)).unwrap_or(0);
    let Some(&swarm_id) = swarms.get(picked(u64::from(u16::from_le_bytes([c, d])), swarms.len())) else { return Ok(None) };
    let chunks = state.store.signed_chunks(terminal, swarm_id).await?;
    let choice = u64::from(u32::from_le_bytes([e, f, g, h]));
    Ok(chunks.get(picked(choice, chunks.len())).map(|&chunk| AuditQuestion { swarm_id, chunk, key }))
}

/// What an honest terminal answers, from the origin's copy.
async fn expected(state: &AppState, terminal: TerminalId, question: &AuditQuestion) -> Result<Blake3, ApiError> {
    let member = swarm::member(state, question.swarm_id, terminal).await?;
    let entry = usize::try_from(question.chunk).ok().and_then(|index| member.swarm.manifest.chunks.get(index)).copied();
    let entry = entry.ok_or_else(|| ApiError::new(ErrorCode::NotFound))?;
    let bytes = sealing::as_it_travels(&state.chunks, entry, member.swarm.sealing.clone(), question.chunk).await?;
    Ok(question.digest(&bytes))
}
