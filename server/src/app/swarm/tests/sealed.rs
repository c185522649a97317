//! Sealed releases: what travels before the start, and who is given the key when.

use protocol::error::Problem;
use protocol::rest::{DeliveryState, ReleaseState, Role};
use protocol::sealing::envelope::open_key;
use protocol::sealing::manifest::SealedManifest;
use protocol::sealing::{ContentKey, Sealing};
use protocol::ws::{ClientMessage, ServerMessage};
use protocol::{Amount, Blake3, ErrorCode, TerminalId};
use reqwest::StatusCode;
use serde_json::json;
use time::Duration;

use super::Stage;
use super::stage::Script;
use crate::app::{sealing, swarm};
use crate::clock;
use crate::routes::tests::answer;
use crate::store::contents::Viewer;

/// Two ranks with one place each, a minute apart; sealed, closed, and begun. The start is ten minutes ahead.
async fn begun() -> Stage {
    let stage = Stage::set(Script { ranks: &[1, 1], sealed: true, ..Script::default() }).await;
    sealing::seal(&stage.service.state, stage.release_id).await.unwrap();
    stage.close().await;
    swarm::on_wave(&stage.service.state, stage.release_id, 0).await.unwrap();
    stage
}

impl Stage {
    async fn sealed_manifest(&self) -> SealedManifest {
        let path = format!("/v1/swarms/{}/sealed-manifest", self.swarm_id);
        let response = self.service.get(&self.machines[1].account, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        SealedManifest::decode(&response.bytes().await.unwrap()).unwrap()
    }

    /// What the server answers to a machine that asks for the key.
    async fn want_key(&mut self, machine: usize) -> Vec<ServerMessage> {
        let swarm_id = self.swarm_id;
        self.machines[machine].send(&ClientMessage::WantKey { swarm_id }).await;
        self.machines[machine].settle_down().await
    }

    async fn key(&mut self, machine: usize) -> ContentKey {
        use base64::Engine;
        let swarm_id = self.swarm_id;
        self.machines[machine].send(&ClientMessage::WantKey { swarm_id }).await;
        let given = |message| if let ServerMessage::Key { envelope, .. } = message { Some(envelope) } else { None };
        let envelope = self.machines[machine].until(given).await;
        let envelope = base64::engine::general_purpose::STANDARD.decode(envelope).unwrap();
        for other in (0..self.machines.len()).filter(|other| *other != machine) {
            assert!(open_key(&envelope, &self.machines[other].key, swarm_id).is_err(), "it is sealed to one terminal");
        }
        open_key(&envelope, &self.machines[machine].key, swarm_id).unwrap()
    }

    /// Signs that the origin sent everything.
    async fn receive_all(&mut self, machine: usize) {
        let (delivery, chunks) = (self.delivery(machine), (0..self.edition.chunks).collect::<Vec<_>>());
        self.machines[machine].send_receipts(delivery, TerminalId::ORIGIN, &chunks).await;
        assert_eq!(self.machines[machine].settle_down().await, []);
    }

    async fn delivery_state(&self, machine: usize) -> (DeliveryState, Amount) {
        let deliveries = self.service.state.store.deliveries(self.release_id, Viewer::Operator, &Default::default()).await.unwrap().items;
        let delivery = deliveries.into_iter().find(|delivery| delivery.terminal_id == self.machines[machine].id()).unwrap();
        (delivery.state, delivery.charged.amount)
    }
}

fn is_key(answer: &ServerMessage) -> bool {
    matches!(answer, ServerMessage::Key { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_ciphertext_flows_to_all_ranks_from_the_closing_on_and_nothing_else_is_told() {
    let mut stage = begun().await;
    assert_eq!(stage.release().await.state, ReleaseState::Live, "it counts as live from the first sealed byte");
    stage.connect(0..2).await;
    let sealed = stage.sealed_manifest().await;
    let starts_at = stage.release().await.starts_at;
    for (machine, rank) in [(0, 1), (1, 2)] {
        let plan = &stage.machines[machine].plans[&stage.swarm_id];
        assert_eq!((plan.rank, plan.root, plan.members.len()), (rank, true, 1), "one group, whatever the rank");
        let told = plan.sealed.expect("what travels is named");
        assert_eq!(told.manifest, sealed.id());
        assert_eq!(told.key_at, clock::to_timestamp_ms(starts_at + Duration::minutes(i64::from(rank) - 1)));
        assert!(plan.opens_at < told.key_at);
    }
    assert_eq!((sealed.edition_id, sealed.chunks.len()), (stage.edition.id, 8));
    let granted = stage.ask(1, 2).await;
    for chunk in granted {
        let response = stage.machines[1].fetch(&stage.service, stage.swarm_id, chunk).await;
        assert_eq!(response.status(), StatusCode::OK);
        let bytes = response.bytes().await.unwrap();
        assert!(bytes != stage.chunk_bytes(chunk));
        assert_eq!(Blake3::of(&bytes), sealed.chunks[chunk as usize].hash);
    }
    let manifest = format!("/v1/editions/{}/manifest", stage.edition.id);
    let refused: Problem = answer(stage.service.get(&stage.machines[0].account, &manifest), StatusCode::CONFLICT).await;
    assert_eq!(refused.code, ErrorCode::EditionSealed);
    assert_eq!(stage.service.get(&stage.publisher, &manifest).send().await.unwrap().status(), StatusCode::OK, "its publisher knows it");
    stage.pass(Duration::minutes(10)).await;
    let refused: Problem = answer(stage.service.get(&stage.machines[0].account, &manifest), StatusCode::CONFLICT).await;
    assert_eq!(refused.code, ErrorCode::EditionSealed, "the last rank has not come");
    stage.pass(Duration::minutes(1)).await;
    assert_eq!(stage.service.get(&stage.machines[0].account, &manifest).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_a_sealed_edition_cannot_be_downloaded_before_its_release() {
    let stage = begun().await;
    let account = &stage.machines[0].account;
    let content = stage.release().await.content_id;
    let terms = json!({"price": {"amount": 1, "currency": "EUR"}, "relay_share": 0, "fee": 0, "limit_s": 60, "origin_budget": 1_000_000});
    let offer = stage.service.request(reqwest::Method::PUT, &format!("/v1/contents/{content}/on-demand"));
    let offered = offer.bearer_auth(&stage.publisher.tokens.access_token).header("If-None-Match", "*").json(&terms).send().await.unwrap();
    assert!(offered.status().is_success(), "{offered:?}");
    let ask = json!({"edition_id": stage.edition.id, "terminal_id": stage.machines[0].id(), "maximum": {"amount": 1, "currency": "EUR"}});
    let request = stage.service.post(account, &format!("/v1/contents/{content}/downloads"), &ask).header("Idempotency-Key", "early");
    let refused: Problem = answer(request, StatusCode::CONFLICT).await;
    assert_eq!(refused.code, ErrorCode::EditionSealed);
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_each_rank_is_given_the_key_at_its_second_and_again_whenever_it_asks() {
    let mut stage = begun().await;
    stage.connect(0..2).await;
    let sealed = stage.sealed_manifest().await;
    for machine in 0..2 {
        assert_eq!(stage.want_key(machine).await, [], "it is ten minutes early");
    }
    stage.pass(Duration::minutes(10) - Duration::seconds(2)).await;
    for machine in 0..2 {
        assert_eq!(stage.want_key(machine).await.iter().filter(|answer| is_key(answer)).count(), 0, "and still early");
    }
    stage.pass(Duration::seconds(2)).await;
    let key = stage.key(0).await;
    let own = Sealing::new(&key, stage.release_id, stage.edition.id);
    assert_eq!(sealed.check_key(&own), Ok(()));
    assert!(!stage.want_key(1).await.iter().any(is_key), "rank 2 waits for its own second");
    assert_eq!(stage.key(0).await.secret(), key.secret(), "who has lost it asks again");
    // Somebody else's swarm is nobody's business, whoever asks.
    let account = stage.service.account("stranger", Role::User).await;
    let mut stranger = super::Machine::new(&stage.service, account, 200).await;
    stranger.connect(&stage.service, None).await;
    let swarm_id = stage.swarm_id;
    stranger.send(&ClientMessage::WantKey { swarm_id }).await;
    assert_eq!(stranger.settle_down().await, [ServerMessage::NoKey { swarm_id, code: ErrorCode::NotInSwarm }]);
    stage.pass(Duration::minutes(1)).await;
    assert_eq!(stage.key(1).await.secret(), key.secret(), "one key for all ranks");
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_what_cannot_be_opened_yet_is_not_paid_and_is_paid_once_it_can() {
    let mut stage = begun().await;
    stage.connect(0..2).await;
    stage.receive_all(0).await;
    swarm::settling::settle_left_over(&stage.service.state).await.unwrap();
    assert_eq!(stage.delivery_state(0).await, (DeliveryState::Pending, Amount(0)));
    stage.pass(Duration::minutes(10)).await;
    swarm::settling::settle_left_over(&stage.service.state).await.unwrap();
    let (state, charged) = stage.delivery_state(0).await;
    assert_eq!(state, DeliveryState::Settled);
    assert!(charged.0 > 0);
    assert_eq!(stage.release().await.state, ReleaseState::Live, "the second rank has received nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_a_release_that_is_aborted_before_a_ranks_second_costs_that_rank_nothing_and_gives_it_no_key() {
    let mut stage = begun().await;
    stage.connect(0..2).await;
    stage.receive_all(0).await;
    stage.receive_all(1).await;
    stage.pass(Duration::minutes(10)).await;
    let path = format!("/v1/releases/{}/abort", stage.release_id);
    let aborted = stage.service.post(&stage.publisher, &path, &json!({})).header("Idempotency-Key", "abort").send().await.unwrap();
    assert_eq!(aborted.status(), StatusCode::OK);
    let (first, charged) = stage.delivery_state(0).await;
    assert_eq!((first, charged.0 > 0), (DeliveryState::Settled, true), "rank 1 could open it");
    assert_eq!(stage.delivery_state(1).await, (DeliveryState::Released, Amount(0)));
    stage.key(0).await;
    stage.pass(Duration::hours(1)).await;
    let swarm_id = stage.swarm_id;
    let answers = stage.want_key(1).await;
    assert_eq!(answers.last(), Some(&ServerMessage::NoKey { swarm_id, code: ErrorCode::ReleaseClosed }));
    assert!(!answers.iter().any(is_key));
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_sealing_again_changes_nothing_and_no_key_lies_in_the_database_as_it_is() {
    let mut stage = begun().await;
    let before = stage.sealed_manifest().await;
    let store = &stage.service.state.store;
    // An instance that has sealed and died before it wrote so seals again.
    store.forget_sealed_manifests().await;
    sealing::seal(&stage.service.state, stage.release_id).await.unwrap();
    assert_eq!(stage.sealed_manifest().await, before);
    let wrapped = store.sealed_key(stage.swarm_id).await.unwrap().unwrap();
    stage.pass(Duration::minutes(11)).await;
    stage.connect(0..1).await;
    let key = stage.key(0).await;
    assert!(!wrapped.windows(32).any(|window| window == key.secret()));
}
