//! The end of a log file, for failures that should explain themselves.

use std::fs;
use std::path::Path;

/// Lines that are quoted: enough for an error with its context, little enough to leave the message readable.
const LINES: usize = 15;

/// The last lines of the log and its path, beginning with a line break; only the path if it is empty or unreadable.
pub(super) fn quote(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let kept = &lines[lines.len().saturating_sub(LINES)..];
    let mut quote = format!("; its log is {}", log.display());
    for line in kept {
        quote.push_str("\n    ");
        quote.push_str(line);
    }
    quote
}
