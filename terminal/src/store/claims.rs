//! Which deliveries have laid out which files of a folder: a file that several of them need goes with the last.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;

use protocol::manifest::{Manifest, STATE_FOLDER};
use protocol::{EditionId, ReleaseId};

use super::StoreError;
use super::error::Doing;
use super::finish::is_obstacle;
use super::folder::Folder;
use super::kept::Place;
use super::laid::{self, Mark};
use super::opening::{Home, read_manifest};

/// All deliveries of a folder, in the order of their names. Their folders are opened one after the other: there may be more of them than files may be open.
#[derive(Debug)]
pub(super) struct States {
    /// None if nothing was ever received here.
    folder: Option<Folder>,
    pub(super) places: Vec<Place>,
}

impl States {
    /// What is no folder of a delivery is passed over.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub(super) fn of(root: &Folder) -> Result<Self, StoreError> {
        let Some(folder) = child(root, STATE_FOLDER)? else { return Ok(Self { folder: None, places: Vec::new() }) };
        let mut places = Vec::new();
        for name in folder.names().doing("list", folder.path())? {
            let Ok(release_id) = name.parse::<ReleaseId>() else { continue };
            let Some(release) = child(&folder, &name)? else { continue };
            let names = release.names().doing("list", release.path())?;
            places.extend(names.iter().filter_map(|name| name.parse::<EditionId>().ok()).map(|edition| (release_id, edition)));
        }
        Ok(Self { folder: Some(folder), places })
    }

    /// Each delivery's place in the list, and its folder. One that was removed meanwhile is passed over.
    pub(super) fn each(&self) -> impl Iterator<Item = Result<(usize, Folder), StoreError>> {
        let open = |(index, (release, edition)): (usize, &Place)| {
            let folder = self.folder.as_ref()?;
            let release = child(folder, &release.to_string()).transpose()?;
            let state = release.and_then(|release| child(&release, &edition.to_string())).transpose()?;
            Some(state.map(|state| (index, state)))
        };
        self.places.iter().enumerate().filter_map(open)
    }
}

/// A folder in another one; `None` if there is none of that name.
fn child(folder: &Folder, name: &str) -> Result<Option<Folder>, StoreError> {
    match folder.child(name, false) {
        Ok(child) => Ok(Some(child)),
        Err(error) if error.kind() == io::ErrorKind::NotFound || is_obstacle(&error) => Ok(None),
        Err(error) => Err(error).doing("open", &folder.path_of(name)),
    }
}

/// The files that deliveries have laid out and that are as they were left, by their paths below the folder; and which of `states` say so.
pub(super) type Claims = HashMap<String, (Metadata, Vec<usize>)>;

/// # Errors
/// A list cannot be read: it is not known what is needed, and nothing must be removed.
pub(super) fn claims(root: &Folder, states: &States) -> Result<Claims, StoreError> {
    let mut claims = Claims::new();
    for state in states.each() {
        let (index, state) = state?;
        let laid = laid::read(&state)?;
        let Some(manifest) = read_manifest(&state).filter(|_| !laid.is_empty()) else { continue };
        for (path, metadata) in intact(root, &manifest, &laid) {
            claims.entry(path).or_insert_with(|| (metadata, Vec::new())).1.push(index);
        }
    }
    Ok(claims)
}

/// Those of the files laid out that are as they were left: path below the folder, metadata.
pub(super) fn intact<'a>(root: &'a Folder, manifest: &'a Manifest, laid: &'a laid::Laid) -> impl Iterator<Item = (String, Metadata)> + 'a {
    let find = |((below, index), mark): (&'a (String, usize), &'a Mark)| {
        let entry = manifest.files.get(*index)?;
        let path = laid::path_of(below, &entry.path);
        let metadata = mark.find(root, &path, entry.length.0)?;
        Some((path, metadata))
    };
    laid.iter().filter_map(find)
}

/// Files that were in their places already are noted as this delivery's too if another one has put them there: they are then removed with the last that
/// needs them. Those that nobody has put there are the person's.
pub(super) fn adopt(home: &Home, root_name: &str, present: &[usize]) -> Result<(), StoreError> {
    let own = laid::read(&home.state)?;
    let others: Vec<usize> = present.iter().copied().filter(|index| !own.contains_key(&(root_name.to_owned(), *index))).collect();
    if others.is_empty() {
        return Ok(());
    }
    let claims = match States::of(&home.root).and_then(|states| claims(&home.root, &states)) {
        Ok(claims) => claims,
        Err(error) => {
            // No reason to have received in vain: what is not noted is never removed for this delivery.
            tracing::warn!(%error, folder = %home.root.path().display(), "what other deliveries have laid out is not known");
            return Ok(());
        }
    };
    let path = home.state.path_of(laid::LAID);
    let mut log = laid::Log::open(&home.state).doing("write", &path)?;
    for index in others {
        let below = laid::path_of(root_name, &home.files().manifest().files[index].path);
        // As the other one has left it, and not as it may be by now.
        if let Some((metadata, _)) = claims.get(&below) {
            log.note(root_name, index, Mark::of(metadata)).doing("write", &path)?;
        }
    }
    log.sync().doing("sync", &path)
}
