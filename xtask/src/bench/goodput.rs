//! `cargo xtask bench goodput`: what one terminal hands another over loopback, by the real programs and with nothing shaped: a holder that received an
//! edition in a release and runs on, and a receiver that asks for it later with `spillway get`, while the origin may send nothing. Beside each of these
//! runs the bare data-channel library moves as much between two processes: nothing that is built on it can be faster.

mod bare;
mod figures;
mod getting;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cargo;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::project::Project;
use crate::services::{Contention, Data, Purpose, Services};
use figures::{Figures, Run};
use stage::Stage;

const PURPOSE: Purpose = Purpose { name: "bench", data: Data::Scratch, contention: Contention::OwnInstance, turn: false };

/// The origin's store, the holder's files and those of one receiver at a time; the publisher's file is gone when there is more than one of them.
const COPIES: u64 = 3;
/// Logs, journals and the database.
const BESIDES_BYTES: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Length of the content, in MiB of random bytes
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..=16_384))]
    mib: u64,
    /// How often it is handed over, each time to another receiver; medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Write the figures to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Fails if the receiver is not fast or not small enough.
pub(super) fn run(project: &Project, options: &Options, interrupt: &Interrupt) -> Result<(), Failure> {
    cargo::build_released_programs(project, interrupt)?;
    let library = bare::build(project, interrupt)?;
    let project = project.released();
    let services = Services::start(&project, &PURPOSE, interrupt)?;
    let folder = services.folder().join("goodput");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| Failure::file("create", &folder, &error))?;
    let runs = room_for(options.mib, &folder).and_then(|()| {
        let stage = Stage::set(&project, &services, &folder, options, interrupt)?;
        measure(&stage, &library, options)
    });
    discard_contents(&folder);
    let figures = Figures { mib: options.mib, runs: runs? };
    print!("{}", figures.table());
    if let Some(path) = &options.json {
        fs::write(path, format!("{:#}\n", figures.json())).map_err(|error| Failure::file("write", path, &error))?;
    }
    figures.verdict()
}

/// The two one after the other and by turns, so that what else the machine does meets both.
fn measure(stage: &Stage<'_>, library: &bare::Library, options: &Options) -> Result<Vec<Run>, Failure> {
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        let bare = library.run(options.mib, stage.interrupt())?;
        let got = stage.get(number)?;
        eprintln!("xtask: run {number}: {:.1} MB/s, the bare library {:.1} MB/s", got.goodput_mb_s(), bare.mb_s());
        runs.push(Run { got, bare });
    }
    Ok(runs)
}

/// Logs and events stay until the next run: a failure names them. Gibibytes do not.
fn discard_contents(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = fs::remove_dir_all(entry.path().join(stage::RECEIVED));
    }
    let _ = fs::remove_dir_all(folder.join(stage::STORE));
    let _ = fs::remove_file(folder.join(stage::PAYLOAD));
}

fn room_for(mib: u64, folder: &Path) -> Result<(), Failure> {
    let disk = rustix::fs::statvfs(folder).map_err(|error| Failure::file("measure the disk of", folder, &error.into()))?;
    let (needed, free) = (COPIES * (mib << 20) + BESIDES_BYTES, disk.f_bavail * disk.f_frsize);
    if needed <= free {
        return Ok(());
    }
    Err(Failure::told(format!(
        "{COPIES} copies of {mib} MiB and 1 GiB besides are needed below {}, and {} MiB are free there: make room, or take less with --mib",
        folder.display(),
        free >> 20
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_that_the_disk_cannot_hold_three_times_is_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(room_for(0, Path::new("/proc")).map_err(|error| error.to_string().contains("make room")), Err(true));
        let told = room_for(1 << 30, folder.path()).unwrap_err().to_string();
        assert!(told.contains("--mib") && told.contains(&folder.path().display().to_string()), "{told}");
    }
}
