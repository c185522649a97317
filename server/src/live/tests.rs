//! Against a real Redis, named by `REDIS_URL`. Each test has a namespace of its own and removes it, so that all can run at once.

mod group;
mod rebuild;
mod streams;
mod usage;

use super::*;

pub(super) fn redis_url() -> String {
    std::env::var("REDIS_URL").expect("REDIS_URL names the Redis that the tests use; `cargo xtask test` starts one and sets it")
}

impl Live {
    /// What a `FLUSHALL` or a restart does, to this namespace only.
    pub(crate) async fn lose_everything(&self) {
        let keys = self.keys().await;
        if !keys.is_empty() {
            let mut delete = redis::cmd("DEL");
            delete.arg(keys);
            self.command::<u64>(delete).await.unwrap();
        }
    }

    async fn keys(&self) -> Vec<String> {
        let (mut cursor, mut all) = (0u64, Vec::new());
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{}:*", self.inner.namespace)).arg("COUNT").arg(1000);
            let (next, keys): (u64, Vec<String>) = self.command(scan).await.unwrap();
            all.extend(keys);
            if next == 0 {
                return all;
            }
            cursor = next;
        }
    }
}

/// A [`Live`] in a namespace that nobody else uses; what is in it goes when the test ends well.
pub(super) struct Fixture {
    pub(super) live: Live,
    pub(super) namespace: String,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let namespace = format!("test-{}", Uuid::new_v4());
        let live = Live::connect(&redis_url(), &namespace).await.unwrap();
        Self { live, namespace }
    }

    pub(super) async fn lose_everything(&self) {
        self.live.lose_everything().await;
    }

    /// Keys of lease tables that would stay for ever if nobody dropped them.
    pub(super) async fn lasting_keys(&self) -> Vec<String> {
        let mut lasting = Vec::new();
        for key in self.live.keys().await.into_iter().filter(|key| key.contains(":group:") || key.contains(":swarm:")) {
            let mut rest = redis::cmd("PTTL");
            rest.arg(&key);
            if self.live.command::<i64>(rest).await.unwrap() == -1 {
                lasting.push(key);
            }
        }
        lasting
    }

    /// Makes a terminal connected, or not, without a WebSocket and without an end.
    pub(super) async fn set_present(&self, terminal: protocol::TerminalId, present: bool) {
        let key = self.live.key("presence", terminal);
        let mut command = redis::cmd(if present { "SET" } else { "DEL" });
        command.arg(key);
        if present {
            command.arg("test");
        }
        self.live.command::<redis::Value>(command).await.unwrap();
    }
}

pub(super) fn terminal(number: u8) -> protocol::TerminalId {
    protocol::TerminalId::from_bytes([number + 1; 16])
}

/// A moment so many milliseconds after a fixed one.
pub(super) fn at(ms: u64) -> OffsetDateTime {
    time::macros::datetime!(2026-11-21 10:00 UTC) + Duration::from_millis(ms)
}
