//! Audits: who signs for a chunk can show that it has it, and who lies about it has signed the proof.

use protocol::audit::{AuditAnswer, AuditQuestion};
use protocol::rest::{Page, Quarantine, QuarantineReason};
use protocol::ws::{ClientMessage, ServerMessage};
use protocol::{Blake3, ErrorCode, TerminalId};
use reqwest::StatusCode;

use super::Stage;
use super::machine::{open, receive};
use super::stage::Script;
use crate::app::{sealing, swarm};
use crate::routes::tests::answer;

fn audited(config: &mut crate::config::Config) {
    config.audit_every = 1;
}

impl Stage {
    /// The next question to a machine.
    async fn question(&mut self, machine: usize) -> AuditQuestion {
        self.machines[machine].until(|message| if let ServerMessage::Audit { question } = message { Some(question) } else { None }).await
    }

    async fn answer(&mut self, machine: usize, question: AuditQuestion, digest: Option<Blake3>) {
        let machine = &mut self.machines[machine];
        let answer = question.answered(machine.id(), &machine.key, digest);
        machine.send(&ClientMessage::Audited { question, answer }).await;
    }

    /// The machine fetches some chunks and signs for them.
    async fn take(&mut self, machine: usize, count: u32) -> Vec<u32> {
        let chunks = self.ask(machine, count).await;
        for &chunk in &chunks {
            assert_eq!(self.machines[machine].fetch(&self.service, self.swarm_id, chunk).await.status(), StatusCode::OK);
        }
        let delivery = self.delivery(machine);
        self.machines[machine].send_receipts(delivery, TerminalId::ORIGIN, &chunks).await;
        chunks
    }

    async fn quarantines(&self, machine: usize) -> Vec<Quarantine> {
        let request = self.service.get(&self.machines[machine].account, "/v1/quarantines");
        answer::<Page<Quarantine>>(request, StatusCode::OK).await.items
    }
}

