//! A release with winners, whose clock is moved by moving its times.

use protocol::rest::{Edition, NewApplication, Release, Role};
use protocol::ws::{ClientMessage, GrantKind, PushMessage};
use protocol::{Amount, Currency, Money, ReleaseId, SwarmId};
use reqwest::StatusCode;
use serde_json::json;
use time::Duration;
use time::format_description::well_known::Rfc3339;

use super::Machine;
use crate::app::swarm;
use crate::clock;
use crate::config::Config;
use crate::routes::tests::market::fund;
use crate::routes::tests::{Account, Service, answer};

/// Bytes of a chunk of the editions made here.
pub(crate) const CHUNK: usize = 64 << 10;

pub(crate) struct Stage {
    pub(crate) service: Service,
    pub(crate) publisher: Account,
    pub(crate) edition: Edition,
    pub(crate) bytes: Vec<u8>,
    pub(crate) release_id: ReleaseId,
    pub(crate) swarm_id: SwarmId,
    /// Those of rank 1 first.
    pub(crate) machines: Vec<Machine>,
}

/// What is to be put on.
pub(crate) struct Script<'a> {
    /// How many terminals win in each rank.
    pub(crate) ranks: &'a [usize],
    pub(crate) chunks: usize,
    /// Beyond the edition's size; the hundredth that there must be at least is too little for one chunk more.
    pub(crate) spare_budget: usize,
    pub(crate) sealed: bool,
    pub(crate) change: fn(&mut Config),
}

impl Default for Script<'_> {
    fn default() -> Self {
        Self { ranks: &[3], chunks: 8, spare_budget: 4 * CHUNK, sealed: false, change: |_| {} }
    }
}

impl Stage {
    /// Everything up to the closing, which is not done yet.
    pub(crate) async fn set(script: Script<'_>) -> Self {
        Self::set_on(Service::start_with(script.change).await, script).await
    }

    pub(crate) async fn set_on(mut service: Service, script: Script<'_>) -> Self {
        // Time passes here by moving the release's times into the past, when this instance was there as well.
        service.state.started_at -= Duration::days(1);
        let operator = service.account("olga", Role::Operator).await;
        let publisher = service.account("paul", Role::Publisher).await;
        let content = service.content(&publisher).await;
        let bytes: Vec<u8> = (0..script.chunks * CHUNK).map(|index| u8::try_from((index / 65_521 + index) % 251).unwrap()).collect();
        let edition = edition(&service, &publisher, content.id, bytes.clone()).await;
        assert_eq!(edition.chunks as usize, script.chunks);
        let at = |minutes: i64| (clock::now() + Duration::minutes(minutes)).format(&Rfc3339).unwrap();
        let ranks: Vec<_> = (0..)
            .zip(script.ranks)
            .map(|(rank, &places)| json!({"weight": 100 - 40 * rank, "delay_s": 60 * rank, "capacity": places.max(1)}))
            .collect();
        let body = json!({
            "content_id": content.id, "title": "Premiere", "sealed": script.sealed, "editions": [edition.id], "ranks": ranks,
            "reserve": {"amount": 1_000, "currency": "EUR"}, "opens_at": at(-1), "closes_at": at(10), "starts_at": at(20),
            "origin_budget": bytes.len() + script.spare_budget.max(bytes.len().div_ceil(100)), "relay_share": 5_000, "fee": 1_000, "limit_s": 600
        });
        let request = service.post(&publisher, "/v1/releases", &body).header("Idempotency-Key", "release");
        let release: Release = answer(request, StatusCode::CREATED).await;
        service.state.store.open_release(release.id, clock::now()).await.unwrap();
        let swarm_id = release.editions[0].swarm_id;
        let mut stage = Self { service, publisher, edition, bytes, release_id: release.id, swarm_id, machines: Vec::new() };
        for (rank, &places) in (1..).zip(script.ranks) {
            for _ in 0..places {
                stage.add_winner(&operator, rank).await;
            }
        }
        stage
    }

    /// Set, closed and started.
    pub(crate) async fn started(script: Script<'_>) -> Self {
        let stage = Self::set(script).await;
        stage.close().await;
        stage.start().await;
        stage
    }

    async fn add_winner(&mut self, operator: &Account, rank: u32) {
        let seed = u8::try_from(self.machines.len() + 1).unwrap();
        let account = self.service.account(&format!("user{seed}"), Role::User).await;
        fund(&self.service, operator, &account, 10_000).await;
        let machine = Machine::new(&self.service, account, seed).await;
        let maximum = Money { amount: Amount(10_000 - 1_000 * u64::from(rank)), currency: Currency::EUR };
        let bid = NewApplication { terminal_id: machine.id(), edition_id: self.edition.id, rank, maximum };
        let path = format!("/v1/releases/{}/applications", self.release_id);
        let request = self.service.post(&machine.account, &path, &serde_json::to_value(bid).unwrap()).header("Idempotency-Key", "apply");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        self.machines.push(machine);
    }

