//! Who publishes what to whom, with which bids, rates and times: all of it follows from the files and the number of terminals.

use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::{Amount, BitsPerSecond, Bytes};
use rules::bound::{Lines, fluid_bound};
use rules::report::{OriginPart, origin_part};

use super::contents;
use crate::failure::Failure;

/// What each terminal prepays; above every maximum below.
pub(super) const VOUCHER: &str = "100.00";
/// The reserve for rank 1; some of the bids stand well above it, none below.
pub(super) const RESERVE: &str = "1.00";
pub(super) const RESERVE_AMOUNT: Amount = Amount(100);

/// Aggregate uplink of all terminals: what two cores carry through encrypted channels with room to spare, so that the rates and not the
/// processor decide how long the demo takes.
const TERMINALS_UP_MBIT: u64 = 480;
const TERMINAL_UP_MBIT: std::ops::RangeInclusive<u64> = 15..=60;
const TERMINAL_DOWN_MBIT: u64 = 400;
const ORIGIN_UP_MBIT: u64 = 240;

#[derive(Debug)]
pub(super) struct Edition {
    pub(super) path: PathBuf,
    pub(super) label: String,
    pub(super) length: Bytes,
}

#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) name: String,
    /// Index into the editions.
    pub(super) edition: usize,
    /// The best rank wanted, from 1.
    pub(super) rank: u32,
    pub(super) maximum: Amount,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Rank {
    pub(super) weight: u32,
    pub(super) delay_s: u32,
    pub(super) capacity: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    pub(super) origin_up_mbit: u64,
    pub(super) up_mbit: u64,
    pub(super) down_mbit: u64,
}

/// Seconds from the creation of the release.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) closes_s: u32,
    pub(super) starts_s: u32,
    pub(super) limit_s: u32,
}

#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) editions: Vec<Edition>,
    pub(super) terminals: Vec<Terminal>,
    pub(super) ranks: Vec<Rank>,
    pub(super) rates: Rates,
}

impl Scenario {
    /// # Errors
    /// If a file cannot be read, or is empty.
    pub(super) fn plan(files: &[PathBuf], terminals: u32) -> Result<Self, Failure> {
        let labels = labels(files);
        let editions = files.iter().zip(labels).map(|(path, label)| {
            let length = contents::length(path)?;
            if length.0 == 0 {
                return Err(Failure::told(format!("{} is empty: an edition must have at least one byte", path.display())));
            }
            let path = path.canonicalize().map_err(|error| Failure::file("read", path, &error))?;
            Ok(Edition { path, label, length })
        });
        let editions = editions.collect::<Result<Vec<_>, _>>()?;
        let up_mbit = (TERMINALS_UP_MBIT / u64::from(terminals)).clamp(*TERMINAL_UP_MBIT.start(), *TERMINAL_UP_MBIT.end());
        let rates = Rates { origin_up_mbit: ORIGIN_UP_MBIT, up_mbit, down_mbit: TERMINAL_DOWN_MBIT };
        let mut scenario = Self { editions, terminals: bidders(terminals, files.len()), ranks: Vec::new(), rates };
        let quarter = (terminals / 4).max(1);
        let delay_s = scenario.wave_seconds(quarter);
        scenario.ranks = vec![
            Rank { weight: 100, delay_s: 0, capacity: quarter },
            Rank { weight: 60, delay_s, capacity: quarter },
            Rank { weight: 25, delay_s: delay_s * 2, capacity: terminals },
        ];
        Ok(scenario)
    }

