//! The borders between the crates, checked instead of hoped for.
//!
//! [`graph`] looks at what the crates depend on, as cargo resolved it; [`sources`] at what the files mention. Both are pure: they take
//! what was read and return the violations as sentences.

mod graph;
mod sources;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::project::Project;

/// Folders of a crate that hold no sources of ours.
const SKIPPED: [&str; 3] = ["target", "node_modules", ".git"];

/// Checks everything, and fails with the list of the violations.
pub(crate) fn check(project: &Project, metadata: &serde_json::Value) -> Result<(), Failure> {
    let graph = graph::Graph::read(metadata)?;
    let mut violations = graph.violations();
    let (mut crate_count, mut file_count) = (0, 0);
    for member in graph.members() {
        let mut files = Vec::new();
        collect(&project.root, &member.folder, &mut files)?;
        files.sort();
        for (path, text) in &files {
            violations.extend(sources::violations(path, text, &member.listed));
        }
        crate_count += 1;
        file_count += files.len();
    }
    if violations.is_empty() {
        eprintln!("xtask: {crate_count} crates and {file_count} files keep to their borders");
        return Ok(());
    }
    Err(Failure::told(format!("{} border violations:\n  {}", violations.len(), violations.join("\n  "))))
}

/// Every Rust file under `folder`, as its path from the root with forward slashes, and its text.
fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) -> Result<(), Failure> {
    let entries = fs::read_dir(folder).map_err(|error| Failure::file("list", folder, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Failure::file("list", folder, &error))?;
        let path: PathBuf = entry.path();
        let kind = entry.file_type().map_err(|error| Failure::file("look at", &path, &error))?;
        if kind.is_dir() && !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
            collect(root, &path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).map_err(|error| Failure::file("read", &path, &error))?;
            let shown = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.push((shown, text));
        }
    }
    Ok(())
}
