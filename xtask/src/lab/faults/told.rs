//! What a run says of its fault: fields of its JSON, and lines below the table.

use std::fmt::Write;

use serde::Serialize;

use super::{Fault, Kind, SLOW_DIVISOR};
use crate::lab::inside::Measured;
use crate::lab::plan::{Plan, terminal_name};
use crate::lab::report::{quantile, rounded};

/// How many terminals are named in a line.
const NAMED_MAX: usize = 8;

/// The part of a run that is about its fault.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::lab) struct FaultTold {
    fault: Option<Befallen>,
    /// When it struck, from t0.
    struck_s: Option<f64>,
    /// How much had arrived then, over all terminals.
    struck_percent: Option<f64>,
    /// Pairs of a receiver that is left and a struck relay that owed it something; missing where terminals do not tell.
    replacements: Option<usize>,
    /// From the strike until the first of that began to come from somebody else, over the pairs.
    replacement_median_s: Option<f64>,
    replacement_max_s: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Befallen {
    #[serde(flatten)]
    kind: Kind,
    terminals: Vec<String>,
}

impl FaultTold {
    pub(in crate::lab) fn of(plan: &Plan, measured: &Measured) -> Self {
        let fault = plan.fault.as_ref().map(|Fault { kind, terminals }| Befallen {
            kind: *kind,
            terminals: terminals.iter().map(|index| terminal_name(*index)).collect(),
        });
        let struck = measured.struck.as_ref();
        let mut times = struck.map(|struck| struck.replacements_s.clone()).unwrap_or_default();
        times.sort_by(f64::total_cmp);
        let at = |percent| (!times.is_empty()).then(|| rounded(quantile(&times, percent)));
        Self {
            fault,
            struck_s: struck.map(|struck| rounded(struck.after_s)),
            struck_percent: struck.map(|struck| rounded(struck.arrived_percent)),
            replacements: struck.filter(|_| plan.system.tells_replacements()).map(|_| times.len()),
            replacement_median_s: at(50),
            replacement_max_s: at(100),
        }
    }

    /// Lines for a person, each with its end; none where nothing went wrong on purpose.
    pub(in crate::lab) fn lines(&self) -> String {
        let Some(Befallen { kind, terminals }) = &self.fault else { return String::new() };
        let numbers: Vec<&str> = terminals.iter().take(NAMED_MAX).filter_map(|name| name.rsplit('-').next()).collect();
        let more = if terminals.len() > NAMED_MAX { " …" } else { "" };
        let who = format!("{} ({}{more})", terminals.len(), numbers.join(" "));
        let mut text = match kind {
            Kind::Kill { .. } => format!("killed {who}"),
            Kind::Stop { .. } => format!("stopped {who}"),
            Kind::Absent => format!("absent {who}"),
            Kind::Slow { honest: false } => format!("a {SLOW_DIVISOR}th of what they state: {who}"),
            Kind::Slow { honest: true } => format!("a {SLOW_DIVISOR}th of their uplink, and stating so: {who}"),
        };
        if let (Some(after), Some(percent)) = (self.struck_s, self.struck_percent) {
            let _ = write!(text, " after {after:.2} s, at {percent:.1} %");
        }
        text.push('\n');
        if let (Some(pairs), Some(median), Some(most)) = (self.replacements, self.replacement_median_s, self.replacement_max_s) {
            let _ = writeln!(text, "  first byte in their place: median {median:.2} s, at most {most:.2} s ({pairs} times)");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::strike::Struck;
    use super::*;
    use crate::lab::plan::System;
    use crate::lab::plan::tests::plan;

    fn told(system: System, kind: Kind, terminals: Vec<usize>, replacements_s: Option<Vec<f64>>) -> FaultTold {
        let plan = Plan { fault: Some(Fault { kind, terminals }), ..plan(system, vec![10; 16]) };
        let struck = replacements_s.map(|replacements_s| Struck { after_s: 8.4112, arrived_percent: 30.21, replacements_s });
        FaultTold::of(&plan, &Measured { struck, ..Measured::default() })
    }

    #[test]
    fn a_kill_says_whom_when_and_how_soon_others_took_their_place() {
        let told = told(System::Spillway, Kind::Kill { at_percent: 30 }, vec![2, 6, 10, 14], Some(vec![1.9, 0.7, 0.8, 0.9]));
        let json = serde_json::json!(told);
        assert_eq!(json["fault"]["kind"], "kill");
        assert_eq!((&json["fault"]["at_percent"], &json["fault"]["terminals"][3]), (&30.into(), &"terminal-15".into()));
        let fields = ["struck_s", "struck_percent", "replacements", "replacement_median_s", "replacement_max_s"];
        let expected: [serde_json::Value; 5] = [8.411.into(), 30.21.into(), 4.into(), 0.8.into(), 1.9.into()];
        assert_eq!(fields.map(|field| json[field].clone()), expected);
        let lines = told.lines();
        assert!(lines.starts_with("killed 4 (03 07 11 15) after 8.41 s, at 30.2 %\n"), "{lines}");
        assert!(lines.contains("median 0.80 s, at most 1.90 s (4 times)"), "{lines}");
        assert!(lines.lines().all(|line| line.chars().count() <= 80), "{lines}");
    }

    #[test]
    fn what_is_not_known_is_missing_and_not_zero() {
        let libtorrent = serde_json::json!(told(System::Libtorrent, Kind::Stop { at_percent: 20 }, vec![8], Some(vec![])));
        assert_eq!((&libtorrent["replacements"], &libtorrent["struck_s"]), (&serde_json::Value::Null, &8.411.into()));
        let nobody = serde_json::json!(told(System::Spillway, Kind::Stop { at_percent: 20 }, vec![8], Some(vec![])));
        assert_eq!((&nobody["replacements"], &nobody["replacement_median_s"]), (&0.into(), &serde_json::Value::Null));
        let slow = told(System::Spillway, Kind::Slow { honest: false }, vec![8], None);
        assert_eq!(slow.lines(), "a 10th of what they state: 1 (09)\n");
        let json = serde_json::json!(slow);
        assert_eq!((&json["fault"]["honest"], &json["struck_s"]), (&false.into(), &serde_json::Value::Null));
    }

    #[test]
    fn many_terminals_fit_a_line() {
        let told = told(System::Spillway, Kind::Absent, (0..14).collect(), None);
        assert_eq!(told.lines(), "absent 14 (01 02 03 04 05 06 07 08 …)\n");
    }
}
