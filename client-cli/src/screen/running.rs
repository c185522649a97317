//! What `run` shows: one JSON event per line, or lines and a bar per swarm.

mod event;
mod standing;

use std::collections::BTreeMap;

use indicatif::MultiProgress;
use protocol::ws::Progress;
use protocol::{Amount, BitsPerSecond, Bytes, Currency, Money, SwarmId, TimestampMs};
use terminal::engine::{EngineEvent, Protected, Summary, SwarmSummary};
use terminal::store::quota::Stays;
use time::OffsetDateTime;

use super::{happens, print_line};
use crate::failure::Outcome;
use crate::progress::transfer_bar;
use event::{event_json, summary_json};

pub(crate) use standing::Standing;
#[cfg(test)]
pub(crate) use standing::standing_for_tests;

/// The name of a swarm, once it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub swarm: SwarmId,
    pub name: String,
}

/// Everything that is on the screen.
#[derive(Debug)]
pub(crate) struct RunScreen {
    json: bool,
    currency: Currency,
    /// Where to, and as which terminal.
    connection: String,
    bars: MultiProgress,
    swarms: BTreeMap<SwarmId, Shown>,
    /// `None` before the first connection.
    is_connected: Option<bool>,
}

/// One swarm on the screen.
#[derive(Debug)]
struct Shown {
    /// Set when the server has told it; until then its lines wait.
    name: Option<String>,
    /// Lines that wait for the name.
    waiting: Vec<String>,
    /// Made at the first progress.
    bar: Option<indicatif::ProgressBar>,
}

impl RunScreen {
    /// `connection`: where to and as which terminal, in words.
    pub(crate) fn new(json: bool, currency: Currency, connection: String) -> Self {
        Self { json, currency, connection, bars: MultiProgress::new(), swarms: BTreeMap::new(), is_connected: None }
    }

    pub(crate) fn show(&mut self, event: &EngineEvent) -> Outcome<()> {
        let now = OffsetDateTime::now_utc();
        if self.json {
            return print_line(&event_json(event, now).to_string());
        }
        match event {
            EngineEvent::Connected { .. } => match self.is_connected.replace(true) {
                None => self.print(&format!("Connected to {}.", self.connection)),
                Some(false) => self.print("Connected again."),
                Some(true) => Ok(()),
            },
            EngineEvent::Disconnected { reason } => {
                self.is_connected = Some(false);
                self.print(&format!("The connection to the server is gone ({reason}); trying again."))
            }
            EngineEvent::Warning { text } => self.print(&format!("Warning: {text}")),
            EngineEvent::Progress { swarm_id, progress, total } => {
                self.progress(*swarm_id, progress, *total);
                Ok(())
            }
            EngineEvent::Plan { swarm_id, .. }
            | EngineEvent::Serving { swarm_id, .. }
            | EngineEvent::Opened { swarm_id, .. }
            | EngineEvent::DiskFull { swarm_id, .. }
            | EngineEvent::DiskRoom { swarm_id }
            | EngineEvent::Evicted { swarm_id, .. }
            | EngineEvent::QuotaFull { swarm_id, .. }
            | EngineEvent::QuotaRoom { swarm_id }
            | EngineEvent::Replaced { swarm_id, .. }
            | EngineEvent::Completed { swarm_id, .. }
            | EngineEvent::Sealed { swarm_id, .. }
            | EngineEvent::KeyCame { swarm_id }
            | EngineEvent::Settled { swarm_id, .. }
            | EngineEvent::Earned { swarm_id, .. }
            | EngineEvent::Failed { swarm_id, .. }
            | EngineEvent::Left { swarm_id, .. } => {
                let is_new = !self.swarms.contains_key(swarm_id);
                if let EngineEvent::Left { .. } | EngineEvent::Failed { .. } = event {
                    self.end_bar(*swarm_id);
                }
                match self.line(event, is_new, now) {
                    Some(line) => self.swarm_line(*swarm_id, line),
                    None => Ok(()),
                }
            }
        }
    }

    /// A name has come: what waited for it is shown.
    pub(crate) fn named(&mut self, named: Named) -> Outcome<()> {
        if self.json {
            return Ok(());
        }
        let shown = self.swarm(named.swarm);
        if let Some(bar) = &shown.bar {
            bar.set_prefix(named.name.clone());
        }
        shown.name = Some(named.name);
        for line in std::mem::take(&mut shown.waiting) {
            self.swarm_line(named.swarm, line)?;
        }
        Ok(())
    }

