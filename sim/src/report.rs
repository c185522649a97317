//! What a run comes to, for people and for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use protocol::Bytes;
use serde_json::json;
use swarm::Now;

use crate::invariants::Violation;

/// What was counted on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub messages: u64,
    pub links: u64,
    pub origin_chunks: u64,
    /// Chunks that terminals asked each other for, and copies whose first frame named destinations in other groups.
    pub asked: u64,
    pub handed: u64,
    /// Chunk frames sent with a wrong byte, have-lists that lied, messages sent twice or out of order, the same between terminals and server.
    pub corrupted: u64,
    pub lies: u64,
    pub mixed_up: u64,
    pub repeated: u64,
    pub unreadable: u64,
    /// By reason, and whether the suspect is honest.
    pub suspicions: BTreeMap<(String, bool), u64>,
    /// (who, whom).
    pub banned: Vec<(usize, usize)>,
    /// (who was told, about which chunk).
    pub budget_spent: BTreeSet<(usize, u32)>,
    /// What terminals have lost from their disks.
    pub forgotten: BTreeSet<(usize, u32)>,
    /// Chunks that were granted again, and those of them that somebody live had in truth.
    pub repairs: u64,
    /// Chunks that the origin was to send to every member of a group itself, with each member.
    pub direct: u64,
    pub needless: u64,
    /// The longest state of a machine that was seen, in percent of its bound.
    pub state_max: usize,
}

/// How one wave fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaveOutcome {
    pub wave: u32,
    pub terminals: usize,
    /// Those that were there at the end and kept to the protocol.
    pub expected: usize,
    pub completed: usize,
    /// From the wave's opening to its last completion.
    pub took: Duration,
    /// And to the median one.
    pub median: Duration,
    /// What no schedule can beat, without any fault.
    pub bound: Duration,
    /// The same with a budget for everything: T* of [`rules::bound`].
    pub fluid: Duration,
}

impl WaveOutcome {
    /// In hundredths; 0 where there is no bound.
    pub fn ratio_percent(&self) -> u128 {
        (self.took.as_micros() * 100).checked_div(self.bound.as_micros()).unwrap_or(0)
    }
}

/// How one terminal fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalOutcome {
    pub up: protocol::BitsPerSecond,
    /// From its wave's opening to its completion.
    pub took: Option<Duration>,
    /// How long its uplink was sending.
    pub busy: Duration,
    /// When its uplink had sent its last byte, from the wave's opening.
    pub sent_until: Duration,
    pub copied: Bytes,
    /// Chunks that the origin sent it, and those of them that it was to copy to its group.
    pub from_origin: usize,
}

/// One run's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub seed: u64,
    pub terminals: usize,
    pub chunks: usize,
    pub size: Bytes,
    pub waves: Vec<WaveOutcome>,
    pub each: Vec<TerminalOutcome>,
    /// Honest terminals that miss only what nobody has and the budget does not.
    pub starved: usize,
    pub elapsed: Now,
    pub steps: u64,
    pub checks: u64,
    pub origin_sent: Bytes,
    pub budget: Bytes,
    pub copied: Bytes,
    /// First copies of chunks that a live member had without anybody having told the lease table.
    pub untold: u64,
    pub removed: u64,
    pub rebuilt: u64,
    pub forged: u64,
    pub lost_messages: u64,
    pub counts: Counts,
    /// Of every event in its order: equal for equal runs.
    pub digest: u64,
    pub violation: Option<Violation>,
}

/// `part` over `whole` in hundredths.
fn percent(part: u128, whole: u128) -> u128 {
    (part * 100).checked_div(whole).unwrap_or(0)
}

fn ratio(percent: u128) -> String {
    format!("{}.{:02}", percent / 100, percent % 100)
}

impl Outcome {
    pub fn completed(&self) -> usize {
        self.waves.iter().map(|wave| wave.completed).sum()
    }

    fn expected(&self) -> usize {
        self.waves.iter().map(|wave| wave.expected).sum()
    }

    /// The worst wave's time in hundredths of its bound.
    pub fn ratio_percent(&self) -> u128 {
        self.waves.iter().map(WaveOutcome::ratio_percent).max().unwrap_or(0)
    }

