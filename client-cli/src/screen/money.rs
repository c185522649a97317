//! The wallet's page.

use protocol::rest::{Hold, HoldReason, TransferKind, Wallet, WalletEntry};

use super::table::table;
use super::{clean, date_time};
use crate::values::{balance, signed};

/// What is there, what is set aside and for what, and the entries given, newest first.
pub(crate) fn wallet_page(wallet: &Wallet, holds: &[Hold], entries: &[WalletEntry]) -> String {
    let mut page = format!("Available  {}\nHeld       {}\n", wallet.available, wallet.held);
    if let Some(earned) = wallet.publisher_balance {
        page.push_str(&format!("Earned as a publisher  {}\n", balance(earned)));
    }
    if !holds.is_empty() {
        let row = |hold: &Hold| {
            let what = format!("{} ({})", clean(&hold.title), clean(&hold.label));
            vec![date_time(hold.created_at), hold.amount.to_string(), reason(hold.reason).to_owned(), what]
        };
        page.push('\n');
        page.push_str(&table(&["HELD SINCE", "AMOUNT", "UNTIL", "FOR"], &holds.iter().map(row).collect::<Vec<_>>()));
    }
    if !entries.is_empty() {
        let rows: Vec<Vec<String>> = entries
            .iter()
            .map(|entry| vec![date_time(entry.created_at), signed(entry.amount), balance(entry.balance), purpose(entry).to_owned()])
            .collect();
        page.push('\n');
        page.push_str(&table(&["TIME", "AMOUNT", "BALANCE", "FOR"], &rows));
    }
    page
}

/// Until when it is held.
fn reason(reason: HoldReason) -> &'static str {
    match reason {
        HoldReason::Application { .. } => "the book closes",
        HoldReason::Delivery { .. } => "it is delivered",
        HoldReason::RelayDuty { .. } => "the duty ends",
        HoldReason::Download { .. } => "it is downloaded",
    }
}

fn purpose(entry: &WalletEntry) -> &'static str {
    match (entry.kind, entry.amount.amount < 0) {
        (TransferKind::VoucherRedemption, _) => "voucher",
        (TransferKind::Delivery, true) => "received",
        (TransferKind::Delivery, false) => "relayed",
        (TransferKind::DutyForfeit, _) => "duty missed",
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{LINE_CHARACTERS_MAX, width};
    use super::*;
    use protocol::rest::SignedMoney;
    use protocol::{Amount, ApplicationId, Currency, HoldId, Money, ReleaseId, TransferId};
    use time::macros::datetime;

    #[test]
    fn the_wallet_shows_what_is_available_what_is_held_and_why_it_changed() {
        let money = |amount| Money { amount: Amount(amount), currency: Currency::EUR };
        let signed = |amount| SignedMoney { amount, currency: Currency::EUR };
        let entry = |kind, amount, balance, version| WalletEntry {
            transfer_id: TransferId::from_bytes([1; 16]),
            kind,
            amount: signed(amount),
            balance: signed(balance),
            version,
            delivery_id: None,
            created_at: datetime!(2026-11-21 12:00:05 UTC),
        };
        let entries = [
            entry(TransferKind::Delivery, 12, 2112, 3),
            entry(TransferKind::Delivery, -400, 2100, 2),
            entry(TransferKind::VoucherRedemption, 2500, 2500, 1),
        ];
        let wallet = Wallet { available: money(1612), held: money(500), publisher_balance: None };
        let hold = Hold {
            id: HoldId::from_bytes([2; 16]),
            amount: money(500),
            reason: HoldReason::Application {
                application_id: ApplicationId::from_bytes([3; 16]),
                release_id: ReleaseId::from_bytes([4; 16]),
            },
            title: "Film".into(),
            label: "en".into(),
            created_at: datetime!(2026-11-21 12:00:06 UTC),
        };
        let page = wallet_page(&wallet, &[hold], &entries);
        assert_eq!(
            page,
            "Available  16.12 EUR\n\
             Held       5.00 EUR\n\
             \n\
             HELD SINCE            AMOUNT    UNTIL            FOR\n\
             2026-11-21 12:00:06Z  5.00 EUR  the book closes  Film (en)\n\
             \n\
             TIME                  AMOUNT      BALANCE    FOR\n\
             2026-11-21 12:00:05Z  +0.12 EUR   21.12 EUR  relayed\n\
             2026-11-21 12:00:05Z  -4.00 EUR   21.00 EUR  received\n\
             2026-11-21 12:00:05Z  +25.00 EUR  25.00 EUR  voucher\n"
        );
        assert!(page.lines().all(|line| width(line) <= LINE_CHARACTERS_MAX));
        let publisher = Wallet { available: money(0), held: money(0), publisher_balance: Some(signed(162)) };
        assert!(wallet_page(&publisher, &[], &[]).ends_with("Earned as a publisher  1.62 EUR\n"));
    }
}
