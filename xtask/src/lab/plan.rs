//! What one run of the lab does: who has which lines, what is sent by which system, and the bound that the outcome is compared with.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use protocol::{BitsPerSecond, Bytes};
use rules::bound::{Lines, fluid_bound};
use serde::{Deserialize, Serialize};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum System {
    /// This project: its server, and `spillway run` on each terminal
    Spillway,
    /// A libtorrent seed, and a libtorrent peer on each terminal
    Libtorrent,
    /// nginx, and one download over HTTP by each terminal
    Http,
}

impl System {
    /// In the order in which they run.
    pub(super) const ALL: [Self; 3] = [Self::Spillway, Self::Libtorrent, Self::Http];

    /// As it is written on the command line and in the outcome.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Spillway => "spillway",
            Self::Libtorrent => "libtorrent",
            Self::Http => "http",
        }
    }
}

/// How much the origin of a Spillway release may send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) enum Budget {
    /// More than every terminal could ask for.
    Open,
    /// A multiple of the payload, as it was typed.
    Times(String),
}

/// A release with a higher budget than this is meant to be open.
const BUDGET_TIMES_MAX: f64 = 1000.0;

impl Budget {
    /// As `spillway release create --origin-budget` takes it.
    pub(super) fn argument(&self, terminals: usize) -> String {
        match self {
            // Twice what all of them receive: enough for every chunk that has to be sent again.
            Self::Open => format!("{}x", 2 * terminals),
            Self::Times(times) => format!("{times}x"),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "open" {
            return Ok(Self::Open);
        }
        let is_plain = text.chars().all(|character| character.is_ascii_digit() || character == '.');
        let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        match text.parse::<f64>() {
            Ok(times) if is_plain && decimals <= 3 && (1.0..=BUDGET_TIMES_MAX).contains(&times) => Ok(Self::Times(text.to_owned())),
            Ok(_) | Err(_) => Err("expected `open`, or a multiple of the payload from 1 to 1000 such as 1.05".to_owned()),
        }
    }
}

impl TryFrom<String> for Budget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.to_string()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => formatter.write_str("open"),
            Self::Times(times) => formatter.write_str(times),
        }
    }
}

/// One run, as the outer process hands it to the one inside of the origin's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) system: System,
    /// From 1.
    pub(super) run: u32,
    pub(super) mib: u64,
    pub(super) origin_up_mbit: u64,
    /// One per terminal.
    pub(super) uplinks_mbit: Vec<u64>,
    pub(super) peer_down_mbit: u64,
    /// Only a Spillway release has one.
    pub(super) budget: Budget,
    /// What Spillway's own limits leave of each line for what they do not count, in percent; the others limit nothing themselves.
    pub(super) headroom: u64,
    /// Whether Spillway's programs are optimised ones.
    pub(super) release: bool,
    /// Only a libtorrent seed knows it.
    pub(super) super_seeding: bool,
    /// What every system sends.
    pub(super) payload: PathBuf,
    /// Everything that this run writes, but for the services' data.
    pub(super) folder: PathBuf,
}

/// The lab's network; it is closed, so that no other network is in its way.
const NETWORK: [u8; 3] = [10, 77, 0];
/// Where the origin is found.
pub(super) const ORIGIN_ADDRESS: Ipv4Addr = Ipv4Addr::new(NETWORK[0], NETWORK[1], NETWORK[2], 1);

impl Plan {
    /// How many terminals take part.
    pub(super) fn terminals(&self) -> usize {
        self.uplinks_mbit.len()
    }

    pub(super) fn size(&self) -> Bytes {
        Bytes(self.mib << 20)
    }

    /// The limit that a sender of Spillway is given on a line of `mbit`, as the programs take it: what its sockets put on the wire counts, and the rest
    /// is for what does not go through them.
    pub(super) fn limit_mbit(&self, mbit: u64) -> String {
        let hundredths = mbit * (100 - self.headroom.min(100));
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    }

    /// T*: what no schedule can beat on these lines.
    pub(super) fn bound(&self) -> Duration {
        let lines = |up: &u64| Lines { up: BitsPerSecond::from_mbit(*up), down: BitsPerSecond::from_mbit(self.peer_down_mbit) };
        let receivers: Vec<Lines> = self.uplinks_mbit.iter().map(lines).collect();
        fluid_bound(self.size(), BitsPerSecond::from_mbit(self.origin_up_mbit), &[], &receivers)
    }

