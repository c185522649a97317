//! What children leave behind outside of their process groups: daemons, and the children of a test runner that was killed.
//!
//! The runner declares itself their *subreaper*, so that such a process becomes its child instead of init's. When everything that the
//! runner knows of has ended, every child that it still has is such an orphan.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, set_child_subreaper, waitid};

/// For processes that the kernel cannot end at once, as they wait for a disk.
const DEADLINE: Duration = Duration::from_secs(5);

/// Makes the runner the parent of every descendant that loses its own. Where the system cannot, process groups have to do.
pub(crate) fn adopt() {
    let _ = set_child_subreaper(Some(rustix::process::getpid()));
}

/// Kills every child that the runner has, and theirs. To be called when all that was started on purpose has ended.
pub(crate) fn end() {
    let own = rustix::process::getpid();
    let deadline = Instant::now() + DEADLINE;
    loop {
        // Whoever has ended is reaped, so that it is not found again.
        while let Ok(Some(_)) = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {}
        let orphans = children_of(own);
        if orphans.is_empty() || Instant::now() > deadline {
            return;
        }
        for orphan in orphans {
            let _ = kill_process(orphan, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let statuses = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    statuses.filter_map(|status| child_in(&status, parent)).collect()
}

/// The process of a `/proc/PID/stat` line if `parent` is its parent. The program's name, in brackets, may hold anything.
fn child_in(status: &str, parent: Pid) -> Option<Pid> {
    let (id, rest) = status.split_once(' ')?;
    let (_name, after_name) = rest.rsplit_once(')')?;
    let parent_of_it: i32 = after_name.split_whitespace().nth(1)?.parse().ok()?;
    (parent_of_it == parent.as_raw_nonzero().get()).then_some(())?;
    Pid::from_raw(id.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_from_behind_whatever_the_program_is_called() {
        let parent = Pid::from_raw(42).unwrap();
        assert_eq!(child_in("7 (sleep) S 42 7 7 0", parent), Pid::from_raw(7));
        assert_eq!(child_in("7 (a) S 42 (b) c) S 42 7 7 0", parent), Pid::from_raw(7));
        assert_eq!(child_in("7 (a) S 42 x) S 41 7 7 0", parent), None);
        assert_eq!(child_in("7 (sleep", parent), None);
    }
}