    /// How this terminal's applications stand, or what has changed of that. `is_first`: these are all.
    pub(crate) fn standings(&self, standings: &[Standing], is_first: bool) -> Outcome<()> {
        let now = OffsetDateTime::now_utc();
        if self.json {
            return standings.iter().try_for_each(|standing| print_line(&standing.json(now).to_string()));
        }
        if standings.is_empty() && is_first {
            return self.print("This terminal has applied for nothing yet: see `spillway list`.");
        }
        standings.iter().flat_map(|standing| standing.lines(now)).try_for_each(|line| self.print(&line))
    }

    /// The engine was told to stop.
    pub(crate) fn stopping(&self, from_outside: bool) -> Outcome<()> {
        if self.json || !from_outside { Ok(()) } else { self.print("Stopping; press Ctrl-C again to stop at once.") }
    }

    pub(crate) fn finish(&mut self, summary: &Summary) -> Outcome<()> {
        if self.json {
            return print_line(&summary_json(summary, OffsetDateTime::now_utc()).to_string());
        }
        for swarm in self.swarms.keys().copied().collect::<Vec<_>>() {
            self.end_bar(swarm);
            let release = summary.swarms.iter().find(|ended| ended.swarm_id == swarm).map(|ended| ended.release_id.to_string());
            let name = self.swarm(swarm).name.clone().or(release).unwrap_or_else(|| swarm.to_string());
            self.named(Named { swarm, name })?;
        }
        if summary.swarms.is_empty() && summary.opened == 0 {
            return self.print("Nothing was received.");
        }
        for swarm in &summary.swarms {
            let [received, money] = self.summary_lines(swarm);
            self.swarm_line(swarm.swarm_id, received)?;
            self.print(&money)?;
        }
        Ok(())
    }

    fn swarm(&mut self, swarm: SwarmId) -> &mut Shown {
        self.swarms.entry(swarm).or_insert_with(|| Shown { name: None, waiting: Vec::new(), bar: None })
    }

    /// Above the bars.
    fn print(&self, line: &str) -> Outcome<()> {
        self.bars.suspend(|| print_line(&super::clean(line)))
    }

    fn swarm_line(&mut self, swarm: SwarmId, line: String) -> Outcome<()> {
        match self.swarm(swarm).name.clone() {
            Some(name) => self.print(&format!("{name}: {line}")),
            None => {
                self.swarm(swarm).waiting.push(line);
                Ok(())
            }
        }
    }

    fn progress(&mut self, swarm: SwarmId, progress: &Progress, total: Bytes) {
        let bars = self.bars.clone();
        let shown = self.swarm(swarm);
        let name = shown.name.clone().unwrap_or_default();
        let bar = shown.bar.get_or_insert_with(|| bars.add(transfer_bar(total, name)));
        bar.set_position(progress.verified.0);
        bar.set_message(format!("in {} out {} Mbit/s", mbit(progress.down), mbit(progress.up)));
    }

    fn end_bar(&mut self, swarm: SwarmId) {
        if let Some(bar) = self.swarm(swarm).bar.take() {
            bar.finish_and_clear();
        }
    }

    fn money(&self, amount: Amount) -> Money {
        Money { amount, currency: self.currency }
    }

