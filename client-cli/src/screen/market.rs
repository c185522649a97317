//! Releases, applications and deliveries as text.

use protocol::rest::{Application, ApplicationState, Delivery, DeliveryState, Explanation, Release, ReleaseState, Selection};
use protocol::{Amount, BasisPoints, Bytes, Money};
use rules::auction::least_maximum;
use time::OffsetDateTime;

use super::table::{LINE_CHARACTERS_MAX, table, width};
use super::{clean, date_time, distance};

/// One line per release.
pub(crate) fn releases_table(releases: &[Release], now: OffsetDateTime) -> String {
    if releases.is_empty() {
        return "No releases.\n".into();
    }
    let rows: Vec<Vec<String>> = releases
        .iter()
        .map(|release| {
            vec![release.id.to_string(), state_word(release.state).into(), distance(release.starts_at, now), clean(&release.title)]
        })
        .collect();
    table(&["RELEASE", "STATE", "STARTS", "TITLE"], &rows)
}

/// What a list does not show because it is over; nothing if it shows all.
pub(crate) fn left_out(over: usize) -> String {
    match over {
        0 => String::new(),
        1 => "1 release that is over is left out: --all shows it.\n".to_owned(),
        over => format!("{over} releases that are over are left out: --all shows them.\n"),
    }
}

/// Everything about one release.
pub(crate) fn release_page(release: &Release, now: OffsetDateTime) -> String {
    let times = [("Opens", release.opens_at), ("Closes", release.closes_at), ("Starts", release.starts_at), ("Ends", release.deadline_at)];
    let mut page = format!("{}\n\nRelease    {}\nState      {}\n", clean(&release.title), release.id, state_word(release.state));
    for (name, moment) in times {
        page.push_str(&format!("{name:<11}{} ({})\n", date_time(moment), distance(moment, now)));
    }
    if release.sealed {
        page.push_str("Sealed     comes encrypted from the closing on; each rank is given the key at its second\n");
    }
    let selection = match release.selection {
        Selection::Auction => "auction: who pays is decided by all bids, never by one's own",
        Selection::FirstCome => "first come, first served, at the reserve",
        Selection::MeasuredQuality => "the fastest uplink seen in transfers first, at the reserve",
    };
    page.push_str(&format!("Selection  {selection}\n"));
    page.push_str(&format!(
        "Relays     get {} of what is left of a charge after the fee of {}\n",
        percent(release.relay_share),
        percent(release.fee)
    ));
    page.push_str(&format!("Origin     {} sent of {} at most\n\n", release.origin.sent, release.origin.budget));
    let ranks: Vec<Vec<String>> = (1u32..)
        .zip(&release.ranks)
        .map(|(number, rank)| {
            let reserve = rank_reserve(release, rank.weight);
            vec![number.to_string(), format!("+{}s", rank.delay_s), places(release, number), reserve.to_string()]
        })
        .collect();
    page.push_str(&table(&["RANK", "STARTS", "PLACES", "FROM"], &ranks));
    for (number, duty) in (1u32..).zip(&release.ranks).filter_map(|(number, rank)| Some((number, rank.duty?))) {
        page.push_str(&format!("Rank {number} stays {} after it has everything (deposit {}).\n", span(duty.after_s), duty.deposit));
    }
    page.push('\n');
    let editions: Vec<Vec<String>> = release
        .editions
        .iter()
        .map(|edition| vec![edition.length.to_string(), edition.applications.to_string(), clean(&edition.label)])
        .collect();
    page.push_str(&table(&["LENGTH", "APPLIED", "EDITION"], &editions));
    page
}

/// The places of an edition in a rank: as the publisher stated, or as closing decided, which may differ from edition to edition.
fn places(release: &Release, rank: u32) -> String {
    let index = usize::try_from(rank).ok().and_then(|rank| rank.checked_sub(1));
    let of = |index: usize| {
        let decided: Vec<u32> = release.editions.iter().filter_map(|edition| edition.places.get(index).copied()).collect();
        match (decided.iter().min(), decided.iter().max(), release.ranks.get(index)?.capacity) {
            (Some(least), Some(most), _) if least == most => Some(most.to_string()),
            (Some(least), Some(most), _) => Some(format!("{least}-{most}")),
            (_, _, Some(stated)) => Some(stated.to_string()),
            (_, _, None) => None,
        }
    };
    index.and_then(of).unwrap_or_else(|| "as applied".to_owned())
}

/// The least price of a place in a rank: the reserve of rank 1 by the weights, rounded up as a bid must reach it.
fn rank_reserve(release: &Release, weight: u32) -> Money {
    let first = release.ranks.first().map_or(1, |rank| rank.weight.max(1));
    let amount = least_maximum(release.reserve.amount, weight, first).unwrap_or(Amount(u64::MAX));
    Money { amount, currency: release.reserve.currency }
}

