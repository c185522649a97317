//! Arguments of publishers: contents and releases.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum, value_parser};
use protocol::rest::{Chunking, Rank, Selection};
use protocol::{Amount, BasisPoints, ContentId, ReleaseId, TariffId};

use crate::values::{
    DutyOfRank, Moment, OriginBudget, amount, content_id, duty, moment, origin_budget, rank, release_id, seconds, share, tariff_id,
};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("target").required(true).args(["title", "content"])))]
pub(crate) struct PublishArguments {
    /// Files or directories; each becomes an edition
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Make a new content with this title
    #[arg(long)]
    pub title: Option<String>,
    /// Add the editions to this content
    #[arg(long, value_name = "ID", value_parser = content_id)]
    pub content: Option<ContentId>,
    /// An edition's label, once per path in the same order [default: the names of the paths]
    #[arg(long = "label", value_name = "LABEL")]
    pub labels: Vec<String>,
    /// How the bytes are cut: where their content says, so that versions share chunks, or every 64 KiB
    #[arg(long, value_enum, default_value_t = CutBy::ContentDefined)]
    pub chunking: CutBy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CutBy {
    ContentDefined,
    Fixed,
}

impl From<CutBy> for Chunking {
    fn from(cut: CutBy) -> Self {
        match cut {
            CutBy::ContentDefined => Self::ContentDefined,
            CutBy::Fixed => Self::Fixed,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseCommand {
    /// Schedule a release of a content
    Create(Box<NewReleaseArguments>),
    /// Cancel a release before its start; every hold is released
    Cancel(EndArguments),
    /// Abort a release in the middle; what has arrived is paid for
    Abort(EndArguments),
}

#[derive(Debug, Args)]
pub(crate) struct EndArguments {
    /// The release's id, as `list` shows it
    #[arg(value_parser = release_id)]
    pub release: ReleaseId,
}

#[derive(Debug, Args)]
pub(crate) struct ContentsArguments {
    /// Show this content only
    #[arg(value_parser = content_id)]
    pub content: Option<ContentId>,
    /// Also those of other publishers, as far as this account may see them
    #[arg(long, conflicts_with = "content")]
    pub all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TariffCommand {
    /// Make a tariff from a file with its terms
    Create(NewTariffArguments),
    /// Add a version: what is asked for from now on is under it
    Change(ChangeTariffArguments),
    /// Show the own tariffs, or one of them with its terms
    Show(ShowTariffArguments),
}

#[derive(Debug, Args)]
pub(crate) struct NewTariffArguments {
    /// What to call it
    pub name: String,
    /// A JSON file with the terms; `show --json` prints such terms
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ChangeTariffArguments {
    /// The tariff's id, as `tariff show` lists it
    #[arg(value_parser = tariff_id)]
    pub tariff: TariffId,
    /// A JSON file with all of the terms
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ShowTariffArguments {
    /// Show this tariff with its terms
    #[arg(value_parser = tariff_id)]
    pub tariff: Option<TariffId>,
    /// This version instead of the latest one
    #[arg(long, value_name = "NUMBER", requires = "tariff", value_parser = value_parser!(u32).range(1..))]
    pub version: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct OfferArguments {
    /// The content, as `publish` printed it
    #[arg(value_parser = content_id)]
    pub content: ContentId,
    /// The price of an edition, whichever it is
    #[arg(long, value_name = "AMOUNT", value_parser = amount, required_unless_present_any = ["withdraw", "tariff"])]
    pub price: Option<Amount>,
    /// Prices and shares by this tariff, as `tariff show` lists it, instead of a flat price
    #[arg(long, value_name = "ID", value_parser = tariff_id, conflicts_with_all = ["price", "relay_share", "fee"])]
    pub tariff: Option<TariffId>,
    /// What the origin may send for all downloads together: bytes (500MB, 2GiB) or a multiple of the editions' sum; 0 is never
    #[arg(long, value_name = "BYTES|TIMES", value_parser = origin_budget, default_value = "0")]
    pub origin_budget: OriginBudget,
    /// The relays' share of what is left of a charge after the fee
    #[arg(long, value_name = "PERCENT", value_parser = share, default_value = "50%")]
    pub relay_share: BasisPoints,
    /// The platform's share of a charge
    #[arg(long, value_name = "PERCENT", value_parser = share, default_value = "2%")]
    pub fee: BasisPoints,
    /// How long a download may take
    #[arg(long = "limit", value_name = "SPAN", value_parser = seconds, default_value = "24h")]
    pub limit_s: u32,
    /// Offer the content no longer; downloads that run go on
    #[arg(long, conflicts_with_all = ["price", "tariff", "origin_budget", "relay_share", "fee", "limit_s"])]
    pub withdraw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NewReleaseArguments {
    /// The content, as `publish` printed it
    #[arg(long, value_name = "ID", value_parser = content_id)]
    pub content: ContentId,
    /// The release's title [default: the content's]
    #[arg(long)]
    pub title: Option<String>,
    /// The editions' labels or ids [default: all of the content]
    #[arg(long = "edition", value_name = "LABEL", num_args = 1..)]
    pub editions: Vec<String>,
    /// A rank, the best one first: worth relative to the others, delay after the start, places per edition [default places: as many as applications call for]
    #[arg(long = "rank", value_name = "WEIGHT:DELAY[:CAPACITY]", required = true, num_args = 1.., value_parser = rank)]
    pub ranks: Vec<Rank>,
    /// What a rank owes the others: to stay for this long after it has everything, or forfeit the part of the deposit that it was away
    #[arg(long = "duty", value_name = "RANK:SPAN:DEPOSIT", num_args = 1.., value_parser = duty)]
    pub duties: Vec<DutyOfRank>,
    /// Send it sealed from the closing on, and give each rank the key at its second; else nothing moves before the start
    #[arg(long)]
    pub sealed: bool,
    /// Most primary terminals per edition, where the first rank has no places stated [default: 16]
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=4096))]
    pub primaries_max: Option<u32>,
    /// Most places per edition, in all ranks together [default: one for everybody]
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub places_max: Option<u32>,
    /// Between the waves that the last rank opens in where it has no places stated [default: its delay after the rank before; 60s for an only rank]
    #[arg(long = "wave-interval", value_name = "SPAN", value_parser = seconds)]
    pub wave_interval_s: Option<u32>,
    /// How places are given
    #[arg(long, value_enum, default_value_t = SelectBy::Auction)]
    pub selection: SelectBy,
    /// The least price of a place in rank 1; without one, places that nobody competes for cost nothing
    #[arg(long, value_name = "AMOUNT", value_parser = amount, default_value = "0.00")]
    pub reserve: Amount,
    /// When applications begin: +10s, +1h30m, or a date and time such as 2026-12-24T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "+0s")]
    pub opens: Moment,
    /// When applications end
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub closes: Moment,
    /// When rank 1 starts
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub starts: Moment,
    /// What the origin may send: bytes (500MB, 2GiB) or a multiple of the editions' sum
    #[arg(long, value_name = "BYTES|TIMES", value_parser = origin_budget, default_value = "1.1x")]
    pub origin_budget: OriginBudget,
    /// The relays' share of what is left of a charge after the fee
    #[arg(long, value_name = "PERCENT", value_parser = share, default_value = "50%")]
    pub relay_share: BasisPoints,
    /// The platform's share of a charge
    #[arg(long, value_name = "PERCENT", value_parser = share, default_value = "2%")]
    pub fee: BasisPoints,
    /// How long after the last rank's start a delivery may take
    #[arg(long = "limit", value_name = "SPAN", value_parser = seconds, default_value = "1h")]
    pub limit_s: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SelectBy {
    /// By the truthful rank auction
    Auction,
    /// By time of application; everybody pays the reserve
    FirstCome,
    /// By the uplink seen in the terminal's transfers; everybody pays the reserve
    MeasuredQuality,
}

impl From<SelectBy> for Selection {
    fn from(select: SelectBy) -> Self {
        match select {
            SelectBy::Auction => Self::Auction,
            SelectBy::FirstCome => Self::FirstCome,
            SelectBy::MeasuredQuality => Self::MeasuredQuality,
        }
    }
}
