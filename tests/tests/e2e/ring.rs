//! Three honest terminals and one that the test speaks for, in one release.

use std::time::Duration;

use protocol::ws::SwarmPlan;
use tests::hostile::Hostile;
use tests::person::Answer;
use tests::program::Cli;
use tests::{Person, Plan, Published, Running, Stack, payload};

use crate::scene::SLOW;

/// Three honest terminals and a hostile one in one group.
pub(crate) struct Ring {
    pub(crate) stack: Stack,
    pub(crate) publisher: Person,
    villain: Person,
    pub(crate) published: Published,
    pub(crate) release: protocol::rest::Release,
    pub(crate) honest: Vec<(Cli, Running)>,
    pub(crate) hostile: Hostile,
    pub(crate) plan: SwarmPlan,
    pub(crate) bytes: Vec<u8>,
}

impl Ring {
    /// Everybody in rank 1, with this many seconds from the start to the deadline.
    pub(crate) async fn start(length: usize, limit_s: u32) -> Self {
        let plan = Plan { limit_s, starts_in_ms: 9_000, ..Plan::default() };
        Self::with(length, &plan, [1, 1, 1, 1]).await
    }

    /// The third honest terminal is in a second rank, three seconds later.
    pub(crate) async fn start_with_later_rank(length: usize) -> Self {
        let plan = Plan { limit_s: 20, starts_in_ms: 9_000, ranks: vec![(100, 0, 3), (60, 3, 1)], ..Plan::default() };
        Self::with(length, &plan, [1, 1, 2, 1]).await
    }

    /// The hostile terminal is alone in a second rank, a second later: it is there when that one opens.
    pub(crate) async fn start_with_hostile_below(length: usize) -> Self {
        let plan = Plan { limit_s: 40, starts_in_ms: 9_000, ranks: vec![(100, 0, 3), (60, 1, 1)], ..Plan::default() };
        Self::with(length, &plan, [1, 1, 1, 2]).await
    }

    /// With the ranks of the honest terminals, and that of the hostile one.
    async fn with(length: usize, plan: &Plan, ranks: [u32; 4]) -> Self {
        let stack = Stack::start().await;
        let operator = stack.operator().await;
        let publisher = stack.publisher(&operator).await;
        let bytes = payload("ring", length);
        let published = publisher.publish("edition.bin", bytes.clone()).await;
        let mut honest = Vec::new();
        for index in 0..3 {
            honest.push(stack.cli(&operator, &format!("honest-{index}"), 10_000).await);
        }
        let villain = stack.rich_user(&operator, 10_000).await;
        let (terminal_id, key) = villain.terminal("villain").await;
        let release = publisher.schedule(&[&published], plan).await;
        for (cli, rank) in honest.iter().zip(ranks) {
            cli.person.applied(&release, cli.terminal_id, rank, 2_000).await;
        }
        villain.applied(&release, terminal_id, ranks[3], 2_000).await;
        let id = release.id.to_string();
        let honest = honest.into_iter().map(|cli| {
            let running = cli.run(&[&["--release", &id], &SLOW[..]].concat());
            (cli, running)
        });
        let honest = honest.collect();
        let mut hostile = Hostile::connect(&villain, terminal_id, key).await;
        let plan = hostile.plan().await;
        Self { stack, publisher, villain, published, release, honest, hostile, plan, bytes }
    }

    pub(crate) async fn wait_for_the_start(&self) {
        let opens_in = self.release.starts_at - time::OffsetDateTime::now_utc();
        tokio::time::sleep(opens_in.try_into().unwrap_or(Duration::ZERO)).await;
    }

    fn chunk_request(&self, chunk: u32) -> reqwest::RequestBuilder {
        let url = format!("{}/v1/swarms/{}/chunks/{chunk}", self.stack.url, self.plan.swarm_id);
        self.villain.http.get(url).header("Spillway-Terminal", self.hostile.terminal_id.to_string())
    }

    /// Asks the origin for a chunk as the hostile terminal.
    pub(crate) async fn ask_for(&self, chunk: u32) -> Answer {
        self.villain.send(self.chunk_request(chunk)).await
    }

    /// Fetches a chunk that the hostile terminal was granted.
    pub(crate) async fn fetch(&self, chunk: u32) -> Vec<u8> {
        let answer = self.chunk_request(chunk).bearer_auth(&self.villain.token).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.bytes().await.expect("a body").to_vec()
    }

    pub(crate) async fn honest_complete(&self) {
        for (cli, running) in &self.honest {
            assert_eq!(running.completed().await, self.published.edition.blake3.to_string());
            let event = running.last("completed").unwrap();
            let stored = std::fs::read(event["path"].as_str().expect("a path")).expect("the received file");
            assert!(stored == self.bytes, "{:?} holds other bytes than were published", cli.config);
        }
    }

    pub(crate) async fn hostile_earned_nothing(&self) {
        for delivery in self.publisher.deliveries(self.release.id).await {
            assert!(delivery.sources.iter().all(|share| share.source != self.hostile.terminal_id), "{delivery:?}");
        }
    }
}