    /// What an event means in words; `None` where it is not worth a line.
    fn line(&self, event: &EngineEvent, is_new: bool, now: OffsetDateTime) -> Option<String> {
        match event {
            EngineEvent::Plan { rank, peers, opens_at, .. } if is_new => {
                let when = moment_of(*opens_at).map_or_else(|| "opens at an unknown time".to_owned(), |opens| happens("open", opens, now));
                Some(format!("rank {rank} {when}, {} planned", links(*peers)))
            }
            EngineEvent::Serving { .. } if is_new => Some("another terminal downloads it from here".to_owned()),
            EngineEvent::Opened { verified, to_fetch, total, .. } if to_fetch < total => Some(opened(*verified, *to_fetch, *total)),
            EngineEvent::DiskFull { dir, needed, free, .. } => {
                Some(format!("the disk of {} is full: {needed} needed, {free} free; goes on when there is room", dir.display()))
            }
            EngineEvent::DiskRoom { .. } => Some("there is room again, going on".to_owned()),
            EngineEvent::Evicted { path, bytes, .. } => Some(format!("{} removed to make room for it, {bytes}", path.display())),
            EngineEvent::QuotaFull { quota, needed, kept, missing, protected, .. } => {
                Some(quota_full((*quota, *needed), (*kept, *missing), protected))
            }
            EngineEvent::QuotaRoom { .. } => Some("there is room within the store quota, going on".to_owned()),
            EngineEvent::Completed { path, elapsed, .. } => {
                let time = elapsed.map(|elapsed| format!(" in {}.{:01}s", elapsed.as_secs(), elapsed.subsec_millis() / 100));
                Some(format!("complete{}, in {}", time.unwrap_or_default(), path.display()))
            }
            EngineEvent::Sealed { key_at, .. } => {
                let when = key_at.and_then(moment_of).map_or_else(|| "opens when its key comes".to_owned(), |at| happens("open", at, now));
                Some(format!("all of it is here, sealed: {when}"))
            }
            EngineEvent::Settled { charged, .. } => Some(format!("paid {}", self.money(*charged))),
            EngineEvent::Failed { error, .. } => Some(format!("cannot be received: {error}")),
            EngineEvent::Left { reason, .. } => Some(event::leave_words(*reason).to_owned()),
            EngineEvent::Plan { .. }
            | EngineEvent::Serving { .. }
            | EngineEvent::Opened { .. }
            | EngineEvent::Replaced { .. }
            | EngineEvent::KeyCame { .. }
            | EngineEvent::Earned { .. }
            | EngineEvent::Progress { .. }
            | EngineEvent::Connected { .. }
            | EngineEvent::Disconnected { .. }
            | EngineEvent::Warning { .. } => None,
        }
    }

    /// What came, to be put behind the name; and below it what was given and what it cost.
    fn summary_lines(&self, swarm: &SwarmSummary) -> [String; 2] {
        let received = match (&swarm.path, swarm.total) {
            _ if swarm.serving => "served to another terminal".to_owned(),
            (Some(path), _) => format!("received, in {}", path.display()),
            (None, Some(total)) if swarm.progress.verified == total => "received, and not opened yet".to_owned(),
            (None, Some(total)) => format!("not complete: {} of {total} received", swarm.progress.verified),
            (None, None) => "not begun".to_owned(),
        };
        if swarm.serving {
            let earned = self.money(swarm.earned);
            return [received, format!("  {} relayed; earned {earned}", swarm.progress.relayed)];
        }
        let paid = swarm.charged.map_or_else(|| "not settled yet".to_owned(), |charged| format!("paid {}", self.money(charged)));
        [received, format!("  {} relayed; {paid}, earned {}", swarm.progress.relayed, self.money(swarm.earned))]
    }
}

/// What is in the way of an edition, why it stays, and what helps.
fn quota_full((quota, needed): (Bytes, Bytes), (kept, missing): (Bytes, Bytes), protected: &[Protected]) -> String {
    let why = |why| match why {
        Stays::InUse => "in use",
        Stays::Owed => "its release has not ended",
        Stays::Unknown => "the server does not say whether its release has ended",
    };
    let stays = protected.iter().map(|one| format!("{} ({}, {})", one.path.display(), one.bytes, why(one.why)));
    let stays: Vec<String> = stays.collect();
    let stays = if stays.is_empty() { String::new() } else { format!("; to stay: {}", stays.join(", ")) };
    format!(
        "the store quota of {quota} is {missing} too small: up to {needed} needed, {kept} kept{stays}; \
         goes on when there is room; or stop, and give a larger --store-quota"
    )
}

/// A time of the server's clock.
fn moment_of(at: TimestampMs) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).ok()
}

/// How much somebody has to send.
fn opened(verified: Bytes, to_fetch: Bytes, total: Bytes) -> String {
    match (to_fetch.0, verified.0) {
        (0, _) => format!("nothing to fetch, all of {total} is here already"),
        (_, 0) => format!("{to_fetch} of {total} to fetch, the rest repeats"),
        _ => format!("{to_fetch} of {total} to fetch, the rest is here already"),
    }
}

fn links(peers: usize) -> String {
    if peers == 1 { "1 link".to_owned() } else { format!("{peers} links") }
}

/// With one decimal, without a float.
fn mbit(rate: BitsPerSecond) -> String {
    format!("{}.{}", rate.0 / 1_000_000, rate.0 % 1_000_000 / 100_000)
}

#[cfg(test)]
mod tests;
