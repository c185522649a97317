//! `list`.

use time::OffsetDateTime;

use super::{Chosen, chosen_releases};
use crate::arguments::ListArguments;
use crate::failure::Outcome;
use crate::folder::Folder;
use crate::screen::{Report, left_out, release_page, releases_table};
use crate::session::Login;

pub(super) async fn list(arguments: ListArguments, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    let now = OffsetDateTime::now_utc();
    if let Some(id) = arguments.release {
        let release = api.release(id).await?;
        return Report::new(&release, release_page(&release, now));
    }
    let Chosen { mut releases, over } = chosen_releases(&api, &[], arguments.all).await?;
    releases.sort_by_key(|release| (release.starts_at, release.id));
    let text = releases_table(&releases, now) + &left_out(over);
    Report::new(&releases, text)
}
