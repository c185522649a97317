//! `voucher create`, `redeem`, `wallet`.

use std::collections::VecDeque;

use protocol::Money;
use protocol::rest::{Hold, NewVouchers, Redemption, Wallet, WalletEntry};
use serde::Serialize;
use terminal::api::{Api, PageQuery};
use time::OffsetDateTime;

use super::{PAGE_ITEMS, all_pages, currency};
use crate::arguments::{NewVouchersArguments, RedeemArguments, WalletArguments};
use crate::failure::{Failure, Outcome};
use crate::folder::Folder;
use crate::screen::{Report, wallet_page};
use crate::session::Login;
use crate::values::balance;

pub(super) async fn create_vouchers(arguments: NewVouchersArguments, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    let value = Money { amount: arguments.value, currency: currency(&api).await? };
    let expires_at = arguments.expires.map(|moment| moment.resolve(OffsetDateTime::now_utc()));
    let vouchers = api.create_vouchers(&NewVouchers { count: arguments.count, value, expires_at }).await?;
    let text =
        format!("{} of {} each, shown this once:\n{}", count(vouchers.codes.len(), "voucher"), vouchers.value, vouchers.codes.join("\n"));
    Report::new(&vouchers, text)
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

pub(super) async fn redeem(arguments: RedeemArguments, folder: &Folder) -> Outcome<Report> {
    let code = arguments.code.trim().to_owned();
    if code.is_empty() {
        return Err(Failure::Usage("the voucher code is empty".into()));
    }
    let entry = Login::from_folder(folder)?.api.redeem_voucher(&Redemption { code }).await?;
    let text = format!("Redeemed {}. The wallet holds {} now.", balance(entry.amount), balance(entry.balance));
    Report::new(&entry, text)
}

#[derive(Debug, Serialize)]
struct Statement {
    #[serde(flatten)]
    wallet: Wallet,
    holds: Vec<Hold>,
    /// Newest first.
    entries: Vec<WalletEntry>,
}

pub(super) async fn wallet(arguments: WalletArguments, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    if arguments.csv {
        let entries = latest_entries(&api, usize::MAX).await?;
        let lines: String = entries.iter().map(WalletEntry::csv_line).collect();
        return Report::exact(&entries, format!("{}{lines}", WalletEntry::CSV_HEADER));
    }
    let wallet = api.wallet().await?;
    let holds = if wallet.held.amount.0 == 0 { Vec::new() } else { all_pages(async |page| api.wallet_holds(page).await).await? };
    let entries = if arguments.entries == 0 { Vec::new() } else { latest_entries(&api, arguments.entries).await? };
    let text = wallet_page(&wallet, &holds, &entries);
    Report::new(&Statement { wallet, holds, entries }, text)
}

/// The last entries of the statement, newest first, whichever way the server's pages run: the version says which entry is newer.
async fn latest_entries(api: &Api, wanted: usize) -> Outcome<Vec<WalletEntry>> {
    let mut latest: VecDeque<WalletEntry> = VecDeque::new();
    let mut query = PageQuery { limit: Some(PAGE_ITEMS), cursor: None };
    loop {
        let page = api.wallet_entries(&query).await?;
        let newest_first = page.items.windows(2).any(|pair| pair[0].version > pair[1].version);
        latest.extend(page.items);
        latest.make_contiguous().sort_by_key(|entry| std::cmp::Reverse(entry.version));
        latest.truncate(wanted);
        let is_enough = newest_first && latest.len() == wanted;
        match page.next_cursor {
            Some(cursor) if !is_enough && query.cursor.as_ref() != Some(&cursor) => query.cursor = Some(cursor),
            Some(_) | None => return Ok(latest.into()),
        }
    }
}