    /// At most 80 columns wide.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let origin_percent = u128::from(self.origin_sent.0) * 100 / u128::from(self.budget.0.max(1));
        let _ = writeln!(text, "seed {}: {} terminals, {} chunks, {}", self.seed, self.terminals, self.chunks, self.size);
        let starved = if self.starved > 0 { format!(", {} starved by the budget", self.starved) } else { String::new() };
        let _ = writeln!(text, "  completed    {} of {}{starved}", self.completed(), self.expected());
        for wave in &self.waves {
            let _ = writeln!(
                text,
                "  wave {:<7} {} of {} in {:.2} s; the bound is {:.2} s, {} times",
                wave.wave,
                wave.completed,
                wave.expected,
                wave.took.as_secs_f64(),
                wave.bound.as_secs_f64(),
                ratio(wave.ratio_percent())
            );
        }
        let _ = writeln!(text, "  origin       {} sent, {origin_percent} % of the budget {}", self.origin_sent, self.budget);
        let _ = writeln!(
            text,
            "  repairs      {} chunks, {} of them held by somebody live; {} direct copies",
            self.counts.repairs, self.counts.needless, self.counts.direct
        );
        let _ = writeln!(text, "  copied       {} in {} messages over {} links", self.copied, self.counts.messages, self.counts.links);
        let (honest, guilty) = self.suspected();
        let _ =
            writeln!(text, "  suspected    {honest} times honest ones, {guilty} times others; {} links banned", self.counts.banned.len());
        let _ = writeln!(text, "  server       {} removals, {} tables rebuilt, {} untold holders", self.removed, self.rebuilt, self.untold);
        let _ = writeln!(text, "  steps        {} in {:.1} s, {} checks", self.steps, self.elapsed.as_secs_f64(), self.checks);
        if self.counts.state_max > 0 {
            let _ = writeln!(text, "  state        at most {} % of its bound", self.counts.state_max);
        }
        let _ = writeln!(text, "  digest       {:016x}", self.digest);
        text
    }

    /// The first wave against T*, as the lab prints it, and with `each` a line for every terminal. At most 80 columns wide.
    pub fn against_fluid(&self, each: bool) -> String {
        let mut text = String::new();
        let Some(wave) = self.waves.first() else { return text };
        let over = |time: Duration| ratio(percent(time.as_micros(), wave.fluid.as_micros()));
        let sizes = |bytes: Bytes| ratio(percent(bytes.0.into(), self.size.0.into()));
        let copies = u64::try_from(wave.terminals).unwrap_or(u64::MAX);
        let needed = (self.size.0 * copies).saturating_sub(self.origin_sent.0);
        let _ = writeln!(
            text,
            "  T* {:.2} s: last {}, median {}; chunks {}, twice {} of the size",
            wave.fluid.as_secs_f64(),
            over(wave.took),
            over(wave.median),
            sizes(self.origin_sent),
            sizes(Bytes(self.copied.0.saturating_sub(needed)))
        );
        for (index, terminal) in self.each.iter().enumerate().filter(|_| each) {
            let _ = writeln!(
                text,
                "  {index:>4} {:>3} Mbit/s took {:>6.2} s, sending {:>6.2} s until {:>6.2}; {:>3} chunks",
                terminal.up.0 / 1_000_000,
                terminal.took.unwrap_or_default().as_secs_f64(),
                terminal.busy.as_secs_f64(),
                terminal.sent_until.as_secs_f64(),
                terminal.from_origin
            );
        }
        text
    }

    /// How often honest terminals were suspected, and how often others.
    pub fn suspected(&self) -> (u64, u64) {
        let of = |honest: bool| self.counts.suspicions.iter().filter(|((_, is), _)| *is == honest).map(|(_, times)| times).sum();
        (of(true), of(false))
    }

    pub fn json(&self) -> serde_json::Value {
        let wave = |wave: &WaveOutcome| {
            json!({
                "wave": wave.wave, "terminals": wave.terminals, "expected": wave.expected, "completed": wave.completed,
                "took_ms": u64::try_from(wave.took.as_millis()).unwrap_or(u64::MAX), "bound_ms": u64::try_from(wave.bound.as_millis()).unwrap_or(u64::MAX),
                "median_ms": u64::try_from(wave.median.as_millis()).unwrap_or(u64::MAX), "fluid_ms": u64::try_from(wave.fluid.as_millis()).unwrap_or(u64::MAX),
                "ratio_percent": u64::try_from(wave.ratio_percent()).unwrap_or(u64::MAX),
            })
        };
        let terminal = |terminal: &TerminalOutcome| {
            json!({
                "up": terminal.up, "took_ms": terminal.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
                "busy_ms": u64::try_from(terminal.busy.as_millis()).unwrap_or(u64::MAX), "copied": terminal.copied, "from_origin": terminal.from_origin,
            })
        };
        json!({
            "seed": self.seed, "terminals": self.terminals, "chunks": self.chunks, "bytes": self.size,
            "each": self.each.iter().map(terminal).collect::<Vec<_>>(),
            "completed": self.completed(), "expected": self.expected(), "starved": self.starved,
            "waves": self.waves.iter().map(wave).collect::<Vec<_>>(),
            "virtual_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
            "origin_sent": self.origin_sent, "budget": self.budget, "copied": self.copied,
            "steps": self.steps, "checks": self.checks, "messages": self.counts.messages, "links": self.counts.links, "asked": self.counts.asked, "handed": self.counts.handed,
            "repairs": self.counts.repairs, "needless": self.counts.needless, "direct": self.counts.direct, "removals": self.removed, "rebuilt": self.rebuilt, "untold": self.untold, "lost_messages": self.lost_messages,
            "banned": self.counts.banned.len(), "digest": format!("{:016x}", self.digest),
            "violation": self.violation.as_ref().map(|violation| json!({"invariant": format!("{:?}", violation.invariant), "detail": violation.detail})),
        })
    }
}
