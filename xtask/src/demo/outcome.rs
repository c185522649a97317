//! What came out: the table for people, the JSON for programs, and the verdict.

use std::fmt::Write;
use std::time::Duration;

use protocol::{Amount, Bytes};
use serde_json::{Value, json};

use super::scenario::decimal;
use crate::failure::Failure;

/// One terminal's row.
#[derive(Debug)]
pub(super) struct TerminalRow {
    pub(super) name: String,
    pub(super) edition: String,
    pub(super) rank: u64,
    pub(super) price: u64,
    pub(super) origin_bytes: u64,
    pub(super) peer_bytes: u64,
    pub(super) relayed_bytes: u64,
    pub(super) earned: u64,
    pub(super) completed_ms: u64,
    pub(super) blake3: String,
    pub(super) peak_resident: Bytes,
}

#[derive(Debug)]
pub(super) struct EditionRow {
    pub(super) label: String,
    pub(super) bytes: u64,
    pub(super) chunks: u64,
    pub(super) blake3: String,
}

/// One wave of one edition beside its fluid bound.
#[derive(Debug)]
pub(super) struct WaveRow {
    pub(super) edition: String,
    pub(super) rank: u64,
    pub(super) terminals: usize,
    pub(super) last: Duration,
    pub(super) bound: Duration,
}

#[derive(Debug)]
pub(super) struct Check {
    pub(super) what: &'static str,
    /// What is off, if anything.
    pub(super) wrong: Option<String>,
}

#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) sum: i64,
    pub(super) wallets: i64,
    pub(super) held: i64,
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) terminals: Vec<TerminalRow>,
    pub(super) editions: Vec<EditionRow>,
    pub(super) waves: Vec<WaveRow>,
    pub(super) checks: Vec<Check>,
    pub(super) origin_bytes: u64,
    pub(super) ledger: Ledger,
    pub(super) wall: Duration,
}

impl Outcome {
    /// At most 80 columns.
    pub(super) fn table(&self) -> String {
        let mut text = String::from("\nterminal     edition      rank  price  origin   peers    relayed  earned   time\n");
        for row in &self.terminals {
            let edition: String = row.edition.chars().take(12).collect();
            let _ = writeln!(
                text,
                "{:<12} {edition:<12} {:>4} {:>6}  {:<8} {:<8} {:<8} {:>5} {:>6.1}",
                row.name,
                row.rank,
                decimal(Amount(row.price)),
                short(row.origin_bytes),
                short(row.peer_bytes),
                short(row.relayed_bytes),
                decimal(Amount(row.earned)),
                seconds(row.completed_ms),
            );
        }
        text.push_str("\nwave of              rank  terminals  last      bound     ratio\n");
        for wave in &self.waves {
            let edition: String = wave.edition.chars().take(20).collect();
            let ratio = wave.last.as_secs_f64() / wave.bound.as_secs_f64().max(1e-9);
            let (last, bound) = (wave.last.as_secs_f64(), wave.bound.as_secs_f64());
            let _ = writeln!(text, "{edition:<20} {:>4}  {:>9}  {last:>6.2} s  {bound:>6.2} s  {ratio:>6.2}", wave.rank, wave.terminals);
        }
        let size: u64 = self.editions.iter().map(|edition| edition.bytes).sum();
        let percent = self.origin_bytes * 1000 / size.max(1);
        let _ = writeln!(
            text,
            "\norigin sent {} for {} of editions ({}.{} %)",
            Bytes(self.origin_bytes),
            Bytes(size),
            percent / 10,
            percent % 10
        );
        let Ledger { sum, wallets, held } = &self.ledger;
        let peak = self.terminals.iter().map(|row| row.peak_resident).max().unwrap_or_default();
        let _ = writeln!(text, "a terminal had at most {peak} of memory resident");
        let _ = writeln!(text, "ledger: sum {sum}, wallets {wallets}, held {held}; {:.1} s in all\n", self.wall.as_secs_f64());
        for check in &self.checks {
            let _ = match &check.wrong {
                None => writeln!(text, "  ok     {}", check.what),
                Some(wrong) => writeln!(text, "  WRONG  {}: {wrong}", check.what),
            };
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let terminals = self.terminals.iter().map(|row| {
            json!({
                "terminal": row.name, "edition": row.edition, "rank": row.rank, "price": row.price, "origin_bytes": row.origin_bytes,
                "peer_bytes": row.peer_bytes, "relayed_bytes": row.relayed_bytes, "earned": row.earned, "completed_ms": row.completed_ms,
                "blake3": row.blake3, "peak_resident_bytes": row.peak_resident.0,
            })
        });
        let editions = self.editions.iter();
        let editions = editions.map(|row| json!({ "label": row.label, "bytes": row.bytes, "chunks": row.chunks, "blake3": row.blake3 }));
        let waves = self.waves.iter().map(|wave| {
            let (last, bound) = (wave.last.as_secs_f64(), wave.bound.as_secs_f64());
            json!({ "edition": wave.edition, "rank": wave.rank, "terminals": wave.terminals, "last_s": last, "bound_s": bound })
        });
        let checks = self.checks.iter().map(|check| json!({ "check": check.what, "ok": check.wrong.is_none(), "wrong": check.wrong }));
        json!({
            "terminals": terminals.collect::<Vec<_>>(), "editions": editions.collect::<Vec<_>>(), "waves": waves.collect::<Vec<_>>(),
            "origin_bytes": self.origin_bytes,
            "ledger": { "sum": self.ledger.sum, "wallets": self.ledger.wallets, "held": self.ledger.held },
            "checks": checks.collect::<Vec<_>>(), "wall_ms": u64::try_from(self.wall.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// A failure that counts what is off.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match self.checks.iter().filter(|check| check.wrong.is_some()).count() {
            0 => Ok(()),
            wrong => Err(Failure::told(format!("{wrong} of {} checks failed", self.checks.len()))),
        }
    }
}

/// A length without a space, so that columns stay narrow.
fn short(bytes: u64) -> String {
    Bytes(bytes).to_string().replace(' ', "")
}

fn seconds(milliseconds: u64) -> f64 {
    Duration::from_millis(milliseconds).as_secs_f64()
}
