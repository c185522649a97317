//! How an application stands, in words and as JSON.

use protocol::rest::{Application, ApplicationState, Release};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::{clean, date_time, distance, happens};
use super::event::moment;

/// An application with what a person must know of its release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub application: Application,
    /// As the publisher wrote it.
    pub title: String,
    /// The edition's label.
    pub edition: String,
    pub decided_at: OffsetDateTime,
    /// Of the wave that was won a place in; of the release before that.
    pub starts_at: OffsetDateTime,
}

impl Standing {
    pub(crate) fn of(release: &Release, application: &Application) -> Self {
        let edition = release.editions.iter().find(|edition| edition.edition_id == application.edition_id);
        Self {
            application: application.clone(),
            title: release.title.clone(),
            edition: edition.map_or_else(|| "?".to_owned(), |edition| edition.label.clone()),
            decided_at: release.closes_at,
            starts_at: application.award.as_ref().map_or(release.starts_at, |award| award.opens_at),
        }
    }

    /// One or two lines, of 80 columns if the title is short.
    pub(super) fn lines(&self, now: OffsetDateTime) -> Vec<String> {
        let name = format!("{} ({})", clean(&self.title), clean(&self.edition));
        let starts = happens("start", self.starts_at, now);
        match (self.application.state, &self.application.award) {
            (ApplicationState::Active, _) => {
                let (decided_at, starts_at) = (date_time(self.decided_at), date_time(self.starts_at));
                let (decided, starts) = (distance(self.decided_at, now), distance(self.starts_at, now));
                vec![format!("Waiting for {name}:"), format!("  decided {decided_at} ({decided}), starts {starts_at} ({starts})")]
            }
            (ApplicationState::Won, Some(award)) => vec![format!("{name}: won rank {} for {}, {starts}", award.rank, award.price)],
            (ApplicationState::Won, None) => vec![format!("{name}: won, {starts}")],
            (ApplicationState::Lost, _) => vec![format!("{name}: lost, nothing to pay")],
            (ApplicationState::Withdrawn, _) => vec![format!("{name}: withdrawn")],
            (ApplicationState::Cancelled, _) => vec![format!("{name}: cancelled, nothing to pay")],
        }
    }

    pub(super) fn json(&self, now: OffsetDateTime) -> Value {
        let Application { id, release_id, edition_id, state, award, .. } = &self.application;
        json!({
            "event": "application", "application_id": id, "release_id": release_id, "edition_id": edition_id,
            "title": self.title, "edition": self.edition, "state": state,
            "rank": award.as_ref().map(|award| award.rank), "price": award.as_ref().map(|award| award.price.amount),
            "decided_at": moment(self.decided_at), "starts_at": moment(self.starts_at), "at": moment(now),
        })
    }
}

/// The application `number` to a film that is decided at noon of 21 November 2026 and starts ten seconds later.
#[cfg(test)]
pub(crate) fn standing_for_tests(number: u8, state: ApplicationState) -> Standing {
    use protocol::{Amount, ApplicationId, Currency, EditionId, Money, ReleaseId, TerminalId};
    use time::macros::datetime;

    let decided_at = datetime!(2026-11-21 12:00 UTC);
    let application = Application {
        id: ApplicationId::from_bytes([number; 16]),
        bid_id: protocol::BidId::from_bytes([number; 16]),
        release_id: ReleaseId::from_bytes([9; 16]),
        terminal_id: TerminalId::from_bytes([5; 16]),
        edition_id: EditionId([2; 32]),
        rank_wanted: 1,
        maximum: Money { amount: Amount(500), currency: Currency::EUR },
        deposit: None,
        state,
        applied_at: decided_at,
        award: None,
        version: 1,
    };
    Standing {
        application,
        title: "Premiere".into(),
        edition: "film".into(),
        decided_at,
        starts_at: decided_at + time::Duration::seconds(10),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::table::{LINE_CHARACTERS_MAX, width};
    use super::*;
    use protocol::rest::Award;
    use protocol::{Amount, Currency, DeliveryId, Money};
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-21 11:59:40 UTC);

    #[test]
    fn who_waits_is_told_for_what_and_until_when() {
        let lines = standing_for_tests(1, ApplicationState::Active).lines(NOW);
        assert_eq!(
            lines,
            ["Waiting for Premiere (film):", "  decided 2026-11-21 12:00:00Z (in 20s), starts 2026-11-21 12:00:10Z (in 30s)"]
        );
        assert!(lines.iter().all(|line| width(line) <= LINE_CHARACTERS_MAX), "{lines:?}");
    }

    #[test]
    fn what_became_of_an_application_is_one_line() {
        let mut won = standing_for_tests(1, ApplicationState::Won);
        let price = Money { amount: Amount(150), currency: Currency::EUR };
        won.application.award = Some(Award {
            deposit: None,
            delivery_id: DeliveryId::from_bytes([1; 16]),
            rank: 2,
            price,
            opens_at: won.starts_at,
            primary_terminal_id: None,
        });
        assert_eq!(won.lines(NOW), ["Premiere (film): won rank 2 for 1.50 EUR, starts in 30s"]);
        for (state, words) in [
            (ApplicationState::Lost, "lost, nothing to pay"),
            (ApplicationState::Withdrawn, "withdrawn"),
            (ApplicationState::Cancelled, "cancelled, nothing to pay"),
        ] {
            assert_eq!(standing_for_tests(1, state).lines(NOW), [format!("Premiere (film): {words}")]);
        }
        let mut hostile = standing_for_tests(1, ApplicationState::Lost);
        hostile.title = "\u{1b}[2J".into();
        assert!(!hostile.lines(NOW)[0].contains('\u{1b}'));
    }

    #[test]
    fn a_program_gets_the_same_as_one_object() {
        let json = standing_for_tests(1, ApplicationState::Active).json(NOW);
        assert_eq!((json["event"].as_str(), json["state"].as_str()), (Some("application"), Some("active")));
        assert_eq!((&json["decided_at"], &json["starts_at"]), (&"2026-11-21T12:00:00Z".into(), &"2026-11-21T12:00:10Z".into()));
        assert_eq!((&json["rank"], &json["price"]), (&Value::Null, &Value::Null));
    }
}
