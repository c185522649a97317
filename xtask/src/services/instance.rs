//! The folder of one set of private services, claimed by one run at a time.
//!
//! ```text
//! target/spillway/test/           lock, logs/, files of the task itself
//! target/spillway/test/data-UID/  the services' own folder, one per account that they ran as
//! ```
//!
//! The services' account must be able to reach its data. Where a folder above the project is closed to it (a clone in `/root`, say), the
//! data moves to the system's temporary folder, under a name derived from the project's path so that the next run finds it again.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::children::{Ending, Launch, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;
use crate::services::account::Account;
use crate::services::{Contention, Purpose};

/// Runs of one kind at the same time: far more than a machine can carry, so that reaching it means that something is wrong.
const INSTANCES_MAX: usize = 16;

/// How often a waiting run looks whether its turn has come.
const TURN_POLL: Duration = Duration::from_millis(250);

/// A claimed instance. The claim is a file lock: the kernel ends it with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Instance {
    folder: PathBuf,
    logs: PathBuf,
    data: PathBuf,
    account: Option<Account>,
    _lock: File,
}

impl Instance {
    /// Claims the purpose's instance, or the next free one, or waits for it: as the purpose says.
    pub(crate) fn claim(project: &Project, purpose: &Purpose, account: Option<Account>, interrupt: &Interrupt) -> Result<Self, Failure> {
        let (folder, lock) = match purpose.contention {
            Contention::OwnInstance => take_another(&project.state, purpose.name)?,
            Contention::Wait => wait_for(&project.state.join(purpose.name), interrupt)?,
        };
        let logs = folder.join("logs");
        create_folder(&logs)?;
        let data = match &account {
            None => private_folder(folder.join(format!("data-{}", rustix::process::geteuid().as_raw())), None)?,
            Some(account) => reachable_data(project, &folder, account, interrupt)?,
        };
        Ok(Self { folder, logs, data, account, _lock: lock })
    }

    /// The instance's own folder, which belongs to whoever runs the task.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the logs.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// The services' folder, which belongs to their account.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Who the services run as; the runner's own account if there is none.
    pub(crate) fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// Gives a file to the services' account.
    pub(crate) fn give(&self, path: &Path) -> Result<(), Failure> {
        self.account.as_ref().map_or(Ok(()), |account| account.own(path))
    }
}

fn take_another(state: &Path, name: &str) -> Result<(PathBuf, File), Failure> {
    for number in 1..=INSTANCES_MAX {
        let folder = if number == 1 { state.join(name) } else { state.join(format!("{name}-{number}")) };
        if let Some(lock) = try_lock(&folder)? {
            if number > 1 {
                eprintln!("xtask: another run uses the {name} services; this one uses {}", folder.display());
            }
            return Ok((folder, lock));
        }
    }
    Err(Failure::told(format!("{INSTANCES_MAX} runs use the {name} services already; stop one of them")))
}

fn wait_for(folder: &Path, interrupt: &Interrupt) -> Result<(PathBuf, File), Failure> {
    let mut told = false;
    loop {
        if let Some(lock) = try_lock(folder)? {
            return Ok((folder.to_path_buf(), lock));
        }
        if !told {
            eprintln!("xtask: another run uses {}; waiting until it ends (Ctrl-C to give up)", folder.display());
            told = true;
        }
        interrupt.pause(TURN_POLL)?;
    }
}

fn try_lock(folder: &Path) -> Result<Option<File>, Failure> {
    create_folder(folder)?;
    let path = folder.join("lock");
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|error| Failure::file("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(Failure::file("lock", &path, &error)),
    }
}

fn create_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| Failure::file("create", folder, &error))
}