    /// How long one wave of `capacity` terminals per edition takes, with a margin: the next one then finds complete sources.
    fn wave_seconds(&self, capacity: u32) -> u32 {
        let lines = vec![self.lines(); usize::try_from(capacity).unwrap_or(1)];
        let slowest = (0..self.editions.len())
            .map(|edition| fluid_bound(self.editions[edition].length, self.origin_part(edition, Bytes(0)).up, &[], &lines));
        let bound = slowest.max().unwrap_or_default();
        u32::try_from(bound.as_millis() * 14 / 10 / 1000).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// What an edition can have of the origin while all of them are sent.
    pub(super) fn origin_part(&self, edition: usize, budget: Bytes) -> OriginPart {
        let total = Bytes(self.editions.iter().map(|edition| edition.length.0).sum());
        origin_part(BitsPerSecond::from_mbit(self.rates.origin_up_mbit), budget, self.editions[edition].length, total)
    }

    /// Every terminal's lines: they all have the same.
    pub(super) fn lines(&self) -> Lines {
        Lines { up: BitsPerSecond::from_mbit(self.rates.up_mbit), down: BitsPerSecond::from_mbit(self.rates.down_mbit) }
    }

    pub(super) fn times(&self) -> Times {
        let terminals = u32::try_from(self.terminals.len()).unwrap_or(u32::MAX);
        // A terminal applies in well under half a second, and its channels open in about half a second, several at once.
        let closes_s = 5 + terminals / 2;
        let starts_s = closes_s + 5 + terminals / 3;
        let last_wave = self.wave_seconds(terminals) * 4;
        Times { closes_s, starts_s, limit_s: 60 + last_wave }
    }

    /// From the creation of the release until everything must be settled.
    pub(super) fn deadline(&self) -> Duration {
        let times = self.times();
        let delay = self.ranks.last().map_or(0, |rank| rank.delay_s);
        Duration::from_secs(u64::from(times.starts_s + delay + times.limit_s)) + super::SETTLING
    }

    pub(super) fn summary(&self) -> String {
        let editions = self.editions.iter().map(|edition| format!("{} ({})", edition.label, edition.length));
        editions.collect::<Vec<_>>().join(" and ")
    }
}

/// Terminals bid from 5.00 to 50.00 for mixed ranks; two editions are shared out 5 : 3, more of them in turn.
fn bidders(count: u32, editions: usize) -> Vec<Terminal> {
    const RANKS: [u32; 8] = [1, 1, 2, 1, 3, 1, 2, 1];
    const FIVE_TO_THREE: [usize; 8] = [0, 1, 0, 1, 0, 0, 1, 0];
    let bidder = |index: u32| {
        let at = usize::try_from(index).unwrap_or(0);
        let edition = if editions == 2 { FIVE_TO_THREE[at % 8] } else { at % editions.max(1) };
        // Steps of 37 modulo 91 visit every value once before one repeats, so that few bids tie.
        let maximum = Amount(500 + u64::from(index * 37 % 91) * 50);
        Terminal { name: format!("terminal-{:02}", index + 1), edition, rank: RANKS[at % 8], maximum }
    };
    (0..count).map(bidder).collect()
}

/// A short distinct name per edition.
fn labels(files: &[PathBuf]) -> Vec<String> {
    let name =
        |path: &Path| path.file_name().map_or_else(|| "edition".to_owned(), |name| name.to_string_lossy().chars().take(40).collect());
    let names: Vec<String> = files.iter().map(|path| name(path)).collect();
    let number = |(index, label): (usize, &String)| {
        if names.iter().filter(|other| *other == label).count() > 1 { format!("{label} {}", index + 1) } else { label.clone() }
    };
    names.iter().enumerate().map(number).collect()
}

/// Minor units as the command line takes them.
pub(super) fn decimal(amount: Amount) -> String {
    format!("{}.{:02}", amount.0 / 100, amount.0 % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_editions_are_shared_out_five_to_three() {
        let bidders = bidders(8, 2);
        assert_eq!(bidders.iter().filter(|bidder| bidder.edition == 0).count(), 5);
        assert_eq!(bidders.iter().filter(|bidder| bidder.edition == 1).count(), 3);
    }

    #[test]
    fn every_bid_is_above_the_reserve_and_below_what_a_voucher_pays() {
        assert!(bidders(64, 1).iter().all(|bidder| bidder.maximum > RESERVE_AMOUNT && bidder.maximum < Amount(10_000)));
    }

    #[test]
    fn files_of_the_same_name_get_labels_of_their_own() {
        assert_eq!(labels(&["a/x".into(), "b/x".into(), "y".into()]), ["x 1", "x 2", "y"]);
    }
}
