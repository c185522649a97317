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

use super::faults::{Fault, SLOW_DIVISOR};

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

    /// Whether its terminals say when somebody else sends what a relay that is gone owed them.
    pub(super) fn tells_replacements(self) -> bool {
        match self {
            Self::Spillway => true,
            Self::Libtorrent | Self::Http => false,
        }
    }

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
    /// One per terminal that takes part.
    pub(super) uplinks_mbit: Vec<u64>,
    pub(super) peer_down_mbit: u64,
    pub(super) fault: Option<Fault>,
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

    /// The limit that a sender of Spillway is given on a line of this rate, as the programs take it, in Mbit/s: what its sockets put on the wire counts,
    /// and the rest is for what does not go through them.
    pub(super) fn limit_mbit(&self, line: BitsPerSecond) -> String {
        let kbit = line.0 * (100 - self.headroom.min(100)) / 100_000;
        format!("{}.{:03}", kbit / 1000, kbit % 1000)
    }

    /// What the origin's line carries.
    pub(super) fn origin_line(&self) -> BitsPerSecond {
        BitsPerSecond::from_mbit(self.origin_up_mbit)
    }

    /// What a terminal's line carries upwards.
    pub(super) fn line(&self, terminal: usize) -> BitsPerSecond {
        let up = BitsPerSecond::from_mbit(self.uplinks_mbit[terminal]);
        if self.slowness(terminal).is_some() { BitsPerSecond(up.0 / SLOW_DIVISOR) } else { up }
    }

    /// What a terminal takes its line for, and states.
    pub(super) fn stated(&self, terminal: usize) -> BitsPerSecond {
        match self.slowness(terminal) {
            None | Some(true) => self.line(terminal),
            Some(false) => BitsPerSecond::from_mbit(self.uplinks_mbit[terminal]),
        }
    }

    fn slowness(&self, terminal: usize) -> Option<bool> {
        self.fault.as_ref()?.slowness(terminal)
    }

    /// Who is struck in the middle of the run, and need not complete.
    pub(super) fn lost(&self) -> &[usize] {
        self.fault.as_ref().map_or(&[], Fault::lost)
    }

    /// How many terminals have to be complete.
    pub(super) fn expected(&self) -> usize {
        self.terminals() - self.lost().len()
    }

    /// T*: what no schedule can beat on these lines; without those of terminals that are lost on the way, whatever they did before.
    pub(super) fn bound(&self) -> Duration {
        let left = (0..self.terminals()).filter(|terminal| !self.lost().contains(terminal));
        let lines = |terminal| Lines { up: self.line(terminal), down: BitsPerSecond::from_mbit(self.peer_down_mbit) };
        let receivers: Vec<Lines> = left.map(lines).collect();
        fluid_bound(self.size(), self.origin_line(), &[], &receivers)
    }

    /// From t0 until whoever is not complete counts as failed. Plain HTTP needs N·F/u_s, which is more than ten bounds where the terminals
    /// could do nearly all the work.
    pub(super) fn patience(&self) -> Duration {
        let one_by_one = fluid_bound(
            Bytes(self.size().0 * self.terminals() as u64),
            self.origin_line(),
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
    use super::super::faults::Kind;
    use super::*;

    pub(in crate::lab) fn plan(system: System, uplinks_mbit: Vec<u64>) -> Plan {
        Plan {
            system,
            run: 1,
            mib: 32,
            origin_up_mbit: 20,
            uplinks_mbit,
            peer_down_mbit: 50,
            fault: None,
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

    fn with(kind: Kind, terminals: Vec<usize>, uplinks_mbit: Vec<u64>) -> Plan {
        Plan { fault: Some(Fault { kind, terminals }), ..plan(System::Spillway, uplinks_mbit) }
    }

    #[test]
    fn the_bound_of_those_who_are_left_is_that_of_a_release_without_the_others() {
        let without = plan(System::Spillway, cycle(&[10], 12)).bound();
        for kind in [Kind::Kill { at_percent: 30 }, Kind::Stop { at_percent: 30 }] {
            let lost = with(kind, vec![2, 6, 10, 14], cycle(&[10], 16));
            assert_eq!((lost.bound(), lost.expected(), lost.terminals()), (without, 12, 16));
        }
        // 12·F / (20 + 120 Mbit/s): 3,221,225,472 bits / 140,000,000.
        assert_eq!(without, Duration::from_nanos(23_008_753_371));
        let mixed = with(Kind::Kill { at_percent: 30 }, vec![3], vec![2, 5, 10, 23]);
        assert_eq!(mixed.bound(), plan(System::Spillway, vec![2, 5, 10]).bound());
        // Who is absent is no part of the plan at all.
        let absent = with(Kind::Absent, vec![3], vec![2, 5, 10]);
        assert_eq!((absent.bound(), absent.expected()), (mixed.bound(), 3));
    }

    #[test]
    fn a_slow_terminal_has_a_tenth_of_its_line_and_states_all_of_it_unless_it_is_honest() {
        let bit = |rate| BitsPerSecond(rate);
        let lies = with(Kind::Slow { honest: false }, vec![1], vec![10, 23]);
        assert_eq!([lies.line(0), lies.stated(0), lies.line(1), lies.stated(1)], [10_000_000, 10_000_000, 2_300_000, 23_000_000].map(bit));
        let honest = with(Kind::Slow { honest: true }, vec![1], vec![10, 23]);
        assert_eq!((honest.line(1), honest.stated(1)), (bit(2_300_000), bit(2_300_000)));
        assert_eq!(honest.bound(), lies.bound());
        // 2·F / (20 + 12.3 Mbit/s): 536,870,912 bits / 32,300,000.
        assert_eq!(lies.bound(), Duration::from_nanos(16_621_390_464));
        assert_eq!(lies.expected(), 2);
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
        let fault = Some(Fault { kind: Kind::Kill { at_percent: 30 }, terminals: vec![1] });
        let plan = Plan { budget: Budget::Times("1.05".into()), fault, ..plan(System::Libtorrent, vec![2, 5]) };
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        assert!(serde_json::from_str::<Plan>(&text.replace("1.05", "0.5")).is_err());
    }

    #[test]
    fn the_headroom_is_left_of_every_line_and_never_stops_a_slow_one() {
        let rates = [100_000, 2_000_000, 23_000_000, 100_000_000].map(BitsPerSecond);
        let of = |headroom| rates.map(|rate| Plan { headroom, ..plan(System::Spillway, vec![10]) }.limit_mbit(rate));
        assert_eq!(of(0), ["0.100", "2.000", "23.000", "100.000"]);
        assert_eq!(of(3), ["0.097", "1.940", "22.310", "97.000"]);
        assert_eq!(of(90), ["0.010", "0.200", "2.300", "10.000"]);
    }

    #[test]
    fn every_terminal_has_an_address_of_its_own() {
        assert_eq!(terminal_address(0), Ipv4Addr::new(10, 77, 0, 2));
        assert_eq!(terminal_address(63), Ipv4Addr::new(10, 77, 0, 65));
        assert_ne!(terminal_address(0), ORIGIN_ADDRESS);
    }
}
