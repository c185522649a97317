//! What the kernel counted: bytes that an interface sent, processor time and memory that processes used, room that files take.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use protocol::Bytes;

use super::network::INTERFACE;
use crate::failure::Failure;

/// `USER_HZ`, the unit of the times in `/proc/PID/stat`: 100 wherever Linux has tbf and veth and people run Rust.
const TICKS_PER_SECOND: u64 = 100;

/// The unit of `st_blocks`, whatever the file system's own blocks are.
const BLOCK_BYTES: u64 = 512;

/// Link bytes, headers included, that the interface of the namespace of process `id` has sent.
pub(super) fn sent_by(id: u32) -> Result<u64, Failure> {
    let path = PathBuf::from(format!("/proc/{id}/net/dev"));
    let text = fs::read_to_string(&path).map_err(|error| Failure::file("read", &path, &error))?;
    sent(&text, INTERFACE).ok_or_else(|| Failure::told(format!("{} does not list {INTERFACE}", path.display())))
}

/// Bytes of the disk that the files below `folder` take: holes do not count, and what begins a block counts as all of it. A folder that is not there,
/// or goes in this moment, takes nothing.
pub(super) fn allocated(folder: &Path) -> u64 {
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => allocated(&entry.path()),
        Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
        Err(_) => 0,
    };
    fs::read_dir(folder).into_iter().flatten().flatten().map(of).sum()
}

/// User and system seconds of the processes, and of the children that they have outlived.
pub(crate) fn cpu_seconds(ids: &BTreeSet<u32>) -> f64 {
    let ticks = ids.iter().filter_map(|id| ticks(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)).sum::<u64>();
    // A count of ticks is far below 2^53.
    #[allow(clippy::cast_precision_loss, reason = "a count of ticks is far below 2^53")]
    let seconds = ticks as f64 / TICKS_PER_SECOND as f64;
    seconds
}

/// The most memory that a process has had resident so far (`VmHWM`); 0 once it has ended.
pub(crate) fn peak_resident(id: u32) -> Bytes {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    Bytes(kib.unwrap_or(0) * 1024)
}

/// Every process that `id` has started, and those that they have, as far as their parents live.
pub(crate) fn descendants(id: u32) -> BTreeSet<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pairs: Vec<(u32, u32)> = ids.filter_map(|id| Some((id, parent(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))).collect();
    let mut found = BTreeSet::new();
    let mut parents = vec![id];
    while let Some(parent) = parents.pop() {
        let children = pairs.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child);
        parents.extend(children.filter(|child| found.insert(*child)));
    }
    found
}

/// Every process of the network namespace that this one is in, but itself.
pub(super) fn neighbours() -> BTreeSet<u32> {
    let namespace = |id: &str| fs::read_link(Path::new("/proc").join(id).join("ns/net")).ok();
    let Some(own) = namespace("self") else { return BTreeSet::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| *id != std::process::id() && namespace(&id.to_string()).as_ref() == Some(&own)).collect()
}

/// The bytes sent in a line of `/proc/net/dev`: a name, a colon, eight figures about what came in, eight about what went out.
fn sent(table: &str, interface: &str) -> Option<u64> {
    let figures = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    figures.split_whitespace().nth(8)?.parse().ok()
}

/// Fields 14 to 17 of `/proc/PID/stat`: user and system time, own and of children that were waited for.
fn ticks(stat: &str) -> Option<u64> {
    // The program's name, in brackets, may hold anything; the state behind it is field 3.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_whitespace().skip(11).take(4).map(str::parse::<u64>);
    let sum = times.by_ref().sum::<Result<u64, _>>().ok()?;
    (after_name.split_whitespace().count() >= 15).then_some(sum)
}

/// Field 4 of `/proc/PID/stat`.
fn parent(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn the_bytes_sent_are_the_ninth_figure_of_the_interface() {
        let table = "Inter-|   Receive                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes packets\n\
                     \x20   lo:  11 1 0 0 0 0 0 0  22 2 0 0 0 0 0 0\n  eth0: 111 1 0 0 0 0 0 0 4242 9 0 0 0 0 0 0\n eth01: 1 1 0 0 0 0 0 0 7 9 0 0 0 0 0 0\n";
        assert_eq!(sent(table, "eth0"), Some(4242));
        assert_eq!(sent(table, "eth01"), Some(7));
        assert_eq!(sent(table, "eth"), None);
        assert_eq!(sent("eth0: 1 2 3\n", "eth0"), None);
    }

    #[test]
    fn holes_take_no_room_and_folders_are_looked_into() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let file = fs::File::create(inner.join("sparse")).unwrap();
        file.set_len(1 << 20).unwrap();
        let empty = allocated(folder.path());
        assert!(empty < 64 << 10, "{empty}");
        file.write_all_at(&[7; 256 << 10], 512 << 10).unwrap();
        let filled = allocated(folder.path()) - empty;
        assert!((256 << 10..300 << 10).contains(&filled), "{filled}");
        assert_eq!(allocated(Path::new("/no/such/folder")), 0);
    }

    #[test]
    fn the_time_of_a_process_is_its_own_and_its_childrens_whatever_it_is_called() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 10 20 300 4000 20 0 1 0 5";
        assert_eq!(ticks(stat), Some(4330));
        assert_eq!(ticks("7 (a) S 1 7 7 0 -1 4194304 100 0 0 0 10 20"), None);
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn a_process_is_found_below_those_that_started_it() {
        assert_eq!(parent("7 (a) b) S 42 7 7 0"), Some(42));
        assert_eq!(parent("7 a S 42"), None);
        let mut child = std::process::Command::new("sh").args(["-c", "cat; true"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while descendants(child.id()).is_empty() {
            assert!(std::time::Instant::now() < deadline, "the shell starts a program");
        }
        assert!(descendants(std::process::id()).is_superset(&descendants(child.id())));
        assert!(peak_resident(child.id()) > Bytes(0));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(peak_resident(child.id()), Bytes(0));
    }

    #[test]
    fn a_process_that_has_ended_counts_nothing_and_a_busy_one_counts() {
        assert!(cpu_seconds(&BTreeSet::from([u32::MAX])).abs() < f64::EPSILON);
        let begun = std::time::Instant::now();
        let mut rounds = 0_u64;
        while cpu_seconds(&BTreeSet::from([std::process::id()])) < 0.02 {
            rounds = std::hint::black_box(rounds + 1);
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "no time was counted in {rounds} rounds");
        }
    }
}
