//! What the events and counters of a run say, and what becomes of several runs.

use std::fmt::Write;

use protocol::Bytes;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::bare::Bare;
use crate::demo::client::{number, text};
use crate::failure::Failure;

/// What is asked of the receiver: a share of what the bare library moves, and memory.
const RATIO_MIN: f64 = 0.7;
const PEAK_MAX: Bytes = Bytes(100 << 20);

/// Bytes and the time that they took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

/// When the events of one `spillway get --json` say what came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Timeline {
    /// What came after the first chunk was stored, and the time from then until the last one was.
    pub(super) stored: Measured,
    /// The same bytes, until the whole was synced to the disk, checked against its hash, and had its name.
    pub(super) completed: Measured,
}

/// One content, handed over once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Got {
    pub(super) timeline: Timeline,
    pub(super) length: Bytes,
    /// From the start of the receiver's program until its end.
    pub(super) terminals_cpu_s: f64,
    pub(super) origin_cpu_s: f64,
    pub(super) receiver_peak: Bytes,
    pub(super) holder_peak: Bytes,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) got: Got,
    pub(super) bare: Bare,
}

#[derive(Debug)]
pub(super) struct Figures {
    pub(super) mib: u64,
    /// At least one.
    pub(super) runs: Vec<Run>,
}

/// Exact up to 2^53 bytes.
#[allow(clippy::cast_precision_loss, reason = "lengths are far below 2^53")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// Of something that so many bytes took.
pub(super) fn per_gib(amount: f64, bytes: u64) -> f64 {
    amount / (float(bytes) / float(1 << 30))
}

fn mib(bytes: Bytes) -> f64 {
    float(bytes.0) / float(1 << 20)
}

impl Measured {
    /// Millions of bytes a second.
    pub(super) fn mb_s(self) -> f64 {
        float(self.bytes) / self.seconds / 1e6
    }
}

impl Timeline {
    /// # Errors
    /// If an event is missing, or says that something came from elsewhere than a terminal.
    pub(super) fn read(events: &[Value], length: Bytes) -> Result<Self, Failure> {
        let is = |event: &&Value, kind: &str| event.pointer("/event").and_then(Value::as_str) == Some(kind);
        let verified = |event: &Value| event.pointer("/verified").and_then(Value::as_u64).unwrap_or(0);
        let progress = || events.iter().filter(|event| is(event, "progress"));
        let told = |what: &str| Failure::told(format!("the receiver's events do not tell {what}"));
        let first = progress().find(|event| verified(event) > 0).ok_or_else(|| told("when the first chunk came"))?;
        let last = progress().find(|event| verified(event) == length.0).ok_or_else(|| told("when the last chunk came"))?;
        let completed = events.iter().find(|event| is(event, "completed")).ok_or_else(|| told("when it was complete"))?;
        if (number(last, "/from_peers")?, number(last, "/from_origin")?) != (length.0, 0) {
            return Err(Failure::told(format!("not all of it came from the holder: {last}")));
        }
        let (begun, bytes) = (at(first)?, length.0 - verified(first));
        let until = |event: &Value| {
            let seconds = (at(event)? - begun).as_seconds_f64();
            let measured = Measured { bytes, seconds };
            if bytes > 0 && seconds > 0.0 { Ok(measured) } else { Err(told("any time: it is too short to be measured")) }
        };
        Ok(Self { stored: until(last)?, completed: until(completed)? })
    }
}

/// The receiver's own clock.
fn at(event: &Value) -> Result<OffsetDateTime, Failure> {
    let text = text(event, "/at")?;
    OffsetDateTime::parse(&text, &Rfc3339).map_err(|error| Failure::told(format!("an event's time cannot be read ({error}): {event}")))
}

impl Got {
    pub(super) fn goodput_mb_s(&self) -> f64 {
        self.timeline.stored.mb_s()
    }

    fn with_check_mb_s(&self) -> f64 {
        self.timeline.completed.mb_s()
    }

    fn terminals_cpu_s_per_gib(&self) -> f64 {
        per_gib(self.terminals_cpu_s, self.length.0)
    }

    fn origin_cpu_s_per_gib(&self) -> f64 {
        per_gib(self.origin_cpu_s, self.length.0)
    }
}

impl Run {
    fn ratio(&self) -> f64 {
        self.got.goodput_mb_s() / self.bare.mb_s()
    }

