//! One receiver: a terminal of which nobody has heard before gets the content from the holder, and what that took is read.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use protocol::Bytes;
use serde_json::Value;

use super::figures::{Got, Timeline};
use super::stage::{RECEIVED, Stage};
use crate::children::events::Events;
use crate::children::{Child, Output};
use crate::demo::client::{Client, text};
use crate::demo::contents;
use crate::failure::Failure;
use crate::lab::counters;

/// How often the processes are looked at. Times are in the events; only the last look at the counters is this late.
const LOOK: Duration = Duration::from_millis(20);

impl Stage<'_> {
    /// Gets the content once. What was received is compared with what was published, and removed.
    pub(super) fn get(&self, number: u32) -> Result<Got, Failure> {
        let name = format!("receiver-{number:02}");
        let receiver = Client::register(&self.deployment, &name, &format!("{name}@example.org"))?;
        let voucher = (number as usize).checked_sub(1).and_then(|index| self.vouchers.get(index));
        receiver.call(&["redeem", voucher.ok_or_else(|| Failure::told("fewer vouchers were made than asked for"))?])?;
        let dir = receiver.folder().join(RECEIVED);
        let got = self.follow(&receiver, &["get", &self.content_id, "--dir", &dir.display().to_string()])?;
        fs::remove_dir_all(&dir).map_err(|error| Failure::file("remove", &dir, &error))?;
        Ok(got)
    }

    fn follow(&self, receiver: &Client<'_>, arguments: &[&str]) -> Result<Got, Failure> {
        let log = receiver.folder().join("events.jsonl");
        let output = Output::Split { announcements: log.clone(), log: receiver.folder().join("get.log") };
        let (holder, origin) = (BTreeSet::from([self.holder.id()]), self.origin());
        let before = (counters::cpu_seconds(&holder), counters::cpu_seconds(&origin));
        let mut process = receiver.launch(&receiver.name, arguments, output).start(self.interrupt())?;
        let (mut events, mut told) = (Events::of(log), Vec::new());
        let receiver_peak = self.until_its_end(&mut process, &mut events, &mut told)?;
        // A process that has ended and was not waited for is still known to the kernel.
        let own = counters::cpu_seconds(&BTreeSet::from([process.id()]));
        let status = process.wait()?;
        if !status.success() {
            return Err(process.blame(&format!("ended with {status}")));
        }
        told.extend(events.read());
        let path = told.iter().find(|event| event.pointer("/event").and_then(Value::as_str) == Some("completed"));
        let path = PathBuf::from(text(path.unwrap_or(&Value::Null), "/path")?);
        if contents::hash(&path)? != self.blake3 {
            return Err(Failure::told(format!("{} holds other bytes than were published", path.display())));
        }
        Ok(Got {
            timeline: Timeline::read(&told, self.length)?,
            length: self.length,
            terminals_cpu_s: own + counters::cpu_seconds(&holder) - before.0,
            origin_cpu_s: counters::cpu_seconds(&origin) - before.1,
            receiver_peak,
            holder_peak: counters::peak_resident(self.holder.id()),
        })
    }

    /// Reads the events until the process has ended. Answers its peak memory.
    fn until_its_end(&self, process: &mut Child, events: &mut Events, told: &mut Vec<Value>) -> Result<Bytes, Failure> {
        let (begun, mut peak) = (Instant::now(), Bytes(0));
        loop {
            let has_ended = process.has_ended();
            peak = peak.max(counters::peak_resident(process.id()));
            told.extend(events.read());
            if has_ended {
                return Ok(peak);
            }
            if self.holder.has_ended() {
                return Err(self.holder.blame("ended while it served"));
            }
            if begun.elapsed() > self.patience {
                return Err(process.blame(&format!("did not end within {} s", self.patience.as_secs())));
            }
            self.interrupt().pause(LOOK)?;
        }
    }
}
