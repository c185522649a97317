//! `report`: how a release went, or goes so far.

use protocol::rest::ReleaseReport;
use terminal::api::PageQuery;

use super::{PAGE_ITEMS, all_pages};
use crate::arguments::ReportArguments;
use crate::failure::Outcome;
use crate::folder::Folder;
use crate::screen::{Report, report_page};
use crate::session::Login;

pub(super) async fn report(arguments: ReportArguments, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    // Every page has the whole report; the first one is shown, with the terminals of all.
    let first = PageQuery { limit: Some(PAGE_ITEMS), cursor: None };
    let mut report: ReleaseReport = api.report(arguments.release, &first).await?;
    if report.terminals.next_cursor.is_some() {
        report.terminals.items = all_pages(async |page| Ok(api.report(arguments.release, page).await?.terminals)).await?;
        report.terminals.next_cursor = None;
    }
    let text = report_page(&report, &report.terminals.items);
    Report::new(&report, text)
}
