//! A child's events: one JSON object a line in a file that grows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde_json::Value;

/// A file of events and how far it was read.
#[derive(Debug)]
pub(crate) struct Events {
    path: PathBuf,
    read_to: u64,
}

impl Events {
    /// The events in the file `path`, which need not be there yet.
    pub(crate) fn of(path: PathBuf) -> Self {
        Self { path, read_to: 0 }
    }

    /// The whole lines that were added since the last look; a half-written one waits for the next. What is not JSON is passed over.
    pub(crate) fn read(&mut self) -> Vec<Value> {
        let Ok(mut file) = File::open(&self.path) else { return Vec::new() };
        let mut text = String::new();
        if file.seek(SeekFrom::Start(self.read_to)).is_err() || file.read_to_string(&mut text).is_err() {
            return Vec::new();
        }
        let Some(end) = text.rfind('\n') else { return Vec::new() };
        self.read_to += end as u64 + 1;
        text[..end].lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use serde_json::json;

    use super::*;

    #[test]
    fn each_event_is_read_once_and_only_when_its_line_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut events = Events::of(path.clone());
        assert!(events.read().is_empty(), "there is no file yet");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(b"{\"event\":1}\nnot an event\n{\"event\":").unwrap();
        assert_eq!(events.read(), [json!({ "event": 1 })]);
        assert!(events.read().is_empty());
        file.write_all(b"2}\n").unwrap();
        assert_eq!(events.read(), [json!({ "event": 2 })]);
    }
}
