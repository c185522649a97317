//! A release's report as text.

use protocol::rest::{ReleaseReport, Reselection, ReselectionReason, Spread, TerminalReport, WaveReport};
use protocol::{BitsPerSecond, Bytes, TerminalId};

use super::market::state_word;
use super::table::table;
use super::{clean, date_time};

/// Re-selections that are listed one by one.
const LISTED: usize = 10;

/// The release, its waves, its terminals and what was chosen again. `terminals` are those of all pages.
pub(crate) fn report_page(report: &ReleaseReport, terminals: &[TerminalReport]) -> String {
    let totals = &report.totals;
    let mut page = format!("{}\n\nRelease   {}\n", clean(&report.title), report.release_id);
    page.push_str(&format!("State     {}, as of {}\n", state_word(report.state), date_time(report.at)));
    page.push_str(&format!("Complete  {} of {} deliveries\n", totals.complete, totals.deliveries));
    page.push_str(&format!("Bound     {}\n", of_bound(&report.ratio_permille)));
    page.push_str(&format!("Received  {} from the origin, {} from terminals\n", totals.from_origin, totals.from_peers));
    page.push_str(&format!("Origin    {} sent of {} at most\n", report.origin.sent, report.origin.budget));
    page.push_str(&format!("Money     {} charged, {} earned by relays\n", totals.charged, totals.earned));
    if report.waves.is_empty() {
        page.push_str("\nNobody has won yet: see `spillway list` for when the release closes.\n");
        return page;
    }
    page.push('\n');
    page.push_str(&waves_table(&report.waves));
    page.push_str(&rates_lines(&report.waves));
    if !terminals.is_empty() {
        page.push('\n');
        page.push_str(&terminals_table(terminals));
    }
    page.push('\n');
    page.push_str(&reselections(report));
    page
}

/// How the times of all terminals compare with their waves' bounds.
fn of_bound(ratio: &Spread) -> String {
    let part = |name: &str, value: Option<u64>| value.map(|value| format!("{name} {}", times(Some(value))));
    let parts: Vec<String> =
        [part("median", ratio.median), part("99th", ratio.p99), part("last", ratio.last)].into_iter().flatten().collect();
    match (parts.is_empty(), ratio.last) {
        (true, _) => "no time to compare with the bound yet".to_owned(),
        // 1,000 thousandths of the bound are 100 %.
        (false, Some(last)) if last > 0 => format!("{} times it: {}% of what is possible", parts.join(", "), 100_000 / last),
        (false, _) => format!("{} times it", parts.join(", ")),
    }
}

/// `1.06`, from thousandths.
fn times(permille: Option<u64>) -> String {
    permille.map_or_else(|| "-".to_owned(), |permille| format!("{}.{:02}", (permille + 5) / 1_000, (permille + 5) % 1_000 / 10))
}

fn seconds(milliseconds: Option<u64>) -> String {
    milliseconds.map_or_else(|| "-".to_owned(), |ms| format!("{}.{:02}s", (ms + 5) / 1_000, (ms + 5) % 1_000 / 10))
}

fn waves_table(waves: &[WaveReport]) -> String {
    let rows: Vec<Vec<String>> = waves
        .iter()
        .map(|wave| {
            vec![
                rank_of(wave, waves),
                format!("{}/{}", wave.complete, wave.terminals),
                seconds(wave.elapsed_ms.median),
                seconds(wave.elapsed_ms.p99),
                seconds(wave.elapsed_ms.last),
                if wave.bound_ms == 0 { "none".to_owned() } else { seconds(Some(wave.bound_ms)) },
                times(wave.ratio_permille.last),
                clean(&wave.label),
            ]
        })
        .collect();
    table(&["RANK", "DONE", "MEDIAN", "99TH", "LAST", "BOUND", "RATIO", "EDITION"], &rows)
}

/// The wave's rank, with a number where an edition has several waves of it: 3.2 is the second one of rank 3.
fn rank_of(wave: &WaveReport, waves: &[WaveReport]) -> String {
    let of_rank = || waves.iter().filter(|other| other.edition_id == wave.edition_id && other.rank == wave.rank);
    match of_rank().count() {
        0 | 1 => wave.rank.to_string(),
        _ => format!("{}.{}", wave.rank, 1 + of_rank().filter(|other| other.wave < wave.wave).count()),
    }
}