    fn json(&self) -> Value {
        let cpu = json!({
            "terminals": self.got.terminals_cpu_s_per_gib(), "origin": self.got.origin_cpu_s_per_gib(), "bare": self.bare.cpu_s_per_gib(),
        });
        json!({
            "goodput_mb_s": self.got.goodput_mb_s(), "with_check_mb_s": self.got.with_check_mb_s(), "bare_mb_s": self.bare.mb_s(),
            "ratio": self.ratio(), "cpu_s_per_gib": cpu,
            "receiver_peak_mib": mib(self.got.receiver_peak), "holder_peak_mib": mib(self.got.holder_peak),
        })
    }
}

impl Figures {
    /// The middle one of all runs, or the mean of the two in the middle.
    fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        let mut values: Vec<f64> = self.runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
    }

    /// Of the runs' ratios: what else the machine does changes from run to run.
    fn ratio(&self) -> f64 {
        self.median(Run::ratio)
    }

    fn peak(&self, of: impl Fn(&Run) -> Bytes) -> Bytes {
        self.runs.iter().map(of).max().unwrap_or(Bytes(0))
    }

    pub(super) fn json(&self) -> Value {
        let cpu = json!({
            "terminals": self.median(|run| run.got.terminals_cpu_s_per_gib()),
            "origin": self.median(|run| run.got.origin_cpu_s_per_gib()),
            "bare": self.median(|run| run.bare.cpu_s_per_gib()),
        });
        json!({
            "mib": self.mib,
            "goodput_mb_s": self.median(|run| run.got.goodput_mb_s()),
            "with_check_mb_s": self.median(|run| run.got.with_check_mb_s()),
            "bare_mb_s": self.median(|run| run.bare.mb_s()),
            "ratio": self.ratio(),
            "cpu_s_per_gib": cpu,
            "receiver_peak_mib": mib(self.peak(|run| run.got.receiver_peak)),
            "holder_peak_mib": mib(self.peak(|run| run.got.holder_peak)),
            "runs": self.runs.iter().map(Run::json).collect::<Vec<_>>(),
        })
    }

    pub(super) fn table(&self) -> String {
        let mut table = format!("{} MiB from one terminal to another over loopback\n\n", self.mib);
        table.push_str("                    MB/s                 cpu s per GiB           peak MiB\n");
        table.push_str("run     get  +check    bare  ratio  terminals  origin   bare  receiver  holder\n");
        let mut line = |name: &str, rates: [f64; 4], cpu: [f64; 3], peaks: [Bytes; 2]| {
            let ([get, check, bare, ratio], [terminals, origin, library], [receiver, holder]) = (rates, cpu, peaks.map(mib));
            let _ = writeln!(
                table,
                "{name:<6} {get:>5.1}  {check:>6.1}  {bare:>6.1}  {ratio:>5.2}  {terminals:>9.1}  {origin:>6.1}  {library:>5.1}  \
                 {receiver:>8.1}  {holder:>6.1}"
            );
        };
        let rates = |run: &Run| [run.got.goodput_mb_s(), run.got.with_check_mb_s(), run.bare.mb_s(), run.ratio()];
        let cpu = |run: &Run| [run.got.terminals_cpu_s_per_gib(), run.got.origin_cpu_s_per_gib(), run.bare.cpu_s_per_gib()];
        for (number, run) in (1..).zip(&self.runs) {
            let number: u32 = number;
            line(&number.to_string(), rates(run), cpu(run), [run.got.receiver_peak, run.got.holder_peak]);
        }
        let medians = |of: &dyn Fn(&Run) -> f64| self.median(of);
        line(
            "all",
            std::array::from_fn(|index| medians(&|run| rates(run)[index])),
            std::array::from_fn(|index| medians(&|run| cpu(run)[index])),
            [self.peak(|run| run.got.receiver_peak), self.peak(|run| run.got.holder_peak)],
        );
        table
    }

    /// # Errors
    /// What is not as it is asked for.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let (ratio, peak) = (self.ratio(), self.peak(|run| run.got.receiver_peak));
        if peak >= PEAK_MAX {
            return Err(Failure::told(format!(
                "the receiver had {:.1} MiB resident, and less than {:.0} are asked for",
                mib(peak),
                mib(PEAK_MAX)
            )));
        }
        if ratio < RATIO_MIN {
            return Err(Failure::told(format!("{ratio:.2} of what the bare library moves, and {RATIO_MIN} are asked for")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bare::tests::bare;
    use super::*;

    const LENGTH: Bytes = Bytes(1 << 30);

    fn event(kind: &str, second: f64, verified: u64) -> Value {
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds_f64(second);
        json!({ "event": kind, "at": at.format(&Rfc3339).unwrap(), "verified": verified, "from_peers": verified, "from_origin": 0 })
    }

    fn events() -> Vec<Value> {
        let third = LENGTH.0 / 4;
        vec![
            event("plan", 1.0, 0),
            event("progress", 1.0, 0),
            event("progress", 2.5, third),
            event("progress", 3.5, 2 * third),
            event("progress", 6.5, LENGTH.0),
            event("completed", 8.5, 0),
            event("progress", 9.0, LENGTH.0),
        ]
    }

    fn got(seconds: f64, peak_mib: u64) -> Got {
        let stored = Measured { bytes: LENGTH.0, seconds };
        let (receiver_peak, holder_peak) = (Bytes(peak_mib << 20), Bytes(1 << 20));
        Got {
            timeline: Timeline { stored, completed: stored },
            length: LENGTH,
            terminals_cpu_s: 6.0,
            origin_cpu_s: 1.0,
            receiver_peak,
            holder_peak,
        }
    }

    fn figures(runs: &[(f64, f64, u64)]) -> Figures {
        let run = |&(get, library, peak)| Run { got: got(get, peak), bare: bare(LENGTH.0, library) };
        Figures { mib: 1024, runs: runs.iter().map(run).collect() }
    }

    #[test]
    fn what_the_first_report_has_already_is_not_counted_and_the_last_chunk_ends_it() {
        let read = Timeline::read(&events(), LENGTH).unwrap();
        let bytes = LENGTH.0 / 4 * 3;
        assert_eq!(read.stored, Measured { bytes, seconds: 4.0 });
        assert_eq!(read.completed, Measured { bytes, seconds: 6.0 });
    }

    #[test]
    fn events_that_do_not_tell_it_are_a_failure_that_says_what_is_missing() {
        let without = |index: usize| {
            let mut left = events();
            left.remove(index);
            left
        };
        assert!(Timeline::read(&[], LENGTH).unwrap_err().to_string().contains("first chunk"));
        assert!(Timeline::read(&without(5), LENGTH).unwrap_err().to_string().contains("complete"));
        assert!(Timeline::read(&events()[..4], LENGTH).unwrap_err().to_string().contains("last chunk"));
        assert!(Timeline::read(&events()[4..], LENGTH).unwrap_err().to_string().contains("too short"));
        let mut helped = events();
        helped[4]["from_origin"] = json!(5);
        assert!(Timeline::read(&helped, LENGTH).unwrap_err().to_string().contains("holder"));
    }

    #[test]
    fn the_middle_run_counts_for_rates_and_the_largest_for_memory() {
        let json = figures(&[(8.0, 4.0, 50), (4.0, 4.0, 70), (5.0, 4.0, 60)]).json();
        let near = |pointer: &str, value: f64| {
            let found = json.pointer(pointer).and_then(Value::as_f64).unwrap();
            assert!((found - value).abs() < 1e-6, "{pointer} is {found}");
        };
        near("/ratio", 0.8);
        near("/goodput_mb_s", 214.748_364_8);
        near("/bare_mb_s", 268.435_456);
        near("/receiver_peak_mib", 70.0);
        near("/cpu_s_per_gib/terminals", 6.0);
        near("/cpu_s_per_gib/bare", 2.0);
        near("/runs/0/ratio", 0.5);
        let two = figures(&[(8.0, 4.0, 50), (4.0, 4.0, 70)]);
        assert!((two.ratio() - 0.75).abs() < 1e-9);
        assert_eq!(two.table().lines().count(), 2 + 2 + 2 + 1, "a title, a head, a line per run and one for all: {}", two.table());
    }

    #[test]
    fn too_slow_or_too_large_is_a_failure() {
        assert_eq!(figures(&[(5.0, 4.0, 99)]).verdict(), Ok(()));
        assert!(figures(&[(5.0, 4.0, 100)]).verdict().unwrap_err().to_string().contains("resident"));
        assert!(figures(&[(5.0, 3.0, 99)]).verdict().unwrap_err().to_string().contains("0.60"));
    }
}
