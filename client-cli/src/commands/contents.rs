//! `contents`: what was published, with the ids that a release needs.

use protocol::rest::Content;

use super::all_pages;
use crate::arguments::ContentsArguments;
use crate::failure::Outcome;
use crate::folder::Folder;
use crate::screen::{Report, content_page};
use crate::session::Login;

pub(super) async fn contents(arguments: ContentsArguments, folder: &Folder) -> Outcome<Report> {
    let login = Login::from_folder(folder)?;
    if let Some(id) = arguments.content {
        let content = login.api.content(id).await?;
        return Report::new(&content, content_page(&content));
    }
    let mut contents = all_pages(async |page| login.api.contents(page).await).await?;
    // The server also shows what releases of others name.
    let own = login.account.user_id;
    contents.retain(|content| arguments.all || content.publisher_id == own);
    Report::new(&contents, contents_text(&contents))
}

fn contents_text(contents: &[Content]) -> String {
    if contents.is_empty() {
        return "No contents. A publisher adds one with `spillway publish`.\n".into();
    }
    contents.iter().map(content_page).collect::<Vec<_>>().join("\n")
}