/// Which rates the bounds were computed with, a line per wave.
fn rates_lines(waves: &[WaveReport]) -> String {
    let line = |wave: &WaveReport| {
        let rates = &wave.rates;
        let source = match rates.origin_up {
            Some(BitsPerSecond(0)) => "origin unlimited".to_owned(),
            Some(up) => format!("origin {}", mbit(up)),
            None => format!("{} holders {}", rates.holders, mbit(rates.holders_up)),
        };
        let down = if rates.slowest_down.0 == 0 { "-".to_owned() } else { mbit(rates.slowest_down) };
        let unknown = if rates.unknown_up + rates.unknown_down == 0 {
            String::new()
        } else {
            format!("; unknown: {} up, {} down", rates.unknown_up, rates.unknown_down)
        };
        format!("  rank {}: {source}, up {}, least down {down}{unknown}\n", rank_of(wave, waves), mbit(rates.receivers_up))
    };
    std::iter::once("Bounds by these rates in Mbit/s:\n".to_owned()).chain(waves.iter().map(line)).collect()
}

/// Mbit/s with one decimal.
fn mbit(rate: BitsPerSecond) -> String {
    let tenths = (rate.0 + 50_000) / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn terminals_table(terminals: &[TerminalReport]) -> String {
    let rows: Vec<Vec<String>> = terminals
        .iter()
        .map(|terminal| {
            vec![
                short(terminal.terminal_id),
                terminal.rank.to_string(),
                seconds(terminal.elapsed_ms),
                times(terminal.ratio_permille),
                narrow(terminal.from_origin),
                narrow(terminal.from_peers),
                narrow(terminal.relayed),
                decimal(terminal.charged.amount.0),
                decimal(terminal.earned.amount.0),
            ]
        })
        .collect();
    table(&["TERMINAL", "RANK", "TIME", "RATIO", "ORIGIN", "PEERS", "RELAYED", "CHARGED", "EARNED"], &rows)
}

/// The end of an id: the beginning is the time of its making, which neighbours share.
fn short(terminal: TerminalId) -> String {
    if terminal.is_origin() {
        return "origin".to_owned();
    }
    let id = terminal.to_string();
    id[id.len() - 8..].to_owned()
}

fn narrow(bytes: Bytes) -> String {
    bytes.to_string().replace(' ', "")
}

fn decimal(amount: u64) -> String {
    format!("{}.{:02}", amount / 100, amount % 100)
}

fn reselections(report: &ReleaseReport) -> String {
    if report.reselections.is_empty() {
        return "Nobody had to be replaced.\n".to_owned();
    }
    let counts: Vec<Vec<String>> = report
        .reselections
        .iter()
        .map(|count| vec![count.events.to_string(), count.chunks.to_string(), because(count.reason).to_owned()])
        .collect();
    let mut text = table(&["CHOSEN AGAIN", "CHUNKS", "BECAUSE"], &counts);
    let latest: Vec<Vec<String>> = report.latest_reselections.iter().take(LISTED).map(reselection_row).collect();
    if !latest.is_empty() {
        text.push('\n');
        text.push_str(&table(&["TIME", "TERMINAL", "INSTEAD", "CHUNKS", "BECAUSE"], &latest));
    }
    text
}

fn reselection_row(event: &Reselection) -> Vec<String> {
    let clock = date_time(event.at);
    vec![
        clock[clock.len().saturating_sub(9)..].to_owned(),
        short(event.terminal_id),
        event.replacement.map_or_else(|| "-".to_owned(), short),
        event.chunks.to_string(),
        because(event.reason).to_owned(),
    ]
}

fn because(reason: ReselectionReason) -> &'static str {
    match reason {
        ReselectionReason::Silent => "neighbours found it silent",
        ReselectionReason::Closed => "neighbours lost their links to it",
        ReselectionReason::Corrupt => "it sent chunks with a wrong hash",
        ReselectionReason::Malformed => "it sent what is not allowed",
        ReselectionReason::Unacknowledged => "it did not acknowledge chunks",
        ReselectionReason::Disconnected => "its connection to the server ended",
        ReselectionReason::LeaseExpired => "it did not fetch chunks in time",
        ReselectionReason::Missing => "nobody gave it the chunks",
        ReselectionReason::BudgetSpent => "nobody may: the budget is spent",
    }
}

#[cfg(test)]
mod tests {
    use protocol::rest::{BoundRates, DeliveryState, OriginUsage, Page, ReleaseState, ReportTotals, ReselectionCount};
    use protocol::{Amount, Currency, DeliveryId, EditionId, Money, ReleaseId, SwarmId};
    use time::macros::datetime;

    use super::super::table::{LINE_CHARACTERS_MAX, width};
    use super::*;

    fn eur(amount: u64) -> Money {
        Money { amount: Amount(amount), currency: Currency::EUR }
    }

    fn spread(median: u64, p99: u64, last: Option<u64>) -> Spread {
        Spread { median: Some(median), p99: Some(p99), last }
    }

