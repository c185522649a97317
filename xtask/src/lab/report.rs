//! What came out: a table for people, JSON for programs, and the verdict.

use std::fmt::Write;

use serde::Serialize;

use super::faults::told::FaultTold;
use super::inside::Measured;
use super::plan::{Budget, Plan, System};
use crate::failure::Failure;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// One run beside its bound. Times are seconds from t0; they are missing unless every terminal that is left was complete.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Run {
    system: &'static str,
    run: u32,
    /// How many terminals took part.
    n: usize,
    /// How many of them are left in the end.
    expected: usize,
    mib: u64,
    origin_up_mbit: u64,
    /// One per terminal.
    uplinks_mbit: Vec<u64>,
    peer_down_mbit: u64,
    /// Only Spillway has these three.
    budget: Option<Budget>,
    headroom: Option<u64>,
    optimised: Option<bool>,
    super_seeding: bool,
    bound_s: f64,
    /// How many of those that are left have the payload, by the hash of what lies on their disks.
    completed: usize,
    setup_s: f64,
    last_s: Option<f64>,
    p99_s: Option<f64>,
    median_s: Option<f64>,
    /// The last terminal's time over the bound.
    ratio_to_bound: Option<f64>,
    /// Link bytes that the origin sent, over the payload's length.
    origin_egress_x: f64,
    /// Payload that the origin sent, over the payload's length.
    origin_payload_x: f64,
    /// Link bytes that all terminals sent, over the payload's length.
    terminals_egress_x: f64,
    cpu_s_per_gib: Option<f64>,
    #[serde(flatten)]
    fault: FaultTold,
    wrong: Vec<String>,
}

impl Run {
    pub(super) fn of(plan: &Plan, measured: &Measured) -> Self {
        let (n, bound_s) = (plan.terminals(), plan.bound().as_secs_f64());
        let mut times = measured.completed_s.clone();
        times.sort_by(f64::total_cmp);
        let is_whole = times.len() == plan.expected();
        let at = |percent: usize| is_whole.then(|| rounded(quantile(&times, percent)));
        let times_of_payload = |bytes: u64| rounded(as_float(bytes) / as_float(plan.size().0).max(1.0));
        let delivered_gib = as_float(plan.size().0 * times.len() as u64) / GIB;
        Self {
            system: plan.system.name(),
            run: plan.run,
            n,
            expected: plan.expected(),
            mib: plan.mib,
            origin_up_mbit: plan.origin_up_mbit,
            uplinks_mbit: plan.uplinks_mbit.clone(),
            peer_down_mbit: plan.peer_down_mbit,
            budget: (plan.system == System::Spillway).then(|| plan.budget.clone()),
            headroom: (plan.system == System::Spillway).then_some(plan.headroom),
            optimised: (plan.system == System::Spillway).then_some(plan.release),
            super_seeding: plan.super_seeding && plan.system == System::Libtorrent,
            bound_s: rounded(bound_s),
            completed: times.len(),
            setup_s: rounded(measured.setup_s),
            last_s: at(100),
            p99_s: at(99),
            median_s: at(50),
            ratio_to_bound: is_whole.then(|| rounded(quantile(&times, 100) / bound_s)),
            origin_egress_x: times_of_payload(measured.origin_link_bytes),
            origin_payload_x: times_of_payload(measured.origin_payload_bytes),
            terminals_egress_x: times_of_payload(measured.terminals_link_bytes),
            cpu_s_per_gib: (delivered_gib > 0.0).then(|| rounded(measured.cpu_s / delivered_gib)),
            fault: FaultTold::of(plan, measured),
            wrong: measured.wrong.clone(),
        }
    }
}

/// The nearest-rank quantile of sorted values: with fewer than a hundred of them the 99th is the last.
pub(super) fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[allow(clippy::cast_precision_loss, reason = "lengths and counts of bytes here are far below 2^53")]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

/// To thousandths: more is noise.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A list of runs.
pub(super) fn json(runs: &[Run]) -> String {
    format!("{:#}\n", serde_json::json!(runs))
}

/// At most 80 columns.
pub(super) fn table(runs: &[Run]) -> String {
    let Some(first) = runs.first() else { return String::new() };
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\n{} terminals, {} MiB; Mbit/s: origin {} up, terminals {} up, {} down",
        first.n,
        first.mib,
        first.origin_up_mbit,
        uplinks(first),
        first.peer_down_mbit
    );
    let of_whom = if first.expected < first.n { format!(" of the {} left", first.expected) } else { String::new() };
    let _ = writeln!(text, "bound T*{of_whom} = {:.2} s. Times in s; last, p99, med over T*; bytes over payload\n", first.bound_s);
    text.push_str("system     run  done   set-up     last  last   p99   med origin chunks cpu/GiB\n");
    for run in runs {
        let ratio = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{:.2}", seconds / run.bound_s));
        let _ = writeln!(
            text,
            "{:<10} {:>3} {:>5} {:>8.1} {:>8} {:>5} {:>5} {:>5} {:>6.2} {:>6.2} {:>7}",
            run.system,
            run.run,
            format!("{}/{}", run.completed, run.expected),
            run.setup_s,
            run.last_s.map_or_else(|| "-".to_owned(), |last| format!("{last:.2}")),
            ratio(run.last_s),
            ratio(run.p99_s),
            ratio(run.median_s),
            run.origin_egress_x,
            run.origin_payload_x,
            run.cpu_s_per_gib.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}")),
        );
    }
    text.push('\n');
    summaries(&mut text, runs);
    for run in runs {
        for line in run.fault.lines().lines() {
            let _ = writeln!(text, "{}, run {}: {line}", run.system, run.run);
        }
        for wrong in &run.wrong {
            let _ = writeln!(text, "WRONG  {}, run {}: {wrong}", run.system, run.run);
        }
    }
    text
}