/// What the server refuses in what comes before a question.
fn refusals(seen: &[ServerMessage]) -> Vec<ErrorCode> {
    let code = |message: &ServerMessage| if let ServerMessage::Error { code, .. } = message { Some(*code) } else { None };
    seen.iter().filter_map(code).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_who_has_signed_for_chunks_is_asked_for_them_and_a_right_answer_or_a_lost_chunk_changes_nothing() {
    let mut stage = Stage::started(Script { change: audited, ..Script::default() }).await;
    stage.connect(0..2).await;
    let chunks = stage.take(0, 3).await;
    let first = stage.question(0).await;
    assert!(chunks.contains(&first.chunk) && first.swarm_id == stage.swarm_id, "{first:?} of {chunks:?}");
    let right = first.digest(stage.chunk_bytes(first.chunk));
    stage.answer(0, first, Some(right)).await;
    let second = stage.question(0).await;
    assert_ne!(first.key, second.key);
    stage.answer(0, second, None).await;
    stage.question(0).await;
    assert_eq!(refusals(&stage.machines[0].settle_down().await), []);
    assert!(stage.quarantines(0).await.is_empty());
    let seen = stage.machines[1].settle_down().await;
    let is_audit = |message: &ServerMessage| matches!(message, ServerMessage::Audit { .. });
    assert!(!seen.iter().any(is_audit), "who has signed for nothing is asked for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_a_false_answer_to_an_audit_shuts_the_terminal_out_with_a_proof_that_anybody_can_check() {
    let mut stage = Stage::started(Script { change: audited, ..Script::default() }).await;
    stage.connect(0..2).await;
    stage.take(0, 3).await;
    let question = stage.question(0).await;
    stage.answer(0, question, Some(Blake3([7; 32]))).await;
    let refused = |message| matches!(message, ServerMessage::Error { code: ErrorCode::TerminalQuarantined, .. }).then_some(());
    stage.machines[0].until(refused).await;
    assert_eq!(stage.machines[0].next().await, None, "the connection ends");
    let [quarantine] = stage.quarantines(0).await.try_into().unwrap();
    assert_eq!(quarantine.reason, QuarantineReason::FailedAudit);
    let evidence = quarantine.evidence.unwrap();
    assert!(evidence.question.is_answered_by(stage.machines[0].id(), &stage.machines[0].key.public(), &evidence.answer));
    assert_eq!(evidence.question, question);
    assert_eq!(evidence.expected, question.digest(stage.chunk_bytes(question.chunk)));
    assert_eq!(evidence.answer.digest, Some(Blake3([7; 32])));

    let bearer = format!("Bearer {}", stage.machines[0].account.tokens.access_token);
    let mut socket = open(&stage.service, &[("Authorization", &bearer)]).await.unwrap();
    let Some(ServerMessage::Challenge { nonce, .. }) = receive(&mut socket).await else { panic!("no challenge") };
    let hello = stage.machines[0].hello(&nonce);
    futures_util::SinkExt::send(&mut socket, tokio_tungstenite::tungstenite::Message::text(serde_json::to_string(&hello).unwrap()))
        .await
        .unwrap();
    let refused = receive(&mut socket).await;
    assert!(matches!(refused, Some(ServerMessage::Error { code: ErrorCode::TerminalQuarantined, .. })), "{refused:?}");
    // The others go on.
    stage.take(1, 1).await;
    assert_eq!(refusals(&stage.machines[1].settle_down().await), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_what_was_not_asked_or_is_not_signed_by_the_terminal_is_no_answer() {
    let mut stage = Stage::started(Script { change: audited, ..Script::default() }).await;
    stage.connect(0..2).await;
    stage.take(0, 3).await;
    let question = stage.question(0).await;
    let (id, stranger) = (stage.machines[0].id(), protocol::TerminalKey::from_secret(&[99; 32]));
    let forged = question.answered(id, &stranger, Some(Blake3([7; 32])));
    stage.machines[0].send(&ClientMessage::Audited { question, answer: forged }).await;
    let other = AuditQuestion { chunk: question.chunk ^ 1, ..question };
    stage.answer(0, other, Some(Blake3([7; 32]))).await;
    let right = question.digest(stage.chunk_bytes(question.chunk));
    let given: AuditAnswer = question.answered(id, &stage.machines[0].key, Some(right));
    for _ in 0..2 {
        stage.machines[0].send(&ClientMessage::Audited { question, answer: given }).await;
    }
    let seen = stage.machines[0].settle_down().await;
    assert_eq!(refusals(&seen), [ErrorCode::InvalidRequest; 3], "the forged one, the unasked one, and the second time");
    assert!(stage.quarantines(0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_of_a_sealed_chunk_the_ciphertext_is_asked_for() {
    let mut stage = Stage::set(Script { ranks: &[2], sealed: true, change: audited, ..Script::default() }).await;
    sealing::seal(&stage.service.state, stage.release_id).await.unwrap();
    stage.close().await;
    swarm::on_wave(&stage.service.state, stage.release_id, 0).await.unwrap();
    stage.connect(0..2).await;
    let chunk = stage.ask(0, 1).await[0];
    let sealed = stage.machines[0].fetch(&stage.service, stage.swarm_id, chunk).await.bytes().await.unwrap();
    let delivery = stage.delivery(0);
    stage.machines[0].send_receipts(delivery, TerminalId::ORIGIN, &[chunk]).await;
    let question = stage.question(0).await;
    assert_ne!(question.digest(&sealed), question.digest(stage.chunk_bytes(chunk)));
    stage.answer(0, question, Some(question.digest(&sealed))).await;
    stage.question(0).await;
    assert!(stage.quarantines(0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn x03_a_damaged_copy_at_the_origin_judges_nobody() {
    let mut stage = Stage::started(Script { change: audited, ..Script::default() }).await;
    stage.connect(0..2).await;
    stage.take(0, 3).await;
    let question = stage.question(0).await;
    let mut folders = vec![stage.service.state.config.data_dir.join("chunks")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { std::fs::write(path, b"damaged").unwrap() }
        }
    }
    let right = question.digest(stage.chunk_bytes(question.chunk));
    stage.answer(0, question, Some(right)).await;
    assert_eq!(refusals(&stage.machines[0].settle_down().await), [ErrorCode::Internal]);
    assert!(stage.quarantines(0).await.is_empty());
}
