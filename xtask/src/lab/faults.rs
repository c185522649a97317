//! What goes wrong in a run on purpose: which terminals it befalls, and what is refused.
//!
//! | fault | befallen terminals | bound |
//! |---|---|---|
//! | kill, stop | take part until the fault strikes, need not complete | of the others |
//! | absent | are not there at all | of the others |
//! | slow | send over a tenth of their uplink | of everybody, with the lines' true rates |

pub(super) mod strike;
pub(super) mod told;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::plan::System;
use crate::failure::Failure;

/// What a slow terminal's line carries of what it was.
pub(super) const SLOW_DIVISOR: u64 = 10;

/// When relays are killed or stopped, unless it is said: in the middle of what everybody sends to everybody.
const AT_PERCENT: u64 = 30;

/// One terminal alone relays nothing.
const LEFT_MIN: usize = 2;

/// A fault of one kind, on the command line.
#[derive(Debug, Default, Args)]
pub(super) struct FaultOptions {
    /// Kill so many terminals for good, when --at percent of all bytes have arrived
    #[arg(long, value_name = "COUNT", group = "fault", value_parser = clap::value_parser!(u64).range(1..))]
    kill: Option<u64>,
    /// Stop so many terminals (SIGSTOP) until the end of the run, when --at percent of all bytes have arrived
    #[arg(long, value_name = "COUNT", group = "fault", value_parser = clap::value_parser!(u64).range(1..))]
    stop: Option<u64>,
    /// Leave so many terminals out: the lab to compare --stop with
    #[arg(long, value_name = "COUNT", group = "fault", value_parser = clap::value_parser!(u64).range(1..))]
    absent: Option<u64>,
    /// Give so many terminals a tenth of the uplink that they state
    #[arg(long, value_name = "COUNT", group = "fault", value_parser = clap::value_parser!(u64).range(1..))]
    slow: Option<u64>,
    /// When --kill or --stop strikes: percent of all bytes for all terminals that have arrived [default: 30]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(1..=99))]
    at: Option<u64>,
    /// The terminals of --slow state what their lines really carry: the lab to compare --slow with
    #[arg(long, requires = "slow")]
    honest: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Kind {
    /// SIGKILL.
    Kill { at_percent: u64 },
    /// SIGSTOP.
    Stop { at_percent: u64 },
    /// Neither registered nor started, and without a line.
    Absent,
    /// `honest`: they state what their lines carry.
    Slow { honest: bool },
}

impl Kind {
    /// As it is asked for.
    fn option(self) -> &'static str {
        match self {
            Self::Kill { .. } => "--kill",
            Self::Stop { .. } => "--stop",
            Self::Absent => "--absent",
            Self::Slow { .. } => "--slow",
        }
    }
}

/// A fault and whom it befalls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fault {
    #[serde(flatten)]
    pub(super) kind: Kind,
    /// From 0, ascending, as the terminals are counted when none is absent.
    pub(super) terminals: Vec<usize>,
}

impl FaultOptions {
    /// The fault that was asked for in a lab of these systems and uplinks.
    ///
    /// # Errors
    /// If it leaves fewer than two terminals, or is none for one of the systems.
    pub(super) fn fault(&self, systems: &[System], uplinks_mbit: &[u64]) -> Result<Option<Fault>, Failure> {
        let at_percent = self.at.unwrap_or(AT_PERCENT);
        let chosen = [
            (self.kill, Kind::Kill { at_percent }),
            (self.stop, Kind::Stop { at_percent }),
            (self.absent, Kind::Absent),
            (self.slow, Kind::Slow { honest: self.honest }),
        ];
        let chosen = chosen.into_iter().find_map(|(count, kind)| Some((count?, kind)));
        if self.at.is_some() && (self.kill, self.stop) == (None, None) {
            return Err(Failure::told("--at says when --kill or --stop strikes: give one of them with it"));
        }
        let Some((count, kind)) = chosen else { return Ok(None) };
        let (option, terminals) = (kind.option(), uplinks_mbit.len());
        let most = terminals.saturating_sub(LEFT_MIN);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > most {
            return Err(Failure::told(format!(
                "{option} {count} of {terminals} terminals: at least {LEFT_MIN} must be left as they are, so {most} at most"
            )));
        }
        if systems.contains(&System::Http) {
            return Err(Failure::told(format!(
                "{option} is about terminals that pass chunks on, and those of http do not: choose --system spillway or --system libtorrent"
            )));
        }
        if self.honest && systems.contains(&System::Libtorrent) {
            return Err(Failure::told(
                "--honest is about what terminals state, and those of libtorrent state nothing: choose --system spillway",
            ));
        }
        Ok(Some(Fault { kind, terminals: victims(uplinks_mbit, count) }))
    }
}

impl Fault {
    /// Who is not left at the end of the run.
    pub(super) fn lost(&self) -> &[usize] {
        match self.kind {
            Kind::Kill { .. } | Kind::Stop { .. } => &self.terminals,
            Kind::Absent | Kind::Slow { .. } => &[],
        }
    }

    /// The uplinks of those who take part at all.
    pub(super) fn present(&self, uplinks_mbit: &[u64]) -> Vec<u64> {
        let is_there = |index: &usize| self.kind != Kind::Absent || !self.terminals.contains(index);
        uplinks_mbit.iter().enumerate().filter(|(index, _)| is_there(index)).map(|(_, up)| *up).collect()
    }

    /// Whether the terminal's line carries less than its uplink, and whether it states so.
    pub(super) fn slowness(&self, terminal: usize) -> Option<bool> {
        match self.kind {
            Kind::Slow { honest } if self.terminals.contains(&terminal) => Some(honest),
            Kind::Slow { .. } | Kind::Kill { .. } | Kind::Stop { .. } | Kind::Absent => None,
        }
    }
}

