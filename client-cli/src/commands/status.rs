//! `status`: this terminal, what it has applied for, what it receives and earns.

use protocol::rest::{Application, Delivery, LedgerTotals, Release, Role};
use protocol::{ReleaseId, TerminalId};
use serde::Serialize;
use terminal::api::Api;
use time::OffsetDateTime;

use super::{Chosen, all_pages, chosen_releases};
use crate::arguments::StatusArguments;
use crate::failure::Outcome;
use crate::folder::Folder;
use crate::screen::{Report, application_line, clean, deliveries_table, duty_line, happens, left_out, tie_line};
use crate::session::Login;

#[derive(Debug, Serialize)]
struct Status {
    server: String,
    email: String,
    terminal: LocalTerminal,
    releases: Vec<ReleaseStatus>,
    /// The ledger's totals, for an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    ledger: Option<LedgerTotals>,
}

#[derive(Debug, Serialize)]
struct LocalTerminal {
    id: TerminalId,
    name: String,
    config: String,
}

#[derive(Debug, Serialize)]
struct ReleaseStatus {
    release_id: ReleaseId,
    title: String,
    /// The own ones, of all terminals of the account.
    applications: Vec<Application>,
    /// Of this terminal; everybody's if the publisher or an operator asks for this release.
    deliveries: Vec<Delivery>,
    #[serde(skip)]
    release: Release,
}

pub(super) async fn status(arguments: StatusArguments, folder: &Folder) -> Outcome<Report> {
    let login = Login::from_folder(folder)?;
    let (file, id) = login.terminal(folder)?;
    let is_chosen = arguments.release.is_some();
    let me = login.api.me().await?;
    let ledger = if me.role == Role::Operator { Some(login.api.ledger_totals().await?) } else { None };
    let mut releases = Vec::new();
    let Chosen { releases: found, over } = chosen_releases(&login.api, arguments.release.as_slice(), arguments.all).await?;
    for release in found {
        let sees_all = is_chosen && (me.role == Role::Operator || release.publisher_id == me.id);
        let status = release_status(&login.api, release, (!sees_all).then_some(id)).await?;
        if is_chosen || !status.applications.is_empty() || !status.deliveries.is_empty() {
            releases.push(status);
        }
    }
    let terminal = LocalTerminal { id, name: file.name, config: folder.path().display().to_string() };
    let status = Status { server: login.account.server, email: login.account.email, terminal, releases, ledger };
    let mut text = status_page(&status, OffsetDateTime::now_utc());
    if over > 0 {
        text.push('\n');
        text.push_str(&left_out(over));
    }
    Report::new(&status, text)
}

/// `only`: leave other terminals' deliveries out.
async fn release_status(api: &Api, release: Release, only: Option<TerminalId>) -> Outcome<ReleaseStatus> {
    let applications = all_pages(async |page| api.applications(release.id, page).await).await?;
    let mut deliveries = all_pages(async |page| api.deliveries(release.id, page).await).await?;
    deliveries.retain(|delivery| only.is_none_or(|terminal| delivery.terminal_id == terminal));
    Ok(ReleaseStatus { release_id: release.id, title: release.title.clone(), applications, deliveries, release })
}

fn status_page(status: &Status, now: OffsetDateTime) -> String {
    let terminal = &status.terminal;
    let mut page = format!(
        "Terminal  {} ({})\nAccount   {} on {}\nFolder    {}\n",
        clean(&terminal.name),
        terminal.id,
        clean(&status.email),
        status.server,
        clean(&terminal.config)
    );
    if let Some(ledger) = &status.ledger {
        page.push_str(&format!("Ledger    sum {}, wallets {}, held {}\n", ledger.sum.amount, ledger.wallets.amount, ledger.held.amount));
    }
    if status.releases.is_empty() {
        page.push_str("\nNo applications. See `spillway list`.\n");
    }
    for status in &status.releases {
        page.push_str(&format!("\n{}\n{}, {}\n", clean(&status.title), status.release_id, happens("start", status.release.starts_at, now)));
        for application in &status.applications {
            let whose = if application.terminal_id == terminal.id { "" } else { "another terminal: " };
            page.push_str(&format!("  {whose}{}\n", application_line(application, &status.release)));
            if let Some(tie) = tie_line(application) {
                page.push_str(&format!("    {tie}\n"));
            }
        }
        if !status.deliveries.is_empty() {
            page.push_str(&deliveries_table(&status.deliveries, &status.release));
            let own = status.deliveries.iter().filter(|delivery| delivery.terminal_id == terminal.id);
            for line in own.filter_map(|delivery| duty_line(delivery, now)) {
                page.push_str(&format!("  {line}\n"));
            }
        }
    }
    page
}
