//! Arguments of those who receive: listing, applying, running.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use protocol::{Amount, BitsPerSecond, Bytes, ContentId, ReleaseId};

use crate::values::{amount, content_id, mbit, release_id, store_quota};

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Show this release with its editions, ranks and times
    #[arg(value_parser = release_id)]
    pub release: Option<ReleaseId>,
    /// Also list releases that have ended
    #[arg(long, conflicts_with = "release")]
    pub all: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("wish").multiple(true).args(["maximum", "edition", "rank"])))]
pub(crate) struct ApplyArguments {
    /// The release's id, as `list` shows it
    #[arg(value_parser = release_id)]
    pub release: ReleaseId,
    /// The most to be paid for the rank wanted; held in the wallet until the release is decided
    #[arg(long, value_name = "AMOUNT", value_parser = amount, required_unless_present_any = ["withdraw", "change"])]
    pub maximum: Option<Amount>,
    /// The edition's label or id [default: the only one]
    #[arg(long, value_name = "LABEL")]
    pub edition: Option<String>,
    /// The best rank wanted [default: 1, the best]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub rank: Option<u32>,
    /// Change the application made before; what is not given stays as it was
    #[arg(long, requires = "wish")]
    pub change: bool,
    /// Withdraw the application made before
    #[arg(long, conflicts_with_all = ["change", "wish"])]
    pub withdraw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Use at most this much uplink in this run, in Mbit/s [default: as registered]
    #[arg(long, value_name = "N", value_parser = mbit)]
    pub up_mbit: Option<BitsPerSecond>,
    /// Use at most this much downlink in this run, in Mbit/s [default: as registered]
    #[arg(long, value_name = "N", value_parser = mbit)]
    pub down_mbit: Option<BitsPerSecond>,
    /// Meet other terminals through the server's TURN servers alone, so that they do not learn this machine's addresses
    #[arg(long)]
    pub turn_only: bool,
    /// Where received editions go
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Let received editions take up at most this much in DIR, such as 20GiB: for a new one, those that were useful least recently are removed; 0 is no quota [default: as registered, or 0]
    #[arg(long, value_name = "SIZE", value_parser = store_quota)]
    pub store_quota: Option<Bytes>,
    /// Take part in this release only; may be given several times
    #[arg(long = "release", value_name = "ID", value_parser = release_id)]
    pub releases: Vec<ReleaseId>,
    /// End when nothing is left to receive or to relay
    #[arg(long)]
    pub exit_when_done: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// The content's id, as `contents --all` shows it
    #[arg(value_parser = content_id)]
    pub content: ContentId,
    /// The edition's label or id [default: the only one]
    #[arg(long, value_name = "LABEL")]
    pub edition: Option<String>,
    /// Where the edition goes
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Let received editions take up at most this much in DIR, such as 20GiB: for this one, those that were useful least recently are removed; 0 is no quota [default: as registered, or 0]
    #[arg(long, value_name = "SIZE", value_parser = store_quota)]
    pub store_quota: Option<Bytes>,
    /// The most to be paid [default: the price as it stands; see --quote]
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    pub maximum: Option<Amount>,
    /// Use at most this much uplink, in Mbit/s [default: as registered]
    #[arg(long, value_name = "N", value_parser = mbit)]
    pub up_mbit: Option<BitsPerSecond>,
    /// Use at most this much downlink, in Mbit/s [default: as registered]
    #[arg(long, value_name = "N", value_parser = mbit)]
    pub down_mbit: Option<BitsPerSecond>,
    /// Meet other terminals through the server's TURN servers alone, so that they do not learn this machine's addresses
    #[arg(long)]
    pub turn_only: bool,
    /// Only say what it would cost now, and why
    #[arg(long, conflicts_with_all = ["maximum", "up_mbit", "down_mbit", "turn_only", "store_quota", "cancel"])]
    pub quote: bool,
    /// End the download that runs: what has arrived is paid for, the rest of the price is released
    #[arg(long, conflicts_with_all = ["maximum", "up_mbit", "down_mbit", "turn_only", "store_quota"])]
    pub cancel: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Only this release
    #[arg(value_parser = release_id)]
    pub release: Option<ReleaseId>,
    /// Also releases that have ended
    #[arg(long, conflicts_with = "release")]
    pub all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BookArguments {
    /// The release's id, as `list` shows it
    #[arg(value_parser = release_id)]
    pub release: ReleaseId,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    /// The release's id, as `list` shows it
    #[arg(value_parser = release_id)]
    pub release: ReleaseId,
}

#[derive(Debug, Args)]
pub(crate) struct MeasureArguments {
    /// Where this machine stands, as a number that its neighbours use too; what the operator knows counts before it [default: as before]
    #[arg(long, value_name = "N")]
    pub region: Option<u16>,
}