    /// From t0 until whoever is not complete counts as failed. Plain HTTP needs N·F/u_s, which is more than ten bounds where the terminals
    /// could do nearly all the work.
    pub(super) fn patience(&self) -> Duration {
        let one_by_one = fluid_bound(
            Bytes(self.size().0 * self.terminals() as u64),
            BitsPerSecond::from_mbit(self.origin_up_mbit),
            &[],
            &[Lines { up: BitsPerSecond(0), down: BitsPerSecond(0) }],
        );
        let slowest = match self.system {
            System::Http => one_by_one * 2,
            System::Spillway | System::Libtorrent => Duration::ZERO,
        };
        (self.bound() * 10).max(slowest) + Duration::from_secs(60)
    }
}

/// A terminal's name, also of its folder; `index` from 0.
pub(super) fn terminal_name(index: usize) -> String {
    format!("terminal-{:02}", index + 1)
}

/// A terminal's address; `index` from 0, at most 253.
pub(super) fn terminal_address(index: usize) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, u8::try_from(index + 2).unwrap_or(u8::MAX))
}

/// One uplink per terminal, taken from the list in turn.
pub(super) fn cycle(uplinks: &[u64], terminals: usize) -> Vec<u64> {
    uplinks.iter().copied().cycle().take(terminals).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::lab) fn plan(system: System, uplinks_mbit: Vec<u64>) -> Plan {
        Plan {
            system,
            run: 1,
            mib: 32,
            origin_up_mbit: 20,
            uplinks_mbit,
            peer_down_mbit: 50,
            budget: Budget::Open,
            headroom: 10,
            release: false,
            super_seeding: false,
            payload: "/payload".into(),
            folder: "/folder".into(),
        }
    }

    #[test]
    fn the_bound_is_the_formula_of_the_rules() {
        // 16·F/(20 + 160 Mbit/s), whatever the mix: 4,294,967,296 bits / 180,000,000.
        let expected = Duration::from_nanos(23_860_929_422);
        assert_eq!(plan(System::Spillway, cycle(&[10], 16)).bound(), expected);
        assert_eq!(plan(System::Spillway, cycle(&[2, 5, 10, 23], 16)).bound(), expected);
        // The slowest downlink decides: F / 1 Mbit/s.
        let slow = Plan { peer_down_mbit: 1, ..plan(System::Http, cycle(&[100], 2)) };
        assert_eq!(slow.bound(), Duration::from_nanos(268_435_456_000));
    }

    #[test]
    fn a_list_of_uplinks_cycles_over_the_terminals() {
        assert_eq!(cycle(&[2, 5, 10], 7), [2, 5, 10, 2, 5, 10, 2]);
        assert_eq!(cycle(&[7], 2), [7, 7]);
        assert_eq!(cycle(&[1, 2, 3], 2), [1, 2]);
    }

    #[test]
    fn plain_http_gets_the_time_that_n_downloads_over_one_uplink_need() {
        let http = plan(System::Http, cycle(&[100], 64));
        // 64·F/20 Mbit/s is 859 s; the bound is 13.4 s, ten of which would not be enough.
        assert!(http.patience() > Duration::from_secs(1700));
        assert_eq!(plan(System::Spillway, cycle(&[10], 16)).patience(), Duration::from_nanos(238_609_294_220 + 60_000_000_000));
    }

    #[test]
    fn a_budget_is_open_or_a_multiple_of_at_least_one() {
        assert_eq!("open".parse(), Ok(Budget::Open));
        assert_eq!("1.05".parse::<Budget>().unwrap().argument(16), "1.05x");
        assert_eq!(Budget::Open.argument(16), "32x");
        for bad in ["", "closed", "0.99", "1001", "-2", "1e2", "NaN", "inf", "1.05x", "1.0001", " 2"] {
            assert!(bad.parse::<Budget>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_plan_survives_the_way_to_the_inner_process() {
        let plan = Plan { budget: Budget::Times("1.05".into()), ..plan(System::Libtorrent, vec![2, 5]) };
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        assert!(serde_json::from_str::<Plan>(&text.replace("1.05", "0.5")).is_err());
    }

    #[test]
    fn the_headroom_is_left_of_every_line_and_never_stops_a_slow_one() {
        let of = |headroom| [1, 2, 23, 100].map(|mbit| Plan { headroom, ..plan(System::Spillway, vec![10]) }.limit_mbit(mbit));
        assert_eq!(of(0), ["1.00", "2.00", "23.00", "100.00"]);
        assert_eq!(of(3), ["0.97", "1.94", "22.31", "97.00"]);
        assert_eq!(of(90), ["0.10", "0.20", "2.30", "10.00"]);
    }

    #[test]
    fn every_terminal_has_an_address_of_its_own() {
        assert_eq!(terminal_address(0), Ipv4Addr::new(10, 77, 0, 2));
        assert_eq!(terminal_address(63), Ipv4Addr::new(10, 77, 0, 65));
        assert_ne!(terminal_address(0), ORIGIN_ADDRESS);
    }
}
