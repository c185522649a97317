//! Where the project's files are.

use std::env;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The folders that every task works with; all absolute.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// The workspace's root.
    pub(crate) root: PathBuf,
    /// The runner's own folder under the target directory: instances, logs, generated secrets.
    pub(crate) state: PathBuf,
    /// Where cargo puts the programs it builds with the runner's own profile.
    programs: PathBuf,
}

impl Project {
    /// Finds the folders from the variables that `cargo run` sets and from the runner's own file.
    pub(crate) fn locate() -> Result<Self, Failure> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().map(Path::to_path_buf).ok_or_else(|| Failure::told("the runner's manifest has no parent folder"))?;
        let own = env::current_exe().map_err(|error| Failure::told(format!("cannot find the runner's own file: {error}")))?;
        // target/PROFILE/xtask: the profile's folder holds the other programs, its parent is the target directory.
        let programs = own.parent().map(Path::to_path_buf).ok_or_else(|| Failure::told("the runner's own file has no folder"))?;
        let target = programs.parent().ok_or_else(|| Failure::told("the runner was not started from a target directory"))?;
        Ok(Self { state: target.join("spillway"), root, programs })
    }

    /// The `spillway` program, once it is built.
    pub(crate) fn client_program(&self) -> PathBuf {
        self.programs.join("spillway")
    }

    /// The `spillway-server` program, once it is built.
    pub(crate) fn server_program(&self) -> PathBuf {
        self.programs.join("spillway-server")
    }

    /// The same project with the programs of `cargo build --release` instead of the runner's own profile.
    pub(crate) fn released(&self) -> Self {
        Self { programs: self.programs.with_file_name("release"), ..self.clone() }
    }

    /// A project made of given folders, for tests of what is kept there.
    #[cfg(test)]
    pub(crate) fn in_folders(root: PathBuf, state: PathBuf) -> Self {
        Self { programs: root.clone(), root, state }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_programs_are_beside_those_of_the_runners_profile() {
        let project = Project::in_folders("/project/target/debug".into(), "/project/target/spillway".into());
        assert_eq!(project.client_program(), Path::new("/project/target/debug/spillway"));
        assert_eq!(project.released().client_program(), Path::new("/project/target/release/spillway"));
        assert_eq!(project.released().state, project.state);
    }
}
