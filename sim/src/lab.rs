//! The lab's release without a lab: the same lines and the same payload, the real planner and machine, and the simulator's server.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use protocol::{BitsPerSecond, Bytes};
use swarm::Now;

use crate::rng::{Purpose, Rng};
use crate::scenario::{FIRST_OPENING, REGIONS, Scenario, TerminalSpec};

/// What a payload byte takes on the line of a terminal: the headers of its full packets and the acknowledgements of those. What the machines themselves
/// say to each other is sent for real.
const PEERS_WIRE_PER_MILLE: u64 = 1_085;
/// And on the origin's: full TCP segments.
const ORIGIN_WIRE_PER_MILLE: u64 = 1_046;
/// One way from a terminal to the bridge, and between the ends of the bridge.
const ACCESS: Duration = Duration::from_millis(2);
const BRIDGE: Duration = Duration::from_millis(4);
/// A run that takes longer is stuck.
const LIMIT: Duration = Duration::from_secs(3_600);

/// What the origin may send, over the payload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LabBudget {
    /// Everything to everybody.
    Open,
    /// So many hundredths of the payload.
    Percent(u64),
}

impl fmt::Display for LabBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Percent(percent) => write!(f, "{}.{:02}", percent / 100, percent % 100),
        }
    }
}

impl FromStr for LabBudget {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "open" {
            return Ok(Self::Open);
        }
        let wrong = || format!("{text:?} is neither \"open\" nor a multiple of the payload, as 1.05");
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits: String = part.chars().chain("00".chars()).take(2).collect();
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let percent = digits.parse::<u64>().ok().and_then(|part| whole.checked_mul(100)?.checked_add(part)).ok_or_else(wrong)?;
        if percent < 101 { Err(format!("{text} is below 1.01, the least that the server takes")) } else { Ok(Self::Percent(percent)) }
    }
}

/// The lab's options.
#[derive(Debug, Clone, PartialEq)]
pub struct Lab {
    pub seed: u64,
    pub terminals: usize,
    pub mib: u64,
    pub origin_up: BitsPerSecond,
    /// In turn.
    pub uplinks: Vec<BitsPerSecond>,
    pub peer_down: BitsPerSecond,
    pub budget: LabBudget,
}

impl Lab {
    /// The run that these options are.
    pub fn scenario(&self) -> Scenario {
        let chunks = draw_chunks(self.seed, self.mib << 20);
        let size: u64 = chunks.iter().map(|&length| u64::from(length)).sum();
        let count = u64::try_from(self.terminals).unwrap_or(u64::MAX);
        let terminal = |index: usize| TerminalSpec {
            up: self.uplinks.get(index % self.uplinks.len().max(1)).copied().unwrap_or(BitsPerSecond::from_mbit(10)),
            down: self.peer_down,
            region: 0,
            access: ACCESS,
            wave: 0,
            from: Now::ZERO,
        };
        Scenario {
            seed: self.seed,
            budget: Bytes(match self.budget {
                LabBudget::Open => size * (count + 1),
                LabBudget::Percent(percent) => size * percent / 100,
            }),
            chunks,
            terminals: (0..self.terminals).map(terminal).collect(),
            origin_up: self.origin_up,
            waves: vec![FIRST_OPENING],
            distances: [[BRIDGE; REGIONS]; REGIONS],
            loss_per_mille: 0,
            peers_wire_per_mille: PEERS_WIRE_PER_MILLE,
            origin_wire_per_mille: ORIGIN_WIRE_PER_MILLE,
            faults: Vec::new(),
            limit: LIMIT,
            thorough: false,
            strict: true,
        }
    }
}

/// Chunk lengths as the cutter makes them of random bytes: 16 to 128 KiB, 64 in the mean.
fn draw_chunks(seed: u64, size: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed, Purpose::Scenario);
    let (mut chunks, mut left) = (Vec::new(), size);
    while left > 0 {
        let length = rng.between(24 << 10, 104 << 10).min(left);
        chunks.push(u32::try_from(length).unwrap_or(1 << 16));
        left -= length;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_open_or_a_multiple_that_the_server_takes() {
        assert_eq!("open".parse(), Ok(LabBudget::Open));
        assert_eq!(
            [("1.05", 105), ("2", 200), ("1.5", 150)].map(|(text, _)| text.parse()),
            [105, 200, 150].map(|at| Ok(LabBudget::Percent(at)))
        );
        for wrong in ["1", "0.5", "much", "1.x", ""] {
            assert!(wrong.parse::<LabBudget>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn chunks_make_up_the_payload() {
        let chunks = draw_chunks(1, 32 << 20);
        assert_eq!(chunks.iter().map(|&length| u64::from(length)).sum::<u64>(), 32 << 20);
        assert!((480..560).contains(&chunks.len()), "{}", chunks.len());
    }
}
