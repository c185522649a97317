//! Whom a run tells what happens: the screen, once it knows the names, and the kit if it runs from one.

use std::sync::Arc;

use protocol::ErrorCode;
use terminal::api::Api;
use terminal::engine::{EngineEvent, Summary};

use super::carried::Carried;
use super::names::Names;
use crate::failure::{Failure, Outcome};
use crate::kit::Kit;
use crate::screen::{Named, RunScreen};

pub(super) struct Telling {
    pub names: Names,
    pub screen: RunScreen,
    pub carried: Carried,
}

impl Telling {
    pub(super) fn start(screen: RunScreen, api: &Api, kit: Option<&Kit>) -> Outcome<Self> {
        Ok(Self { names: Names::new(Arc::new(api.clone())), screen, carried: Carried::start(kit, api)? })
    }

    /// A plan for a swarm that is new waits for its name; everything else is shown at once.
    pub(super) async fn event(&mut self, event: EngineEvent) -> Outcome<()> {
        if let Err(failure) = self.carried.note(&event).await {
            self.warn(format!("the history of the kit cannot be written: {failure}"))?;
        }
        if let EngineEvent::Plan { swarm_id, release_id, edition_id, .. } | EngineEvent::Serving { swarm_id, release_id, edition_id } =
            &event
        {
            self.names.ask(*swarm_id, *release_id, *edition_id);
        }
        self.screen.show(&event)
    }

    pub(super) fn named(&mut self, named: Named) -> Outcome<()> {
        self.carried.named(&named);
        self.screen.named(named)
    }

    /// The kit's balance does not follow. Answers what ends the run: a kit that is refused is no terminal any more.
    pub(super) fn behind(&mut self, failure: Failure) -> Outcome<Option<Failure>> {
        self.warn(format!("the balance in the kit does not follow: {failure}"))?;
        Ok(Some(failure).filter(|failure| failure.code() == Some(ErrorCode::KitForked)))
    }

    pub(super) async fn finish(mut self, summary: &Summary) -> Outcome<()> {
        self.screen.finish(summary)?;
        self.carried.finish(summary).await
    }

    fn warn(&mut self, text: String) -> Outcome<()> {
        self.screen.show(&EngineEvent::Warning { text })
    }
}