    /// Lets time pass for this release.
    pub(crate) async fn pass(&self, by: Duration) {
        self.service.state.store.pass_time(by).await;
        self.service.state.swarms.forget(self.swarm_id);
    }

    pub(crate) async fn close(&self) {
        self.pass(Duration::minutes(10)).await;
        self.service.state.store.close_release(self.release_id, clock::now()).await.unwrap();
        swarm::on_closed(&self.service.state, self.release_id).await.unwrap();
    }

    /// The tables of the groups know when they open, so the plan is made again as of the new times.
    pub(crate) async fn start(&self) {
        self.pass(Duration::minutes(10)).await;
        let swarm = self.service.state.swarms.reload(self.swarm_id).await.unwrap();
        for group in swarm.tree.groups() {
            let members: Vec<_> = group.members.iter().map(|member| member.terminal_id).collect();
            self.service.state.live.drop_group(group.id, &members, clock::now()).await.unwrap();
            self.service.state.live.create_group(&swarm.group_spec(group.id).unwrap(), clock::now()).await.unwrap();
        }
        swarm::on_wave(&self.service.state, self.release_id, 0).await.unwrap();
    }

    /// Connects these machines and waits for their plans.
    pub(crate) async fn connect(&mut self, which: std::ops::Range<usize>) {
        for index in which {
            let machine = &mut self.machines[index];
            assert!(!machine.connect(&self.service, None).await);
            machine.plan(self.swarm_id, 1).await;
        }
    }

    pub(crate) fn chunk_bytes(&self, chunk: u32) -> &[u8] {
        let begin = chunk as usize * CHUNK;
        &self.bytes[begin..begin + CHUNK]
    }

    /// Asks for chunks and waits for the grant.
    pub(crate) async fn ask(&mut self, machine: usize, open: u32) -> Vec<u32> {
        let swarm_id = self.swarm_id;
        self.machines[machine].send(&ClientMessage::Credits { swarm_id, open }).await;
        self.granted(machine).await.1
    }

    /// Breaks a machine's connection without a word, and waits until the server has noticed.
    pub(crate) async fn lose(&mut self, machine: usize) {
        self.machines[machine].vanish();
        let terminal = self.machines[machine].id();
        let noticed = async {
            while !self.service.state.live.connected(&[terminal]).await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(super::machine::PATIENCE, noticed).await.expect("the server did not notice");
    }

    /// Waits for a grant.
    pub(crate) async fn granted(&mut self, machine: usize) -> (GrantKind, Vec<u32>) {
        self.machines[machine]
            .push(|message| match message {
                PushMessage::Grant { kind, chunks, .. } => Some((kind, chunks)),
                _ => None,
            })
            .await
    }

    /// Fetches a chunk that a machine was granted; it must be the edition's.
    pub(crate) async fn fetch(&self, machine: usize, chunk: u32) {
        let response = self.machines[machine].fetch(&self.service, self.swarm_id, chunk).await;
        assert_eq!(response.status(), StatusCode::OK, "chunk {chunk}");
        assert!(response.bytes().await.unwrap() == self.chunk_bytes(chunk), "chunk {chunk} has other bytes");
    }

    /// One machine's delivery.
    pub(crate) fn delivery(&self, machine: usize) -> protocol::DeliveryId {
        self.machines[machine].plans[&self.swarm_id].delivery_id
    }

    pub(crate) async fn release(&self) -> Release {
        self.service.state.store.release(self.release_id).await.unwrap()
    }
}

/// An edition of one file in chunks of 64 KiB.
async fn edition(service: &Service, publisher: &Account, content_id: protocol::ContentId, bytes: Vec<u8>) -> Edition {
    let announcement = json!({"label": "en", "chunking": "fixed", "files": [{"path": "film.bin", "length": bytes.len()}]});
    let path = format!("/v1/contents/{content_id}/uploads");
    let upload: protocol::rest::Upload = answer(service.post(publisher, &path, &announcement), StatusCode::CREATED).await;
    let put = service.request(reqwest::Method::PUT, &format!("/v1/uploads/{}", upload.id)).bearer_auth(&publisher.tokens.access_token);
    answer(put.body(bytes), StatusCode::CREATED).await
}