/// The first of the two places that the account can really use: asked of the kernel by a process with the account's rights.
fn reachable_data(project: &Project, folder: &Path, account: &Account, interrupt: &Interrupt) -> Result<PathBuf, Failure> {
    let near = private_folder(folder.join(format!("data-{}", account.uid)), Some(account))?;
    if is_usable(&near, account, interrupt)? {
        return Ok(near);
    }
    let project_hash = blake3::hash(project.state.as_os_str().as_encoded_bytes()).to_hex();
    let away = private_folder(env::temp_dir().join(format!("spillway-{}-{}", &project_hash[..16], account.uid)), Some(account))?;
    let name = folder.file_name().unwrap_or_default();
    let away = private_folder(away.join(name), Some(account))?;
    if !is_usable(&away, account, interrupt)? {
        let (near, away) = (near.display(), away.display());
        return Err(Failure::told(format!("the account of the services (uid {}) can use neither {near} nor {away}", account.uid)));
    }
    Ok(away)
}

/// A folder that its owner alone can enter: made if it is missing, taken only if it is a real folder of the right owner. The temporary
/// folder is everybody's, so somebody else may have put something there.
fn private_folder(path: PathBuf, account: Option<&Account>) -> Result<PathBuf, Failure> {
    match DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => {
            if let Some(account) = account {
                account.own(&path)?;
            }
            return Ok(path);
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Failure::file("create", &path, &error)),
    }
    let metadata = fs::symlink_metadata(&path).map_err(|error| Failure::file("look at", &path, &error))?;
    let runner = rustix::process::geteuid();
    let owner = account.map_or(runner.as_raw(), |account| account.uid);
    if metadata.is_dir() && metadata.uid() == owner && metadata.mode() & 0o022 == 0 {
        return Ok(path);
    }
    // Root's own folder is one that a run was interrupted over before it could be given away.
    if let (true, true, Some(account)) = (metadata.is_dir(), metadata.uid() == runner.as_raw(), account) {
        account.own(&path)?;
        return Ok(path);
    }
    Err(Failure::told(format!("{} is not a folder of uid {owner}; remove it and try again", path.display())))
}

fn is_usable(folder: &Path, account: &Account, interrupt: &Interrupt) -> Result<bool, Failure> {
    let mut launch = Launch::new("test", "test", Some(account), Ending::terminate(Duration::from_secs(1)), Output::Terminal);
    launch.command.arg("-w").arg(folder).arg("-a").arg("-x").arg(folder);
    Ok(launch.start(interrupt)?.wait()?.success())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::services::Data;

    fn purpose(contention: Contention) -> Purpose {
        Purpose { name: "test", data: Data::Scratch, contention, turn: false }
    }

    fn project(folder: &Path) -> Project {
        Project::in_folders(folder.to_path_buf(), folder.join("spillway"))
    }

    #[test]
    fn two_runs_at_the_same_time_get_different_instances_and_the_first_is_reused_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let claim = || Instance::claim(&project(folder.path()), &purpose(Contention::OwnInstance), None, &Interrupt::default()).unwrap();
        let first = claim();
        let second = claim();
        assert_ne!(first.folder(), second.folder());
        assert_ne!(first.data(), second.data());
        let kept = first.folder().to_path_buf();
        drop(first);
        assert_eq!(claim().folder(), kept);
        drop(second);
    }

    #[test]
    fn a_run_that_wants_the_same_data_waits_until_the_other_one_ends() {
        let folder = tempfile::tempdir().unwrap();
        let claim = |interrupt: &Interrupt| Instance::claim(&project(folder.path()), &purpose(Contention::Wait), None, interrupt);
        let first = claim(&Interrupt::default()).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| claim(&Interrupt::default()).unwrap().folder().to_path_buf());
            assert!(!second.is_finished());
            let expected = first.folder().to_path_buf();
            drop(first);
            assert_eq!(second.join().unwrap(), expected);
        });
    }

    #[test]
    fn somebody_elses_link_in_the_place_of_the_data_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let link = folder.path().join("data");
        symlink(&elsewhere, &link).unwrap();
        assert!(private_folder(link, None).is_err());
    }

    #[test]
    fn a_folder_that_everybody_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("data");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(private_folder(open, None).is_err());
    }
}
