//! What a run of the kit received and relayed, for its history.

use std::collections::BTreeMap;

use protocol::{Amount, Bytes, EditionId, ReleaseId, SwarmId};
use terminal::engine::{EngineEvent, Summary};
use time::OffsetDateTime;

use super::Kit;
use crate::failure::Outcome;
use crate::folder::Moved;

/// The lines of this run's swarms.
#[derive(Debug)]
pub(crate) struct Diary {
    kit: Kit,
    /// What earlier runs have relayed: an engine counts from nothing.
    relayed_before: BTreeMap<SwarmId, Bytes>,
    lines: BTreeMap<SwarmId, Moved>,
}

impl Diary {
    pub(crate) fn new(kit: Kit) -> Outcome<Self> {
        let relayed_before = kit.folder.history()?.into_iter().map(|line| (line.swarm_id, line.relayed)).collect();
        Ok(Self { kit, relayed_before, lines: BTreeMap::new() })
    }

    /// Notes what an event says. Answers whether money has moved.
    pub(crate) fn note(&mut self, event: &EngineEvent, now: OffsetDateTime) -> bool {
        match event {
            EngineEvent::Plan { swarm_id, release_id, edition_id, .. } | EngineEvent::Serving { swarm_id, release_id, edition_id } => {
                self.begin(*swarm_id, *release_id, *edition_id, now);
                false
            }
            EngineEvent::Progress { swarm_id, progress, .. } => {
                self.moved(*swarm_id, progress.verified, progress.relayed, now);
                false
            }
            EngineEvent::Settled { swarm_id, charged, earned, .. } => self.paid(*swarm_id, Some(*charged), *earned, now),
            EngineEvent::Earned { swarm_id, earned } => self.paid(*swarm_id, None, *earned, now),
            EngineEvent::Connected { .. }
            | EngineEvent::Disconnected { .. }
            | EngineEvent::Opened { .. }
            | EngineEvent::DiskFull { .. }
            | EngineEvent::DiskRoom { .. }
            | EngineEvent::Evicted { .. }
            | EngineEvent::QuotaFull { .. }
            | EngineEvent::QuotaRoom { .. }
            | EngineEvent::Replaced { .. }
            | EngineEvent::Completed { .. }
            | EngineEvent::Sealed { .. }
            | EngineEvent::KeyCame { .. }
            | EngineEvent::Failed { .. }
            | EngineEvent::Left { .. }
            | EngineEvent::Warning { .. } => false,
        }
    }

    /// A swarm's name has come.
    pub(crate) fn named(&mut self, swarm: SwarmId, name: &str) {
        if let Some(line) = self.lines.get_mut(&swarm) {
            line.name = Some(name.to_owned());
        }
    }

    /// The end of the run, which repeats what no event may have told.
    pub(crate) fn sum_up(&mut self, summary: &Summary, now: OffsetDateTime) {
        for swarm in &summary.swarms {
            self.begin(swarm.swarm_id, swarm.release_id, swarm.edition_id, now);
            self.moved(swarm.swarm_id, swarm.progress.verified, swarm.progress.relayed, now);
            self.paid(swarm.swarm_id, swarm.charged, swarm.earned, now);
        }
    }

    /// Writes the lines of swarms in which anything has moved.
    pub(crate) async fn write(&self) -> Outcome<()> {
        let moved: Vec<Moved> = self.lines.values().filter(|line| has_moved(line)).cloned().collect();
        if moved.is_empty() {
            return Ok(());
        }
        self.kit.folder.note_moved(&moved, &self.kit.folder.lock().await?)
    }

    fn begin(&mut self, swarm_id: SwarmId, release_id: ReleaseId, edition_id: EditionId, now: OffsetDateTime) {
        let relayed = self.relayed_before.get(&swarm_id).copied().unwrap_or(Bytes(0));
        self.lines.entry(swarm_id).or_insert(Moved {
            swarm_id,
            release_id,
            edition_id,
            name: None,
            received: Bytes(0),
            relayed,
            charged: None,
            earned: Amount(0),
            at: now,
        });
    }

    fn moved(&mut self, swarm: SwarmId, received: Bytes, relayed: Bytes, now: OffsetDateTime) {
        let before = self.relayed_before.get(&swarm).copied().unwrap_or(Bytes(0));
        if let Some(line) = self.lines.get_mut(&swarm) {
            let known = (line.received, line.relayed);
            line.received = line.received.max(received);
            line.relayed = line.relayed.max(Bytes(before.0.saturating_add(relayed.0)));
            if (line.received, line.relayed) != known {
                line.at = now;
            }
        }
    }

    fn paid(&mut self, swarm: SwarmId, charged: Option<Amount>, earned: Amount, now: OffsetDateTime) -> bool {
        let Some(line) = self.lines.get_mut(&swarm) else { return true };
        let known = (line.charged, line.earned);
        line.charged = charged.or(line.charged);
        line.earned = line.earned.max(earned);
        let is_news = (line.charged, line.earned) != known;
        if is_news {
            line.at = now;
        }
        is_news
    }
}

/// A swarm that only lay here, served to nobody, is no line.
fn has_moved(line: &Moved) -> bool {
    line.charged.is_some() || line.earned.0 > 0 || line.relayed.0 > 0 || line.received.0 > 0
}