    fn wave(rank: u32, bound_ms: u64, last: Option<u64>) -> WaveReport {
        let rates = BoundRates {
            origin_up: (rank == 1).then_some(BitsPerSecond::from_mbit(240)),
            holders_up: BitsPerSecond::from_mbit(120),
            holders: 2,
            receivers_up: BitsPerSecond(1_234_560_000),
            slowest_down: BitsPerSecond(0),
            unknown_up: 1,
            unknown_down: 1_000_000,
        };
        WaveReport {
            edition_id: EditionId([1; 32]),
            label: "director's cut \u{1b}[2J of a very long name indeed".into(),
            rank,
            wave: rank - 1,
            opens_at: datetime!(2026-11-21 12:00 UTC),
            terminals: 1_000_000,
            complete: 999_999,
            bound_ms,
            elapsed_ms: spread(123_456, 123_999, last),
            ratio_permille: if bound_ms == 0 { Spread::default() } else { spread(1_004, 1_049, last.map(|_| 1_055)) },
            rates,
        }
    }

    fn report() -> ReleaseReport {
        let terminal = TerminalReport {
            delivery_id: DeliveryId::from_bytes([1; 16]),
            terminal_id: TerminalId::from_bytes([0xAB; 16]),
            edition_id: EditionId([1; 32]),
            rank: 16,
            wave: 15,
            state: DeliveryState::Settled,
            up: BitsPerSecond(0),
            down: BitsPerSecond(0),
            verified: Bytes(16 << 30),
            from_origin: Bytes((1023 << 30) + (900 << 20)),
            from_peers: Bytes(1023 << 20),
            relayed: Bytes(1023 << 30),
            price: eur(99_999),
            charged: eur(99_999),
            earned: eur(9_999),
            elapsed_ms: Some(123_456),
            ratio_permille: None,
            completed_at: None,
        };
        let event = |replacement| Reselection {
            swarm_id: SwarmId::from_bytes([1; 16]),
            at: datetime!(2026-11-21 12:00:07 UTC),
            reason: ReselectionReason::Closed,
            terminal_id: TerminalId::from_bytes([0xCD; 16]),
            replacement,
            chunks: 65_536,
        };
        ReleaseReport {
            release_id: ReleaseId::from_bytes([0xFF; 16]),
            title: "Film\u{1b}[2J".into(),
            state: ReleaseState::Live,
            at: datetime!(2026-11-21 12:00:09 UTC),
            ratio_permille: spread(1_004, 1_049, Some(1_055)),
            totals: ReportTotals {
                deliveries: 2,
                complete: 1,
                from_origin: Bytes(1 << 20),
                from_peers: Bytes(3 << 20),
                charged: eur(500),
                earned: eur(30),
            },
            origin: OriginUsage { budget: Bytes(2 << 20), sent: Bytes(1 << 20), reserved: Bytes(1 << 20) },
            waves: vec![wave(1, 120_000, Some(126_600)), wave(2, 0, None)],
            reselections: vec![ReselectionCount { reason: ReselectionReason::Closed, events: 2, chunks: 65_540 }],
            latest_reselections: vec![event(Some(TerminalId::ORIGIN)), event(None)],
            terminals: Page { items: vec![terminal], next_cursor: None },
        }
    }

    #[test]
    fn a_report_fits_eighty_columns_and_says_how_close_the_release_came() {
        let report = report();
        let page = report_page(&report, &report.terminals.items);
        assert!(page.lines().all(|line| width(line) <= LINE_CHARACTERS_MAX), "{page}");
        assert!(page.chars().all(|character| character == '\n' || !character.is_control()), "{page}");
        for part in [
            "median 1.00, 99th 1.05, last 1.06 times it: 94% of what is possible",
            "1.0 MiB from the origin, 3.0 MiB from terminals",
            "999999/1000000  123.46s  124.00s  126.60s  120.00s  1.06",
            "124.00s  -        none     -",
            "rank 1: origin 240.0, up 1234.6, least down -; unknown: 1 up, 1000000 down",
            "rank 2: 2 holders 120.0",
            "abababab  16    123.46s  -",
            "2             65540   neighbours lost their links to it",
            "12:00:07Z  cdcdcdcd  origin   65536",
            "12:00:07Z  cdcdcdcd  -        65536",
        ] {
            assert!(page.contains(part), "{part:?} is missing in\n{page}");
        }
    }

    #[test]
    fn before_anybody_has_won_the_report_says_so() {
        let empty = ReleaseReport { waves: Vec::new(), ratio_permille: Spread::default(), reselections: Vec::new(), ..report() };
        let page = report_page(&empty, &[]);
        assert!(page.contains("no time to compare") && page.contains("Nobody has won yet"), "{page}");
    }

    #[test]
    fn without_a_fault_nobody_had_to_be_replaced() {
        let calm = ReleaseReport { reselections: Vec::new(), latest_reselections: Vec::new(), ..report() };
        assert!(report_page(&calm, &[]).contains("Nobody had to be replaced."));
    }
}
