//! What a command prints: the same facts as text for people or as JSON for programs.

mod content;
mod kit;
mod market;
mod money;
mod quarantine;
mod report;
mod running;
mod table;
mod tariff;
mod webhook;

use std::io::{ErrorKind, Write};

use serde::Serialize;
use time::OffsetDateTime;

use crate::failure::{Failure, Outcome};

pub(crate) use content::content_page;
pub(crate) use kit::{kit_page, kits_table};
pub(crate) use market::{
    application_line, deliveries_table, duty_line, explanations_page, left_out, percent, release_page, releases_table, tie_line,
};
pub(crate) use money::wallet_page;
pub(crate) use quarantine::quarantines_page;
pub(crate) use report::report_page;
#[cfg(test)]
pub(crate) use running::standing_for_tests;
pub(crate) use running::{Named, RunScreen, Standing};
pub(crate) use tariff::{quote_line, tariff_page, tariffs_table};
pub(crate) use webhook::{attempt_line, secret_page, webhook_deliveries_table, webhooks_page};

/// A command's result.
#[derive(Debug)]
pub(crate) struct Report {
    json: serde_json::Value,
    text: String,
    /// The text is for another program, which counts its line ends.
    exact: bool,
}

impl Report {
    pub(crate) fn new(facts: &impl Serialize, text: impl Into<String>) -> Outcome<Self> {
        let json =
            serde_json::to_value(facts).map_err(|error| Failure::Failed(format!("the result cannot be written as JSON: {error}")))?;
        Ok(Self { json, text: text.into(), exact: false })
    }

    /// A text that another program reads, with its own line ends.
    pub(crate) fn exact(facts: &impl Serialize, text: String) -> Outcome<Self> {
        Ok(Self { exact: true, ..Self::new(facts, text)? })
    }

    /// To standard output. A reader that has stopped reading has what it wanted: that is no failure.
    pub(crate) fn print(&self, json: bool) -> Outcome<()> {
        match (json, self.exact) {
            (true, _) => print_line(&self.json.to_string()),
            (false, true) => print_exactly(&self.text),
            (false, false) => print_line(self.text.trim_end()),
        }
    }
}

/// One line (or a page of them) to standard output, at once.
pub(crate) fn print_line(text: &str) -> Outcome<()> {
    print_exactly(&format!("{text}\n"))
}

fn print_exactly(text: &str) -> Outcome<()> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Failed(format!("cannot write the result: {error}"))),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A text of somebody else's, such as a title, without what could move the cursor or reverse the line.
pub(crate) fn clean(text: &str) -> String {
    let is_harmful = |character: char| {
        character.is_control() || matches!(character, '\u{200E}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|character| if is_harmful(character) { '?' } else { character }).collect()
}

/// `2026-12-24 18:00:05Z`.
pub(crate) fn date_time(moment: OffsetDateTime) -> String {
    let utc = moment.to_offset(time::UtcOffset::UTC);
    let (date, clock) = (utc.date(), utc.time());
    format!("{date} {:02}:{:02}:{:02}Z", clock.hour(), clock.minute(), clock.second())
}

/// `in 5m`, `2h ago`: at most nine characters within a century.
pub(crate) fn distance(moment: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (moment - now).whole_seconds();
    let magnitude = seconds.unsigned_abs();
    let amount = match magnitude {
        0..100 => format!("{magnitude}s"),
        100..6_000 => format!("{}m", magnitude / 60),
        6_000..172_800 => format!("{}h", magnitude / 3_600),
        _ => format!("{}d", magnitude / 86_400),
    };
    if seconds < 0 { format!("{amount} ago") } else { format!("in {amount}") }
}

/// `starts in 5m`, `started 5m ago`: for verbs such as `start` and `open`.
pub(crate) fn happens(verb: &str, moment: OffsetDateTime, now: OffsetDateTime) -> String {
    let ending = if distance(moment, now).ends_with(" ago") { "ed" } else { "s" };
    format!("{verb}{ending} {}", distance(moment, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;
    use time::macros::datetime;

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(clean("Film – \u{1b}[2Jété\r\n\u{202E}x"), "Film – ?[2Jété???x");
    }

    #[test]
    fn moments_are_shown_in_utc_and_as_a_distance() {
        let now = datetime!(2026-11-21 13:00 +01:00);
        assert_eq!(date_time(now), "2026-11-21 12:00:00Z");
        let cases = [
            (Duration::ZERO, "in 0s"),
            (Duration::seconds(90), "in 90s"),
            (Duration::seconds(-5), "5s ago"),
            (Duration::minutes(99), "in 99m"),
            (Duration::hours(-47), "47h ago"),
            (Duration::days(3), "in 3d"),
            (Duration::days(-20_000), "20000d ago"),
        ];
        for (span, text) in cases {
            assert_eq!(distance(now + span, now), text);
        }
        assert_eq!(happens("start", now + Duration::seconds(5), now), "starts in 5s");
        assert_eq!(happens("open", now, now), "opens in 0s");
        assert_eq!(happens("open", now - Duration::seconds(5), now), "opened 5s ago");
    }

    #[test]
    fn a_report_is_one_line_of_json() {
        let report = Report::new(&vec!["a\nb"], "text").unwrap();
        assert_eq!(report.json.to_string(), r#"["a\nb"]"#);
    }
}