pub(crate) fn percent(share: BasisPoints) -> String {
    hundredths(share.get().into())
}

/// Hundredths of a percent, which may be more than the whole.
pub(super) fn hundredths(points: u32) -> String {
    match points % 100 {
        0 => format!("{}%", points / 100),
        rest => format!("{}.{rest:02}%", points / 100),
    }
}

/// What an application asks for and what has become of it.
pub(crate) fn application_line(application: &Application, release: &Release) -> String {
    let label = release.editions.iter().find(|edition| edition.edition_id == application.edition_id).map_or("?", |edition| &edition.label);
    let deposit = application.deposit.map(|deposit| format!(" and {deposit} deposit")).unwrap_or_default();
    let asked = format!("{}, rank {} or later, at most {}{deposit}", clean(label), application.rank_wanted, application.maximum);
    let became = match (application.state, &application.award) {
        (ApplicationState::Won, Some(award)) => format!("won rank {} for {}", award.rank, award.price),
        (ApplicationState::Won, None) => "won".to_owned(),
        (ApplicationState::Active, _) => "applied".to_owned(),
        (ApplicationState::Withdrawn, _) => "withdrawn".to_owned(),
        (ApplicationState::Lost, _) => "lost, nothing to pay".to_owned(),
        (ApplicationState::Cancelled, _) => "cancelled, nothing to pay".to_owned(),
    };
    format!("{became} ({asked})")
}

/// The primary terminal that an application's terminal is tied to.
pub(crate) fn tie_line(application: &Application) -> Option<String> {
    let primary = application.award.as_ref()?.primary_terminal_id?;
    Some(format!("tied to primary terminal {primary}"))
}

/// What a delivery's terminal owes the others, and how it has met that.
pub(crate) fn duty_line(delivery: &Delivery, now: OffsetDateTime) -> Option<String> {
    let duty = delivery.duty?;
    let missed = if duty.missed_s > 0 { format!(", {} missed", span(duty.missed_s)) } else { String::new() };
    Some(match (duty.forfeited, duty.until) {
        (Some(forfeited), _) if forfeited.amount.0 > 0 => format!("relay duty over{missed}: {forfeited} of {} forfeited", duty.deposit),
        (Some(_), _) => format!("relay duty over, the deposit of {} is free", duty.deposit),
        (None, Some(until)) => format!("relay duty until {} ({}){missed}", date_time(until), distance(until, now)),
        (None, None) => format!("relay duty: {} after it has everything", span(duty.after_s)),
    })
}