/// `count` terminals, even over the uplinks: in the order of their uplinks, and of their numbers where those are the same, the middle one of each of
/// `count` equal parts.
fn victims(uplinks_mbit: &[u64], count: usize) -> Vec<usize> {
    let mut by_uplink: Vec<usize> = (0..uplinks_mbit.len()).collect();
    by_uplink.sort_by_key(|index| uplinks_mbit[*index]);
    let mut chosen: Vec<usize> = (0..count).map(|part| by_uplink[(2 * part + 1) * by_uplink.len() / (2 * count)]).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::plan::cycle;
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: FaultOptions,
    }

    fn parse(line: &str) -> Result<FaultOptions, clap::Error> {
        Line::try_parse_from(std::iter::once("lab").chain(line.split_whitespace())).map(|line| line.options)
    }

    fn fault(line: &str, systems: &[System]) -> Result<Option<Fault>, Failure> {
        parse(line).unwrap().fault(systems, &cycle(&[10], 16))
    }

    #[test]
    fn victims_are_even_over_the_uplinks_and_among_equals() {
        assert_eq!(victims(&cycle(&[10], 16), 4), [2, 6, 10, 14]);
        assert_eq!(victims(&cycle(&[10], 16), 1), [8]);
        let mixed = cycle(&[2, 5, 10, 23], 16);
        let hit: Vec<u64> = victims(&mixed, 4).iter().map(|index| mixed[*index]).collect();
        assert_eq!(hit, [2, 5, 10, 23], "one of each kind");
        assert_eq!(victims(&mixed, 4), [8, 9, 10, 11]);
        assert_eq!(victims(&[1, 2, 3], 1), [1], "the middle one");
        for count in 1..=62 {
            let mut chosen = victims(&cycle(&[3, 1, 2], 64), count);
            assert!(chosen.is_sorted() && chosen.iter().all(|index| *index < 64));
            chosen.dedup();
            assert_eq!(chosen.len(), count, "nobody twice");
        }
    }

    #[test]
    fn one_fault_is_chosen_with_its_moment() {
        let of = |line| fault(line, &[System::Spillway, System::Libtorrent]).unwrap().map(|fault| fault.kind);
        assert_eq!(of(""), None);
        assert_eq!(of("--kill 4"), Some(Kind::Kill { at_percent: 30 }));
        assert_eq!(of("--kill 4 --at 60"), Some(Kind::Kill { at_percent: 60 }));
        assert_eq!(of("--stop 1 --at 20"), Some(Kind::Stop { at_percent: 20 }));
        assert_eq!(of("--absent 1"), Some(Kind::Absent));
        assert_eq!(of("--slow 1"), Some(Kind::Slow { honest: false }));
        assert_eq!(fault("--slow 1 --honest", &[System::Spillway]).unwrap().unwrap().kind, Kind::Slow { honest: true });
        assert_eq!(fault("--kill 14", &[System::Spillway]).unwrap().unwrap().terminals.len(), 14);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_to_do() {
        let both = [System::Spillway, System::Libtorrent];
        let refused: [(&str, &[System], &str); 6] = [
            ("--kill 15", &both, "--kill 15 of 16 terminals: at least 2 must be left as they are, so 14 at most"),
            ("--stop 16", &both, "14 at most"),
            ("--at 30", &both, "--kill or --stop"),
            ("--slow 1 --at 30", &both, "--kill or --stop"),
            ("--kill 4", &System::ALL, "--system spillway or --system libtorrent"),
            ("--slow 1 --honest", &both, "choose --system spillway"),
        ];
        for (line, systems, says) in refused {
            let failure = fault(line, systems).expect_err(line).to_string();
            assert!(failure.contains(says), "{line}: {failure}");
        }
        let unparsed = [
            ("--kill 4 --stop 1", "--stop"),
            ("--absent 1 --slow 1", "--slow"),
            ("--kill 0", "--kill"),
            ("--kill 4 --at 0", "--at"),
            ("--kill 4 --at 100", "--at"),
            ("--honest", "--slow"),
        ];
        for (line, option) in unparsed {
            let message = parse(line).expect_err(line).to_string();
            assert!(message.contains(option), "{line}: {message}");
        }
    }

    #[test]
    fn two_terminals_cannot_lose_one() {
        let failure = parse("--absent 1").unwrap().fault(&[System::Spillway], &[10, 10]).unwrap_err().to_string();
        assert!(failure.contains("0 at most"), "{failure}");
    }

    #[test]
    fn only_those_who_are_absent_are_not_there_and_only_who_is_struck_is_lost() {
        let fault = |kind| Fault { kind, terminals: vec![1, 3] };
        let of = |kind| (fault(kind).present(&[2, 5, 10, 23]), fault(kind).lost().to_vec());
        assert_eq!(of(Kind::Absent), (vec![2, 10], vec![]));
        assert_eq!(of(Kind::Kill { at_percent: 30 }), (vec![2, 5, 10, 23], vec![1, 3]));
        assert_eq!(of(Kind::Stop { at_percent: 30 }), (vec![2, 5, 10, 23], vec![1, 3]));
        assert_eq!(of(Kind::Slow { honest: true }), (vec![2, 5, 10, 23], vec![]));
        assert_eq!([0, 1].map(|index| fault(Kind::Slow { honest: true }).slowness(index)), [None, Some(true)]);
        assert_eq!(fault(Kind::Absent).slowness(1), None);
    }
}
