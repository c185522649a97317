//! `quarantine`: terminals that are shut out for a while, as their owners and as operators see them.

use protocol::rest::{NewAppeal, NewDecision, NewQuarantine, Quarantine};
use time::OffsetDateTime;

use super::all_pages;
use crate::arguments::{DecideArguments, QuarantineCommand};
use crate::failure::Outcome;
use crate::folder::Folder;
use crate::screen::{Report, quarantines_page};
use crate::session::Login;

pub(super) async fn quarantine(command: QuarantineCommand, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    let decision = |arguments: &DecideArguments, lift| NewDecision { lift, note: arguments.note.clone() };
    match command {
        QuarantineCommand::List(arguments) => {
            let quarantines = all_pages(async |page| api.quarantines(arguments.open, page).await).await?;
            let text = quarantines_page(&quarantines, OffsetDateTime::now_utc());
            Report::new(&quarantines, text)
        }
        QuarantineCommand::Appeal(arguments) => one(&api.appeal(arguments.quarantine, &NewAppeal { text: arguments.text }).await?),
        QuarantineCommand::Impose(arguments) => {
            let expires_at = arguments.until.resolve(OffsetDateTime::now_utc());
            let new = NewQuarantine { terminal_id: arguments.terminal, reason: arguments.reason, note: arguments.note, expires_at };
            one(&api.impose_quarantine(&new).await?)
        }
        QuarantineCommand::Lift(arguments) => one(&api.decide_quarantine(arguments.quarantine, &decision(&arguments, true)).await?),
        QuarantineCommand::Uphold(arguments) => one(&api.decide_quarantine(arguments.quarantine, &decision(&arguments, false)).await?),
    }
}

fn one(quarantine: &Quarantine) -> Outcome<Report> {
    Report::new(quarantine, quarantines_page(std::slice::from_ref(quarantine), OffsetDateTime::now_utc()))
}
