//! A fault that strikes in the middle of a run: when, and how soon others took the place of those who were struck.
//!
//! How much has arrived is read from the disks: the room that each terminal's files take, at most the payload's length. That is the same for all
//! systems, needs no terminal's word, and is right to within two of a hundred: a chunk's first and last blocks count as a whole.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::failure::Failure;
use crate::lab::nodes::{Node, Replaced};
use crate::lab::plan::Plan;

/// Waits for its moment, and strikes once.
#[derive(Debug)]
pub(in crate::lab) struct Strike<'p> {
    plan: &'p Plan,
    t0: SystemTime,
    at_percent: Option<u64>,
    struck: Option<Moment>,
}

/// When it struck.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// From t0.
    after: Duration,
    arrived_percent: f64,
}

/// What a fault in the middle of a run was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::lab) struct Struck {
    /// From t0.
    pub(in crate::lab) after_s: f64,
    /// How much had arrived, over all terminals.
    pub(in crate::lab) arrived_percent: f64,
    /// For each receiver that is left and each struck relay that owed it something: from the strike until the first of that began to come from
    /// somebody else. Empty where terminals do not tell.
    pub(in crate::lab) replacements_s: Vec<f64>,
}

impl<'p> Strike<'p> {
    pub(in crate::lab) fn of(plan: &'p Plan, t0: SystemTime) -> Self {
        let at_percent = plan.fault.as_ref().and_then(|fault| match fault.kind {
            Kind::Kill { at_percent } | Kind::Stop { at_percent } => Some(at_percent),
            Kind::Absent | Kind::Slow { .. } => None,
        });
        Self { plan, t0, at_percent, struck: None }
    }

    /// Strikes if it is time.
    pub(in crate::lab) fn look(&mut self, nodes: &mut [Node]) -> Result<(), Failure> {
        let Some(at_percent) = self.at_percent.filter(|_| self.struck.is_none()) else { return Ok(()) };
        let on_disk: Vec<u64> = nodes.iter().map(Node::on_disk).collect();
        let arrived_percent = percent(&on_disk, self.plan.size().0);
        if arrived_percent < as_float(at_percent) {
            return Ok(());
        }
        let after = SystemTime::now().duration_since(self.t0).unwrap_or_default();
        for &victim in self.plan.lost() {
            let Some(node) = nodes.get_mut(victim) else { continue };
            match self.plan.fault.as_ref().map(|fault| fault.kind) {
                Some(Kind::Kill { .. }) => node.kill()?,
                Some(Kind::Stop { .. }) => node.suspend(),
                Some(Kind::Absent | Kind::Slow { .. }) | None => {}
            }
        }
        eprintln!("xtask: {} struck at {arrived_percent:.1} %, after {:.1} s", self.plan.lost().len(), after.as_secs_f64());
        self.struck = Some(Moment { after, arrived_percent });
        Ok(())
    }

    /// What it was, at the end of the run; `None` if it did not strike.
    pub(in crate::lab) fn outcome(&self, nodes: &[Node]) -> Option<Struck> {
        let Moment { after, arrived_percent } = self.struck?;
        let victims: Vec<&str> = nodes.iter().filter(|node| node.is_struck()).filter_map(Node::id).collect();
        let left = nodes.iter().filter(|node| !node.is_struck());
        let replacements = left.flat_map(|node| replacements(node.replaced(), &victims, after));
        Some(Struck {
            after_s: after.as_secs_f64(),
            arrived_percent,
            replacements_s: replacements.map(|time| time.as_secs_f64()).collect(),
        })
    }
}

/// How much has arrived of the payload times the number of terminals, in percent.
fn percent(on_disk: &[u64], payload: u64) -> f64 {
    let arrived: u64 = on_disk.iter().map(|bytes| (*bytes).min(payload)).sum();
    100.0 * as_float(arrived) / as_float(payload * on_disk.len() as u64).max(1.0)
}

/// For each of `victims` that one receiver found replaced after they were struck at `struck`: how long after. What it found before is another loss.
fn replacements(replaced: &[Replaced], victims: &[&str], struck: Duration) -> Vec<Duration> {
    let first = |victim: &&str| replaced.iter().find(|replaced| replaced.relay == **victim && replaced.after >= struck);
    victims.iter().filter_map(first).map(|replaced| replaced.after - struck).collect()
}

#[allow(clippy::cast_precision_loss, reason = "lengths and counts of bytes here are far below 2^53")]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::faults::Fault;
    use crate::lab::plan::System;
    use crate::lab::plan::tests::plan;

    #[test]
    fn what_has_arrived_counts_up_to_the_payload() {
        let is = |on_disk: &[u64], expected: f64| assert!((percent(on_disk, 1000) - expected).abs() < 1e-9, "{}", percent(on_disk, 1000));
        is(&[0, 0, 0, 0], 0.0);
        is(&[100, 300, 300, 500], 30.0);
        is(&[1100, 1000], 100.0);
        is(&[], 0.0);
    }

    #[test]
    fn a_replacement_is_the_first_of_each_victim_after_it_was_struck() {
        let at = |after_ms: u64, relay: &str| Replaced { after: Duration::from_millis(after_ms), relay: relay.to_owned() };
        let seen = [at(900, "a"), at(1_700, "b"), at(1_800, "a"), at(2_500, "b"), at(2_600, "c")];
        let found = replacements(&seen, &["a", "b", "d"], Duration::from_secs(1));
        assert_eq!(found, [Duration::from_millis(800), Duration::from_millis(700)]);
    }

    #[test]
    fn only_what_strikes_in_the_middle_has_a_moment() {
        let moment = |kind: Option<Kind>| {
            let fault = kind.map(|kind| Fault { kind, terminals: vec![0] });
            Strike::of(&Plan { fault, ..plan(System::Spillway, vec![10; 4]) }, SystemTime::now()).at_percent
        };
        let kinds = [Kind::Kill { at_percent: 40 }, Kind::Stop { at_percent: 20 }, Kind::Absent, Kind::Slow { honest: false }];
        assert_eq!(kinds.map(|kind| moment(Some(kind))), [Some(40), Some(20), None, None]);
        assert_eq!(moment(None), None);
    }
}
