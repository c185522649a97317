//! A release with N running terminals, as most tests here begin.

use protocol::rest::{Chunking, Release, ReleaseState};
use tests::program::Cli;
use tests::{Person, Plan, Published, Running, Stack, payload};

use std::time::Duration;

pub(crate) struct Scene {
    pub(crate) stack: Stack,
    pub(crate) operator: Person,
    pub(crate) publisher: Person,
    pub(crate) published: Published,
    pub(crate) release: Release,
    pub(crate) terminals: Vec<Cli>,
    pub(crate) running: Vec<Running>,
    pub(crate) bytes: Vec<u8>,
}

/// What each terminal runs with: an uplink that makes a few MiB last some seconds.
pub(crate) const SLOW: [&str; 4] = ["--up-mbit", "12", "--down-mbit", "200"];

impl Scene {
    /// `count` terminals have applied for one edition of `length` bytes and run.
    pub(crate) async fn start(count: usize, length: usize, plan: &Plan) -> Self {
        let mut scene = Self::set(count, length, plan).await;
        for index in 0..count {
            let running = scene.run(index);
            scene.running.push(running);
        }
        scene
    }

    /// The same with an uplink of its own for each terminal, in Mbit/s, and chunks of 64 KiB: how long a terminal takes for one is known.
    pub(crate) async fn start_over(uplinks: &[&str], length: usize, plan: &Plan) -> Self {
        let mut scene = Self::set_with(&[], Chunking::Fixed, uplinks.len(), length, plan).await;
        let release = scene.release.id.to_string();
        for (terminal, up) in scene.terminals.iter().zip(uplinks) {
            scene.running.push(terminal.run(&["--release", &release, "--up-mbit", up, "--down-mbit", "200"]));
        }
        scene
    }

    /// They have applied and do not run yet.
    async fn set(count: usize, length: usize, plan: &Plan) -> Self {
        Self::set_on(&[], count, length, plan).await
    }

    /// The same with these arguments for the server.
    pub(crate) async fn set_on(server: &[&str], count: usize, length: usize, plan: &Plan) -> Self {
        Self::set_with(server, Chunking::ContentDefined, count, length, plan).await
    }

    async fn set_with(server: &[&str], chunking: Chunking, count: usize, length: usize, plan: &Plan) -> Self {
        let stack = Stack::start_with(server).await;
        let operator = stack.operator().await;
        let publisher = stack.publisher(&operator).await;
        let bytes = payload("scene", length);
        let published = publisher.publish_cut_by(chunking, "edition.bin", bytes.clone()).await;
        let mut terminals = Vec::new();
        for index in 0..count {
            terminals.push(stack.cli(&operator, &format!("terminal-{index}"), 10_000).await);
        }
        let release = publisher.schedule(&[&published], plan).await;
        let scene = Self { stack, operator, publisher, published, release, terminals, running: vec![], bytes };
        scene.apply_from(0, u32::try_from(plan.ranks.len()).unwrap()).await;
        scene
    }

    /// Terminals that have applied for rank 1 and do not run yet.
    pub(crate) async fn add_terminals(&mut self, count: usize) {
        let first = self.terminals.len();
        for index in first..first + count {
            self.terminals.push(self.stack.cli(&self.operator, &format!("terminal-{index}"), 10_000).await);
        }
        self.apply_from(first, 1).await;
    }

    async fn apply_from(&self, first: usize, ranks: u32) {
        for (index, terminal) in self.terminals.iter().enumerate().skip(first) {
            let rank = u32::try_from(index).unwrap() % ranks + 1;
            terminal.person.applied(&self.release, terminal.terminal_id, rank, 2_000 + 100 * u64::try_from(index).unwrap()).await;
        }
    }

    /// Starts those that do not run yet.
    pub(crate) fn run_all(&mut self) {
        self.run_all_with(&SLOW);
    }

    pub(crate) fn run_all_with(&mut self, arguments: &[&str]) {
        for index in self.running.len()..self.terminals.len() {
            let running = self.run_with(index, arguments);
            self.running.push(running);
        }
    }

    pub(crate) fn run(&self, index: usize) -> Running {
        self.run_with(index, &SLOW)
    }

    fn run_with(&self, index: usize, arguments: &[&str]) -> Running {
        let release = self.release.id.to_string();
        self.terminals[index].run(&[&["--release", &release], arguments].concat())
    }

    /// Waits for these terminals to complete, and compares what lies on their disks.
    pub(crate) async fn all_complete(&self, which: &[usize]) {
        for &index in which {
            let hash = self.running[index].completed().await;
            assert_eq!(hash, self.published.edition.blake3.to_string());
            let event = self.running[index].last("completed").unwrap();
            let stored = std::fs::read(event["path"].as_str().expect("a path")).expect("the received file");
            assert!(stored == self.bytes, "terminal {index} holds other bytes than were published");
        }
    }

    pub(crate) async fn settled(&self, within: Duration) -> Release {
        tests::eventually("the release is settled", within, || async {
            let release = self.publisher.release(self.release.id).await;
            (release.state == ReleaseState::Settled).then_some(release)
        })
        .await
    }

    /// The ledger's sum is zero and nothing is held; the origin kept its budget.
    pub(crate) async fn books_balance(&self) {
        let totals: protocol::rest::LedgerTotals = self.operator.get("/v1/ledger/totals").await.expect();
        assert_eq!((totals.sum.amount, totals.held.amount), (0, 0));
        let release = self.publisher.release(self.release.id).await;
        assert!(release.origin.sent <= release.origin.budget, "{:?}", release.origin);
        assert!(release.origin.reserved <= release.origin.budget, "{:?}", release.origin);
    }
}