/// The uplinks: one figure, or the least and the most.
fn uplinks(run: &Run) -> String {
    let mut distinct = run.uplinks_mbit.clone();
    distinct.sort_unstable();
    distinct.dedup();
    match distinct.as_slice() {
        [one] => one.to_string(),
        [least, .., most] => format!("{least} to {most}"),
        [] => "none".to_owned(),
    }
}

/// For each system that ran more than once: the middle run and how far the others are from it.
fn summaries(text: &mut String, runs: &[Run]) {
    for system in System::ALL {
        let mut ratios: Vec<f64> = runs.iter().filter(|run| run.system == system.name()).filter_map(|run| run.ratio_to_bound).collect();
        ratios.sort_by(f64::total_cmp);
        if let [least, .., most] = ratios.as_slice() {
            let (name, count, middle) = (system.name(), ratios.len(), quantile(&ratios, 50));
            let _ = writeln!(text, "{name}: last terminal at {middle:.2} x T* in the median of {count} runs ({least:.2} to {most:.2})");
        }
    }
}

/// A failure that counts the terminals that did not get the payload.
pub(super) fn verdict(runs: &[Run]) -> Result<(), Failure> {
    match runs.iter().map(|run| run.expected.saturating_sub(run.completed)).sum::<usize>() {
        0 => Ok(()),
        missing => {
            Err(Failure::told(format!("{missing} deliveries of {} were not completed", runs.iter().map(|run| run.expected).sum::<usize>())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::tests::plan;

    fn measured(completed_s: Vec<f64>) -> Measured {
        Measured {
            setup_s: 2.5,
            completed_s,
            wrong: Vec::new(),
            origin_link_bytes: 36_909_875,
            terminals_link_bytes: 3 << 25,
            origin_payload_bytes: 35_232_153,
            cpu_s: 5.0,
            struck: None,
        }
    }

    fn run(system: System, completed_s: Vec<f64>) -> Run {
        Run::of(&plan(system, vec![10; 4]), &measured(completed_s))
    }

    #[test]
    fn the_last_the_99th_and_the_median_are_nearest_ranks() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([50, 99, 100].map(|percent| quantile(&sorted, percent)), [100.0, 198.0, 200.0]);
        assert_eq!([50, 99, 100].map(|percent| quantile(&sorted[..4], percent)), [2.0, 4.0, 4.0]);
        assert_eq!([50, 99, 100].map(|percent| quantile(&sorted[..1], percent)), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_run_is_compared_with_its_bound_and_its_payload() {
        // 4·F / 60 Mbit/s is 17.896 s.
        let json: serde_json::Value = serde_json::from_str(&json(&[run(System::Libtorrent, vec![19.0, 26.844, 18.0, 20.0])])).unwrap();
        let fields = ["/0/system", "/0/n", "/0/mib", "/0/bound_s", "/0/completed", "/0/setup_s", "/0/last_s", "/0/p99_s", "/0/median_s"];
        let expected: [serde_json::Value; 9] =
            ["libtorrent".into(), 4.into(), 32.into(), 17.896.into(), 4.into(), 2.5.into(), 26.844.into(), 26.844.into(), 19.0.into()];
        assert_eq!(fields.map(|field| json.pointer(field).cloned().unwrap()), expected);
        let ratios = ["/0/ratio_to_bound", "/0/origin_egress_x", "/0/origin_payload_x", "/0/terminals_egress_x", "/0/cpu_s_per_gib"];
        // 128 MiB were delivered.
        assert_eq!(ratios.map(|field| json.pointer(field).and_then(serde_json::Value::as_f64).unwrap()), [1.5, 1.1, 1.05, 3.0, 40.0]);
        assert_eq!(json.pointer("/0/budget"), Some(&serde_json::Value::Null), "only a Spillway release has a budget");
    }

    #[test]
    fn a_run_that_is_not_whole_has_no_times_and_is_a_failure() {
        let mut broken = run(System::Spillway, vec![19.0, 26.0, 18.0]);
        broken.wrong.push("terminal-04 was not complete after 239 s".into());
        assert_eq!((broken.completed, broken.last_s, broken.median_s, broken.ratio_to_bound), (3, None, None, None));
        assert!(verdict(&[run(System::Http, vec![1.0; 4]), broken.clone()]).unwrap_err().to_string().contains("1 deliveries of 8"));
        assert!(verdict(&[run(System::Http, vec![1.0; 4])]).is_ok());
        let table = table(&[broken]);
        assert!(table.contains("3/4") && table.contains("WRONG  spillway, run 1: terminal-04"), "{table}");
        let nothing = run(System::Spillway, Vec::new());
        assert_eq!((nothing.completed, nothing.cpu_s_per_gib), (0, None));
    }

    #[test]
    fn the_table_fits_a_screen_and_tells_the_middle_of_several_runs() {
        let mut plan = plan(System::Libtorrent, super::super::plan::cycle(&[2, 5, 10, 10_000], 64));
        plan.mib = 1024;
        let runs: Vec<Run> = [2.0, 1.5, 1.75]
            .map(|ratio| {
                let last = plan.bound().as_secs_f64() * ratio;
                Run::of(&plan, &Measured { setup_s: 1234.5, origin_link_bytes: 64 << 30, cpu_s: 99_999.0, ..measured(vec![last; 64]) })
            })
            .into();
        let table = table(&runs);
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(table.contains("libtorrent: last terminal at 1.75 x T* in the median of 3 runs (1.50 to 2.00)"), "{table}");
        assert!(table.contains("64/64") && table.contains(" 64.00 "), "{table}");
    }
}
