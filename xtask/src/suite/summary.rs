//! The table at the end of a run, and its verdict.

use std::fmt;
use std::time::Duration;

use crate::failure::Failure;
use crate::suite::plan::Step;

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// Not run, because something that it needs had failed.
    Skipped,
    Interrupted,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
            Self::Interrupted => "interrupted",
        }
    }
}

/// The steps that have ended, in order.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    rows: Vec<(Step, Outcome, Duration)>,
}

impl Summary {
    pub(crate) fn add(&mut self, step: Step, outcome: Outcome, took: Duration) {
        self.rows.push((step, outcome, took));
    }

    /// Whether this step has failed.
    pub(crate) fn has_failed(&self, step: Step) -> bool {
        self.rows.iter().any(|(other, outcome, _)| *other == step && *outcome == Outcome::Failed)
    }

    /// Success only if every step passed.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let bad: Vec<&str> =
            self.rows.iter().filter(|(_, outcome, _)| *outcome != Outcome::Passed).map(|(step, ..)| step.title()).collect();
        if bad.is_empty() { Ok(()) } else { Err(Failure::told(format!("not passed: {}", bad.join(", ")))) }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "  {:<14}{:<13}{:>9}", "step", "result", "seconds")?;
        for (step, outcome, took) in &self.rows {
            writeln!(formatter, "  {:<14}{:<13}{:>9.1}", step.title(), outcome.word(), took.as_secs_f64())?;
        }
        let total: Duration = self.rows.iter().map(|(_, _, took)| *took).sum();
        writeln!(formatter, "  {:<14}{:<13}{:>9.1}", "total", "", total.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::plan::Tests;

    #[test]
    fn one_step_that_did_not_pass_spoils_the_verdict_and_is_named() {
        let mut summary = Summary::default();
        summary.add(Step::Fmt, Outcome::Passed, Duration::from_millis(1200));
        assert_eq!(summary.verdict(), Ok(()));
        for bad in [Outcome::Failed, Outcome::Skipped, Outcome::Interrupted] {
            let mut summary = Summary::default();
            summary.add(Step::Fmt, Outcome::Passed, Duration::ZERO);
            summary.add(Step::Tests(Tests::All), bad, Duration::ZERO);
            assert_eq!(summary.verdict(), Err(Failure::told("not passed: tests")));
        }
    }

    #[test]
    fn the_table_has_a_line_per_step_and_the_total() {
        let mut summary = Summary::default();
        summary.add(Step::Fmt, Outcome::Passed, Duration::from_millis(1200));
        summary.add(Step::Build, Outcome::Failed, Duration::from_secs(2));
        let table = summary.to_string();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [vec!["step", "result", "seconds"], vec!["fmt", "passed", "1.2"], vec!["build", "FAILED", "2.0"], vec!["total", "3.2"]]
        );
    }
}
