//! `measure`: what this machine's line and disk can do, for the folder and for the server.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use protocol::rest::{MEASURED_BYTES_MAX, Measurement, incompressible};
use protocol::ws::Capabilities;
use protocol::{BitsPerSecond, TerminalId};
use serde::Serialize;
use terminal::api::{Api, ApiError, Measured};

use crate::arguments::MeasureArguments;
use crate::failure::{Failure, Outcome, while_doing};
use crate::folder::Folder;
use crate::screen::Report;
use crate::session::Login;

/// The first exchange, and how much longer each next one is: a slow line is not held up, and a fast one gets to its speed.
const FIRST_BYTES: u64 = 64 << 10;
const LONGER_BY: u64 = 8;
/// An exchange that took this long measured the line and not the beginning of a connection.
const LONG_ENOUGH: Duration = Duration::from_millis(700);
/// Requests of which the fastest one gives the round trip.
const ROUND_TRIPS: u32 = 5;
/// What is written to measure the disk.
const DISK_BYTES: usize = 32 << 20;
const DISK_PIECE: usize = 1 << 20;

#[derive(Debug, Serialize)]
struct Measurements {
    terminal_id: TerminalId,
    #[serde(flatten)]
    measured: Measurement,
}

pub(super) async fn measure(arguments: MeasureArguments, folder: &Folder) -> Outcome<Report> {
    let login = Login::from_folder(folder)?;
    let (_, id) = login.terminal(folder)?;
    let round_trip = round_trip(&login.api).await?;
    let down = line(async |bytes| login.api.measure_downlink(id, bytes).await).await?;
    let noise = incompressible(usize::try_from(MEASURED_BYTES_MAX).unwrap_or(0));
    let up = line(async |bytes: u64| {
        let length = usize::try_from(bytes).unwrap_or(noise.len()).min(noise.len());
        login.api.measure_uplink(id, noise.slice(..length)).await
    })
    .await?;
    let path = folder.path().to_owned();
    let disk = tokio::task::spawn_blocking(move || disk_write(&path)).await.map_err(|error| Failure::Failed(error.to_string()))??;
    let measured = Measurement {
        up: Some(up),
        down: Some(down),
        round_trip_ms: Some(u16::try_from(round_trip.as_millis()).unwrap_or(u16::MAX)),
        disk_write: Some(disk),
        region: arguments.region,
    };
    let known = login.api.put_measurement(id, &measured).await?;
    // After the server has them: a run goes by these rates, as if they had been stated at the login.
    let lock = folder.lock().await?;
    let (mut file, _) = login.terminal(folder)?;
    file.capabilities = Some(Capabilities { up, down });
    folder.write_terminal(&file, &lock)?;
    let region = known.region.map_or_else(|| "not known".to_owned(), |region| region.to_string());
    let text = format!(
        "Uplink      {}\nDownlink    {}\nRound trip  {} ms\nDisk        {}\nRegion      {region}\nThe server plans with these rates, and `run` keeps to them.",
        mbit(up),
        mbit(down),
        round_trip.as_millis(),
        mbit(disk)
    );
    Report::new(&Measurements { terminal_id: id, measured: Measurement { region: known.region, ..measured } }, text)
}

/// The least of some round trips: the others waited somewhere.
async fn round_trip(api: &Api) -> Outcome<Duration> {
    // The first one opens the connection.
    api.round_trip().await?;
    let mut least = Duration::MAX;
    for _ in 0..ROUND_TRIPS {
        least = least.min(api.round_trip().await?);
    }
    Ok(least)
}

/// Exchanges that get longer until one was long enough; that one's rate counts.
async fn line(exchange: impl AsyncFn(u64) -> Result<Measured, ApiError>) -> Outcome<BitsPerSecond> {
    let mut bytes = FIRST_BYTES;
    let mut best = BitsPerSecond(0);
    loop {
        let Measured { rate, elapsed } = exchange(bytes).await?;
        best = best.max(rate);
        if elapsed >= LONG_ENOUGH {
            return Ok(rate);
        }
        if bytes >= MEASURED_BYTES_MAX {
            break;
        }
        bytes = (bytes * LONGER_BY).min(MEASURED_BYTES_MAX);
    }
    if best.0 == 0 { Err(Failure::Failed("the line could not be measured: everything came at once".into())) } else { Ok(best) }
}

/// How fast the folder's disk takes bytes, up to where a power failure leaves them.
fn disk_write(folder: &Path) -> Outcome<BitsPerSecond> {
    let path = folder.join(".measure");
    let written = write_out(&path);
    // Also what a failed attempt has left.
    let removed = std::fs::remove_file(&path);
    let elapsed = written.map_err(while_doing(format_args!("cannot measure the disk by writing {}", path.display())))?;
    removed.map_err(while_doing(format_args!("cannot remove {}", path.display())))?;
    let rate = (DISK_BYTES as u128 * 8_000_000_000).checked_div(elapsed.as_nanos()).unwrap_or(0);
    Ok(BitsPerSecond(u64::try_from(rate).unwrap_or(u64::MAX).min(protocol::units::JSON_INTEGER_MAX)))
}

fn write_out(path: &Path) -> std::io::Result<Duration> {
    let piece: Vec<u8> = (0..DISK_PIECE).map(|index| u8::try_from(index * 31 % 251).unwrap_or(0)).collect();
    let mut file = File::create(path)?;
    let began = Instant::now();
    for _ in 0..DISK_BYTES / DISK_PIECE {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(began.elapsed())
}

fn mbit(rate: BitsPerSecond) -> String {
    let tenths = (rate.0 + 50_000) / 100_000;
    format!("{}.{} Mbit/s", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A line of `rate` bits per second, and the lengths of the exchanges over it.
    async fn over(rate: u64) -> (Outcome<BitsPerSecond>, Vec<u64>) {
        let asked = RefCell::new(Vec::new());
        let exchange = async |bytes: u64| {
            asked.borrow_mut().push(bytes);
            Ok(Measured { rate: BitsPerSecond(rate), elapsed: Duration::from_nanos(bytes * 8_000_000_000 / rate.max(1)) })
        };
        let measured = line(exchange).await;
        (measured, asked.into_inner())
    }

    #[tokio::test]
    async fn exchanges_get_longer_until_one_measures_the_line() {
        let (slow, asked) = over(100_000).await;
        assert_eq!((slow.unwrap(), asked), (BitsPerSecond(100_000), vec![64 << 10]));
        let (fast, asked) = over(20_000_000).await;
        assert_eq!((fast.unwrap(), asked), (BitsPerSecond(20_000_000), vec![64 << 10, 512 << 10, 4 << 20]));
        let (fastest, asked) = over(10_000_000_000).await;
        assert_eq!((fastest.unwrap(), asked.last()), (BitsPerSecond(10_000_000_000), Some(&MEASURED_BYTES_MAX)));
    }

    #[tokio::test]
    async fn a_line_that_shows_no_rate_is_no_measurement() {
        let nothing = async |_| Ok(Measured { rate: BitsPerSecond(0), elapsed: Duration::ZERO });
        assert!(line(nothing).await.unwrap_err().to_string().contains("could not be measured"));
    }

    #[test]
    fn a_disk_is_measured_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert!(disk_write(folder.path()).unwrap().0 > 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let failed = disk_write(&folder.path().join("nowhere")).unwrap_err().to_string();
        assert!(failed.contains("nowhere"), "{failed}");
    }
}
