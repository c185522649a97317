//! Complete editions that lie in the user's folder, opened to be served to others: read only, beside whoever has them open, and without reading them
//! first, because every chunk is compared with its hash when it is read.

use std::path::Path;
use std::sync::Arc;

use protocol::manifest::{Manifest, STATE_FOLDER};
use protocol::{EditionId, ReleaseId};

use super::error::Doing;
use super::folder::Folder;
use super::layout::Layout;
use super::opening::{COMPLETE, Home, Parts, read_complete, stored_manifest};
use super::source::{LaidOut, Source};
use super::{Store, StoreError, actor};

/// Editions that earlier runs have completed, with the release that each came by; one of them if it came by several. What is no such folder is passed over.
pub(super) fn complete_editions(dir: &Path) -> Vec<(ReleaseId, EditionId)> {
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let states = dir.join(STATE_FOLDER);
    let mut found: Vec<(ReleaseId, EditionId)> = Vec::new();
    for release in names(&states) {
        let Ok(release_id) = release.parse::<ReleaseId>() else { continue };
        for edition in names(&states.join(&release)) {
            let Ok(edition_id) = edition.parse::<EditionId>() else { continue };
            if states.join(&release).join(&edition).join(COMPLETE).is_file() {
                found.push((release_id, edition_id));
            }
        }
    }
    found.sort_unstable_by_key(|(release, edition)| (*edition, *release));
    found.dedup_by_key(|(_, edition)| *edition);
    found
}

/// Opens a complete edition; `None` if it is not complete, or its files are not where they were put.
pub(super) fn open_complete(dir: &Path, release_id: ReleaseId, edition: EditionId) -> Result<Option<(Store, Arc<Manifest>)>, StoreError> {
    let Some(manifest) = stored_manifest(dir, release_id, edition).map(Arc::new) else { return Ok(None) };
    manifest.check()?;
    let root = Folder::root(dir).doing("open", dir)?;
    let path = root.path_of(STATE_FOLDER);
    let states = root.child(STATE_FOLDER, false).doing("open", &path)?;
    let release = states.child(&release_id.to_string(), false).doing("open", &path)?;
    let state = release.child(&edition.to_string(), false).doing("open", &path)?;
    let home = Arc::new(Home { root, state, layout: Layout::new(Arc::clone(&manifest)), seal: None, edition, _lock: None });
    let Some(complete) = read_complete(&home.state) else { return Ok(None) };
    let files = match complete.root.as_str() {
        "" => home.root.descend("x", false).map(|(root, _)| root),
        below => home.root.child(below, false),
    };
    let Ok(files) = files else { return Ok(None) };
    let finished = Some(home.finished(&complete.root));
    let parts = Parts { home, source: Source::LaidOut(LaidOut::new(files)), journal: None, held: Vec::new(), lost: Vec::new(), finished };
    Ok(Some((Store { actor: actor::start(parts)? }, manifest)))
}
