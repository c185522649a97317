//! One `run` per folder: a second one would take the terminal's connection from the first, which would end.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::{Failure, Outcome, while_doing};

/// A process id and a line end; what is longer was not written by this program.
const NOTE_BYTES_MAX: u64 = 32;

/// The right to run this folder's terminal. A file lock: the kernel ends it with the process, however that ends.
#[derive(Debug)]
pub(crate) struct RunClaim {
    _file: File,
}

impl RunClaim {
    /// Takes `path`, which notes the process that has it. Never waits.
    pub(super) fn take(path: &Path) -> Outcome<Self> {
        let describe = || format!("cannot lock {}", path.display());
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).mode(0o600).open(path).map_err(while_doing(describe()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(&mut file, path)),
            Err(TryLockError::Error(error)) => return Err(while_doing(describe())(error)),
        }
        let note = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        note(&mut file).map_err(while_doing(describe()))?;
        Ok(Self { _file: file })
    }
}

fn taken(file: &mut File, path: &Path) -> Failure {
    let mut note = String::new();
    // The number is a help to the reader; without it the sentence is still true.
    let _ = file.take(NOTE_BYTES_MAX).read_to_string(&mut note);
    let who = note.trim().parse::<u32>().map_or_else(|_| String::new(), |process| format!(" (process {process})"));
    let folder = path.parent().unwrap_or(path).display();
    Failure::Failed(format!("another `spillway run`{who} uses {folder}: end it first, or give another folder with --config"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_claim_is_refused_with_the_number_of_the_process_until_the_first_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.lock");
        let first = RunClaim::take(&path).unwrap();
        let failure = RunClaim::take(&path).unwrap_err();
        assert_eq!(failure.exit_code(), 1);
        let told = failure.to_string();
        assert!(told.contains(&format!("(process {})", std::process::id())), "{told}");
        assert!(told.contains(&folder.path().display().to_string()), "{told}");
        drop(first);
        RunClaim::take(&path).unwrap();
    }

    #[test]
    fn what_a_dead_process_left_in_the_file_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.lock");
        std::fs::write(&path, "4294967295 and more than one would write\n").unwrap();
        let _claim = RunClaim::take(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }
}
