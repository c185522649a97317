//! `publish`: files and directories become editions of a content.

use std::collections::BTreeSet;
use std::path::PathBuf;

use protocol::ContentId;
use protocol::rest::{Chunking, NewContent, NewUpload};
use terminal::api::Api;

use super::Setting;
use crate::arguments::PublishArguments;
use crate::failure::{Failure, Outcome};
use crate::layout::{Layout, default_label, read_layout};
use crate::progress::byte_bar;
use crate::screen::{Report, clean, content_page};
use crate::session::Login;
use crate::upload::EditionReader;

pub(super) async fn publish(arguments: PublishArguments, setting: &Setting) -> Outcome<Report> {
    let (paths, labels) = (arguments.paths, arguments.labels);
    let reading = tokio::task::spawn_blocking(move || read_all(&paths, &labels));
    let editions = reading.await.map_err(|error| Failure::Failed(format!("cannot read what is to be published: {error}")))??;
    let api = Login::from_folder(&setting.folder)?.api;
    let content = match (arguments.content, arguments.title) {
        (Some(id), _) => api.content(id).await?,
        (None, Some(title)) => api.create_content(&NewContent { title }).await?,
        (None, None) => return Err(Failure::Usage("give --title for a new content or --content for one that exists".into())),
    };
    let mut rest = Rest { content: content.id, editions: editions.len(), sent: 0, json: setting.json };
    let sending = async {
        for (label, layout) in &editions {
            send(&api, content.id, label, layout, arguments.chunking.into(), setting).await?;
            rest.sent += 1;
        }
        api.content(content.id).await.map_err(Failure::from)
    };
    let content = tokio::select! {
        sent = sending => sent?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted),
    };
    Report::new(&content, content_page(&content))
}

/// Says how to go on when not every edition was sent, whether by a failure or by Ctrl-C: the content is there, and need not be made again.
#[derive(Debug)]
struct Rest {
    content: ContentId,
    editions: usize,
    sent: usize,
    json: bool,
}

impl Drop for Rest {
    fn drop(&mut self) {
        if self.sent < self.editions && !self.json {
            let Self { content, editions, sent, .. } = self;
            eprintln!("{sent} of {editions} editions were sent.\nGo on with `--content {content}` in place of --title.");
        }
    }
}

/// Every edition with its label. Everything that can be wrong on this machine is found before the server is asked.
fn read_all(paths: &[PathBuf], labels: &[String]) -> Outcome<Vec<(String, Layout)>> {
    if !labels.is_empty() && labels.len() != paths.len() {
        return Err(Failure::Usage(format!(
            "there are {} paths and {} labels: give one --label per path, or none",
            paths.len(),
            labels.len()
        )));
    }
    let mut editions: Vec<(String, Layout)> = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, path) in paths.iter().enumerate() {
        let label = labels.get(index).cloned().map_or_else(|| default_label(path), Ok)?;
        if !seen.insert(label.clone()) {
            return Err(Failure::Usage(format!("two editions would have the label {label:?}: give --label once per path")));
        }
        editions.push((label, read_layout(path)?));
    }
    Ok(editions)
}

async fn send(api: &Api, content: ContentId, label: &str, layout: &Layout, chunking: Chunking, setting: &Setting) -> Outcome<()> {
    let files = layout.files.iter().map(|file| file.entry.clone()).collect();
    let announced = NewUpload { label: label.to_owned(), directory: layout.directory, chunking, files };
    let upload = api.create_upload(content, &announced).await?;
    let bar = byte_bar(layout.length, clean(label), setting.json);
    let shown = bar.clone();
    let sent = api.upload_bytes(&upload, EditionReader::new(layout), move |sent| shown.set_position(sent.0)).await;
    bar.finish_and_clear();
    sent.map(drop).map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn read_paths(root: &Path, names: &[&str], labels: &[&str]) -> Outcome<Vec<(String, Layout)>> {
        let paths: Vec<PathBuf> = names.iter().map(|name| root.join(name)).collect();
        let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        read_all(&paths, &labels)
    }

    #[test]
    fn every_path_gets_a_label_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        for name in ["en.bin", "fr.bin", "en.txt"] {
            fs::write(root.path().join(name), b"x").unwrap();
        }
        let labels = |editions: Vec<(String, Layout)>| editions.into_iter().map(|(label, _)| label).collect::<Vec<_>>();
        assert_eq!(labels(read_paths(root.path(), &["en.bin", "fr.bin"], &[]).unwrap()), ["en", "fr"]);
        assert_eq!(labels(read_paths(root.path(), &["en.bin", "en.txt"], &["film", "text"]).unwrap()), ["film", "text"]);
        for (names, given) in
            [(vec!["en.bin", "en.txt"], vec![]), (vec!["en.bin"], vec!["a", "b"]), (vec!["en.bin", "fr.bin"], vec!["a", "a"])]
        {
            assert_eq!(read_paths(root.path(), &names, &given).unwrap_err().exit_code(), 2, "{names:?} {given:?}");
        }
    }

    #[tokio::test]
    async fn an_empty_file_is_refused_without_a_login_or_a_server() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("empty"), b"").unwrap();
        let line = format!("spillway publish {} --title Film", root.path().join("empty").display());
        let parsed = <crate::arguments::Arguments as clap::Parser>::try_parse_from(line.split(' ')).unwrap();
        let crate::arguments::Command::Publish(arguments) = parsed.command else { panic!("another command") };
        let folder = crate::folder::Folder::locate(Some(root.path().join("config"))).unwrap();
        let failure = publish(arguments, &Setting { folder, kit: None, json: true }).await.unwrap_err();
        assert_eq!(failure.exit_code(), 1);
        assert!(failure.to_string().contains("at least one byte"), "{failure}");
    }
}
