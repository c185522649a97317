//! Which steps a run has, decided from its options.

use clap::ValueEnum;

/// The workspace member that holds the end-to-end tests.
const END_TO_END: &str = "tests";

/// What can be asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// Formatting
    Fmt,
    /// Which crate may depend on and mention what
    Borders,
    /// Lints, with warnings as errors
    Clippy,
    /// The documentation, with warnings as errors
    Doc,
    /// The programs
    Build,
    /// The tests of each crate
    Unit,
    /// The tests of the whole product
    E2e,
}

/// One step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Fmt,
    Borders,
    Clippy,
    Doc,
    Build,
    Tests(Tests),
}

/// Which tests a step runs. All of them run at once rather than one half after the other: the end-to-end tests mostly wait, and the
/// others fill that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tests {
    All,
    Unit,
    EndToEnd,
}

impl Tests {
    /// Whether a TURN server has to be installed: terminals that meet through one are tested end to end.
    pub(crate) fn need_turn(self) -> bool {
        match self {
            Self::All | Self::EndToEnd => true,
            Self::Unit => false,
        }
    }
}

/// The program that runs the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    Nextest,
    CargoTest,
}

impl Step {
    /// How the step is called in what people read.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Borders => "borders",
            Self::Clippy => "clippy",
            Self::Doc => "doc",
            Self::Build => "build",
            Self::Tests(Tests::All) => "tests",
            Self::Tests(Tests::Unit) => "tests (unit)",
            Self::Tests(Tests::EndToEnd) => "tests (e2e)",
        }
    }

    /// Whether the step runs the programs of the build step.
    pub(crate) fn needs_programs(self) -> bool {
        match self {
            Self::Tests(_) => true,
            Self::Fmt | Self::Borders | Self::Clippy | Self::Doc | Self::Build => false,
        }
    }
}

/// The steps of a run: the quick ones first, so that a slip shows early. Nothing asked for means everything.
pub(crate) fn steps(only: &[Check]) -> Vec<Step> {
    let wants = |check: Check| only.is_empty() || only.contains(&check);
    let tests = match (wants(Check::Unit), wants(Check::E2e)) {
        (true, true) => Some(Tests::All),
        (true, false) => Some(Tests::Unit),
        (false, true) => Some(Tests::EndToEnd),
        (false, false) => None,
    };
    let mut steps = Vec::new();
    for (check, step) in [(Check::Fmt, Step::Fmt), (Check::Borders, Step::Borders), (Check::Clippy, Step::Clippy), (Check::Doc, Step::Doc)]
    {
        if wants(check) {
            steps.push(step);
        }
    }
    if wants(Check::Build) || tests.is_some() {
        steps.push(Step::Build);
    }
    steps.extend(tests.map(Step::Tests));
    steps
}

impl Runner {
    /// Cargo's arguments for a step's tests, followed by the person's own.
    pub(crate) fn arguments(self, tests: Tests, is_ci: bool, own: &[String]) -> Vec<String> {
        let runner: &[&str] = match (self, is_ci) {
            (Self::Nextest, true) => &["nextest", "run", "--profile", "ci"],
            (Self::Nextest, false) => &["nextest", "run"],
            // nextest is told the same by its configuration.
            (Self::CargoTest, _) => &["test", "--no-fail-fast"],
        };
        let selection: &[&str] = match tests {
            Tests::All => &["--workspace"],
            Tests::Unit => &["--workspace", "--exclude", END_TO_END],
            Tests::EndToEnd => &["--package", END_TO_END],
        };
        runner.iter().chain(selection).map(|&argument| argument.to_owned()).chain(own.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_for_means_every_step_once_and_the_tests_last() {
        let all = [Step::Fmt, Step::Borders, Step::Clippy, Step::Doc, Step::Build, Step::Tests(Tests::All)];
        assert_eq!(steps(&[]), all);
        assert_eq!(steps(Check::value_variants()), all);
    }

    #[test]
    fn tests_are_never_run_against_programs_of_an_earlier_build() {
        assert_eq!(steps(&[Check::E2e]), [Step::Build, Step::Tests(Tests::EndToEnd)]);
        assert_eq!(steps(&[Check::Unit]), [Step::Build, Step::Tests(Tests::Unit)]);
        assert_eq!(steps(&[Check::Clippy, Check::Fmt]), [Step::Fmt, Step::Clippy]);
    }

    #[test]
    fn the_two_halves_select_every_test_exactly_once() {
        let own = ["a_name".to_owned()];
        assert_eq!(Runner::Nextest.arguments(Tests::Unit, false, &own), ["nextest", "run", "--workspace", "--exclude", "tests", "a_name"]);
        assert_eq!(Runner::Nextest.arguments(Tests::EndToEnd, true, &[]), ["nextest", "run", "--profile", "ci", "--package", "tests"]);
        assert_eq!(Runner::CargoTest.arguments(Tests::All, true, &[]), ["test", "--no-fail-fast", "--workspace"]);
    }
}
