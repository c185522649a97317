//! `explain`: what an application's price follows from.

use protocol::rest::{Application, ApplicationState, Explanation};

use super::all_pages;
use crate::arguments::BookArguments;
use crate::failure::{Failure, Outcome};
use crate::folder::Folder;
use crate::screen::{Report, date_time, explanations_page};
use crate::session::Login;

pub(super) async fn explain(arguments: BookArguments, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    let release = api.release(arguments.release).await?;
    let applications = all_pages(async |page| api.applications(release.id, page).await).await?;
    let decided = |application: &&Application| matches!(application.state, ApplicationState::Won | ApplicationState::Lost);
    let mut explanations: Vec<Explanation> = Vec::with_capacity(applications.len());
    for application in applications.iter().filter(decided) {
        explanations.push(api.explanation(application.id).await?);
    }
    if explanations.is_empty() {
        let nothing = match applications.iter().any(|application| application.state == ApplicationState::Active) {
            true => format!("nothing is decided before the release closes at {}", date_time(release.closes_at)),
            false => "this account has no application to the release that was decided".to_owned(),
        };
        return Err(Failure::Failed(nothing));
    }
    let text = explanations_page(&release, &explanations);
    Report::new(&explanations, text)
}
