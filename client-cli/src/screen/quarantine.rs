//! Quarantines as text.

use protocol::rest::Quarantine;
use time::OffsetDateTime;

use super::{clean, date_time};

/// Each with why, until when, what was said to it and what was decided.
pub(crate) fn quarantines_page(quarantines: &[Quarantine], now: OffsetDateTime) -> String {
    if quarantines.is_empty() {
        return "No terminal is or was in quarantine.".to_owned();
    }
    quarantines.iter().map(|quarantine| paragraph(quarantine, now)).collect::<Vec<_>>().join("\n")
}

fn paragraph(quarantine: &Quarantine, now: OffsetDateTime) -> String {
    let state = match (quarantine.is_in_force(now), &quarantine.decision) {
        (true, _) => "until",
        (false, Some(decision)) if decision.lifted => "lifted; was to end",
        (false, Some(_) | None) => "over since",
    };
    let mut text = format!(
        "{}  {state} {}\nterminal {}\n  {}: {}\n",
        quarantine.id,
        date_time(quarantine.expires_at),
        quarantine.terminal_id,
        quarantine.reason,
        clean(&quarantine.note)
    );
    if quarantine.evidence.is_some() {
        text.push_str("  shown by its own signature; see --json\n");
    }
    if let Some(appeal) = &quarantine.appeal {
        text.push_str(&format!("  appealed {}: {}\n", date_time(appeal.at), clean(&appeal.text)));
    }
    if let Some(decision) = &quarantine.decision {
        let what = if decision.lifted { "lifted" } else { "upheld" };
        text.push_str(&format!("  {what} {}: {}\n", date_time(decision.at), clean(&decision.note)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::rest::{Appeal, Decision, QuarantineReason};
    use protocol::{QuarantineId, TerminalId};
    use time::macros::datetime;

    #[test]
    fn x03_a_quarantine_shows_why_until_when_and_what_came_of_the_appeal() {
        let mut quarantine = Quarantine {
            id: QuarantineId::from_bytes([1; 16]),
            terminal_id: TerminalId::from_bytes([2; 16]),
            reason: QuarantineReason::Denial,
            note: "took 4 MiB\u{1b}[2J unsigned".into(),
            evidence: None,
            begun_at: datetime!(2026-11-24 12:00 UTC),
            expires_at: datetime!(2026-12-24 12:00 UTC),
            appeal: Some(Appeal { text: "a broken disk".into(), at: datetime!(2026-11-25 12:00 UTC) }),
            decision: None,
        };
        let now = datetime!(2026-11-26 12:00 UTC);
        let text = quarantines_page(std::slice::from_ref(&quarantine), now);
        assert!(text.contains("until 2026-12-24") && text.contains("denial: took 4 MiB?[2J") && text.contains("a broken disk"), "{text}");
        assert!(quarantines_page(std::slice::from_ref(&quarantine), datetime!(2027-01-01 00:00 UTC)).contains("over since"));
        quarantine.decision = Some(Decision { lifted: true, note: "believed".into(), at: now });
        let text = quarantines_page(std::slice::from_ref(&quarantine), now);
        assert!(text.contains("lifted; was to end") && text.contains("lifted 2026-11-26 12:00:00Z: believed"), "{text}");
    }
}
