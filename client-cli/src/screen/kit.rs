//! A kit's page, and the list of kits.

use protocol::rest::{BalanceStatement, Kit};
use protocol::{Amount, Money};

use super::table::table;
use super::{clean, date_time};
use crate::folder::Moved;

/// As many lines as a window shows under the balance; `--json` has all.
const LINES_MAX: usize = 15;

/// The balance, as of when, and what came and went.
pub(crate) fn kit_page(server: &str, statement: &BalanceStatement, history: &[Moved], forked: bool) -> String {
    let mut page = format!(
        "Available  {}\nHeld       {}\nAs of      {}, statement {} of {}\n",
        statement.available,
        statement.held,
        date_time(statement.at),
        statement.sequence,
        clean(server)
    );
    if forked {
        page.push_str("This kit was copied or put back, and is refused: make a new one.\n");
    }
    if history.is_empty() {
        return page;
    }
    let money = |amount: Amount| Money { amount, currency: statement.available.currency }.to_string();
    let row = |line: &Moved| {
        let name = line.name.as_deref().map_or_else(|| line.release_id.to_string(), clean);
        let charged = line.charged.map_or_else(|| "-".to_owned(), money);
        vec![date_time(line.at), line.received.to_string(), charged, line.relayed.to_string(), money(line.earned), name]
    };
    let shown: Vec<Vec<String>> = history.iter().take(LINES_MAX).map(row).collect();
    page.push('\n');
    page.push_str(&table(&["LAST", "RECEIVED", "PAID", "RELAYED", "EARNED", "WHAT"], &shown));
    if history.len() > LINES_MAX {
        page.push_str(&format!("and {} older; all with --json\n", history.len() - LINES_MAX));
    }
    page
}

/// One line a kit.
pub(crate) fn kits_table(kits: &[Kit]) -> String {
    let row = |kit: &Kit| {
        let state = kit.forked_at.map_or_else(|| "ok".to_owned(), |at| format!("refused since {}", date_time(at)));
        vec![kit.id.to_string(), date_time(kit.statement.statement.at), state]
    };
    table(&["KIT", "LAST SEEN", "STATE"], &kits.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::super::table::{LINE_CHARACTERS_MAX, width};
    use super::*;
    use protocol::{Blake3, Bytes, Currency, EditionId, KitId, ReleaseId, SwarmId};
    use time::macros::datetime;

    #[test]
    fn a20_the_kits_page_keeps_to_eighty_columns_and_says_when_the_kit_is_refused() {
        let money = |amount| Money { amount: Amount(amount), currency: Currency::EUR };
        let at = datetime!(2026-11-24 12:00 UTC);
        let statement = BalanceStatement {
            kit_id: KitId::from_bytes([1; 16]),
            sequence: 7,
            previous: Blake3([0; 32]),
            available: money(1_612),
            held: money(500),
            at,
        };
        let line = Moved {
            swarm_id: SwarmId::from_bytes([1; 16]),
            release_id: ReleaseId::from_bytes([2; 16]),
            edition_id: EditionId([3; 32]),
            name: Some("A film with a long name\u{1b}[2J (director's cut)".into()),
            received: Bytes(123_456_789_012),
            relayed: Bytes(99_999_999_999),
            charged: Some(Amount(123_456)),
            earned: Amount(99_999),
            at,
        };
        let page = kit_page("https://s.example", &statement, &vec![line; 20], true);
        assert!(
            page.contains("16.12 EUR") && page.contains("statement 7") && page.contains("refused") && page.contains("and 5 older"),
            "{page}"
        );
        assert!(page.contains("1234.56 EUR") && !page.contains('\u{1b}'), "{page}");
        assert!(page.lines().all(|line| width(line) <= LINE_CHARACTERS_MAX), "{page}");
        assert!(!kit_page("https://s.example", &statement, &[], false).contains("refused"));
    }
}