/// Seconds as people say them: `1h30m`, `90s` as `1m30s`.
fn span(seconds: u32) -> String {
    let parts = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let text: String = parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Why each application came to what it came to: a sentence each, in lines of 80 columns.
pub(crate) fn explanations_page(release: &Release, explanations: &[Explanation]) -> String {
    let mut page = format!("{}\n", clean(&release.title));
    for explanation in explanations {
        let edition = release.editions.iter().find(|edition| edition.edition_id == explanation.edition_id);
        page.push_str(&format!("\n{} (bid {})\n", clean(edition.map_or("?", |edition| &edition.label)), explanation.bid_id));
        page.push_str(&wrapped(&explanation.sentence));
    }
    page
}

/// A sentence in indented lines.
fn wrapped(sentence: &str) -> String {
    let mut lines = vec![String::new()];
    for word in sentence.split_whitespace() {
        if lines.last().is_some_and(|line| !line.is_empty() && width(line) + 1 + width(word) > LINE_CHARACTERS_MAX - 2) {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("  {}\n", clean(line))).collect()
}

/// One line per delivery.
pub(crate) fn deliveries_table(deliveries: &[Delivery], release: &Release) -> String {
    let rows: Vec<Vec<String>> = deliveries
        .iter()
        .map(|delivery| {
            let edition = release.editions.iter().find(|edition| edition.edition_id == delivery.edition_id);
            let length = edition.map_or(1, |edition| edition.length.0.max(1));
            let verified = verified(delivery);
            vec![
                delivery.rank.to_string(),
                format!("{}%", u128::from(verified.0) * 100 / u128::from(length)),
                delivery_word(delivery.state, verified, Bytes(length)).to_owned(),
                delivery.charged.to_string(),
                delivery.earned.to_string(),
                clean(edition.map_or("?", |edition| &edition.label)),
            ]
        })
        .collect();
    table(&["RANK", "DONE", "STATE", "CHARGED", "EARNED", "EDITION"], &rows)
}

pub(super) fn state_word(state: ReleaseState) -> &'static str {
    match state {
        ReleaseState::Draft => "draft",
        ReleaseState::Open => "open",
        ReleaseState::Closed => "closed",
        ReleaseState::Live => "live",
        ReleaseState::Settled => "settled",
        ReleaseState::Cancelled => "cancelled",
        ReleaseState::Aborted => "aborted",
    }
}

/// What is known to be there. While it comes, the terminal's own report is ahead of the receipts that it sends in bundles.
fn verified(delivery: &Delivery) -> Bytes {
    match (delivery.state, &delivery.progress) {
        (DeliveryState::Pending, Some(progress)) => delivery.verified.max(progress.verified),
        (DeliveryState::Pending, None) | (DeliveryState::Settled | DeliveryState::Released, _) => delivery.verified,
    }
}

fn delivery_word(state: DeliveryState, verified: Bytes, length: Bytes) -> &'static str {
    match state {
        DeliveryState::Pending if verified.0 == 0 => "waiting",
        DeliveryState::Pending if verified < length => "receiving",
        DeliveryState::Pending => "received",
        DeliveryState::Settled => "settled",
        DeliveryState::Released => "released",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::rest::{Award, DutyStanding, OriginUsage, Rank, ReleaseEdition};
    use protocol::*;
    use time::Duration;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

    fn eur(amount: u64) -> Money {
        Money { amount: Amount(amount), currency: Currency::EUR }
    }

    fn release(title: &str) -> Release {
        Release {
            id: ReleaseId::from_bytes([0xFF; 16]),
            publisher_id: UserId::from_bytes([1; 16]),
            content_id: ContentId::from_bytes([2; 16]),
            title: title.into(),
            state: ReleaseState::Cancelled,
            editions: vec![ReleaseEdition {
                swarm_id: SwarmId::from_bytes([3; 16]),
                edition_id: EditionId([4; 32]),
                label: "en".into(),
                length: Bytes(32 << 20),
                chunks: 512,
                applications: 3,
                places: Vec::new(),
            }],
            ranks: vec![
                Rank { weight: 100, delay_s: 0, capacity: Some(1), duty: None },
                Rank { weight: 33, delay_s: 5, capacity: Some(16), duty: None },
            ],
            waves: Vec::new(),
            primaries_max: 16,
            places_max: None,
            wave_interval_s: None,
            sealed: false,
            selection: Selection::Auction,
            reserve: eur(101),
            opens_at: NOW,
            closes_at: NOW + Duration::seconds(10),
            starts_at: NOW + Duration::days(300),
            deadline_at: NOW + Duration::days(301),
            relay_share: BasisPoints::new(5000).unwrap(),
            fee: BasisPoints::new(205).unwrap(),
            limit_s: 60,
            origin: OriginUsage { budget: Bytes(40 << 20), sent: Bytes(0), reserved: Bytes(0) },
            book_hash: None,
        }
    }

    #[test]
    fn the_list_of_releases_fits_eighty_columns_whatever_their_titles() {
        let text = releases_table(&[release(&"long title ".repeat(20)), release("\u{1b}[31mred")], NOW);
        assert!(text.lines().all(|line| width(line) <= LINE_CHARACTERS_MAX), "{text}");
        assert!(text.lines().all(|line| line.chars().all(|character| !character.is_control())), "{text}");
        assert!(text.contains("ffffffff-ffff-ffff-ffff-ffffffffffff  cancelled  in 300d  long ti"), "{text}");
        assert_eq!(releases_table(&[], NOW), "No releases.\n");
    }

    #[test]
    fn a_release_is_shown_with_what_a_bidder_must_know() {
        let page = release_page(&release("Film"), NOW);
        for part in [
            "in 10s",
            "50%",
            "2.05%",
            "40.0 MiB",
            "2     +5s     16      0.34 EUR",
            "1     +0s     1       1.01 EUR",
            "32.0 MiB  3        en",
        ] {
            assert!(page.contains(part), "{part} is missing in\n{page}");
        }
        assert!(page.lines().all(|line| width(line) <= LINE_CHARACTERS_MAX), "{page}");
    }

    #[test]
    fn an_application_says_what_was_asked_and_what_became_of_it() {
        let mut application = Application {
            id: ApplicationId::from_bytes([1; 16]),
            bid_id: BidId::from_bytes([2; 16]),
            release_id: ReleaseId::from_bytes([0xFF; 16]),
            terminal_id: TerminalId::from_bytes([5; 16]),
            edition_id: EditionId([4; 32]),
            rank_wanted: 1,
            maximum: eur(500),
            deposit: None,
            state: ApplicationState::Active,
            applied_at: NOW,
            award: None,
            version: 1,
        };
        assert_eq!(application_line(&application, &release("Film")), "applied (en, rank 1 or later, at most 5.00 EUR)");
        application.state = ApplicationState::Won;
        application.award = Some(Award {
            delivery_id: DeliveryId::from_bytes([1; 16]),
            rank: 2,
            price: eur(155),
            deposit: None,
            opens_at: NOW,
            primary_terminal_id: None,
        });
        assert_eq!(application_line(&application, &release("Film")), "won rank 2 for 1.55 EUR (en, rank 1 or later, at most 5.00 EUR)");
    }

    #[test]
    fn x05_an_explanation_fits_eighty_columns() {
        let explanation = Explanation {
            application_id: ApplicationId::from_bytes([1; 16]),
            release_id: ReleaseId::from_bytes([0xFF; 16]),
            edition_id: EditionId([4; 32]),
            bid_id: BidId::from_bytes([2; 16]),
            sentence: "You pay 3.15 EUR for rank 1 and not the 5.00 EUR that you offered: ".repeat(4),
            rank_wanted: 1,
            maximum: eur(500),
            won: None,
            lost: None,
        };
        let page = explanations_page(&release("Film"), &[explanation]);
        assert!(page.starts_with("Film\n\nen (bid 02020202-0202-0202-0202-020202020202)\n  You pay 3.15 EUR"), "{page}");
        assert!(page.lines().count() > 5 && page.lines().all(|line| width(line) <= LINE_CHARACTERS_MAX), "{page}");
    }

    #[test]
    fn a_delivery_shows_how_far_it_is_and_what_it_costs() {
        let mut delivery = Delivery {
            id: DeliveryId::from_bytes([1; 16]),
            release_id: ReleaseId::from_bytes([0xFF; 16]),
            terminal_id: TerminalId::from_bytes([5; 16]),
            edition_id: EditionId([4; 32]),
            rank: 1,
            wave: 0,
            primary_terminal_id: None,
            price: eur(155),
            state: DeliveryState::Pending,
            verified: Bytes((32 << 20) - 1),
            charged: eur(0),
            earned: eur(7),
            duty: None,
            sources: Vec::new(),
            progress: None,
            overhead_ns_per_byte: None,
            completed_at: None,
        };
        let length = 32 << 20;
        let reported = |verified| Some(protocol::ws::Progress { verified: Bytes(verified), ..Default::default() });
        let cases = [
            (DeliveryState::Pending, length - 1, None, "1     99%   receiving  0.00 EUR  0.07 EUR  en"),
            (DeliveryState::Pending, 0, None, "1     0%    waiting  0.00 EUR  0.07 EUR  en"),
            (DeliveryState::Pending, 0, reported(length / 2), "1     50%   receiving  0.00 EUR  0.07 EUR  en"),
            (DeliveryState::Pending, length / 2, reported(length), "1     100%  received  0.00 EUR  0.07 EUR  en"),
            (DeliveryState::Settled, length / 4, reported(length / 2), "1     25%   settled  0.00 EUR  0.07 EUR  en"),
            (DeliveryState::Released, 0, None, "1     0%    released  0.00 EUR  0.07 EUR  en"),
        ];
        for (state, verified, progress, line) in cases {
            (delivery.state, delivery.verified, delivery.progress) = (state, Bytes(verified), progress);
            let text = deliveries_table(std::slice::from_ref(&delivery), &release("Film"));
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert_eq!(duty_line(&delivery, NOW), None);
        let owed = DutyStanding { after_s: 5_400, deposit: eur(200), missed_s: 0, until: None, forfeited: None };
        let until = Some(NOW + Duration::minutes(5));
        for (duty, line) in [
            (owed, "relay duty: 1h30m after it has everything"),
            (DutyStanding { until, ..owed }, "relay duty until 2026-11-21 12:05:00Z (in 5m)"),
            (DutyStanding { until, missed_s: 90, ..owed }, "relay duty until 2026-11-21 12:05:00Z (in 5m), 1m30s missed"),
            (DutyStanding { until, forfeited: Some(eur(0)), ..owed }, "relay duty over, the deposit of 2.00 EUR is free"),
            (
                DutyStanding { until, missed_s: 60, forfeited: Some(eur(2)), ..owed },
                "relay duty over, 1m missed: 0.02 EUR of 2.00 EUR forfeited",
            ),
        ] {
            delivery.duty = Some(duty);
            assert_eq!(duty_line(&delivery, NOW).as_deref(), Some(line));
        }
    }

    #[test]
    fn what_is_left_out_is_said_with_the_option_that_shows_it() {
        assert_eq!(left_out(0), "");
        for (over, count) in [(1, "1 release "), (12, "12 releases ")] {
            let text = left_out(over);
            assert!(text.starts_with(count) && text.contains("--all") && width(text.trim_end()) <= LINE_CHARACTERS_MAX, "{text}");
        }
    }
}
