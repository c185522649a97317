//! What a kit takes along of a run: its balance follows, its history is written. Without a kit, nothing.

use terminal::api::Api;
use terminal::engine::{EngineEvent, Summary};
use time::OffsetDateTime;

use crate::failure::{Failure, Outcome};
use crate::kit::{Diary, Follower, Kit};
use crate::screen::Named;

pub(super) struct Carried(Option<Parts>);

struct Parts {
    diary: Diary,
    follower: Follower,
}

impl Carried {
    pub(super) fn start(kit: Option<&Kit>, api: &Api) -> Outcome<Self> {
        let start = |kit: &Kit| Ok(Parts { diary: Diary::new(kit.clone())?, follower: Follower::start(kit.clone(), api.clone()) });
        kit.map(start).transpose().map(Self)
    }

    pub(super) async fn note(&mut self, event: &EngineEvent) -> Outcome<()> {
        let Some(parts) = &mut self.0 else { return Ok(()) };
        if parts.diary.note(event, OffsetDateTime::now_utc()) {
            parts.follower.ask();
        }
        if let EngineEvent::Settled { .. } | EngineEvent::Completed { .. } | EngineEvent::Left { .. } = event {
            parts.diary.write().await?;
        }
        Ok(())
    }

    pub(super) fn named(&mut self, named: &Named) {
        if let Some(parts) = &mut self.0 {
            parts.diary.named(named.swarm, &named.name);
        }
    }

    /// What keeps the balance from following. Never returns while nothing does.
    pub(super) async fn failure(&mut self) -> Failure {
        match &mut self.0 {
            Some(parts) => parts.follower.failure().await,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn finish(self, summary: &Summary) -> Outcome<()> {
        let Some(mut parts) = self.0 else { return Ok(()) };
        parts.diary.sum_up(summary, OffsetDateTime::now_utc());
        parts.diary.write().await
    }
}
