//! The Postgres of an earlier run that was killed, and that is still shutting down when the next run begins.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::failure::Failure;

const DEADLINE: Duration = Duration::from_secs(20);

/// Ends the server that uses this cluster, if there is one. The instance is claimed by us, so nobody can be using it on purpose.
pub(super) fn stop(cluster: &Path) -> Result<(), Failure> {
    let Some(server) = running(cluster) else { return Ok(()) };
    eprintln!("xtask: stopping the Postgres that an earlier run left (process {})", server.as_raw_nonzero());
    let end = Instant::now() + DEADLINE;
    let _ = kill_process(server, Signal::INT);
    while running(cluster) == Some(server) {
        if Instant::now() > end {
            return Err(Failure::told(format!("process {} still uses {}", server.as_raw_nonzero(), cluster.display())));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The process that the cluster's lock file names, if it really is a server of this cluster: a server's working folder is its cluster,
/// while a process that merely got the same id later works elsewhere.
fn running(cluster: &Path) -> Option<Pid> {
    let status = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let id = Pid::from_raw(status.lines().next()?.trim().parse().ok()?)?;
    let works_in = fs::read_link(PathBuf::from(format!("/proc/{}/cwd", id.as_raw_nonzero()))).ok()?;
    (test_kill_process(id).is_ok() && works_in == cluster.canonicalize().ok()?).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper_in(folder: &Path) -> Child {
        Command::new("sleep").arg("600").current_dir(folder).spawn().unwrap()
    }

    #[test]
    fn a_process_that_works_elsewhere_is_not_taken_for_the_clusters_server() {
        let (cluster, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut stranger = sleeper_in(elsewhere.path());
        fs::write(cluster.path().join("postmaster.pid"), format!("{}\n", stranger.id())).unwrap();
        stop(cluster.path()).unwrap();
        assert!(stranger.try_wait().unwrap().is_none(), "it must still run");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn the_server_that_an_earlier_run_left_is_stopped() {
        let cluster = tempfile::tempdir().unwrap();
        let mut server = sleeper_in(cluster.path());
        fs::write(cluster.path().join("postmaster.pid"), format!("{}\n", server.id())).unwrap();
        let reaped = thread::spawn(move || server.wait().unwrap());
        stop(cluster.path()).unwrap();
        assert!(!reaped.join().unwrap().success());
    }

    #[test]
    fn a_cluster_without_a_server_needs_nothing() {
        stop(tempfile::tempdir().unwrap().path()).unwrap();
        stop(Path::new("/nonexistent")).unwrap();
    }
}
